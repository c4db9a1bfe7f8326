//! From the host to the network.

use super::super::checksum::destination;
use super::super::drops::Drop;
use super::super::ecn;
use super::super::outgoing::{Outgoing, Staged};
use super::super::segment::{Segments, finish};
use super::super::session::Now;
use super::super::vnet::Vnet;
use super::{Engine, Output, class};

impl Engine {
    /// A packet from the host, or a super-packet: stages it, and sends what is staged when there is
    /// no room for more.
    pub(in super::super) fn outbound(
        &self,
        vnet: Vnet,
        packet: &mut [u8],
        outgoing: &mut Outgoing,
        now: Now,
        out: &impl Output,
    ) {
        let Some(destination) = destination(packet) else {
            return self.drops.count(Drop::NotIp);
        };
        let table = self.table.load();
        let Some((_, peer)) = table.allowed_ips.longest_match(destination) else {
            return self.drops.count(match destination.is_multicast() {
                true => Drop::Multicast,
                false => Drop::NoPeer,
            });
        };
        if table.identity().is_none() {
            return self.drops.count(Drop::NoKey);
        }
        let Ok(segments) = Segments::of(vnet, packet) else {
            return self.drops.count(Drop::NotIp);
        };
        if let Some(segments) = segments {
            let room = segments.longest().next_multiple_of(16);
            for number in 0..segments.count() {
                if !outgoing.has_room(room) {
                    self.send_staged(outgoing, now, out);
                }
                outgoing.stage(peer, room, |room| segments.write(number, room));
            }
            return;
        }
        if finish(vnet, packet).is_err() {
            return self.drops.count(Drop::NotIp);
        }
        let room = packet.len().next_multiple_of(16);
        if !outgoing.has_room(room) {
            self.send_staged(outgoing, now, out);
        }
        outgoing.stage(peer, room, |room| {
            room[..packet.len()].copy_from_slice(packet);
            packet.len()
        });
    }

    /// Seals and sends what is staged, a peer at a time.
    pub(in super::super) fn send_staged(
        &self,
        outgoing: &mut Outgoing,
        now: Now,
        out: &impl Output,
    ) {
        let Outgoing {
            plain,
            staged,
            peers,
            sealed,
            ..
        } = outgoing;
        for (number, peer) in peers.iter().enumerate() {
            let own = staged.iter().filter(|staged| staged.peer == number);
            // From the first counter to the system call: counters go out in their order.
            let _order = peer.order();
            let mut state = peer.lock();
            let Some(path) = state.path(now.instant) else {
                self.drops.add(Drop::NoEndpoint, own.count() as u64);
                continue;
            };
            if state.session.owes() {
                self.flush_in_order(peer, &mut state, sealed.room(), now, out);
            }
            for &Staged { start, len, .. } in own {
                let ecn = ecn::field(&plain[start..start + len]);
                let room = start + len.next_multiple_of(16);
                let packet = &mut plain[start..room];
                let done = state.session.seal(packet, len, sealed.room(), now.instant);
                self.drops.add(Drop::QueueFull, done.dropped);
                if let Some(len) = done.datagram {
                    let class = class(&sealed.room()[..len], ecn);
                    sealed.push(len, class);
                }
            }
            drop(state);
            self.send_sealed(peer, sealed, path, out);
            sealed.clear();
        }
        outgoing.clear();
    }
}
