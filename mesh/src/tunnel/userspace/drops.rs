//! What the engine drops, counted by reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a packet or a datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drop {
    /// From the host, for an address that no peer holds.
    NoPeer,
    /// From the host, for many at once: a tunnel reaches one.
    Multicast,
    /// From the host, while the device has no key.
    NoKey,
    /// From the host, and neither IPv4 nor IPv6.
    NotIp,
    /// For a peer that has no endpoint yet.
    NoEndpoint,
    /// Too many packets wait for the peer's handshake.
    QueueFull,
    /// Waited for a handshake that was given up.
    HandshakeGivenUp,
    /// The socket would not take the datagram.
    UdpSend,
    /// The TUN would not take the packet.
    TunWrite,
    /// From the network, and not WireGuard.
    NotWireguard,
    /// A handshake message whose `mac1` was not made for our key.
    BadMac,
    /// A handshake message answered with a cookie: there are too many.
    UnderLoad,
    /// A handshake from a key that is no peer's.
    UnknownKey,
    /// A receiver index that is no session's.
    UnknownIndex,
    /// A handshake message that did not decrypt, or came late or twice.
    BadHandshake,
    /// Data that did not decrypt.
    BadData,
    /// Data whose counter was seen before or is too old.
    Replayed,
    /// Authenticated, and not an IP packet.
    InnerNotIp,
    /// Authenticated, from an address that is not the peer's.
    SourceNotAllowed,
    /// Authenticated, from an underlay address that lies inside the mesh.
    EndpointInMesh,
    /// Authenticated, from a sender that does not react to congestion, which its datagram met.
    Congested,
}

impl Drop {
    const ALL: [(Self, &'static str); 21] = [
        (Self::NoPeer, "no_peer"),
        (Self::Multicast, "multicast"),
        (Self::NoKey, "no_key"),
        (Self::NotIp, "not_ip"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::QueueFull, "queue_full"),
        (Self::HandshakeGivenUp, "handshake_given_up"),
        (Self::UdpSend, "udp_send"),
        (Self::TunWrite, "tun_write"),
        (Self::NotWireguard, "not_wireguard"),
        (Self::BadMac, "bad_mac"),
        (Self::UnderLoad, "under_load"),
        (Self::UnknownKey, "unknown_key"),
        (Self::UnknownIndex, "unknown_index"),
        (Self::BadHandshake, "bad_handshake"),
        (Self::BadData, "bad_data"),
        (Self::Replayed, "replayed"),
        (Self::InnerNotIp, "inner_not_ip"),
        (Self::SourceNotAllowed, "source_not_allowed"),
        (Self::EndpointInMesh, "endpoint_in_mesh"),
        (Self::Congested, "congested"),
    ];
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(super) struct Drops([AtomicU64; Drop::ALL.len()]);

impl Drops {
    pub(super) fn count(&self, reason: Drop) {
        self.add(reason, 1);
    }

    pub(super) fn add(&self, reason: Drop, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Relaxed);
    }

    /// The reasons that occurred, by name.
    pub(super) fn counted(&self) -> BTreeMap<&'static str, u64> {
        let count = |&(reason, name)| (name, self.0[reason as usize].load(Relaxed));
        let occurred = |&(_, count): &(_, u64)| count > 0;
        Drop::ALL.iter().map(count).filter(occurred).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        for (place, (reason, name)) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{name}");
            let drops = Drops::default();
            drops.add(reason, 2);
            assert_eq!(drops.counted(), BTreeMap::from([(name, 2)]));
        }
    }
}
