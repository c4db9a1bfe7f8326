//! From the network to the host.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, TunnResult};

use super::super::datagram::is_wireguard;
use super::super::drops::Drop;
use super::super::ecn;
use super::super::incoming::Incoming;
use super::super::session::{Now, Opened};
use super::super::table::{Path, Peer, PeerState, Table};
use super::super::udp::{Received, Run, Segmentation};
use super::super::wire::{DATA, word};
use super::{Engine, Output};
use crate::PublicKey;

/// The least length of data: a header and an authentication tag.
const LEAST: usize = 32;

impl Engine {
    /// Datagrams of one sender: what they hold waits in `incoming` for [`Engine::deliver`].
    pub(in super::super) fn inbound(
        &self,
        received: &Received<'_>,
        incoming: &mut Incoming,
        now: Now,
        out: &impl Output,
    ) {
        if !incoming.has_room(received.bytes.len()) {
            self.deliver(incoming, now, out);
        }
        if received.bytes.is_empty() {
            return self.drops.count(Drop::NotWireguard);
        }
        let table = self.table.load();
        let mut datagrams = received.bytes.chunks(received.size).peekable();
        while let Some(first) = datagrams.next() {
            let Some((index, peer)) = by_data(&table, first) else {
                self.inbound_other(&table, first, received.path, incoming, now, out);
                continue;
            };
            // One lock, and one look at the source, for all that follow of the same.
            let mut state = peer.lock();
            let mut arrival = Arrival {
                table: &table,
                peer,
                received,
                source: None,
                now,
            };
            self.data(&mut arrival, &mut state, first, incoming);
            while let Some(next) = datagrams.next_if(|next| data_index(next) == Some(index)) {
                self.data(&mut arrival, &mut state, next, incoming);
            }
            if state.session.owes() {
                incoming.owed.push(Arc::clone(peer));
            }
        }
    }

    /// Gives the host what was opened, and sends what waited for a session that is there now. By
    /// which queue, of however many, the host was given something last.
    pub(in super::super) fn deliver(
        &self,
        incoming: &mut Incoming,
        now: Now,
        out: &impl Output,
    ) -> Option<usize> {
        let mut queue = None;
        for number in 0..incoming.batch.writes() {
            let write = incoming.batch.write(number, &mut incoming.plain);
            if out.tunnel(&write, &incoming.plain).is_err() {
                self.drops.add(Drop::TunWrite, write.count() as u64);
            }
            queue = Some(write.hash as usize);
        }
        incoming.clear();
        while let Some(peer) = incoming.owed.pop() {
            self.flush(&peer, &mut incoming.scratch, now, out);
        }
        queue
    }

    /// Data for a session of the peer, whose lock is held.
    fn data(
        &self,
        arrival: &mut Arrival<'_>,
        state: &mut PeerState,
        datagram: &[u8],
        incoming: &mut Incoming,
    ) {
        let opened = state.session.open(datagram, incoming.room(), arrival.now);
        if let Opened::Refused(reason) = opened {
            return self.drops.count(reason);
        }
        arrival.peer.count_received(datagram.len());
        if !may_roam(arrival.table, arrival.peer, state, arrival.received.path) {
            return self.drops.count(Drop::EndpointInMesh);
        }
        match opened {
            Opened::Packet(len, source) => {
                if !arrival.may_send_from(source) {
                    return self.drops.count(Drop::SourceNotAllowed);
                }
                if ecn::combine(&mut incoming.room()[..len], arrival.received.class).is_err() {
                    return self.drops.count(Drop::Congested);
                }
                incoming.keep(len);
            }
            Opened::NotIp => self.drops.count(Drop::InnerNotIp),
            _ => {}
        }
    }

    /// What is no data: handshakes, cookies, and what is not WireGuard's.
    fn inbound_other(
        &self,
        table: &Table,
        datagram: &[u8],
        arrived: Path,
        incoming: &mut Incoming,
        now: Now,
        out: &impl Output,
    ) {
        if !is_wireguard(datagram) {
            if !self.others.offer(datagram, arrived) {
                self.drops.count(Drop::NotWireguard);
            }
            return;
        }
        let peer = match self.sender(table, datagram, arrived, now, out) {
            Ok(peer) => peer,
            Err(reason) => return self.drops.count(reason),
        };
        let scratch = &mut incoming.scratch;
        // The answer to an answer is data.
        let _order = peer.order();
        let mut state = peer.lock();
        let answer = match state.session.open(datagram, scratch, now) {
            Opened::Cookie => return,
            Opened::Late => {
                let answer = state.session.late(scratch, now.instant);
                let path = state.path(now.instant);
                drop(state);
                self.drops.count(Drop::BadHandshake);
                if let (Some(len), Some(path)) = (answer, path) {
                    self.send_one(peer, &scratch[..len], path, out);
                }
                return;
            }
            Opened::Refused(reason) => return self.drops.count(reason),
            Opened::Handshake(answer) => Some(answer),
            Opened::Packet(..) | Opened::Keepalive | Opened::NotIp => None,
        };
        peer.count_received(datagram.len());
        if !may_roam(table, peer, &mut state, arrived) {
            return self.drops.count(Drop::EndpointInMesh);
        }
        peer.way.forget();
        if let Some(len) = answer {
            self.send_one(peer, &scratch[..len], arrived, out);
        }
        if state.session.owes() {
            self.flush_in_order(peer, &mut state, scratch, now, out);
        }
    }

    /// The peer that a datagram claims to be from. Answers with a cookie under load.
    fn sender<'t>(
        &self,
        table: &'t Table,
        datagram: &[u8],
        arrived: Path,
        now: Now,
        out: &impl Output,
    ) -> Result<&'t Arc<Peer>, Drop> {
        let identity = table.identity().ok_or(Drop::UnknownKey)?;
        let mut cookie = [0; 64];
        let packet =
            match identity
                .limiter
                .verify_packet(Some(arrived.remote.ip()), datagram, &mut cookie)
            {
                Ok(packet) => packet,
                Err(TunnResult::WriteToNetwork(cookie)) => {
                    self.sources().count();
                    // A cookie that is lost is asked for again.
                    let (len, way) = (cookie.len(), Segmentation::default());
                    let run = Run {
                        start: 0,
                        len,
                        size: len,
                        class: 0,
                    };
                    let _ = out.network(&[run], cookie, arrived, &way);
                    return Err(Drop::UnderLoad);
                }
                Err(TunnResult::Err(WireGuardError::InvalidMac)) => return Err(Drop::BadMac),
                Err(_) => return Err(Drop::NotWireguard),
            };
        let by_index = |index: u32| table.by_index.get(&(index >> 8)).ok_or(Drop::UnknownIndex);
        match packet {
            Packet::HandshakeInit(initiation) => {
                let mut sources = self.sources();
                let is_proven = sources.count();
                if is_proven && !sources.admits(arrived.remote.ip(), now.instant) {
                    return Err(Drop::UnderLoad);
                }
                drop(sources);
                let half = parse_handshake_anon(&identity.secret, &identity.public, &initiation)
                    .map_err(|_| Drop::BadHandshake)?;
                let key = PublicKey::from_bytes(half.peer_static_public);
                table.peers.get(&key).ok_or(Drop::UnknownKey)
            }
            Packet::HandshakeResponse(response) => {
                self.sources().count();
                by_index(response.receiver_idx)
            }
            Packet::PacketCookieReply(reply) => by_index(reply.receiver_idx),
            Packet::PacketData(data) => by_index(data.receiver_idx),
        }
    }
}

/// Data of one peer that came together.
struct Arrival<'a> {
    table: &'a Table,
    peer: &'a Arc<Peer>,
    received: &'a Received<'a>,
    /// A source that was looked up, and is the peer's.
    source: Option<IpAddr>,
    now: Now,
}

impl Arrival<'_> {
    /// Whether the source is the peer's, by the longest match over the whole device.
    fn may_send_from(&mut self, source: IpAddr) -> bool {
        if self.source != Some(source) {
            match self.table.allowed_ips.longest_match(source) {
                Some((_, holder)) if Arc::ptr_eq(holder, self.peer) => self.source = Some(source),
                _ => return false,
            }
        }
        true
    }
}

/// The receiver index of data.
fn data_index(datagram: &[u8]) -> Option<u32> {
    (datagram.len() >= LEAST && datagram[..4] == [DATA, 0, 0, 0])
        .then(|| word(datagram, 4))
        .flatten()
}

/// The peer that a datagram's index names, if it is data.
fn by_data<'t>(table: &'t Table, datagram: &[u8]) -> Option<(u32, &'t Arc<Peer>)> {
    let index = data_index(datagram)?;
    Some((index, table.by_index.get(&(index >> 8))?))
}

/// Follows a peer to the address of an authentic datagram, unless it lies inside the mesh: the
/// underlay never runs inside the mesh.
fn may_roam(table: &Table, peer: &Peer, state: &mut PeerState, arrived: Path) -> bool {
    let source = arrived.remote;
    if state.endpoint != Some(source.into()) {
        if matches!(table.allowed_ips.longest_match(source.ip()), Some((1.., _))) {
            return false;
        }
        state.endpoint = Some(source.into());
        peer.way.forget();
    }
    state.local = arrived.local;
    true
}
