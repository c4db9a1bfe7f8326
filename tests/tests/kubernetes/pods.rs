//! Pods of every node and the addresses by which they see one another.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";
const PATIENCE: Duration = Duration::from_secs(60);

/// One pod on each node that says by HTTP from where it is asked; their names and addresses.
fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<(String, String)>> {
    let labels = json!({ "app": "echo" });
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "echo", "namespace": namespace },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "echo", "image": AGNHOST, "args": ["netexec"] }],
                },
            },
        },
    });
    cluster.kubectl(&["create", "namespace", namespace])?;
    cluster.kubectl_with(&["apply", "-f", "-"], &set.to_string())?;
    cluster.kubectl(&[
        "-n",
        namespace,
        "rollout",
        "status",
        "ds/echo",
        "--timeout=60s",
    ])?;
    let list = cluster.get(&["-n", namespace, "pods"])?;
    let pods = list["items"].as_array().context("no list of pods")?;
    let of = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str()?.to_owned();
        Some((name, pod["status"]["podIP"].as_str()?.to_owned()))
    };
    Ok(pods.iter().filter_map(of).collect())
}

fn all_reach_all(cluster: &Cluster, namespace: &str) -> Result<()> {
    let pods = pods(cluster, namespace)?;
    ensure(
        pods.len() == cluster.status()?.nodes.len(),
        format!("{pods:?}"),
    )?;
    for (from, own) in &pods {
        for (to, address) in &pods {
            let url = format!("http://{address}:8080/clientip");
            let what = format!("{from} reaches {to}");
            let seen = eventually(&what, PATIENCE, || {
                cluster.exec(namespace, from, &["curl", "-sS", "-m", "2", &url])
            })?;
            let seen = seen.rsplit_once(':').map_or(&*seen, |(address, _)| address);
            ensure(
                seen == own,
                format!("{to} sees {from} as {seen}, not as {own}"),
            )?;
        }
    }
    cluster.kubectl(&["delete", "namespace", namespace])?;
    Ok(())
}

pub(super) fn pods_of_all_nodes_reach_one_another() -> Result<()> {
    all_reach_all(&of_tests()?, "reach")
}

pub(super) fn the_underlay_sees_no_pod() -> Result<()> {
    let cluster = of_tests()?;
    all_reach_all(&cluster, "sealed")?;
    let seen = cluster.status()?.capture;
    ensure(
        seen.plaintext == 0 && seen.wireguard > 0 && seen.kernel_dropped == 0,
        format!("{seen:?}"),
    )
}
