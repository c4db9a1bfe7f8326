//! The protocol of one peer, behind which boringtun stands: what to send for a packet, what a
//! datagram holds, what is due. No sockets, no peer table.
//!
//! boringtun keeps to the handshake, the keys and the timers of the WireGuard paper. Ours are the
//! queue before a handshake, persistent keepalives, the pace of initiations, and the change of a
//! pre-shared key while an older session drains.

mod open;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::identity::Identity;
use super::queue::Queue;
#[cfg(feature = "testing")]
use super::transport::Other;
use super::wire::{INITIATION, padded};
use crate::{PresharedKey, PublicKey};

pub(super) use open::Opened;

/// The most that sealing adds to a packet, and the least room that any message needs.
pub(super) const OVERHEAD: usize = 148;

/// The paper's REKEY_TIMEOUT: the least time between two handshake messages to one peer.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The paper's REKEY_ATTEMPT_TIME: packets wait no longer for a handshake.
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The paper's REJECT_AFTER_TIME: no session is used longer.
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// The paper's REKEY_AFTER_MESSAGES and REJECT_AFTER_MESSAGES, which boringtun does not know.
const MESSAGES: Limits = Limits {
    rekey: 1 << 60,
    reject: u64::MAX - (1 << 13),
};
/// How long an old session still opens what was on its way when a new one took over.
const DRAIN: Duration = Duration::from_secs(10);
/// Probes go both ways every second: a peer that was not heard for so long is not where we think.
const SILENT: Duration = Duration::from_secs(3);

/// Both clocks, read once for each batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// After how many messages of a session there is to be another, and it is used no more.
#[derive(Clone, Copy, Debug)]
struct Limits {
    rekey: u64,
    reject: u64,
}

/// What became of a packet for the peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The length of the datagram to send: the packet, or an initiation while it waits.
    pub(super) datagram: Option<usize>,
    /// How many older packets lost their place in the queue.
    pub(super) dropped: u64,
}

/// The protocol state of one peer.
pub(super) struct Session {
    tunn: Tunn,
    /// 24 bits; a receiver index on the wire is this and 8 bits of boringtun's.
    index: u32,
    draining: Option<Draining>,
    /// `tunn` has a session to seal with.
    ready: bool,
    /// The counter of the last message that was sealed by `tunn`.
    sealed: u64,
    limits: Limits,
    queue: Queue,
    /// The receiver index that we answered an initiation with, until data comes on it.
    unconfirmed: Option<u32>,
    last_handshake: Option<SystemTime>,
    last_handshake_sent: Option<Instant>,
    /// The least time between two initiations.
    pace: Duration,
    last_traffic: Instant,
    last_heard: Option<Instant>,
    keepalive: Option<Duration>,
    preshared: Option<PresharedKey>,
    #[cfg(feature = "testing")]
    other: Option<Other>,
}

/// The session from before a change of the pre-shared key.
struct Draining {
    tunn: Tunn,
    index: u32,
    until: Instant,
}

impl Session {
    pub(super) fn new(
        identity: &Identity,
        peer: PublicKey,
        index: u32,
        preshared: Option<PresharedKey>,
        now: Instant,
    ) -> Self {
        Self {
            tunn: tunn(identity, peer, index, preshared.as_ref()),
            index,
            draining: None,
            ready: false,
            sealed: 0,
            limits: MESSAGES,
            queue: Queue::default(),
            unconfirmed: None,
            last_handshake: None,
            last_handshake_sent: None,
            pace: REKEY_TIMEOUT,
            last_traffic: now,
            last_heard: None,
            keepalive: None,
            preshared,
            #[cfg(feature = "testing")]
            other: Other::new(identity.key, peer),
        }
    }

    /// As if a session were used up after so few messages.
    #[cfg(test)]
    pub(super) fn limit(&mut self, rekey: u64, reject: u64) {
        self.limits = Limits { rekey, reject };
    }

    /// The indices that datagrams for this peer bear in their upper 24 bits.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        [
            Some(self.index),
            self.draining.as_ref().map(|old| old.index),
        ]
        .into_iter()
        .flatten()
    }

    pub(super) fn preshared(&self) -> Option<&PresharedKey> {
        self.preshared.as_ref()
    }

    /// Seconds, as it was set.
    pub(super) fn keepalive(&self) -> Option<u16> {
        self.keepalive.map(|interval| interval.as_secs() as u16)
    }

    pub(super) fn set_keepalive(&mut self, seconds: Option<u16>) {
        self.keepalive = seconds
            .filter(|&s| s > 0)
            .map(|s| Duration::from_secs(s.into()));
    }

    /// When a handshake was last completed: proven by the peer's answer, never by its initiation.
    pub(super) fn last_handshake(&self) -> Option<SystemTime> {
        self.last_handshake
    }

    /// Takes another pre-shared key for the handshakes to come. The present session is used until
    /// there is a new one; what is queued stays.
    pub(super) fn set_preshared(
        &mut self,
        identity: &Identity,
        peer: PublicKey,
        index: u32,
        preshared: Option<PresharedKey>,
        now: Instant,
    ) {
        let fresh = tunn(identity, peer, index, preshared.as_ref());
        let old = std::mem::replace(&mut self.tunn, fresh);
        if self.ready {
            self.draining = Some(Draining {
                tunn: old,
                index: self.index,
                until: now + REJECT_AFTER_TIME,
            });
        }
        self.preshared = preshared;
        self.forget_handshake(index);
    }

    /// Takes the device's new key. Sessions end, what is queued stays.
    pub(super) fn set_identity(&mut self, identity: &Identity, peer: PublicKey, index: u32) {
        self.tunn = tunn(identity, peer, index, self.preshared.as_ref());
        self.draining = None;
        self.forget_handshake(index);
    }

    fn forget_handshake(&mut self, index: u32) {
        self.index = index;
        self.ready = false;
        self.sealed = 0;
        self.unconfirmed = None;
        self.last_handshake_sent = None;
    }

    /// Seals the first `len` bytes of `packet` into `out`, or queues them and starts a handshake.
    /// What lies beyond `len` is overwritten by padding.
    pub(super) fn seal(
        &mut self,
        packet: &mut [u8],
        len: usize,
        out: &mut [u8],
        now: Instant,
    ) -> Sealed {
        let packet = padded(packet, len);
        #[cfg(feature = "testing")]
        if self.ready
            && let Some(other) = &mut self.other
            && let Some(len) = other.seal(packet, out)
        {
            return Sealed {
                datagram: Some(len),
                dropped: 0,
            };
        }
        if self.ready {
            self.last_traffic = now;
            let datagram = sent(&self.tunn.encapsulate(packet, out));
            self.count(out);
            return Sealed {
                datagram,
                dropped: 0,
            };
        }
        if let Some(old) = &mut self.draining {
            self.last_traffic = now;
            return Sealed {
                datagram: sent(&old.tunn.encapsulate(packet, out)),
                dropped: 0,
            };
        }
        let dropped = self.queue.push(packet, now);
        Sealed {
            datagram: self.initiate(out, now),
            dropped,
        }
    }

    /// A handshake initiation, unless a handshake message went out too short a time ago: 5 s, or more
    /// where many peers are silent.
    pub(super) fn initiate(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        if self
            .last_handshake_sent
            .is_some_and(|sent| now < sent + self.pace)
        {
            return None;
        }
        self.initiate_now(out, now)
    }

    fn initiate_now(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        let datagram = sent(&self.tunn.format_handshake_initiation(out, true));
        self.last_handshake_sent = datagram.map(|_| now).or(self.last_handshake_sent);
        datagram
    }

    /// The peer is to be reached elsewhere now: a handshake at once, where one was begun or the
    /// peer is silent. The next would go out only seconds later.
    pub(super) fn moved(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        let silent = self.is_silent(SILENT, now);
        if self.is_unanswered() || silent {
            self.initiate_now(out, now)
        } else {
            None
        }
    }

    /// The peer's own initiations are refused, since its clock was set back while it was away: one
    /// of ours is not. Only to a silent peer, so that a replay costs next to nothing.
    pub(super) fn late(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        if self.is_silent(SILENT, now) {
            self.initiate(out, now)
        } else {
            None
        }
    }

    /// Whether there is no session, and a handshake was begun.
    pub(super) fn is_unanswered(&self) -> bool {
        !self.ready && self.last_handshake_sent.is_some()
    }

    /// Whether the peer was heard, and last so long ago.
    pub(super) fn is_silent(&self, time: Duration, now: Instant) -> bool {
        self.last_heard.is_some_and(|heard| now >= heard + time)
    }

    /// Packets wait that can be sealed now.
    pub(super) fn owes(&self) -> bool {
        self.ready && !self.queue.is_empty()
    }

    /// Seals the next packet that waited for the handshake.
    pub(super) fn flush(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        if !self.ready {
            return None;
        }
        let Some(packet) = self.queue.pop() else {
            // boringtun's own queue holds no more than keepalives.
            return sent(&self.tunn.decapsulate(None, &[], out));
        };
        self.last_traffic = now;
        let datagram = sent(&self.tunn.encapsulate(&packet, out));
        self.count(out);
        datagram
    }

    /// Another session is the one to seal with.
    fn begun(&mut self) {
        self.sealed = 0;
        #[cfg(feature = "testing")]
        if let Some(other) = &mut self.other {
            other.forget();
        }
    }

    /// Takes note of the counter of a message that was just sealed.
    fn count(&mut self, message: &[u8]) {
        let counter = message.get(8..16).and_then(|bytes| bytes.try_into().ok());
        self.sealed = counter.map_or(self.sealed, u64::from_le_bytes);
        #[cfg(feature = "testing")]
        if let Some(other) = &mut self.other {
            other.learn(super::wire::word(message, 4));
        }
        // Until there is another: packets wait for that.
        self.ready &= self.sealed < self.limits.reject;
    }

    /// What is due: a retransmission, a new handshake, a keepalive. Returns the length of the
    /// datagram to send and how many queued packets were given up. To be called every 250 ms, with
    /// the time between two initiations to a silent peer ([`crate::endpoint::try_time`]).
    pub(super) fn tick(
        &mut self,
        out: &mut [u8],
        pace: Duration,
        now: Instant,
    ) -> (Option<usize>, u64) {
        // Not by `take`, which would move the whole of it at each tick.
        if self.draining.as_ref().is_some_and(|old| now >= old.until) {
            self.draining = None;
        }
        self.pace = pace.max(REKEY_TIMEOUT);
        // boringtun would repeat it every 5 s. It dates by its last look at the clock, so a session
        // that comes meanwhile is renewed earlier by what was slept here.
        let waits = self.is_unanswered()
            && self
                .last_handshake_sent
                .is_some_and(|at| now < at + self.pace);
        let due = if waits {
            None
        } else {
            sent(&self.tunn.update_timers(out))
        };
        self.refresh(now);
        if due.is_some() {
            match out.first() {
                Some(&INITIATION) => self.last_handshake_sent = Some(now),
                _ => self.last_traffic = now,
            }
            return (due, 0);
        }
        if self.sealed >= self.limits.rekey {
            return (self.initiate(out, now), 0);
        }
        let since = self.queue.since();
        if since.is_some_and(|since| now >= since + REKEY_ATTEMPT_TIME) {
            return (None, self.queue.clear());
        }
        // An answered initiation whose sender vanished would block our own for minutes.
        if since.is_some() && !self.ready {
            return (self.initiate(out, now), 0);
        }
        if self
            .keepalive
            .is_some_and(|interval| now >= self.last_traffic + interval)
        {
            self.last_traffic = now;
            return (self.keep_alive(out, now), 0);
        }
        (None, 0)
    }

    /// An empty packet, or a handshake where there is no session.
    pub(super) fn keep_alive(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        if self.ready {
            let datagram = sent(&self.tunn.encapsulate(&[], out));
            self.count(out);
            return datagram;
        }
        self.initiate(out, now)
    }

    fn refresh(&mut self, now: Instant) {
        self.ready =
            self.tunn.time_since_last_handshake().is_some() && self.sealed < self.limits.reject;
        if self.ready
            && let Some(old) = &mut self.draining
        {
            old.until = old.until.min(now + DRAIN);
        }
    }
}

/// boringtun takes the wall clock here and panics before 1970, which Linux lets no clock be:
/// clock_settime(2) refuses it, and so does the kernel when it reads the hardware's.
fn tunn(
    identity: &Identity,
    peer: PublicKey,
    index: u32,
    preshared: Option<&PresharedKey>,
) -> Tunn {
    Tunn::new(
        identity.secret.clone(),
        x25519::PublicKey::from(*peer.as_bytes()),
        preshared.map(|key| *key.expose()),
        None,
        index,
        Some(Arc::clone(&identity.uncounted)),
    )
}

/// The length of what is to be sent; boringtun writes it to the start of its buffer.
fn sent(result: &TunnResult<'_>) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
        _ => None,
    }
}
