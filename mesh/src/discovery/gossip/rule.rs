//! The one rule that says whose a share, a name and a key are. Pure: the same records give the
//! same answer on every node.
//!
//! Of several claims on a share the final one wins, then the one with more grants for it by
//! members that are known here (at most seven; the founder counts eight more), then the lower
//! hash; for names and keys the grants come first. Of a member's grants of one thing to several
//! only the latest counts. So a claim that nobody granted never takes what is held, one that was
//! given up is not taken back from who came after, and after a partition all pick one winner.
//! Outside: several identities in one hand grant each other; old grants of a thing by members of
//! which none granted it to its present holder weigh as much as the holder's; and where nobody
//! could grant yet (two nodes, neither the founder; a key in the moment after its change) the
//! hash decides.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::grant::Covers;
use super::record::{Record, Rules};
use super::text::hash;
use super::tombstone::Tombstones;
use crate::discovery::{Problem, ProblemKind};
use crate::{Member, NodeId, NodeName, PublicKey, Roster};

/// What the founder's claims weigh beyond their grants.
const FOUNDER: usize = 8;

/// Who holds what, as the records known here say.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// The best claim on each share, and whether it is final.
    slots: BTreeMap<u32, (bool, NodeId)>,
    names: BTreeMap<NodeName, NodeId>,
    keys: BTreeMap<PublicKey, NodeId>,
}

/// What more than one node may claim.
#[derive(Clone, Copy)]
enum Thing<'a> {
    Slot(u32),
    Name(&'a NodeName),
    Key(&'a PublicKey),
}

impl Thing<'_> {
    fn is_in(&self, covers: &Covers) -> bool {
        match self {
            Self::Slot(slot) => covers.slot == *slot,
            Self::Name(name) => covers.name.as_ref() == Some(name),
            Self::Key(key) => covers.key.as_ref() == Some(key),
        }
    }

    fn tie(&self, id: NodeId) -> [u8; 32] {
        match self {
            Self::Slot(slot) => hash(&[&slot.to_be_bytes(), id.as_bytes()]),
            Self::Name(name) => hash(&[name.as_str().as_bytes(), id.as_bytes()]),
            Self::Key(key) => hash(&[key.as_bytes(), id.as_bytes()]),
        }
    }
}

impl Holders {
    pub(super) fn of(
        records: &BTreeMap<NodeId, Record>,
        founder: NodeId,
        tombstones: &Tombstones,
    ) -> Self {
        let mut slots: BTreeMap<u32, Vec<&Record>> = BTreeMap::new();
        let mut names: BTreeMap<&NodeName, Vec<&Record>> = BTreeMap::new();
        let mut keys: BTreeMap<&PublicKey, Vec<&Record>> = BTreeMap::new();
        for record in records.values() {
            if let Some(claim) = record.body.claim {
                slots.entry(claim.slot).or_default().push(record);
            }
            names.entry(&record.body.name).or_default().push(record);
            keys.entry(&record.body.key).or_default().push(record);
        }
        let counts = |by: NodeId| records.contains_key(&by) && !tombstones.contains(by);
        let best = |thing, claims: &[&Record]| {
            let record = best(thing, claims, founder, &counts)?;
            Some((is_settled(record), record.id()))
        };
        let mut holders = Self::default();
        for (slot, claims) in slots {
            if let Some(holder) = best(Thing::Slot(slot), &claims) {
                holders.slots.insert(slot, holder);
            }
        }
        for (name, claims) in names {
            if let Some((_, id)) = best(Thing::Name(name), &claims) {
                holders.names.insert(name.clone(), id);
            }
        }
        for (key, claims) in keys {
            if let Some((_, id)) = best(Thing::Key(key), &claims) {
                holders.keys.insert(*key, id);
            }
        }
        holders
    }

    /// Whose claim on `slot` wins, final or not.
    pub(super) fn slot(&self, slot: u32) -> Option<NodeId> {
        self.slots.get(&slot).map(|(_, id)| *id)
    }

    /// Whose `slot` is: only a final claim gives it.
    pub(super) fn owner(&self, slot: u32) -> Option<NodeId> {
        let (settled, id) = self.slots.get(&slot)?;
        settled.then_some(*id)
    }

    pub(super) fn name(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    fn key(&self, key: &PublicKey) -> Option<NodeId> {
        self.keys.get(key).copied()
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

fn is_settled(record: &Record) -> bool {
    record.body.claim.is_some_and(|claim| claim.settled)
}

/// The claim that wins; `counts` says whose grants weigh.
fn best<'a>(
    thing: Thing<'_>,
    claims: &[&'a Record],
    founder: NodeId,
    counts: &dyn Fn(NodeId) -> bool,
) -> Option<&'a Record> {
    if let [only] = claims {
        return Some(only);
    }
    let good = |record: &&'a Record| {
        let grants = record.body.grants.iter();
        grants.filter(|g| thing.is_in(&g.covers) && counts(g.by))
    };
    let mut latest: BTreeMap<NodeId, u64> = BTreeMap::new();
    for grant in claims.iter().flat_map(good) {
        let serial = latest.entry(grant.by).or_default();
        *serial = grant.serial.max(*serial);
    }
    let rank = |record: &&'a Record| {
        let standing = good(record).filter(|g| latest.get(&g.by) == Some(&g.serial));
        let id = record.id();
        let weight = standing.count() + if id == founder { FOUNDER } else { 0 };
        let settled = is_settled(record);
        // Without a range of its own a node still has its name and its key.
        let first = settled && matches!(thing, Thing::Slot(_));
        (first, weight, settled, Reverse(thing.tie(id)))
    };
    claims.iter().copied().max_by_key(rank)
}
