//! What an administrator sees: the mesh by `kubectl`, and what is wrong as an Event of the node with a
//! reason to alert on, until it is mended.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::faults::{kill, kill_agent};
use super::space::{PATIENCE, nodes, said};
use super::whole::whole;

const NODE: &str = "node-3";
/// Who takes the port.
const HOLDER: [&str; 4] = ["nc.openbsd", "-u", "-l", "6783"];
const NAMESPACE: [&str; 2] = ["-n", "weft-system"];

/// `weft` in an agent's pod; what it printed.
fn weft(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let exec = ["exec", "daemonset/weft", "--", "/weft"];
    cluster.kubectl(&[&NAMESPACE, &exec[..], words].concat())
}

/// Waits for an Event of the node with this reason, whose text says this.
fn told(cluster: &Cluster, reason: &str, says: &str) -> Result<()> {
    told_by(
        cluster,
        reason,
        says,
        &format!(",involvedObject.name={NODE}"),
    )
}

fn told_by(cluster: &Cluster, reason: &str, says: &str, node: &str) -> Result<()> {
    let selector = format!("reason={reason}{node}");
    eventually(&format!("an Event {reason} says {says}"), PATIENCE, || {
        let events = cluster.get(&["events", "-A", "--field-selector", &selector])?;
        let items = events["items"].as_array().into_iter().flatten();
        let texts: Vec<_> = items.map(|event| event["message"].to_string()).collect();
        ensure(
            texts.iter().any(|text| text.contains(says)),
            format!("{texts:?}"),
        )
    })
}

/// Waits until the node says of its network that it is unavailable, with this in the message, or that
/// it is there.
fn network_is(cluster: &Cluster, unavailable: Option<&str>) -> Result<()> {
    let what = format!("NetworkUnavailable for {unavailable:?}");
    eventually(&what, PATIENCE, || {
        let node = cluster.get(&["node", NODE])?;
        let conditions = node["status"]["conditions"].as_array();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "NetworkUnavailable");
        let found = found.context("no such condition")?;
        let wanted = match unavailable {
            Some(_) => ("True", "WeftNotReady"),
            None => ("False", "WeftReady"),
        };
        let says = found["message"].to_string();
        ensure(
            (&found["status"], &found["reason"]) == (&wanted.0.into(), &wanted.1.into())
                && says.contains(unavailable.unwrap_or_default()),
            format!("{found}"),
        )
    })
}

pub(super) fn an_administrator_sees_the_mesh_by_kubectl() -> Result<()> {
    let cluster = of_tests()?;
    let nodes = nodes(&cluster)?;
    whole(&cluster)?;
    let peers = weft(&cluster, &["status", "peers"])?;
    let named = nodes.iter().filter(|node| peers.contains(node.as_str()));
    ensure(named.count() + 1 == nodes.len(), format!("in {peers}"))?;
    for screen in ["connections", "ipam", "dns"] {
        let text = weft(&cluster, &["status", screen])?;
        ensure(!text.trim().is_empty(), format!("{screen} says nothing"))?;
    }
    let status: Value = serde_json::from_str(&weft(&cluster, &["status", "--json"])?)?;
    ensure(
        status["problems"].as_array().is_some_and(Vec::is_empty),
        format!("{}", status["problems"]),
    )?;

    let table = cluster.kubectl(&["get", "weftnodes", "-o", "wide"])?;
    let head = table.lines().next().unwrap_or_default();
    for column in [
        "NAME", "RANGES", "ENDPOINT", "ENGINE", "VERSION", "KEY", "AGE",
    ] {
        ensure(head.contains(column), format!("no {column} in {head}"))?;
    }
    for node in &nodes {
        let row = table.lines().find(|row| row.starts_with(node.as_str()));
        ensure(
            row.is_some_and(|row| row.contains("/24") && row.contains(":6783")),
            format!("{node} in {table}"),
        )?;
    }
    // A quarter of a minute without a word: nothing happens.
    let since = ["logs", "daemonset/weft", "--all-pods", "--since=15s"];
    eventually("the agents are quiet", PATIENCE, || {
        let log = cluster.kubectl(&[&NAMESPACE, &since[..]].concat())?;
        ensure(log.lines().count() <= 1, log)
    })
}

pub(super) fn a_missing_permission_is_named_until_it_is_given() -> Result<()> {
    let cluster = of_tests()?;
    let all = cluster.get(&["clusterrole", "weft"])?;
    let mut fewer = all.clone();
    fewer["metadata"] = json!({ "name": "weft" });
    let rules = fewer["rules"].as_array_mut().context("no rules")?;
    rules.retain(|rule| rule["resources"] != json!(["weftnodes"]));
    cluster.kubectl_with(&["replace", "-f", "-"], &fewer.to_string())?;
    kill_agent(&cluster, NODE)?;
    let named = told(&cluster, "PermissionMissing", "weftnodes");
    let mut given = all;
    given["metadata"] = json!({ "name": "weft", "labels": given["metadata"]["labels"] });
    cluster.kubectl_with(&["replace", "-f", "-"], &given.to_string())?;
    named?;
    whole(&cluster)
}

/// Without it a node's agent seems well, until a pod comes.
pub(super) fn a_missing_capability_is_named_until_it_is_given() -> Result<()> {
    const AGENTS: [&str; 4] = ["-n", "weft-system", "daemonset", "weft"];
    let cluster = of_tests()?;
    let capabilities = "/spec/template/spec/containers/0/securityContext/capabilities/add";
    let daemons = cluster.get(&AGENTS)?;
    let given = daemons.pointer(capabilities).context("none")?.clone();
    let mut fewer = given.clone();
    let names = fewer.as_array_mut().context("no list")?;
    names.retain(|name| name != "SYS_ADMIN");
    // One agent alone is to have fewer.
    let change = |strategy: Value, capabilities_are: &Value| {
        let patch = json!([
            { "op": "replace", "path": "/spec/updateStrategy", "value": strategy },
            { "op": "replace", "path": capabilities, "value": capabilities_are },
        ]);
        let patch = patch.to_string();
        cluster.kubectl(&[&["patch"], &AGENTS[..], &["--type=json", "-p", &patch]].concat())
    };
    change(json!({ "type": "OnDelete" }), &fewer)?;
    let of_node = format!("--field-selector=spec.nodeName={NODE}");
    cluster.kubectl(&["-n", "weft-system", "delete", "pod", &of_node])?;
    let named = told(&cluster, "PermissionMissing", "SYS_ADMIN")
        .and_then(|()| network_is(&cluster, Some("SYS_ADMIN")));
    change(daemons["spec"]["updateStrategy"].clone(), &given)?;
    named?;
    network_is(&cluster, None)?;
    whole(&cluster)
}

pub(super) fn a_port_that_is_taken_is_named_until_it_is_free() -> Result<()> {
    let cluster = of_tests()?;
    // While nobody starts it again.
    cluster.kill(NODE, "kubelet")?;
    kill(cluster.agent(NODE)?)?;
    let mut nc = cluster.on_node(NODE, "nc.openbsd")?;
    nc.args(&HOLDER[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut holder = eventually("the port is taken by another", PATIENCE, || {
        let mut holder = nc.spawn()?;
        let bound = eventually("it is bound", Duration::from_secs(2), || {
            let held = said(
                cluster
                    .on_node(NODE, "ss")?
                    .args(["-Hulnp", "sport = :6783"]),
            )?;
            ensure(held.contains("nc.openbsd"), held)
        });
        if bound.is_err() {
            holder.kill()?;
            holder.wait()?;
        }
        bound.map(|()| holder)
    })?;
    cluster.start(NODE, "kubelet")?;
    let named = network_is(&cluster, Some("6783"));
    for pid in cluster.processes(NODE, &HOLDER)? {
        kill(pid)?;
    }
    holder.wait()?;
    named?;
    network_is(&cluster, None)?;
    whole(&cluster)
}

pub(super) fn a_firewall_in_the_way_is_named_until_it_is_gone() -> Result<()> {
    let cluster = of_tests()?;
    let nft = |rules: &str| said(cluster.on_node(NODE, "nft")?.arg(rules));
    nft("add table inet other; \
         add chain inet other blocking { type filter hook forward priority 0; policy drop; }")?;
    let named = told(&cluster, "ForwardingBlocked", "other");
    nft("delete table inet other")?;
    named?;
    eventually("it is no problem any more", PATIENCE, || {
        let problems = cluster.weft_status(NODE)?.problems;
        ensure(problems.is_empty(), format!("{problems:?}"))
    })?;
    whole(&cluster)
}

pub(super) fn another_networks_file_is_named_until_it_is_gone() -> Result<()> {
    let cluster = of_tests()?;
    let file = "/etc/cni/net.d/00-other.conflist";
    let write = format!(
        "echo '{{\"cniVersion\": \"1.0.0\", \"name\": \"other\", \"plugins\": [{{\"type\": \"bridge\"}}]}}' > {file}"
    );
    said(cluster.on_node(NODE, "sh")?.args(["-c", &write]))?;
    let named = network_is(&cluster, Some("00-other.conflist"));
    said(cluster.on_node(NODE, "rm")?.arg(file))?;
    named?;
    network_is(&cluster, None)?;
    whole(&cluster)
}

/// Objects that an administrator has put there, gone with the value.
struct Objects<'a>(&'a Cluster, Value);

impl<'a> Objects<'a> {
    fn put(cluster: &'a Cluster, objects: &[Value]) -> Result<Self> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let this = Self(cluster, list);
        cluster.kubectl_with(&["create", "-f", "-"], &this.1.to_string())?;
        Ok(this)
    }
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        let delete = ["delete", "--ignore-not-found", "-f", "-"];
        let _ = self.0.kubectl_with(&delete, &self.1.to_string());
    }
}

fn ghost(ranges: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": "ghost" },
        "spec": { "podCIDR": ranges[0], "podCIDRs": ranges, "unschedulable": true },
    })
}

/// Who routes to a node that says what it likes: a range of another's, and a key that it has not signed.
pub(super) fn a_node_that_is_given_anothers_range_or_lies_is_named_and_gets_nothing() -> Result<()>
{
    let cluster = of_tests()?;
    let ranges = cluster.get(&["node", NODE])?["spec"]["podCIDRs"].clone();
    let mut told_of = cluster.get(&["weftnode", NODE])?["spec"].clone();
    // A signature that is one, of another name.
    told_of["podCIDRs"] = json!(["0.0.0.0/0"]);
    let lie = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "WeftNode",
        "metadata": { "name": "ghost" },
        "spec": told_of,
    });
    // In two, so that what is there goes again where the other is refused.
    let node = Objects::put(&cluster, &[ghost(&ranges)])?;
    let lie = Objects::put(&cluster, &[lie])?;
    told_by(&cluster, "RangeConflict", "ghost", "")?;
    told_by(&cluster, "PeerRefused", "ghost", "")?;
    for node in nodes(&cluster)? {
        let peers = cluster.weft_status(&node)?.peers;
        ensure(
            peers
                .iter()
                .all(|peer| peer.name != "ghost" || peer.ranges.is_empty()),
            format!("{node} routes to the ghost: {peers:?}"),
        )?;
    }
    drop((lie, node));
    whole(&cluster)
}

pub(super) fn a_link_over_the_nodes_range_is_named_until_it_is_gone() -> Result<()> {
    let cluster = of_tests()?;
    let range = cluster.get(&["node", NODE])?["spec"]["podCIDR"].clone();
    let range: ipnet::IpNet = range.as_str().context("no range")?.parse()?;
    let address = range.hosts().nth(200).context("a small range")?.to_string();
    let ip = |words: &str| said(cluster.on_node(NODE, "ip")?.args(words.split(' ')));
    ip("link add other type bridge")?;
    ip(&format!("address add {address}/25 dev other"))?;
    ip("link set other up")?;
    let named = told(&cluster, "RangeOverlap", "other");
    ip("link delete other")?;
    named?;
    network_is(&cluster, None)?;
    whole(&cluster)
}
