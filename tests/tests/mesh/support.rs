//! What these tests ask of a node beyond the lab's own words.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weft_tests::lab::{LabNode, ensure, eventually};

/// How long a mesh may take to be whole, on a machine that other tests use too.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A node that dies without a goodbye is out of the names within this time.
pub(super) const DEATH: Duration = Duration::from_secs(10);
/// One that says goodbye, within this.
pub(super) const GOODBYE: Duration = Duration::from_secs(3);

/// The names that a node answers, without the domain, sorted.
pub(super) fn names(node: &LabNode) -> Result<Vec<String>> {
    let status = node.status()?;
    let names = status["dns"]["names"].as_array().context("no names")?;
    let short = |name: &Value| {
        Some(
            name["name"]
                .as_str()?
                .trim_end_matches(".weft.local.")
                .to_owned(),
        )
    };
    Ok(names.iter().filter_map(short).collect())
}

/// Waits until a node answers a name.
pub(super) fn wait_name(node: &LabNode, name: &str, patience: Duration) -> Result<()> {
    eventually(&format!("{} knows {name}", node.name()), patience, || {
        let known = names(node)?;
        ensure(
            known.iter().any(|k| k == name),
            format!("{known:?}\n{}", node.said()),
        )
    })
}

/// Waits until a node answers none of these names.
pub(super) fn wait_no_names(node: &LabNode, gone: &[&str], patience: Duration) -> Result<()> {
    eventually(
        &format!("{} forgets {gone:?}", node.name()),
        patience,
        || {
            let known = names(node)?;
            let left = known.iter().any(|k| gone.contains(&k.as_str()));
            ensure(!left, format!("{known:?}\n{}", node.said()))
        },
    )
}

/// What `status` says should be looked at.
pub(super) fn problems(node: &LabNode) -> Result<String> {
    let status = node.status()?;
    let problems = status["problems"].as_array().context("no problems")?;
    let texts: Vec<&str> = problems.iter().filter_map(Value::as_str).collect();
    Ok(texts.join("\n"))
}

/// Waits until one of a node's problems has all of `words`.
pub(super) fn wait_problem(node: &LabNode, words: &[&str], patience: Duration) -> Result<()> {
    eventually(
        &format!("{} names {words:?}", node.name()),
        patience,
        || {
            let text = problems(node)?;
            let named = text
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)));
            ensure(named, format!("its problems: {text:?}\n{}", node.said()))
        },
    )
}

/// A node's identity.
pub(super) fn id(node: &LabNode) -> Result<String> {
    Ok(text(&node.status()?["mesh"]["id"]))
}

/// A node's own ranges.
pub(super) fn ranges(node: &LabNode) -> Result<Vec<String>> {
    let status = node.status()?;
    let ranges = status["ipam"]["ranges"].as_array().context("no ranges")?;
    Ok(ranges.iter().map(text).collect())
}

/// Waits until a node holds ranges.
pub(super) fn wait_ranges(node: &LabNode, patience: Duration) -> Result<Vec<String>> {
    eventually(&format!("{} holds a range", node.name()), patience, || {
        let held = ranges(node)?;
        let ready = !held.is_empty() && !node.mesh_addresses()?.is_empty();
        ensure(ready, node.said())?;
        Ok(held)
    })
}

/// What a node says of a peer.
pub(super) fn peer(node: &LabNode, name: &str) -> Result<Value> {
    let status = node.status()?;
    let peers = status["peers"].as_array().context("no peers")?;
    let found = peers.iter().find(|peer| peer["name"] == name);
    found
        .cloned()
        .with_context(|| format!("{} does not know {name}: {peers:?}", node.name()))
}

/// A JSON string's text.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A command that has to fail; what it printed to standard error.
pub(super) fn refused(command: &mut Command) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            let output = child.wait_with_output()?;
            bail!(
                "it runs, where it had to refuse: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(
        !output.status.success(),
        format!("it succeeded, where it had to fail: {said}"),
    )?;
    Ok(said)
}

/// `weft up` with these arguments and no others, not started yet.
pub(super) fn weft_up(node: &LabNode, arguments: &[&str]) -> Command {
    let mut command = node.machine().own("weft");
    command.arg("up").args(arguments);
    command
}

/// Checks that a text has all these words.
pub(super) fn says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure(text.contains(word), format!("{word:?} is not in: {text}"))?;
    }
    Ok(())
}
