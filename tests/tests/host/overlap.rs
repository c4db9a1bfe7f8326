//! Pools that collide with what the host uses.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_tests::lab::{Lab, LabNode, ensure, eventually};

use super::support::{SOON, our_routes};

/// Starts an agent that is to refuse; what it said.
fn refusal(node: &mut LabNode, arguments: &[&str]) -> Result<String> {
    node.start(arguments)?;
    eventually("the agent refuses", SOON, || {
        let agent = node.machine_mut().agent().context("no agent")?;
        ensure(agent.ended()?.is_some(), node.said())
    })?;
    Ok(node.said())
}

pub(crate) fn a_founder_refuses_a_pool_that_the_host_uses() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    let refused = |node: &mut LabNode, wants: &[&str]| -> Result<()> {
        let said = refusal(node, &[])?;
        for want in wants {
            ensure(said.contains(want), format!("{want:?} is not in: {said}"))?;
        }
        let routes = our_routes(node)?;
        ensure(routes.is_empty(), format!("it touched the host:\n{routes}"))
    };
    node.run(&["ip", "address", "add", "10.40.1.7/24", "dev", "eth0"])?;
    refused(&mut node, &["10.32.0.0/12", "10.40.1.7/24", "eth0"])?;
    node.run(&["ip", "address", "del", "10.40.1.7/24", "dev", "eth0"])?;
    node.run(&["ip", "route", "add", "10.33.0.0/16", "dev", "eth0"])?;
    refused(&mut node, &["10.32.0.0/12", "10.33.0.0/16"])?;
    node.run(&["ip", "route", "del", "10.33.0.0/16"])?;
    node.run(&["ip", "route", "add", "10.32.0.0/12", "dev", "eth0"])?;
    refused(&mut node, &["route to 10.32.0.0/12"])?;
    node.run(&["ip", "route", "del", "10.32.0.0/12"])?;
    node.run(&[
        "ip",
        "route",
        "add",
        "192.0.2.0/24",
        "via",
        "10.32.0.7",
        "dev",
        "eth0",
        "onlink",
    ])?;
    refused(&mut node, &["10.32.0.0/12", "gateway 10.32.0.7"])?;
    node.run(&["ip", "route", "del", "192.0.2.0/24"])?;
    let said = refusal(&mut node, &["--endpoint", "10.32.0.9"])?;
    ensure(said.contains("10.32.0.9"), said)?;
    // A name server inside the pool. The file is this node's alone.
    let resolv = node.machine().node().dir().join("resolv.conf");
    fs::write(&resolv, "nameserver 10.32.9.9\n")?;
    let path = resolv.display().to_string();
    node.run(&["mount", "--bind", &path, "/etc/resolv.conf"])?;
    refused(&mut node, &["10.32.0.0/12", "name server 10.32.9.9"])?;
    node.run(&["umount", "/etc/resolv.conf"])?;
    // A summary is a warning only.
    node.run(&["ip", "route", "add", "10.0.0.0/8", "dev", "eth0"])?;
    node.up(&[])?;
    let log = fs::read_to_string(node.machine().log())?;
    ensure(
        log.contains("WARN") && log.contains("10.0.0.0/8"),
        format!("no warning: {log}"),
    )
}

pub(crate) fn a_joiner_refuses_a_pool_that_the_host_uses() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (lab.node("a")?, lab.node("b")?);
    a.up(&["--pool", "172.16.0.0/12"])?;
    let line = a.join_line()?;
    b.run(&["ip", "route", "add", "172.20.0.0/16", "dev", "eth0"])?;
    let said = refusal(&mut b, &["--join", &line])?;
    for want in ["172.16.0.0/12", "172.20.0.0/16"] {
        ensure(said.contains(want), format!("{want:?} is not in: {said}"))?;
    }
    let routes = our_routes(&b)?;
    ensure(routes.is_empty(), format!("it touched the host:\n{routes}"))
}

pub(crate) fn a_joiner_does_not_mind_what_uses_another_meshs_pool() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (lab.node("a")?, lab.node("b")?);
    a.up(&["--pool", "172.16.0.0/12"])?;
    b.run(&["ip", "route", "add", "10.33.0.0/16", "dev", "eth0"])?;
    b.join(&a)?;
    b.wait_established(1, Duration::from_secs(20))?;
    let routes = our_routes(&b)?;
    ensure(!routes.contains("10.32.0.0"), routes)?;
    // Nor when it starts again, without being told of the mesh.
    b.stop()?;
    b.up(&[])?;
    b.wait_established(1, Duration::from_secs(20))
}
