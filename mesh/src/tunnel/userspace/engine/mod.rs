//! What happens to each packet and each datagram: which peer, which way, or why not. It holds the
//! table and the counters; reading and writing are [`Output`]'s and the workers'.

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::coalesce::Write;
use super::datagram::Others;
use super::drops::{Drop, Drops};
use super::outgoing::{LARGEST, Sealing};
use super::session::{Now, OVERHEAD};
use super::sources::Sources;
use super::table::{Path, Peer, PeerState, Table};
use super::udp::{Run, Segmentation, Unsent};
use super::wire::{INITIATION, RESPONSE};
use crate::endpoint::try_time;

/// Room for the largest packet, sealed.
pub(super) const SCRATCH: usize = LARGEST + OVERHEAD;

/// The traffic class of handshakes, DSCP AF41 as the kernel's WireGuard has it: they are few, and a
/// full queue before them ends the session.
const HANDSHAKE_CLASS: u8 = 0x88;

/// boringtun's timers go by seconds: of so many peers a part is looked at with each tick, and all
/// within a second.
const MANY: usize = 64;
const PARTS: usize = 4;

/// Where packets and datagrams go.
pub(super) trait Output {
    /// Sends the runs of `arena` in order, by a way of which something may be known. What was not
    /// sent.
    fn network(&self, runs: &[Run], arena: &[u8], path: Path, way: &Segmentation) -> Unsent;

    /// Gives the host a packet or a super-packet, whose pieces lie in `arena`.
    fn tunnel(&self, write: &Write<'_>, arena: &[u8]) -> io::Result<()>;
}

/// The packet path of the device.
#[derive(Default)]
pub(super) struct Engine {
    pub(super) table: ArcSwap<Table>,
    pub(super) drops: Drops,
    pub(super) others: Others,
    /// Who shakes hands, under load.
    sources: Mutex<Sources>,
    /// Counts the ticks.
    ticks: AtomicUsize,
    /// How many peers of each part had not answered when they were last looked at.
    silent: [AtomicUsize; PARTS],
}

impl Engine {
    /// What is due for every peer, or for a part of them where they are many. To be called every
    /// 250 ms.
    pub(super) fn tick(&self, scratch: &mut [u8], now: Now, out: &impl Output) {
        let table = self.table.load();
        let Some(identity) = table.identity() else {
            return;
        };
        if self.sources().turn(now.instant) {
            identity.limiter.reset_count();
        }
        let pace = try_time(self.silent.iter().map(|part| part.load(Relaxed)).sum());
        let turn = self.ticks.fetch_add(1, Relaxed) % PARTS;
        let is_all = table.peers.len() <= MANY;
        let mut unanswered = [0; PARTS];
        for peer in table.peers.values() {
            let part = usize::from(peer.key.as_bytes()[0]) % PARTS;
            if !is_all && part != turn {
                continue;
            }
            let _order = peer.order();
            let mut state = peer.lock();
            let (due, given_up) = state.session.tick(scratch, pace, now.instant);
            unanswered[part] += usize::from(state.session.is_unanswered());
            let path = state.path(now.instant);
            drop(state);
            self.drops.add(Drop::HandshakeGivenUp, given_up);
            if let (Some(len), Some(path)) = (due, path) {
                self.send_one(peer, &scratch[..len], path, out);
            }
        }
        for (part, (known, unanswered)) in self.silent.iter().zip(unanswered).enumerate() {
            if is_all || part == turn {
                known.store(unanswered, Relaxed);
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what `make` says is due for a peer now.
    pub(super) fn kick(
        &self,
        peer: &Peer,
        scratch: &mut [u8],
        now: Instant,
        out: &impl Output,
        make: impl FnOnce(&mut PeerState, &mut [u8]) -> Option<usize>,
    ) {
        let _order = peer.order();
        let mut state = peer.lock();
        let due = make(&mut state, scratch);
        let path = state.path(now);
        drop(state);
        if let (Some(len), Some(path)) = (due, path) {
            self.send_one(peer, &scratch[..len], path, out);
        }
    }

    /// Sends the next of what waited for a handshake, until nothing does.
    fn flush(&self, peer: &Peer, scratch: &mut [u8], now: Now, out: &impl Output) {
        let _order = peer.order();
        self.flush_in_order(peer, &mut peer.lock(), scratch, now, out);
    }

    /// The same, for who has the peer's order: what waited goes out before what comes now.
    fn flush_in_order(
        &self,
        peer: &Peer,
        state: &mut PeerState,
        scratch: &mut [u8],
        now: Now,
        out: &impl Output,
    ) {
        let Some(path) = state.path(now.instant) else {
            return;
        };
        while let Some(len) = state.session.flush(scratch, now.instant) {
            if !self.send_one(peer, &scratch[..len], path, out) {
                return;
            }
        }
    }

    /// Sends one datagram; whether it was sent. Whoever sends data has the peer's order.
    fn send_one(&self, peer: &Peer, datagram: &[u8], path: Path, out: &impl Output) -> bool {
        let run = Run {
            start: 0,
            len: datagram.len(),
            size: datagram.len(),
            class: class(datagram, 0),
        };
        self.send(peer, &[run], datagram, path, out)
    }

    fn send_sealed(&self, peer: &Peer, sealed: &Sealing, path: Path, out: &impl Output) {
        if !sealed.runs.is_empty() {
            self.send(peer, &sealed.runs, &sealed.arena[..sealed.len()], path, out);
        }
    }

    /// Whether all was sent.
    fn send(&self, peer: &Peer, runs: &[Run], arena: &[u8], path: Path, out: &impl Output) -> bool {
        let unsent = out.network(runs, arena, path, &peer.way);
        self.drops.add(Drop::UdpSend, unsent.datagrams);
        let sent = arena.len() - unsent.bytes.min(arena.len());
        if sent > 0 {
            peer.count_sent(sent);
        }
        if let Some(error) = &unsent.error {
            peer.failed(error);
        }
        unsent.error.is_none()
    }
}

/// The traffic class of a datagram, whose packet has that notification of congestion.
fn class(datagram: &[u8], ecn: u8) -> u8 {
    match datagram.first() {
        Some(&(INITIATION | RESPONSE)) => HANDSHAKE_CLASS,
        _ => ecn,
    }
}
