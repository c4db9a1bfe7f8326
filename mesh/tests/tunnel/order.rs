//! The order of what goes through a tunnel: a receiver's window is finite, and TCP takes a packet that
//! comes late for one that is lost.

use std::collections::HashMap;
use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::netns::isolated;
use super::pair::{Mesh, exchange, peered, take, tcp};

/// What a counter may be behind the highest that was sent before it.
const MOST_BEHIND: u64 = 512;
const LONG: Duration = Duration::from_secs(3);
/// The header that tells how a packet is to be cut (virtio_net.h).
const VNET: usize = 10;
const ETHERNET_IPV4_UDP: usize = 14 + 20 + 8;

/// What was seen on the wire: how many of data, and how far the latest of them was behind.
#[derive(Debug, Default)]
struct Seen {
    data: u64,
    behind: u64,
}

/// Sees everything that comes to a node on its wire.
#[allow(unsafe_code)]
fn capture(node: &Mesh) -> Socket {
    let socket = node.node.run(|| {
        let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        Socket::new(Domain::PACKET, Type::RAW, Some(everything))
    });
    let socket = socket.expect("a capture");
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to an integer of the size that is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    socket.set_recv_buffer_size(64 << 20).expect("a buffer");
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a time");
    socket
}

fn watch(mut capture: &Socket, ended: &AtomicBool) -> Seen {
    let mut highest: HashMap<u32, u64> = HashMap::new();
    let mut seen = Seen::default();
    let mut buffer = vec![0; 128 << 10];
    while !ended.load(Relaxed) {
        let Ok(len) = capture.read(&mut buffer) else {
            continue;
        };
        let frame = &buffer[..len];
        let Some((head, payload)) = frame.split_at_checked(VNET + ETHERNET_IPV4_UDP) else {
            continue;
        };
        let size = usize::from(u16::from_ne_bytes([head[4], head[5]]));
        let size = if size == 0 { payload.len() } else { size };
        for datagram in payload.chunks(size.max(1)) {
            let data = datagram
                .split_at_checked(16)
                .filter(|(head, _)| head[..4] == [4, 0, 0, 0]);
            let Some((head, _)) = data else {
                continue;
            };
            let index = u32::from_le_bytes(head[4..8].try_into().expect("four bytes"));
            let counter = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
            let highest = highest.entry(index).or_default();
            seen.data += 1;
            seen.behind = seen.behind.max(highest.saturating_sub(counter));
            *highest = counter.max(*highest);
        }
    }
    seen
}

/// Sends numbered datagrams for a while.
fn send(from: &UdpSocket, to: &UdpSocket) {
    let to = to.local_addr().expect("bound");
    let until = Instant::now() + LONG;
    for number in 0_u64.. {
        // A full queue drops, which is not this test's matter.
        let _ = from.send_to(&number.to_be_bytes(), to);
        if number % 32 == 0 {
            if Instant::now() > until {
                return;
            }
            thread::sleep(Duration::from_micros(300));
        }
    }
}

#[test]
fn many_flows_at_once_stay_in_order_each_and_together_on_the_wire() {
    isolated(
        "order::many_flows_at_once_stay_in_order_each_and_together_on_the_wire",
        || {
            let (a, b) = peered();
            let flows: Vec<_> = (2000..2004)
                .map(|port| (a.udp(a.v4(), port), b.udp(b.v4(), port)))
                .collect();
            exchange(&flows[0].0, &flows[0].1).expect("both ways");
            let wire = capture(&b);
            let ended = &AtomicBool::new(false);
            thread::scope(|scope| {
                let watching = scope.spawn(|| watch(&wire, ended));
                let taking: Vec<_> = flows
                    .iter()
                    .map(|(_, to)| scope.spawn(|| take(to, ended)))
                    .collect();
                let sending: Vec<_> = flows
                    .iter()
                    .map(|(from, to)| scope.spawn(|| send(from, to)))
                    .collect();
                // Super-packets among them.
                let until = Instant::now() + LONG;
                while Instant::now() < until {
                    tcp(&a, &b, b.v4());
                }
                sending
                    .into_iter()
                    .for_each(|flow| flow.join().expect("it is sent"));
                ended.store(true, Relaxed);
                for flow in taking {
                    let (came, late) = flow.join().expect("it is taken");
                    assert!(came > 1000 && late == 0, "{late} late of {came}");
                }
                let seen = watching.join().expect("it is watched");
                assert!(seen.data > 4000 && seen.behind <= MOST_BEHIND, "{seen:?}");
            });
        },
    );
}
