//! The claim of a share: a machine that is told who holds what and the time, and says what to
//! publish. It knows no records and does no I/O.

use std::time::{Duration, Instant};

use super::record::Claim;
use super::text::hash;
use crate::NodeId;

/// What must be done before the machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// What is claimed has changed.
    Publish,
    /// Keep this share on disk, then say so by [`Claims::saved`]: power loss must not undo a
    /// final claim.
    Save(u32),
}

/// Where this node's claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting {
        slot: u32,
        until: Instant,
    },
    Saving {
        slot: u32,
    },
    Held {
        slot: u32,
    },
    /// Every share is held.
    Full,
}

#[derive(Debug)]
pub(super) struct Claims {
    id: NodeId,
    slots: u32,
    wait: Duration,
    phase: Phase,
    /// The share lost last and who holds it, until another is held.
    lost: Option<(u32, NodeId)>,
    heard: bool,
}

impl Claims {
    /// `kept` is the share that was held when this node last ran: it is its own at once.
    pub(super) fn new(
        id: NodeId,
        slots: u32,
        wait: Duration,
        kept: Option<u32>,
        now: Instant,
    ) -> Self {
        let phase = match kept.filter(|slot| *slot < slots) {
            Some(slot) => Phase::Held { slot },
            None => Phase::Waiting {
                slot: start(id, slots),
                until: now + wait,
            },
        };
        Self {
            id,
            slots,
            wait,
            phase,
            lost: None,
            heard: false,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn lost(&self) -> Option<(u32, NodeId)> {
        self.lost
    }

    /// What the record says.
    pub(super) fn published(&self) -> Option<Claim> {
        let (slot, settled) = match self.phase {
            Phase::Waiting { slot, .. } | Phase::Saving { slot } => (slot, false),
            Phase::Held { slot } => (slot, true),
            Phase::Full => return None,
        };
        Some(Claim { slot, settled })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// The first others are heard: objections could not come before.
    pub(super) fn heard(&mut self, now: Instant) {
        if !self.heard
            && let Phase::Waiting { until, .. } = &mut self.phase
        {
            *until = now + self.wait;
        }
        self.heard = true;
    }

    /// Looks at who `holds` each share, this node's own published claim included.
    pub(super) fn look(&mut self, holds: impl Fn(u32) -> Option<NodeId>, now: Instant) -> Step {
        let other = |slot| holds(slot).filter(|holder| *holder != self.id);
        match self.phase {
            Phase::Waiting { slot, until } => {
                if other(slot).is_some() {
                    self.next(slot, &holds, now)
                } else if now >= until {
                    self.phase = Phase::Saving { slot };
                    Step::Save(slot)
                } else {
                    Step::Nothing
                }
            }
            Phase::Saving { slot } | Phase::Held { slot } => {
                let Some(winner) = other(slot) else {
                    return Step::Nothing;
                };
                if matches!(self.phase, Phase::Held { .. }) {
                    self.lost = Some((slot, winner));
                }
                self.next(slot, &holds, now)
            }
            Phase::Full => self.next(start(self.id, self.slots), &holds, now),
        }
    }

    /// The share was kept on disk, or not; if not it waits and tries again.
    pub(super) fn saved(&mut self, slot: u32, kept: bool, now: Instant) -> Step {
        if self.phase != (Phase::Saving { slot }) {
            return Step::Nothing;
        }
        if !kept {
            let until = now + Duration::from_secs(1);
            self.phase = Phase::Waiting { slot, until };
            return Step::Nothing;
        }
        self.phase = Phase::Held { slot };
        self.lost = None;
        Step::Publish
    }

    /// The first share after `from` that nobody holds.
    fn next(&mut self, from: u32, holds: impl Fn(u32) -> Option<NodeId>, now: Instant) -> Step {
        let before = self.published();
        let free = |slot: &u32| holds(*slot).is_none_or(|holder| holder == self.id);
        let after = (0..self.slots).map(|n| (from + n) % self.slots).find(free);
        self.phase = match after {
            Some(slot) => Phase::Waiting {
                slot,
                until: now + self.wait,
            },
            None => Phase::Full,
        };
        if self.published() == before {
            Step::Nothing
        } else {
            Step::Publish
        }
    }
}

/// Where a node begins to look: spread by its identity, so that nodes that start together rarely
/// want the same.
fn start(id: NodeId, slots: u32) -> u32 {
    let hash = hash(&[b"weft slot v1", id.as_bytes()]);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % slots
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(500);

    fn ids() -> [NodeId; 2] {
        [1, 2].map(|n| NodeId::from_bytes([n; 32]))
    }

    fn waiting(claims: &Claims) -> u32 {
        match claims.phase() {
            Phase::Waiting { slot, .. } => slot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_claim_is_final_only_after_the_wait_and_on_disk() {
        let ([me, _], now) = (ids(), Instant::now());
        let mut claims = Claims::new(me, 16, WAIT, None, now);
        let slot = waiting(&claims);
        assert_eq!(claims.look(|_| None, now + WAIT / 2), Step::Nothing);
        assert_eq!(claims.look(|_| None, now + WAIT), Step::Save(slot));
        assert!(!claims.published().unwrap().settled);
        assert_eq!(claims.saved(slot, false, now + WAIT), Step::Nothing);
        let later = now + WAIT + Duration::from_secs(1);
        assert_eq!(claims.look(|_| None, later), Step::Save(slot));
        assert_eq!(claims.saved(slot, true, later), Step::Publish);
        assert!(claims.published().unwrap().settled);
    }

    #[test]
    fn an_objection_during_the_wait_moves_the_claim_and_starts_the_wait_again() {
        let ([me, other], now) = (ids(), Instant::now());
        let mut claims = Claims::new(me, 16, WAIT, None, now);
        let slot = waiting(&claims);
        let taken = |s| (s == slot).then_some(other);
        assert_eq!(claims.look(taken, now + WAIT), Step::Publish);
        assert_eq!(waiting(&claims), (slot + 1) % 16);
        assert_eq!(claims.deadline(), Some(now + WAIT + WAIT));
    }

    #[test]
    fn a_loser_takes_another_share_and_remembers_to_whom_it_lost() {
        let ([me, other], now) = (ids(), Instant::now());
        let mut claims = Claims::new(me, 4, WAIT, Some(3), now);
        let taken = |s| (s == 3).then_some(other);
        assert_eq!(claims.look(taken, now), Step::Publish);
        assert_eq!(claims.lost(), Some((3, other)));
        assert_eq!(waiting(&claims), 0);
        assert_eq!(claims.look(taken, now + WAIT), Step::Save(0));
        claims.saved(0, true, now + WAIT);
        assert_eq!(claims.lost(), None);
    }

    #[test]
    fn a_full_pool_is_said_and_ends_when_a_share_is_free() {
        let ([me, other], now) = (ids(), Instant::now());
        let mut claims = Claims::new(me, 2, WAIT, None, now);
        assert_eq!(claims.look(|_| Some(other), now), Step::Publish);
        assert_eq!(claims.phase(), Phase::Full);
        assert_eq!(claims.look(|_| Some(other), now), Step::Nothing);
        assert_eq!(
            claims.look(|s| (s == 1).then_some(other), now),
            Step::Publish
        );
        assert_eq!(waiting(&claims), 0);
    }
}
