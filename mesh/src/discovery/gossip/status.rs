//! What `weft status` shows of gossip.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use serde::Serialize;

use super::channel::Role;
use super::node::{Node, lock};
use super::params::MeshId;
use crate::discovery::{Connection, Health};

/// A snapshot of the whole, in the order it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct GossipStatus {
    pub mesh: Option<MeshId>,
    /// Whether a member was ever reached, so that the mesh's parameters are known.
    pub joined: bool,
    pub listening: Vec<SocketAddr>,
    /// Sorted by address.
    pub targets: Vec<TargetStatus>,
    /// Records held, this node's included.
    pub records: usize,
    pub forgotten: usize,
    /// Nothing here is ever a reason to act alone; each counts a kind of refusal or loss.
    pub counters: BTreeMap<&'static str, u64>,
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

impl From<GossipStatus> for Health {
    fn from(status: GossipStatus) -> Self {
        let connection = |target: TargetStatus| Connection {
            address: target.address,
            state: target.state.text(),
            node: target.name.or(target.node),
            error: target.last_error,
            next_try_ms: target.next_try_ms,
        };
        Self {
            mesh: match status.mesh {
                Some(mesh) if !status.joined => format!("{mesh}, not joined yet"),
                Some(mesh) => mesh.to_string(),
                None => "not joined yet".into(),
            },
            connections: status.targets.into_iter().map(connection).collect(),
            counters: status.counters,
        }
    }
}

impl TargetState {
    const fn text(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Established => "established",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
        }
    }
}

impl Node {
    pub(super) fn status(&self) -> GossipStatus {
        let mut counters = lock(&self.counters).clone();
        let known = self.look(|core| {
            counters.extend(core.counters());
            let names = core.records().keys();
            let names: BTreeMap<_, _> = names
                .filter_map(|id| Some((id.to_string(), core.name_of(*id)?)))
                .collect();
            (core.records().len(), core.tombstones().len(), names)
        });
        let joined = known.is_some();
        let (records, forgotten, names) = known.unwrap_or_default();
        let conns = lock(&self.conns);
        let is_connected = |id| conns.is_connected(id);
        let mut targets = lock(&self.targets).status(Instant::now(), &is_connected);
        for (id, conn) in conns.all() {
            let id = id.to_string();
            let inbound = conn.role == Role::Responder;
            let mut listed = false;
            for target in targets.iter_mut().filter(|t| t.node.as_ref() == Some(&id)) {
                listed = true;
                target.inbound = inbound;
                if target.address == "no known address" {
                    target.address = conn.address.to_string();
                }
            }
            if !listed {
                targets.push(TargetStatus {
                    address: conn.address.to_string(),
                    state: TargetState::Established,
                    node: Some(id),
                    name: None,
                    inbound,
                    last_error: None,
                    next_try_ms: None,
                    failures: 0,
                });
            }
        }
        drop(conns);
        for target in &mut targets {
            target.name = target.node.as_ref().and_then(|id| names.get(id).cloned());
        }
        targets.sort_by(|a, b| (&a.address, &a.node).cmp(&(&b.address, &b.node)));
        GossipStatus {
            mesh: self.mesh(),
            joined,
            listening: self.listening.clone(),
            targets,
            records,
            forgotten,
            counters,
        }
    }
}
