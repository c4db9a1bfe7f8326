//! What the server has counted since it started.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The response codes counted one by one; the last counts all above.
const CODES: usize = 24;

/// A copy of the counters at one moment. Each counts from the server's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that were queries from sources allowed to ask.
    pub queries: u64,
    pub udp: u64,
    pub tcp: u64,
    /// Replies by response code (0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED, …); no zeros.
    pub replies: BTreeMap<u16, u64>,
    /// Questions answered from the zone.
    pub local: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    /// Replies in the cache now.
    pub cache_entries: usize,
    /// Questions put to other servers; equal ones at the same time count once.
    pub forwarded: u64,
    /// Of those, the ones that no server answered.
    pub upstream_failures: u64,
    /// Messages from sources not allowed to ask, answered or not.
    pub refused: u64,
    /// Messages that were no well-formed query.
    pub malformed: u64,
    /// Messages dropped because too much was going on.
    pub overload: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) udp: Counter,
    pub(crate) tcp: Counter,
    pub(crate) replies: [Counter; CODES],
    pub(crate) local: Counter,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) upstream_failures: Counter,
    pub(crate) refused: Counter,
    pub(crate) malformed: Counter,
    pub(crate) overload: Counter,
}

/// A number that only grows. No order between counters is promised.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn reply(&self, rcode: u16) {
        self.replies[usize::from(rcode).min(CODES - 1)].add();
    }

    pub(crate) fn snapshot(&self, cache_entries: usize) -> Stats {
        let replies = (0u16..).zip(&self.replies);
        let (udp, tcp) = (self.udp.value(), self.tcp.value());
        Stats {
            queries: udp + tcp,
            udp,
            tcp,
            replies: replies
                .map(|(rcode, counter)| (rcode, counter.value()))
                .filter(|(_, count)| *count > 0)
                .collect(),
            local: self.local.value(),
            cache_hits: self.cache_hits.value(),
            cache_misses: self.cache_misses.value(),
            cache_entries,
            forwarded: self.forwarded.value(),
            upstream_failures: self.upstream_failures.value(),
            refused: self.refused.value(),
            malformed: self.malformed.value(),
            overload: self.overload.value(),
        }
    }
}
