//! Clocks that are set back: WireGuard's initiations bear a time that must grow.

use super::*;

/// A machine that starts again with a clock set back: its timestamps are below those of its last
/// run, which the peer remembers.
#[test]
fn a_node_whose_clock_was_set_back_is_reached_by_its_peer() {
    let (before, b) = pair();
    let behind = Node::new(1);
    behind.add(&b, &["10.32.2.0/24"], None);
    let there = packet(A, B, 100);
    // boringtun takes the time when a session is made: this initiation is the older one.
    behind.tell(&there);
    let (old, _) = behind.sent().unwrap();
    let later = Node::new(1);
    later.add(&b, &["10.32.2.0/24"], None);
    drop(before);
    std::thread::sleep(Duration::from_millis(20));
    later.tell(&there);
    exchange(&later, &b);
    assert_eq!(b.delivered().len(), 1);

    // While the peer is heard, it may be a replay.
    b.hear(&old, behind.address);
    assert!(b.sent().is_none());
    assert_eq!(b.drops("bad_handshake"), 1);
    let mut now = b.now();
    now.instant += Duration::from_secs(6);
    b.hear_at(&old, behind.address, now);
    let (ours, to) = b.sent().expect("an initiation of its own");
    assert_eq!(to, behind.address);
    // And no second one within 5 s.
    now.instant += Duration::from_secs(1);
    b.hear_at(&old, behind.address, now);
    assert!(b.sent().is_none());

    behind.hear(&ours, b.address);
    exchange(&behind, &b);
    assert_eq!(b.delivered(), [there], "what waited arrives");
}
