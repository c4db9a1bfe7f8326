//! Two that want one thing: one identity, one name, one range.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::lab::{Lab, LabNode, ensure, eventually};

use crate::support::{PATIENCE, ranges, text, wait_name, wait_problem, wait_ranges, weft_up};

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Both machines stay connected to the nodes that they meet, and hear of each other there.
const CLONED: Duration = Duration::from_secs(10);

pub(super) fn a_cloned_disk_is_named_on_every_node() -> Result<()> {
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let mut clone = lab.node("clone")?;
    copy(
        &nodes[1].machine().state_dir(),
        &clone.machine().state_dir(),
    )?;
    clone.up(&[])?;
    for node in [&nodes[0], &nodes[1], &clone] {
        wait_problem(node, &["identity"], CLONED)?;
    }
    // Somebody who only looks on learns which two.
    let (b, copied) = (nodes[1].v4().to_string(), clone.v4().to_string());
    wait_problem(
        &nodes[0],
        &["b", "clone", &b, &copied, "identity.key"],
        CLONED,
    )
}

pub(super) fn two_nodes_of_one_name_are_both_named_and_keep_their_ranges() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, b, c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    a.up(&[])?;
    let line = a.join_line()?;
    let start = |node: &LabNode| -> Result<_> {
        let state = node.machine().state_dir().display().to_string();
        let arguments = ["--name", "twin", "--state-dir", &state, "--join", &line];
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(node.machine().log())?;
        Ok(weft_up(node, &arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?)
    };
    let _agents = [start(&b)?, start(&c)?];
    a.wait_established(2, PATIENCE)?;
    for node in [&a, &b, &c] {
        node.wait_established(2, PATIENCE)?;
        wait_problem(node, &["both have the name twin"], PATIENCE)?;
    }
    let held = [ranges(&b)?, ranges(&c)?];
    ensure(
        held.iter().all(|ranges| ranges.len() == 2) && held[0] != held[1],
        format!("{held:?}"),
    )?;
    let known: Vec<String> = a.status()?["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| text(&p["name"]))
        .collect();
    ensure(
        known.len() == 2 && known.contains(&"twin".to_owned()),
        format!("{known:?}"),
    )
}

/// Makes a node start as a restored backup may: sure of a range that is another's by now, and
/// knowing nobody who could object.
fn pretend_to_hold(node: &LabNode, other: &LabNode) -> Result<()> {
    let state = node.machine().state_dir();
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let theirs = read(&other.machine().state_dir().join("own.json"))?;
    let path = state.join("own.json");
    let mut own = read(&path)?;
    own["slot"] = theirs["slot"].clone();
    fs::write(path, own.to_string())?;
    fs::remove_file(state.join("roster.json"))?;
    Ok(())
}

pub(super) fn of_two_claims_on_a_range_one_wins_and_the_other_moves() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    let line = nodes[0].join_line()?;
    let contested = ranges(&nodes[1])?;
    lab.partition(&[&nodes[0], &nodes[1]], &[&nodes[2]])?;
    nodes[2].kill()?;
    pretend_to_hold(&nodes[2], &nodes[1])?;
    nodes[2].up(&["--join", &line])?;
    let held = wait_ranges(&nodes[2], PATIENCE)?;
    ensure(
        held == contested,
        format!("c holds {held:?}, not {contested:?}"),
    )?;
    let pod = nodes[2].pod("moved")?;
    let before = pod.v4()?;

    lab.heal()?;
    let moved = eventually("c takes another range", PATIENCE, || {
        let held = ranges(&nodes[2])?;
        ensure(!held.is_empty() && held != contested, nodes[2].said())?;
        Ok(held)
    })?;
    for node in &nodes {
        node.wait_established(2, PATIENCE)?;
    }
    ensure(ranges(&nodes[1])? == contested, "b lost its range")?;
    for (node, name) in [(0, "b"), (2, "b")] {
        let seen = crate::support::peer(&nodes[node], name)?;
        ensure(seen["ranges"] == json!(contested), seen)?;
    }
    let seen = crate::support::peer(&nodes[0], "c")?;
    ensure(seen["ranges"] == json!(moved), seen)?;

    // The container moved with its node, and status says from where to where.
    wait_problem(&nodes[2], &[&before.to_string()], PATIENCE)?;
    let lease = nodes[2].status()?["ipam"]["leases"][0].clone();
    let addresses = lease["addresses"].as_array().context("no addresses")?;
    let parsed: Vec<std::net::IpAddr> = addresses
        .iter()
        .filter_map(|a| text(a).parse().ok())
        .collect();
    ensure(
        parsed.len() == 2 && !parsed.contains(&before),
        format!("{lease}"),
    )?;
    wait_name(&nodes[0], "moved", PATIENCE)?;
    let client = nodes[0].pod("client")?;
    for address in parsed {
        eventually("the moved container answers", PATIENCE, || {
            client.ping(address)
        })?;
    }
    Ok(())
}
