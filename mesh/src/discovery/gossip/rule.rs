//! The one rule that says whose a share, a name and a key are. Pure: the same records give the
//! same answer on every node.
//!
//! Of several claims the final one wins, then the one with more grants by members that are known
//! here (at most seven; the founder counts eight more), then the lower hash. So a claim that
//! nobody granted never takes what is held, and after a partition all members pick one winner.
//! Outside: several identities in one hand grant each other; and with only two nodes, neither the
//! founder, there is nobody to grant and the hash decides.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::grant::Covers;
use super::own::{Problem, ProblemKind};
use super::record::{MAX_GRANTS, Record, Rules};
use super::text::hash;
use super::tombstone::Tombstones;
use crate::{Member, NodeId, NodeName, PublicKey, Roster};

/// Final or not, and the weight: the highest wins, and of equals the lower hash.
type Rank = (bool, u32);

/// Who holds what, as the records known here say.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// The best claim on each share, final or not.
    slots: BTreeMap<u32, (Rank, NodeId)>,
    names: BTreeMap<NodeName, (Rank, NodeId)>,
    keys: BTreeMap<PublicKey, (Rank, NodeId)>,
}

impl Holders {
    pub(super) fn of(
        records: &BTreeMap<NodeId, Record>,
        founder: NodeId,
        tombstones: &Tombstones,
    ) -> Self {
        let mut holders = Self::default();
        for record in records.values() {
            let weigh = |wanted: &dyn Fn(Covers) -> bool| {
                let counts = |by: &NodeId| records.contains_key(by) && !tombstones.contains(*by);
                let grants = record.body.grants.iter();
                let number = grants
                    .filter(|g| wanted(g.covers) && counts(&g.by))
                    .take(MAX_GRANTS)
                    .count() as u32;
                number + if record.id() == founder { 8 } else { 0 }
            };
            let id = record.id();
            let settled = record.body.claim.is_some_and(|c| c.settled);
            let by_slot = weigh(&|_| true);
            let by_name = weigh(&|covers| covers == Covers::SlotAndName);
            if let Some(claim) = record.body.claim {
                let tie = |id| tie(&claim.slot.to_be_bytes(), id);
                best(&mut holders.slots, &claim.slot, (settled, by_slot), id, tie);
            }
            let name = &record.body.name;
            let by_text = |id| tie(name.as_str().as_bytes(), id);
            best(&mut holders.names, name, (settled, by_name), id, by_text);
            let key = &record.body.key;
            let by_key = |id| tie(key.as_bytes(), id);
            best(&mut holders.keys, key, (settled, by_slot), id, by_key);
        }
        holders
    }

    /// Whose claim on `slot` wins, final or not.
    pub(super) fn slot(&self, slot: u32) -> Option<NodeId> {
        self.slots.get(&slot).map(|(_, id)| *id)
    }

    /// Whose `slot` is: only a final claim gives it.
    pub(super) fn owner(&self, slot: u32) -> Option<NodeId> {
        let ((settled, _), id) = self.slots.get(&slot)?;
        settled.then_some(*id)
    }

    pub(super) fn name(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).map(|(_, id)| *id)
    }

    fn key(&self, key: &PublicKey) -> Option<NodeId> {
        self.keys.get(key).map(|(_, id)| *id)
    }
}

/// What a node may see of the others, and what is wrong among all.
pub(super) fn roster(
    records: &BTreeMap<NodeId, Record>,
    holders: &Holders,
    rules: &Rules,
    own: NodeId,
) -> (Roster, Vec<Problem>) {
    let mut roster = Roster::default();
    let mut problems = Vec::new();
    let title = |id: NodeId| match records.get(&id) {
        Some(record) => format!("{} ({})", record.body.name, id.short()),
        None => id.short(),
    };
    for record in records.values() {
        let (id, body) = (record.id(), &record.body);
        let mut clash = |kind, what: String, winner: Option<NodeId>| {
            let winner = winner.map_or_else(String::new, title);
            let text = format!(
                "{} and {winner} both have {what}; it is {winner}'s",
                title(id)
            );
            problems.push(Problem { kind, text });
        };
        let key_is_own = holders.key(&body.key) == Some(id);
        if !key_is_own {
            let what = format!("the WireGuard key {}", body.key);
            clash(ProblemKind::KeyClash, what, holders.key(&body.key));
        }
        if holders.name(&body.name) != Some(id) {
            let what = format!("the name {}", body.name);
            clash(ProblemKind::NameClash, what, holders.name(&body.name));
        }
        let mut pod_cidrs = Vec::new();
        if let Some(claim) = body.claim.filter(|c| c.settled)
            && let Some(ranges) = rules.params.ranges(claim.slot)
        {
            if holders.owner(claim.slot) == Some(id) {
                pod_cidrs.extend(ranges);
            } else {
                let what = format!("the range {}", ranges[0]);
                clash(ProblemKind::RangeClash, what, holders.slot(claim.slot));
            }
        }
        let mut names = Vec::new();
        if !pod_cidrs.is_empty() && !body.away {
            for served in &body.names {
                match served.name.parse().ok().and_then(|n| holders.name(&n)) {
                    Some(other) if other != id => {
                        let what = format!("the name {}", served.name);
                        clash(ProblemKind::ServedNameClash, what, Some(other));
                    }
                    _ => names.push(served.clone()),
                }
            }
            names.sort();
            names.dedup();
        }
        if id != own && key_is_own {
            let member = Member {
                id,
                name: name_of(record, holders),
                public_key: body.key,
                endpoints: body.endpoints.clone(),
                pod_cidrs,
                names,
                away: body.away,
            };
            roster.members.insert(id, member);
        }
    }
    problems.sort();
    (roster, problems)
}

/// The name a node goes by: its own, or, when that is another's, one made of it and its identity.
pub(super) fn name_of(record: &Record, holders: &Holders) -> NodeName {
    let (id, name) = (record.id(), &record.body.name);
    if holders.name(name) == Some(id) {
        return name.clone();
    }
    let identity = id.to_string();
    for length in [10, 20, 52] {
        let keep = (62 - length).min(name.as_str().len());
        let made = format!("{}-{}", &name.as_str()[..keep], &identity[..length]);
        if let Ok(made) = made.parse()
            && holders.name(&made).is_none()
        {
            return made;
        }
    }
    // Somebody took all of these on purpose: the identity alone in another form, which is as hard
    // to take as a hash is to find.
    let unique = data_encoding::BASE32_NOPAD
        .encode(&hash(&[b"weft name", id.as_bytes()]))
        .to_ascii_lowercase();
    format!("x{unique}")
        .parse()
        .unwrap_or_else(|_| name.clone())
}

fn tie(what: &[u8], id: NodeId) -> [u8; 32] {
    hash(&[what, id.as_bytes()])
}

fn best<K: Ord + Clone>(
    map: &mut BTreeMap<K, (Rank, NodeId)>,
    key: &K,
    rank: Rank,
    id: NodeId,
    tie: impl Fn(NodeId) -> [u8; 32],
) {
    let Some((best, holder)) = map.get_mut(key) else {
        map.insert(key.clone(), (rank, id));
        return;
    };
    let better = match rank.cmp(best) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => tie(id) < tie(*holder),
    };
    if better {
        (*best, *holder) = (rank, id);
    }
}
