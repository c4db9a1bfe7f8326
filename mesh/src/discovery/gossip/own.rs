//! What this node is in a mesh of gossip, and the same in discovery's words.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::params::MeshParams;
use crate::discovery::{Forgotten, Own, Problem};
use crate::{NodeId, NodeName};

/// This node's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
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

impl Standing {
    /// The same as everybody but gossip itself looks at it.
    pub(super) fn own(&self) -> Own {
        let pools = self.params.iter();
        Own {
            id: self.id,
            name: self.name.clone(),
            ranges: self.claim.ranges().to_vec(),
            pools: pools
                .flat_map(|params| [params.pool4.into(), params.ula.into()])
                .collect(),
            services: Vec::new(),
            unready: self.claim.unready(),
            observed: self.observed.clone(),
            problems: self.problems.clone(),
            forgotten: self.forgotten.clone(),
        }
    }
}

impl ClaimState {
    /// Why there is no range, in words.
    fn unready(&self) -> Option<String> {
        let why = match self {
            Self::Held { .. } => return None,
            Self::Joining => "joining: nobody of the mesh was reached yet".into(),
            Self::Claiming { slot } => format!("claiming share {slot} of the pool"),
            Self::Lost { winner, next, .. } => format!(
                "this node lost its share to {} and claims share {next}",
                winner.short()
            ),
            Self::Full => {
                "every share of the pool is taken: make the mesh with a larger --pool".into()
            }
            Self::Forgotten => "the mesh has forgotten this node".into(),
        };
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_share_names_the_winner() {
        let lost = ClaimState::Lost {
            slot: 1,
            winner: NodeId::from_bytes([7; 32]),
            next: 2,
        };
        assert!(lost.unready().unwrap().ends_with("and claims share 2"));
    }
}
