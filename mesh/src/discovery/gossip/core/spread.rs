//! What is heard and told on: rumours at once, and comparisons that repair the rest.

use std::time::Instant;

use super::{Abuse, Core, Effect, LIVELY, LIVELY_NODES, MAX_RECORDS, MAX_TOTAL};
use crate::discovery::gossip::message::{BATCH, Digest, Message, Refusal, Sum};
use crate::discovery::gossip::record::{Instance, Record, Refused, Signed, Stamp};
use crate::discovery::gossip::text::hash;
use crate::{Endpoint, NodeId, NodeName};

/// How many peers hear what was heard from another.
pub(super) const FANOUT: usize = 4;
/// How many peers hear this node's own record from itself: all of a small mesh.
const OWN_FANOUT: usize = 32;
/// Runs of a node that are remembered.
const MAX_SEEN: usize = 4;

impl Core {
    /// Takes in what `from`, a connected member, says.
    ///
    /// # Errors
    /// When no honest node would say it; the connection is to be ended and the sender kept away.
    pub(in super::super) fn receive(
        &mut self,
        from: NodeId,
        message: Message,
        now: Instant,
    ) -> Result<(), Abuse> {
        let result = self.take_in(from, message, now);
        self.settle(now);
        result
    }

    fn take_in(&mut self, from: NodeId, message: Message, now: Instant) -> Result<(), Abuse> {
        if self.tombstones.contains(from) {
            return Ok(());
        }
        match message {
            Message::Records { records } => {
                self.claims.heard(now);
                self.hear(from, records, now)?;
            }
            Message::Summary { sum } => {
                if sum != self.sum() {
                    let digest = Message::Digest(self.digest(false));
                    self.effects.push(Effect::Send(from, digest));
                }
            }
            Message::Digest(digest) => self.answer(from, &digest),
            Message::Tombstones {
                tombstones,
                signers,
            } => self.hear_tombstones(from, tombstones, signers, now)?,
            Message::Keys { keys } => {
                if self.keyring.merge(keys) {
                    self.dirty.keyring = true;
                    self.tell_keys(Some(from));
                }
            }
            Message::GrantPlease { record } => {
                if record.id != from {
                    return Err(Abuse("asks for a grant for another".into()));
                }
                self.hear(from, vec![record], now)?;
                self.grant(from, now);
            }
            Message::Granted { grant } => self.granted(from, grant, now)?,
            Message::Refused(Refusal::Forgotten(statement)) => {
                let signers = statement.signer.into_iter().collect();
                self.hear_tombstones(from, vec![statement.tombstone], signers, now)?;
            }
            Message::Ping
            | Message::Unknown
            | Message::Hello(_)
            | Message::Params { .. }
            | Message::Refused(_) => {}
        }
        Ok(())
    }

    fn hear(&mut self, from: NodeId, records: Vec<Signed>, now: Instant) -> Result<(), Abuse> {
        let mut news = Vec::new();
        let mut result = Ok(());
        for signed in records {
            match self.hear_one(signed, now) {
                Ok(Some(signed)) => news.push(signed),
                Ok(None) => {}
                Err(abuse) => {
                    result = Err(abuse);
                    break;
                }
            }
        }
        if !news.is_empty() {
            if self.records.len() <= LIVELY_NODES {
                self.lively_until = now + LIVELY;
                self.digest_at = self.digest_at.min(now + LIVELY / 5);
            }
            let peers = self.choose(FANOUT, &|id| id != from);
            self.send_records(&peers, news);
        }
        result
    }

    /// A record; returned if it is news.
    pub(super) fn hear_one(
        &mut self,
        signed: Signed,
        now: Instant,
    ) -> Result<Option<Signed>, Abuse> {
        let id = signed.id;
        if id == self.id {
            return self.hear_self(signed, now).map(|()| None);
        }
        if self.tombstones.contains(id) {
            return Ok(None);
        }
        let previous = self.records.get(&id);
        if previous.is_some_and(|p| signed.stamp <= p.signed.stamp) {
            self.count("records not newer");
            return Ok(None);
        }
        let old_size = previous.map_or(0, |p| p.signed.body.len());
        let more = self.total - old_size + signed.body.len();
        if more > MAX_TOTAL || (previous.is_none() && self.records.len() >= MAX_RECORDS) {
            self.count("records dropped: too many");
            return Ok(None);
        }
        let record = match Record::open(signed, &self.rules, previous) {
            Ok(record) => record,
            Err(refused) => {
                return self.refuse(refused).map(|()| None);
            }
        };
        self.total = more;
        self.compare_book(&record);
        self.note_run(&record, now);
        let signed = record.signed.clone();
        self.records.insert(id, record);
        self.dirty.records = true;
        self.stale = true;
        self.count("records taken");
        Ok(Some(signed))
    }

    /// Counts a record that is refused. What is well signed may be of a later version, and its
    /// bearer need not be able to read it: only what anybody can check is held against them.
    pub(super) fn refuse(&mut self, refused: Refused) -> Result<(), Abuse> {
        self.count(refused.counter());
        match refused {
            Refused::Size | Refused::Signature => Err(Abuse(refused.to_string())),
            _ => Ok(()),
        }
    }

    /// Strikes from the book what a node holds no more, and counts on from its grants by this one.
    pub(super) fn compare_book(&mut self, record: &Record) {
        let body = &record.body;
        let slot = body.claim.map(|c| c.slot);
        self.book
            .release(record.id(), slot, Some(&body.name), Some(&body.key));
        for grant in body.grants.iter().filter(|g| g.by == self.id) {
            self.book.skip(grant.serial);
        }
    }

    /// Runs of a node follow each other; one that comes back is a second machine.
    fn note_run(&mut self, record: &Record, now: Instant) {
        let (id, instance) = (record.id(), record.body.stamp.instance);
        let seen: &mut Vec<Instance> = self.seen.entry(id).or_default();
        if seen.last() == Some(&instance) {
            return;
        }
        let back = seen.contains(&instance);
        seen.retain(|i| *i != instance);
        seen.push(instance);
        if seen.len() > MAX_SEEN {
            seen.remove(0);
        }
        if back {
            let other = self.records.get(&id).unwrap_or(record);
            let text = clone_text(
                id,
                [record, other].map(|r| place(&r.body.name, &r.body.endpoints)),
            );
            self.clones.insert(id, (text, now));
        }
    }

    pub(super) fn push_own(&mut self, signed: Signed) {
        let peers = self.choose(OWN_FANOUT, &|_| true);
        self.send_records(&peers, vec![signed]);
    }

    pub(super) fn tell_keys(&mut self, but: Option<NodeId>) {
        let keys = self.keyring.entries();
        for peer in self.choose(OWN_FANOUT, &|id| Some(id) != but) {
            let keys = keys.clone();
            self.effects
                .push(Effect::Send(peer, Message::Keys { keys }));
        }
    }

    pub(super) fn compare_with_one(&mut self) {
        let sum = self.sum();
        for peer in self.choose(1, &|_| true) {
            self.effects
                .push(Effect::Send(peer, Message::Summary { sum }));
        }
    }

    pub(super) fn digest(&self, reply: bool) -> Digest {
        let stamp = |(id, record): (&NodeId, &Record)| (*id, record.signed.stamp);
        Digest {
            records: self.records.iter().map(stamp).collect(),
            tombstones: Sum::from_bytes(self.tombstones.digest()),
            keyring: Sum::from_bytes(self.keyring.digest()),
            reply,
        }
    }

    pub(super) fn sum(&self) -> Sum {
        let mut text = Vec::with_capacity(64 * self.records.len() + 64);
        for (id, record) in &self.records {
            text.extend_from_slice(id.as_bytes());
            text.extend_from_slice(&record.signed.stamp.generation.to_be_bytes());
            text.extend_from_slice(&record.signed.stamp.version.to_be_bytes());
            text.extend_from_slice(record.signed.stamp.instance.as_bytes());
        }
        text.extend_from_slice(&self.tombstones.digest());
        text.extend_from_slice(&self.keyring.digest());
        Sum::from_bytes(hash(&[&text]))
    }

    /// Sends what `digest` lacks, and, unless it is a reply, asks for what is lacking here.
    fn answer(&mut self, to: NodeId, digest: &Digest) {
        let theirs = &digest.records;
        let newer = |r: &&Record| theirs.get(&r.id()).is_none_or(|s| *s < r.signed.stamp);
        let send: Vec<_> = self.records.values().filter(newer).collect();
        let send: Vec<_> = send.into_iter().map(|r| r.signed.clone()).collect();
        let mine = self.digest(true);
        let sums = (mine.tombstones, mine.keyring) == (digest.tombstones, digest.keyring);
        if digest.keyring != mine.keyring {
            let keys = self.keyring.entries();
            self.effects.push(Effect::Send(to, Message::Keys { keys }));
        }
        // Forgotten nodes are not wanted back: their tombstones are on the way. Records go first,
        // since a tombstone needs its signer's.
        self.send_records(&[to], send);
        if digest.tombstones != mine.tombstones {
            self.send_tombstones(to);
        }
        let lacks = |(id, stamp): (&NodeId, &Stamp)| {
            let have = self.records.get(id).map(|r| r.signed.stamp);
            !self.tombstones.contains(*id) && have.is_none_or(|have| have < *stamp)
        };
        if !digest.reply && (!sums || theirs.iter().any(lacks)) {
            self.effects.push(Effect::Send(to, Message::Digest(mine)));
        }
    }

    fn send_records(&mut self, to: &[NodeId], records: Vec<Signed>) {
        let mut batches: Vec<Vec<Signed>> = Vec::new();
        let mut size = BATCH;
        for signed in records {
            if size >= BATCH {
                batches.push(Vec::new());
                size = 0;
            }
            size += signed.body.len() + 256;
            if let Some(batch) = batches.last_mut() {
                batch.push(signed);
            }
        }
        for peer in to {
            for records in batches.iter().cloned() {
                self.effects
                    .push(Effect::Send(*peer, Message::Records { records }));
            }
        }
    }

    /// Up to `number` connected peers at random.
    pub(super) fn choose(&mut self, number: usize, wanted: &dyn Fn(NodeId) -> bool) -> Vec<NodeId> {
        let mut peers: Vec<_> = self
            .peers
            .keys()
            .copied()
            .filter(|id| wanted(*id))
            .collect();
        let number = number.min(peers.len());
        for at in 0..number {
            let rest = (peers.len() - at) as u64;
            let other = at + (self.next_random() % rest) as usize;
            peers.swap(at, other);
        }
        peers.truncate(number);
        peers
    }
}

/// A machine in words.
pub(super) fn place(name: &NodeName, endpoints: &[Endpoint]) -> String {
    let endpoint = endpoints.first().map(ToString::to_string);
    let endpoint = endpoint.unwrap_or_else(|| "no known address".into());
    format!("{name} at {endpoint}")
}

/// The same words whichever of the two was heard last, so that they are one problem.
pub(super) fn clone_text(id: NodeId, mut places: [String; 2]) -> String {
    places.sort();
    format!(
        "two machines run with one identity ({}): {}; \
         give one of them its own, by moving its identity.key away",
        id.short(),
        places.join(" and ")
    )
}
