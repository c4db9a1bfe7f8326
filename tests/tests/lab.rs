//! The lab itself: what the tests of weft stand on.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_router::demo::net::{NetError, Netns};
use weft_tests::lab::{Lab, LabNode, Nat, ensure, eventually, have};
use weft_tests::lab_tests;

lab_tests!(
    nodes_reach_each_other_in_both_families,
    a_partition_divides_and_heals,
    lost_frames_are_about_as_many_as_asked_for,
    a_node_is_reached_at_its_new_address,
    a_pulled_cable_is_a_dead_link_until_it_is_put_back,
    a_port_preserving_nat_shows_one_port_to_everybody,
    a_symmetric_nat_shows_each_destination_another_port,
    nobody_outside_reaches_behind_a_nat_uninvited,
    the_capture_tells_plaintext_from_sealed,
    the_capture_finds_an_address_of_the_pool,
    a_node_is_made_in_less_than_30_ms,
    a_process_of_a_node_dies_with_its_owner,
    a_name_is_taken_only_once,
    nothing_of_the_host_is_seen,
);

fn ping(node: &LabNode, address: impl Into<IpAddr>) -> Result<()> {
    let address = address.into().to_string();
    node.run(&["ping", "-n", "-c", "1", "-W", "1", &address])
        .map(drop)
}

/// The other answers. The kernel may lose a new link's first packets while it is busy.
fn reached(node: &LabNode, address: impl Into<IpAddr>) -> Result<()> {
    let address = address.into();
    eventually("an answer to a ping", Duration::from_secs(10), || {
        ping(node, address)
    })
}

/// A UDP socket inside a namespace, used from outside of it.
fn udp(netns: &Netns, address: &str) -> Result<UdpSocket> {
    let socket = netns.run(|| {
        UdpSocket::bind(address).map_err(|source| NetError::Io {
            act: format!("bind {address}"),
            source,
        })
    })?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

fn of(node: &LabNode) -> &Netns {
    node.machine().node().netns()
}

fn nodes_reach_each_other_in_both_families() -> Result<()> {
    have("ping")?;
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    reached(&a, b.v4())?;
    reached(&b, a.v6()?)
}

fn a_partition_divides_and_heals() -> Result<()> {
    have("ping")?;
    let lab = Lab::new()?;
    let (a, b, c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    lab.partition(&[&a], &[&b])?;
    ensure(ping(&a, b.v4()).is_err(), "the partition lets a ping pass")?;
    ensure(
        ping(&b, a.v6()?).is_err(),
        "the partition lets a ping over IPv6 pass",
    )?;
    reached(&a, c.v4())?;
    reached(&b, c.v4())?;
    lab.heal()?;
    reached(&a, b.v4())
}

fn lost_frames_are_about_as_many_as_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let to = udp(of(&b), "0.0.0.0:9000")?;
    to.set_read_timeout(Some(Duration::from_millis(500)))?;
    let from = udp(of(&a), "0.0.0.0:0")?;
    let target = SocketAddr::new(b.v4().into(), 9000);
    let count = |sent: usize| -> Result<usize> {
        for _ in 0..sent {
            from.send_to(&[0; 16], target)?;
        }
        let mut arrived = 0;
        // Those that are lost never come, so silence is the end.
        while arrived < sent && to.recv(&mut [0; 16]).is_ok() {
            arrived += 1;
        }
        Ok(arrived)
    };
    ensure(count(50)? == 50, "frames are lost without a fault")?;
    lab.lose(&b, 30)?;
    // Few enough at once for any socket's buffer.
    let arrived = count(100)? + count(100)? + count(100)?;
    // 300 fair draws leave this range once in a hundred thousand runs.
    ensure(
        (170..=250).contains(&arrived),
        format!("{arrived} of 300 arrived, with 30 % lost"),
    )?;
    lab.lose(&b, 0)?;
    ensure(count(50)? == 50, "frames are lost after the fault")
}

fn a_node_is_reached_at_its_new_address() -> Result<()> {
    have("ping")?;
    let lab = Lab::new()?;
    let (mut a, b) = (lab.node("a")?, lab.node("b")?);
    let old = a.v4();
    reached(&b, old)?;
    lab.readdress(&mut a)?;
    ensure(a.v4() != old, "the address is the old one")?;
    reached(&b, a.v4())?;
    reached(&b, a.v6()?)?;
    ensure(ping(&b, old).is_err(), "the old address answers")
}

fn a_pulled_cable_is_a_dead_link_until_it_is_put_back() -> Result<()> {
    have("ping")?;
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    reached(&a, b.v4())?;
    lab.unplug(&b)?;
    ensure(
        ping(&a, b.v4()).is_err(),
        "a node without its cable answers",
    )?;
    lab.plug(&b)?;
    eventually("b answers again", Duration::from_secs(5), || {
        ping(&a, b.v4())
    })
}

/// The ports under which `here` is seen by two others.
fn seen_ports(here: &Netns, others: [&LabNode; 2]) -> Result<BTreeSet<u16>> {
    let socket = udp(here, "0.0.0.0:40000")?;
    let mut ports = BTreeSet::new();
    for node in others {
        let there = udp(of(node), "0.0.0.0:9000")?;
        socket.send_to(b"who am I", (node.v4(), 9000))?;
        let (_, from) = there
            .recv_from(&mut [0; 16])
            .context("nothing came through the box")?;
        there.send_to(b"you", from)?;
        socket
            .recv(&mut [0; 16])
            .context("no answer came back through the box")?;
        ports.insert(from.port());
    }
    Ok(ports)
}

fn a_port_preserving_nat_shows_one_port_to_everybody() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let home = lab.nat("home", Nat::PortPreserving)?;
    let edge = home.node("edge")?;
    let ports = seen_ports(of(&edge), [&a, &b])?;
    ensure(ports == [40000].into(), format!("seen at {ports:?}"))
}

fn a_symmetric_nat_shows_each_destination_another_port() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let home = lab.nat("home", Nat::Symmetric)?;
    let edge = home.node("edge")?;
    let ports = seen_ports(of(&edge), [&a, &b])?;
    ensure(
        ports.len() == 2 && !ports.contains(&40000),
        format!("seen at {ports:?}"),
    )
}

fn nobody_outside_reaches_behind_a_nat_uninvited() -> Result<()> {
    have("ping")?;
    let lab = Lab::new()?;
    let a = lab.node("a")?;
    let home = lab.nat("home", Nat::PortPreserving)?;
    let edge = home.node("edge")?;
    reached(&edge, a.v4())?;
    let inside = edge.v4().to_string();
    a.run(&[
        "ip",
        "route",
        "add",
        &inside,
        "via",
        &home.port().v4.addr().to_string(),
    ])?;
    ensure(
        ping(&a, edge.v4()).is_err(),
        "a stranger's ping went through the box",
    )
}

fn the_capture_tells_plaintext_from_sealed() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let capture = lab.capture(&[b"the secret page"])?;
    let to = udp(of(&b), "0.0.0.0:6783")?;
    let from = udp(of(&a), "0.0.0.0:6783")?;
    let send = |payload: &[u8]| -> Result<()> {
        from.send_to(payload, (b.v4(), 6783))?;
        to.recv(&mut [0; 2048])?;
        Ok(())
    };
    let mut sealed = [0x5a; 1424];
    sealed[..4].copy_from_slice(&[4, 0, 0, 0]);
    for _ in 0..1000 {
        send(&sealed)?;
    }
    let counts = capture.counts();
    ensure(
        counts.wireguard == 1000 && counts.plaintext == 0,
        format!("{counts:?}"),
    )?;
    ensure(counts.noise >= 2, format!("no ARP was seen: {counts:?}"))?;
    ensure(
        counts.kernel_dropped == 0 && counts.kernel_seen >= counts.frames(),
        format!("the kernel counted otherwise: {counts:?}"),
    )?;
    send(b"GET / HTTP/1.1")?;
    sealed[100..115].copy_from_slice(b"the secret page");
    send(&sealed)?;
    let counts = capture.counts();
    ensure(
        counts.plaintext == 2 && counts.samples.len() == 2,
        format!("{counts:?}"),
    )?;
    capture.reset();
    ensure(capture.counts().frames() == 0, "the capture remembers")
}

fn the_capture_finds_an_address_of_the_pool() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let capture = lab.capture(&[])?;
    let from = udp(of(&a), "0.0.0.0:0")?;
    // By the default route: in the clear, as a mesh that fails open would send it. First comes ARP.
    from.send_to(b"to a pod", ("10.32.7.5", 80))?;
    eventually("the leak is seen", Duration::from_secs(2), || {
        let counts = capture.counts();
        let found = counts
            .samples
            .contains_key("UDP with an address of the mesh");
        ensure(found, format!("{counts:?}"))
    })?;
    drop(b);
    Ok(())
}

fn a_node_is_made_in_less_than_30_ms() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = Vec::new();
    let mut times = Vec::new();
    for number in 0..40 {
        let started = Instant::now();
        nodes.push(lab.node(&format!("n{number}"))?);
        times.push(started.elapsed());
    }
    times.sort();
    println!("40 nodes: median {:?}, longest {:?}", times[20], times[39]);
    ensure(
        times[20] < Duration::from_millis(30),
        format!("median {:?}", times[20]),
    )
}

fn a_process_of_a_node_dies_with_its_owner() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.node("a")?;
    let pid = std::thread::scope(|scope| {
        let started =
            scope.spawn(|| -> Result<u32> { Ok(a.command("sleep").arg("600").spawn()?.id()) });
        started
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the thread panicked"))
    })?;
    eventually("the process is dead", Duration::from_secs(5), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure(stat.is_empty() || stat.contains(") Z "), stat)
    })
}

fn a_name_is_taken_only_once() -> Result<()> {
    let lab = Lab::new()?;
    let _a = lab.node("a")?;
    let error = lab.node("a").err().context("two nodes have one name")?;
    ensure(
        format!("{error:#}").contains("name namespace a"),
        format!("{error:#}"),
    )
}

fn nothing_of_the_host_is_seen() -> Result<()> {
    let links = std::fs::read_to_string("/proc/net/dev")?;
    let names: Vec<&str> = links
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .collect();
    ensure(
        names.iter().all(|name| name.trim() == "lo"),
        format!("{names:?}"),
    )?;
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    ensure(resolv.is_empty() || resolv.contains("192.0.2.53"), resolv)
}
