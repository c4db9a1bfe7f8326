//! What `weft status` shows of gossip.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::own::{ClaimState, Problem};
use super::params::MeshId;

/// A snapshot of the whole, in the order it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct GossipStatus {
    pub mesh: Option<MeshId>,
    pub claim: ClaimState,
    pub listening: Vec<SocketAddr>,
    /// Sorted by address.
    pub targets: Vec<TargetStatus>,
    /// Records held, this node's included.
    pub records: usize,
    pub forgotten: usize,
    /// Nothing here is ever a reason to act alone; each counts a kind of refusal or loss.
    pub counters: BTreeMap<&'static str, u64>,
    pub problems: Vec<Problem>,
}

/// One node or address that is dialled, or that dialled here.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// What is dialled: the address in use or tried last, or the host as configured.
    pub address: String,
    pub state: TargetState,
    /// The node found there, if one was.
    pub node: Option<String>,
    pub name: Option<String>,
    /// Who dialled.
    pub inbound: bool,
    pub last_error: Option<String>,
    /// Milliseconds until the next try; only while retrying.
    pub next_try_ms: Option<u64>,
    /// Tries in a row that failed.
    pub failures: u32,
}

/// How far a dial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    Connecting,
    Established,
    /// Failed, and tried again in `next_try_ms`.
    Retrying,
    /// Refused by the other side with a reason that trying again does not change by itself; it is
    /// tried again all the same, seldom.
    Failed,
}
