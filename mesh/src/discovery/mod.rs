//! The seam: who is in the mesh, what this node holds in it, and the telling of it.

pub mod gossip;
pub mod kubernetes;
mod problem;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::watch;

pub use problem::{Problem, ProblemKind};

use crate::{Endpoint, NodeId, NodeName, PublicKey, Roster, ServedName};

/// What this node says of itself. Its identity and its ranges are the discovery's own business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub name: NodeName,
    pub public_key: PublicKey,
    pub endpoints: Vec<Endpoint>,
    /// Whose WireGuard it runs, once that is known; for people.
    pub engine: Option<&'static str>,
    /// Served addresses lie in this node's ranges; others are not told on.
    pub names: Vec<ServedName>,
    /// A goodbye: the names are withdrawn everywhere, the ranges stay this node's.
    pub away: bool,
}

/// What this node holds and how it stands; replaced whole at each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub id: NodeId,
    /// The name by which the others know it.
    pub name: NodeName,
    /// This node's ranges, IPv4 first; empty until they are its own for good.
    pub ranges: Vec<IpNet>,
    /// What fails closed: every range that is the mesh's, held by somebody or not. Sorted.
    pub pools: Vec<IpNet>,
    /// Ranges that are not the mesh's and that no endpoint lies in all the same: Services'.
    pub services: Vec<IpNet>,
    /// Why this node may not be given anything to carry, in one sentence.
    pub unready: Option<String>,
    /// This node's addresses as peers see them, sorted; what they say, not proven.
    pub observed: Vec<IpAddr>,
    /// For `weft status`, sorted.
    pub problems: Vec<Problem>,
    /// Set when the mesh wants this node no more: nobody talks to it.
    pub forgotten: Option<Forgotten>,
}

/// Who forgot this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub by: NodeId,
    /// The name of the node it was done on, if it is known here.
    pub by_name: Option<String>,
}

/// How the telling and hearing itself goes, for `weft status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Which mesh this is, in a few words.
    pub mesh: String,
    pub connections: Vec<Connection>,
    /// Nothing here is ever a reason to act alone; each counts a kind of refusal or loss.
    pub counters: BTreeMap<&'static str, u64>,
}

/// One connection of discovery, or the try of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What is connected to.
    pub address: String,
    /// `established`, `connecting`, `retrying` or `failed`.
    pub state: &'static str,
    /// The node found there, where it is one.
    pub node: Option<String>,
    pub error: Option<String>,
    /// Milliseconds until the next try.
    pub next_try_ms: Option<u64>,
}

/// A source of membership: gossip, or the Kubernetes API.
pub trait Discovery: std::fmt::Debug + Send + Sync {
    /// Replaces what this node says of itself; told to the others at once if it changed.
    fn announce(&self, me: Announcement);

    /// This node's standing. It changes before the roster does: whoever takes the roster first and
    /// this then never sees a range that was lost as both this node's and its new holder's.
    fn own(&self) -> watch::Receiver<Arc<Own>>;

    /// The others, as a value that is replaced whole at each change.
    fn roster(&self) -> watch::Receiver<Arc<Roster>>;

    fn health(&self) -> Health;

    /// Writes what is not on disk yet, sends what is waiting, and ends. Say goodbye before, by
    /// announcing `away`.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
