//! What is brought to a cluster that has just started: a network for its pods, and its DNS server.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::identity::PORT;
use super::node::ClusterNode;
use super::options::Family;
use super::{printed, root};

/// Each node's ranges, as the cluster gave them.
pub(super) type Ranges = BTreeMap<String, Vec<IpNet>>;

/// The ranges of all nodes.
///
/// # Errors
/// When one of `wanted` has none yet.
pub(super) fn ranges(nodes: &str, wanted: &[String]) -> Result<Ranges> {
    let list: Value = serde_json::from_str(nodes)?;
    let mut found = Ranges::new();
    for node in list["items"].as_array().context("no list of nodes")? {
        let name = node["metadata"]["name"].as_str().context("no name")?;
        let ranges = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
        let ranges: Vec<IpNet> = ranges
            .filter_map(|range| range.as_str()?.parse().ok())
            .collect();
        if !ranges.is_empty() {
            found.insert(name.to_owned(), ranges);
        }
    }
    for name in wanted {
        found
            .get(name)
            .with_context(|| format!("{name} has no podCIDRs"))?;
    }
    Ok(found)
}

/// The reference plugins on every node, and on each the routes to the others' pods.
pub(super) fn reference(nodes: &BTreeMap<String, ClusterNode>, ranges: &Ranges) -> Result<()> {
    for (name, node) in nodes {
        let Some(own) = ranges.get(name) else {
            continue;
        };
        for (other, theirs) in ranges.iter().filter(|(other, _)| *other != name) {
            let Some(other) = nodes.get(other) else {
                continue;
            };
            for range in theirs {
                route(node, *range, other)?;
            }
        }
        let subnets: Vec<Value> = own.iter().map(|own| json!([{ "subnet": own }])).collect();
        let routes: Vec<Value> = own
            .iter()
            .map(|own| match own {
                IpNet::V4(_) => json!({ "dst": "0.0.0.0/0" }),
                IpNet::V6(_) => json!({ "dst": "::/0" }),
            })
            .collect();
        let ipam = json!({ "type": "host-local", "ranges": subnets, "routes": routes });
        let conflist = json!({
            "cniVersion": "1.0.0",
            "name": "reference",
            "plugins": [
                { "type": "ptp", "ipMasq": true, "ipam": ipam },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        let script = "cp /usr/lib/cni/* /opt/cni/bin/ && \
                      echo \"$1\" > /etc/cni/net.d/.new && \
                      mv /etc/cni/net.d/.new /etc/cni/net.d/10-reference.conflist";
        printed(
            node.command("sh")
                .args(["-c", script, "reference", &conflist.to_string()]),
        )
        .context("the reference plugins are the package containernetworking-plugins")?;
    }
    Ok(())
}

fn route(node: &ClusterNode, range: IpNet, to: &ClusterNode) -> Result<()> {
    let gateway = match range {
        IpNet::V4(_) => IpAddr::from(to.port().v4.addr()),
        IpNet::V6(_) => to.port().v6.context("no IPv6")?.addr().into(),
    };
    let (range, gateway) = (range.to_string(), gateway.to_string());
    printed(
        node.command("ip")
            .args(["route", "replace", &range, "via", &gateway]),
    )?;
    Ok(())
}

/// Where weft's manifest is that users have.
pub(super) fn weft() -> PathBuf {
    root().join("deploy/weft.yaml")
}

/// What a workload's environment says of where the API server itself is, for where nobody translates
/// its address as a Service.
pub(super) fn direct(api: IpAddr) -> [String; 2] {
    [
        format!("KUBERNETES_SERVICE_HOST={api}"),
        format!("KUBERNETES_SERVICE_PORT={PORT}"),
    ]
}

/// The cluster's DNS server.
pub(super) fn coredns(family: Family) -> Result<String> {
    let file = root().join("tests/kubernetes/coredns.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.replace("CLUSTER_DNS", &format!("{:?}", family.dns())))
}
