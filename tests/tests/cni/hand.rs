//! `weft attach` and `weft detach`: containers that no runtime attaches.

use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result};
use weft_router::demo::net::Process;
use weft_tests::lab::{Lab, LabNode, Pod, ensure, eventually};

use crate::support::{NEWS, PATIENCE, leases, ready, wait_empty};

fn path(pod: &Pod) -> String {
    pod.netns().path().display().to_string()
}

fn attach(node: &LabNode, container: &str, name: &str) -> Result<Vec<IpAddr>> {
    let printed = node.weft(&["attach", container, "--name", name])?;
    let parsed: Result<Vec<IpAddr>, _> = printed.lines().map(str::parse).collect();
    let addresses = parsed.with_context(|| printed.clone())?;
    ensure(addresses.len() == 2, printed)?;
    Ok(addresses)
}

/// What a node's own DNS server answers for a name, both families, sorted.
fn asked(node: &LabNode, name: &str) -> Result<Vec<IpAddr>> {
    let server = node
        .mesh_addresses()?
        .first()
        .copied()
        .context("no address")?;
    let at = format!("@{server}");
    let mut found = Vec::new();
    for kind in ["A", "AAAA"] {
        let words = ["dig", "+short", "+time=1", "+tries=1", &at, kind, name];
        found.extend(
            node.run(&words)?
                .lines()
                .filter_map(|l| l.parse::<IpAddr>().ok()),
        );
    }
    found.sort();
    Ok(found)
}

fn wait_answer(node: &LabNode, name: &str, mut wanted: Vec<IpAddr>) -> Result<()> {
    wanted.sort();
    eventually(&format!("{} answers {name}", node.name()), NEWS, || {
        let found = asked(node, name)?;
        ensure(
            found == wanted,
            format!("{found:?}, not {wanted:?}\n{}", node.said()),
        )
    })
}

pub(super) fn a_container_attached_by_hand_has_a_name_everywhere_until_detached() -> Result<()> {
    weft_tests::lab::have("dig")?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    nodes.iter().try_for_each(ready)?;
    let pod = nodes[0].bare_pod("box")?;
    let mut process = Process::new(
        pod.command("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()?,
    );
    // By a process of it, in capital letters: names have no case.
    let addresses = attach(&nodes[0], &process.id().to_string(), "Web")?;
    for node in &nodes {
        wait_answer(node, "web.weft.local", addresses.clone())?;
        for name in ["web", "Web.weft.local."] {
            let printed = node.weft(&["dns", "lookup", name])?;
            let said: Result<Vec<IpAddr>, _> = printed.lines().map(str::parse).collect();
            ensure(said? == addresses, format!("{name}: {printed}"))?;
        }
    }
    nodes[1].run(&[
        "ping",
        "-n",
        "-c",
        "1",
        "-W",
        "2",
        &addresses[0].to_string(),
    ])?;
    // The path and the process mean one container.
    let again = nodes[0]
        .weft(&["attach", &path(&pod)])
        .err()
        .context("attached twice")?;
    ensure(
        format!("{again:#}").contains("attached already"),
        format!("{again:#}"),
    )?;
    nodes[0].weft(&["detach", &path(&pod)])?;
    for node in &nodes {
        wait_answer(node, "web.weft.local", Vec::new())?;
    }
    process.kill()?;
    wait_empty(&nodes[0])
}

pub(super) fn two_containers_of_one_name_are_both_answered() -> Result<()> {
    weft_tests::lab::have("dig")?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    nodes.iter().try_for_each(ready)?;
    let pods = [
        nodes[0].bare_pod("one")?,
        nodes[0].bare_pod("two")?,
        nodes[1].bare_pod("three")?,
    ];
    let mut all = Vec::new();
    for (node, pod) in [(0, &pods[0]), (0, &pods[1]), (1, &pods[2])] {
        all.extend(attach(&nodes[node], &path(pod), "shop")?);
    }
    for node in &nodes {
        wait_answer(node, "shop.weft.local", all.clone())?;
    }
    nodes[0].weft(&["detach", &path(&pods[0])])?;
    for node in &nodes {
        wait_answer(node, "shop.weft.local", all[2..].to_vec())?;
    }
    Ok(())
}

pub(super) fn a_containers_end_withdraws_its_name() -> Result<()> {
    weft_tests::lab::have("dig")?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    nodes.iter().try_for_each(ready)?;
    // A namespace of no name, that ends with its process.
    let child = nodes[0]
        .command("unshare")
        .args(["--net", "sleep", "600"])
        .spawn()?;
    let mut process = Process::new(child);
    let pid = process.id().to_string();
    let addresses = eventually("the namespace is there", PATIENCE, || {
        attach(&nodes[0], &pid, "web")
    })?;
    for node in &nodes {
        wait_answer(node, "web.weft.local", addresses.clone())?;
    }
    process.kill()?;
    for node in &nodes {
        wait_answer(node, "web.weft.local", Vec::new())?;
    }
    wait_empty(&nodes[0])
}

pub(super) fn what_cannot_be_attached_is_refused_with_the_reason() -> Result<()> {
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    nodes.iter().try_for_each(ready)?;
    let pod = nodes[0].bare_pod("box")?;
    let path = path(&pod);
    let long = "x".repeat(64);
    let own = nodes[0]
        .machine()
        .node()
        .netns()
        .path()
        .display()
        .to_string();
    let cases: [(&[&str], &str); 10] = [
        (&[&path, "--name=-web"], "a name is"),
        (&[&path, "--name", "we b"], "a name is"),
        (&[&path, "--name", "web..x"], "a name is"),
        (&[&path, "--name", ""], "a name is"),
        (&[&path, "--name", &long], "a name is"),
        (&[&path, "--name", "a"], "is a node's name"),
        (&[&path, "--name", "b"], "is a node's name"),
        (&[&own, "--name", "web"], "own network namespace"),
        (&["/etc/hostname"], "no network namespace"),
        (&["999999999"], "running process"),
    ];
    for (words, reason) in cases {
        let arguments: Vec<&str> = ["attach"].iter().chain(words).copied().collect();
        let refused = nodes[0].machine().weft(&arguments).err();
        let refused = refused
            .with_context(|| format!("{words:?} was attached"))?
            .to_string();
        ensure(refused.contains(reason), format!("{words:?}: {refused}"))?;
    }
    ensure(leases(&nodes[0])?.is_empty(), "something was attached")
}

/// The agent looks at the host whenever a link comes or goes; a look from before an attach must
/// not take it for ended.
pub(super) fn attaching_while_links_come_and_go_loses_nobody() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    ready(&node)?;
    let mut pods = Vec::new();
    for count in 0..40 {
        let pod = node.bare_pod(&format!("p{count}"))?;
        let link = format!("x{count}");
        node.run(&["ip", "link", "add", &link, "type", "veth"])?;
        node.weft(&["attach", &path(&pod)])?;
        node.run(&["ip", "link", "del", &link])?;
        pods.push(pod);
    }
    let leases = leases(&node)?;
    ensure(
        leases.len() == 40,
        format!("{} of 40 leases\n{}", leases.len(), node.said()),
    )
}
