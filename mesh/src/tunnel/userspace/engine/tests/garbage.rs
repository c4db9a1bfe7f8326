//! Random bytes into both ends of the device.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn no_datagram_panics_the_device(
        kind in 0_u8..6,
        len in prop::sample::select(vec![0, 3, 4, 16, 31, 32, 33, 64, 92, 148, 1500]),
        bytes in prop::collection::vec(any::<u8>(), 1500),
        established in any::<bool>(),
    ) {
        let (a, b) = pair();
        a.tell(&packet(A, B, 0));
        let initiation = a.sent().unwrap().0;
        b.hear(&initiation, a.address);
        let mut datagram = bytes[..len].to_vec();
        if let Some(header) = datagram.get_mut(..4) {
            header.copy_from_slice(&[kind, 0, 0, 0]);
        }
        if established && let Some(receiver) = datagram.get_mut(4..8) {
            // The index of a session that is there.
            let (answer, _) = b.sent().unwrap();
            receiver.copy_from_slice(&answer[4..8]);
        }
        b.hear(&datagram, a.address);
        prop_assert!(b.delivered().is_empty());
    }

    #[test]
    fn a_changed_byte_of_a_datagram_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (a, b) = pair();
        a.tell(&packet(A, B, 0));
        exchange(&a, &b);
        b.delivered();
        a.tell(&packet(A, B, 77));
        let (mut datagram, _) = a.sent().unwrap();
        let at = at.index(datagram.len());
        datagram[at] ^= 1_u8 << bit;
        b.hear(&datagram, a.address);
        prop_assert!(b.delivered().is_empty());
    }

    #[test]
    fn no_packet_from_the_host_panics_the_device(
        first in prop::sample::select(vec![0x00_u8, 0x45, 0x4f, 0x60, 0x6f, 0xff]),
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        to_peer in any::<bool>(),
    ) {
        let (a, b) = pair();
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        if to_peer && let Some(destination) = bytes.get_mut(16..20) {
            destination.copy_from_slice(&B);
        }
        a.tell(&bytes);
        exchange(&a, &b);
    }
}
