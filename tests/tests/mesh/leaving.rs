//! Nodes that go: forgotten, dead, or with a goodbye.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_tests::lab::{Lab, LabNode, ensure, eventually};

use crate::support::{
    DEATH, GOODBYE, PATIENCE, problems, ranges, refused, says, wait_name, wait_no_names,
    wait_ranges, weft_up,
};

/// Waits until a node's agent has ended; whether it was content.
fn wait_end(node: &mut LabNode, patience: Duration) -> Result<bool> {
    let log = node.said();
    let agent = node.machine_mut().agent().context("no agent runs")?;
    eventually("the agent ends", patience, || {
        let ended = agent.ended()?;
        Ok(ended.with_context(|| log.clone())?.success())
    })
}

pub(super) fn a_forgotten_node_is_gone_everywhere_and_stays_out() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    let _web = nodes[1].pod("web")?;
    let lost = ranges(&nodes[1])?;
    for node in [&nodes[0], &nodes[2]] {
        wait_name(node, "web", PATIENCE)?;
    }
    let said = nodes[0].weft(&["forget", "b"])?;
    says(&said, &["forgot b"])?;
    for node in [&nodes[0], &nodes[2]] {
        wait_no_names(node, &["web", "b"], GOODBYE)?;
        node.wait_established(1, PATIENCE)?;
        let peers = node.status()?["peers"].as_array().map_or(0, Vec::len);
        ensure(peers == 1, format!("{} knows {peers} peers", node.name()))?;
        eventually("b's routes are gone", GOODBYE, || {
            let routes = node.run(&["ip", "route"])? + &node.run(&["ip", "-6", "route"])?;
            let left = lost.iter().any(|range| routes.contains(range.as_str()));
            ensure(!left, routes)
        })?;
    }
    let b = &mut nodes[1];
    ensure(
        !wait_end(b, PATIENCE)?,
        "the forgotten agent ended as if all were well",
    )?;
    says(
        &b.said(),
        &["has forgotten this node", "weft cleanup --state"],
    )?;
    let state = b.machine().state_dir().display().to_string();
    let said = refused(&mut weft_up(b, &["--name", "b", "--state-dir", &state]))?;
    says(&said, &["has forgotten this node"])
}

pub(super) fn the_range_of_a_forgotten_node_is_given_to_the_next() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b, mut c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    a.up(&["--pool", "10.32.0.0/23"])?;
    b.join(&a)?;
    b.wait_established(1, PATIENCE)?;
    let given = ranges(&b)?;
    c.join(&a)?;
    eventually("c says that the pool is full", PATIENCE, || {
        says(
            &problems(&c)?,
            &["all 2 shares of the pool 10.32.0.0/23 are held"],
        )
    })?;
    ensure(ranges(&c)?.is_empty(), "c has a range of a full pool")?;
    a.weft(&["forget", "b"])?;
    let taken = wait_ranges(&c, PATIENCE)?;
    ensure(taken == given, format!("{taken:?}, not {given:?}"))?;
    for node in [&a, &c] {
        node.wait_established(1, PATIENCE)?;
        ensure(problems(node)?.is_empty(), problems(node)?)?;
    }
    Ok(())
}

pub(super) fn names_of_a_dead_node_vanish_and_come_back_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    let web = nodes[1].pod("web")?;
    for node in [&nodes[0], &nodes[2]] {
        wait_name(node, "web", PATIENCE)?;
    }
    lab.unplug(&nodes[1])?;
    nodes[1].kill()?;
    let died = Instant::now();
    for node in [&nodes[0], &nodes[2]] {
        wait_no_names(node, &["web", "b"], DEATH.saturating_sub(died.elapsed()))?;
    }
    println!("the names were gone after {:?}", died.elapsed());
    lab.plug(&nodes[1])?;
    let back = Instant::now();
    nodes[1].up(&[])?;
    for node in [&nodes[0], &nodes[2]] {
        wait_name(node, "web", PATIENCE)?;
    }
    println!("the names were back after {:?}", back.elapsed());
    let client = nodes[0].pod("client")?;
    eventually("the pod answers", PATIENCE, || client.ping(web.v4()?))
}

pub(super) fn names_vanish_at_once_at_a_goodbye() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    let _web = nodes[1].pod("web")?;
    let _shop = nodes[2].pod("shop")?;
    wait_name(&nodes[0], "web", PATIENCE)?;
    wait_name(&nodes[0], "shop", PATIENCE)?;
    let began = Instant::now();
    nodes[1].weft(&["down"])?;
    wait_no_names(&nodes[0], &["web", "b"], GOODBYE)?;
    println!(
        "after `weft down` the names were gone in {:?}",
        began.elapsed()
    );
    ensure(
        wait_end(&mut nodes[1], PATIENCE)?,
        "`weft down` ends the agent with an error",
    )?;
    let began = Instant::now();
    nodes[2].stop()?;
    wait_no_names(
        &nodes[0],
        &["shop", "c"],
        GOODBYE.saturating_sub(began.elapsed()),
    )?;
    println!(
        "after a signal the names were gone in {:?}",
        began.elapsed()
    );
    nodes[1].up(&[])?;
    wait_name(&nodes[0], "web", PATIENCE)
}
