//! Who may connect: rates per source, penalties, and first messages that were seen. Pure.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::NodeId;

/// Connections a source may open at once, and each second.
const BURST: f64 = 64.0;
const RATE: f64 = 16.0;
/// What a connection that turns out bad costs more than a good one.
const BAD: f64 = 8.0;
/// How long an identity that sent what no honest node sends is kept away.
pub(super) const PENALTY: Duration = Duration::from_secs(10);
/// Sources, penalties and first messages that are remembered.
const MAX_SOURCES: usize = 4096;
const MAX_PENALTIES: usize = 1024;
const MAX_SEEN: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Admission {
    sources: BTreeMap<IpAddr, (f64, Instant)>,
    penalties: BTreeMap<NodeId, Instant>,
    seen: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Admission {
    /// Whether `source` may open one more connection now.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let left = self.level(source, now);
        if left < 1.0 {
            return false;
        }
        self.sources.insert(source, (left - 1.0, now));
        true
    }

    /// A connection from `source` was no member's.
    pub(super) fn charge(&mut self, source: IpAddr, now: Instant) {
        let left = self.level(source, now);
        self.sources.insert(source, ((left - BAD).max(-BURST), now));
    }

    pub(super) fn penalise(&mut self, id: NodeId, now: Instant) {
        self.penalties.retain(|_, until| *until > now);
        if self.penalties.len() < MAX_PENALTIES {
            self.penalties.insert(id, now + PENALTY);
        }
    }

    pub(super) fn is_penalised(&self, id: NodeId, now: Instant) -> bool {
        self.penalties.get(&id).is_some_and(|until| *until > now)
    }

    /// Whether this key began no connection before. The oldest are forgotten first; only holders
    /// of a secret can fill it, since others' messages never come so far.
    pub(super) fn is_new(&mut self, ephemeral: [u8; 32]) -> bool {
        if !self.seen.insert(ephemeral) {
            return false;
        }
        self.order.push_back(ephemeral);
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    fn level(&mut self, source: IpAddr, now: Instant) -> f64 {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            let full = |(left, at): &(f64, Instant)| refill(*left, *at, now) >= BURST;
            self.sources.retain(|_, state| !full(state));
            if self.sources.len() >= MAX_SOURCES {
                return 0.0;
            }
        }
        match self.sources.get(&source) {
            Some((left, at)) => refill(*left, *at, now),
            None => BURST,
        }
    }
}

fn refill(left: f64, at: Instant, now: Instant) -> f64 {
    let gained = now.saturating_duration_since(at).as_secs_f64() * RATE;
    (left + gained).min(BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_only_fails_is_slowed_and_others_are_not() {
        let (bad, good) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut admission = Admission::default();
        let now = Instant::now();
        let mut tries = 0;
        while admission.admit(bad, now) {
            admission.charge(bad, now);
            tries += 1;
        }
        assert!(tries <= 8, "{tries}");
        assert!(admission.admit(good, now));
        assert!(admission.admit(bad, now + Duration::from_secs(9)));
    }

    #[test]
    fn a_penalty_ends() {
        let mut admission = Admission::default();
        let (id, now) = (NodeId::from_bytes([1; 32]), Instant::now());
        admission.penalise(id, now);
        assert!(admission.is_penalised(id, now));
        assert!(!admission.is_penalised(id, now + PENALTY));
    }

    #[test]
    fn memory_of_first_messages_is_bounded() {
        let mut admission = Admission::default();
        let key = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            key
        };
        assert!((0..MAX_SEEN + 10).all(|n| admission.is_new(key(n))));
        assert!(!admission.is_new(key(MAX_SEEN)));
        assert_eq!(admission.seen.len(), MAX_SEEN);
    }
}
