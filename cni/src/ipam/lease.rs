//! Who has which addresses, as it is written down.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Attachment, PortMapping, SinceBoot};

/// One attachment's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub attachment: Attachment,
    pub network: String,
    /// One of each family that the node has a range of, IPv4 first. Never empty.
    pub addresses: Vec<IpAddr>,
    /// What the workload is called, if it is.
    pub name: Option<String>,
    /// The workload's namespace, if it has one.
    pub namespace: Option<String>,
    /// The network namespace's path as the runtime said it.
    pub netns: String,
    /// The network namespace's inode, by which a path that was used again is told apart.
    pub netns_inode: Option<u64>,
    /// The host's end.
    pub host_ifname: String,
    /// Bytes, as the ADD gave it; absent from leases of before it was kept.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    pub state: State,
    /// The kernel's boot (`/proc/sys/kernel/random/boot_id`) in which it was made; void in another.
    pub boot_id: String,
    #[serde(default)]
    pub made: SinceBoot,
}

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// An ADD is under way; found after a start, it was cut short and is to be undone.
    Pending,
    /// The ADD is done.
    Bound,
    /// The DEL is done, but the link may still be there: the addresses are nobody's yet.
    Held,
}

impl Lease {
    /// Whether it still is its attachment's.
    pub fn is_live(&self) -> bool {
        self.state != State::Held
    }
}
