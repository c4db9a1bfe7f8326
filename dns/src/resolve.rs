//! Questions that are not ours: from the cache, or by one query however many ask at a time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::cache::{Cache, CacheKey, CacheLimits, Hit};
use crate::forward::{Ask, Upstream};
use crate::stats::Counters;
use crate::wire::Reply;

/// Questions on their way to other servers at a time.
const IN_FLIGHT: usize = 1024;

/// What a flight came to; `None` when no server answered.
type Outcome = Option<Arc<Reply>>;
type Flights = HashMap<CacheKey, watch::Receiver<Option<Outcome>>>;

#[derive(Debug)]
pub(crate) struct Resolver {
    upstream: Arc<dyn Upstream>,
    cache: Mutex<Cache>,
    flights: Mutex<Flights>,
    permits: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Resolver {
    pub(crate) fn new(
        upstream: Arc<dyn Upstream>,
        limits: CacheLimits,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            upstream,
            cache: Mutex::new(Cache::new(limits)),
            flights: Mutex::default(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
            counters,
        }
    }

    /// How many replies are kept.
    pub(crate) fn kept(&self) -> usize {
        lock(&self.cache).len()
    }

    pub(crate) fn upstream(&self) -> &dyn Upstream {
        &*self.upstream
    }

    /// What is kept for a question.
    pub(crate) fn cached(&self, ask: &Ask, now: Instant) -> Option<Hit> {
        let hit = lock(&self.cache).get(&CacheKey::new(ask), now);
        match hit {
            Some(_) => self.counters.cache_hits.add(),
            None => self.counters.cache_misses.add(),
        }
        hit
    }

    /// Puts a question to other servers, or waits with those who already did. `None` when nobody
    /// answered or too many questions are on their way.
    pub(crate) async fn resolve(self: &Arc<Self>, ask: Ask, own: Arc<Vec<SocketAddr>>) -> Outcome {
        let mut landing = self.join(ask, own)?;
        let landed = landing.wait_for(Option::is_some).await.ok()?;
        landed.clone().flatten()
    }

    fn join(
        self: &Arc<Self>,
        ask: Ask,
        own: Arc<Vec<SocketAddr>>,
    ) -> Option<watch::Receiver<Option<Outcome>>> {
        let key = CacheKey::new(&ask);
        let mut flights = lock(&self.flights);
        if let Some(landing) = flights.get(&key) {
            return Some(landing.clone());
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.counters.overload.add();
            return None;
        };
        let (land, landing) = watch::channel(None);
        flights.insert(key.clone(), landing.clone());
        let flight = Flight {
            resolver: Arc::clone(self),
            key,
            land,
            _permit: permit,
        };
        // A task of its own: it goes on when the client that began it goes away.
        tokio::spawn(flight.fly(ask, own));
        Some(landing)
    }
}

/// A question on its way. Dropped, however it ends, it makes room for the next of its kind.
struct Flight {
    resolver: Arc<Resolver>,
    key: CacheKey,
    land: watch::Sender<Option<Outcome>>,
    _permit: OwnedSemaphorePermit,
}

impl Flight {
    async fn fly(self, ask: Ask, own: Arc<Vec<SocketAddr>>) {
        let resolver = &self.resolver;
        resolver.counters.forwarded.add();
        let outcome = match resolver.upstream.exchange(&ask, &own).await {
            // Codes beyond the header's four bits speak of our EDNS, not of the question.
            Ok(reply) if reply.rcode() > 15 => {
                resolver.counters.upstream_failures.add();
                None
            }
            Ok(reply) => {
                let reply = Arc::new(reply.unauthoritative());
                let kept = Arc::clone(&reply);
                lock(&resolver.cache).put(self.key.clone(), kept, Instant::now());
                Some(reply)
            }
            Err(error) => {
                resolver.counters.upstream_failures.add();
                let cause = &error as &dyn std::error::Error;
                tracing::debug!(error = cause, "question not forwarded");
                None
            }
        };
        self.land.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.resolver.flights).remove(&self.key);
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
