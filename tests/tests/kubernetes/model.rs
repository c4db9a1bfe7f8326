//! Kubernetes' model of a network: every pod has an address of its own, by which all pods, and the
//! hosts, reach it and know it.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::json;
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::outside::Outside;
use super::space::{
    DATAGRAMS, PATIENCE, PORT, Space, ask_from, container, node_address, nodes, sealed, server,
    source, url,
};

pub(super) fn containers_of_a_pod_share_localhost_and_address() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "one-pod")?;
    let ports = [8080_u16, 8082, 8084];
    let mut pod = server("three", "node-2");
    let containers = ports.map(|port| {
        let (http, udp) = (
            format!("--http-port={port}"),
            format!("--udp-port={}", port + 1),
        );
        container(&format!("at-{port}"), port, &["netexec", &http, &udp])
    });
    pod["spec"]["containers"] = json!(containers);
    space.run(&[pod])?;
    let own = space.address("three")?;
    let mut links = BTreeSet::new();
    for from in ports {
        let within = |words: &[&str]| {
            let container = format!("--container=at-{from}");
            space.kubectl(&[&["exec", "three", &container, "--"], words].concat())
        };
        for to in ports {
            let local = format!("http://localhost:{to}/clientip");
            let seen = source(&within(&["curl", "-sS", "-m", "3", &local])?)?;
            ensure(
                seen.is_loopback(),
                format!("{from} to {to} on localhost: {seen}"),
            )?;
            let by_address = url(own, to, "clientip");
            let seen = source(&within(&["curl", "-sS", "-m", "3", &by_address])?)?;
            ensure(seen == own, format!("{from} to {to} at {own}: {seen}"))?;
        }
        links.insert(within(&[
            "ip", "-o", "addr", "show", "dev", "eth0", "scope", "global",
        ])?);
    }
    ensure(links.len() == 1, format!("not one eth0: {links:?}"))?;
    ensure(
        links.iter().all(|link| link.contains(&format!("{own}/"))),
        format!("{links:?} without {own}"),
    )
}

/// Two pods on each node, each of which reaches each, by a stream and by a datagram, and is seen by
/// its own address.
pub(super) fn reach(cluster: &Cluster, namespace: &str) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    let mut pods = Vec::new();
    for node in nodes(cluster)? {
        for name in ["a", "b"] {
            pods.push((format!("{node}-{name}"), node.clone()));
        }
    }
    let wanted: Vec<_> = pods.iter().map(|(name, node)| server(name, node)).collect();
    space.run(&wanted)?;
    let mut addresses = Vec::new();
    for (name, _) in &pods {
        addresses.push(space.address(name)?);
    }
    let distinct: BTreeSet<_> = addresses.iter().collect();
    ensure(
        distinct.len() == pods.len(),
        format!("an address twice: {addresses:?}"),
    )?;
    let urls: Vec<String> = addresses
        .iter()
        .map(|to| url(*to, PORT, "clientip"))
        .collect();
    for ((from, _), own) in pods.iter().zip(&addresses) {
        for (answer, to) in space.ask(from, &urls)?.iter().zip(&addresses) {
            let seen = source(answer)?;
            ensure(seen == *own, format!("{to} sees {own} as {seen}"))?;
        }
        let script: String = addresses
            .iter()
            .map(|to| format!("echo clientip | nc -u -w 1 -W 1 {to} {DATAGRAMS}; echo\n"))
            .collect();
        eventually(&format!("{from} hears datagrams"), PATIENCE, || {
            let said = space.exec(from, &["sh", "-c", &script])?;
            let seen: Vec<&str> = said.split_whitespace().collect();
            let all = seen.len() == addresses.len();
            ensure(all, format!("not from all of {addresses:?}: {seen:?}"))?;
            for seen in seen {
                let seen = source(seen)?;
                ensure(seen == *own, format!("{own} is seen as {seen}"))?;
            }
            Ok(())
        })?;
    }
    sealed(cluster)
}

pub(super) fn pods_of_all_nodes_reach_one_another_and_see_who_asks() -> Result<()> {
    reach(&of_tests()?, "reach")
}

/// Each node's host reaches each node's pod, and back; what crosses the underlay between them is
/// sealed, since the host is seen by an address inside the mesh.
pub(super) fn hosts(cluster: &Cluster, namespace: &str) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    let nodes = nodes(cluster)?;
    let mut objects = Vec::new();
    for node in &nodes {
        objects.push(server(node, node));
        let mut host = server(&format!("{node}-host"), node);
        host["spec"]["hostNetwork"] = json!(true);
        // Others run on this network too.
        host["spec"]["containers"] = json!([container(
            "server",
            18080,
            &["netexec", "--http-port=18080", "--udp-port=18081"]
        )]);
        objects.push(host);
    }
    // Ready says that the kubelet of each has reached it.
    space.run(&objects)?;
    let mut pods = Vec::new();
    let mut hosts = Vec::new();
    for node in &nodes {
        pods.push(url(space.address(node)?, PORT, "clientip"));
        hosts.push(url(node_address(cluster, node)?, 18080, "clientip"));
    }
    for node in &nodes {
        let host = cluster.weft_status(node)?.mesh.addresses;
        let from_host = ask_from(&pods, |program| cluster.on_node(node, program))?;
        let from_pod_of_host = space.ask(&format!("{node}-host"), &pods)?;
        for seen in from_host.iter().chain(&from_pod_of_host) {
            let seen = source(seen)?;
            ensure(
                host.contains(&seen),
                format!("the host of {node}, {host:?}, is seen as {seen}"),
            )?;
        }
        let own = space.address(node)?;
        for (seen, to) in space.ask(node, &hosts)?.iter().zip(&nodes) {
            let seen = source(seen)?;
            let wanted = match to == node {
                true => own,
                // To another host, which is outside of the mesh.
                false => node_address(cluster, node)?,
            };
            ensure(
                seen == wanted,
                format!("the host of {to} sees the pod of {node} as {seen}, not as {wanted}"),
            )?;
        }
    }
    sealed(cluster)
}

pub(super) fn hosts_and_pods_of_all_nodes_reach_one_another() -> Result<()> {
    hosts(&of_tests()?, "hosts")
}

pub(super) fn what_leaves_the_cluster_has_the_nodes_address() -> Result<()> {
    leave(&of_tests()?, "leave")
}

/// A pod asks somebody on the underlay who is no node.
pub(super) fn leave(cluster: &Cluster, namespace: &str) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    space.run(&[server("inside", "node-2")])?;
    let outside = Outside::start(cluster, 18090)?;
    let answer = space.ask("inside", &[url(outside.address, 18090, "clientip")])?;
    let seen = source(answer.first().context("no answer")?)?;
    let wanted = node_address(cluster, "node-2")?;
    ensure(seen == wanted, format!("seen as {seen}, not as {wanted}"))
}
