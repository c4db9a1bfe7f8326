//! Grants: a member's signed word that a share of the pool, and a name, are one node's.
//!
//! They make the one rule of ownership safe. A tie by hash alone could be won by whoever makes
//! keys until one hashes low; a grant is signed only by a member that knows no other holder and has
//! never granted the same to another, so a range that is held has no grants for a second claim.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::params::MeshId;
use crate::identity::{Identity, Signature};
use crate::{NodeId, NodeName};

const CONTEXT: &[u8] = b"weft grant v1";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) by: NodeId,
    pub(super) covers: Covers,
    signature: Signature,
}

/// What a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Covers {
    Slot,
    SlotAndName,
}

impl Grant {
    pub(super) fn sign(
        by: &Identity,
        mesh: MeshId,
        to: NodeId,
        slot: u32,
        name: Option<&NodeName>,
    ) -> Self {
        let name_bytes = name.map_or(b"" as &[u8], |n| n.as_str().as_bytes());
        let slot = slot.to_be_bytes();
        Self {
            by: by.id(),
            covers: name.map_or(Covers::Slot, |_| Covers::SlotAndName),
            signature: by.sign(&[CONTEXT, mesh.as_bytes(), to.as_bytes(), &slot, name_bytes]),
        }
    }

    pub(super) fn is_valid(&self, mesh: MeshId, to: NodeId, slot: u32, name: &NodeName) -> bool {
        let name_bytes = match self.covers {
            Covers::Slot => b"" as &[u8],
            Covers::SlotAndName => name.as_str().as_bytes(),
        };
        let slot = slot.to_be_bytes();
        let parts = [CONTEXT, mesh.as_bytes(), to.as_bytes(), &slot, name_bytes];
        self.by != to && self.signature.is_by(self.by, &parts)
    }
}

/// What this node has granted and not been released from. Kept on disk before a grant is sent, so
/// that not even a crash makes it grant one thing twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    slots: BTreeMap<u32, NodeId>,
    names: BTreeMap<NodeName, NodeId>,
}

impl Book {
    /// Whether nothing was granted to another than `id`.
    pub(super) fn allows_slot(&self, slot: u32, id: NodeId) -> bool {
        self.slots.get(&slot).is_none_or(|holder| *holder == id)
    }

    pub(super) fn allows_name(&self, name: &NodeName, id: NodeId) -> bool {
        self.names.get(name).is_none_or(|holder| *holder == id)
    }

    pub(super) fn enter(&mut self, id: NodeId, slot: u32, name: Option<&NodeName>) {
        self.slots.insert(slot, id);
        if let Some(name) = name {
            self.names.insert(name.clone(), id);
        }
    }

    /// Strikes what `id` no longer holds: all but the given.
    pub(super) fn release(&mut self, id: NodeId, slot: Option<u32>, name: Option<&NodeName>) {
        self.slots
            .retain(|s, holder| *holder != id || Some(*s) == slot);
        self.names
            .retain(|n, holder| *holder != id || Some(n) == name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_one_node_one_slot_and_one_name() {
        let (by, to) = (Identity::from_bytes(&[1; 32]), NodeId::from_bytes([2; 32]));
        let mesh = MeshId::from_bytes([3; 16]);
        let name: NodeName = "a".parse().unwrap();
        let other: NodeName = "b".parse().unwrap();
        let full = Grant::sign(&by, mesh, to, 7, Some(&name));
        assert!(full.is_valid(mesh, to, 7, &name));
        assert!(!full.is_valid(mesh, to, 8, &name));
        assert!(!full.is_valid(mesh, to, 7, &other));
        assert!(!full.is_valid(mesh, NodeId::from_bytes([4; 32]), 7, &name));
        let slot = Grant::sign(&by, mesh, to, 7, None);
        assert!(slot.is_valid(mesh, to, 7, &other));
        let mut wider = slot;
        wider.covers = Covers::SlotAndName;
        assert!(!wider.is_valid(mesh, to, 7, &name));
    }

    #[test]
    fn what_is_granted_to_one_is_refused_to_another_until_released() {
        let [a, b] = [1, 2].map(|n| NodeId::from_bytes([n; 32]));
        let name: NodeName = "x".parse().unwrap();
        let mut book = Book::default();
        book.enter(a, 5, Some(&name));
        assert!(book.allows_slot(5, a) && !book.allows_slot(5, b));
        assert!(!book.allows_name(&name, b));
        let text = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), book);
        book.release(a, Some(6), Some(&name));
        assert!(book.allows_slot(5, b) && !book.allows_name(&name, b));
    }
}
