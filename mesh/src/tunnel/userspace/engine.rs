//! What happens to each packet and each datagram: which peer, which way, or why not. It holds the
//! table and the counters; reading and writing are [`Output`]'s and the workers'.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};

use super::drops::{Drop, Drops};
use super::session::{Now, OVERHEAD, Opened};
use super::table::{Path, Peer, PeerState, Table};
use crate::PublicKey;
use crate::endpoint::try_time;

/// The largest IP packet.
pub(super) const LARGEST: usize = 65_535;
/// Room for the largest packet, sealed.
pub(super) const SCRATCH: usize = LARGEST + OVERHEAD;

/// boringtun's timers go by seconds: of so many peers a part is looked at with each tick, and all
/// within a second.
const MANY: usize = 64;
const PARTS: usize = 4;

/// Where packets and datagrams go.
pub(super) trait Output {
    fn network(&self, datagram: &[u8], path: Path) -> io::Result<()>;
    fn tunnel(&self, packet: &[u8]) -> io::Result<()>;
}

/// The packet path of the device.
#[derive(Default)]
pub(super) struct Engine {
    pub(super) table: ArcSwap<Table>,
    pub(super) drops: Drops,
    /// Counts the ticks.
    ticks: AtomicUsize,
    /// How many peers of each part had not answered when they were last looked at.
    silent: [AtomicUsize; PARTS],
}

impl Engine {
    /// A packet of `len` bytes from the host, at the start of `buffer`; padding may be written
    /// behind it. `scratch` holds at least [`SCRATCH`] bytes.
    pub(super) fn outbound(
        &self,
        buffer: &mut [u8],
        len: usize,
        scratch: &mut [u8],
        now: Now,
        out: &impl Output,
    ) {
        let Some(destination) = buffer.get(..len).and_then(Tunn::dst_address) else {
            return self.drops.count(Drop::NotIp);
        };
        let table = self.table.load();
        let Some((_, peer)) = table.allowed_ips.longest_match(destination) else {
            return self.drops.count(match destination.is_multicast() {
                true => Drop::Multicast,
                false => Drop::NoPeer,
            });
        };
        let mut state = peer.lock();
        let Some(path) = state.path(now.instant) else {
            return self.drops.count(Drop::NoEndpoint);
        };
        let sealed = state.session.seal(buffer, len, scratch, now.instant);
        drop(state);
        self.drops.add(Drop::QueueFull, sealed.dropped);
        if let Some(len) = sealed.datagram {
            self.send(peer, &scratch[..len], path, out);
        }
    }

    /// A datagram from the network. `scratch` holds at least [`SCRATCH`] bytes.
    pub(super) fn inbound(
        &self,
        datagram: &[u8],
        arrived: Path,
        scratch: &mut [u8],
        now: Now,
        out: &impl Output,
    ) {
        let table = self.table.load();
        let peer = match self.sender(&table, datagram, arrived, out) {
            Ok(peer) => peer,
            Err(reason) => return self.drops.count(reason),
        };
        let mut state = peer.lock();
        let opened = state.session.open(datagram, scratch, now);
        match opened {
            Opened::Cookie => return,
            Opened::Late => {
                let answer = state.session.late(scratch, now.instant);
                let path = state.path(now.instant);
                drop(state);
                self.drops.count(Drop::BadHandshake);
                if let (Some(len), Some(path)) = (answer, path) {
                    self.send(peer, &scratch[..len], path, out);
                }
                return;
            }
            Opened::Refused(reason) => return self.drops.count(reason),
            _ => peer.count_received(datagram.len()),
        }
        if !may_roam(&table, &mut state, arrived) {
            return self.drops.count(Drop::EndpointInMesh);
        }
        let owes = state.session.owes();
        drop(state);
        match opened {
            Opened::Handshake(len) => self.send(peer, &scratch[..len], arrived, out),
            Opened::Packet(len, inner) => self.deliver(&table, peer, &scratch[..len], inner, out),
            Opened::NotIp => self.drops.count(Drop::InnerNotIp),
            Opened::Keepalive | Opened::Cookie | Opened::Late | Opened::Refused(_) => {}
        }
        if owes {
            self.flush(peer, scratch, now, out);
        }
    }

    /// What is due for every peer, or for a part of them where they are many. To be called every
    /// 250 ms.
    pub(super) fn tick(&self, scratch: &mut [u8], now: Now, out: &impl Output) {
        let table = self.table.load();
        if let Some(identity) = &table.identity {
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
            let mut state = peer.lock();
            let (due, given_up) = state.session.tick(scratch, pace, now.instant);
            unanswered[part] += usize::from(state.session.is_unanswered());
            let path = state.path(now.instant);
            drop(state);
            self.drops.add(Drop::HandshakeGivenUp, given_up);
            if let (Some(len), Some(path)) = (due, path) {
                self.send(peer, &scratch[..len], path, out);
            }
        }
        for (part, (known, unanswered)) in self.silent.iter().zip(unanswered).enumerate() {
            if is_all || part == turn {
                known.store(unanswered, Relaxed);
            }
        }
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
        let mut state = peer.lock();
        let due = make(&mut state, scratch);
        let path = state.path(now);
        drop(state);
        if let (Some(len), Some(path)) = (due, path) {
            self.send(peer, &scratch[..len], path, out);
        }
    }

    /// The peer that a datagram claims to be from. Answers with a cookie under load.
    fn sender<'t>(
        &self,
        table: &'t Table,
        datagram: &[u8],
        arrived: Path,
        out: &impl Output,
    ) -> Result<&'t Arc<Peer>, Drop> {
        let identity = table.identity.as_ref().ok_or(Drop::UnknownKey)?;
        let mut cookie = [0; 64];
        let packet =
            match identity
                .limiter
                .verify_packet(Some(arrived.remote.ip()), datagram, &mut cookie)
            {
                Ok(packet) => packet,
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    // A cookie that is lost is asked for again.
                    let _ = out.network(cookie, arrived);
                    return Err(Drop::UnderLoad);
                }
                Err(TunnResult::Err(WireGuardError::InvalidMac)) => return Err(Drop::BadMac),
                Err(_) => return Err(Drop::NotWireguard),
            };
        let by_index = |index: u32| table.by_index.get(&(index >> 8)).ok_or(Drop::UnknownIndex);
        match packet {
            Packet::HandshakeInit(initiation) => {
                let half = parse_handshake_anon(&identity.secret, &identity.public, &initiation)
                    .map_err(|_| Drop::BadHandshake)?;
                let key = PublicKey::from_bytes(half.peer_static_public);
                table.peers.get(&key).ok_or(Drop::UnknownKey)
            }
            Packet::HandshakeResponse(response) => by_index(response.receiver_idx),
            Packet::PacketCookieReply(reply) => by_index(reply.receiver_idx),
            Packet::PacketData(data) => by_index(data.receiver_idx),
        }
    }

    fn deliver(
        &self,
        table: &Table,
        peer: &Arc<Peer>,
        packet: &[u8],
        source: IpAddr,
        out: &impl Output,
    ) {
        match table.allowed_ips.longest_match(source) {
            Some((_, holder)) if Arc::ptr_eq(holder, peer) => {}
            _ => return self.drops.count(Drop::SourceNotAllowed),
        }
        if out.tunnel(packet).is_err() {
            self.drops.count(Drop::TunWrite);
        }
    }

    fn flush(&self, peer: &Peer, scratch: &mut [u8], now: Now, out: &impl Output) {
        // The lock is kept so that what waited goes out before what comes now.
        let mut state = peer.lock();
        while let (Some(len), Some(path)) = (
            state.session.flush(scratch, now.instant),
            state.path(now.instant),
        ) {
            self.send(peer, &scratch[..len], path, out);
        }
    }

    fn send(&self, peer: &Peer, datagram: &[u8], path: Path, out: &impl Output) {
        match out.network(datagram, path) {
            Ok(()) => peer.count_sent(datagram.len()),
            Err(error) => {
                peer.failed(&error);
                self.drops.count(Drop::UdpSend);
            }
        }
    }
}

/// Follows a peer to the address of an authentic datagram, unless it lies inside the mesh: the
/// underlay never runs inside the mesh.
fn may_roam(table: &Table, state: &mut PeerState, arrived: Path) -> bool {
    let source = arrived.remote;
    if state.endpoint != Some(source)
        && matches!(table.allowed_ips.longest_match(source.ip()), Some((1.., _)))
    {
        return false;
    }
    state.endpoint = Some(source);
    state.local = arrived.local;
    true
}
