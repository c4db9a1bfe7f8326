//! What members say to each other inside the sealed channel: JSON, so that a later version may add
//! fields and kinds and this one passes them over.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::grant::Grant;
use super::keyring::Entry;
use super::record::{Instance, Signed, Stamp};
use super::text::hex_bytes;
use super::tombstone::Tombstone;
use crate::NodeId;
use crate::identity::Signature;

/// The most bytes of a message.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;
/// Records are told in messages of about this size.
pub(super) const BATCH: usize = 256 * 1024;
/// Tombstones a message; the text of one is 250 bytes.
pub(super) const TOMBSTONE_BATCH: usize = 1000;

hex_bytes!(
    /// A hash of everything that members should agree on.
    pub(super) Sum, 32, "a sum is 64 hexadecimal digits"
);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Message {
    /// The first message of each side: who it is, proven.
    Hello(Hello),
    /// The last message: why nothing more is said.
    Refused(Refusal),
    /// The answer to a hello that asks for them.
    Params {
        text: String,
    },
    /// Do we agree? Answered by a digest, if not.
    Summary {
        sum: Sum,
    },
    Digest(Digest),
    Records {
        records: Vec<Signed>,
    },
    Tombstones {
        tombstones: Vec<Tombstone>,
        /// Records of signers that were forgotten themselves, and that nobody tells otherwise.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        signers: Vec<Signed>,
    },
    Keys {
        keys: Vec<Entry>,
    },
    /// Asks for a grant of what the sender's record claims.
    GrantPlease {
        record: Signed,
    },
    Granted {
        grant: Grant,
    },
    Ping,
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) id: NodeId,
    /// Over the handshake's hash, so it is worth nothing in another connection.
    pub(super) signature: Signature,
    pub(super) instance: Instance,
    /// The receiver's address as the sender sees it.
    pub(super) observed: IpAddr,
    /// The sender does not know the mesh's parameters yet.
    #[serde(default)]
    pub(super) joining: bool,
}

/// Why a member is turned away, told only to those that hold a secret of the mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub(super) enum Refusal {
    Forgotten(Box<Statement>),
    /// The secret was retired, and lets nobody new in.
    RetiredKey,
    /// This identity sent what no honest node sends; try again later.
    Penalty,
    /// The same identity runs here.
    Cloned,
    #[serde(other)]
    Other,
}

/// A tombstone, and what its reader needs to believe it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Statement {
    pub(super) tombstone: Tombstone,
    pub(super) by_name: Option<String>,
    /// The record of the node that signed it.
    #[serde(default)]
    pub(super) signer: Option<Signed>,
}

/// What the sender has; `reply` says that it answers one and wants no further.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Digest {
    pub(super) records: BTreeMap<NodeId, Stamp>,
    pub(super) tombstones: Sum,
    pub(super) keyring: Sum,
    pub(super) reply: bool,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        // A map with keys of text cannot fail to encode, and nothing here is another.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_and_fields_of_a_later_version_are_passed_over() {
        let later = br#"{"kind":"weather","sun":true}"#;
        assert!(matches!(Message::decode(later), Ok(Message::Unknown)));
        let more = br#"{"kind":"ping","at":1}"#;
        assert!(matches!(Message::decode(more), Ok(Message::Ping)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn no_json_panics_the_parser(
            kind in "(hello|records|digest|keys|granted|tombstones|refused)",
            rest in "(,\"[a-z]{1,9}\":(null|[0-9]{1,4}|\\[\\]|\\{\\}|\"[a-z0-9]{0,8}\")){0,6}",
        ) {
            let _ = Message::decode(format!("{{\"kind\":\"{kind}\"{rest}}}").as_bytes());
        }
    }
}
