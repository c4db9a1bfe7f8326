//! Who reaches whom, and as whom.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use weft_router::demo::net::{NetError, Netns};
use weft_tests::lab::{Lab, LabNode, ensure, eventually};

use super::support::{SOON, Two, netns, ping};

pub(crate) fn the_host_and_pods_reach_each_other_both_ways() -> Result<()> {
    let two = Two::new()?;
    let [a, b] = &two.nodes;
    let neighbour = a.pod("three")?;
    for address in neighbour.addresses() {
        eventually("pods of one node", SOON, || two.pods[0].ping(address))?;
    }
    for address in two.pods[0].addresses() {
        ping(a, address).context("a host and its own pod")?;
        ping(b, address).context("a host and a far pod")?;
    }
    for address in a.mesh_addresses()? {
        ping(b, address).context("a far node's mesh address")?;
        two.pods[0].ping(address).context("a pod and its node")?;
        two.pods[1].ping(address).context("a pod and a far node")?;
    }
    Ok(())
}

/// The address that a server on the underlay sees of a datagram from inside `client`.
fn seen_source(server: &LabNode, server_ip: IpAddr, client: &Netns) -> Result<IpAddr> {
    let bind = |netns: &Netns, address: SocketAddr| {
        netns.run(move || {
            UdpSocket::bind(address).map_err(|source| NetError::Io {
                act: format!("bind {address}"),
                source,
            })
        })
    };
    let listening = bind(netns(server), (server_ip, 9000).into())?;
    listening.set_read_timeout(Some(Duration::from_secs(2)))?;
    let any: IpAddr = if server_ip.is_ipv4() {
        "0.0.0.0".parse()?
    } else {
        "::".parse()?
    };
    bind(client, (any, 0).into())?.send_to(b"hello", (server_ip, 9000))?;
    let mut buffer = [0; 16];
    let (_, from) = listening.recv_from(&mut buffer)?;
    Ok(from.ip())
}

pub(crate) fn a_pod_reaches_outside_by_its_nodes_address() -> Result<()> {
    let two = Two::new()?;
    let server = two.lab.node("server")?;
    let [a, b] = &two.nodes;
    let pod = two.pods[0].netns();
    ensure(
        seen_source(&server, server.v4().into(), pod)? == IpAddr::from(a.v4()),
        "not the node's IPv4 address",
    )?;
    ensure(
        seen_source(&server, server.v6()?.into(), pod)? == IpAddr::from(a.v6()?),
        "not the node's IPv6 address",
    )?;
    // Inside the mesh everybody sees the pod itself.
    for (at, address) in b.mesh_addresses()?.into_iter().enumerate() {
        let seen = seen_source(b, address, pod)?;
        ensure(
            seen == two.pods[0].addresses()[at],
            format!("seen as {seen}"),
        )?;
    }
    // And the host is seen by its mesh address.
    for (at, address) in b.mesh_addresses()?.into_iter().enumerate() {
        let seen = seen_source(b, address, netns(a))?;
        ensure(seen == a.mesh_addresses()?[at], format!("seen as {seen}"))?;
    }
    Ok(())
}

pub(crate) fn a_host_without_ipv6_works_and_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (lab.node("a")?, lab.node("b")?);
    for node in [&a, &b] {
        for which in ["all", "default"] {
            netns(node).sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "1")?;
        }
    }
    a.up(&[])?;
    b.join(&a)?;
    a.wait_established(1, Duration::from_secs(20))?;
    let (one, two) = (a.pod("one")?, b.pod("two")?);
    eventually("the pods reach each other", SOON, || one.ping(two.v4()?))
        .with_context(|| a.said())?;
    let log = fs::read_to_string(a.machine().log())?;
    ensure(log.contains("pods here have IPv4 alone"), log)?;
    ensure(one.addresses().len() == 1, one.result())?;
    let problems = a.status()?["problems"].clone();
    ensure(problems == serde_json::json!([]), problems)
}
