//! "Forget this node": a signed statement that spreads like a record and is never taken back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::params::MeshId;
use super::text::hash;
use crate::NodeId;
use crate::identity::{Identity, Signature};

/// The most nodes that a mesh remembers to have forgotten.
pub const MAX_TOMBSTONES: usize = 4096;

const CONTEXT: &[u8] = b"weft forget v1";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tombstone {
    pub(super) id: NodeId,
    pub(super) by: NodeId,
    signature: Signature,
}

impl Tombstone {
    pub(super) fn sign(id: NodeId, by: &Identity, mesh: MeshId) -> Self {
        Self {
            id,
            by: by.id(),
            signature: by.sign(&[CONTEXT, mesh.as_bytes(), id.as_bytes()]),
        }
    }

    pub(super) fn is_valid(&self, mesh: MeshId) -> bool {
        self.id != self.by
            && self
                .signature
                .is_by(self.by, &[CONTEXT, mesh.as_bytes(), self.id.as_bytes()])
    }
}

/// All that were forgotten. A set that only grows, so members agree whatever the order; of two
/// statements about one node that by the lower identity is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Tombstones {
    by_id: BTreeMap<NodeId, Tombstone>,
}

/// What became of a tombstone that was put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Buried {
    New,
    Known,
    Full,
}

impl Tombstones {
    /// Adds one that [is valid](Tombstone::is_valid).
    pub(super) fn insert(&mut self, tombstone: Tombstone) -> Buried {
        if let Some(known) = self.by_id.get_mut(&tombstone.id) {
            if tombstone.by < known.by {
                *known = tombstone;
                return Buried::New;
            }
            return Buried::Known;
        }
        if self.by_id.len() >= MAX_TOMBSTONES {
            return Buried::Full;
        }
        self.by_id.insert(tombstone.id, tombstone);
        Buried::New
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Tombstone> {
        self.by_id.get(&id)
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Tombstone> {
        self.by_id.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let mut text = Vec::new();
        for tombstone in self.by_id.values() {
            text.extend_from_slice(tombstone.id.as_bytes());
            text.extend_from_slice(tombstone.by.as_bytes());
        }
        hash(&[&text])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_is_valid_in_its_mesh_for_its_node_only() {
        let by = Identity::from_bytes(&[1; 32]);
        let mesh = MeshId::from_bytes([1; 16]);
        let gone = NodeId::from_bytes([9; 32]);
        let tombstone = Tombstone::sign(gone, &by, mesh);
        assert!(tombstone.is_valid(mesh));
        assert!(!tombstone.is_valid(MeshId::from_bytes([2; 16])));
        let mut forged = tombstone.clone();
        forged.id = NodeId::from_bytes([8; 32]);
        assert!(!forged.is_valid(mesh));
        let own = Tombstone::sign(by.id(), &by, mesh);
        assert!(!own.is_valid(mesh), "nobody forgets itself");
    }

    #[test]
    fn two_statements_about_one_node_end_the_same_in_any_order() {
        let mesh = MeshId::from_bytes([1; 16]);
        let gone = NodeId::from_bytes([9; 32]);
        let both = [1, 2].map(|n| Tombstone::sign(gone, &Identity::from_bytes(&[n; 32]), mesh));
        let build = |order: [usize; 2]| {
            let mut set = Tombstones::default();
            for n in order {
                set.insert(both[n].clone());
            }
            set.digest()
        };
        assert_eq!(build([0, 1]), build([1, 0]));
    }
}
