//! Probes inside the tunnel: when, to whom, what they say, and what their answers tell. The
//! tunnel authenticates them; sockets, clock and random bytes are the caller's.

mod message;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

pub use message::{LENGTH, Message};

/// The most probes that a node sends in any second, however many peers it has.
pub const MOST_A_SECOND: u32 = 100;

/// The time between two probes of a peer.
const PERIOD: Duration = Duration::from_secs(1);
/// Probes that are due so soon go out with those that are due now: waking up costs more than probing.
const AHEAD: Duration = Duration::from_millis(200);
/// A probe is lost when it was not answered by then. A later answer still shows life.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// So many losses in a row are a dead peer.
const DEAD: u32 = 3;
/// Where the rate is short, a dead peer gets one probe of so many that a living one gets: it is probed
/// at once when it is heard ([`Prober::heard`]).
const DEAD_SHARE: u32 = 3;
/// Where the rate is short, a peer that asks us is itself asked at least once in about so many turns:
/// that it is heard does not say that it hears.
const LONGEST_UNASKED: u32 = 3;
/// Nonces of one peer that an answer may bear.
const MOST_OUTSTANDING: usize = 8;
/// How many of the [`MOST_A_SECOND`] may go out at once after a pause.
const BURST: u32 = 10;
const INTERVAL: Duration = Duration::from_micros(1_000_000 / (MOST_A_SECOND - BURST) as u64 + 1);

/// What the probes of a peer tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    pub life: Life,
    /// Since when `life` is what it is.
    pub since: Instant,
    /// Of the last answer.
    pub rtt: Option<Duration>,
    /// Smoothed as TCP's (RFC 6298, gain 1/8).
    pub smoothed_rtt: Option<Duration>,
    /// Of the last 32 probes whose fate is known, the share that was lost, 0 to 1.
    pub loss: f32,
    /// Probes sent since the peer was added.
    pub sent: u64,
    pub answered: u64,
}

/// Whether a peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Too few probes to tell.
    Unknown,
    Alive,
    /// Three in a row went unanswered.
    Dead,
}

/// What is due now.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<K> {
    /// To whom to send a probe, with which nonce.
    pub probes: Vec<(K, u64)>,
    /// Who has just been found dead.
    pub died: Vec<K>,
}

/// An answer that counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub rtt: Duration,
    /// The peer was not known to be alive.
    pub came_up: bool,
}

/// The probes of a node to its peers, which are known by `K`.
#[derive(Debug)]
pub struct Prober<K> {
    peers: BTreeMap<K, Peer>,
    schedule: BTreeSet<(Instant, K)>,
    /// When each outstanding probe counts as lost.
    deadlines: BTreeSet<(Instant, K, u64)>,
    /// The earliest time at which a steady sender of our rate would be here.
    paid_until: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    /// Its place in the schedule.
    due: Instant,
    /// When it was last probed.
    asked: Instant,
    /// Nonce and time of sending, oldest first.
    outstanding: VecDeque<(u64, Instant)>,
    lost_in_a_row: u32,
    /// One bit a probe, the last lowest; set is lost.
    fates: u32,
    fates_known: u32,
    health: Health,
}

impl<K: Ord + Clone> Default for Prober<K> {
    fn default() -> Self {
        Self {
            peers: BTreeMap::new(),
            schedule: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            paid_until: None,
        }
    }
}

impl<K: Ord + Clone> Prober<K> {
    /// Who is to be probed. New peers are probed at once, as fast as the rate allows; what is known
    /// of the others stays.
    pub fn set_peers(&mut self, wanted: &BTreeSet<K>, now: Instant) {
        self.peers.retain(|peer, _| wanted.contains(peer));
        self.schedule.retain(|(_, peer)| wanted.contains(peer));
        self.deadlines.retain(|(_, peer, _)| wanted.contains(peer));
        for peer in wanted {
            if !self.peers.contains_key(peer) {
                self.schedule.insert((now, peer.clone()));
                self.peers.insert(peer.clone(), Peer::new(now));
            }
        }
    }

    /// When to ask for what is due next.
    pub fn next(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(when, ..)| *when);
        [self.next_probe(), deadline].into_iter().flatten().min()
    }

    /// When the next probe may go out. Where the rate is short, as many as it allows at once go
    /// together: a waking costs more than a probe.
    fn next_probe(&self) -> Option<Instant> {
        let (when, _) = self.schedule.first()?;
        match (self.allowed_from(), self.paid_until) {
            (Some(allowed), Some(whole)) if *when < allowed => Some(whole),
            _ => Some(*when),
        }
    }

    /// What is due. `random` gives unpredictable numbers: the nonces and the jitter.
    pub fn due(&mut self, now: Instant, mut random: impl FnMut() -> u64) -> Due<K> {
        let died = self.expire(now);
        let mut probes = Vec::new();
        // The first must be due now, so that nobody is woken for what is due soon.
        let until = match self.next_probe() {
            Some(when) if when <= now => now + AHEAD,
            _ => return Due { probes, died },
        };
        let total = self.peers.len();
        while self
            .schedule
            .first()
            .is_some_and(|(when, _)| *when <= until)
            && self.pay(now)
        {
            let Some((when, key)) = self.schedule.pop_first() else {
                break;
            };
            let Some(peer) = self.peers.get_mut(&key) else {
                continue;
            };
            let nonce = random();
            if peer.outstanding.len() == MOST_OUTSTANDING {
                peer.outstanding.pop_front();
            }
            peer.outstanding.push_back((nonce, now));
            peer.health.sent += 1;
            self.deadlines.insert((now + PATIENCE, key.clone(), nonce));
            let mut period = period(total);
            if period > PERIOD {
                period *= match peer.health.life {
                    Life::Dead => DEAD_SHARE,
                    // The peer's turn is first.
                    Life::Alive => 2,
                    Life::Unknown => 1,
                };
            }
            peer.asked = now;
            peer.due = when.max(now) + about(period, random());
            self.schedule.insert((peer.due, key.clone()));
            probes.push((key, nonce));
        }
        Due { probes, died }
    }

    /// Takes an answer that came from `key` through the tunnel. None unless it bears the nonce of
    /// one of our last probes to this peer, the first time.
    pub fn answered(&mut self, key: &K, nonce: u64, now: Instant) -> Option<Answered> {
        let peer = self.peers.get_mut(key)?;
        let place = peer
            .outstanding
            .iter()
            .position(|(sent, _)| *sent == nonce)?;
        let (_, sent) = peer.outstanding.remove(place)?;
        if self
            .deadlines
            .remove(&(sent + PATIENCE, key.clone(), nonce))
        {
            peer.learn(Fate::Answered);
        }
        let rtt = now.saturating_duration_since(sent);
        peer.lost_in_a_row = 0;
        peer.health.answered += 1;
        peer.health.rtt = Some(rtt);
        let smoothed = peer
            .health
            .smoothed_rtt
            .map_or(rtt, |smoothed| (smoothed * 7 + rtt) / 8);
        peer.health.smoothed_rtt = Some(smoothed);
        Some(Answered {
            rtt,
            came_up: peer.turn(Life::Alive, now),
        })
    }

    /// A probe of the peer's own, with this nonce, came through the tunnel. If it is not known to be
    /// alive, it is asked next, unless it was within the last second. If it is, and the rate is short,
    /// ours is due a period later, unless it was not asked for long: so two that are well ask in turn.
    pub fn heard(&mut self, key: &K, nonce: u64, now: Instant) {
        let period = period(self.peers.len());
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let last = peer.outstanding.back();
        let is_asked = last.is_some_and(|(_, sent)| now < *sent + PERIOD);
        let due = match peer.health.life {
            Life::Alive
                if period > PERIOD
                    && peer.lost_in_a_row == 0
                    && now < peer.asked + period * LONGEST_UNASKED =>
            {
                now + about(period, nonce)
            }
            Life::Unknown | Life::Dead if !is_asked => {
                let first = self.schedule.first();
                first.map_or(now, |(when, _)| now.min(*when))
            }
            _ => return,
        };
        reschedule(&mut self.schedule, key, peer, due);
    }

    pub fn health(&self, key: &K) -> Option<Health> {
        self.peers.get(key).map(|peer| peer.health)
    }

    fn expire(&mut self, now: Instant) -> Vec<K> {
        let mut died = Vec::new();
        while self
            .deadlines
            .first()
            .is_some_and(|(when, ..)| *when <= now)
        {
            let Some((_, key, _)) = self.deadlines.pop_first() else {
                break;
            };
            let Some(peer) = self.peers.get_mut(&key) else {
                continue;
            };
            peer.learn(Fate::Lost);
            peer.lost_in_a_row += 1;
            if peer.lost_in_a_row >= DEAD {
                if peer.turn(Life::Dead, now) {
                    died.push(key);
                }
            } else if peer.health.life == Life::Alive && peer.due > now + PERIOD {
                // Whether it is dead is not to take as long as a thousand peers' turns.
                reschedule(&mut self.schedule, &key, peer, now);
            }
        }
        died
    }

    /// Whether one more probe keeps to the rate. In any second there are never more than the
    /// steady rate and one burst, together [`MOST_A_SECOND`].
    fn pay(&mut self, now: Instant) -> bool {
        if self.allowed_from().is_some_and(|allowed| now < allowed) {
            return false;
        }
        self.paid_until = Some(self.paid_until.unwrap_or(now).max(now) + INTERVAL);
        true
    }

    /// When the rate allows one more probe.
    fn allowed_from(&self) -> Option<Instant> {
        self.paid_until?.checked_sub(INTERVAL * (BURST - 1))
    }
}

fn reschedule<K: Ord + Clone>(
    schedule: &mut BTreeSet<(Instant, K)>,
    key: &K,
    peer: &mut Peer,
    due: Instant,
) {
    schedule.remove(&(peer.due, key.clone()));
    peer.due = due;
    schedule.insert((due, key.clone()));
}

/// Between 0.9 and 1.1 of it, by chance, so that nodes do not fall into step.
fn about(period: Duration, random: u64) -> Duration {
    period - period / 10 + period / 1_000 * (random % 201) as u32
}

/// The time between two probes of a peer, among so many; of its and ours together where the rate is
/// short.
fn period(peers: usize) -> Duration {
    PERIOD.max(PERIOD * peers as u32 / MOST_A_SECOND)
}

enum Fate {
    Answered,
    Lost,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            due: now,
            asked: now,
            outstanding: VecDeque::new(),
            lost_in_a_row: 0,
            fates: 0,
            fates_known: 0,
            health: Health {
                life: Life::Unknown,
                since: now,
                rtt: None,
                smoothed_rtt: None,
                loss: 0.0,
                sent: 0,
                answered: 0,
            },
        }
    }

    fn learn(&mut self, fate: Fate) {
        self.fates = self.fates << 1 | u32::from(matches!(fate, Fate::Lost));
        self.fates_known = (self.fates_known + 1).min(u32::BITS);
        self.health.loss = self.fates.count_ones() as f32 / self.fates_known as f32;
    }

    /// Whether this is news.
    fn turn(&mut self, life: Life, now: Instant) -> bool {
        let news = self.health.life != life;
        if news {
            self.health.life = life;
            self.health.since = now;
        }
        news
    }
}

#[cfg(test)]
mod tests;
