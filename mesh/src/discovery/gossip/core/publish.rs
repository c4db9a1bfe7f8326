//! What this node says of itself: its record, its claim, the grants it collects and those it
//! gives, and what it does when it hears of itself.

use std::time::{Duration, Instant};

use super::spread::{clone_text, place};
use super::{Abuse, Core, Effect, Kept};
use crate::discovery::gossip::claim::{Phase, Step};
use crate::discovery::gossip::grant::{Covers, Grant, Granted};
use crate::discovery::gossip::message::Message;
use crate::discovery::gossip::record::{
    Body, MAX_BODY, MAX_ENDPOINTS, MAX_GRANTS, MAX_NAMES, Record, Signed,
};
use crate::{NodeId, NodeName, PublicKey};

/// Grants come in together; the record is signed anew once for several.
const GATHER: Duration = Duration::from_millis(100);
/// How long until a peer that did not grant is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long after one a peer is given no other grant.
const GRANT_PAUSE: Duration = Duration::from_secs(1);
/// How long a stamp ahead of this run's must stand still to be taken for one that is no more.
const STILL: Duration = Duration::from_secs(30);
/// Runs ahead of this one that are taken for old runs of this node, at most.
const MAX_AHEAD: usize = 8;

impl Core {
    /// Takes up what the last run left, and says the first word of this one.
    pub(super) fn resume(&mut self) {
        if let Some(last) = self.records.get(&self.id) {
            self.grants = last.body.grants.clone();
        }
        self.publish();
    }

    /// Signs and spreads this node's record, if it says anything new.
    pub(super) fn publish(&mut self) {
        if self.is_forgotten() {
            return;
        }
        let mut body = self.body();
        if let Some(current) = self.records.get(&self.id) {
            let last = &current.body;
            body.stamp = last.stamp;
            if body == *last && last.stamp == self.stamp() {
                return;
            }
        }
        self.version += 1;
        body.stamp = self.stamp();
        // Names are many and go first: the rest of a record is always small enough.
        while let Some(size) = serde_json::to_string(&body).ok().map(|t| t.len())
            && size > MAX_BODY
            && body.names.pop().is_some()
        {
            self.announcement_problem = Some(format!(
                "the names this node serves take more than {MAX_BODY} bytes; the last are not told"
            ));
        }
        let Some(signed) = Signed::sign(&body, &self.identity, self.rules.params.id()) else {
            return;
        };
        let record = Record {
            signed: signed.clone(),
            body,
        };
        self.total += signed.body.len();
        if let Some(old) = self.records.insert(self.id, record) {
            self.total -= old.signed.body.len();
        }
        self.dirty.records = true;
        self.stale = true;
        self.push_own(signed);
    }

    fn body(&mut self) -> Body {
        let claim = self.claims.published();
        let me = &self.me;
        let mut refused = Vec::new();
        let mut endpoints = me.endpoints.clone();
        endpoints.retain(|e| {
            let allowed = self.rules.allows_endpoint(e);
            if !allowed {
                refused.push(format!("endpoint {e}"));
            }
            allowed
        });
        if endpoints.len() > MAX_ENDPOINTS {
            refused.push(format!(
                "{} endpoints more than {MAX_ENDPOINTS}",
                endpoints.len() - MAX_ENDPOINTS
            ));
            endpoints.truncate(MAX_ENDPOINTS);
        }
        let mut names = Vec::new();
        if !me.away {
            names.clone_from(&me.names);
            names.sort();
        }
        // Without final ranges no address is inside them: said when there are some.
        let settled = claim.is_some_and(|c| c.settled);
        names.retain(|served| {
            let allowed = self.rules.check_served(served, claim).is_ok();
            if !allowed && settled {
                refused.push(format!("name {}", served.name));
            }
            allowed
        });
        if names.len() > MAX_NAMES {
            refused.push(format!(
                "{} names more than {MAX_NAMES}",
                names.len() - MAX_NAMES
            ));
            names.truncate(MAX_NAMES);
        }
        let body = Body {
            name: me.name.clone(),
            key: me.public_key,
            endpoints,
            names,
            claim,
            grants: self.grants.clone(),
            away: me.away,
            stamp: self.stamp(),
        };
        refused.truncate(8);
        self.announcement_problem = (!refused.is_empty()).then(|| {
            format!(
                "not told to the others, since they would refuse it: {}",
                refused.join(", ")
            )
        });
        body
    }

    /// Moves the claim on by what the records say.
    pub(super) fn look_at_claim(&mut self, now: Instant) {
        if self.is_forgotten() {
            return;
        }
        let before = self.claims.phase();
        let holders = &self.holders;
        let step = self.claims.look(|slot| holders.slot(slot), now);
        if matches!(before, Phase::Held { .. }) && self.claims.phase() != before {
            self.save(self.kept.generation, None);
        }
        match step {
            Step::Nothing => {}
            Step::Publish => {
                self.publish();
                self.review();
            }
            Step::Save(slot) => self.save(self.kept.generation, Some(slot)),
        }
    }

    /// Wants this kept. A run's number never goes back, whatever else is on its way to the disk.
    fn save(&mut self, generation: u64, slot: Option<u32>) {
        self.wanted = Kept {
            generation: generation.max(self.wanted.generation),
            slot,
        };
        self.effects.push(Effect::Save(self.wanted));
    }

    /// What an [`Effect::Save`] asked for is on disk, or the reason why not.
    pub(in super::super) fn saved(&mut self, kept: Kept, result: Result<(), String>, now: Instant) {
        let done = result.is_ok();
        self.storage_problem = result.err();
        if !done {
            // Not gone above: when that run is heard again it is for the first time still.
            self.ahead.clear();
        } else {
            let moved = kept.generation != self.kept.generation;
            self.kept = kept;
            if moved {
                self.version = 0;
                self.publish();
            }
        }
        if let Some(slot) = kept.slot
            && self.claims.saved(slot, done, now) == Step::Publish
        {
            self.publish();
        }
        self.settle(now);
    }

    /// Asks connected members for grants while there are fewer than count.
    pub(super) fn ask_for_grants(&mut self, now: Instant) {
        let Some(claim) = self.claims.published().filter(|_| !self.is_forgotten()) else {
            return;
        };
        let tombstones = &self.tombstones;
        self.grants.retain(|g| !tombstones.contains(g.by));
        let (name, key) = (&self.me.name, &self.me.public_key);
        let whole = |g: &&Grant| is_whole(g, claim.slot, name, key);
        if self.grants.iter().filter(whole).count() >= MAX_GRANTS {
            return;
        }
        let Some(signed) = self.records.get(&self.id).map(|r| r.signed.clone()) else {
            return;
        };
        for (id, peer) in &mut self.peers {
            let has = self.grants.iter().filter(whole).any(|g| g.by == *id);
            let asked = peer
                .asked
                .is_some_and(|(at, slot)| slot == claim.slot && now < at + ASK_AGAIN);
            if !has && !asked {
                peer.asked = Some((now, claim.slot));
                let record = signed.clone();
                self.effects
                    .push(Effect::Send(*id, Message::GrantPlease { record }));
            }
        }
    }

    /// Grants what `peer`'s record claims, if nobody else holds it and it was granted to nobody.
    /// What was granted to it already is granted again, whoever else claims it meanwhile.
    pub(super) fn grant(&mut self, peer: NodeId, now: Instant) {
        if let Some(state) = self.peers.get_mut(&peer) {
            if state.answered.is_some_and(|at| now < at + GRANT_PAUSE) {
                self.count("grants refused: too often");
                return;
            }
            state.answered = Some(now);
        }
        let Some(record) = self.records.get(&peer) else {
            return;
        };
        let Some(slot) = record.body.claim.map(|c| c.slot) else {
            return;
        };
        let (name, key) = (&record.body.name, record.body.key);
        let free = |granted: Granted, claims: &dyn Fn(&Record) -> bool| match granted {
            Granted::It => true,
            Granted::Another => false,
            Granted::Nobody => !self.records.values().any(|r| r.id() != peer && claims(r)),
        };
        let claims_slot = |r: &Record| r.body.claim.is_some_and(|c| c.slot == slot);
        if !free(self.book.slot(slot, peer), &claims_slot) {
            self.count("grants refused");
            return;
        }
        let name_is_free = free(self.book.name(name, peer), &|r| r.body.name == *name);
        let key_is_free = free(self.book.key(&key, peer), &|r| r.body.key == key);
        let covers = Covers {
            slot,
            name: name_is_free.then(|| name.clone()),
            key: key_is_free.then_some(key),
        };
        let serial = self.book.enter(peer, &covers);
        let grant = Grant::sign(&self.identity, self.rules.params.id(), peer, serial, covers);
        let message = Message::Granted { grant };
        self.effects
            .push(Effect::Grant(peer, message, self.book.clone()));
    }

    /// A member granted what this node claims, or claimed a moment ago.
    pub(super) fn granted(
        &mut self,
        from: NodeId,
        grant: Grant,
        now: Instant,
    ) -> Result<(), Abuse> {
        if grant.by != from {
            return Err(Abuse("a grant by another than its sender".into()));
        }
        if !grant.is_valid(self.rules.params.id(), self.id) {
            return Err(Abuse("a grant that its sender did not sign".into()));
        }
        let Some(slot) = self.claims.published().map(|c| c.slot) else {
            return Ok(());
        };
        if grant.covers.slot != slot {
            return Ok(());
        }
        let known = |g: &Grant| g.by == from && g.serial >= grant.serial;
        if self.grants.iter().any(known) {
            return Ok(());
        }
        self.grants.retain(|g| g.by != from);
        if self.grants.len() >= MAX_GRANTS {
            let (name, key) = (&self.me.name, &self.me.public_key);
            let partial = |g: &Grant| !is_whole(g, slot, name, key);
            let Some(at) = self.grants.iter().position(partial) else {
                return Ok(());
            };
            self.grants.remove(at);
        }
        self.grants.push(grant);
        self.grants.sort_by_key(|g| g.by);
        self.publish_at.get_or_insert(now + GATHER);
        Ok(())
    }

    /// Hears its own record from others: an old one, one of a run that a restored backup does not
    /// remember, or one of a clone.
    pub(super) fn hear_self(&mut self, signed: Signed, now: Instant) -> Result<(), Abuse> {
        if signed.stamp <= self.stamp() {
            return Ok(());
        }
        let record = match Record::open(signed, &self.rules, None) {
            Ok(record) => record,
            Err(refused) => {
                return self.refuse(refused);
            }
        };
        let body = &record.body;
        let first = body.stamp.instance != self.instance
            && self.ahead.len() < MAX_AHEAD
            && self.ahead.insert(body.stamp.instance);
        let over = body.stamp.generation.saturating_add(1);
        if first {
            self.save(over, self.wanted.slot);
            return Ok(());
        }
        let ours = place(&self.me.name, &self.me.endpoints);
        let text = clone_text(self.id, [ours, place(&body.name, &body.endpoints)]);
        self.clones.insert(self.id, (text, now));
        let stamp = body.stamp;
        let same = self.foreign.filter(|(last, _)| *last == stamp);
        let since = same.map_or(now, |(_, since)| since);
        self.foreign = Some((stamp, since));
        // Once more, so that the other side learns of it too; then the fight is over, unless what
        // is ahead says nothing any more: then nobody else speaks for this node.
        if !self.last_bump || now.duration_since(since) >= STILL {
            self.last_bump = true;
            self.save(over, self.wanted.slot);
        }
        Ok(())
    }
}

/// Whether a grant is for all that a node holds.
fn is_whole(grant: &Grant, slot: u32, name: &NodeName, key: &PublicKey) -> bool {
    let covers = &grant.covers;
    covers.slot == slot && covers.name.as_ref() == Some(name) && covers.key.as_ref() == Some(key)
}
