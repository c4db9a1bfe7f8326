//! Tunnels between nodes as users meet them: addresses that change, NAT, names, restarts, one
//! family only, large packets, probes.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use socket2::SockRef;
use weft_router::demo::net::NetError;
use weft_tests::lab::{Lab, LabNode, Nat, Pod, all_sealed, ensure, eventually};
use weft_tests::lab_tests;

lab_tests!(
    a_node_whose_address_changes_is_followed,
    a_node_behind_a_port_preserving_nat_reaches_and_is_reached,
    a_node_behind_a_symmetric_nat_reaches_and_is_reached,
    a_named_endpoint_is_resolved_again_when_it_fails,
    an_underlay_with_ipv6_alone_carries_both_families,
    a_killed_agent_takes_up_the_device_it_left,
    a_stopped_agent_loses_no_more_than_a_handshake,
    large_packets_and_long_transfers_pass,
    a_smaller_underlay_makes_a_smaller_path,
    a_source_that_is_not_the_senders_is_dropped_and_counted,
    probes_tell_loss_and_round_trip_and_are_few,
);

/// Within a few seconds, as a person would put it.
const SOON: Duration = Duration::from_secs(10);

fn peer(node: &LabNode, name: &str) -> Result<Value> {
    let status = node.status()?;
    let peers = status["peers"].as_array().context("no peers")?;
    let found = peers.iter().find(|peer| peer["name"] == name);
    Ok(found.context("no such peer")?.clone())
}

fn reach(pods: &[Pod; 2], nodes: &[&LabNode]) -> Result<()> {
    let both_ways = || {
        for address in pods[1].addresses() {
            pods[0].ping(address)?;
        }
        for address in pods[0].addresses() {
            pods[1].ping(address)?;
        }
        Ok(())
    };
    eventually("the pods reach each other", SOON, both_ways)
        .with_context(|| nodes.iter().map(|node| node.said()).collect::<String>())
}

/// Two nodes of a mesh that are told of as `a` and `b`, a pod on each.
fn attach(a: &LabNode, b: &LabNode) -> Result<[Pod; 2]> {
    let pods = [a.pod("one")?, b.pod("two")?];
    reach(&pods, &[a, b])?;
    Ok(pods)
}

fn two(lab: &Lab) -> Result<[LabNode; 2]> {
    let nodes = lab.mesh(&["a", "b"])?;
    nodes.try_into().map_err(|_| anyhow::anyhow!("not two"))
}

fn a_node_whose_address_changes_is_followed() -> Result<()> {
    let lab = Lab::new()?;
    let [a, mut b] = two(&lab)?;
    let pods = attach(&a, &b)?;
    lab.readdress(&mut b)?;
    reach(&pods, &[&a, &b])?;
    eventually("the new endpoint is told", SOON, || {
        let endpoint = peer(&a, "b")?["endpoint"].to_string();
        let new = [b.v4().to_string(), b.v6()?.to_string()];
        ensure(new.iter().any(|new| endpoint.contains(new)), endpoint)
    })?;
    eventually("others are told of it first", SOON, || {
        let first = b.status()?["mesh"]["endpoints"][0].to_string();
        ensure(first.contains(&b.v4().to_string()), first)
    })
}

fn behind_nat(kind: Nat) -> Result<()> {
    let lab = Lab::new()?;
    let nat = lab.nat("box", kind)?;
    let (mut a, mut b) = (lab.node("a")?, nat.node("b")?);
    a.up(&[])?;
    b.join(&a)?;
    for node in [&a, &b] {
        node.wait_established(1, Duration::from_secs(20))?;
    }
    let pods = attach(&a, &b)?;
    let endpoint = peer(&a, "b")?["endpoint"].to_string();
    let outer = [
        nat.port().v4.addr().to_string(),
        nat.port().v6.context("no IPv6")?.addr().to_string(),
    ];
    ensure(
        outer.iter().any(|outer| endpoint.contains(outer)),
        &endpoint,
    )?;
    // Both agents start anew: either side finds the other again.
    for node in [&mut b, &mut a] {
        node.kill()?;
        node.up(&[])?;
        node.wait_established(1, Duration::from_secs(20))?;
    }
    reach(&pods, &[&a, &b])
}

fn a_node_behind_a_port_preserving_nat_reaches_and_is_reached() -> Result<()> {
    behind_nat(Nat::PortPreserving)
}

fn a_node_behind_a_symmetric_nat_reaches_and_is_reached() -> Result<()> {
    behind_nat(Nat::Symmetric)
}

fn a_named_endpoint_is_resolved_again_when_it_fails() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (lab.node("a")?, lab.node("b")?);
    let hosts = a.machine().node().dir().join("hosts");
    let name = |b: &LabNode| fs::write(&hosts, format!("{} edge.test\n", b.v4()));
    name(&b)?;
    a.run(&[
        "mount",
        "--bind",
        &hosts.display().to_string(),
        "/etc/hosts",
    ])?;
    // The node that has the name never begins: the other must find it.
    b.run(&[
        "nft",
        "add table inet mute; add chain inet mute out { type filter hook output priority 0; }; \
         add rule inet mute out oifname eth0 udp dport 6783 ct state new drop",
    ])?;
    a.up(&[])?;
    let line = a.join_line()?;
    b.up(&["--join", &line, "--endpoint", "edge.test"])?;
    for node in [&a, &b] {
        node.wait_established(1, Duration::from_secs(30))?;
    }
    b.stop()?;
    lab.readdress(&mut b)?;
    name(&b)?;
    b.up(&["--endpoint", "edge.test"])?;
    eventually(
        "the name's new address is used",
        Duration::from_secs(40),
        || {
            let peer = peer(&a, "b")?;
            let new = peer["endpoint"].to_string().contains(&b.v4().to_string());
            ensure(new && peer["state"] == "established", peer)
        },
    )
    .with_context(|| a.said())
}

fn an_underlay_with_ipv6_alone_carries_both_families() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (lab.node("a")?, lab.node("b")?);
    for node in [&a, &b] {
        node.only_v6()?;
    }
    a.up(&[])?;
    b.join(&a)?;
    for node in [&a, &b] {
        node.wait_established(1, Duration::from_secs(20))?;
    }
    let pods = attach(&a, &b)?;
    // 80 bytes are left for the outer headers.
    ensure(peer(&a, "b")?["mtu"] == 1420, peer(&a, "b")?)?;
    for (address, headers) in [(pods[1].v4()?, 28), (pods[1].v6()?, 48)] {
        large_ping(&pods[0], address, 1420 - headers)?;
    }
    transfer(&pods[0], &pods[1], pods[1].v4()?, 1 << 20).map(drop)
}

/// A ping of so many bytes of payload that may not be divided.
fn large_ping(from: &Pod, to: IpAddr, payload: u32) -> Result<()> {
    let (size, to) = (payload.to_string(), to.to_string());
    from.run(&[
        "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to,
    ])
    .map(drop)
}

/// Sends so many bytes by TCP; the largest segment that the receiver may send.
fn transfer(from: &Pod, to: &Pod, address: IpAddr, bytes: usize) -> Result<u32> {
    let io = |act: &'static str| {
        move |source| NetError::Io {
            act: act.into(),
            source,
        }
    };
    let listener = to
        .netns()
        .run(|| TcpListener::bind((address, 0)).map_err(io("listen")))?;
    let port: SocketAddr = listener.local_addr()?;
    let sending = from
        .netns()
        .run(|| TcpStream::connect_timeout(&port, Duration::from_secs(5)).map_err(io("connect")))?;
    let (mut receiving, _) = listener.accept()?;
    for stream in [&sending, &receiving] {
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
    }
    let writer = thread::spawn(move || {
        let mut sending = sending;
        sending.write_all(&vec![0x5a; bytes])
    });
    let mut arrived = Vec::new();
    receiving.read_to_end(&mut arrived).context("receive")?;
    let sent = writer.join();
    ensure(
        matches!(sent, Ok(Ok(()))) && arrived.len() == bytes,
        format!("{} of {bytes} bytes arrived", arrived.len()),
    )?;
    ensure(arrived.iter().all(|byte| *byte == 0x5a), "other bytes")?;
    Ok(SockRef::from(&receiving).tcp_mss()?)
}

/// The index of the mesh's link, which another link would not have.
fn index(node: &LabNode) -> Result<String> {
    let line = node.run(&["ip", "-o", "link", "show", "weft0"])?;
    Ok(line.split(':').next().unwrap_or_default().to_owned())
}

fn a_killed_agent_takes_up_the_device_it_left() -> Result<()> {
    let lab = Lab::new()?;
    let [mut a, b] = two(&lab)?;
    let pods = attach(&a, &b)?;
    let capture = lab.capture(&[])?;
    let before = (index(&a)?, pods[0].addresses(), a.mesh_addresses()?);
    for _ in 0..2 {
        a.kill()?;
        ensure(
            pods[0].ping(pods[1].v4()?).is_err(),
            "a ping is answered without an engine",
        )?;
        a.up(&[])?;
        reach(&pods, &[&a, &b])?;
        let after = (index(&a)?, pods[0].addresses(), a.mesh_addresses()?);
        ensure(after == before, format!("{before:?} became {after:?}"))?;
        all_sealed(&capture.counts())?;
    }
    Ok(())
}

fn a_stopped_agent_loses_no_more_than_a_handshake() -> Result<()> {
    let lab = Lab::new()?;
    let [mut a, b] = two(&lab)?;
    let pods = attach(&a, &b)?;
    let io = |source| NetError::Io {
        act: "a connection over the restart".into(),
        source,
    };
    let address = pods[1].v4()?;
    let listener = pods[1]
        .netns()
        .run(|| TcpListener::bind((address, 80)).map_err(io))?;
    let mut here = pods[0]
        .netns()
        .run(|| TcpStream::connect((address, 80)).map_err(io))?;
    let (mut there, _) = listener.accept()?;
    there.set_read_timeout(Some(SOON))?;
    let mut buffer = [0; 1];
    for _ in 0..2 {
        a.stop()?;
        // Given to the kernel while nobody carries it.
        here.write_all(b"x")?;
        a.up(&[])?;
        there
            .read_exact(&mut buffer)
            .with_context(|| format!("an established flow is lost\n{}", a.said()))?;
    }
    Ok(())
}

fn large_packets_and_long_transfers_pass() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = two(&lab)?;
    let pods = attach(&a, &b)?;
    for (address, headers) in [(pods[1].v4()?, 28), (pods[1].v6()?, 48)] {
        large_ping(&pods[0], address, 1420 - headers)?;
        ensure(
            large_ping(&pods[0], address, 1421 - headers).is_err(),
            "a packet larger than the pod's link passed",
        )?;
        let mss = transfer(&pods[0], &pods[1], address, 4 << 20)?;
        // The link's 1420 less the IP header and TCP's 20.
        let most = 1420 - (headers - 8) - 20;
        ensure(mss <= most, format!("segments of {mss} bytes, not {most}"))?;
        transfer(&pods[1], &pods[0], pods[0].addresses()[0], 1 << 20)?;
    }
    Ok(())
}

fn a_smaller_underlay_makes_a_smaller_path() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = two(&lab)?;
    let pods = attach(&a, &b)?;
    for node in [&a, &b] {
        node.run(&["ip", "link", "set", "eth0", "mtu", "1400"])?;
    }
    for (node, other) in [(&a, "b"), (&b, "a")] {
        eventually("the path's MTU is told", SOON, || {
            let peer = peer(node, other)?;
            let v4 = peer["endpoint"].to_string().contains('.');
            let want = if v4 { 1340 } else { 1320 };
            ensure(peer["mtu"] == want, peer)
        })?;
    }
    // The pods' links are as large as ever: they are told, or their segments are clamped.
    for address in [pods[1].v4()?, pods[1].v6()?] {
        transfer(&pods[0], &pods[1], address, 1 << 20)?;
    }
    let third = a.pod("three")?;
    let link = third.run(&["ip", "link", "show", "eth0"])?;
    ensure(link.contains("mtu 1320"), link)
}

fn a_source_that_is_not_the_senders_is_dropped_and_counted() -> Result<()> {
    let lab = Lab::new()?;
    let [a, b] = two(&lab)?;
    let pods = attach(&a, &b)?;
    let target = pods[0].v4()?.to_string();
    b.run(&["ip", "address", "add", "10.47.255.9/32", "dev", "lo"])?;
    // A packet that is not tracked keeps its source: b would put its own in the place of another.
    b.run(&[
        "nft",
        "add table inet forge; \
         add chain inet forge out { type filter hook output priority raw; }; \
         add rule inet forge out ip saddr 10.47.255.9 notrack",
    ])?;
    let forged = b.run(&[
        "ping",
        "-n",
        "-c",
        "3",
        "-i",
        "0.2",
        "-W",
        "1",
        "-I",
        "10.47.255.9",
        &target,
    ]);
    ensure(forged.is_err(), "a forged source was answered")?;
    eventually("it is counted", SOON, || {
        let drops = a.status()?["engine"]["drops"].clone();
        ensure(drops["source_not_allowed"].as_u64() >= Some(3), drops)
    })?;
    let screen = a.weft(&["status"])?;
    ensure(screen.contains("source_not_allowed"), screen)
}

fn probes_tell_loss_and_round_trip_and_are_few() -> Result<()> {
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b", "c"])?;
    let told = peer(&nodes[0], "b")?;
    let rtt = told["rtt_ms"].as_f64().context("no round trip")?;
    ensure((0.0..1000.0).contains(&rtt), told)?;
    let capture = lab.capture(&[])?;
    thread::sleep(Duration::from_secs(3));
    // Each of three nodes probes two a second, and answers as many; some keepalives.
    let counts = capture.counts();
    ensure(
        (1..=70).contains(&counts.wireguard),
        format!("{counts:?} in 3 s"),
    )?;
    lab.lose(&nodes[1], 40)?;
    eventually("the loss is told", SOON, || {
        let told = peer(&nodes[0], "b")?;
        ensure(told["loss"].as_f64() > Some(0.05), told)
    })
}
