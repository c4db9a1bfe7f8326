//! What goes along with a datagram: the address it was sent to or is sent from (`IP_PKTINFO`,
//! `IPV6_PKTINFO`) and its traffic class, as the control messages of cmsg(3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for the two messages of either family.
pub(super) const ROOM: usize = 80;

const WORD: usize = size_of::<usize>();
/// `struct cmsghdr`: a length of a word, then level and type.
const HEADER: usize = WORD + 8;

/// Control messages to send, in a buffer of their own.
#[derive(Debug, Default)]
pub(super) struct Control {
    bytes: Vec<u8>,
}

impl Control {
    /// Asks for the source address `from`, whichever the routes would choose.
    pub(super) fn source(&mut self, from: IpAddr) {
        match from {
            // struct in_pktinfo: interface, source, and a field for the way in alone.
            IpAddr::V4(from) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // struct in6_pktinfo: source, interface.
            IpAddr::V6(from) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// Sets the type of service or traffic class, for a datagram to `to`.
    pub(super) fn class(&mut self, to: IpAddr, class: u8) {
        let value = i32::from(class).to_ne_bytes();
        match to {
            IpAddr::V4(_) => self.push(libc::IPPROTO_IP, libc::IP_TOS, &value),
            IpAddr::V6(_) => self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&level.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        let aligned = self.bytes.len().next_multiple_of(WORD);
        self.bytes.resize(aligned, 0);
    }
}

/// The address that a datagram was sent to, by the control messages it came with.
pub(super) fn destination(mut bytes: &[u8]) -> Option<IpAddr> {
    while let Some((head, _)) = bytes.split_at_checked(HEADER) {
        let (length, rest) = head.split_at(WORD);
        let length = usize::from_ne_bytes(length.try_into().ok()?);
        let level = i32::from_ne_bytes(rest[..4].try_into().ok()?);
        let kind = i32::from_ne_bytes(rest[4..].try_into().ok()?);
        let data = bytes.get(HEADER..length)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets: [u8; 4] = data.get(4..8)?.try_into().ok()?;
                return Some(Ipv4Addr::from(octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
                return Some(Ipv6Addr::from(octets).into());
            }
            _ => bytes = bytes.get(length.next_multiple_of(WORD)..)?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_that_is_written_is_read_behind_others() {
        for from in ["192.0.2.7", "2001:db8::7"] {
            let from: IpAddr = from.parse().unwrap();
            let mut control = Control::default();
            control.class(from, 0x88);
            control.source(from);
            assert_eq!(destination(control.bytes()), Some(from));
            assert!(control.bytes().len() <= ROOM);
        }
        assert_eq!(destination(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = destination(&bytes);
        }
    }
}
