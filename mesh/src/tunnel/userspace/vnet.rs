//! `struct virtio_net_hdr` (virtio 1.2 section 5.1.6, linux/virtio_net.h), which comes before every
//! packet of a TUN with `IFF_VNET_HDR`: what is left to do to it, in the host's byte order.

/// Its length as TUN devices have it by default.
pub(super) const HEADER: usize = 10;

/// The checksum from `csum_start` on is to be made; its field holds the pseudo-header's sum.
pub(super) const NEEDS_CSUM: u8 = 1;

pub(super) const GSO_NONE: u8 = 0;
pub(super) const GSO_TCPV4: u8 = 1;
pub(super) const GSO_TCPV6: u8 = 4;
pub(super) const GSO_UDP_L4: u8 = 5;
/// Beside a TCP type: the segments are of a connection that has congestion notification.
pub(super) const GSO_ECN: u8 = 0x80;

/// What a packet of the TUN still wants done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vnet {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    /// Length of all headers; a hint.
    pub(super) hdr_len: u16,
    /// Payload bytes of each segment.
    pub(super) gso_size: u16,
    pub(super) csum_start: u16,
    /// From `csum_start`.
    pub(super) csum_offset: u16,
}

impl Vnet {
    pub(super) fn read(bytes: [u8; HEADER]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    pub(super) fn bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let words = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        ];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
