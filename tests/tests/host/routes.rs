//! Routes, addresses and the device: there, and there again.

use std::time::Duration;

use anyhow::{Context, Result};
use weft_tests::lab::{Lab, ensure, eventually};

use super::support::{SOON, Two, our_routes, our_table, pod_ranges};

/// A promise: what was taken away is back by then.
const BACK: Duration = Duration::from_secs(2);

pub(crate) fn every_peers_ranges_are_routed_with_their_mtu_and_source() -> Result<()> {
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let mesh = nodes[0].mesh_addresses()?;
    let [v4, v6] = pod_ranges(&nodes[1])?;
    let has = |words: &[&str]| {
        eventually("the route is there", SOON, || {
            let routes = our_routes(&nodes[0])?;
            let found = routes
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)));
            ensure(found, format!("no route with {words:?} in\n{routes}"))
        })
    };
    has(&[&v4, "dev weft0", &format!("src {}", mesh[0]), "metric 50"])?;
    has(&[&v6, "dev weft0", &format!("src {}", mesh[1])])?;
    has(&["unreachable 10.32.0.0/12", "metric 4294967295"])?;
    // Over IPv4 60 bytes are left for the outer headers.
    let link = nodes[0].run(&["ip", "link", "show", "weft0"])?;
    ensure(link.contains("mtu 1440"), link)?;
    nodes[0].weft(&["forget", "b"])?;
    eventually("a forgotten node's routes go", SOON, || {
        let routes = our_routes(&nodes[0])?;
        ensure(!routes.contains(&v4) && !routes.contains(&v6), routes)
    })
}

pub(crate) fn what_somebody_takes_away_is_back_within_2_s() -> Result<()> {
    let two = Two::new()?;
    let node = &two.nodes[0];
    let [v4, v6] = pod_ranges(&two.nodes[1])?;
    let mesh = node.mesh_addresses()?;
    let pod = two.pods[0].v4()?;
    let routes = our_routes(node)?;
    let table = our_table(node)?;
    let addresses = node.run(&["ip", "-o", "address", "show", "dev", "weft0"])?;
    let acts: [&[&str]; 10] = [
        &["ip", "route", "del", &v4],
        &["ip", "-6", "route", "del", &v6],
        &["ip", "route", "del", "unreachable", "10.32.0.0/12"],
        &["ip", "route", "del", &format!("{pod}/32")],
        &[
            "ip",
            "address",
            "del",
            &format!("{}/32", mesh[0]),
            "dev",
            "weft0",
        ],
        &[
            "ip",
            "-6",
            "address",
            "del",
            &format!("{}/128", mesh[1]),
            "dev",
            "weft0",
        ],
        &["nft", "flush", "table", "inet", "weft"],
        &["nft", "delete", "table", "inet", "weft"],
        &["ip", "link", "set", "weft0", "down"],
        &["ip", "link", "set", "weft0", "mtu", "1300"],
    ];
    for words in acts {
        node.run(words)?;
        eventually(&words.join(" "), BACK, || {
            let now = our_routes(node)?;
            ensure(now == routes, format!("{now}\nis not\n{routes}"))?;
            let now = our_table(node)?;
            ensure(now == table, format!("{now}\nis not\n{table}"))?;
            let now = node.run(&["ip", "-o", "address", "show", "dev", "weft0"])?;
            let lines = |text: &str| -> Vec<String> {
                let mut lines: Vec<String> = text
                    .lines()
                    .filter(|line| !line.contains("fe80::"))
                    .map(ToOwned::to_owned)
                    .collect();
                lines.sort();
                lines
            };
            ensure(lines(&now) == lines(&addresses), now)
        })
        .with_context(|| node.said())?;
        eventually("the pods reach each other", BACK, || {
            two.pods[0].ping(two.pods[1].v4()?)?;
            two.pods[0].ping(two.pods[1].v6()?)
        })
        .with_context(|| words.join(" "))?;
    }
    Ok(())
}

pub(crate) fn a_deleted_device_is_made_anew() -> Result<()> {
    let two = Two::new()?;
    two.nodes[0].run(&["ip", "link", "del", "weft0"])?;
    eventually("the pods reach each other again", SOON, || {
        two.pods[0].ping(two.pods[1].v4()?)?;
        two.pods[1].ping(two.pods[0].v6()?)
    })
    .with_context(|| two.nodes[0].said())?;
    let link = two.nodes[0].run(&["ip", "link", "show", "weft0"])?;
    ensure(link.contains("mtu 1440"), link)?;
    // Only probes that are answered over the new link change the round trip.
    for node in &two.nodes {
        let before = node.status()?["peers"][0]["rtt_ms"].clone();
        eventually("probes are answered and names known", SOON, || {
            let status = node.status()?;
            let peer = &status["peers"][0];
            ensure(
                peer["state"] == "established" && peer["rtt_ms"] != before,
                peer,
            )?;
            let names = status["dns"]["names"].to_string();
            ensure(names.contains("one.") && names.contains("two."), names)
        })
        .with_context(|| two.nodes[0].said())?;
    }
    Ok(())
}
