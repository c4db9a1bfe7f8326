//! What a frame on the underlay is. Whatever is not known to be sealed or harmless is plaintext.

use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Hosts, Watch};

const ETH_IPV4: u16 = 0x0800;
const ETH_ARP: u16 = 0x0806;
const ETH_IPV6: u16 = 0x86dd;
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A TCP payload at least this long and nearly all printable is text, not ciphertext: of random
/// bytes 37 % are printable.
const TEXT_BYTES: usize = 48;

/// An Ethernet frame as the kernel handed it over.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub bytes: &'a [u8],
    /// The payload bytes of each datagram, where one frame stands for several (UDP segmentation).
    pub segment: Option<usize>,
}

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    WireGuard,
    Control,
    Noise,
    Plaintext(String),
}

/// Says what `frame` is.
pub fn classify(frame: Frame<'_>, watch: &Watch) -> Class {
    if watch
        .secrets
        .iter()
        .any(|secret| contains(frame.bytes, secret))
    {
        return plain("bytes that were to be sealed");
    }
    let Some((header, body)) = frame.bytes.split_at_checked(14) else {
        return plain("a frame without a header");
    };
    match u16::from_be_bytes([header[12], header[13]]) {
        ETH_ARP => arp(body, watch),
        ETH_IPV4 | ETH_IPV6 => match Packet::parse(body) {
            Some(packet) => of_packet(&packet, frame.segment, watch, Quoted::No),
            None => plain("a broken IP packet"),
        },
        other => Class::Plaintext(format!("a frame of type {other:#06x}")),
    }
}

/// Whether a packet came by itself or inside an ICMP error about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoted {
    No,
    Yes,
}

struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    fragment: bool,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::v4(bytes),
            6 => Self::v6(bytes),
            _ => None,
        }
    }

    fn v4(bytes: &'a [u8]) -> Option<Self> {
        let header = usize::from(bytes[0] & 15) * 4;
        if header < 20 || bytes.len() < header {
            return None;
        }
        let address = |at: usize| {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        };
        // A short frame is padded; a quoted packet, or one of segments over 64 KiB, is not whole.
        let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let end = if (header..=bytes.len()).contains(&total) {
            total
        } else {
            bytes.len()
        };
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: bytes[9],
            fragment: u16::from_be_bytes([bytes[6], bytes[7]]) & 0x3fff != 0,
            payload: &bytes[header..end],
        })
    }

    fn v6(bytes: &'a [u8]) -> Option<Self> {
        let address = |at: usize| {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        };
        let body = bytes.get(40..)?;
        let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let mut payload = body.get(..length).filter(|_| length > 0).unwrap_or(body);
        let mut protocol = bytes[6];
        // Multicast listener reports carry a router alert option (RFC 3810, section 5).
        if protocol == HOP_BY_HOP {
            let skip = 8 + usize::from(*payload.get(1)?) * 8;
            protocol = payload[0];
            payload = payload.get(skip..)?;
        }
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            protocol,
            fragment: protocol == 44,
            payload,
        })
    }
}

fn of_packet(packet: &Packet<'_>, segment: Option<usize>, watch: &Watch, quoted: Quoted) -> Class {
    if let Some(class) = of_mesh(packet, watch) {
        return class;
    }
    if packet.fragment {
        return of_host(watch, "a fragment".to_owned());
    }
    match packet.protocol {
        UDP => udp(packet, segment, watch, quoted),
        TCP => tcp(packet, watch, quoted),
        IGMP => Class::Noise,
        ICMP => icmp(packet, watch, &[3, 11, 12]),
        ICMPV6 => match packet.payload.first() {
            // Multicast listeners (RFC 2710, 3810), then router and neighbour discovery (RFC 4861).
            Some(130..=132 | 143) => Class::Noise,
            Some(133..=137) => neighbour(packet.payload, watch),
            _ => icmp(packet, watch, &[1, 2, 3, 4]),
        },
        other => of_host(watch, protocol(other)),
    }
}

/// A packet that has an address of the ranges.
fn of_mesh(packet: &Packet<'_>, watch: &Watch) -> Option<Class> {
    let inside = |address| watch.pools.iter().any(|pool| pool.contains(address));
    [packet.source, packet.destination]
        .iter()
        .any(inside)
        .then(|| {
            Class::Plaintext(format!(
                "{} with an address of the mesh",
                protocol(packet.protocol)
            ))
        })
}

fn udp(packet: &Packet<'_>, segment: Option<usize>, watch: &Watch, quoted: Quoted) -> Class {
    let Some((from, to)) = ports(packet.payload) else {
        return plain("a broken UDP datagram");
    };
    if from != watch.port && to != watch.port {
        return of_host(watch, format!("UDP {from} to {to}"));
    }
    let payload = packet.payload.get(8..).unwrap_or_default();
    if quoted == Quoted::Yes {
        return Class::Noise;
    }
    let step = segment.filter(|step| *step > 0).unwrap_or(payload.len());
    let sealed = step > 0 && payload.chunks(step).all(is_wireguard);
    if sealed {
        Class::WireGuard
    } else {
        Class::Plaintext(format!("UDP {} that is not WireGuard's", watch.port))
    }
}

/// The four messages of WireGuard by type, reserved bytes and length (its paper, section 5.4).
fn is_wireguard(message: &[u8]) -> bool {
    match message {
        [1, 0, 0, 0, ..] => message.len() == 148,
        [2, 0, 0, 0, ..] => message.len() == 92,
        [3, 0, 0, 0, ..] => message.len() == 64,
        // Data is padded to 16 bytes, but never beyond the link's MTU, so only the least is sure.
        [4, 0, 0, 0, ..] => message.len() >= 32,
        _ => false,
    }
}

fn tcp(packet: &Packet<'_>, watch: &Watch, quoted: Quoted) -> Class {
    let Some((from, to)) = ports(packet.payload) else {
        return plain("a broken TCP segment");
    };
    if from != watch.port && to != watch.port {
        return of_host(watch, format!("TCP {from} to {to}"));
    }
    if quoted == Quoted::Yes {
        return Class::Noise;
    }
    let header = packet
        .payload
        .get(12)
        .map_or(20, |byte| usize::from(byte >> 4) * 4);
    let payload = packet.payload.get(header..).unwrap_or_default();
    let printable = payload
        .iter()
        .filter(|byte| matches!(byte, 0x20..=0x7e | b'\n' | b'\r' | b'\t'))
        .count();
    if payload.len() >= TEXT_BYTES && printable * 10 >= payload.len() * 9 {
        Class::Plaintext(format!("TCP {} that carries text", watch.port))
    } else {
        Class::Control
    }
}

/// An error quotes the packet that it is about: harmless if that one is.
fn icmp(packet: &Packet<'_>, watch: &Watch, errors: &[u8]) -> Class {
    let kind = packet.payload.first().copied().unwrap_or_default();
    if !errors.contains(&kind) {
        return of_host(watch, format!("{} type {kind}", protocol(packet.protocol)));
    }
    match packet.payload.get(8..).and_then(Packet::parse) {
        // An error is never about an error (RFC 1122, section 3.2.2), so this ends.
        Some(inner) if inner.protocol == UDP || inner.protocol == TCP => {
            of_packet(&inner, None, watch, Quoted::Yes)
        }
        inner => inner
            .and_then(|inner| of_mesh(&inner, watch))
            .unwrap_or_else(|| {
                of_host(
                    watch,
                    format!("{} about something else", protocol(packet.protocol)),
                )
            }),
    }
}

/// What a packet is that is neither the mesh's nor has an address of the ranges.
fn of_host(watch: &Watch, what: String) -> Class {
    match watch.hosts {
        Hosts::Silent => Class::Plaintext(what),
        Hosts::Ignored => Class::Noise,
    }
}

/// Asking the underlay for an address of the mesh is already a leak.
fn neighbour(message: &[u8], watch: &Watch) -> Class {
    let target = message
        .get(8..24)
        .and_then(|octets| <[u8; 16]>::try_from(octets).ok())
        .map(|octets| IpAddr::V6(octets.into()));
    let asks = matches!(message.first(), Some(135 | 136));
    let inside = |address: IpAddr| watch.pools.iter().any(|pool| pool.contains(&address));
    if asks && target.is_some_and(inside) {
        return plain("neighbour discovery of an address of the mesh");
    }
    Class::Noise
}

fn arp(body: &[u8], watch: &Watch) -> Class {
    let inside = [14, 24].into_iter().any(|at| {
        body.get(at..at + 4)
            .and_then(|octets| <[u8; 4]>::try_from(octets).ok())
            .map(|octets| IpAddr::V4(octets.into()))
            .is_some_and(|address| watch.pools.iter().any(|pool| pool.contains(&address)))
    });
    if inside {
        return plain("ARP for an address of the mesh");
    }
    Class::Noise
}

/// Whether `bytes` holds `secret`. `skip_until` finds a byte as fast as the C library does, which
/// keeps a capture up with its underlay where plain iteration in an unoptimised build does not.
fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    let Some((first, rest)) = secret.split_first() else {
        return false;
    };
    let mut behind = bytes;
    // Reading from memory never fails; it ends with what was not closed by the byte.
    while let Ok(skipped) = behind.skip_until(*first) {
        let found = skipped > 0 && bytes[bytes.len() - behind.len() - 1] == *first;
        if !found {
            return false;
        }
        if behind.starts_with(rest) {
            return true;
        }
    }
    false
}

fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d, _, _, _, _, ..] = *bytes else {
        return None;
    };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn protocol(number: u8) -> String {
    match number {
        ICMP => "ICMP".to_owned(),
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        ICMPV6 => "ICMPv6".to_owned(),
        other => format!("IP protocol {other}"),
    }
}

fn plain(what: &str) -> Class {
    Class::Plaintext(what.to_owned())
}

#[cfg(test)]
mod tests;
