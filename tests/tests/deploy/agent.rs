//! A real agent on a host with one link, brought to do everything that it ever asks of the server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use weft_tests::lab::eventually;

use crate::caller::Agent;
use crate::server::{Server, run, start};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the default Service range of the server, which is no range for pods.
const OVERLAPPING: &str = "10.96.3.0/24";

pub(crate) fn does_all_that_it_ever_does(server: &Server, node: &Agent<'_>) -> Result<()> {
    run(Command::new("ip").args("link add wan type veth peer name far".split(' ')))?;
    for link in ["wan", "far"] {
        run(Command::new("ip").args(["link", "set", link, "up"]))?;
    }
    run(Command::new("ip").args("address add 192.0.2.1/24 dev wan".split(' ')))?;
    let file = |name: &str| server.dir().join(name);
    let log = file("agent.log").display().to_string();
    let mut command = Command::new(std::env::current_exe()?);
    // By this name this very program is weft.
    std::os::unix::process::CommandExt::arg0(&mut command, "weft")
        .args(["up", "--kubernetes", "--name", &node.node])
        .arg("--state-dir")
        .arg(file("state"))
        .env("KUBECONFIG", server.kubeconfig(&node.token)?);
    let mut agent = start(&mut command, &log)?;
    let mut until = |resource: &str, verb: &str| {
        let call = (resource.to_owned(), verb.to_owned());
        eventually(&format!("{verb} {resource}"), PATIENCE, || {
            ensure!(agent.ended()?.is_none(), "the agent has ended");
            let calls = server.audited()?;
            ensure!(calls.contains(&call), "only {calls:?}");
            Ok(())
        })
        .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())
    };
    // Its Node has no range, so it claims one.
    until("weftnodes.weft.dev", "patch")?;
    until("weftranges.weft.dev", "create")?;
    until("nodes/status", "patch")?;
    // Then the cluster gives it one after all, so it needs the claim no more; and it is a bad one.
    let ranges = json!({"spec": {"podCIDR": OVERLAPPING, "podCIDRs": [OVERLAPPING]}});
    let path = format!("/api/v1/nodes/{}", node.node);
    server.admin("PATCH", &path, &ranges)?.is_done()?;
    until("weftranges.weft.dev", "delete")?;
    until("events.events.k8s.io", "create")?;
    agent.signal(Signal::TERM)?;
    eventually("the agent ends", PATIENCE, || {
        agent.ended()?.context("it runs").map(drop)
    })?;
    // The server notices that nobody listens any more.
    eventually("the ends of its watches", PATIENCE, || {
        let calls = server.audited()?;
        let watches = calls.iter().filter(|(_, verb)| verb == "watch").count();
        ensure!(watches == 4, "only {calls:?}");
        Ok(())
    })
}
