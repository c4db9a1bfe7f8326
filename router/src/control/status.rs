//! What the agent says of itself. Every list is sorted, so that two screens can be compared.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The whole state of a node, as `weft status --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub mesh: MeshStatus,
    pub engine: EngineStatus,
    pub ipam: IpamStatus,
    pub dns: DnsStatus,
    /// The other nodes, by name.
    pub peers: Vec<PeerStatus>,
    /// The TCP connections of discovery, by address.
    pub connections: Vec<ConnectionStatus>,
    /// What somebody should look at, in words; empty is well.
    pub problems: Vec<String>,
}

/// This node in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    pub id: String,
    pub name: String,
    pub mesh_id: String,
    /// Where this node says that it can be reached.
    pub endpoints: Vec<String>,
    /// This node's own addresses inside the mesh.
    pub addresses: Vec<IpAddr>,
    /// What discovery counted: refused records and the like.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// The WireGuard device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub link: String,
    /// `kernel` or `userspace`.
    pub kind: String,
    /// Why this one was taken.
    pub reason: String,
    pub public_key: String,
    pub port: u16,
    /// Packets that the engine and the firewall dropped, by reason.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// Address management.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpamStatus {
    /// `claiming`, `ready`, or why not.
    pub state: String,
    /// The whole mesh's ranges.
    pub pools: Vec<String>,
    /// This node's share of them.
    pub ranges: Vec<String>,
    pub leases: Vec<Lease>,
    /// How many addresses this node's IPv4 range has for pods.
    pub capacity: u64,
}

/// An attached pod or container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    pub container_id: String,
    pub ifname: String,
    pub host_ifname: String,
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
}

/// The DNS server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsStatus {
    pub domain: String,
    pub listening: Vec<String>,
    pub upstreams: Vec<String>,
    pub ttl: u32,
    pub names: Vec<NameStatus>,
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// A name that this node answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NameStatus {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// The node whose name it is.
    pub node: String,
}

/// Whether a peer can be reached through the tunnel, by what came back through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// Probes are answered.
    Established,
    /// No answer yet; an endpoint is being tried.
    #[default]
    Connecting,
    /// It was established and answers no more.
    Unreachable,
    /// It said goodbye.
    Away,
    /// It has no range yet, so nothing can be routed to it.
    Claiming,
}

impl std::fmt::Display for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Established => "established",
            Self::Connecting => "connecting",
            Self::Unreachable => "unreachable",
            Self::Away => "away",
            Self::Claiming => "claiming",
        })
    }
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub id: String,
    pub name: String,
    pub state: PeerState,
    pub public_key: String,
    /// The endpoint in use.
    pub endpoint: Option<String>,
    pub ranges: Vec<String>,
    /// Smoothed round trip through the tunnel, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Share of the last probes that were not answered, 0 to 1.
    pub loss: Option<f64>,
    /// Path MTU inside the tunnel, bytes.
    pub mtu: Option<u32>,
    /// Seconds since the last handshake.
    pub handshake_s: Option<u64>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Why the last datagram to it was not sent (userspace engine).
    #[serde(default)]
    pub send_error: Option<String>,
    /// What was tried, what went wrong and when the next try is, where it is not established.
    pub detail: Option<String>,
}

/// A TCP connection, or the try of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    pub address: String,
    /// `established`, `connecting`, `retrying`, `failed`.
    pub state: String,
    pub node: Option<String>,
    pub error: Option<String>,
    pub next_try_ms: Option<u64>,
}
