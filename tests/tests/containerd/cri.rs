//! Pods of containerd's CRI, driven by `crictl`.

use std::fs;
use std::net::IpAddr;

use anyhow::Result;
use serde_json::Value;
use weft_tests::lab::{Lab, LabNode, ensure, eventually};
use weft_tests::runtime::{Cri, Networks, PATIENCE, prepare};

use crate::{addresses, no_leases};

const SERVE: &[&str] = &["httpd", "-f", "-p", "80", "-h", "/www"];
const IDLE: &[&str] = &["sleep", "600"];

/// The pods' links of a node.
fn links(node: &LabNode) -> Result<Vec<String>> {
    let text = node.run(&["ip", "-j", "link", "show", "type", "veth"])?;
    let links: Vec<Value> = serde_json::from_str(&text)?;
    let names = links.iter().filter_map(|link| link["ifname"].as_str());
    let ours = names.filter(|name| name.starts_with("weft"));
    Ok(ours.map(ToOwned::to_owned).collect())
}

fn no_links(node: &LabNode) -> Result<()> {
    eventually("no link is left", PATIENCE, || {
        let links = links(node)?;
        ensure(links.is_empty(), format!("{links:?}"))
    })
}

fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

pub(super) fn pods_of_a_cri_runtime_reach_one_another_and_leave_nothing() -> Result<()> {
    let image = prepare()?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let networks = Networks::weft();
    let a = Cri::start(&nodes[0], &image, &networks)?;
    let b = Cri::start(&nodes[1], &image, &networks)?;
    let web = a.pod("web")?;
    let client = b.pod("client")?;
    let serve = a.container(("web", &web), "serve", SERVE)?;
    let beside = a.container(("web", &web), "beside", IDLE)?;
    let asks = b.container(("client", &client), "asks", IDLE)?;

    let own = addresses(&nodes[0], &web)?;
    ensure(
        own.len() == 2 && a.addresses(&web)? == own,
        format!("{own:?}"),
    )?;
    // Two containers, one pod: the same interface, and localhost is the same too.
    let eth0 = a.exec(&serve, &["ip", "address", "show", "dev", "eth0"])?;
    ensure(own.iter().all(|own| eth0.contains(&own.to_string())), &eth0)?;
    let same = a.exec(&beside, &["ip", "address", "show", "dev", "eth0"])?;
    ensure(same == eth0, format!("{same}\n{eth0}"))?;
    a.fetch(&beside, "127.0.0.1")?;
    // From the other node's pod, by address and by name, and back.
    for address in &own {
        b.fetch(&asks, &in_url(*address))?;
    }
    b.fetch(&asks, "web.weft.local")?;
    b.fetch(&asks, "web")?;
    for address in addresses(&nodes[1], &client)? {
        a.exec(
            &beside,
            &["ping", "-c", "1", "-W", "2", &address.to_string()],
        )?;
    }

    for (node, cri, pod) in [(&nodes[0], &a, &web), (&nodes[1], &b, &client)] {
        cri.run(&["stopp", pod])?;
        no_leases(node)?;
        no_links(node)?;
        cri.run(&["rmp", pod])?;
    }
    Ok(())
}

pub(super) fn a_pod_stopped_while_the_agent_is_away_leaves_nothing() -> Result<()> {
    let image = prepare()?;
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    let cri = Cri::start(&node, &image, &Networks::weft())?;
    let pod = cri.pod("web")?;
    cri.container(("web", &pod), "serve", SERVE)?;
    node.kill()?;
    cri.run(&["stopp", &pod])?;
    let notes = fs::read_dir(weft_cni::note::dir(&node.machine().socket()))?.count();
    ensure(notes == 1, format!("{notes} notes"))?;
    node.up(&[])?;
    no_leases(&node)?;
    no_links(&node)?;
    let notes = fs::read_dir(weft_cni::note::dir(&node.machine().socket()))?.count();
    ensure(notes == 0, format!("{notes} notes are left"))?;
    cri.run(&["rmp", &pod])?;
    // The address is another pod's to have, and its sandbox starts.
    let next = cri.pod("next")?;
    cri.run(&["stopp", &next])?;
    cri.run(&["rmp", &next])?;
    no_leases(&node)
}
