//! From the TUN: what the host left to its network device. A packet without its checksum gets it; a
//! super-packet (TSO, USO) is cut into the segments that the host would have sent.

use super::checksum::{TCP, UDP, addresses, fold, pseudo, set_ipv4_header, sum};
use super::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};

const UDP_HEADER: usize = 8;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The host gave a packet whose headers do not fit what it says of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Makes the checksum that is missing from a packet that is sent as it is.
pub(super) fn finish(vnet: Vnet, packet: &mut [u8]) -> Result<(), Malformed> {
    if vnet.flags & NEEDS_CSUM == 0 {
        return Ok(());
    }
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if field + 2 > packet.len() {
        return Err(Malformed);
    }
    // The field has the pseudo-header's sum, so it counts as it is.
    let checksum = match !fold(sum(&packet[start..], 0)) {
        // To UDP, zero is no checksum; to TCP both are one (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    packet[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
    Ok(())
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segments<'a> {
    packet: &'a [u8],
    protocol: u8,
    /// Where the transport's header starts.
    transport: usize,
    /// Where the payload starts.
    headers: usize,
    size: usize,
    ecn: bool,
}

impl<'a> Segments<'a> {
    /// `None` for a packet that is no super-packet.
    pub(super) fn of(vnet: Vnet, packet: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let kind = vnet.gso_type & !GSO_ECN;
        if kind == GSO_NONE {
            return Ok(None);
        }
        let transport = usize::from(vnet.csum_start);
        let size = usize::from(vnet.gso_size);
        let version = packet.first().ok_or(Malformed)? >> 4;
        let (protocol, least) = match (kind, version) {
            (GSO_TCPV4, 4) | (GSO_TCPV6, 6) => (TCP, 20),
            (GSO_UDP_L4, 4 | 6) => (UDP, UDP_HEADER),
            _ => return Err(Malformed),
        };
        let network = match version {
            4 => usize::from(packet[0] & 0xf) * 4,
            _ => 40,
        };
        if !(20..=transport).contains(&network) || packet.len() < transport + least || size == 0 {
            return Err(Malformed);
        }
        let header = match protocol {
            TCP => usize::from(packet[transport + 12] >> 4) * 4,
            _ => UDP_HEADER,
        };
        let headers = transport + header;
        if header < least || headers >= packet.len() {
            return Err(Malformed);
        }
        Ok(Some(Self {
            packet,
            protocol,
            transport,
            headers,
            size,
            ecn: vnet.gso_type & GSO_ECN != 0,
        }))
    }

    pub(super) fn count(&self) -> usize {
        (self.packet.len() - self.headers).div_ceil(self.size)
    }

    /// The length of all but the last, which is not longer.
    pub(super) fn longest(&self) -> usize {
        self.headers + self.size.min(self.packet.len() - self.headers)
    }

    /// Writes segment `number` to the start of `out`, and returns its length.
    pub(super) fn write(&self, number: usize, out: &mut [u8]) -> usize {
        let from = self.headers + number * self.size;
        let payload = &self.packet[from..(from + self.size).min(self.packet.len())];
        let is_last = from + payload.len() == self.packet.len();
        let len = self.headers + payload.len();
        let out = &mut out[..len];
        out[..self.headers].copy_from_slice(&self.packet[..self.headers]);
        out[self.headers..].copy_from_slice(payload);
        if out[0] >> 4 == 4 {
            out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(number as u16);
            out[4..6].copy_from_slice(&id.to_be_bytes());
            let header = usize::from(out[0] & 0xf) * 4;
            set_ipv4_header(&mut out[..header]);
        } else {
            out[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        let length = len - self.transport;
        let at = self.transport;
        let field = if self.protocol == TCP {
            let sequence = out[at + 4..at + 8].try_into().map_or(0, u32::from_be_bytes);
            let sequence = sequence.wrapping_add((number * self.size) as u32);
            out[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            if !is_last {
                out[at + 13] &= !(FIN | PSH);
            }
            if number > 0 && self.ecn {
                out[at + 13] &= !CWR;
            }
            at + 16
        } else {
            out[at + 4..at + 6].copy_from_slice(&(length as u16).to_be_bytes());
            at + 6
        };
        out[field..field + 2].fill(0);
        let pseudo = pseudo(addresses(out), self.protocol, length);
        let checksum = match !fold(sum(&out[at..], pseudo)) {
            0 if self.protocol == UDP => 0xffff,
            checksum => checksum,
        };
        out[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
        len
    }
}
