//! The control socket's words: what the command line asks of the agent.
//!
//! One request and one reply, framed as [`weft_cni::api`] frames the plugin's calls on the same
//! socket. The socket is root's alone (0600).

mod client;
mod server;
mod status;

pub use client::{ControlError, ask, ask_cni};
pub use server::{ControlSocket, Handler};
pub use status::{
    ConnectionStatus, DnsStatus, EngineStatus, IpamStatus, Lease, MeshStatus, NameStatus,
    PeerState, PeerStatus, Status,
};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum ControlRequest {
    /// The whole of [`Status`].
    Status,
    /// Removes a node from the mesh for good; `who` is a name or the start of an identity.
    Forget {
        who: String,
    },
    TokenCreate,
    TokenList,
    /// A new token; the others admit nobody new from then on.
    TokenRotate,
    /// What this node's DNS server would answer.
    DnsLookup {
        name: String,
    },
    /// A goodbye: names are withdrawn everywhere, then the agent ends.
    Down,
}

/// A token of the keyring, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenInfo {
    pub id: String,
    /// Seconds since 1970, by the clock of the node that made it.
    pub created: u64,
    /// `active`: admits new nodes. `retired`: lets known nodes come back.
    pub state: String,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum ControlReply {
    Status(Box<Status>),
    Forgotten {
        name: String,
        id: String,
    },
    /// The argument of `weft up --join`.
    Token {
        join: String,
    },
    Tokens {
        tokens: Vec<TokenInfo>,
    },
    Addresses {
        addresses: Vec<IpAddr>,
    },
    Done,
}

#[cfg(test)]
mod tests {
    use super::ControlRequest;

    /// As the server reads it: any JSON, then a request.
    fn read(bytes: &[u8]) -> Option<ControlRequest> {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        serde_json::from_value(value).ok()
    }

    #[test]
    fn no_request_of_the_corpus_does_harm() {
        const ROOT: &str = env!("CARGO_MANIFEST_DIR");
        for input in crate::corpus::files(ROOT, "control") {
            let accepted = read(&input.bytes).is_some();
            assert_eq!(accepted, input.name.starts_with("good-"), "{}", input.name);
        }
        crate::corpus::each_variant(ROOT, "control", |bytes| {
            if let Some(request) = read(bytes) {
                let again = serde_json::to_vec(&request).expect("what was read can be written");
                assert!(read(&again).is_some());
            }
        });
    }
}
