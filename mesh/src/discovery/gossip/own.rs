//! What this node is in the mesh, as the agent follows it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::params::MeshParams;
use crate::{NodeId, NodeName};

/// This node's standing; replaced whole at each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub id: NodeId,
    /// `None` until a join has reached somebody.
    pub params: Option<MeshParams>,
    pub name: NodeName,
    pub claim: ClaimState,
    /// This node's addresses as peers see them, sorted; what they say, not proven.
    pub observed: Vec<IpAddr>,
    /// For `weft status`, sorted.
    pub problems: Vec<Problem>,
    /// Set when the mesh has forgotten this node: nobody talks to it any more.
    pub forgotten: Option<Forgotten>,
}

/// How this node stands with its share of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ClaimState {
    /// The mesh's parameters are not known yet.
    Joining,
    /// Asked for and not final: no ranges.
    Claiming { slot: u32 },
    /// Final: these ranges, IPv4 first, are this node's.
    Held { slot: u32, ranges: Vec<IpNet> },
    /// Another node holds what this one held; `next` is claimed in its place. The ranges of
    /// `slot` are no longer this node's.
    Lost {
        slot: u32,
        winner: NodeId,
        next: u32,
    },
    /// Every share of the pool is held by somebody.
    Full,
    /// The mesh has forgotten this node.
    Forgotten,
}

impl ClaimState {
    /// The ranges that are this node's now.
    pub fn ranges(&self) -> &[IpNet] {
        match self {
            Self::Held { ranges, .. } => ranges,
            _ => &[],
        }
    }
}

/// Who forgot this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    pub by: NodeId,
    /// The name of the node it was done on, if it is known here.
    pub by_name: Option<String>,
}

/// Something that is wrong and that a person must settle, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    pub kind: ProblemKind,
    /// Names the nodes and addresses concerned.
    pub text: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// Two live nodes have one identity.
    Cloned,
    /// Two nodes claim one share of the pool.
    RangeClash,
    /// Two nodes have one name.
    NameClash,
    /// Two nodes have one WireGuard key.
    KeyClash,
    /// A node serves a name that is another node's.
    ServedNameClash,
    /// Every share of the pool is held.
    PoolFull,
    /// What this node announced of itself cannot be told on.
    Announcement,
    /// The state directory cannot be written.
    Storage,
    /// The mesh has forgotten this node.
    Forgotten,
}
