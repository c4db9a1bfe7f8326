//! Pods as a real runtime makes them: containerd with runc, by its own client and by its CRI, the
//! way that a kubelet goes.

mod cri;
mod ctr;

use std::net::IpAddr;

use anyhow::{Context, Result};
use weft_tests::lab::{LabNode, ensure, eventually};
use weft_tests::lab_tests;
use weft_tests::runtime::PATIENCE;

use cri::{
    a_pod_stopped_while_the_agent_is_away_leaves_nothing,
    pods_of_a_cri_runtime_reach_one_another_and_leave_nothing,
};
use ctr::a_container_fetches_a_page_from_another_node;

lab_tests!(
    a_container_fetches_a_page_from_another_node,
    pods_of_a_cri_runtime_reach_one_another_and_leave_nothing,
    a_pod_stopped_while_the_agent_is_away_leaves_nothing,
);

/// The addresses that a container of a node was given, IPv4 first.
fn addresses(node: &LabNode, container: &str) -> Result<Vec<IpAddr>> {
    let status = node.status()?;
    let leases = status["ipam"]["leases"].as_array().context("no leases")?;
    let lease = leases
        .iter()
        .find(|lease| lease["container_id"] == container);
    let lease = lease.with_context(|| format!("{leases:?}"))?;
    Ok(serde_json::from_value(lease["addresses"].clone())?)
}

fn no_leases(node: &LabNode) -> Result<()> {
    eventually("nothing is leased", PATIENCE, || {
        let leases = node.status()?["ipam"]["leases"].to_string();
        ensure(leases == "[]", leases)
    })
}
