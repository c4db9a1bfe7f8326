//! The Internet checksum (RFC 1071). Sums are of 16-bit words as they lie in memory: the sum is the
//! same in every byte order (section 2 B), so only what is stored matters.

use std::net::IpAddr;

/// The protocols whose checksums cover addresses, by their numbers in IP.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// The bytes' words added to `sum`. Only the last piece of what is summed may be of odd length.
pub(super) fn sum(bytes: &[u8], sum: u64) -> u64 {
    // Eight lanes of 32 bits in 64: no carry is lost in less than 16 GiB, and the compiler makes it
    // vectors.
    let mut lanes = [0_u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total = sum + lanes.iter().sum::<u64>();
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// The sum in 16 bits, not complemented.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header of TCP and UDP over IPv4 (RFC 9293 section 3.1) and IPv6 (RFC 8200
/// section 8.1): two addresses as they lie in the packet, the protocol, and the length of what follows.
pub(super) fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    let length = (length as u32).to_be_bytes();
    sum(addresses, 0)
        + u64::from(u16::from_ne_bytes([length[0], length[1]]))
        + u64::from(u16::from_ne_bytes([length[2], length[3]]))
        + u64::from(u16::from_ne_bytes([0, protocol]))
}

/// Puts the checksum of an IPv4 header into it.
pub(super) fn set_ipv4_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !fold(sum(header, 0));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
}

/// The bytes of an IP packet's source and destination, which its family gives their length.
pub(super) fn addresses(packet: &[u8]) -> &[u8] {
    match packet[0] >> 4 {
        4 => &packet[12..20],
        _ => &packet[8..40],
    }
}

/// An IP packet's destination, where it is one.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let octets: [u8; 4] = packet[16..20].try_into().ok()?;
            Some(IpAddr::from(octets))
        }
        6 if packet.len() >= 40 => {
            let octets: [u8; 16] = packet[24..40].try_into().ok()?;
            Some(IpAddr::from(octets))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_rfc_holds() {
        // RFC 1071 section 3: the words 0001 f203 f4f5 f6f7 add to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn many_bytes_add_as_word_by_word(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cut in 0_usize..3000,
        ) {
            let mut slow = 0_u32;
            for word in bytes.chunks(2) {
                slow += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
                slow = (slow & 0xffff) + (slow >> 16);
            }
            prop_assert_eq!(u16::from_be_bytes(fold(sum(&bytes, 0)).to_ne_bytes()), slow as u16);
            let cut = cut.min(bytes.len()) & !1;
            let (a, b) = bytes.split_at(cut);
            prop_assert_eq!(fold(sum(b, sum(a, 0))), fold(sum(&bytes, 0)));
        }
    }
}
