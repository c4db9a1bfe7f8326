//! Which of a peer's endpoints to use, and when to try the next. It sees no socket, resolver or
//! clock: addresses, the device's word and the time are given to it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// How long an endpoint is tried before the next: WireGuard repeats an initiation every 5 s.
pub const TRY: Duration = Duration::from_secs(5);
/// The most tries a second over all peers that do not answer: each costs a handshake's arithmetic.
const MOST_TRIES_A_SECOND: u32 = 20;
/// The longest that one endpoint is tried, however many peers are silent.
const LONGEST_TRY: Duration = Duration::from_secs(30);
/// A handshake is believed for this long: WireGuard ends the session then (REJECT_AFTER_TIME).
pub const FRESH: Duration = Duration::from_secs(180);
/// The least time between two wishes to have names resolved again.
const RESOLVE: Duration = Duration::from_secs(10);
/// A probe that was lost while the session was being made says nothing yet.
const SETTLE: Duration = Duration::from_secs(10);
/// More candidates of one peer are not looked at.
const MOST_CANDIDATES: usize = 16;

/// How long an endpoint is tried, and the time between two initiations to a peer that does not answer,
/// where so many peers do not: [`TRY`] for up to a hundred, 30 s at most.
pub fn try_time(silent: usize) -> Duration {
    let silent = u32::try_from(silent).unwrap_or(u32::MAX);
    let fair = Duration::from_secs(silent.into()) / MOST_TRIES_A_SECOND;
    fair.clamp(TRY, LONGEST_TRY)
}

/// Whether another node could be reached at this address at all: none of a host's own, of one link
/// alone or of many hosts.
pub fn is_usable(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// What is known of the peer now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The endpoint that the device has: set by us, or learnt by roaming.
    pub endpoint: Option<SocketAddr>,
    /// How long ago the last handshake was.
    pub handshake: Option<Duration>,
    pub probes: Probes,
    /// How many peers do not answer, this one or others.
    pub silent: usize,
}

/// What the probes inside the tunnel say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probes {
    /// None was sent yet, or too few to tell.
    #[default]
    Unknown,
    Answered,
    Unanswered,
}

/// What to do about a peer's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The endpoint to configure; `None` leaves the device's own, roamed or not.
    pub set: Option<SocketAddr>,
    /// Every candidate failed: resolve the names among them again.
    pub resolve: bool,
    /// Decide again at the latest then.
    pub again: Instant,
}

/// What is told of a peer's endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Handshakes or probes are fresh since then.
    Connected {
        endpoint: Option<SocketAddr>,
        since: Instant,
    },
    /// No handshake since then. `tried` are the earlier tries of this spell, oldest first.
    Trying {
        endpoint: SocketAddr,
        since: Instant,
        next: Instant,
        tried: Vec<Try>,
    },
    /// There is nothing to try: the peer must reach us.
    NoEndpoint { since: Instant },
}

/// An endpoint that was tried without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Try {
    pub endpoint: SocketAddr,
    pub at: Instant,
}

/// The choice among one peer's endpoints.
#[derive(Clone, Debug)]
pub struct EndpointChoice {
    candidates: Vec<SocketAddr>,
    /// Where the peer was last heard, tried after the candidates: behind NAT it announces none
    /// that works.
    heard: Option<SocketAddr>,
    mesh: Vec<IpNet>,
    state: State,
    /// How long each is tried.
    patience: Duration,
    resolved: Instant,
}

#[derive(Clone, Debug)]
enum State {
    Connected {
        since: Instant,
    },
    Trying {
        since: Instant,
        at: usize,
        begun: Instant,
        tried: Vec<Try>,
    },
    Idle {
        since: Instant,
    },
}

impl EndpointChoice {
    /// A peer of which nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            candidates: Vec::new(),
            heard: None,
            mesh: Vec::new(),
            state: State::Idle { since: now },
            patience: TRY,
            resolved: now,
        }
    }

    /// The peer's addresses, names resolved, most preferred first, and the ranges of the mesh, in
    /// which no endpoint lies. Where they changed, the search for one that works begins anew.
    pub fn set_candidates(&mut self, candidates: &[SocketAddr], mesh: &[IpNet], now: Instant) {
        self.mesh = mesh.to_vec();
        let mut kept: Vec<SocketAddr> = Vec::new();
        for &candidate in candidates {
            let usable = candidate.port() != 0
                && is_usable(candidate.ip())
                && !self.is_in_mesh(candidate.ip());
            if usable && !kept.contains(&candidate) && kept.len() < MOST_CANDIDATES {
                kept.push(candidate);
            }
        }
        if kept == self.candidates {
            return;
        }
        self.candidates = kept;
        if let State::Trying { at, begun, .. } = &mut self.state {
            (*at, *begun) = (0, now);
        }
    }

    /// What to do now.
    pub fn decide(&mut self, evidence: &Evidence, now: Instant) -> Decision {
        let astray = evidence
            .endpoint
            .is_some_and(|endpoint| self.is_in_mesh(endpoint.ip()));
        if evidence.is_fresh() && !astray {
            self.heard = evidence.endpoint.or(self.heard);
            if !matches!(self.state, State::Connected { .. }) {
                self.state = State::Connected { since: now };
            }
            let left = FRESH.saturating_sub(evidence.handshake.unwrap_or_default());
            return Decision {
                set: None,
                resolve: false,
                again: now + left.max(TRY),
            };
        }
        self.patience = try_time(evidence.silent);
        let rounds = self.advance(now);
        let resolve = rounds == Round::Over && now >= self.resolved + RESOLVE;
        if resolve {
            self.resolved = now;
        }
        match &self.state {
            State::Trying { at, begun, .. } => Decision {
                set: self.nth(*at),
                resolve,
                again: *begun + self.patience,
            },
            _ => Decision {
                set: None,
                resolve,
                again: now + RESOLVE,
            },
        }
    }

    /// Whether the peer is being looked for.
    pub fn is_trying(&self) -> bool {
        matches!(self.state, State::Trying { .. })
    }

    /// What `weft status` shows.
    pub fn report(&self) -> Report {
        match &self.state {
            State::Connected { since } => Report::Connected {
                endpoint: self.heard,
                since: *since,
            },
            State::Trying {
                since,
                at,
                begun,
                tried,
            } => match self.nth(*at) {
                Some(endpoint) => Report::Trying {
                    endpoint,
                    since: *since,
                    next: *begun + self.patience,
                    tried: tried.clone(),
                },
                None => Report::NoEndpoint { since: *since },
            },
            State::Idle { since } => Report::NoEndpoint { since: *since },
        }
    }

    /// Goes on to the next endpoint where the present one had its time.
    fn advance(&mut self, now: Instant) -> Round {
        let count = self.count();
        let since = match self.state {
            State::Idle { since } => since,
            State::Connected { .. } | State::Trying { .. } => now,
        };
        if count == 0 {
            self.state = State::Idle { since };
            return Round::Over;
        }
        let present = match &self.state {
            State::Trying { at, .. } => self.nth(*at),
            _ => None,
        };
        let State::Trying {
            at, begun, tried, ..
        } = &mut self.state
        else {
            self.state = State::Trying {
                since,
                at: 0,
                begun: now,
                tried: Vec::new(),
            };
            return Round::Open;
        };
        if now < *begun + self.patience {
            return Round::Open;
        }
        if let Some(endpoint) = present {
            if tried.len() == MOST_CANDIDATES {
                tried.remove(0);
            }
            tried.push(Try {
                endpoint,
                at: *begun,
            });
        }
        *at = (*at + 1) % count;
        *begun = now;
        if *at == 0 { Round::Over } else { Round::Open }
    }

    fn extra(&self) -> Option<SocketAddr> {
        self.heard
            .filter(|heard| !self.candidates.contains(heard) && !self.is_in_mesh(heard.ip()))
    }

    fn count(&self) -> usize {
        self.candidates.len() + usize::from(self.extra().is_some())
    }

    fn nth(&self, at: usize) -> Option<SocketAddr> {
        self.candidates.iter().copied().chain(self.extra()).nth(at)
    }

    fn is_in_mesh(&self, address: IpAddr) -> bool {
        self.mesh.iter().any(|range| range.contains(&address))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Open,
    /// Every endpoint had its turn.
    Over,
}

impl Evidence {
    fn is_fresh(&self) -> bool {
        match (self.probes, self.handshake) {
            (Probes::Answered, _) => true,
            (Probes::Unknown, Some(age)) => age < FRESH,
            (Probes::Unanswered, Some(age)) => age < SETTLE,
            (Probes::Unknown | Probes::Unanswered, None) => false,
        }
    }
}

#[cfg(test)]
mod tests;
