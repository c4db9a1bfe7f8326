//! Grants: a member's signed word that a share of the pool, a name and a key are one node's.
//!
//! They make the one rule of ownership safe. A tie by hash alone could be won by whoever makes
//! keys until one hashes low; a grant is signed only by a member that knows no other holder and
//! has granted the same to no other that may still hold it. Whoever moves on frees what it had,
//! but keeps the old grant: so each is numbered, and of two by one member the later is good.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::params::MeshId;
use crate::identity::{Identity, Signature};
use crate::{NodeId, NodeName, PublicKey};

const CONTEXT: &[u8] = b"weft grant v1";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) by: NodeId,
    /// The signer's count of what it granted.
    pub(super) serial: u64,
    #[serde(flatten)]
    pub(super) covers: Covers,
    signature: Signature,
}

/// What a grant is for. Where the node's record says otherwise by now, it weighs nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Covers {
    pub(super) slot: u32,
    #[serde(default)]
    pub(super) name: Option<NodeName>,
    #[serde(default)]
    pub(super) key: Option<PublicKey>,
}

impl Grant {
    pub(super) fn sign(
        by: &Identity,
        mesh: MeshId,
        to: NodeId,
        serial: u64,
        covers: Covers,
    ) -> Self {
        Self {
            by: by.id(),
            serial,
            signature: by.sign(&[CONTEXT, mesh.as_bytes(), &words(to, serial, &covers)]),
            covers,
        }
    }

    pub(super) fn is_valid(&self, mesh: MeshId, to: NodeId) -> bool {
        let words = words(to, self.serial, &self.covers);
        let parts = [CONTEXT, mesh.as_bytes(), &words];
        self.by != to && self.signature.is_by(self.by, &parts)
    }
}

/// What is signed: one text for one meaning, so the name, which may be of any length, is last.
fn words(to: NodeId, serial: u64, covers: &Covers) -> Vec<u8> {
    let mut text = to.as_bytes().to_vec();
    text.extend_from_slice(&serial.to_be_bytes());
    text.extend_from_slice(&covers.slot.to_be_bytes());
    text.push(u8::from(covers.key.is_some()));
    text.extend_from_slice(covers.key.as_ref().map_or(&[], |key| key.as_bytes()));
    text.extend_from_slice(covers.name.as_ref().map_or(&[], |n| n.as_str().as_bytes()));
    text
}

/// What this node has granted and not been released from. Kept on disk before a grant is sent, so
/// that not even a crash makes it grant one thing twice, or count two grants alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// How many grants were ever given.
    serial: u64,
    slots: BTreeMap<u32, Entry>,
    names: BTreeMap<NodeName, NodeId>,
    keys: BTreeMap<PublicKey, NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    to: NodeId,
    serial: u64,
}

/// Whose something is by the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    Nobody,
    It,
    Another,
}

impl Granted {
    fn of(holder: Option<NodeId>, id: NodeId) -> Self {
        match holder {
            None => Self::Nobody,
            Some(holder) if holder == id => Self::It,
            Some(_) => Self::Another,
        }
    }
}

impl Book {
    /// Whether `slot` was granted, seen from `id`.
    pub(super) fn slot(&self, slot: u32, id: NodeId) -> Granted {
        Granted::of(self.slots.get(&slot).map(|entry| entry.to), id)
    }

    pub(super) fn name(&self, name: &NodeName, id: NodeId) -> Granted {
        Granted::of(self.names.get(name).copied(), id)
    }

    pub(super) fn key(&self, key: &PublicKey, id: NodeId) -> Granted {
        Granted::of(self.keys.get(key).copied(), id)
    }

    /// Enters what is granted, and returns the grant's number: the same again for the same.
    pub(super) fn enter(&mut self, id: NodeId, covers: &Covers) -> u64 {
        let known = |granted| granted == Granted::It;
        let name = covers.name.as_ref();
        let same = known(self.slot(covers.slot, id))
            && name.is_none_or(|name| known(self.name(name, id)))
            && covers.key.is_none_or(|key| known(self.key(&key, id)));
        if same && let Some(entry) = self.slots.get(&covers.slot) {
            return entry.serial;
        }
        self.serial = self.serial.saturating_add(1);
        let serial = self.serial;
        self.slots.insert(covers.slot, Entry { to: id, serial });
        if let Some(name) = name {
            self.names.insert(name.clone(), id);
        }
        if let Some(key) = covers.key {
            self.keys.insert(key, id);
        }
        serial
    }

    /// Goes on above a grant of this node's own that a book that was lost had counted.
    pub(super) fn skip(&mut self, serial: u64) {
        self.serial = self.serial.max(serial);
    }

    /// Strikes what `id` no longer holds: all but the given.
    pub(super) fn release(
        &mut self,
        id: NodeId,
        slot: Option<u32>,
        name: Option<&NodeName>,
        key: Option<&PublicKey>,
    ) {
        self.slots
            .retain(|s, entry| entry.to != id || Some(*s) == slot);
        self.names
            .retain(|n, holder| *holder != id || Some(n) == name);
        self.keys
            .retain(|k, holder| *holder != id || Some(k) == key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(slot: u32, name: Option<&str>, key: Option<u8>) -> Covers {
        Covers {
            slot,
            name: name.map(|n| n.parse().unwrap()),
            key: key.map(|n| PublicKey::from_bytes([n; 32])),
        }
    }

    #[test]
    fn a_grant_is_for_one_node_and_for_what_it_says() {
        let (by, to) = (Identity::from_bytes(&[1; 32]), NodeId::from_bytes([2; 32]));
        let mesh = MeshId::from_bytes([3; 16]);
        let full = Grant::sign(&by, mesh, to, 4, covers(7, Some("a"), Some(5)));
        assert!(full.is_valid(mesh, to));
        assert!(!full.is_valid(mesh, NodeId::from_bytes([4; 32])));
        assert!(!full.is_valid(MeshId::from_bytes([4; 16]), to));
        for other in [
            covers(8, Some("a"), Some(5)),
            covers(7, Some("b"), Some(5)),
            covers(7, Some("a"), Some(6)),
            covers(7, Some("a"), None),
            covers(7, None, Some(5)),
        ] {
            let mut changed = full.clone();
            changed.covers = other;
            assert!(!changed.is_valid(mesh, to), "{changed:?}");
        }
        let mut later = full.clone();
        later.serial += 1;
        assert!(!later.is_valid(mesh, to));
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Grant>(&text).unwrap(), full);
    }

    #[test]
    fn what_is_granted_to_one_is_refused_to_another_until_released() {
        let [a, b] = [1, 2].map(|n| NodeId::from_bytes([n; 32]));
        let all = covers(5, Some("x"), Some(6));
        let (name, key) = (all.name.clone().unwrap(), all.key.unwrap());
        let mut book = Book::default();
        assert_eq!(book.slot(5, a), Granted::Nobody);
        book.enter(a, &all);
        assert_eq!(book.slot(5, a), Granted::It);
        assert_eq!(book.slot(5, b), Granted::Another);
        assert_eq!(book.name(&name, b), Granted::Another);
        assert_eq!(book.key(&key, b), Granted::Another);
        let text = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), book);
        book.release(a, Some(6), Some(&name), Some(&key));
        assert_eq!(book.slot(5, b), Granted::Nobody);
        assert_eq!(book.name(&name, b), Granted::Another);
        book.release(a, None, None, None);
        assert_eq!(book.key(&key, b), Granted::Nobody);
    }

    #[test]
    fn the_same_is_granted_under_the_same_number_and_anything_new_under_a_higher() {
        let [a, b] = [1, 2].map(|n| NodeId::from_bytes([n; 32]));
        let mut book = Book::default();
        let first = book.enter(a, &covers(5, Some("x"), Some(6)));
        let unchanged = book.clone();
        assert_eq!(book.enter(a, &covers(5, Some("x"), Some(6))), first);
        assert_eq!(book, unchanged);
        let renamed = book.enter(a, &covers(5, Some("y"), Some(6)));
        assert!(renamed > first);
        book.release(a, None, None, None);
        assert!(book.enter(b, &covers(5, None, None)) > renamed);
        book.skip(1000);
        assert!(book.enter(a, &covers(6, None, None)) > 1000);
    }
}
