//! Whether a cluster is whole, whatever was done to it: the same nodes everywhere, every pod with an
//! address that is its own, and nothing left of what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use weft_router::control::{PeerState, Status};
use weft_tests::cluster::Cluster;
use weft_tests::lab::{ensure, eventually};

use super::space::sealed;

/// How long a cluster may take until it is as it should be.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until every node of the API carries pods and has each other as a peer, by its present key;
/// until the leases of each node are the addresses of its pods, none twice; and until nothing else is
/// left. Then checks that no packet of a pod was seen in the clear.
pub(super) fn whole(cluster: &Cluster) -> Result<()> {
    settled(cluster)?;
    sealed(cluster)
}

/// The same, whatever was seen.
pub(super) fn settled(cluster: &Cluster) -> Result<()> {
    let mut twice = BTreeSet::new();
    eventually("the cluster is whole", PATIENCE, || {
        let names = ready(&cluster.get(&["nodes"])?)?;
        let keys = keys(&cluster.get(&["weftnodes"])?)?;
        let told: BTreeSet<String> = keys.keys().cloned().collect();
        ensure(told == names, format!("WeftNodes {told:?} of {names:?}"))?;
        let pods = addresses(&cluster.get(&["pods", "-A"])?)?;
        let mut seen = BTreeMap::new();
        // Of a pair that does not talk, what both say.
        let mut wrong = Vec::new();
        for node in &names {
            let status = cluster.weft_status(node)?;
            wrong.extend(peers(node, &status, &keys).err());
            let leases = leases(node, &status, &mut seen, &mut twice);
            let wanted = pods.get(node).cloned().unwrap_or_default();
            if leases != wanted {
                wrong.push(anyhow!("{node} has leases {leases:?} for pods {wanted:?}"));
            }
        }
        ensure(wrong.is_empty(), format!("{wrong:#?}"))
    })?;
    ensure(
        twice.is_empty(),
        format!("an address was given twice: {twice:?}"),
    )
}

/// The names of the nodes, all of which are ready and say that their network is there.
fn ready(nodes: &Value) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for node in items(nodes) {
        let name = text(&node["metadata"]["name"])?;
        for (kind, wanted) in [("Ready", "True"), ("NetworkUnavailable", "False")] {
            let conditions = node["status"]["conditions"].as_array();
            let found = conditions
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == kind);
            let is = found.map(|condition| &condition["status"]);
            ensure(
                is.is_some_and(|is| is == wanted),
                format!("{name}: {kind} is {is:?}"),
            )?;
        }
        names.insert(name);
    }
    Ok(names)
}

/// The WireGuard key of each node.
fn keys(weft_nodes: &Value) -> Result<BTreeMap<String, String>> {
    items(weft_nodes)
        .map(|node| {
            Ok((
                text(&node["metadata"]["name"])?,
                text(&node["spec"]["publicKey"])?,
            ))
        })
        .collect()
}

/// The addresses of each node's pods that have one of their own.
fn addresses(pods: &Value) -> Result<BTreeMap<String, BTreeSet<IpAddr>>> {
    let mut found: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for pod in items(pods) {
        let name = &pod["metadata"]["name"];
        if pod["spec"]["hostNetwork"] == true || pod["status"]["phase"] == "Succeeded" {
            continue;
        }
        ensure(
            pod["metadata"]["deletionTimestamp"].is_null(),
            format!("{name} is being deleted"),
        )?;
        let own = pod["status"]["podIPs"].as_array();
        let own = own.with_context(|| format!("{name} has no address"))?;
        let of_node = found.entry(text(&pod["spec"]["nodeName"])?).or_default();
        for address in own {
            let is_new = of_node.insert(text(&address["ip"])?.parse()?);
            ensure(
                is_new,
                format!("{name} has the address of another: {address}"),
            )?;
        }
    }
    Ok(found)
}

/// Checks that a node's peers are the other nodes, each established and by its present key.
fn peers(node: &str, status: &Status, keys: &BTreeMap<String, String>) -> Result<()> {
    let is: BTreeMap<_, _> = status
        .peers
        .iter()
        .map(|peer| (peer.name.clone(), (peer.public_key.clone(), peer.state)))
        .collect();
    let wanted: BTreeMap<_, _> = keys
        .iter()
        .filter(|(name, _)| *name != node)
        .map(|(name, key)| (name.clone(), (key.clone(), PeerState::Established)))
        .collect();
    ensure(
        is == wanted,
        format!("{node} has peers {:#?}", status.peers),
    )
}

/// The addresses that a node has given. One that any node has given to another container is entered in
/// `twice`, which no later look undoes.
fn leases(
    node: &str,
    status: &Status,
    seen: &mut BTreeMap<IpAddr, String>,
    twice: &mut BTreeSet<String>,
) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for lease in &status.ipam.leases {
        let holder = format!("{} on {node}", lease.container_id);
        for address in &lease.addresses {
            if let Some(other) = seen.insert(*address, holder.clone()) {
                twice.insert(format!("{address} to {other} and {holder}"));
            }
            found.insert(*address);
        }
    }
    found
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> Result<String> {
    let text = value.as_str();
    Ok(text
        .with_context(|| format!("a text, not {value}"))?
        .to_owned())
}
