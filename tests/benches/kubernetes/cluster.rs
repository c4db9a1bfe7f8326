//! A cluster without a network gets weft; a node comes to it; what is ours is broken by hand.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use weft_tests::cluster::processes::{age, of_pod, within};
use weft_tests::cluster::{Cluster, Cni, Dns, Lifetime, Options};
use weft_tests::lab::{ensure, eventually};

use crate::figures::Figure;

const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";
/// By which its process is known.
const AGNHOST_WORDS: [&str; 2] = ["/agnhost", "netexec"];
const PATIENCE: Duration = Duration::from_secs(120);
/// Whether what was broken is as it was.
type IsBack = Box<dyn Fn(&Cluster) -> Result<()>>;

const BREAKS: usize = 5;
const NODE: &str = "node-2";
const NEW: &str = "node-4";

/// The folder of this benchmark's cluster.
pub(crate) fn dir() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/cluster-bench"
    ))
}

pub(crate) fn measure() -> Result<Vec<Figure>> {
    let options = Options {
        cni: Cni::None,
        dns: Dns::None,
        ..Options::default()
    };
    let mut say = |what: &str| eprintln!("cluster: {what}");
    let cluster = Cluster::up(&dir(), options, Lifetime::Owner, &mut say)?;
    let start = start(&cluster)?;
    let join = join(&cluster)?;
    let route = breaks(&cluster, "its route", remove_route)?;
    let table = breaks(&cluster, "its table", flush_table)?;
    Ok(vec![
        Figure::median(
            "apply to three kubelets Ready and pods of all reached",
            "s",
            Some(15.0),
            vec![start],
        ),
        Figure::median(
            "a fourth node: agent's start to all pods reached",
            "s",
            Some(3.0),
            vec![join],
        ),
        Figure::median("a route deleted by hand: back", "s", Some(2.0), route),
        Figure::median("our nft table flushed by hand: back", "s", Some(2.0), table),
    ])
}

/// From `kubectl apply` until the nodes are Ready and each node's pod reaches each other's.
fn start(cluster: &Cluster) -> Result<f64> {
    let labels = json!({ "app": "echo" });
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "echo", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    // As whatever waits for a network does.
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{ "name": "echo", "image": AGNHOST, "args": ["netexec"] }],
                },
            },
        },
    });
    cluster.kubectl_with(&["apply", "-f", "-"], &set.to_string())?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/weft.yaml");
    let started = Instant::now();
    cluster.kubectl(&["apply", "-f", manifest])?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "node",
        "--all",
        "--timeout=120s",
    ])?;
    eprintln!(
        "the nodes are ready after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let pods = eventually("each node has its pod", PATIENCE, || pods(cluster, 3))?;
    eprintln!(
        "the pods run after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    for (_, own) in &pods {
        for (_, other) in pods.iter().filter(|(_, other)| other != own) {
            reaches(own, other)?;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

/// From the start of a new node's agent until each pod reaches that node, at its address in the mesh: a
/// pod of its own would take containerd's time as well.
fn join(cluster: &Cluster) -> Result<f64> {
    let pods = pods(cluster, 3)?;
    cluster.add(NEW)?;
    let range = cluster.get(&["node", NEW])?;
    let range = range["spec"]["podCIDR"].as_str().context("no range")?;
    let range: ipnet::Ipv4Net = range.parse()?;
    let address = range.hosts().next().context("an empty range")?.to_string();
    let new = eventually("the agent runs", PATIENCE, || cluster.agent(NEW))?;
    for (_, own) in &pods {
        let pid = of_pod(own, &AGNHOST_WORDS)?;
        eventually(&format!("{own} reaches the new node"), PATIENCE, || {
            let output = within(pid, "ping")
                .args(["-c1", "-W1", "-n", &address])
                .output()?;
            ensure(output.status.success(), "no answer")
        })?;
    }
    let reached = age(new)?;
    Ok(reached.as_secs_f64())
}

/// How long one node's pod is not reached, or what is ours not there, each time it is broken.
fn breaks(cluster: &Cluster, what: &str, one: fn(&Cluster) -> Result<IsBack>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..BREAKS {
        let is_back = one(cluster)?;
        let broken = Instant::now();
        eventually(what, PATIENCE, || is_back(cluster))?;
        times.push(broken.elapsed().as_secs_f64());
        thread::sleep(Duration::from_secs(1));
    }
    Ok(times)
}

fn remove_route(cluster: &Cluster) -> Result<IsBack> {
    let routes = printed(
        cluster,
        NODE,
        &["ip", "-4", "route", "show", "dev", "weft0"],
    )?;
    let line = routes.lines().find(|line| line.contains("/24"));
    let range = line.and_then(|line| line.split_whitespace().next());
    let range = range.context("no route")?.to_owned();
    printed(
        cluster,
        NODE,
        &["ip", "route", "delete", &range, "dev", "weft0"],
    )?;
    Ok(Box::new(move |cluster| {
        let routes = printed(
            cluster,
            NODE,
            &["ip", "route", "show", &range, "dev", "weft0"],
        )?;
        ensure(!routes.is_empty(), "no route")
    }))
}

fn flush_table(cluster: &Cluster) -> Result<IsBack> {
    let list = |cluster: &Cluster| {
        let rules = printed(cluster, NODE, &["nft", "list", "table", "inet", "weft"])?;
        Ok::<_, anyhow::Error>(rules.lines().count())
    };
    let before = list(cluster)?;
    printed(cluster, NODE, &["nft", "flush", "table", "inet", "weft"])?;
    Ok(Box::new(move |cluster| {
        let now = list(cluster)?;
        ensure(now >= before, format!("{now} lines of {before}"))
    }))
}

/// The node and the address of each pod.
fn pods(cluster: &Cluster, count: usize) -> Result<Vec<(String, String)>> {
    let list = cluster.get(&["pods", "-l", "app=echo"])?;
    let all = list["items"].as_array().into_iter().flatten();
    let text = |value: &serde_json::Value| Some(value.as_str()?.to_owned());
    let found: Vec<_> = all
        .filter(|pod| pod["status"]["phase"] == "Running")
        .filter_map(|pod| {
            Some((
                text(&pod["spec"]["nodeName"])?,
                text(&pod["status"]["podIP"])?,
            ))
        })
        .collect();
    ensure(found.len() == count, format!("{} run", found.len()))?;
    Ok(found)
}

/// Waits until a pod is answered by another, which it sees by the pod's own address. From within its
/// network: `kubectl exec` takes as long as what is measured.
fn reaches(from: &str, to: &str) -> Result<()> {
    let pid = of_pod(from, &AGNHOST_WORDS)?;
    let url = format!("http://{to}:8080/clientip");
    eventually(&format!("{from} reaches {to}"), PATIENCE, || {
        let output = within(pid, "curl")
            .args(["-sS", "-m", "1", &url])
            .output()?;
        let seen = String::from_utf8_lossy(&output.stdout);
        ensure(
            seen.starts_with(&format!("{from}:")),
            format!("it is seen as {seen:?}"),
        )
    })
}

fn printed(cluster: &Cluster, node: &str, words: &[&str]) -> Result<String> {
    let (program, rest) = words.split_first().context("no program")?;
    let output = cluster.on_node(node, program)?.args(rest).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), said.trim().to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
