//! Two engines joined by a wire in memory: what goes through, what is dropped and why.

mod clock;
mod corpus;
mod garbage;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::super::coalesce::Write;
use super::super::identity::Identity;
use super::super::incoming::Incoming;
use super::super::outgoing::Outgoing;
use super::super::session::{Now, Session};
use super::super::table::{Path, Peer, Table};
use super::super::udp::{Received, Run, Segmentation, Unsent};
use super::super::vnet::Vnet;
use super::super::wire::DATA;
use super::{Engine, Output, SCRATCH};
use crate::endpoint::TRY as PACE;
use crate::{PresharedKey, PrivateKey};

/// Keeps what an engine puts out.
#[derive(Default)]
struct Kept {
    datagrams: Mutex<VecDeque<(Vec<u8>, SocketAddr)>>,
    packets: Mutex<Vec<Vec<u8>>>,
}

impl Output for Kept {
    fn network(&self, runs: &[Run], arena: &[u8], path: Path, _way: &Segmentation) -> Unsent {
        let mut kept = self.datagrams.lock().unwrap();
        for run in runs {
            let bytes = &arena[run.start..run.start + run.len];
            for datagram in bytes.chunks(run.size) {
                kept.push_back((datagram.to_vec(), path.remote));
            }
        }
        Unsent::default()
    }

    fn tunnel(&self, write: &Write<'_>, arena: &[u8]) -> io::Result<()> {
        let mut packet = Vec::new();
        for (start, len) in write.pieces() {
            packet.extend_from_slice(&arena[start..start + len]);
        }
        self.packets.lock().unwrap().push(packet);
        Ok(())
    }
}

struct Node {
    engine: Engine,
    out: Kept,
    address: SocketAddr,
    key: PrivateKey,
    started: Instant,
}

impl Node {
    fn new(id: u8) -> Self {
        let key = PrivateKey::from_bytes([id; 32]);
        let engine = Engine::default();
        let table = Table {
            identity: Some(Arc::new(Identity::new(&key))),
            ..Table::default()
        };
        engine.table.store(Arc::new(table));
        let address = ([192, 0, 2, id], 6783).into();
        Self {
            engine,
            out: Kept::default(),
            address,
            key,
            started: Instant::now(),
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + self.started.elapsed(),
        }
    }

    fn add(&self, other: &Self, prefixes: &[&str], preshared: Option<PresharedKey>) {
        let mut table = Table::clone(&self.engine.table.load());
        let identity = table.identity.clone().unwrap();
        let (key, index) = (other.key.public_key(), table.free_index().unwrap());
        let session = Session::new(&identity, key, index, preshared, Instant::now());
        let peer = Arc::new(Peer::new(key, session));
        peer.lock().endpoint = Some(other.address.into());
        table.index(&peer);
        for prefix in prefixes {
            table
                .allowed_ips
                .insert(prefix.parse().unwrap(), Arc::clone(&peer));
        }
        table.peers.insert(key, peer);
        self.engine.table.store(Arc::new(table));
    }

    fn peer(&self, other: &Self) -> Arc<Peer> {
        Arc::clone(&self.engine.table.load().peers[&other.key.public_key()])
    }

    fn tell(&self, packet: &[u8]) {
        let (mut packet, mut outgoing) = (packet.to_vec(), Outgoing::default());
        let (vnet, now) = (Vnet::default(), self.now());
        self.engine
            .outbound(vnet, &mut packet, &mut outgoing, now, &self.out);
        self.engine.send_staged(&mut outgoing, now, &self.out);
    }

    fn hear(&self, datagram: &[u8], source: SocketAddr) {
        self.hear_at(datagram, source, self.now());
    }

    fn hear_at(&self, datagram: &[u8], source: SocketAddr, now: Now) {
        let received = Received {
            bytes: datagram,
            size: datagram.len().max(1),
            path: Path {
                remote: source,
                local: None,
            },
            class: 0,
        };
        let mut incoming = Incoming::default();
        self.engine
            .inbound(&received, &mut incoming, now, &self.out);
        self.engine.deliver(&mut incoming, now, &self.out);
    }

    fn sent(&self) -> Option<(Vec<u8>, SocketAddr)> {
        self.out.datagrams.lock().unwrap().pop_front()
    }

    fn delivered(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.out.packets.lock().unwrap())
    }

    fn drops(&self, reason: &str) -> u64 {
        self.engine
            .drops
            .counted()
            .get(reason)
            .copied()
            .unwrap_or(0)
    }
}

/// Carries datagrams both ways until there are none.
fn exchange(a: &Node, b: &Node) {
    loop {
        let (there, back) = (a.sent(), b.sent());
        if there.is_none() && back.is_none() {
            return;
        }
        there.inspect(|(datagram, _)| b.hear(datagram, a.address));
        back.inspect(|(datagram, _)| a.hear(datagram, b.address));
    }
}

fn packet(source: [u8; 4], destination: [u8; 4], payload: usize) -> Vec<u8> {
    let len = 20 + payload;
    let [.., high, low] = len.to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    packet.resize(len, 0xab);
    packet
}

const A: [u8; 4] = [10, 32, 1, 1];
const B: [u8; 4] = [10, 32, 2, 1];

fn pair() -> (Node, Node) {
    let (a, b) = (Node::new(1), Node::new(2));
    a.add(&b, &["10.32.2.0/24"], None);
    b.add(&a, &["10.32.1.0/24"], None);
    (a, b)
}

#[test]
fn packets_that_waited_for_the_handshake_arrive_in_order_and_unpadded() {
    let (a, b) = pair();
    let packets: Vec<_> = (0..5).map(|n| packet(A, B, n)).collect();
    packets.iter().for_each(|packet| a.tell(packet));
    exchange(&a, &b);
    assert_eq!(b.delivered(), packets);

    b.tell(&packet(B, A, 1400));
    exchange(&a, &b);
    assert_eq!(a.delivered(), [packet(B, A, 1400)]);
    assert!(a.engine.drops.counted().is_empty(), "{:?}", a.engine.drops);
    assert!(b.engine.drops.counted().is_empty(), "{:?}", b.engine.drops);
}

#[test]
fn small_packets_are_padded_on_the_wire() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    a.tell(&packet(A, B, 1));
    let (datagram, to) = a.sent().unwrap();
    assert_eq!((datagram.len(), to), (32 + 32, b.address));
}

#[test]
fn an_initiation_alone_is_no_handshake_for_the_one_who_answers_it() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    let (initiation, _) = a.sent().unwrap();
    b.hear(&initiation, a.address);
    let heard = |node: &Node, of: &Node| node.peer(of).lock().session.last_handshake();
    assert_eq!(heard(&b, &a), None);
    exchange(&a, &b);
    assert!(heard(&a, &b).is_some());
    assert!(heard(&b, &a).is_some());
}

#[test]
fn a_source_that_another_peer_holds_by_a_longer_prefix_is_dropped_and_counted() {
    let (a, b, c) = (Node::new(1), Node::new(2), Node::new(3));
    a.add(&b, &["10.32.2.0/24"], None);
    b.add(&a, &["10.32.0.0/16"], None);
    b.add(&c, &["10.32.3.0/24"], None);
    a.tell(&packet([10, 32, 3, 1], B, 0));
    a.tell(&packet([192, 168, 0, 1], B, 0));
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    assert_eq!(b.delivered(), [packet(A, B, 0)]);
    assert_eq!(b.drops("source_not_allowed"), 2);
}

#[test]
fn a_peer_is_followed_to_the_address_that_it_is_heard_from() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    let moved: SocketAddr = "[2001:db8::7]:999".parse().unwrap();
    a.tell(&packet(A, B, 0));
    let (datagram, _) = a.sent().unwrap();

    let mut forged = datagram.clone();
    *forged.last_mut().unwrap() ^= 1;
    b.hear(&forged, moved);
    assert_eq!(b.peer(&a).lock().endpoint, Some(a.address.into()));
    assert_eq!(b.drops("bad_data"), 1);

    b.hear(&datagram, moved);
    assert_eq!(b.peer(&a).lock().endpoint, Some(moved.into()));
    b.hear(&datagram, a.address);
    assert_eq!(b.peer(&a).lock().endpoint, Some(moved.into()));
    assert_eq!(b.drops("replayed"), 1);
}

#[test]
fn an_endpoint_inside_the_mesh_is_never_taken() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    b.delivered();
    a.tell(&packet(A, B, 0));
    b.hear(&a.sent().unwrap().0, (A, 6783).into());
    assert_eq!(b.peer(&a).lock().endpoint, Some(a.address.into()));
    assert_eq!(b.drops("endpoint_in_mesh"), 1);
    assert!(b.delivered().is_empty());
}

#[test]
fn a_key_that_is_no_peers_gets_no_answer() {
    let (a, b, stranger) = (Node::new(1), Node::new(2), Node::new(3));
    b.add(&a, &["10.32.1.0/24"], None);
    stranger.add(&b, &["10.32.2.0/24"], None);
    stranger.tell(&packet(A, B, 0));
    b.hear(&stranger.sent().unwrap().0, stranger.address);
    assert_eq!(b.sent(), None);
    assert_eq!(b.drops("unknown_key"), 1);
}

#[test]
fn packets_without_a_way_are_counted_by_reason() {
    let (a, b) = pair();
    a.tell(&packet(A, [192, 0, 2, 9], 0));
    a.tell(&[0x60, 1, 2]);
    a.peer(&b).lock().endpoint = None;
    a.tell(&packet(A, B, 0));
    let reasons = ["no_peer", "not_ip", "no_endpoint"].map(|reason| a.drops(reason));
    assert_eq!(reasons, [1, 1, 1]);
}

#[test]
fn a_silent_peer_costs_a_bounded_queue_and_one_initiation() {
    let (a, _b) = pair();
    (0..100).for_each(|_| a.tell(&packet(A, B, 1400)));
    assert_eq!(a.out.datagrams.lock().unwrap().len(), 1);
    assert_eq!(a.drops("queue_full"), 68);
    (0..10).for_each(|_| a.tell(&packet(A, B, 40_000)));
    assert_eq!(a.drops("queue_full"), 68 + 32 + 9);
}

#[test]
fn a_changed_preshared_key_loses_no_packet() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    b.delivered();
    let rekey = |node: &Node, other: &Node| {
        let mut table = Table::clone(&node.engine.table.load());
        let (identity, index) = (table.identity.clone().unwrap(), table.free_index().unwrap());
        let peer = node.peer(other);
        let key = Some(PresharedKey::from_bytes([9; 32]));
        let now = Instant::now();
        peer.lock()
            .session
            .set_preshared(&identity, peer.key, index, key, now);
        table.index(&peer);
        node.engine.table.store(Arc::new(table));
    };
    rekey(&a, &b);
    a.tell(&packet(A, B, 1));
    exchange(&a, &b);
    rekey(&b, &a);
    b.tell(&packet(B, A, 2));
    exchange(&a, &b);
    assert_eq!(b.delivered(), [packet(A, B, 1)]);
    assert_eq!(a.delivered(), [packet(B, A, 2)]);

    // The handshake with the new key takes over.
    let peer = a.peer(&b);
    let mut scratch = vec![0; SCRATCH];
    let now = Instant::now();
    a.engine
        .kick(&peer, &mut scratch, now, &a.out, |state, out| {
            let later = Instant::now() + Duration::from_secs(5);
            state.session.moved(out, later)
        });
    exchange(&a, &b);
    a.tell(&packet(A, B, 3));
    exchange(&a, &b);
    b.tell(&packet(B, A, 4));
    exchange(&a, &b);
    assert_eq!(b.delivered(), [packet(A, B, 3)]);
    assert_eq!(a.delivered(), [packet(B, A, 4)]);
}

#[test]
fn an_initiator_that_vanished_does_not_block_our_own_handshake() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    b.hear(&a.sent().unwrap().0, a.address);
    b.sent().unwrap();

    let start = Instant::now();
    let mut scratch = vec![0; SCRATCH];
    let peer = b.peer(&a);
    let mut state = peer.lock();
    let session = &mut state.session;
    let len = 20;
    let sealed = session.seal(&mut packet(B, A, 0), len, &mut scratch, start);
    assert_eq!(
        sealed.datagram, None,
        "a handshake message has just gone out"
    );
    let later = start + Duration::from_secs(6);
    assert_eq!(session.tick(&mut scratch, PACE, later).0, Some(148));
}

#[test]
fn a_silent_peer_is_asked_again_no_sooner_than_the_pace_allows() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    let peer = a.peer(&b);
    let mut scratch = vec![0; SCRATCH];
    let start = Instant::now();
    let pace = Duration::from_secs(30);
    let mut due = |second| {
        let then = start + Duration::from_secs(second);
        let mut state = peer.lock();
        let ticked = state.session.tick(&mut scratch, pace, then).0;
        let length = 20;
        let sealed = state
            .session
            .seal(&mut packet(A, B, 1), length, &mut scratch, then);
        ticked.or(sealed.datagram)
    };
    assert_eq!([due(6), due(29), due(31)], [None, None, Some(148)]);
}

#[test]
fn packets_are_given_up_when_no_handshake_comes() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    let peer = a.peer(&b);
    let mut scratch = vec![0; SCRATCH];
    let later = Instant::now() + Duration::from_secs(91);
    assert_eq!(
        peer.lock().session.tick(&mut scratch, PACE, later),
        (None, 1)
    );
}

#[test]
fn a_keepalive_is_sent_when_nothing_else_was() {
    let (a, b) = pair();
    a.peer(&b).lock().session.set_keepalive(Some(25));
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    let peer = a.peer(&b);
    let mut scratch = vec![0; SCRATCH];
    let mut due = |seconds| {
        let then = Instant::now() + Duration::from_secs(seconds);
        peer.lock().session.tick(&mut scratch, PACE, then).0
    };
    assert_eq!(
        [due(20), due(26), due(27), due(52)],
        [None, Some(32), None, Some(32)]
    );
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    let (initiation, _) = a.sent().unwrap();
    (0..500).for_each(|_| b.hear(&initiation, a.address));
    assert_eq!(b.drops("under_load"), 100);
    assert_eq!(b.drops("bad_handshake"), 399);
}

#[test]
fn under_load_a_proven_source_is_heard_five_times_at_once() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    let (initiation, _) = a.sent().unwrap();
    (0..400).for_each(|_| b.hear(&initiation, a.address));
    let there = x25519::PublicKey::from(*b.key.public_key().as_bytes());
    let mut stranger = Tunn::new([9; 32].into(), there, None, None, 1, None);
    let source: SocketAddr = ([198, 51, 100, 1], 9).into();
    let mut buffer = [0; 256];
    let mut knock =
        |stranger: &mut Tunn| match stranger.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(initiation) => b.hear(initiation, source),
            other => panic!("{other:?}"),
        };
    knock(&mut stranger);
    let sent = std::iter::from_fn(|| b.sent());
    let (cookie, _) = sent.filter(|(_, to)| *to == source).last().unwrap();
    let mut nothing = [0; 256];
    let taken = stranger.decapsulate(None, &cookie, &mut nothing);
    assert!(matches!(taken, TunnResult::Done), "{taken:?}");
    // Each of these is asked for by an address that is proven, and costs two multiplications.
    (0..50).for_each(|_| knock(&mut stranger));
    assert_eq!((b.drops("unknown_key"), b.drops("under_load")), (5, 46));
}

#[test]
fn a_session_that_is_used_up_is_replaced_and_no_packet_is_lost() {
    let (a, b) = pair();
    a.tell(&packet(A, B, 0));
    exchange(&a, &b);
    let peer = a.peer(&b);
    peer.lock().session.limit(10, 30);
    (0..40).for_each(|_| a.tell(&packet(A, B, 0)));
    let counters: Vec<u64> = std::iter::from_fn(|| a.sent())
        .filter(|(datagram, _)| datagram[0] == DATA)
        .inspect(|(datagram, _)| b.hear(datagram, a.address))
        .map(|(datagram, _)| u64::from_le_bytes(datagram[8..16].try_into().unwrap()))
        .collect();
    assert_eq!(counters.last(), Some(&30));
    // The rest waits for the next, which a tick begins once the last handshake is some seconds ago.
    let later = Now {
        instant: Instant::now() + Duration::from_secs(6),
        wall: SystemTime::now(),
    };
    a.engine.tick(&mut vec![0; SCRATCH], later, &a.out);
    exchange(&a, &b);
    assert_eq!(b.delivered().len(), 41);
    a.tell(&packet(A, B, 0));
    let (datagram, _) = a.sent().unwrap();
    assert!(datagram[0] == DATA && datagram[8] > 8, "{datagram:?}");
}
