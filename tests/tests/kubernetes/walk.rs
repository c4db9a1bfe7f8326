//! The walk by hand of a course on Kubernetes' network, on a node, as root: whose network namespace a
//! container's process is in, what is in it, and what is reached from there.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::json;
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::ensure;

use super::space::{PORT, Space, container, said, server, source, url};

const NODE: &str = "node-2";

/// A program on the node.
fn there(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let (program, arguments) = words.split_first().context("no program")?;
    said(cluster.on_node(NODE, program)?.args(arguments))
}

/// The processes of a pod's containers, as its node counts them.
fn processes(space: &Space<'_>, pod: &str) -> Result<Vec<String>> {
    let path = "jsonpath={.status.containerStatuses[*].containerID}";
    let ids = space.kubectl(&["get", "pod", pod, "-o", path])?;
    let tasks = there(space.cluster, &["ctr", "-n", "k8s.io", "tasks", "list"])?;
    let mut found = Vec::new();
    for id in ids.split_whitespace() {
        let id = id.trim_start_matches("containerd://");
        let line = tasks.lines().find(|line| line.starts_with(id));
        let process = line.and_then(|line| line.split_whitespace().nth(1));
        found.push(
            process
                .with_context(|| format!("{id} in {tasks}"))?
                .to_owned(),
        );
    }
    Ok(found)
}

pub(super) fn a_walk_by_hand_finds_what_courses_say() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "walk")?;
    let mut two = server("two-containers", NODE);
    two["spec"]["containers"] = json!([
        container("first", PORT, &["netexec"]),
        container(
            "second",
            9090,
            &["netexec", "--http-port=9090", "--udp-port=9091"]
        ),
    ]);
    space.run(&[two, server("other", NODE)])?;
    let (own, other) = (space.address("two-containers")?, space.address("other")?);

    let containers = processes(&space, "two-containers")?;
    let [first, second] = &containers[..] else {
        anyhow::bail!("two containers, not {containers:?}");
    };
    let stranger = &processes(&space, "other")?[0];
    // `lsns`: the containers of a pod are in one network namespace, and the pods in two.
    let namespace = |process: &str| {
        there(
            &cluster,
            &["lsns", "-n", "-t", "net", "-o", "NS", "-p", process],
        )
        .map(|text| text.trim().to_owned())
    };
    let shared = namespace(first)?;
    ensure(!shared.is_empty(), "lsns says nothing")?;
    ensure(shared == namespace(second)?, "two namespaces in a pod")?;
    ensure(shared != namespace(stranger)?, "two pods in a namespace")?;
    let all = there(&cluster, &["lsns", "-n", "-t", "net", "-o", "NS"])?;
    ensure(
        all.lines().any(|line| line.trim() == shared),
        format!("{shared} is not among {all}"),
    )?;

    // `ip netns`: it has a name, by which one gets in.
    let name = there(&cluster, &["ip", "netns", "identify", first])?;
    let name = name.trim();
    ensure(
        !name.is_empty(),
        format!("{first} is in no named namespace"),
    )?;
    let same = there(&cluster, &["ip", "netns", "identify", second])?;
    ensure(same.trim() == name, format!("{name}, {same}"))?;
    let inside =
        |words: &[&str]| there(&cluster, &[&["ip", "netns", "exec", name], words].concat());

    // The same eth0, whichever way one looks at it.
    let show = ["ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"];
    let mut links = BTreeSet::from([inside(&show)?]);
    for container in ["--container=first", "--container=second"] {
        links.insert(
            space.kubectl(&[&["exec", "two-containers", container, "--"], &show[..]].concat())?,
        );
    }
    ensure(links.len() == 1, format!("not one eth0: {links:?}"))?;
    let link = links.first().context("no link")?;
    ensure(
        link.contains(&format!(" {own}/")),
        format!("no {own} in {link}"),
    )?;
    // Its other end is on the node, and says so.
    let ends = inside(&["ip", "-o", "link", "show", "dev", "eth0"])?;
    let index = ends
        .split_once("@if")
        .and_then(|(_, rest)| rest.split(':').next());
    let index = index.with_context(|| format!("the other end of {ends}"))?;
    let host = there(&cluster, &["ip", "-o", "link"])?;
    let end = host
        .lines()
        .find(|line| line.starts_with(&format!("{index}: ")));
    ensure(
        end.is_some_and(|end| end.contains(": weft")),
        format!("the end {index} of {ends} in {host}"),
    )?;

    // `curl localhost` is the pod's own, then the other pod.
    for port in [PORT, 9090] {
        let name = inside(&[
            "curl",
            "-sS",
            "-m",
            "3",
            &format!("http://localhost:{port}/hostname"),
        ])?;
        ensure(
            name == "two-containers",
            format!("localhost:{port} is {name}"),
        )?;
    }
    let name = inside(&["curl", "-sS", "-m", "3", &url(other, PORT, "hostname")])?;
    ensure(name == "other", format!("{other} is {name}"))?;
    let seen = source(&inside(&[
        "curl",
        "-sS",
        "-m",
        "3",
        &url(other, PORT, "clientip"),
    ])?)?;
    ensure(seen == own, format!("{own} is seen as {seen}"))
}
