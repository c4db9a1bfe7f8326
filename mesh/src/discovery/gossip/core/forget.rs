//! How a node is forgotten: by a tombstone that any member may sign, and nobody else.
//!
//! A signer counts as a member once a valid record of it is known, also when it was forgotten
//! since. A tombstone of another is passed over and not kept: as long as it is missing, comparisons
//! bring it again, after the records. So the order in which things are heard does not matter. The
//! last record of a forgotten node that forgot others is kept and told with its tombstones; without
//! it, who comes later could not tell that two nodes that forgot each other were members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::spread::FANOUT;
use super::{Abuse, Core, Effect};
use crate::NodeId;
use crate::discovery::gossip::ForgetError;
use crate::discovery::gossip::keyring::KeyState;
use crate::discovery::gossip::message::{Message, Refusal, Statement, TOMBSTONE_BATCH};
use crate::discovery::gossip::record::{Record, Signed};
use crate::discovery::gossip::tombstone::{Buried, Tombstone, Tombstones};

/// The most records that are kept of forgotten nodes; needed only where nodes forgot each other.
const MAX_WITNESSES: usize = 64;
/// The most signers told with one message of tombstones.
const SIGNER_BATCH: usize = 8;

impl Core {
    /// Whether `id` may be a member, having shown a secret that is in `state`.
    pub(in super::super) fn admit(&self, id: NodeId, state: KeyState) -> Result<(), Box<Refusal>> {
        if let Some(tombstone) = self.tombstones.get(id) {
            let statement = self.statement(tombstone.clone());
            return Err(Box::new(Refusal::Forgotten(Box::new(statement))));
        }
        if state == KeyState::Retired && !self.records.contains_key(&id) {
            return Err(Box::new(Refusal::RetiredKey));
        }
        Ok(())
    }

    /// What is to be on disk before [`forget`](Self::forget): all tombstones, with that of the node
    /// that `who` names.
    pub(in super::super) fn tombstones_with(
        &self,
        who: &str,
    ) -> Result<Vec<Tombstone>, ForgetError> {
        let id = self.find(who)?;
        let mut all = self.tombstones.clone();
        let tombstone = Tombstone::sign(id, &self.identity, self.rules.params.id());
        match all.insert(tombstone) {
            Buried::Full => Err(ForgetError::Full),
            Buried::Known | Buried::New => Ok(all.all().cloned().collect()),
        }
    }

    /// Forgets the node that `who` names.
    pub(in super::super) fn forget(
        &mut self,
        who: &str,
        now: Instant,
    ) -> Result<NodeId, ForgetError> {
        let id = self.find(who)?;
        let tombstone = Tombstone::sign(id, &self.identity, self.rules.params.id());
        match self.bury(tombstone.clone()) {
            Buried::Full => return Err(ForgetError::Full),
            Buried::Known => return Ok(id),
            Buried::New => {}
        }
        let peers: Vec<_> = self.peers.keys().copied().collect();
        self.tell_tombstones(&peers, &[tombstone]);
        self.settle(now);
        Ok(id)
    }

    /// A refusal says that this node was forgotten, by someone who is no peer: it proves itself.
    pub(in super::super) fn told_forgotten(&mut self, statement: Statement, now: Instant) {
        let Statement {
            tombstone, signer, ..
        } = statement;
        if tombstone.id == self.id {
            // Whatever it is worth: its teller has ended the connection.
            let signers = signer.into_iter().collect();
            let _ = self.hear_tombstones(self.id, vec![tombstone], signers, now);
            self.settle(now);
        }
    }

    /// Tombstones, with records of those of their signers that were forgotten.
    pub(super) fn hear_tombstones(
        &mut self,
        from: NodeId,
        all: Vec<Tombstone>,
        signers: Vec<Signed>,
        now: Instant,
    ) -> Result<(), Abuse> {
        let mut open = Vec::new();
        for tombstone in all {
            if self.tombstones.get(tombstone.id) == Some(&tombstone) {
                continue;
            }
            if !tombstone.is_valid(self.rules.params.id()) {
                self.count("tombstones refused");
                return Err(Abuse("a tombstone that nobody signed".into()));
            }
            open.push(tombstone);
        }
        if open.is_empty() {
            return Ok(());
        }
        let named: BTreeSet<_> = open.iter().map(|t| t.id).collect();
        for signed in signers.into_iter().take(SIGNER_BATCH) {
            let id = signed.id;
            if self.is_member(id) {
                continue;
            }
            // It may say what was true once: where it is forgotten too, it is no claim on anything.
            if !named.contains(&id) {
                self.hear_one(signed, now)?;
            } else if let Ok(record) = Record::open(signed, &self.rules, None) {
                self.keep_witness(record);
            }
        }
        let mut news = Vec::new();
        // One may vouch for another's signer, in whatever order they come.
        loop {
            let (known, unknown): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|t| self.is_member(t.by));
            open = unknown;
            if known.is_empty() {
                break;
            }
            for tombstone in known {
                if self.bury(tombstone.clone()) == Buried::New {
                    news.push(tombstone);
                }
            }
        }
        for _ in &open {
            self.count("tombstones passed over: unknown signer");
        }
        if !news.is_empty() {
            let peers = self.choose(FANOUT, &|id| id != from);
            self.tell_tombstones(&peers, &news);
        }
        Ok(())
    }

    pub(super) fn send_tombstones(&mut self, to: NodeId) {
        let all: Vec<_> = self.tombstones.all().cloned().collect();
        self.tell_tombstones(&[to], &all);
    }

    fn tell_tombstones(&mut self, to: &[NodeId], all: &[Tombstone]) {
        let (by_forgotten, by_members): (Vec<_>, Vec<_>) = all
            .iter()
            .cloned()
            .partition(|t| self.witnesses.contains_key(&t.by));
        let mut messages = Vec::new();
        for batch in by_members.chunks(TOMBSTONE_BATCH) {
            messages.push(Message::Tombstones {
                tombstones: batch.to_vec(),
                signers: Vec::new(),
            });
        }
        let witnesses: Vec<_> = self.witnesses.values().collect();
        for some in witnesses.chunks(SIGNER_BATCH) {
            let is_among = |id| some.iter().any(|record| record.id() == id);
            let by_these = by_forgotten.iter().filter(|t| is_among(t.by));
            let by_these: Vec<_> = by_these.cloned().collect();
            for batch in by_these.chunks(TOMBSTONE_BATCH) {
                // With those about the signers themselves, so that nobody takes them for members.
                let about = some.iter().filter_map(|r| self.tombstones.get(r.id()));
                messages.push(Message::Tombstones {
                    tombstones: batch.iter().chain(about).cloned().collect(),
                    signers: some.iter().map(|record| record.signed.clone()).collect(),
                });
            }
        }
        for peer in to {
            for message in &messages {
                self.effects.push(Effect::Send(*peer, message.clone()));
            }
        }
    }

    /// Drops all that was the node's, and its connection.
    fn bury(&mut self, tombstone: Tombstone) -> Buried {
        let id = tombstone.id;
        let buried = self.tombstones.insert(tombstone.clone());
        if buried != Buried::New {
            return buried;
        }
        self.dirty.tombstones = true;
        self.dirty.records = true;
        self.stale = true;
        if id != self.id {
            if let Some(old) = self.records.remove(&id) {
                self.total -= old.signed.body.len();
                self.keep_witness(old);
            }
            self.book.release(id, None, None, None);
            self.seen.remove(&id);
            self.clones.remove(&id);
            if self.peers.remove(&id).is_some() {
                let statement = Box::new(self.statement(tombstone));
                let refusal = Message::Refused(Refusal::Forgotten(statement));
                self.effects.push(Effect::Part(id, refusal));
            }
        }
        buried
    }

    fn is_member(&self, id: NodeId) -> bool {
        id == self.rules.params.founder
            || self.records.contains_key(&id)
            || self.witnesses.contains_key(&id)
            // A member took it for one.
            || self.tombstones.contains(id)
    }

    fn keep_witness(&mut self, record: Record) {
        let new = record.id();
        self.witnesses.insert(new, record);
        if self.witnesses.len() > MAX_WITNESSES {
            let signed = |id: &NodeId| self.tombstones.all().any(|t| t.by == *id);
            let idle = self.witnesses.keys().find(|id| !signed(id)).copied();
            self.witnesses.remove(&idle.unwrap_or(new));
        }
        self.dirty.records = true;
    }

    fn statement(&self, tombstone: Tombstone) -> Statement {
        let by = tombstone.by;
        let signer = self.records.get(&by).or_else(|| self.witnesses.get(&by));
        Statement {
            by_name: self.name_of(by),
            signer: signer.map(|record| record.signed.clone()),
            tombstone,
        }
    }
}

/// Takes the records of forgotten nodes out of `records`, and returns those still needed.
pub(super) fn split_witnesses(
    records: &mut BTreeMap<NodeId, Record>,
    tombstones: &Tombstones,
) -> BTreeMap<NodeId, Record> {
    let signers: BTreeSet<_> = tombstones.all().map(|t| t.by).collect();
    let (forgotten, others) = std::mem::take(records)
        .into_iter()
        .partition(|(id, _)| tombstones.contains(*id));
    *records = others;
    let forgotten: BTreeMap<_, _> = forgotten;
    let needed = forgotten.into_iter().filter(|(id, _)| signers.contains(id));
    needed.take(MAX_WITNESSES).collect()
}
