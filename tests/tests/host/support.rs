//! What the tests of the host share.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_router::demo::net::Netns;
use weft_tests::lab::{Lab, LabNode, Pod, eventually};

/// For what has no promised time.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Two nodes in one mesh, a pod on each.
pub(crate) struct Two {
    // Before the lab, which they may not outlive.
    pub(crate) pods: [Pod; 2],
    pub(crate) nodes: [LabNode; 2],
    pub(crate) lab: Lab,
}

impl Two {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let nodes: [LabNode; 2] = lab
            .mesh(&["a", "b"])?
            .try_into()
            .map_err(|_| anyhow::anyhow!("not two nodes"))?;
        let pods = [nodes[0].pod("one")?, nodes[1].pod("two")?];
        let two = Self { pods, nodes, lab };
        for address in two.pods[1].addresses() {
            eventually("the pods reach each other", SOON, || {
                two.pods[0].ping(address)
            })?;
        }
        Ok(two)
    }
}

pub(crate) fn netns(node: &LabNode) -> &Netns {
    node.machine().node().netns()
}

pub(crate) fn pod_ranges(node: &LabNode) -> Result<[String; 2]> {
    let status = node.status()?;
    let range = |at: usize| {
        let range = status["ipam"]["ranges"][at].as_str();
        range.map(ToOwned::to_owned).context("no range")
    };
    Ok([range(0)?, range(1)?])
}

pub(crate) fn ping(node: &LabNode, address: IpAddr) -> Result<()> {
    node.run(&["ping", "-n", "-c", "1", "-W", "1", &address.to_string()])
        .map(drop)
}

/// All routes that bear our protocol number, both families.
pub(crate) fn our_routes(node: &LabNode) -> Result<String> {
    let v4 = node.run(&["ip", "route", "show", "proto", "119"])?;
    let v6 = node.run(&["ip", "-6", "route", "show", "proto", "119"])?;
    Ok(v4 + &v6)
}

pub(crate) fn our_table(node: &LabNode) -> Result<String> {
    let text = node.run(&["nft", "-s", "list", "table", "inet", "weft"])?;
    Ok(text)
}
