//! Towards the TUN: packets of one flow that follow on one another become one super-packet, which
//! the host takes through its stack once (GRO's rules, as wide as the host can cut them apart again).

use super::checksum::{TCP, UDP, addresses, fold, pseudo, set_ipv4_header, sum};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};

/// The extension header of IPv6 fragments.
const FRAGMENT: u8 = 44;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// The largest super-packet, and the most segments of one (the kernel's UDP_MAX_SEGMENTS before 6.9).
const LARGEST: usize = 65_535;
const MOST: u16 = 64;
/// Places of the table of flows; a power of two.
const PLACES: usize = 256;
const NONE: u16 = u16::MAX;

/// What the host is able to take as super-packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offloads {
    pub(super) tcp: bool,
    pub(super) udp: bool,
}

/// A packet of a batch, in the arena.
#[derive(Clone, Copy, Debug)]
struct Packet {
    start: u32,
    len: u16,
    /// The next of its group.
    next: u16,
}

/// What of a packet decides whether it may follow on another.
#[derive(Clone, Copy, Debug)]
struct Shape {
    protocol: u8,
    /// Where the transport's header starts, and the payload.
    transport: u16,
    headers: u16,
    payload: u16,
    /// TCP: its sequence number, and whether it pushes.
    sequence: u32,
    push: bool,
    hash: u32,
}

/// Packets that are one write.
#[derive(Clone, Copy, Debug)]
struct Group {
    first: u16,
    last: u16,
    count: u16,
    /// Bytes in all, headers once.
    len: u32,
    shape: Option<Shape>,
    /// What must come next, for TCP.
    sequence: u32,
    /// Nothing may be added.
    closed: bool,
    verified: bool,
    hash: u32,
}

/// One batch: packets in the order of their arrival, and what becomes of them.
#[derive(Debug)]
pub(super) struct Batch {
    packets: Vec<Packet>,
    groups: Vec<Group>,
    /// The last group of a flow, by its hash.
    flows: Box<[u16; PLACES]>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            packets: Vec::with_capacity(1024),
            groups: Vec::with_capacity(1024),
            flows: Box::new([NONE; PLACES]),
        }
    }
}

/// One write to the TUN: its header, and where its pieces lie in the arena.
pub(super) struct Write<'a> {
    pub(super) vnet: Vnet,
    /// Of the flow, the same both ways.
    pub(super) hash: u32,
    packets: &'a [Packet],
    group: Group,
}

impl Batch {
    /// No more packets may be added before it is written.
    pub(super) fn is_full(&self) -> bool {
        self.packets.len() >= usize::from(NONE)
    }

    pub(super) fn clear(&mut self) {
        self.packets.clear();
        self.groups.clear();
        self.flows.fill(NONE);
    }

    /// Adds the IP packet of `len` bytes at `start` of the arena, whose length field is right.
    pub(super) fn push(&mut self, arena: &[u8], start: usize, len: usize, offloads: Offloads) {
        let number = self.packets.len() as u16;
        self.packets.push(Packet {
            start: start as u32,
            len: len as u16,
            next: NONE,
        });
        let packet = &arena[start..start + len];
        let shape = Shape::of(packet, offloads);
        // The engine says that it is an IP packet; nothing here relies on more.
        let hash = shape.map_or_else(|| hash(packet).unwrap_or(0), |shape| shape.hash);
        let place = hash as usize % PLACES;
        let known = self.flows[place];
        if known != NONE {
            let group = &mut self.groups[usize::from(known)];
            let head = self.packets[usize::from(group.first)];
            let head = &arena[head.start as usize..][..usize::from(head.len)];
            if let (Some(shape), Some(first)) = (shape, group.shape)
                && group.takes(shape, first, head, packet)
            {
                self.packets[usize::from(group.last)].next = number;
                group.last = number;
                group.count += 1;
                group.len += u32::from(shape.payload);
                group.sequence = shape.sequence.wrapping_add(shape.payload.into());
                group.closed = shape.payload < first.payload || shape.push;
                return;
            }
        }
        if shape.is_none() && is_fragment(packet) {
            // It may be of any flow: it shows no ports.
            self.flows.fill(NONE);
        }
        // What comes later of this flow must not be written before this.
        self.flows[place] = self.groups.len() as u16;
        self.groups.push(Group {
            first: number,
            last: number,
            count: 1,
            len: len as u32,
            shape,
            sequence: shape.map_or(0, |shape| shape.sequence.wrapping_add(shape.payload.into())),
            closed: shape.is_none_or(|shape| shape.push),
            verified: false,
            hash,
        });
    }

    pub(super) fn writes(&self) -> usize {
        self.groups.len()
    }

    /// Makes the headers of write `number` in the arena.
    pub(super) fn write(&self, number: usize, arena: &mut [u8]) -> Write<'_> {
        let group = self.groups[number];
        let mut vnet = Vnet::default();
        if let Some(shape) = group.shape
            && group.count > 1
        {
            let first = self.packets[usize::from(group.first)];
            let last = self.packets[usize::from(group.last)];
            let flags = |packet: Packet| packet.start as usize + usize::from(shape.transport) + 13;
            let push = (shape.protocol == TCP).then(|| arena[flags(last)] & PSH);
            let head = &mut arena[first.start as usize..][..usize::from(first.len)];
            if let Some(push) = push {
                head[usize::from(shape.transport) + 13] |= push;
            }
            vnet = shape.super_header(head, group.len as usize);
        }
        Write {
            vnet,
            hash: group.hash,
            packets: &self.packets,
            group,
        }
    }
}

impl Write<'_> {
    /// Where its pieces lie in the arena, in order: each start and length.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut next = self.group.first;
        let mut skip = 0;
        std::iter::from_fn(move || {
            let packet = *self.packets.get(usize::from(next))?;
            let piece = (packet.start as usize + skip, usize::from(packet.len) - skip);
            next = packet.next;
            skip = self
                .group
                .shape
                .map_or(0, |shape| usize::from(shape.headers));
            Some(piece)
        })
    }

    /// How many packets it is made of.
    pub(super) fn count(&self) -> usize {
        usize::from(self.group.count)
    }
}

impl Group {
    /// Whether the packet may follow on the group whose first packet is `head`.
    fn takes(&mut self, next: Shape, first: Shape, head: &[u8], packet: &[u8]) -> bool {
        if self.closed
            || next.protocol != first.protocol
            || next.transport != first.transport
            || next.headers != first.headers
            || next.payload > first.payload
            || self.count >= MOST
            || self.len as usize + usize::from(next.payload) > LARGEST
            || next.protocol == TCP && next.sequence != self.sequence
            || !alike(first, head, packet, self.count)
        {
            return false;
        }
        // The host will not look at the checksums of a super-packet's segments again.
        self.verified = self.verified || first.is_right(head);
        self.verified && next.is_right(packet)
    }
}

impl Shape {
    /// `None` for what always goes alone.
    fn of(packet: &[u8], offloads: Offloads) -> Option<Self> {
        let (protocol, transport) = match packet.first()? >> 4 {
            // No options, no fragments.
            4 if packet.len() >= 20
                && packet[0] == 0x45
                && packet[6] & 0x3f == 0
                && packet[7] == 0 =>
            {
                (packet[9], 20)
            }
            6 if packet.len() >= 40 => (packet[6], 40),
            _ => return None,
        };
        let rest = packet.get(transport..)?;
        let (header, sequence, push) = match protocol {
            TCP if offloads.tcp && rest.len() >= 20 => {
                let flags = rest[13];
                if flags & !PSH != ACK {
                    return None;
                }
                let sequence = u32::from_be_bytes(rest[4..8].try_into().ok()?);
                (usize::from(rest[12] >> 4) * 4, sequence, flags & PSH != 0)
            }
            UDP if offloads.udp && rest.len() >= 8 => {
                let length = usize::from(u16::from_be_bytes([rest[4], rest[5]]));
                // Without a checksum there is nothing to be sure by.
                if length != rest.len() || rest[6..8] == [0, 0] {
                    return None;
                }
                (8, 0, false)
            }
            _ => return None,
        };
        if header < 8 || rest.len() <= header || protocol == TCP && header < 20 {
            return None;
        }
        Some(Self {
            protocol,
            transport: transport as u16,
            headers: (transport + header) as u16,
            payload: (rest.len() - header) as u16,
            sequence,
            push,
            hash: mix(addresses(packet), protocol, &rest[..4]),
        })
    }

    /// Whether its checksums are right.
    fn is_right(self, packet: &[u8]) -> bool {
        let network = &packet[..usize::from(self.transport)];
        if packet[0] >> 4 == 4 && fold(sum(network, 0)) != 0xffff {
            return false;
        }
        let segment = &packet[usize::from(self.transport)..];
        let pseudo = pseudo(addresses(packet), self.protocol, segment.len());
        fold(sum(segment, pseudo)) == 0xffff
    }

    /// Makes the first packet's headers those of a super-packet of `len` bytes.
    fn super_header(self, head: &mut [u8], len: usize) -> Vnet {
        let at = usize::from(self.transport);
        let is_v4 = head[0] >> 4 == 4;
        if is_v4 {
            head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            set_ipv4_header(&mut head[..at]);
        } else {
            head[4..6].copy_from_slice(&((len - at) as u16).to_be_bytes());
        }
        let offset = if self.protocol == TCP { 16 } else { 6 };
        if self.protocol == UDP {
            head[at + 4..at + 6].copy_from_slice(&((len - at) as u16).to_be_bytes());
        }
        let partial = fold(pseudo(addresses(head), self.protocol, len - at));
        head[at + offset..at + offset + 2].copy_from_slice(&partial.to_ne_bytes());
        Vnet {
            flags: NEEDS_CSUM,
            gso_type: match (self.protocol, is_v4) {
                (UDP, _) => GSO_UDP_L4,
                (_, true) => GSO_TCPV4,
                (_, false) => GSO_TCPV6,
            },
            hdr_len: self.headers,
            gso_size: self.payload,
            csum_start: self.transport,
            csum_offset: offset as u16,
        }
    }
}

/// Whether all that a cut repeats is the same in both: addresses, ports, class, TTL, fragment bits and,
/// for TCP, acknowledgement, window and options. Where a packet may still be fragmented its number has
/// to be the one that the cut will give it.
fn alike(first: Shape, head: &[u8], packet: &[u8], count: u16) -> bool {
    let at = usize::from(first.transport);
    let network = if head[0] >> 4 == 4 {
        let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        head[1] == packet[1]
            && head[6..8] == packet[6..8]
            && head[8] == packet[8]
            && head[12..20] == packet[12..20]
            && (head[6] & 0x40 != 0 || id(packet) == id(head).wrapping_add(count))
    } else {
        head[..4] == packet[..4] && head[6..40] == packet[6..40]
    };
    network
        && packet[0] == head[0]
        && head[at..at + 4] == packet[at..at + 4]
        && (first.protocol != TCP || {
            let headers = usize::from(first.headers);
            head[at + 8..at + 13] == packet[at + 8..at + 13]
                && head[at + 14..at + 16] == packet[at + 14..at + 16]
                && head[at + 18..headers] == packet[at + 18..headers]
        })
}

/// Whether it is a part of a packet, of IPv4 or IPv6.
fn is_fragment(packet: &[u8]) -> bool {
    match packet {
        [version, _, _, _, _, _, high, low, ..] if version >> 4 == 4 => {
            high & 0x3f != 0 || *low != 0
        }
        [version, _, _, _, _, _, next, ..] => version >> 4 == 6 && *next == FRAGMENT,
        _ => false,
    }
}

/// A hash of a flow that is the same both ways: of whatever of it every packet shows.
fn hash(packet: &[u8]) -> Option<u32> {
    let (protocol, transport) = match packet.first()? >> 4 {
        4 if packet.len() < 20 => return None,
        4 if packet[6] & 0x3f == 0 && packet[7] == 0 => {
            (packet[9], usize::from(packet[0] & 0xf) * 4)
        }
        // A fragment: the ports are in the first one alone.
        4 => (packet[9], packet.len()),
        _ if packet.len() < 40 => return None,
        _ => (packet[6], 40),
    };
    let ports = match protocol {
        TCP | UDP => packet.get(transport..transport + 4).unwrap_or(&[0; 4]),
        _ => &[0; 4],
    };
    Some(mix(addresses(packet), protocol, ports))
}

fn mix(addresses: &[u8], protocol: u8, ports: &[u8]) -> u32 {
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let word = |bytes: &[u8]| {
        bytes.chunks_exact(4).fold(0_u32, |all, word| {
            all.rotate_left(5) ^ u32::from_ne_bytes([word[0], word[1], word[2], word[3]])
        })
    };
    let port = |at: usize| u32::from(u16::from_be_bytes([ports[at], ports[at + 1]]));
    let both = word(source).wrapping_add(word(destination));
    let ports = port(0).wrapping_add(port(2)) ^ (port(0) ^ port(2)) << 16;
    let mut hash = (both ^ ports ^ u32::from(protocol)).wrapping_mul(0x9e37_79b1);
    hash ^= hash >> 15;
    hash.wrapping_mul(0x85eb_ca77) ^ hash >> 13
}
