//! What the API has said, kind by kind. Pure.

use std::collections::BTreeMap;

use super::object::{Claimed, Node, Told};
use super::wire::Condition;
use crate::NodeName;

/// More objects of one kind are not looked at.
pub(super) const MAX_OBJECTS: usize = 16_384;

/// Every object that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct World {
    pub(super) nodes: BTreeMap<NodeName, Node>,
    pub(super) adverts: BTreeMap<NodeName, Told>,
    pub(super) claims: BTreeMap<String, Claimed>,
}

/// What one kind's watch has seen.
#[derive(Debug)]
pub enum Update<K, V> {
    /// The whole list anew.
    All(BTreeMap<K, V>),
    Put(K, V),
    Gone(K),
}

impl<K: Ord, V: PartialEq> Update<K, V> {
    /// True if anything is different.
    pub fn apply(self, to: &mut BTreeMap<K, V>) -> bool {
        match self {
            Self::All(all) if *to == all => false,
            Self::All(all) => {
                *to = all;
                true
            }
            Self::Put(key, value) if to.get(&key) == Some(&value) => false,
            Self::Put(key, value) => {
                let room = to.len() < MAX_OBJECTS || to.contains_key(&key);
                if room {
                    to.insert(key, value);
                }
                room
            }
            Self::Gone(key) => to.remove(&key).is_some(),
        }
    }
}

/// News of any kind.
#[derive(Debug)]
pub(super) enum Change {
    Nodes(Update<NodeName, Node>),
    Adverts(Update<NodeName, Told>),
    Claims(Update<String, Claimed>),
    /// The conditions of this node's own Node.
    Conditions(Vec<Condition>),
}
