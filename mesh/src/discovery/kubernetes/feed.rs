//! How each conversation with the API server goes, for `weft status` and the problems.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::discovery::{Connection, Problem, ProblemKind};

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A server that is started anew is no problem yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every conversation by what it is about.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    feeds: Mutex<BTreeMap<&'static str, Feed>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Feed {
    /// Since when it is as it is.
    since: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Connecting,
    Established,
    Retrying {
        error: String,
        forbidden: bool,
        failures: u32,
        next: Instant,
    },
}

/// What went wrong with one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: String,
    /// The server answered that this node has no right to that.
    pub(super) forbidden: bool,
}

impl Feeds {
    /// A number that changes when one of them does.
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn begin(&self, what: &'static str) {
        self.set(what, State::Connecting);
    }

    pub(super) fn established(&self, what: &'static str) {
        if !matches!(self.lock().get(what), Some(f) if matches!(f.state, State::Established)) {
            self.set(what, State::Established);
        }
    }

    /// Notes a failed try; returns how long to wait before the next.
    pub(super) fn failed(&self, what: &'static str, failure: Failure) -> Duration {
        let now = Instant::now();
        let mut feeds = self.lock();
        let feed = feeds.entry(what).or_insert(Feed {
            since: now,
            state: State::Connecting,
        });
        let failures = match &feed.state {
            State::Retrying { failures, .. } => failures.saturating_add(1),
            State::Connecting => 1,
            State::Established => {
                feed.since = now;
                1
            }
        };
        let pause = pause(failures, chance());
        feed.state = State::Retrying {
            error: failure.error,
            forbidden: failure.forbidden,
            failures,
            next: now + pause,
        };
        drop(feeds);
        self.changed.send_modify(|n| *n += 1);
        pause
    }

    pub(super) fn connections(&self, server: &str, now: Instant) -> Vec<Connection> {
        let feeds = self.lock();
        let connections = feeds.iter().map(|(what, feed)| {
            let (state, error, next) = match &feed.state {
                State::Connecting => ("connecting", None, None),
                State::Established => ("established", None, None),
                State::Retrying { error, next, .. } => {
                    let away = now.saturating_duration_since(feed.since).as_secs();
                    let error = format!("for {away} s: {error}");
                    ("retrying", Some(error), Some(*next))
                }
            };
            let left = |next: Instant| next.saturating_duration_since(now).as_millis();
            Connection {
                address: format!("{server} {what}"),
                state,
                node: None,
                error,
                next_try_ms: next.map(|next| u64::try_from(left(next)).unwrap_or(u64::MAX)),
            }
        });
        connections.collect()
    }

    /// What a person should know of: what fails for a while now, without numbers that change.
    pub(super) fn problems(&self, now: Instant) -> Vec<Problem> {
        let feeds = self.lock();
        let problems = feeds.iter().filter_map(|(what, feed)| match &feed.state {
            State::Retrying {
                error,
                forbidden: true,
                ..
            } => Some(Problem {
                kind: ProblemKind::Permission,
                text: format!("a right is missing in the Kubernetes API: {error}"),
            }),
            State::Retrying { error, .. } if now.saturating_duration_since(feed.since) > PATIENCE => {
                Some(Problem {
                    kind: ProblemKind::Api,
                    text: format!(
                        "the Kubernetes API does not answer ({what}: {error}); what it said before is gone by"
                    ),
                })
            }
            _ => None,
        });
        problems.collect()
    }

    fn set(&self, what: &'static str, state: State) {
        let since = Instant::now();
        self.lock().insert(what, Feed { since, state });
        self.changed.send_modify(|n| *n += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Twice as long after each failure, and a part of it by chance: a thousand nodes whose server
/// comes back do not ask it in one moment.
fn pause(failures: u32, chance: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let half = whole.min(LAST_PAUSE) / 2;
    half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

fn chance() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        assert_eq!(pause(1, 0), Duration::from_millis(250));
        assert_eq!(pause(1, u32::MAX), Duration::from_millis(500));
        assert_eq!(pause(40, 0), Duration::from_secs(15));
        assert_eq!(pause(u32::MAX, u32::MAX), Duration::from_secs(30));
    }

    #[test]
    fn a_server_that_is_away_is_a_problem_after_a_while_and_a_missing_right_at_once() {
        let feeds = Feeds::default();
        let failed = |forbidden| Failure {
            error: "no route to host".into(),
            forbidden,
        };
        feeds.established("nodes");
        feeds.failed("nodes", failed(false));
        let now = Instant::now();
        assert!(feeds.problems(now).is_empty());
        let later = now + Duration::from_secs(6);
        assert_eq!(feeds.problems(later)[0].kind, ProblemKind::Api);
        let connection = &feeds.connections("https://a", later)[0];
        assert_eq!(connection.address, "https://a nodes");
        assert_eq!(
            connection.error.as_deref(),
            Some("for 6 s: no route to host")
        );
        feeds.failed("nodes", failed(true));
        assert_eq!(feeds.problems(now)[0].kind, ProblemKind::Permission);
        feeds.established("nodes");
        assert!(feeds.problems(later).is_empty());
    }
}
