//! What is in `deploy/`: the manifest, and what upstream's API server makes of it.

mod agent;
mod caller;
mod claims;
mod rights;
mod server;

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use weft_tests::lab::eventually;
use weft_tests::lab_tests;
use weft_tests::runner::skip;

use caller::Agent;
use server::{MANIFEST, Server, root};

lab_tests!(
    the_manifest_is_what_the_chart_renders,
    the_manifest_applies_twice_and_goes_again,
    an_agent_writes_what_is_its_own_and_nothing_else,
    an_agent_uses_every_right_that_it_has,
);

/// How long the API server may take to go by what was applied.
const PATIENCE: Duration = Duration::from_secs(30);

fn the_manifest_is_what_the_chart_renders() -> Result<()> {
    let output = Command::new(root().join(".ci/manifest"))
        .arg("--check")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(77) => skip(said.trim()),
        _ => bail!(
            "run .ci/manifest:\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn the_manifest_applies_twice_and_goes_again() -> Result<()> {
    let server = Server::start()?;
    let first = server.kubectl(&["apply", "-f", MANIFEST])?;
    ensure!(
        first.lines().all(|line| line.ends_with(" created")),
        "{first}"
    );
    let second = server.kubectl(&["apply", "-f", MANIFEST])?;
    ensure!(
        second.lines().all(|line| line.ends_with(" unchanged")),
        "{second}"
    );
    // Nobody is there to empty the namespace, so its end is not waited for.
    let gone = server.kubectl(&["delete", "-f", MANIFEST, "--wait=false"])?;
    ensure!(gone.lines().count() == first.lines().count(), "{gone}");
    let left = server.kubectl(&[
        "get",
        "clusterroles,clusterrolebindings,roles,rolebindings,\
         validatingadmissionpolicies,validatingadmissionpolicybindings",
        "--all-namespaces",
        "--selector=app.kubernetes.io/name=weft",
        "--output=name",
    ])?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// One server for all of it: its start takes longer than what is asked of it.
fn an_agent_writes_what_is_its_own_and_nothing_else() -> Result<()> {
    let server = Server::start()?;
    server.kubectl(&["apply", "-f", MANIFEST])?;
    let one = Agent::new(&server, "node-1")?;
    let other = Agent::new(&server, "node-2")?;
    let rehearsing = one.rehearsing();
    eventually("the policies are in force", PATIENCE, || {
        rehearsing
            .label_its_node()?
            .is_refused("no label or annotation")?;
        rehearsing
            .tell_of(&other, &other)?
            .is_refused("of that name alone")?;
        rehearsing
            .report(&other)?
            .is_refused("about that Node alone")?;
        rehearsing
            .claim("10.32.9.0-24", "10.32.9.0/24", &other)?
            .is_refused("of that node alone")
    })?;
    rights::are_the_same_everywhere_but_for_events(&server, &one)?;
    rights::over_objects(&server, &one, &other)?;
    rights::over_ranges(&one, &other)?;
    rights::over_status(&one, &other)?;
    rights::over_events(&one)?;
    claims::are_named_after_their_range(&server, &one)?;
    claims::never_change(&server)?;
    claims::of_what_a_node_is_are_bounded(&server, &one)
}

/// And has every right that it uses: the server goes by both.
fn an_agent_uses_every_right_that_it_has() -> Result<()> {
    let server = Server::start()?;
    server.kubectl(&["apply", "-f", MANIFEST])?;
    let node = Agent::new(&server, "node-1")?;
    let granted = rights::granted(&server, &node, "default")?;
    agent::does_all_that_it_ever_does(&server, &node)?;
    // A watch is heard of when it ends, and it ends with the server's patience or the agent.
    let used = server.audited()?;
    ensure!(
        used == granted,
        "granted and not used: {:?}; used and not granted: {:?}",
        granted.difference(&used).collect::<Vec<_>>(),
        used.difference(&granted).collect::<Vec<_>>()
    );
    Ok(())
}

/// A patch of one condition.
fn condition(kind: &str, status: &str) -> serde_json::Value {
    json!({"status": {"conditions": [{"type": kind, "status": status, "reason": "Test"}]}})
}
