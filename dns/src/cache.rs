//! Replies of other servers, kept for as long as they may be, in bounded memory. The least
//! recently used goes first. It reads no clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::forward::Ask;
use crate::wire::Reply;

/// What an entry costs beside its reply and its key: two map slots.
const OVERHEAD: usize = 160;

/// The most that a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    pub entries: usize,
    /// Replies, keys and what keeps them, about.
    pub bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 8 << 20,
        }
    }
}

/// What an answer depends on: the question (its name in lower case), DO and CD.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    question: Box<[u8]>,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl CacheKey {
    pub fn new(ask: &Ask) -> Self {
        Self {
            question: ask.question().into(),
            dnssec_ok: ask.dnssec_ok(),
            checking_disabled: ask.checking_disabled(),
        }
    }
}

/// A kept reply and the whole seconds since it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub reply: Arc<Reply>,
    pub age: u32,
}

/// A bounded cache of replies.
///
/// Invariant: `used` and `entries` hold the same keys, `bytes` is the sum of the entries' costs,
/// and neither limit is exceeded between calls.
#[derive(Debug)]
pub struct Cache {
    limits: CacheLimits,
    entries: HashMap<Arc<CacheKey>, Entry>,
    used: BTreeMap<u64, Arc<CacheKey>>,
    turn: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    reply: Arc<Reply>,
    since: Instant,
    lifetime: Duration,
    turn: u64,
    cost: usize,
}

impl Cache {
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            used: BTreeMap::new(),
            turn: 0,
            bytes: 0,
        }
    }

    /// How many replies are kept, those past their time and not yet looked at included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The reply kept for `key`, if its time is not over.
    pub fn get(&mut self, key: &CacheKey, now: Instant) -> Option<Hit> {
        let entry = self.entries.get_mut(key)?;
        let age = now.saturating_duration_since(entry.since);
        if age >= entry.lifetime {
            self.remove(key);
            return None;
        }
        let shared = self.used.remove(&entry.turn)?;
        self.turn += 1;
        entry.turn = self.turn;
        self.used.insert(self.turn, shared);
        Some(Hit {
            reply: Arc::clone(&entry.reply),
            // A lifetime is at most a day.
            age: age.as_secs() as u32,
        })
    }

    /// Keeps a reply in place of an earlier one, if it may be kept and is not larger than the
    /// whole cache.
    pub fn put(&mut self, key: CacheKey, reply: Arc<Reply>, now: Instant) {
        self.remove(&key);
        let cost = reply.size() + key.question.len() + OVERHEAD;
        let Some(lifetime) = reply.lifetime() else {
            return;
        };
        if cost > self.limits.bytes || self.limits.entries == 0 {
            return;
        }
        while self.entries.len() >= self.limits.entries || self.bytes + cost > self.limits.bytes {
            let Some((_, oldest)) = self.used.first_key_value() else {
                return;
            };
            let oldest = Arc::clone(oldest);
            self.remove(&oldest);
        }
        let key = Arc::new(key);
        self.turn += 1;
        self.bytes += cost;
        self.used.insert(self.turn, Arc::clone(&key));
        let turn = self.turn;
        let entry = Entry {
            reply,
            since: now,
            lifetime,
            turn,
            cost,
        };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.used.remove(&entry.turn);
            self.bytes -= entry.cost;
        }
    }
}

#[cfg(test)]
mod tests;
