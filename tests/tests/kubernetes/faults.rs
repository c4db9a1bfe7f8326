//! What breaks: daemons are killed, pods come and go by the dozen, the API server is away, etcd is set
//! back to an older copy. No address is given twice, none is lost, and all is whole afterwards.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};
use weft_tests::tools::tool;

use super::space::{PATIENCE, PORT, Space, nodes, said, server, source, url};
use super::whole::whole;

/// How many pods of each node come and go at once; a hundred is a run by hand of minutes.
const PODS: &str = "WEFT_TEST_PODS";
const FEW: usize = 15;

/// Kills a node's agent. Its kubelet starts it again.
pub(super) fn kill_agent(cluster: &Cluster, node: &str) -> Result<()> {
    let before = cluster.agent(node)?;
    kill(before)?;
    eventually("another agent runs", PATIENCE, || {
        let now = cluster.agent(node)?;
        ensure(now != before, "the old one lives")?;
        cluster.weft_status(node)
    })
    .map(drop)
}

pub(super) fn kill(pid: u32) -> Result<()> {
    said(Command::new("kill").args(["-9", &pid.to_string()])).map(drop)
}

fn restart(cluster: &Cluster, node: &str, program: &str) -> Result<()> {
    cluster.kill(node, program)?;
    cluster.start(node, program)
}

/// `count` pods of a node, as cheap as a pod can be.
fn many(prefix: &str, node: &str, count: usize) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let mut pod = server(&format!("{prefix}-{node}-{number}"), node);
            pod["metadata"]["labels"]["many"] = prefix.into();
            pod["spec"]["containers"][0]["args"] = serde_json::json!(["pause"]);
            if let Some(container) = pod["spec"]["containers"][0].as_object_mut() {
                container.remove("readinessProbe");
            }
            pod
        })
        .collect()
}

pub(super) fn daemons_killed_while_pods_come_and_go_lose_nothing() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "killed")?;
    space.run(&[server("one", "node-1"), server("two", "node-2")])?;
    let before = (space.address("one")?, space.address("two")?);
    for (round, victim) in ["agent", "kubelet", "containerd"].into_iter().enumerate() {
        space.apply(&many(victim, "node-2", 4))?;
        if round > 0 {
            // Those of the round before go while these come.
            space.kubectl(&["delete", "pod", "-l", "many", "--wait=false"])?;
            space.apply(&many(&format!("{victim}-after"), "node-2", 2))?;
        }
        match victim {
            "agent" => kill_agent(&cluster, "node-2")?,
            daemon => restart(&cluster, "node-2", daemon)?,
        }
    }
    space.kubectl(&["delete", "pod", "-l", "many", "--timeout=90s"])?;
    let asked = [url(before.1, PORT, "clientip")];
    for seen in space.ask("one", &asked)? {
        let seen = source(&seen)?;
        ensure(seen == before.0, format!("{before:?} seen as {seen}"))?;
    }
    whole(&cluster)
}

pub(super) fn many_pods_of_all_nodes_come_and_go_at_once() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "many")?;
    let count = match std::env::var(PODS) {
        Ok(text) => text.parse().context(PODS)?,
        Err(_) => FEW,
    };
    let mut pods = Vec::new();
    for node in nodes(&cluster)? {
        pods.extend(many("burst", &node, count));
    }
    let begun = std::time::Instant::now();
    space.apply(&pods)?;
    let wait = ["wait", "--for=condition=Ready", "pod", "--all"];
    space.kubectl(&[&wait[..], &["--timeout=600s"]].concat())?;
    eprintln!("{} pods run after {:?}", pods.len(), begun.elapsed());
    whole(&cluster)?;
    let begun = std::time::Instant::now();
    let delete = ["delete", "pod", "-l", "many", "--wait=false"];
    space.kubectl(&delete)?;
    kill_agent(&cluster, "node-3")?;
    space.kubectl(&["wait", "--for=delete", "pod", "--all", "--timeout=600s"])?;
    eprintln!("{} pods are gone after {:?}", pods.len(), begun.elapsed());
    whole(&cluster)
}

/// A container of a pod, as its node calls it.
fn container(space: &Space<'_>, pod: &str) -> Result<String> {
    let path = "jsonpath={.status.containerStatuses[0].containerID}";
    let id = space.kubectl(&["get", "pod", pod, "-o", path])?;
    Ok(id.trim_start_matches("containerd://").to_owned())
}

/// Numbers what is run in containers.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Asks from within a container, without the API server.
fn ask_within(cluster: &Cluster, node: &str, container: &str, to: &str) -> Result<IpAddr> {
    eventually(&format!("{to} answers a pod of {node}"), PATIENCE, || {
        let mut ctr = cluster.on_node(node, "ctr")?;
        ctr.args(["-n", "k8s.io", "tasks", "exec", "--exec-id"])
            .arg(format!("ask-{}", ASKED.fetch_add(1, Relaxed)))
            .args([container, "curl", "-sS", "-m", "2", to]);
        source(&said(&mut ctr)?)
    })
}

/// The pods that a node's runtime has, by `crictl`; what it printed.
fn crictl(cluster: &Cluster, node: &str, program: &Path, words: &[&str]) -> Result<String> {
    let socket = "unix:///run/containerd/containerd.sock";
    said(
        cluster
            .on_node(node, program)?
            .args(["--runtime-endpoint", socket])
            .args(words),
    )
}

fn leases(cluster: &Cluster, node: &str) -> Result<BTreeSet<IpAddr>> {
    let leases = cluster.weft_status(node)?.ipam.leases;
    Ok(leases
        .into_iter()
        .flat_map(|lease| lease.addresses)
        .collect())
}

/// The static pod, in the manifests' folder of a node.
const STATIC: &str = "/etc/kubernetes/manifests/static.json";

pub(super) fn without_the_api_server_pods_keep_their_network_and_others_get_one() -> Result<()> {
    let cluster = of_tests()?;
    let program = tool("crictl")?;
    let space = Space::new(&cluster, "away")?;
    space.run(&[server("one", "node-1"), server("two", "node-2")])?;
    let (one, two) = (space.address("one")?, space.address("two")?);
    let asks = container(&space, "one")?;
    let mut image = server("static", "node-3");
    image["metadata"]["namespace"] = space.name.clone().into();

    cluster.stop_control("kube-apiserver")?;
    let asked = url(two, PORT, "clientip");
    let seen = ask_within(&cluster, "node-1", &asks, &asked)?;
    ensure(seen == one, format!("{one} is seen as {seen}"))?;

    // An agent that starts now has its peers and its range from its disk.
    kill_agent(&cluster, "node-2")?;
    let seen = ask_within(&cluster, "node-1", &asks, &asked)?;
    ensure(seen == one, format!("{one} is seen as {seen}"))?;

    // A pod is taken away by hand, and the kubelet makes it anew: DEL and ADD.
    let id = crictl(
        &cluster,
        "node-2",
        &program,
        &["pods", "-q", "--name", "^two$", "--namespace", "away"],
    )?;
    crictl(&cluster, "node-2", &program, &["stopp", id.trim()])?;
    crictl(&cluster, "node-2", &program, &["rmp", id.trim()])?;
    let again = eventually("the pod is made anew", PATIENCE, || {
        let now = leases(&cluster, "node-2")?;
        let other = now.iter().find(|address| **address != two).copied();
        // The kubelet has more pods there than this one, so the newest is looked for by its answer.
        other.context("no lease")?;
        let id = crictl(
            &cluster,
            "node-2",
            &program,
            &[
                "pods",
                "-q",
                "--name",
                "^two$",
                "--namespace",
                "away",
                "--state",
                "ready",
            ],
        )?;
        let text = crictl(&cluster, "node-2", &program, &["inspectp", id.trim()])?;
        let pod: Value = serde_json::from_str(&text)?;
        let ip = pod["status"]["network"]["ip"].as_str();
        Ok::<IpAddr, anyhow::Error>(ip.context("no address yet")?.parse()?)
    })?;
    let seen = ask_within(&cluster, "node-1", &asks, &url(again, PORT, "clientip"))?;
    ensure(seen == one, format!("{one} is seen as {seen}"))?;

    // A static pod gets an address.
    let before = leases(&cluster, "node-3")?;
    let write = format!("cat > {STATIC}");
    let mut sh = cluster.on_node("node-3", "sh")?;
    feed(sh.args(["-c", &write]), &image.to_string())?;
    let address = eventually("the static pod has an address", PATIENCE, || {
        let now = leases(&cluster, "node-3")?;
        now.difference(&before).next().copied().context("none new")
    })?;
    let seen = ask_within(&cluster, "node-1", &asks, &url(address, PORT, "clientip"))?;
    ensure(seen == one, format!("{one} is seen as {seen}"))?;

    cluster.start_control("kube-apiserver")?;
    let back = whole(&cluster);
    said(cluster.on_node("node-3", "rm")?.arg(STATIC))?;
    back?;
    eventually("the static pod's address is free", PATIENCE, || {
        let now = leases(&cluster, "node-3")?;
        ensure(!now.contains(&address), format!("{now:?}"))
    })?;
    whole(&cluster)
}

/// Runs a command with something on its standard input.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = command.stdin(std::process::Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    ensure(status.success(), format!("{command:?}: {status}"))
}

pub(super) fn an_older_copy_of_the_store_is_overtaken_by_what_the_nodes_know() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "older")?;
    space.run(&[server("one", "node-1")])?;
    cluster.keep_store()?;
    let old = cluster.get(&["weftnode", "node-3"])?["spec"]["publicKey"].clone();
    // The node gets another key, of which the kept copy knows nothing.
    cluster.remove("node-3")?;
    cluster.wipe("node-3")?;
    cluster.add("node-3")?;
    eventually("the node has another key", PATIENCE, || {
        let now = cluster.get(&["weftnode", "node-3"])?["spec"]["publicKey"].clone();
        ensure(now != old, "the old one")
    })?;
    let new = cluster.weft_status("node-3")?.engine.public_key;
    space.run(&[server("late", "node-2")])?;

    cluster.set_store_back()?;
    // As upstream advises: these hold what the API server has forgotten.
    for program in ["kube-controller-manager", "kube-scheduler"] {
        cluster.stop_control(program)?;
        cluster.start_control(program)?;
    }
    for node in nodes(&cluster)? {
        restart(&cluster, &node, "kubelet")?;
        restart(&cluster, &node, "kube-proxy")?;
    }
    whole(&cluster)?;
    let now = cluster.get(&["weftnode", "node-3"])?["spec"]["publicKey"].clone();
    ensure(now == *new, format!("{now} is told, and not {new}"))
}
