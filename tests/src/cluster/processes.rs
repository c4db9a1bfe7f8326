//! The cluster's processes as this machine sees them. Nodes have no process namespaces of their own,
//! so whose a process is, its network tells.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Cluster;
use anyhow::{Context, Result};

/// Ticks a second in what the kernel tells programs, on every architecture that we build for.
const USER_HZ: u64 = 100;

impl Cluster {
    /// The agent of a node.
    ///
    /// # Errors
    /// When none runs there.
    pub fn agent(&self, node: &str) -> Result<u32> {
        let found = self.processes(node, &["/weft", "up"])?;
        let first = found.first().copied();
        first.with_context(|| format!("no agent runs on {node}"))
    }

    /// The processes in a node's own network that were started with these words first.
    ///
    /// # Errors
    /// When the node is not there.
    pub fn processes(&self, node: &str, words: &[&str]) -> Result<Vec<u32>> {
        let netns = fs::read_link(format!("/proc/{}/ns/net", self.anchor(node)?))?;
        let mut found = running(words)?;
        found.retain(|pid| {
            let own = fs::read_link(format!("/proc/{pid}/ns/net"));
            own.is_ok_and(|own| own == netns)
        });
        Ok(found)
    }
}

/// The process of the pod that has this address and runs this.
///
/// # Errors
/// When there is none.
pub fn of_pod(address: &str, words: &[&str]) -> Result<u32> {
    let mine = format!("inet {address}/");
    for pid in running(words)? {
        let shown = within(pid, "ip").args(["-4", "address"]).output()?;
        if String::from_utf8_lossy(&shown.stdout).contains(&mine) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no pod has {address}")
}

/// A program of this machine in the network of a process.
pub fn within(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &pid.to_string(), program]);
    command
}

/// How long ago a process was started.
///
/// # Errors
/// When it is gone.
pub fn age(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // Field 22 of proc_pid_stat(5), of which the name may hold blanks.
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let ticks = rest.and_then(|rest| rest.split_whitespace().nth(19));
    let ticks: u64 = ticks.context("no start in stat")?.parse()?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime
        .split_whitespace()
        .next()
        .context("no uptime")?
        .parse()?;
    let started = Duration::from_millis(ticks * 1_000 / USER_HZ);
    Ok(Duration::from_secs_f64(uptime).saturating_sub(started))
}

/// Who was started with these words first.
fn running(words: &[&str]) -> Result<Vec<u32>> {
    let is_so = |process: &Path| {
        let said = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut own = said.split(|byte| *byte == 0);
        words.iter().all(|word| own.next() == Some(word.as_bytes()))
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let pid = process
            .file_name()
            .and_then(|pid| pid.to_str()?.parse().ok());
        found.extend(pid.filter(|_: &u32| is_so(&process)));
    }
    Ok(found)
}
