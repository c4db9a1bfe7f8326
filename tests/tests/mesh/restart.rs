//! What a node is after its end and its next start.

use std::fs;

use anyhow::Result;
use weft_tests::lab::{Lab, ensure, eventually};

use crate::support::{PATIENCE, id, peer, ranges, text};

pub(super) fn a_mesh_killed_whole_comes_back_without_a_join_line() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    let mut before = Vec::new();
    for node in &nodes {
        before.push((id(node)?, ranges(node)?));
    }
    for node in &mut nodes {
        node.kill()?;
    }
    // The one that made the mesh comes last: nobody depends on it.
    for node in nodes.iter_mut().rev() {
        node.up(&[])?;
    }
    for (node, before) in nodes.iter().zip(&before) {
        node.wait_established(2, PATIENCE)?;
        let after = (id(node)?, ranges(node)?);
        ensure(
            after == *before,
            format!("{after:?}, and {before:?} before"),
        )?;
    }
    Ok(())
}

pub(super) fn a_node_that_was_away_comes_back_by_a_peer_it_did_not_join_by() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    nodes[2].kill()?;
    nodes[0].kill()?;
    nodes[2].up(&[])?;
    for node in &nodes[1..] {
        node.wait_established(1, PATIENCE)?;
    }
    ensure(
        nodes[2].established()? == ["b"],
        "c is connected to another than b",
    )
}

pub(super) fn a_new_wireguard_key_is_taken_over_everywhere() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b", "c"])?;
    let (before, old) = (id(&nodes[1])?, text(&peer(&nodes[0], "b")?["public_key"]));
    nodes[1].kill()?;
    fs::remove_file(nodes[1].machine().state_dir().join("wireguard.key"))?;
    nodes[1].up(&[])?;
    let new = text(&nodes[1].status()?["engine"]["public_key"]);
    for node in [&nodes[0], &nodes[2]] {
        eventually("the new key is everywhere", PATIENCE, || {
            let b = peer(node, "b")?;
            ensure(b["public_key"] == *new && b["state"] == "established", b)
        })?;
        node.wait_established(2, PATIENCE)?;
        let peers = node.status()?["peers"].to_string();
        ensure(!peers.contains(&old), peers)?;
    }
    ensure(
        new != old && id(&nodes[1])? == before,
        "the identity changed, or the key did not",
    )
}
