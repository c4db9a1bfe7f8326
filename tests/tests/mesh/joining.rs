//! How a node becomes a member, and why it may not.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use weft_tests::lab::{Lab, LabNode, ensure, eventually};

use crate::support::{PATIENCE, id, refused, says, text, weft_up};

/// The lines in a node's log that say how to join.
fn printed_lines(node: &LabNode) -> Result<Vec<String>> {
    let log = fs::read_to_string(node.machine().log())?;
    let lines = log
        .lines()
        .filter_map(|line| line.strip_prefix("weft up --join "));
    Ok(lines.map(ToOwned::to_owned).collect())
}

fn printed_line(node: &LabNode) -> Result<String> {
    eventually("the join line is printed", PATIENCE, || {
        printed_lines(node)?.pop().with_context(|| node.said())
    })
}

/// The same token, to be asked at another host.
fn at(line: &str, host: impl std::fmt::Display) -> Result<String> {
    let (token, _) = line.split_once('@').context("no join line")?;
    Ok(format!("{token}@{host}"))
}

/// Waits until a node shows why it has not joined by way of `host`: the target's status.
fn wait_target(node: &LabNode, host: &str, words: &[&str]) -> Result<Value> {
    eventually("the status says why", PATIENCE, || {
        let status = node.status()?;
        let targets = status["connections"].as_array().context("no connections")?;
        let found = targets.iter().find(|t| text(&t["address"]).contains(host));
        let target = found.with_context(|| format!("{host} is not in {targets:?}"))?;
        says(&text(&target["error"]), words).with_context(|| node.said())?;
        Ok(target.clone())
    })
}

pub(super) fn a_node_told_one_peer_finds_all() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b, mut c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    a.up(&[])?;
    let line = printed_line(&a)?;
    says(&line, &[&a.v4().to_string()])?;
    b.up(&["--join", &line])?;
    c.up(&["--join", &at(&line, b.v4())?])?;
    for node in [&a, &b, &c] {
        node.wait_established(2, PATIENCE)?;
    }
    ensure(printed_lines(&a)?.len() == 1, "more than one join line")?;
    let shown = a.weft(&["status", "peers", "--json"])?;
    let shown: Vec<Value> = serde_json::from_str(&shown)?;
    let states: Vec<String> = shown
        .iter()
        .map(|p| format!("{} {}", text(&p["name"]), text(&p["state"])))
        .collect();
    ensure(
        states == ["b established", "c established"],
        format!("{states:?}"),
    )
}

pub(super) fn nodes_find_each_other_over_an_ipv6_underlay() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b, mut c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    for node in [&a, &b, &c] {
        node.only_v6()?;
    }
    a.up(&[])?;
    let line = printed_line(&a)?;
    b.up(&["--join", &line])?;
    c.up(&["--join", &at(&line, a.v6()?)?])?;
    for node in [&a, &b, &c] {
        node.wait_established(2, PATIENCE)?;
    }
    let endpoint = text(&crate::support::peer(&a, "c")?["endpoint"]);
    ensure(endpoint == format!("[{}]:6783", c.v6()?), endpoint)
}

pub(super) fn a_rotated_token_admits_nobody_new_and_keeps_who_is_known() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b"])?;
    let old = nodes[0].join_line()?;
    nodes[1].kill()?;
    let new = nodes[0].weft(&["token", "rotate"])?;
    let new = new
        .trim()
        .strip_prefix("weft up --join ")
        .context("no join line")?
        .to_owned();
    let listed = nodes[0].weft(&["token", "list", "--json"])?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    let active = listed.iter().filter(|t| t["state"] == "active").count();
    ensure(active == 1 && listed.len() >= 2, format!("{listed:?}"))?;

    let mut late = lab.node("late")?;
    late.up(&["--join", &old])?;
    let target = wait_target(&late, &nodes[0].v4().to_string(), &["token"])?;
    ensure(
        target["next_try_ms"].is_u64(),
        format!("no next try: {target}"),
    )?;
    ensure(late.established()?.is_empty(), "the old token admits")?;

    nodes[1].up(&[])?;
    nodes[1].wait_established(1, PATIENCE)?;
    let mut fresh = lab.node("fresh")?;
    fresh.up(&["--join", &new])?;
    for node in [&fresh, &nodes[0], &nodes[1]] {
        node.wait_established(2, PATIENCE)?;
    }
    ensure(late.established()?.is_empty(), "the old token admits")
}

pub(super) fn a_wrong_token_or_host_is_shown_with_its_error_and_the_next_try() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut other) = (lab.node("a")?, lab.node("other")?);
    a.up(&[])?;
    other.up(&[])?;
    let mut lost = lab.node("lost")?;
    let nobody = "198.18.77.77";
    lost.up(&[
        "--join",
        &at(&other.join_line()?, format!("{},{nobody}", a.v4()))?,
    ])?;
    let wrong = wait_target(&lost, &a.v4().to_string(), &["wrong token"])?;
    ensure(
        wrong["next_try_ms"].is_u64(),
        format!("no next try: {wrong}"),
    )?;
    let away = wait_target(&lost, nobody, &[])?;
    ensure(away["state"] != "established", format!("{away}"))?;
    let status = lost.status()?;
    says(&text(&status["mesh"]["mesh_id"]), &["not joined yet"])?;
    says(&text(&status["ipam"]["state"]), &["joining"])?;
    let screen = lost.weft(&["status", "connections"])?;
    says(&screen, &[&a.v4().to_string(), "wrong token", nobody])?;
    // The right token is taken without a word about the wrong one.
    lost.stop()?;
    lost.up(&["--join", &a.join_line()?])?;
    lost.wait_established(1, PATIENCE)?;
    ensure(id(&lost)? != id(&a)?, "one identity")
}

pub(super) fn a_damaged_join_line_is_refused_without_showing_its_secret() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, b) = (lab.node("a")?, lab.node("b")?);
    a.up(&[])?;
    let line = a.join_line()?;
    let (token, hosts) = line.split_once('@').context("no join line")?;
    let cut = &token[..token.len() - 9];
    let state = b.machine().state_dir().display().to_string();
    let up = |join: &str| refused(&mut weft_up(&b, &["--state-dir", &state, "--join", join]));
    let said = up(&format!("{cut}@{hosts}"))?;
    says(&said, &["join", hosts, "characters"])?;
    ensure(!said.contains(&cut[10..]), "the secret is shown")?;
    let said = up(token)?;
    says(&said, &["TOKEN@HOST"])?;
    ensure(!said.contains(&cut[10..]), "the secret is shown")?;
    says(&up(&format!("{token}@no such host"))?, &["no such host"])?;
    let swapped: String = token.chars().rev().collect();
    says(&up(&format!("{swapped}@{hosts}"))?, &["join"])?;
    // A refusal leaves nothing that a right start would trip over.
    let mut b = b;
    b.up(&["--join", &line])?;
    b.wait_established(1, PATIENCE)
}
