//! One round: twenty nodes start, one more joins, one is killed and comes back, all are idle.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_router::control::{self, ControlReply, ControlRequest, PeerState, Status};
use weft_router::demo::net::{NetError, Segment};
use weft_tests::lab::{Lab, LabNode, ensure, eventually};

use crate::figures::Figures;
use crate::usage::{self, Usage};

const NODES: usize = 20;
/// After this a round has failed, whatever its figures.
const PATIENCE: Duration = Duration::from_secs(60);
/// The idle agents' settling, and the time for which they are looked at.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(20);
/// One try to reach a node.
const TRY: Duration = Duration::from_millis(100);
const DNS: u16 = 53;

pub(crate) fn measure() -> Result<Figures> {
    let lab = Lab::new()?;
    let mut nodes = Vec::new();
    for number in 1..=NODES + 1 {
        nodes.push(lab.node(&format!("n{number}"))?);
    }
    let ports: Vec<_> = nodes
        .iter()
        .map(|node| (node.machine().node().netns(), node.port()))
        .collect();
    Segment::introduce(&ports)?;
    let mut last = nodes.pop().context("no nodes")?;

    let full_mesh = full_mesh(&mut nodes)?;
    let join = join(&mut last, &nodes)?;
    nodes.push(last);
    let back = back(&mut nodes)?;
    wait_all(&nodes, NODES)?;
    let (resident, cpu, packets) = idle(&nodes)?;
    Ok(Figures {
        full_mesh_s: full_mesh.as_secs_f64(),
        join_s: join.as_secs_f64(),
        back_s: back.as_secs_f64(),
        resident_mb: resident as f64 / 1e6,
        core_percent: cpu.as_secs_f64() / IDLE.as_secs_f64() * 100.0,
        packets_a_second: packets as f64 / IDLE.as_secs_f64(),
    })
}

/// From the last start until every node's status shows every other.
fn full_mesh(nodes: &mut [LabNode]) -> Result<Duration> {
    let (first, others) = nodes.split_first_mut().context("no nodes")?;
    first.up(&[])?;
    let line = first.join_line()?;
    for node in others {
        node.start(&["--join", &line])?;
    }
    let started = Instant::now();
    wait_all(nodes, NODES - 1)?;
    Ok(started.elapsed())
}

/// From a node's start until it and all others see each other.
fn join(node: &mut LabNode, others: &[LabNode]) -> Result<Duration> {
    let line = others.first().context("no nodes")?.join_line()?;
    let started = Instant::now();
    node.start(&["--join", &line])?;
    wait_established(node, NODES)?;
    wait_all(others, NODES)?;
    Ok(started.elapsed())
}

/// From the start of a node that was killed, and missed, until another finds it by its name and is
/// answered at the address.
fn back(nodes: &mut [LabNode]) -> Result<Duration> {
    let [asking, .., node] = nodes else {
        bail!("too few nodes");
    };
    let name = format!("{}.weft.local.", node.name());
    let server = first_v4(asking)?;
    let address = first_v4(node)?;
    ensure(lookup(asking, server, &name)? == [address], "its own name")?;
    node.kill()?;
    eventually("the killed node's name is gone", PATIENCE, || {
        ensure(lookup(asking, server, &name).is_err(), "it is still there")
    })?;
    let started = Instant::now();
    node.start(&[])?;
    eventually("the killed node is reachable by name", PATIENCE, || {
        let found = lookup(asking, server, &name)?;
        connect(asking, *found.first().context("no address")?)
    })?;
    Ok(started.elapsed())
}

/// The most that any agent has resident, and used, and put into the tunnel, while nothing happens.
fn idle(nodes: &[LabNode]) -> Result<(u64, Duration, u64)> {
    let look = || -> Result<Vec<Usage>> {
        let pids = nodes.iter().map(|node| node.machine().pid());
        pids.map(|pid| usage::of(pid.context("no agent runs")?))
            .collect()
    };
    thread::sleep(SETTLE);
    let before = look()?;
    thread::sleep(IDLE);
    let after = look()?;
    let most = |of: fn(&Usage, &Usage) -> u64| {
        let each = before.iter().zip(&after).map(|(b, a)| of(b, a));
        each.max().unwrap_or_default()
    };
    Ok((
        most(|_, after| after.resident),
        Duration::from_millis(most(|b, a| (a.cpu - b.cpu).as_millis() as u64)),
        most(|b, a| a.packets - b.packets),
    ))
}

/// Waits until every node has `count` established peers. One is asked at a time, so that asking
/// costs the others nothing.
fn wait_all(nodes: &[LabNode], count: usize) -> Result<()> {
    nodes
        .iter()
        .try_for_each(|node| wait_established(node, count))
}

fn wait_established(node: &LabNode, count: usize) -> Result<()> {
    let what = format!("{} has {count} established peers", node.name());
    eventually(&what, PATIENCE, || {
        let up = status(node)?
            .peers
            .iter()
            .filter(|peer| peer.state == PeerState::Established)
            .count();
        ensure(up == count, format!("it has {up}\n{}", node.said()))
    })
}

/// Asked without a process of its own, which would cost more than the answer.
fn status(node: &LabNode) -> Result<Status> {
    match control::ask(&node.machine().socket(), &ControlRequest::Status)? {
        ControlReply::Status(status) => Ok(*status),
        other => bail!("the agent answered {other:?}"),
    }
}

fn first_v4(node: &LabNode) -> Result<IpAddr> {
    let addresses = node.mesh_addresses()?;
    let found = addresses.into_iter().find(IpAddr::is_ipv4);
    found.with_context(|| format!("{} has no address", node.name()))
}

/// The IPv4 addresses that the DNS server of `node` gives for `name`.
fn lookup(node: &LabNode, server: IpAddr, name: &str) -> Result<Vec<IpAddr>> {
    let server = SocketAddr::new(server, DNS);
    let reply = within(node, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(weft_dns::ask(
                server,
                name,
                weft_dns::RecordType::A,
                Duration::from_secs(1),
            ))
            .map_err(std::io::Error::other)
    })?;
    let found: Vec<IpAddr> = reply.addresses().into_iter().collect();
    ensure(!found.is_empty(), format!("{name}: {}", reply.code))?;
    Ok(found)
}

/// Whether the agent at `address` takes a connection, which it does on the port of its DNS server.
fn connect(node: &LabNode, address: IpAddr) -> Result<()> {
    let to = SocketAddr::new(address, DNS);
    within(node, || TcpStream::connect_timeout(&to, TRY).map(drop))
}

fn within<T: Send>(node: &LabNode, act: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
    let netns = node.machine().node().netns();
    Ok(netns.run(|| act().map_err(|error| NetError::Refused(error.to_string())))?)
}
