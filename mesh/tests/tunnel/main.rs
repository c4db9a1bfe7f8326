//! Two userspace tunnels and real packets between them, in network namespaces.

mod netns;
mod old_kernel;
mod order;
mod pair;
mod rekey;
mod sizes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::{ENDS, Node, eventually, isolated};
use pair::{Mesh, PORT, exchange, now, pair, peered, ping, tcp};
use weft_mesh::PrivateKey;
use weft_mesh::device::{Change, PeerConfig};
use weft_mesh::diff::diff;
use weft_mesh::tunnel::userspace::UserspaceTunnel;
use weft_mesh::tunnel::{AnyTunnel, Backend, Tunnel, TunnelError, conformance};

fn carries_everything(a: &Mesh, b: &Mesh) {
    for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
        exchange(&a.udp(from, 1000), &b.udp(to, 1000)).expect("both ways");
        assert!(ping(a, to), "ping {to}");
        assert!(ping(b, from), "ping {from}");
        tcp(a, b, to);
    }
    for (mesh, other) in [(a, b), (b, a)] {
        let status = mesh.status();
        let peer = &status.peers[&other.key()];
        assert!(peer.last_handshake.is_some());
        // Of 4 MB one way, little but acknowledgements comes back.
        assert!(peer.rx_bytes > 3_000 && peer.tx_bytes > 3_000, "{peer:?}");
        // The host looks for routers on every link.
        let lost = status.drops.keys().find(|reason| **reason != "multicast");
        assert_eq!(lost, None, "{:?}", status.drops);
    }
}

#[test]
fn both_families_pass_over_an_ipv4_underlay() {
    isolated("both_families_pass_over_an_ipv4_underlay", || {
        let (a, b) = peered();
        carries_everything(&a, &b);
    });
}

#[test]
fn both_families_pass_over_an_ipv6_underlay() {
    isolated("both_families_pass_over_an_ipv6_underlay", || {
        let (mut a, mut b) = pair();
        a.peer(&b, Some("[2001:db8::2]:6783"));
        b.peer(&a, None);
        carries_everything(&a, &b);
        assert_eq!(
            b.endpoint_of(&a),
            Some("[2001:db8::1]:6783".parse().expect("an address"))
        );
    });
}

#[test]
fn a_node_whose_address_changes_is_followed() {
    isolated("a_node_whose_address_changes_is_followed", || {
        let (a, b) = peered();
        let (from, to) = (a.udp(a.v4(), 1000), b.udp(b.v4(), 1000));
        exchange(&from, &to).expect("both ways");
        a.node.ip("addr del 192.0.2.1/24 dev wire");
        a.node.ip("addr add 192.0.2.77/24 dev wire");
        eventually("the peers talk again", || exchange(&from, &to).is_ok());
        let moved = b.endpoint_of(&a).expect("an endpoint");
        assert_ne!(moved, SocketAddr::from(([192, 0, 2, 1], PORT)));
        exchange(&to, &from).expect("both ways from the other side");
    });
}

#[test]
fn a_node_of_several_addresses_answers_from_the_one_it_was_spoken_to() {
    isolated(
        "a_node_of_several_addresses_answers_from_the_one_it_was_spoken_to",
        || {
            let (mut a, mut b) = pair();
            b.node.ip("addr add 192.0.2.99/32 dev wire");
            b.node.ip("addr add 2001:db8::99/128 dev wire nodad");
            for second in ["192.0.2.99", "2001:db8::99"] {
                let mac = ENDS[1];
                let entry = format!("neigh replace {second} lladdr {mac} dev wire nud permanent");
                a.node.ip(&entry);
            }
            b.peer(&a, None);
            for second in ["192.0.2.99:6783", "[2001:db8::99]:6783"] {
                a.peer(&b, Some(second));
                let (from, to) = (a.udp(a.v4(), 0), b.udp(b.v4(), 0));
                eventually("it answers", || exchange(&from, &to).is_ok());
                exchange(&to, &from).expect("and speaks");
                let seen = a.endpoint_of(&b).map(|endpoint| endpoint.to_string());
                assert_eq!(seen.as_deref(), Some(second));
            }
            // The address is taken away: the routes choose another, and the peer follows.
            b.node.ip("addr del 2001:db8::99/128 dev wire");
            let (from, to) = (a.udp(a.v4(), 0), b.udp(b.v4(), 0));
            eventually("it speaks from another", || exchange(&to, &from).is_ok());
            assert_eq!(b.status().peers[&a.key()].send_error, None);
        },
    );
}

#[test]
fn the_error_of_the_last_datagram_to_a_peer_is_kept_until_one_is_sent() {
    isolated(
        "the_error_of_the_last_datagram_to_a_peer_is_kept_until_one_is_sent",
        || {
            let (a, b) = peered();
            let (from, to) = (a.udp(a.v4(), 0), b.udp(b.v4(), 0));
            eventually("they talk", || exchange(&from, &to).is_ok());
            let error = || a.status().peers[&b.key()].send_error.clone();
            assert_eq!(error(), None);
            a.node.ip("link set wire down");
            eventually("it is unreachable", || {
                let _ = exchange(&from, &to);
                error().is_some_and(|error| error.contains("Network is unreachable"))
            });
            a.node.ip("link set wire up");
            // What came late of an earlier exchange may answer this one before it is sent.
            eventually("they talk again", || {
                exchange(&from, &to).is_ok() && error().is_none()
            });
        },
    );
}

#[test]
fn a_packet_from_a_source_that_is_not_the_peers_is_dropped_and_counted() {
    isolated(
        "a_packet_from_a_source_that_is_not_the_peers_is_dropped_and_counted",
        || {
            let (a, b) = peered();
            exchange(&a.udp(a.v4(), 1000), &b.udp(b.v4(), 1000)).expect("both ways");
            a.node.ip("addr add 10.32.9.9/32 dev weft0");
            a.node.ip("addr add 203.0.113.9/32 dev lo");
            let to = b.udp(b.v4(), 2000);
            for address in ["10.32.9.9", "203.0.113.9"] {
                let from = a.udp(address.parse().expect("an address"), 2000);
                from.send_to(b"forged", to.local_addr().expect("bound"))
                    .expect("it is sent");
            }
            eventually("both are counted", || b.drops("source_not_allowed") == 2);
            assert!(to.recv_from(&mut [0; 16]).is_err(), "none was delivered");
        },
    );
}

#[test]
fn peers_that_come_and_go_disturb_no_session() {
    isolated("peers_that_come_and_go_disturb_no_session", || {
        let (mut a, b) = peered();
        let (from, to) = (a.udp(a.v4(), 1000), b.udp(b.v4(), 1000));
        exchange(&from, &to).expect("both ways");
        let handshake = |mesh: &Mesh| mesh.status().peers[&b.key()].last_handshake;
        let before = handshake(&a);
        for id in 3..40 {
            let key = PrivateKey::from_bytes([id; 32]).public_key();
            let peer = PeerConfig {
                endpoint: Some(([192, 0, 2, id], PORT).into()),
                allowed_ips: [format!("10.32.{id}.0/24").parse().expect("a prefix")].into(),
                persistent_keepalive: Some(25),
                ..PeerConfig::default()
            };
            a.config.peers.insert(key, peer);
            a.apply();
            exchange(&from, &to).expect("not one datagram is lost");
        }
        a.config.peers.retain(|key, _| *key == b.key());
        a.apply();
        exchange(&from, &to).expect("not one datagram is lost");
        assert_eq!(handshake(&a), before);
    });
}

#[test]
fn a_tun_outlives_its_process_and_is_adopted() {
    isolated("a_tun_outlives_its_process_and_is_adopted", || {
        let (mut a, b) = peered();
        exchange(&a.udp(a.v4(), 1000), &b.udp(b.v4(), 1000)).expect("both ways");
        let begun = Instant::now();
        a.tunnel = None;
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the threads end promptly"
        );
        // Its address is still there: the link stayed.
        let from = a.udp(a.v4(), 1000);
        a.start();
        let to = b.udp(b.v4(), 1000);
        exchange(&from, &to).expect("the first packet waits for the handshake and arrives");
    });
}

#[test]
fn a_tun_that_is_in_use_or_is_none_is_refused_in_words() {
    isolated(
        "a_tun_that_is_in_use_or_is_none_is_refused_in_words",
        || {
            let a = Mesh::new(1);
            a.node.ip("link add weft1 type veth peer name other");
            let open = |link| {
                let result = a.node.run(move || UserspaceTunnel::open(link).map(drop));
                result.expect_err("it is refused").to_string()
            };
            assert!(open("weft0").starts_with("attach to weft0: another process holds it"));
            assert!(open("weft1").contains("a link of this name that is no TUN"));
            assert!(open("../weft").contains("1 to 15 characters"));
        },
    );
}

#[test]
fn a_tun_that_somebody_deletes_is_made_again() {
    isolated("a_tun_that_somebody_deletes_is_made_again", || {
        let (a, b) = peered();
        exchange(&a.udp(a.v4(), 1000), &b.udp(b.v4(), 1000)).expect("both ways");
        a.node.ip("link del weft0");
        let there = || {
            let show = || {
                std::process::Command::new("ip")
                    .args(["link", "show", "weft0"])
                    .output()
            };
            a.node.run(show).expect("ip is installed").status.success()
        };
        eventually("the link is back", there);
        a.node.ip("addr add 10.32.1.1/12 dev weft0");
        a.node.ip("link set weft0 mtu 1420 up");
        exchange(&a.udp(a.v4(), 1000), &b.udp(b.v4(), 1000)).expect("both ways");
    });
}

#[test]
fn a_peer_that_restarts_is_reached_as_soon_as_it_speaks() {
    isolated(
        "a_peer_that_restarts_is_reached_as_soon_as_it_speaks",
        || {
            let (a, mut b) = peered();
            exchange(&a.udp(a.v4(), 1000), &b.udp(b.v4(), 1000)).expect("both ways");
            b.start();
            exchange(&b.udp(b.v4(), 1000), &a.udp(a.v4(), 1000)).expect("both ways");
        },
    );
}

#[test]
fn the_tunnels_own_datagrams_carry_the_mark() {
    isolated("the_tunnels_own_datagrams_carry_the_mark", || {
        let (mut a, b) = peered();
        let (from, to) = (a.udp(a.v4(), 1000), b.udp(b.v4(), 1000));
        exchange(&from, &to).expect("both ways");
        a.node.ip("rule add fwmark 0x7766 unreachable");
        exchange(&from, &to).expect("there is no mark yet");
        a.config.fwmark = 0x7766;
        a.apply();
        exchange(&from, &to).expect_err("what is marked has no route");
        assert_ne!(a.drops("udp_send"), 0);
    });
}

#[test]
fn a_changed_port_is_listened_on_and_followed() {
    isolated("a_changed_port_is_listened_on_and_followed", || {
        let (mut a, b) = peered();
        let (from, to) = (a.udp(a.v4(), 1000), b.udp(b.v4(), 1000));
        exchange(&from, &to).expect("both ways");
        a.config.listen_port = 7000;
        a.apply();
        exchange(&from, &to).expect("both ways");
        assert_eq!(b.endpoint_of(&a), Some(([192, 0, 2, 1], 7000).into()));
    });
}

#[test]
fn what_is_no_wireguard_is_counted_and_answered_by_nothing() {
    isolated(
        "what_is_no_wireguard_is_counted_and_answered_by_nothing",
        || {
            let (a, b) = peered();
            let stranger = a.udp([192, 0, 2, 1].into(), 4000);
            for datagram in [&b""[..], b"hello", &[1; 148], &[4, 0, 0, 0].repeat(16)] {
                stranger
                    .send_to(datagram, "192.0.2.2:6783")
                    .expect("it is sent");
            }
            let refused = || {
                ["not_wireguard", "bad_mac", "unknown_index"]
                    .iter()
                    .map(|reason| b.drops(reason))
                    .sum::<u64>()
            };
            eventually("all are counted", || refused() == 4);
            assert!(stranger.recv_from(&mut [0; 200]).is_err());
        },
    );
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    isolated("a_port_in_use_is_an_error_that_names_it", || {
        let (mut a, _b) = peered();
        let _taken = a.udp([0, 0, 0, 0].into(), 7000);
        a.config.listen_port = 7000;
        let changes = diff(&a.config, &a.status(), &BTreeMap::new());
        let tunnel = Arc::clone(a.tunnel.as_ref().expect("started"));
        let error = a
            .node
            .run(move || now(tunnel.apply(&changes)))
            .expect_err("it is taken");
        assert!(
            error.to_string().starts_with("bind UDP port 7000: "),
            "{error}"
        );
        assert_eq!(a.status().listen_port, PORT);
    });
}

#[test]
fn auto_takes_what_is_there_and_says_why() {
    isolated("auto_takes_what_is_there_and_says_why", || {
        let node = Node::new();
        let (opened, why) = node
            .run(|| AnyTunnel::open(Backend::Auto, "weft0"))
            .expect("a tunnel");
        let expected = match node.run(|| AnyTunnel::open(Backend::Kernel, "weft1")) {
            Ok(_) => (
                Backend::Kernel,
                "kernel WireGuard on weft0: the kernel has WireGuard",
            ),
            Err(TunnelError::NoKernelModule(_)) => (
                Backend::Userspace,
                "userspace WireGuard on weft0: the kernel has no WireGuard",
            ),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(opened.backend(), expected.0);
        assert!(why.starts_with(expected.1), "{why}");
    });
}

#[test]
fn the_first_peer_needs_the_devices_key() {
    isolated("the_first_peer_needs_the_devices_key", || {
        let node = Node::new();
        let tunnel = node
            .run(|| UserspaceTunnel::open("weft0"))
            .expect("a tunnel");
        let public_key = PrivateKey::from_bytes([9; 32]).public_key();
        let change = Change::SetPeer {
            public_key,
            config: PeerConfig::default(),
        };
        let error = now(tunnel.apply(&[change])).expect_err("it is refused");
        assert!(matches!(error, TunnelError::Refused { .. }), "{error}");
    });
}

#[test]
fn the_userspace_device_behaves_as_a_device() {
    isolated("the_userspace_device_behaves_as_a_device", || {
        let node = Node::new();
        let tunnel = node
            .run(|| UserspaceTunnel::open("weft0"))
            .expect("a tunnel");
        node.run(move || now(conformance::check(&tunnel)));
    });
}

#[test]
fn what_is_not_wireguards_is_the_control_sides() {
    isolated("what_is_not_wireguards_is_the_control_sides", || {
        let (a, b) = peered();
        let (from, to) = [&a, &b]
            .map(|mesh| mesh.tunnel.as_ref().expect("started"))
            .into();
        let wait = Duration::from_secs(5);
        let a_datagram = b"who is there?".to_vec();
        from.send_datagram(
            &a_datagram,
            "192.0.2.2:6783".parse().expect("an address"),
            false,
        )
        .expect("it is sent");
        eventually("it is dropped", || b.drops("not_wireguard") == 1);
        let taken = to.datagrams();
        for (remote, own) in [
            ("192.0.2.2:6783", "192.0.2.1:6783"),
            ("[2001:db8::2]:6783", "[2001:db8::1]:6783"),
        ] {
            let remote: SocketAddr = remote.parse().expect("an address");
            from.send_datagram(&a_datagram, remote, false)
                .expect("it is sent");
            let seen = taken.recv_timeout(wait).expect("it is taken");
            assert_eq!(seen.bytes, a_datagram);
            // From the very port of the tunnel, so it opens the way that the tunnel needs.
            assert_eq!(seen.source, own.parse().expect("an address"));
            assert_eq!(seen.destination, Some(remote.ip()));
            // Larger than the link: in fragments, or not at all.
            let large = vec![b'x'; 3000];
            let refused = from
                .send_datagram(&large, remote, true)
                .expect_err("it is too large");
            assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
            from.send_datagram(&large, remote, false)
                .expect("it is sent");
            assert_eq!(taken.recv_timeout(wait).expect("it is taken").bytes, large);
            // Just as large as the link.
            let whole = vec![b'y'; if remote.is_ipv4() { 1472 } else { 1452 }];
            from.send_datagram(&whole, remote, true)
                .expect("it is sent");
            assert_eq!(taken.recv_timeout(wait).expect("it is taken").bytes, whole);
        }
        let like_ours = from.send_datagram(
            &[4, 0, 0, 0, 9],
            "192.0.2.2:6783".parse().expect("one"),
            false,
        );
        assert!(like_ours.is_err(), "it looks like WireGuard's");
        // Nobody takes them, and nothing is hurt by many.
        for _ in 0..200 {
            from.send_datagram(&a_datagram, "192.0.2.2:6783".parse().expect("one"), false)
                .expect("it is sent");
        }
        eventually("those are dropped", || b.drops("not_wireguard") > 1);
        exchange(&a.udp(a.v4(), 1000), &b.udp(b.v4(), 1000)).expect("the tunnel carries on");
    });
}
