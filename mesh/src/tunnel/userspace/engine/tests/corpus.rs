//! The corpora of datagrams from the network and of packets from the host.

use super::*;
use crate::corpus::{each_variant, files};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn a_recorded_first_message_is_answered_and_its_copies_are_not() {
    let (a, b) = pair();
    let good = |name: &str| name.starts_with("good-");
    for input in files(ROOT, "wireguard") {
        b.hear(&input.bytes, a.address);
        assert_eq!(b.sent().is_some(), good(&input.name), "{}", input.name);
        b.hear(&input.bytes, a.address);
        assert!(b.sent().is_none(), "{} again", input.name);
        assert!(b.delivered().is_empty(), "{}", input.name);
    }
}

#[test]
fn no_datagram_of_the_corpus_is_delivered_or_ends_a_session() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    b.delivered();
    each_variant(ROOT, "wireguard", |datagram| {
        b.hear(datagram, a.address);
        a.hear(datagram, b.address);
    });
    assert!(a.delivered().is_empty() && b.delivered().is_empty());
    exchange(&a, &b);
    a.tell(&packet(A, B, 9));
    exchange(&a, &b);
    assert_eq!(b.delivered(), [packet(A, B, 9)]);
}

#[test]
fn a_packet_of_the_corpus_arrives_as_it_was_or_not_at_all() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    b.delivered();
    each_variant(ROOT, "packet", |packet| {
        a.tell(packet);
        exchange(&a, &b);
        for arrived in b.delivered() {
            // Padding stands in for what a packet's length promises and its bytes do not hold.
            let (same, more) = arrived.split_at(arrived.len().min(packet.len()));
            assert!(packet.starts_with(same) && more.iter().all(|&byte| byte == 0));
        }
        assert!(a.delivered().is_empty());
    });
}
