//! Weft is brought up to date while pods talk, and taken away without a trace, as the README says.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::model::reach;
use super::space::{PATIENCE, PORT, Space, nodes, said, server, source, url};
use super::whole::{settled, whole};

const NAMESPACE: [&str; 2] = ["-n", "weft-system"];
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/weft.yaml");
const IMAGE: &str = "--image=ghcr.io/weft-mesh/weft:v0.1.0";

/// The restarts of the pods of a namespace.
fn restarts(space: &Space<'_>) -> Result<Vec<Value>> {
    let pods = space.cluster.get(&["-n", &space.name, "pods"])?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].clone())
        .collect())
}

pub(super) fn agents_are_replaced_one_by_one_and_pods_keep_what_they_have() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "rolling")?;
    space.run(&[server("one", "node-1"), server("two", "node-2")])?;
    let (one, two) = (space.address("one")?, space.address("two")?);
    let before = restarts(&space)?;
    let daemons = [&NAMESPACE[..], &["set", "env", "daemonset/weft"]].concat();
    let rollout = [
        &NAMESPACE[..],
        &["rollout", "status", "daemonset/weft", "--timeout=100s"],
    ]
    .concat();
    let rolled = (|| {
        cluster.kubectl(&[&daemons[..], &["WEFT_TEST_ROLL=1"]].concat())?;
        cluster.kubectl(&rollout)
    })();
    cluster.kubectl(&[&daemons[..], &["WEFT_TEST_ROLL-"]].concat())?;
    cluster.kubectl(&rollout)?;
    rolled?;
    whole(&cluster)?;
    let seen = space.ask("one", &[url(two, PORT, "clientip")])?;
    let seen = source(seen.first().map_or("", String::as_str))?;
    ensure(seen == one, format!("{one} is seen as {seen}"))?;
    ensure(
        (one, two) == (space.address("one")?, space.address("two")?) && before == restarts(&space)?,
        "a pod was made anew",
    )
}

/// What there is of weft's on a node; nothing where it was taken away.
fn traces(cluster: &Cluster, node: &str) -> Result<String> {
    const LOOK: &str = "ip -o link | grep -o 'weft[^:@]*'; \
         ip -4 route show table all proto 119; ip -6 route show table all proto 119; \
         nft list tables | grep weft; ip rule | grep -i weft; \
         ls -d /var/lib/weft /run/weft/weft.sock /run/wireguard /opt/cni/bin/weft-cni \
             /etc/cni/net.d/05-weft.conflist 2>/dev/null; true";
    said(cluster.on_node(node, "sh")?.args(["-c", LOOK]))
}

/// Last of all: it takes the network away from everybody.
pub(super) fn weft_is_taken_away_without_a_trace_and_comes_again() -> Result<()> {
    let cluster = of_tests()?;
    whole(&cluster)?;
    for node in nodes(&cluster)? {
        let there = traces(&cluster, &node)?;
        ensure(
            [
                "weft0",
                "/var/lib/weft",
                "05-weft.conflist",
                "table inet weft",
            ]
            .iter()
            .all(|trace| there.contains(trace)),
            format!("on {node}: {there}"),
        )?;
    }
    cluster.kubectl(&["delete", "-f", MANIFEST, "--timeout=60s"])?;
    for node in nodes(&cluster)? {
        cluster.kubectl(&[
            "debug",
            &format!("node/{node}"),
            "--profile=sysadmin",
            IMAGE,
            "--",
            "/weft",
            "cleanup",
            "--root",
            "/host",
            "--state",
        ])?;
        eventually(&format!("nothing of weft is on {node}"), PATIENCE, || {
            let left = traces(&cluster, &node)?;
            ensure(left.trim().is_empty(), left)
        })?;
    }
    ensure(
        Path::new(MANIFEST).exists() && cluster.get(&["crd"])?["items"] == Value::Array(Vec::new()),
        "the kinds of weft are left in the API",
    )?;

    cluster.kubectl(&["apply", "-f", MANIFEST])?;
    // Pods from before have lost their network for good: a new one is a new pod.
    cluster.kubectl(&[
        "-n",
        "kube-system",
        "delete",
        "pod",
        "--all",
        "--wait=false",
    ])?;
    cluster.kubectl(&["-n", "default", "delete", "pod", "--all", "--wait=false"])?;
    settled(&cluster)?;
    // Between the two there was no weft, and what hosts asked of those pods went as routes led.
    cluster.reset_capture()?;
    reach(&cluster, "again")
}
