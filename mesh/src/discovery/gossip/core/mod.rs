//! The whole of gossip without I/O: messages and the time go in, effects come out.
//!
//! `publish` holds what this node says of itself, `spread` what it hears and tells on, `forget` how
//! nodes are forgotten, `view` what the agent sees of it.

mod forget;
mod publish;
mod spread;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::Claims;
use super::grant::{Book, Grant};
use super::keyring::{Entry, Keyring};
use super::message::Message;
use super::params::MeshParams;
use super::record::{Instance, Record, Rules, Signed, Stamp};
use super::rule::{self, Holders};
use super::tombstone::Tombstones;
use crate::discovery::Announcement;
use crate::discovery::Problem;
use crate::identity::Identity;
use crate::{NodeId, Roster};

/// The most records kept, and the most bytes of their bodies in all.
const MAX_RECORDS: usize = 4096;
const MAX_TOTAL: usize = 64 * 1024 * 1024;
/// How long after a change members are compared more often, in a mesh of so many nodes at most.
const LIVELY: Duration = Duration::from_secs(1);
const LIVELY_NODES: usize = 64;
/// How long a clone that shows no more is still named.
const CLONE_SHOWN: Duration = Duration::from_secs(300);

/// What the world around must do, in order.
#[derive(Debug)]
pub(super) enum Effect {
    Send(NodeId, Message),
    /// Keep both on disk, then tell [`Core::saved`].
    Save(Kept),
    /// Keep the book on disk, then send the grant; not on disk, not sent.
    Grant(NodeId, Message, Book),
    /// End the connection to a node that was forgotten, after this message.
    Part(NodeId, Message),
}

/// What must be on disk before it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Kept {
    /// The run: no two runs of a node may sign under one number.
    pub(super) generation: u64,
    pub(super) slot: Option<u32>,
}

/// Which files no longer say what is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    pub(super) records: bool,
    pub(super) tombstones: bool,
    pub(super) keyring: bool,
}

/// A peer sent what no honest node sends.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Abuse(pub(super) String);

/// What a core starts from.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) identity: Arc<Identity>,
    pub(super) rules: Rules,
    pub(super) claim_wait: Duration,
    pub(super) me: Announcement,
    pub(super) instance: Instance,
    /// With a generation that is already on disk and was never used.
    pub(super) kept: Kept,
    pub(super) records: Vec<Record>,
    pub(super) tombstones: Tombstones,
    pub(super) keyring: Keyring,
    pub(super) book: Book,
    pub(super) seed: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    identity: Arc<Identity>,
    id: NodeId,
    rules: Rules,
    me: Announcement,
    instance: Instance,
    kept: Kept,
    /// What `kept` is once everything asked for is on disk.
    wanted: Kept,
    version: u64,
    claims: Claims,
    grants: Vec<Grant>,
    publish_at: Option<Instant>,
    digest_at: Instant,
    lively_until: Instant,
    /// This node's own among them.
    records: BTreeMap<NodeId, Record>,
    total: usize,
    tombstones: Tombstones,
    /// Last records of forgotten nodes that forgot others: they show that these were members.
    witnesses: BTreeMap<NodeId, Record>,
    keyring: Keyring,
    book: Book,
    peers: BTreeMap<NodeId, Peer>,
    seen: BTreeMap<NodeId, Vec<Instance>>,
    clones: BTreeMap<NodeId, (String, Instant)>,
    /// Runs of this very identity that were ahead of this one.
    ahead: BTreeSet<Instance>,
    last_bump: bool,
    /// The stamp of this identity's that was ahead last, and since when it is the same.
    foreign: Option<(Stamp, Instant)>,
    announcement_problem: Option<String>,
    storage_problem: Option<String>,
    /// The same of what is told on before it is on disk.
    unwritten: Option<String>,
    /// The records are not what the roster was made of.
    stale: bool,
    roster: Arc<Roster>,
    holders: Holders,
    problems: Vec<Problem>,
    random: u64,
    effects: Vec<Effect>,
    counters: BTreeMap<&'static str, u64>,
    dirty: Dirty,
}

#[derive(Debug)]
struct Peer {
    observed: Option<IpAddr>,
    /// When it was last asked for a grant, and of what.
    asked: Option<(Instant, u32)>,
    /// When its wish for a grant was last looked at.
    answered: Option<Instant>,
}

impl Core {
    pub(super) fn new(setup: Setup, now: Instant) -> Self {
        let id = setup.identity.id();
        let slots = setup.rules.params.slots();
        let claims = Claims::new(id, slots, setup.claim_wait, setup.kept.slot, now);
        let tombstones = setup.tombstones;
        let mut records: BTreeMap<_, _> = setup.records.into_iter().map(|r| (r.id(), r)).collect();
        let witnesses = forget::split_witnesses(&mut records, &tombstones);
        let mut core = Self {
            id,
            identity: setup.identity,
            rules: setup.rules,
            me: setup.me,
            instance: setup.instance,
            kept: setup.kept,
            wanted: setup.kept,
            version: 0,
            claims,
            grants: Vec::new(),
            publish_at: None,
            digest_at: now,
            lively_until: now,
            total: records.values().map(|r| r.signed.body.len()).sum(),
            records,
            tombstones,
            witnesses,
            keyring: setup.keyring,
            book: setup.book,
            peers: BTreeMap::new(),
            seen: BTreeMap::new(),
            clones: BTreeMap::new(),
            ahead: BTreeSet::new(),
            last_bump: false,
            foreign: None,
            announcement_problem: None,
            storage_problem: None,
            unwritten: None,
            stale: true,
            roster: Arc::default(),
            holders: Holders::default(),
            problems: Vec::new(),
            random: setup.seed | 1,
            effects: Vec::new(),
            counters: BTreeMap::new(),
            dirty: Dirty::default(),
        };
        for record in core.records.clone().values() {
            core.compare_book(record);
        }
        core.resume();
        core.settle(now);
        core
    }

    /// A member is connected, and sees this node at `observed`.
    pub(super) fn connected(&mut self, peer: NodeId, observed: Option<IpAddr>, now: Instant) {
        let observed = observed.filter(|a| self.rules.allows_host(*a));
        let state = Peer {
            observed,
            asked: None,
            answered: None,
        };
        self.peers.insert(peer, state);
        // One of the two begins, or both would tell everything.
        if self.id < peer {
            let digest = self.digest(false);
            self.effects
                .push(Effect::Send(peer, Message::Digest(digest)));
        }
        self.settle(now);
    }

    pub(super) fn disconnected(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    /// Replaces what this node says of itself.
    pub(super) fn announce(&mut self, me: Announcement, now: Instant) {
        self.me = me;
        self.publish();
        self.settle(now);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if now >= self.digest_at {
            let jitter = self.next_random() % 200;
            // Where something has changed, more is to be expected, and to be missed.
            let pause = if now < self.lively_until { 100 } else { 900 };
            self.digest_at = now + Duration::from_millis(pause + jitter);
            self.compare_with_one();
            self.clones
                .retain(|_, (_, seen)| now.duration_since(*seen) < CLONE_SHOWN);
        }
        if self.publish_at.is_some_and(|at| now >= at) {
            self.publish_at = None;
            self.publish();
        }
        self.settle(now);
    }

    /// When [`tick`](Self::tick) has something to do next.
    pub(super) fn deadline(&self) -> Instant {
        let claim = self.claims.deadline().filter(|_| !self.is_forgotten());
        let claim = claim.unwrap_or(self.digest_at);
        let publish = self.publish_at.unwrap_or(self.digest_at);
        self.digest_at.min(claim).min(publish)
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Takes over what this node itself changed of the secrets, and tells it.
    pub(super) fn merge_keys(&mut self, entries: Vec<Entry>) {
        self.keyring.merge(entries);
        self.dirty.keyring = true;
        self.tell_keys(None);
    }

    /// A live machine with this very identity was met at `address`.
    pub(super) fn met_clone(&mut self, address: &str, now: Instant) {
        let text = format!(
            "another machine runs with this node's identity ({}), at {address}: \
             give one of the two its own, by moving its identity.key away",
            self.id.short()
        );
        self.clones.insert(self.id, (text, now));
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn params(&self) -> &MeshParams {
        &self.rules.params
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn records(&self) -> &BTreeMap<NodeId, Record> {
        &self.records
    }

    /// What is kept on disk of others: records, and those of forgotten nodes that count still.
    pub(super) fn kept_records(&self) -> Vec<Signed> {
        let all = self.records.values().chain(self.witnesses.values());
        all.map(|record| record.signed.clone()).collect()
    }

    /// What is kept of others was written, or the reason why not.
    pub(super) fn written(&mut self, result: Result<(), String>) {
        self.unwritten = result.err();
    }

    pub(super) fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    pub(super) fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    pub(super) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster)
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.tombstones.contains(self.id)
    }

    /// A node's name, as it goes by here.
    pub(super) fn name_of(&self, id: NodeId) -> Option<String> {
        let record = self.records.get(&id)?;
        Some(rule::name_of(record, &self.holders).to_string())
    }

    /// Makes everything follow from the records as they are now.
    fn settle(&mut self, now: Instant) {
        self.review();
        self.look_at_claim(now);
        self.ask_for_grants(now);
    }

    /// Who holds what, and the roster.
    fn review(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        self.holders = Holders::of(&self.records, self.rules.params.founder, &self.tombstones);
        let (roster, problems) = rule::roster(&self.records, &self.holders, &self.rules, self.id);
        self.problems = problems;
        let roster = if self.is_forgotten() {
            Roster::default()
        } else {
            roster
        };
        if *self.roster != roster {
            self.roster = Arc::new(roster);
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    /// xorshift64*: for choosing peers, never for secrets.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            generation: self.kept.generation,
            version: self.version,
            instance: self.instance,
        }
    }
}
