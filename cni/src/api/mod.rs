//! What is said on the agent's socket: the requests of the plugin and of the command line, and
//! the replies. How it is carried is in `wire`.
//!
//! A request is `{"v":1,"cni":{"ADD":{…}}}` or `{"v":1,"control":…}`; a reply is
//! `{"v":1,"ok":…}` or `{"v":1,"error":{"code":…,"msg":…}}`. What a control request is, the router
//! says.

mod wire;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use wire::{Deadlined, MAX_FRAME, read_frame, recv_with_fd, send_with_fd, write_frame};

use crate::{Attachment, Error, PortMapping, code};

/// The version of this wire. Plugin and agent are installed together, so only one is spoken.
pub const VERSION: u32 = 1;

/// Where the agent listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";

/// A request as it stands in a frame.
#[derive(Serialize, Deserialize)]
struct Envelope {
    v: u32,
    #[serde(flatten)]
    request: Request,
}

/// Whose request it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    Cni(Box<CniRequest>),
    /// The command line's; its shape is the router's.
    Control(Value),
}

/// What the plugin asks, one for each verb but VERSION. With ADD and CHECK comes the container's
/// network namespace as a descriptor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CniRequest {
    /// Answered by an [`AddReply`].
    #[serde(rename = "ADD")]
    Add(AddRequest),
    /// Answered by an [`Empty`].
    #[serde(rename = "DEL")]
    Del(DelRequest),
    /// Answered by an [`Empty`].
    #[serde(rename = "CHECK")]
    Check(CheckRequest),
    /// Answered by an [`Empty`].
    #[serde(rename = "GC")]
    Gc(GcRequest),
    /// Answered by an [`Empty`], or by [`code::NOT_AVAILABLE`] and the reason.
    #[serde(rename = "STATUS")]
    Status(StatusRequest),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddRequest {
    pub attachment: Attachment,
    /// The namespace's path as the runtime said it, for people to read; the descriptor counts.
    pub netns_path: String,
    /// The network's name in the configuration.
    pub network: String,
    /// What the workload is called: `args.weft.name`, `WEFT_NAME` or `K8S_POD_NAME`.
    #[serde(default)]
    pub name: Option<String>,
    /// The workload's namespace (`K8S_POD_NAMESPACE`).
    #[serde(default)]
    pub namespace: Option<String>,
    /// Bytes, 1280 to 65535; `None` leaves it to the agent.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Ports of the host that are to lead to the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
}

/// What was made for an ADD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddReply {
    /// The host's end.
    pub host_ifname: String,
    /// `aa:bb:cc:dd:ee:ff`
    pub host_mac: String,
    /// Of the container's end.
    pub mac: String,
    pub mtu: u32,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    #[serde(default)]
    pub dns: Dns,
}

/// An address of the container, a /32 or a /128, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub address: IpNet,
    pub gateway: IpAddr,
}

/// A route inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default)]
    pub gw: Option<IpAddr>,
}

/// What the runtime may put into the container's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DelRequest {
    pub attachment: Attachment,
    pub network: String,
    /// Absent, or long gone.
    #[serde(default)]
    pub netns_path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRequest {
    pub attachment: Attachment,
    pub network: String,
    pub netns_path: String,
    pub expected: Expected,
}

/// What the earlier result says of the container's interface, after the plugins that came behind
/// us had their say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(default)]
    pub mtu: Option<u32>,
    pub addresses: Vec<IpNet>,
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// Everything of this network that is not in `valid` is to be taken away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GcRequest {
    pub network: String,
    pub valid: Vec<Attachment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusRequest {
    pub network: String,
}

/// A success with nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

#[derive(Serialize, Deserialize)]
struct ReplyEnvelope<T> {
    v: u32,
    #[serde(flatten)]
    reply: Reply<T>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<T> {
    Ok(T),
    Error(Error),
}

impl Request {
    /// The request as the body of a frame.
    ///
    /// # Errors
    /// When a control request holds what JSON cannot say.
    pub fn encode(self) -> Result<Vec<u8>, Error> {
        let envelope = Envelope {
            v: VERSION,
            request: self,
        };
        serde_json::to_vec(&envelope)
            .map_err(|e| Error::new(code::INTERNAL, format!("encode the request: {e}")))
    }

    /// The request in a frame's body.
    ///
    /// # Errors
    /// [`code::PROTOCOL`] when it is another version or no request of ours.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        version(body)?;
        let envelope: Envelope = serde_json::from_slice(body)
            .map_err(|e| Error::new(code::PROTOCOL, format!("not a request: {e}")))?;
        Ok(envelope.request)
    }
}

/// A reply as the body of a frame.
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn encode_reply<T: Serialize>(reply: Result<T, Error>) -> Result<Vec<u8>, Error> {
    let reply = match reply {
        Ok(value) => Reply::Ok(value),
        Err(error) => Reply::Error(error),
    };
    serde_json::to_vec(&ReplyEnvelope { v: VERSION, reply })
        .map_err(|e| Error::new(code::INTERNAL, format!("encode the reply: {e}")))
}

/// The reply in a frame's body.
///
/// # Errors
/// The agent's error, or [`code::PROTOCOL`] when it is another version or no reply.
pub fn decode_reply<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    version(body)?;
    let envelope: ReplyEnvelope<T> = serde_json::from_slice(body)
        .map_err(|e| Error::new(code::PROTOCOL, format!("not a reply: {e}")))?;
    match envelope.reply {
        Reply::Ok(value) => Ok(value),
        Reply::Error(error) => Err(error),
    }
}

fn version(body: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_slice(body)
        .map_err(|e| Error::new(code::PROTOCOL, format!("not a message of weft's: {e}")))?;
    if v == VERSION {
        return Ok(());
    }
    let msg = format!("the other side speaks version {v} of the agent's wire, we speak {VERSION}");
    Err(Error::new(code::PROTOCOL, msg).with_details("install plugin and agent of one release"))
}

#[cfg(test)]
mod tests;
