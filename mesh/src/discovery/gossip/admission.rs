//! Who may connect: rates and half-open connections per source, penalties, and first messages that
//! were seen. Pure.
//!
//! A source is an IPv4 address or an IPv6 /64, which is what one host can have of its own.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::NodeId;

/// Connections a source may open at once, and each second.
const BURST: f64 = 64.0;
const RATE: f64 = 16.0;
/// What a connection that turns out bad costs more than a good one.
const BAD: f64 = 8.0;
/// Connections of a source, and of all, that have not proven anything yet.
const HALF_OPEN: usize = 16;
const HALF_OPEN_IN_ALL: usize = 256;
/// How long an identity that sent what no honest node sends is kept away.
pub(super) const PENALTY: Duration = Duration::from_secs(10);
/// Sources, penalties and first messages that are remembered.
const MAX_SOURCES: usize = 4096;
const MAX_PENALTIES: usize = 1024;
const MAX_SEEN: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Admission {
    sources: BTreeMap<IpAddr, (f64, Instant)>,
    half_open: BTreeMap<IpAddr, usize>,
    penalties: BTreeMap<NodeId, Instant>,
    seen: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Admission {
    /// Whether `address` may open one more connection now; if so it is half open until
    /// [`opened`](Self::opened).
    ///
    /// # Errors
    /// The counter of the reason why not.
    pub(super) fn admit(&mut self, address: IpAddr, now: Instant) -> Result<(), &'static str> {
        let source = source(address);
        if !self.spend(source, now) {
            return Err("connections refused: too many from one source");
        }
        let of_source = self.half_open.get(&source).copied().unwrap_or_default();
        if of_source >= HALF_OPEN {
            return Err("connections refused: too many half open from one source");
        }
        if self.half_open.values().sum::<usize>() >= HALF_OPEN_IN_ALL {
            return Err("connections refused: too many half open");
        }
        *self.half_open.entry(source).or_default() += 1;
        Ok(())
    }

    /// A connection that was admitted is a member's now, or has ended.
    pub(super) fn opened(&mut self, address: IpAddr) {
        let source = source(address);
        if let Some(number) = self.half_open.get_mut(&source) {
            *number = number.saturating_sub(1);
            if *number == 0 {
                self.half_open.remove(&source);
            }
        }
    }

    fn spend(&mut self, source: IpAddr, now: Instant) -> bool {
        let left = self.level(source, now);
        if left < 1.0 {
            return false;
        }
        self.sources.insert(source, (left - 1.0, now));
        true
    }

    /// A connection from `address` was no member's.
    pub(super) fn charge(&mut self, address: IpAddr, now: Instant) {
        let source = source(address);
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

fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
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
        while admission.admit(bad, now).is_ok() {
            admission.opened(bad);
            admission.charge(bad, now);
            tries += 1;
        }
        assert!(tries <= 8, "{tries}");
        assert!(admission.admit(good, now).is_ok());
        assert!(admission.admit(bad, now + Duration::from_secs(9)).is_ok());
    }

    #[test]
    fn a_source_holds_no_more_than_its_part_of_what_is_half_open() {
        let mut admission = Admission::default();
        let now = Instant::now();
        let address = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
        let admitted = (1..100).filter(|n| admission.admit(address(*n), now).is_ok());
        assert_eq!(admitted.count(), HALF_OPEN, "a /64 is one source");
        let near = IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]);
        assert!(admission.admit(near, now).is_ok());
        admission.opened(address(1));
        let later = now + Duration::from_secs(9);
        assert!(admission.admit(address(200), later).is_ok());
        assert!(admission.admit(address(201), later).is_err());
    }

    #[test]
    fn what_is_half_open_is_bounded_in_all_and_not_remembered_for_ever() {
        let mut admission = Admission::default();
        let now = Instant::now();
        let sources: Vec<_> = (0..200_u8).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        let mut admitted = Vec::new();
        for source in sources.iter().chain(&sources) {
            if admission.admit(*source, now).is_ok() {
                admitted.push(*source);
            }
        }
        assert_eq!(admitted.len(), HALF_OPEN_IN_ALL);
        admitted.iter().for_each(|source| admission.opened(*source));
        assert!(admission.half_open.is_empty());
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
