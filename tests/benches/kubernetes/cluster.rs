//! A cluster without a network gets weft; a node comes to it; what is ours is broken by hand.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use weft_tests::cluster::{Cluster, Cni, Dns, Lifetime, Options};
use weft_tests::lab::{ensure, eventually};

use crate::figures::Figure;

const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";
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
    for (node, _, own) in &pods {
        for (_, _, other) in pods.iter().filter(|(_, _, other)| other != own) {
            reaches(cluster, node, other, PATIENCE)?;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

/// From the start of a new node's agent until every node's pod reaches that node's address in the
/// mesh, which the agent itself has.
fn join(cluster: &Cluster) -> Result<f64> {
    let pods = pods(cluster, 3)?;
    cluster.add(NEW)?;
    let look = "-o=jsonpath={.items[0].status.containerStatuses[0].state.running.startedAt}";
    let field = format!("--field-selector=spec.nodeName={NEW}");
    let names = [
        "-n",
        "weft-system",
        "get",
        "pods",
        "-l=app.kubernetes.io/name=weft",
        &field,
        look,
    ];
    let range = cluster.get(&["node", NEW])?;
    let range = range["spec"]["podCIDR"].as_str().context("no range")?;
    let range: ipnet::Ipv4Net = range.parse()?;
    let address = range.hosts().next().context("an empty range")?.to_string();
    // The API tells the second of its start; the process tells of the hundredth.
    eventually("the agent runs", PATIENCE, || {
        ensure(cluster.kubectl(&names)?.contains('T'), "not yet")
    })?;
    for (node, _, _) in &pods {
        eventually("the new node is reached", PATIENCE, || {
            printed(cluster, node, &["ping", "-c1", "-W1", "-n", &address])
        })?;
    }
    let reached = Instant::now();
    let age = printed(
        cluster,
        NEW,
        &["sh", "-c", "ps -eo etimes=,args= | grep '[/]weft up'"],
    )?;
    let age: f64 = age.split_whitespace().next().context("no age")?.parse()?;
    Ok(age - reached.elapsed().as_secs_f64())
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

/// The node, the name and the address of each pod.
fn pods(cluster: &Cluster, count: usize) -> Result<Vec<(String, String, String)>> {
    let list = cluster.get(&["pods", "-l", "app=echo"])?;
    let all = list["items"].as_array().into_iter().flatten();
    let text = |value: &serde_json::Value| Some(value.as_str()?.to_owned());
    let found: Vec<_> = all
        .filter(|pod| pod["status"]["phase"] == "Running")
        .filter_map(|pod| {
            Some((
                text(&pod["spec"]["nodeName"])?,
                text(&pod["metadata"]["name"])?,
                text(&pod["status"]["podIP"])?,
            ))
        })
        .collect();
    ensure(found.len() == count, format!("{} run", found.len()))?;
    Ok(found)
}

/// From within the pod of a node, by its namespace: `kubectl exec` takes as long as what is measured.
fn reaches(cluster: &Cluster, node: &str, to: &str, patience: Duration) -> Result<()> {
    let script = "for pid in $(pgrep -f '[/]agnhost netexec'); do \
                  exec nsenter -t \"$pid\" --net curl -sS -m 1 \"http://$0:8080/clientip\"; done; exit 1";
    eventually("a pod reaches another node's", patience, || {
        printed(cluster, node, &["sh", "-c", script, to])
    })
    .map(drop)
}

fn printed(cluster: &Cluster, node: &str, words: &[&str]) -> Result<String> {
    let (program, rest) = words.split_first().context("no program")?;
    let output = cluster.on_node(node, program)?.args(rest).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), said.trim().to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
