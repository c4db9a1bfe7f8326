//! A node of the lab and its agent, driven by the command line as a user drives it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weft_router::demo::Machine;
use weft_router::demo::net::Port;

use super::{eventually, faults};

/// How long an agent may take to answer on its socket.
const START: Duration = Duration::from_secs(15);
/// How long it may take to end when asked.
const STOP: Duration = Duration::from_secs(10);

/// A node. Dropping it kills its agent.
#[derive(Debug)]
pub struct LabNode {
    machine: Machine,
    port: Port,
}

impl LabNode {
    pub(super) fn new(machine: Machine, port: Port) -> Self {
        Self { machine, port }
    }

    pub fn name(&self) -> &str {
        self.machine.name()
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// For what changes its agent.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Where it hangs on the underlay.
    pub fn port(&self) -> &Port {
        &self.port
    }

    pub(super) fn set_port(&mut self, port: Port) {
        self.port = port;
    }

    /// Its address on the underlay.
    pub fn v4(&self) -> Ipv4Addr {
        self.port.v4.addr()
    }

    /// Its IPv6 address on the underlay.
    ///
    /// # Errors
    /// When the kernel has no IPv6.
    pub fn v6(&self) -> Result<Ipv6Addr> {
        let net = self.port.v6.context("the kernel has no IPv6")?;
        Ok(net.addr())
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Errors
    /// When it ends or stays silent, with the end of its log.
    pub fn up(&mut self, arguments: &[&str]) -> Result<()> {
        self.machine.start(arguments)?;
        let ready = self.machine.wait_ready(START);
        ready.with_context(|| self.said())?;
        Ok(())
    }

    /// Starts the agent and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, arguments: &[&str]) -> Result<()> {
        Ok(self.machine.start(arguments)?)
    }

    /// Starts the agent as a member of the mesh of `other`.
    ///
    /// # Errors
    /// As [`LabNode::up`].
    pub fn join(&mut self, other: &Self) -> Result<()> {
        let line = other.join_line()?;
        self.up(&["--join", &line])
    }

    /// The argument of `--join` for another node.
    ///
    /// # Errors
    /// When the agent does not say.
    pub fn join_line(&self) -> Result<String> {
        Ok(self.machine.join_line()?)
    }

    /// Asks the agent to end, as a service manager does, and waits for it.
    ///
    /// # Errors
    /// When none runs.
    pub fn stop(&mut self) -> Result<()> {
        let agent = self.machine.agent().context("no agent runs")?;
        agent.stop(STOP)?;
        Ok(())
    }

    /// Kills the agent at once.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill(&mut self) -> Result<()> {
        let agent = self.machine.agent().context("no agent runs")?;
        agent.kill()?;
        Ok(())
    }

    /// Runs `weft` with these arguments; what it printed.
    ///
    /// # Errors
    /// What it printed to standard error, when it failed.
    pub fn weft(&self, arguments: &[&str]) -> Result<String> {
        self.machine.weft(arguments).with_context(|| self.said())
    }

    /// `weft status --json`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        Ok(self.machine.status()?)
    }

    /// The names of the peers that answer through the tunnel.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn established(&self) -> Result<Vec<String>> {
        let status = self.status()?;
        let peers = status["peers"]
            .as_array()
            .context("no peers in the status")?;
        let up = peers.iter().filter(|peer| peer["state"] == "established");
        Ok(up
            .filter_map(|peer| Some(peer["name"].as_str()?.to_owned()))
            .collect())
    }

    /// Waits until exactly `count` peers answer through the tunnel.
    ///
    /// # Errors
    /// When that is not so by `patience`, with the status and the end of the log.
    pub fn wait_established(&self, count: usize, patience: Duration) -> Result<()> {
        let what = format!("{} has {count} established peers", self.name());
        eventually(&what, patience, || {
            let up = self.established()?;
            if up.len() == count {
                return Ok(());
            }
            bail!("has {up:?}\n{}\n{}", self.status()?["peers"], self.said())
        })
    }

    /// The node's own addresses in the mesh.
    ///
    /// # Errors
    /// When the agent does not answer, or has none yet.
    pub fn mesh_addresses(&self) -> Result<Vec<IpAddr>> {
        let status = self.status()?;
        let addresses = status["mesh"]["addresses"]
            .as_array()
            .context("no addresses in the status")?;
        let parsed = addresses
            .iter()
            .filter_map(|address| address.as_str()?.parse().ok());
        Ok(parsed.collect())
    }

    /// A command on the node.
    pub fn command(&self, program: &str) -> Command {
        self.machine.node().command(program)
    }

    /// Runs a program on the node; what it printed.
    ///
    /// # Errors
    /// What it printed to standard error, when it failed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no program")?;
        faults::printed(self.command(program).args(arguments), words)
    }

    /// Sets the node's interface down or up, at the node, as an administrator would; what the
    /// kernel then forgets is set again.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn link_down(&self) -> Result<()> {
        let netlink = self.machine.node().netns().netlink();
        Ok(netlink.down(self.port.index)?)
    }

    /// Leaves the node with IPv6 alone on the underlay.
    ///
    /// # Errors
    /// When that is so already.
    pub fn only_v6(&self) -> Result<()> {
        let netlink = self.machine.node().netns().netlink();
        Ok(netlink.remove_address(self.port.index, self.port.v4.into())?)
    }

    /// The end of the agent's log, for a test's own report.
    pub fn said(&self) -> String {
        format!(
            "the log of {} ends:\n{}",
            self.name(),
            self.machine.log_tail()
        )
    }
}
