//! What goes along with a datagram: the address it was sent to or is sent from (`IP_PKTINFO`,
//! `IPV6_PKTINFO`), its traffic class, and the size of the segments that it is cut into or was joined
//! from (`UDP_SEGMENT`, `UDP_GRO`), as the control messages of cmsg(3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for all messages of either family.
pub(super) const ROOM: usize = 128;

const WORD: usize = size_of::<usize>();
/// `struct cmsghdr`: a length of a word, then level and type.
const HEADER: usize = WORD + 8;

/// Control messages to send, or room for those that come.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; ROOM],
    len: usize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            bytes: [0; ROOM],
            len: 0,
        }
    }
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

    /// Has the kernel cut what is sent into datagrams of `size` bytes.
    pub(super) fn segment(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Where the kernel writes what comes.
    pub(super) fn room(&mut self) -> &mut [u8; ROOM] {
        &mut self.bytes
    }

    /// The kernel wrote so many bytes.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(ROOM);
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let at = self.len;
        let message = &mut self.bytes[at..at + length];
        message[..WORD].copy_from_slice(&length.to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..].copy_from_slice(data);
        self.len = at + length.next_multiple_of(WORD);
    }
}

/// What came along with a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Along {
    /// The address that it was sent to.
    pub(super) destination: Option<IpAddr>,
    pub(super) class: u8,
    /// It is several datagrams of this size, the last maybe shorter.
    pub(super) segment: Option<usize>,
}

/// Reads control messages.
pub(super) fn read(bytes: &[u8]) -> Along {
    let mut along = Along::default();
    // A message that is cut off ends it.
    let _ = read_into(bytes, &mut along);
    along
}

fn read_into(mut bytes: &[u8], along: &mut Along) -> Option<()> {
    while let Some((head, _)) = bytes.split_at_checked(HEADER) {
        let (length, rest) = head.split_at(WORD);
        let length = usize::from_ne_bytes(length.try_into().ok()?);
        let level = i32::from_ne_bytes(rest[..4].try_into().ok()?);
        let kind = i32::from_ne_bytes(rest[4..].try_into().ok()?);
        let data = bytes.get(HEADER..length)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets: [u8; 4] = data.get(4..8)?.try_into().ok()?;
                along.destination = Some(Ipv4Addr::from(octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
                along.destination = Some(Ipv6Addr::from(octets).into());
            }
            // One byte here, though it is sent as an int.
            (libc::IPPROTO_IP, libc::IP_TOS) => along.class = *data.first()?,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => along.class = number(data)? as u8,
            (libc::SOL_UDP, libc::UDP_GRO) => {
                along.segment = usize::try_from(number(data)?).ok().filter(|&size| size > 0);
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(WORD)..)?;
    }
    Some(())
}

fn number(data: &[u8]) -> Option<i32> {
    data.get(..4)?.try_into().ok().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for from in ["192.0.2.7", "2001:db8::7"] {
            let from: IpAddr = from.parse().unwrap();
            let mut control = Control::default();
            control.class(from, 0x88);
            control.segment(1452);
            control.source(from);
            let along = read(control.bytes());
            assert_eq!((along.destination, along.class), (Some(from), 0x88));
            assert!(control.bytes().len() <= ROOM);
        }
        assert_eq!(read(&[]), Along::default());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..130)) {
            let _ = read(&bytes);
        }
    }
}
