//! What the names among a peer's endpoints resolve to: asked in tasks, few at once, and bounded.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;
use weft_mesh::Endpoint;
use weft_mesh::endpoint::is_usable;

/// Lookups at once, of all peers together.
const AT_ONCE: usize = 4;
/// How long to wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More addresses of one name are not looked at.
const MOST_ADDRESSES: usize = 8;

/// The right to look names up, shared by all peers of a node.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// One peer's names.
#[derive(Debug, Default)]
pub(super) struct Lookup(Arc<Mutex<Known>>);

type Name = (String, u16);

#[derive(Debug, Default)]
struct Known {
    /// Empty where there was no answer yet.
    found: BTreeMap<Name, Vec<SocketAddr>>,
    is_asking: bool,
}

impl Lookup {
    /// As if the name had been asked for.
    #[cfg(test)]
    pub(super) fn of(host: &str, port: u16, found: impl Iterator<Item = SocketAddr>) -> Self {
        let name = (host.to_owned(), port);
        let mut known = Known::default();
        known.found.insert(name.clone(), Vec::new());
        known.learn(&name, found);
        Self(Arc::new(Mutex::new(known)))
    }

    /// The addresses of these endpoints in their order, names by their last answer. What is known
    /// of other names is forgotten.
    pub(super) fn addresses(&self, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        let mut known = lock(&self.0);
        let names = names(endpoints);
        known.found.retain(|name, _| names.contains(name));
        let addresses = endpoints.iter().flat_map(|endpoint| match endpoint {
            Endpoint::Address(address) => vec![*address],
            Endpoint::Name { host, port } => known
                .found
                .get(&(host.clone(), *port))
                .cloned()
                .unwrap_or_default(),
        });
        addresses.collect()
    }

    /// Whether one of these names was never asked for.
    pub(super) fn lacks(&self, endpoints: &[Endpoint]) -> bool {
        let known = lock(&self.0);
        names(endpoints)
            .iter()
            .any(|name| !known.found.contains_key(name))
    }

    /// Asks for the names anew, one after the other, unless that is being done. Until there is an
    /// answer, what they were is kept.
    pub(super) fn ask(&self, endpoints: &[Endpoint], turns: &Turns) {
        let names = names(endpoints);
        let mut known = lock(&self.0);
        if names.is_empty() || known.is_asking {
            return;
        }
        known.is_asking = true;
        for name in &names {
            known.found.entry(name.clone()).or_default();
        }
        drop(known);
        let (shared, turns) = (Arc::clone(&self.0), turns.clone());
        tokio::spawn(async move {
            for name in names {
                // The semaphore is never closed.
                let Ok(_turn) = turns.0.acquire().await else {
                    break;
                };
                match tokio::time::timeout(PATIENCE, tokio::net::lookup_host(name.clone())).await {
                    Ok(Ok(found)) => lock(&shared).learn(&name, found),
                    Ok(Err(error)) => debug!(%error, host = name.0, "an endpoint's name"),
                    Err(_) => debug!(host = name.0, "an endpoint's name: no answer in time"),
                }
            }
            lock(&shared).is_asking = false;
        });
    }
}

impl Known {
    fn learn(&mut self, name: &Name, found: impl Iterator<Item = SocketAddr>) {
        // Gone where the record no longer has the name.
        if let Some(known) = self.found.get_mut(name) {
            let usable = found.filter(|address| is_usable(address.ip()));
            *known = usable.take(MOST_ADDRESSES).collect();
        }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(endpoints: &[Endpoint]) -> Vec<Name> {
    let names = endpoints.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Name { host, port } => Some((host.clone(), *port)),
        Endpoint::Address(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_record_lost_are_forgotten_and_answers_are_filtered() {
        let lookup = Lookup::default();
        let endpoints: [Endpoint; 2] = ["a.example:1", "192.0.2.1:2"].map(|e| e.parse().unwrap());
        assert!(lookup.lacks(&endpoints));
        let name = ("a.example".to_owned(), 1);
        let found = ["127.0.0.1:1", "[fe80::1]:1", "224.0.0.1:1", "192.0.2.9:1"]
            .map(|a| a.parse::<SocketAddr>().unwrap());
        let learn = || lock(&lookup.0).learn(&name, found.into_iter());
        learn();
        assert!(lookup.lacks(&endpoints), "nobody asked for it");
        lock(&lookup.0).found.insert(name.clone(), Vec::new());
        learn();
        assert!(!lookup.lacks(&endpoints));
        let addresses = |endpoints| {
            let found = lookup.addresses(endpoints);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&endpoints), ["192.0.2.9:1", "192.0.2.1:2"]);
        assert_eq!(addresses(&endpoints[1..]), ["192.0.2.1:2"]);
        learn();
        assert!(lock(&lookup.0).found.is_empty());
    }

    #[tokio::test]
    async fn a_peers_names_are_asked_for_one_at_a_time() {
        let turns = Turns::default();
        let all = turns.0.acquire_many(AT_ONCE as u32).await.unwrap();
        let lookup = Lookup::default();
        let endpoints: [Endpoint; 1] = ["localhost:1"].map(|e| e.parse().unwrap());
        lookup.ask(&endpoints, &turns);
        assert!(lock(&lookup.0).is_asking && !lookup.lacks(&endpoints));
        lookup.ask(&endpoints, &turns);
        assert_eq!(Arc::strong_count(&lookup.0), 2, "one task");
        drop(all);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while lock(&lookup.0).is_asking {
            assert!(tokio::time::Instant::now() < deadline, "the task ends");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
