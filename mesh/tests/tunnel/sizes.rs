//! Packets of every size and shape: the edges of the MTU, fragments, IP options, jumbo frames.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::carries_everything;
use super::netns::isolated;
use super::pair::{Mesh, exchange, peered, tcp};

/// The most that a datagram of UDP holds, by family.
const MOST: [usize; 2] = [65_507, 65_527];

/// One datagram of a size there, and it is what comes.
fn sized(from: &UdpSocket, to: &UdpSocket, size: usize) {
    let sent: Vec<u8> = (0..size).map(|n| (n * 7 + n / 251) as u8).collect();
    let address = to.local_addr().expect("bound");
    from.send_to(&sent, address).expect("it is sent");
    let mut came = vec![0; 70_000];
    let (len, _) = to
        .recv_from(&mut came)
        .unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    assert!(came[..len] == sent, "{len} of {size} bytes, or others");
}

fn set_mtus(meshes: [&Mesh; 2], outer: usize) {
    for mesh in meshes {
        mesh.node.ip(&format!("link set wire mtu {outer}"));
        mesh.node.ip(&format!("link set weft0 mtu {}", outer - 80));
    }
}

fn any_size(outer: usize) {
    let (a, b) = peered();
    set_mtus([&a, &b], outer);
    for (own, other, headers, most) in
        [(a.v4(), b.v4(), 28, MOST[0]), (a.v6(), b.v6(), 48, MOST[1])]
    {
        let (from, to) = (a.udp(own, 1000), b.udp(other, 1000));
        exchange(&from, &to).expect("both ways");
        let fits = outer - 80 - headers;
        let around = |size: usize| size - 2..=size + 2;
        let sizes = (0..=64).chain(around(fits)).chain(around(2 * fits)).chain([
            16_383,
            32_768,
            most - 1,
            most,
        ]);
        for size in sizes {
            sized(&from, &to, size);
            sized(&to, &from, size);
        }
        tcp(&a, &b, other);
    }
    assert_eq!(a.drops("not_ip") + b.drops("inner_not_ip"), 0);
}

#[test]
fn a_datagram_of_any_size_arrives_as_it_was() {
    isolated("sizes::a_datagram_of_any_size_arrives_as_it_was", || {
        any_size(1500)
    });
}

#[test]
fn so_it_does_in_jumbo_frames() {
    isolated("sizes::so_it_does_in_jumbo_frames", || any_size(9000));
}

#[test]
fn so_it_does_where_the_underlay_is_the_narrowest() {
    isolated(
        "sizes::so_it_does_where_the_underlay_is_the_narrowest",
        || any_size(1360),
    );
}

#[allow(unsafe_code)]
fn set_options(socket: &UdpSocket) {
    // Three of no operation and an end: 24 bytes of header.
    let options = [1_u8, 1, 1, 0];
    // SAFETY: the pointer is to as many bytes as are given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_OPTIONS,
            options.as_ptr().cast(),
            options.len() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn packets_with_ip_options_arrive_whole_and_in_fragments() {
    isolated(
        "sizes::packets_with_ip_options_arrive_whole_and_in_fragments",
        || {
            let (a, b) = peered();
            let sockets: [IpAddr; 2] = [a.v4(), b.v4()];
            let (from, to) = (a.udp(sockets[0], 3000), b.udp(sockets[1], 3000));
            set_options(&from);
            set_options(&to);
            for size in [0, 1, 64, 1388, 1389, 1392, 5000, 60_000] {
                sized(&from, &to, size);
                sized(&to, &from, size);
            }
            carries_everything(&a, &b);
        },
    );
}
