//! The six verbs, against a real agent.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::lab::{Lab, LabNode, Pod, ensure, eventually};

use crate::support::{
    PATIENCE, addresses, container, host_links, leases, network, ready, refused, wait_empty,
};

fn one_node(lab: &Lab) -> Result<LabNode> {
    let mut node = lab.node("a")?;
    node.up(&[])?;
    ready(&node)?;
    Ok(node)
}

fn json_of(pod: &Pod, words: &[&str]) -> Result<Vec<Value>> {
    let text = pod.run(words)?;
    let value: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok(value.as_array().cloned().unwrap_or_default())
}

/// Checks everything in the pod against the result: nothing missing, nothing more.
fn as_the_result_says(pod: &Pod, result: &Value) -> Result<()> {
    let links = json_of(pod, &["ip", "-j", "addr"])?;
    let names: Vec<&str> = links.iter().filter_map(|l| l["ifname"].as_str()).collect();
    ensure(names == ["lo", "eth0"], format!("links: {names:?}"))?;
    for link in &links {
        let up = link["flags"]
            .as_array()
            .is_some_and(|f| f.contains(&json!("UP")));
        ensure(up, format!("not up: {link}"))?;
    }
    let eth0 = &links[1];
    let interface = &result["interfaces"][1];
    ensure(
        interface["name"] == "eth0" && interface["mac"] == eth0["address"],
        format!("{interface} is not {eth0}"),
    )?;
    ensure(
        eth0["mtu"].as_u64().is_some_and(|mtu| mtu == 1420),
        format!("the MTU: {}", eth0["mtu"]),
    )?;
    let infos = eth0["addr_info"].as_array().context("no addresses")?;
    let global: Vec<String> = infos
        .iter()
        .filter(|info| info["scope"] == "global")
        .map(|info| {
            format!(
                "{}/{}",
                info["local"].as_str().unwrap_or(""),
                info["prefixlen"]
            )
        })
        .collect();
    let said: Vec<&str> = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str())
        .collect();
    ensure(global == said, format!("{global:?} is not {said:?}"))?;
    ensure(
        said.len() == 2 && said[0].ends_with("/32") && said[1].ends_with("/128"),
        format!("{said:?}"),
    )?;
    let v6 = infos
        .iter()
        .find(|info| info["prefixlen"] == 128)
        .context("no /128")?;
    ensure(
        v6["nodad"] == true && v6["tentative"].is_null(),
        format!("{v6}"),
    )?;
    let v4 = json_of(pod, &["ip", "-j", "-4", "route"])?;
    let to: Vec<&Value> = v4.iter().map(|route| &route["dst"]).collect();
    ensure(
        to == ["default", "169.254.1.1"],
        format!("IPv4 routes: {v4:?}"),
    )?;
    let v6 = json_of(pod, &["ip", "-j", "-6", "route"])?;
    let own = said[1].trim_end_matches("/128");
    for route in &v6 {
        let known = route["dst"] == "default" || route["dst"] == "fe80::/64" || route["dst"] == own;
        ensure(known, format!("an IPv6 route too many: {route}"))?;
    }
    ensure(
        v6.iter()
            .any(|r| r["dst"] == "default" && r["gateway"] == "fe80::1"),
        format!("IPv6 routes: {v6:?}"),
    )
}

pub(super) fn a_pod_looks_as_its_result_says_in_every_version() -> Result<()> {
    let lab = Lab::new()?;
    let node = one_node(&lab)?;
    for (count, version) in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
        let network = network(&node, version, &[])?;
        let (container, pod) = container(&node, &format!("web{count}"))?;
        let result = network.add(&container)?;
        ensure(result["cniVersion"] == version, format!("{result}"))?;
        as_the_result_says(&pod, &result).with_context(|| format!("{version}: {result}"))?;
        let host: std::net::IpAddr = node.mesh_addresses()?[0];
        pod.ping(host)?;
        node.run(&["ping", "-n", "-c", "1", "-W", "1", &addresses(&result)[0]])?;
        let supported = network.versions()?;
        ensure(
            supported[0].iter().any(|v| v == version),
            format!("{supported:?}"),
        )?;
        match version {
            "0.3.1" => refused(network.check(&container, &result), 1, "CHECK")?,
            _ => network.check(&container, &result)?,
        }
        match version {
            "1.1.0" => network.status()?,
            _ => refused(network.status(), 1, "STATUS")?,
        }
        network.del(&container, Some(&result))?;
    }
    wait_empty(&node)
}

pub(super) fn a_second_add_is_refused_and_a_second_del_is_not() -> Result<()> {
    let lab = Lab::new()?;
    let node = one_node(&lab)?;
    let network = network(&node, "1.0.0", &[])?;
    let (container, pod) = container(&node, "web")?;
    let result = network.add(&container)?;
    refused(network.add(&container), 101, "attached already")?;
    network.check(&container, &result)?;
    network.del(&container, Some(&result))?;
    network.del(&container, Some(&result))?;
    // One that nobody ever heard of, and one whose namespace is gone.
    let (unknown, _gone) = crate::support::container(&node, "unknown")?;
    network.del(&unknown, None)?;
    let (mut other, other_pod) = crate::support::container(&node, "other")?;
    let result = network.add(&other)?;
    drop(other_pod);
    other.netns = String::new();
    network.del(&other, Some(&result))?;
    wait_empty(&node)?;
    // The namespace can be used again at once.
    let result = network.add(&container)?;
    as_the_result_says(&pod, &result)
}

pub(super) fn check_names_each_thing_that_is_wrong() -> Result<()> {
    let lab = Lab::new()?;
    let node = one_node(&lab)?;
    let network = network(&node, "1.0.0", &[])?;
    let harms: [(&str, &[&str]); 6] = [
        (
            "has not the address",
            &["ip", "addr", "del", "V4/32", "dev", "eth0"],
        ),
        ("no default route", &["ip", "route", "del", "default"]),
        ("no default route", &["ip", "-6", "route", "del", "default"]),
        ("is down", &["ip", "link", "set", "eth0", "down"]),
        ("the MTU", &["ip", "link", "set", "eth0", "mtu", "1300"]),
        (
            "the Ethernet address",
            &["ip", "link", "set", "eth0", "address", "06:00:00:00:00:01"],
        ),
    ];
    for (count, (word, words)) in harms.into_iter().enumerate() {
        let (container, pod) = container(&node, &format!("web{count}"))?;
        let result = network.add(&container)?;
        network.check(&container, &result)?;
        let v4 = addresses(&result)[0].clone();
        let words: Vec<String> = words.iter().map(|w| w.replace("V4", &v4)).collect();
        pod.run(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        refused(network.check(&container, &result), 102, word).with_context(|| words.join(" "))?;
        network.del(&container, Some(&result))?;
    }
    let (container, _pod) = container(&node, "never")?;
    refused(
        network.check(&container, &json!({"cniVersion": "1.0.0", "ips": []})),
        3,
        "not attached",
    )
}

pub(super) fn gc_takes_what_is_not_valid_and_leaves_other_networks() -> Result<()> {
    let lab = Lab::new()?;
    let node = one_node(&lab)?;
    let network = network(&node, "1.1.0", &[])?;
    let mut kept = Vec::new();
    for name in ["one", "two", "three"] {
        let (container, pod) = container(&node, name)?;
        network.add(&container)?;
        kept.push((container, pod));
    }
    // By hand is another network.
    let hand = node.bare_pod("hand")?;
    node.weft(&["attach", &hand.netns().path().display().to_string()])?;
    network.gc(&[(&kept[1].0.id, "eth0")])?;
    let left = leases(&node)?;
    let ids: Vec<&str> = left
        .iter()
        .filter_map(|l| l["container_id"].as_str())
        .collect();
    ensure(
        ids.len() == 2 && ids.contains(&"a-two") && ids.iter().any(|id| id.starts_with("netns-")),
        format!("{ids:?}"),
    )?;
    eventually("the links are gone", PATIENCE, || {
        let links = host_links(&node)?;
        ensure(links.len() == 2, format!("{links:?}"))
    })
}

pub(super) fn a_node_without_a_final_range_says_so_and_attaches_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let first = one_node(&lab)?;
    let mut node = lab.node("b")?;
    let line = first.join_line()?;
    lab.partition(&[&first], &[&node])?;
    node.up(&["--join", &line])?;
    let network = network(&node, "1.1.0", &[])?;
    let (container, _pod) = container(&node, "early")?;
    refused(network.status(), 50, "")?;
    refused(network.add(&container), 11, "")?;
    lab.heal()?;
    ready(&node)?;
    network.add(&container)?;
    Ok(())
}

pub(super) fn a_full_range_is_a_clear_error_and_the_next_del_frees_one() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&["--node-prefix", "28"])?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let mut pods = Vec::new();
    // A /28 less the network's address, the node's and the broadcast address.
    for count in 0..13 {
        let (container, pod) = container(&node, &format!("p{count}"))?;
        network
            .add(&container)
            .with_context(|| format!("pod {count}"))?;
        pods.push((container, pod));
    }
    let (late, _late_pod) = container(&node, "late")?;
    refused(network.add(&late), 11, "is full: 13 of 13 addresses in use")?;
    refused(
        network.check(&late, &json!({"cniVersion": "1.0.0"})),
        3,
        "not attached",
    )?;
    network.del(&pods[4].0, None)?;
    eventually("an address is free", PATIENCE, || {
        Ok(network.add(&late).map(drop)?)
    })?;
    Ok(())
}
