//! Explicit congestion notification through the tunnel (RFC 6040): the inner field goes out with the
//! datagram, and what the way made of it comes back into the packet. The DSCP stays inside.

use super::checksum::set_ipv4_header;

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;
const MASK: u8 = 3;

/// The packet says congestion was met by one who does not react to it: it must be dropped (RFC 6040
/// section 4.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unheard;

/// The field of an IP packet, which is the datagram's too ("normal mode", section 4.1).
pub(super) fn field(packet: &[u8]) -> u8 {
    match packet[0] >> 4 {
        4 => packet[1] & MASK,
        _ => (packet[1] >> 4) & MASK,
    }
}

/// Brings what the datagram came with into the packet (section 4.2, figure 4).
pub(super) fn combine(packet: &mut [u8], class: u8) -> Result<(), Unheard> {
    let new = match (field(packet), class & MASK) {
        (NOT_ECT, CE) => return Err(Unheard),
        (ECT_0 | ECT_1, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return Ok(()),
    };
    if packet[0] >> 4 == 4 {
        packet[1] = packet[1] & !MASK | new;
        let header = usize::from(packet[0] & 0xf) * 4;
        if (20..=packet.len()).contains(&header) {
            set_ipv4_header(&mut packet[..header]);
        }
    } else {
        packet[1] = packet[1] & !(MASK << 4) | new << 4;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::userspace::checksum::{fold, sum};

    #[test]
    fn the_table_of_the_rfc_holds_in_both_families() {
        // RFC 6040 figure 4: a row for each inner field, a column for each outer one.
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in (0..).zip(table) {
            for (outer, wanted) in (0..).zip(row) {
                let mut v4 = [
                    0x45,
                    0xb8 | inner,
                    0,
                    20,
                    0,
                    1,
                    0,
                    0,
                    64,
                    17,
                    0,
                    0,
                    10,
                    0,
                    0,
                    1,
                ];
                let mut v4 = {
                    let mut whole = [0; 20];
                    whole[..16].copy_from_slice(&v4[..]);
                    v4.fill(0);
                    set_ipv4_header(&mut whole);
                    whole
                };
                let mut v6 = [0_u8; 40];
                v6[..2].copy_from_slice(&[0x6b, 0x8f | inner << 4]);
                let done = [combine(&mut v4, 0xfc | outer), combine(&mut v6, outer)];
                let Some(wanted) = wanted else {
                    assert_eq!(done, [Err(Unheard), Err(Unheard)]);
                    continue;
                };
                assert_eq!(done, [Ok(()), Ok(())]);
                assert_eq!((field(&v4), field(&v6)), (wanted, wanted));
                assert_eq!(v4[1] & !MASK, 0xb8, "the DSCP changed");
                assert_eq!(v6[1] & 0x0f, 0x0f, "the flow label changed");
                assert_eq!(fold(sum(&v4, 0)), 0xffff, "the header's checksum is wrong");
            }
        }
    }
}
