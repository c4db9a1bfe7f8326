//! What a datagram holds.

use std::net::IpAddr;

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;

use super::super::drops::Drop;
use super::super::wire::{COOKIE, DATA, INITIATION, RESPONSE, word};
use super::{Now, Session};

/// What a datagram held. All but `Cookie`, `Late` and `Refused` are authentic and new.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Opened {
    /// A handshake message; the answer has this length.
    Handshake(usize),
    Keepalive,
    /// An IP packet: its length and its source.
    Packet(usize, IpAddr),
    NotIp,
    Cookie,
    /// An initiation by the peer itself, with a timestamp that is not later than its last one:
    /// sent twice, or by a clock that was set back.
    Late,
    Refused(Drop),
}

impl Session {
    /// Opens a datagram that passed the device's limiter and bears one of our indices (or is an
    /// initiation of this peer's key).
    pub(in super::super) fn open(&mut self, datagram: &[u8], out: &mut [u8], now: Now) -> Opened {
        let Some(receiver) = word(datagram, 4) else {
            return Opened::Refused(Drop::NotWireguard);
        };
        let kind = datagram[0];
        #[cfg(feature = "testing")]
        if kind == DATA
            && let Some(other) = &mut self.other
            && let Some(len) = other.open(datagram, out)
        {
            self.last_heard = Some(now.instant);
            return match length_and_source(&out[..len]) {
                Some((len, source)) => Opened::Packet(len, source),
                None => Opened::NotIp,
            };
        }
        let draining = self
            .draining
            .as_mut()
            .filter(|old| old.index == receiver >> 8);
        let tunn = match draining {
            Some(old) if kind == DATA => &mut old.tunn,
            Some(_) if kind != INITIATION => return Opened::Refused(Drop::BadHandshake),
            _ => &mut self.tunn,
        };
        let result = tunn.decapsulate(None, datagram, out);
        let opened = match (kind, result) {
            (INITIATION, TunnResult::WriteToNetwork(answer)) => {
                self.unconfirmed = word(answer, 4);
                self.last_handshake_sent = Some(now.instant);
                Opened::Handshake(answer.len())
            }
            (RESPONSE, TunnResult::WriteToNetwork(answer)) => {
                self.last_handshake = Some(now.wall);
                self.begun();
                Opened::Handshake(answer.len())
            }
            (INITIATION, TunnResult::Err(WireGuardError::WrongTai64nTimestamp)) => {
                return Opened::Late;
            }
            (COOKIE, TunnResult::Done) => return Opened::Cookie,
            (DATA, TunnResult::Done) => Opened::Keepalive,
            // boringtun believes a length that the header itself exceeds.
            (DATA, TunnResult::WriteToTunnelV4(packet, _)) if packet.len() < 20 => Opened::NotIp,
            (DATA, TunnResult::WriteToTunnelV4(packet, source)) => {
                Opened::Packet(packet.len(), source.into())
            }
            (DATA, TunnResult::WriteToTunnelV6(packet, source)) => {
                Opened::Packet(packet.len(), source.into())
            }
            // It decrypted: boringtun looks at the packet only after that.
            (DATA, TunnResult::Err(WireGuardError::InvalidPacket)) => Opened::NotIp,
            (_, TunnResult::Err(error)) => return Opened::Refused(reason(kind, &error)),
            _ => return Opened::Refused(Drop::NotWireguard),
        };
        self.last_traffic = now.instant;
        self.last_heard = Some(now.instant);
        if kind == DATA && self.unconfirmed == Some(receiver) {
            self.unconfirmed = None;
            self.last_handshake = Some(now.wall);
            self.begun();
        }
        if kind != DATA || !self.ready {
            self.refresh(now.instant);
        }
        opened
    }
}

/// Without the padding, as boringtun has it.
#[cfg(feature = "testing")]
fn length_and_source(packet: &[u8]) -> Option<(usize, IpAddr)> {
    let bytes = |at: usize| {
        packet
            .get(at..at + 2)
            .map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))
    };
    let (len, source) = match packet.first()? >> 4 {
        4 => (
            bytes(2)?,
            IpAddr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?),
        ),
        6 => (
            40 + bytes(4)?,
            IpAddr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?),
        ),
        _ => return None,
    };
    (20..=packet.len()).contains(&len).then_some((len, source))
}

fn reason(kind: u8, error: &WireGuardError) -> Drop {
    match error {
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => Drop::Replayed,
        WireGuardError::NoCurrentSession | WireGuardError::WrongIndex => Drop::UnknownIndex,
        _ if kind == DATA => Drop::BadData,
        _ => Drop::BadHandshake,
    }
}
