//! Changes of the session keys under load.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::netns::isolated;
use super::pair::{Mesh, exchange, peered, take};

/// Five sessions: a key is changed after 120 s (the paper's REKEY_AFTER_TIME).
const LONG: Duration = Duration::from_secs(600);
const CHANGES: usize = 4;
/// 20,000 a second each way, in small bursts.
const BURST: u64 = 20;
const TICK: Duration = Duration::from_millis(1);
/// The kernel doubles it: the load's own receiver is to lose nothing.
const BUFFER: usize = 32 << 20;

fn socket(mesh: &Mesh) -> UdpSocket {
    let socket = mesh.udp(mesh.v4(), 1000);
    set_socket_recv_buffer_size_force(&socket, BUFFER).expect("a buffer");
    socket
}

/// Sends numbered datagrams at the rate; how many.
fn send(from: &UdpSocket, to: &UdpSocket) -> u64 {
    let to = to.local_addr().expect("bound");
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < LONG {
        let due = began.elapsed().as_millis() as u64 * BURST;
        // What a busy machine kept us from is not made up for in one heap.
        let burst = due.saturating_sub(sent).min(4 * BURST);
        for number in sent..sent + burst {
            from.send_to(&number.to_be_bytes(), to).expect("it is sent");
        }
        sent += burst;
        thread::sleep(TICK);
    }
    sent
}

#[test]
#[ignore = "takes ten minutes; run it alone, in release"]
fn changes_of_the_session_keys_lose_and_reorder_no_datagram() {
    isolated(
        "rekey::changes_of_the_session_keys_lose_and_reorder_no_datagram",
        || {
            let (a, b) = peered();
            let ends = [socket(&a), socket(&b)];
            exchange(&ends[0], &ends[1]).expect("both ways");
            let ended = &AtomicBool::new(false);
            let mut handshakes = BTreeSet::new();
            let flows = thread::scope(|scope| {
                let takes = [&ends[1], &ends[0]].map(|to| scope.spawn(|| take(to, ended)));
                let [x, y] = &ends;
                let sends = [scope.spawn(|| send(x, y)), scope.spawn(|| send(y, x))];
                while sends.iter().any(|flow| !flow.is_finished()) {
                    handshakes.extend(a.status().peers[&b.key()].last_handshake);
                    thread::sleep(Duration::from_secs(1));
                }
                let sent = sends.map(|flow| flow.join().expect("it is sent"));
                ended.store(true, Relaxed);
                let came = takes.map(|flow| flow.join().expect("it is taken"));
                [(sent[0], came[0]), (sent[1], came[1])]
            });
            eprintln!(
                "(sent, (came, late)) {flows:?}, {} sessions",
                handshakes.len()
            );
            let drops = [a.status().drops, b.status().drops];
            for (sent, (came, late)) in flows {
                assert!(
                    sent > LONG.as_millis() as u64 * BURST * 9 / 10,
                    "{sent} sent"
                );
                assert_eq!(
                    (sent - came, late),
                    (0, 0),
                    "lost and late of {sent}; {drops:?}"
                );
            }
            assert!(handshakes.len() > CHANGES, "{handshakes:?}");
        },
    );
}
