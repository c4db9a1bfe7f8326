//! How each conversation with the API server goes, for `weft status` and the problems.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::client::{code, words};
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
    /// Told when the server answers after it did not.
    back: Notify,
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
        failure: Failure,
        failures: u32,
        next: Instant,
    },
}

/// What went wrong with one try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) answer: Answer,
}

/// What the server answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing, or nothing that made sense.
    #[default]
    None,
    /// This node has no right to that.
    Forbidden,
    /// It does not know what was asked for.
    Absent,
    /// It was asked for something wrong, or was in trouble itself.
    Refused,
}

impl Failure {
    pub(super) fn of(error: &kube::Error) -> Self {
        Self {
            answer: match code(error) {
                None => Answer::None,
                Some(403) => Answer::Forbidden,
                Some(404) => Answer::Absent,
                Some(_) => Answer::Refused,
            },
            error: words(error),
        }
    }
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
        let before = self.lock().get(what).map(|feed| match feed.state {
            State::Connecting => 0,
            State::Established => 1,
            State::Retrying { .. } => 2,
        });
        if before != Some(1) {
            self.set(what, State::Established);
        }
        if before == Some(2) {
            self.back.notify_waiters();
        }
    }

    /// Waits for `pause`, or until the server has answered somebody else and a moment by chance.
    pub(super) async fn wait(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.back.notified() => {
                let part = f64::from(chance()) / f64::from(u32::MAX);
                tokio::time::sleep(FIRST_PAUSE.mul_f64(part)).await;
            }
        }
    }

    /// There is nothing to say of it any more.
    pub(super) fn forget(&self, what: &'static str) {
        if self.lock().remove(what).is_some() {
            self.changed.send_modify(|n| *n += 1);
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
            failure,
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
                State::Retrying { failure, next, .. } => {
                    let away = now.saturating_duration_since(feed.since).as_secs();
                    let error = format!("for {away} s: {}", failure.error);
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
        let mut problems = BTreeSet::new();
        for (what, feed) in feeds.iter() {
            let State::Retrying { failure, .. } = &feed.state else {
                continue;
            };
            let Failure { error, answer, .. } = failure;
            let lasts = now.saturating_duration_since(feed.since) > PATIENCE;
            let text = match answer {
                Answer::Forbidden => format!("a right is missing in the Kubernetes API: {error}"),
                _ if !lasts => continue,
                Answer::None => format!(
                    "the Kubernetes API does not answer ({error}); until it does, what it said \
                     last counts"
                ),
                Answer::Absent | Answer::Refused => {
                    format!("the Kubernetes API refuses {what} of this node: {error}")
                }
            };
            problems.insert(Problem {
                kind: match answer {
                    Answer::Forbidden => ProblemKind::Permission,
                    _ => ProblemKind::Api,
                },
                text,
            });
        }
        problems.into_iter().collect()
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
        let failed = |answer| Failure {
            error: "no route to host".into(),
            answer,
        };
        feeds.established("nodes");
        feeds.failed("nodes", failed(Answer::None));
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
        feeds.failed("nodes", failed(Answer::Forbidden));
        assert_eq!(feeds.problems(now)[0].kind, ProblemKind::Permission);
        feeds.established("nodes");
        assert!(feeds.problems(later).is_empty());
    }
}
