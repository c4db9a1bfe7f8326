//! Whom to dial and when. Pure: the dialling itself is done elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::status::{TargetState, TargetStatus};
use crate::{Endpoint, NodeId};

/// A connection that lived so long was a good one.
const LASTING: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_secs(1);
/// The cap of the backoff grows with the number of targets that fail, so that together they are
/// tried about once a second: a small mesh heals within seconds, a large one is not flooded.
const LEAST_CAP: Duration = Duration::from_secs(5);
const MOST_CAP: Duration = Duration::from_secs(60);
/// Up to this many nodes are all connected with each other.
const FULL_MESH: usize = 32;
/// In a larger mesh a node dials this many, and one more at random every so often: two parts of a
/// healed partition are each content with themselves, and only such a dial joins them.
const OUTBOUND: usize = 8;
const EXTRA_EVERY: Duration = Duration::from_secs(5);
/// Dials at one time.
const AT_ONCE: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// As configured.
    Seed(Endpoint),
    /// As its record says.
    Node(NodeId),
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    next: Instant,
    dialling: bool,
    /// Refused by a member, with a reason.
    refused: bool,
    error: Option<String>,
    address: Option<SocketAddr>,
    node: Option<NodeId>,
    mark: u64,
}

/// A target, and a mark that changes when what is known of it does: it is tried at once then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) target: Target,
    pub(super) mark: u64,
}

#[derive(Debug, Default)]
pub(super) struct Targets {
    entries: BTreeMap<Target, Entry>,
    extra: Option<Instant>,
}

/// What is connected now.
pub(super) struct Connected<'a> {
    pub(super) is: &'a dyn Fn(NodeId) -> bool,
    pub(super) outbound: usize,
}

impl Targets {
    /// Which of `wanted` to dial now; they count as being dialled until told otherwise. `random`
    /// picks among many.
    pub(super) fn due(
        &mut self,
        wanted: &[Wanted],
        connected: &Connected<'_>,
        now: Instant,
        random: u64,
    ) -> Vec<Target> {
        let is_wanted = |target: &Target| wanted.iter().any(|w| w.target == *target);
        self.entries.retain(|t, e| e.dialling || is_wanted(t));
        for Wanted { target, mark } in wanted {
            let new = || Entry {
                failures: 0,
                next: now,
                dialling: false,
                refused: false,
                error: None,
                address: None,
                node: match target {
                    Target::Node(id) => Some(*id),
                    Target::Seed(_) => None,
                },
                mark: *mark,
            };
            let entry = self.entries.entry(target.clone()).or_insert_with(new);
            if entry.mark != *mark {
                entry.mark = *mark;
                entry.failures = 0;
                entry.next = now;
            }
        }
        let dialling = self.entries.values().filter(|e| e.dialling).count();
        let mut room = AT_ONCE.saturating_sub(dialling);
        let large = wanted.len() > FULL_MESH;
        if large {
            let lacking = OUTBOUND.saturating_sub(connected.outbound + dialling);
            let extra = self.extra.is_none_or(|at| now >= at + EXTRA_EVERY);
            room = room.min(lacking.max(usize::from(extra)));
        }
        let idle = |e: &Entry| {
            !e.dialling && now >= e.next && !e.node.is_some_and(|node| (connected.is)(node))
        };
        let ready = self.entries.iter().filter(|(_, e)| idle(e));
        let mut due: Vec<_> = ready.map(|(target, _)| target.clone()).collect();
        if !due.is_empty() {
            let turn = (random % due.len() as u64) as usize;
            due.rotate_left(turn);
        }
        due.truncate(room);
        if large && !due.is_empty() {
            self.extra = Some(now);
        }
        for target in &due {
            if let Some(entry) = self.entries.get_mut(target) {
                entry.dialling = true;
            }
        }
        due
    }

    /// How often `target` failed in a row.
    pub(super) fn failures(&self, target: &Target) -> u32 {
        self.entries.get(target).map_or(0, |e| e.failures)
    }

    pub(super) fn tried(&mut self, target: &Target, address: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(target) {
            entry.address = Some(address);
        }
    }

    pub(super) fn succeeded(&mut self, target: &Target, node: NodeId, address: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(target) {
            entry.dialling = false;
            entry.refused = false;
            entry.error = None;
            entry.address = Some(address);
            if matches!(target, Target::Seed(_)) {
                entry.node = Some(node);
            }
        }
    }

    /// Whether the reason is another than the last.
    pub(super) fn failed(
        &mut self,
        target: &Target,
        why: Failure,
        now: Instant,
        random: u64,
    ) -> bool {
        let failing = self.entries.values().filter(|e| e.failures > 0).count() as u32;
        let Some(entry) = self.entries.get_mut(target) else {
            return false;
        };
        let is_news = entry.error.as_ref() != Some(&why.error);
        entry.dialling = false;
        entry.failures = entry.failures.saturating_add(1);
        entry.refused = why.refused;
        entry.error = Some(why.error);
        let cap = if why.refused {
            MOST_CAP
        } else {
            (FIRST * failing).clamp(LEAST_CAP, MOST_CAP)
        };
        let doubled = FIRST * 2_u32.pow((entry.failures - 1).min(6));
        let first = if why.refused { LEAST_CAP } else { FIRST };
        entry.next = now + jitter(doubled.clamp(first, cap), random);
        is_news
    }

    /// A connection to `node` ended after `lived`: it is dialled again soon, unless connections
    /// there do not last.
    pub(super) fn lost(&mut self, node: NodeId, lost: Lost, now: Instant, random: u64) {
        for entry in self.entries.values_mut().filter(|e| e.node == Some(node)) {
            entry.error.clone_from(&lost.error);
            let wait = if lost.lived < LASTING {
                entry.failures = entry.failures.saturating_add(1);
                (FIRST / 4 * 2_u32.pow(entry.failures.min(6))).min(LEAST_CAP)
            } else {
                entry.failures = 0;
                FIRST / 4
            };
            entry.next = entry.next.max(now + jitter(wait, random));
        }
    }

    pub(super) fn status(
        &self,
        now: Instant,
        connected: &dyn Fn(NodeId) -> bool,
    ) -> Vec<TargetStatus> {
        let status = |(target, entry): (&Target, &Entry)| {
            let up = entry.node.is_some_and(connected);
            let state = match entry {
                _ if up => TargetState::Established,
                entry if entry.dialling => TargetState::Connecting,
                entry if entry.refused => TargetState::Failed,
                _ => TargetState::Retrying,
            };
            let wait = entry.next.saturating_duration_since(now).as_millis() as u64;
            TargetStatus {
                address: match (target, entry.address) {
                    (Target::Seed(seed), _) => seed.to_string(),
                    (Target::Node(_), Some(address)) => address.to_string(),
                    (Target::Node(_), None) => "no known address".to_owned(),
                },
                state,
                node: entry.node.map(|id| id.to_string()),
                name: None,
                inbound: false,
                last_error: entry.error.clone().filter(|_| !up),
                next_try_ms: (!up && !entry.dialling).then_some(wait),
                failures: entry.failures,
            }
        };
        // A node that was found at a configured host is that host's line.
        let seeds = self.entries.iter();
        let seeds = seeds.filter(|(target, _)| matches!(target, Target::Seed(_)));
        let found: BTreeSet<_> = seeds.filter_map(|(_, seed)| seed.node).collect();
        let is_found = |target: &Target| match target {
            Target::Node(id) => found.contains(id) && connected(*id),
            Target::Seed(_) => false,
        };
        let entries = self.entries.iter();
        let shown = entries.filter(|(target, _)| !is_found(target));
        shown.map(status).collect()
    }
}

/// A connection that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) error: Option<String>,
    pub(super) lived: Duration,
}

/// Why a dial failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: String,
    /// A member said no, for a reason that trying soon does not change.
    pub(super) refused: bool,
}

/// Between three and five quarters of `wait`.
fn jitter(wait: Duration, random: u64) -> Duration {
    wait * (750 + (random % 500) as u32) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> Target {
        Target::Node(NodeId::from_bytes([n; 32]))
    }

    fn wanted(numbers: std::ops::Range<u8>) -> Vec<Wanted> {
        let wanted = |n| Wanted {
            target: node(n),
            mark: 0,
        };
        numbers.map(wanted).collect()
    }

    fn failure() -> Failure {
        Failure {
            error: "refused".into(),
            refused: false,
        }
    }

    const NOBODY: Connected<'static> = Connected {
        is: &|_| false,
        outbound: 0,
    };

    #[test]
    fn a_target_that_fails_is_tried_ever_more_seldom_and_never_given_up() {
        let mut targets = Targets::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..40 {
            assert_eq!(targets.due(&wanted(1..2), &NOBODY, now, 0), [node(1)]);
            assert!(targets.due(&wanted(1..2), &NOBODY, now, 0).is_empty());
            targets.failed(&node(1), failure(), now, 250);
            let wait = targets.entries[&node(1)].next - now;
            waits.push(wait.as_secs_f32());
            now += wait;
        }
        assert_eq!(waits[..4], [1.0, 2.0, 4.0, 5.0]);
        assert!(waits[4..].iter().all(|w| *w == 5.0), "{waits:?}");
    }

    #[test]
    fn many_failing_targets_are_tried_about_once_a_second_together() {
        let mut targets = Targets::default();
        let wanted = wanted(0..30);
        let mut now = Instant::now();
        let mut dials = 0;
        for step in 0..6000_u64 {
            for target in targets.due(&wanted, &NOBODY, now, step) {
                targets.failed(&target, failure(), now, step * 7919);
                dials += u32::from(step > 3000);
            }
            now += Duration::from_millis(100);
        }
        assert!((200..450).contains(&dials), "{dials} dials in 300 s");
    }

    #[test]
    fn a_large_mesh_is_not_dialled_whole_but_never_only_what_it_has() {
        let mut targets = Targets::default();
        let wanted = wanted(0..200);
        let now = Instant::now();
        assert_eq!(targets.due(&wanted, &NOBODY, now, 5).len(), OUTBOUND);
        let mut targets = Targets::default();
        let content = Connected {
            is: &|_| false,
            outbound: OUTBOUND,
        };
        assert_eq!(targets.due(&wanted, &content, now, 5).len(), 1);
        assert_eq!(targets.due(&wanted, &content, now, 6).len(), 0);
        assert_eq!(
            targets.due(&wanted, &content, now + EXTRA_EVERY, 7).len(),
            1
        );
    }

    #[test]
    fn a_connection_that_lasted_starts_the_backoff_anew() {
        let mut targets = Targets::default();
        let now = Instant::now();
        for _ in 0..5 {
            targets.due(&wanted(1..2), &NOBODY, now + Duration::from_secs(3600), 0);
            targets.failed(&node(1), failure(), now, 0);
        }
        targets.due(&wanted(1..2), &NOBODY, now + Duration::from_secs(3600), 0);
        let address = "192.0.2.1:1".parse().unwrap();
        let id = NodeId::from_bytes([1; 32]);
        targets.succeeded(&node(1), id, address);
        let status = &targets.status(now, &|_| true)[0];
        assert_eq!(status.state, TargetState::Established);
        let lost = |seconds| Lost {
            error: None,
            lived: Duration::from_secs(seconds),
        };
        targets.lost(id, lost(1), now, 0);
        assert_eq!(targets.failures(&node(1)), 6);
        targets.lost(id, lost(60), now, 0);
        assert_eq!(targets.failures(&node(1)), 0);
    }

    #[test]
    fn a_target_of_which_something_new_is_heard_is_tried_at_once() {
        let mut targets = Targets::default();
        let now = Instant::now();
        targets.due(&wanted(1..2), &NOBODY, now, 0);
        targets.failed(&node(1), failure(), now, 0);
        assert!(targets.due(&wanted(1..2), &NOBODY, now, 0).is_empty());
        let news = Wanted {
            target: node(1),
            mark: 7,
        };
        assert_eq!(targets.due(&[news], &NOBODY, now, 0), [node(1)]);
    }
}
