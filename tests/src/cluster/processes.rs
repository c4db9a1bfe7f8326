//! The cluster's processes as this machine sees them. Nodes have no process namespaces of their own,
//! so whose a process is, its network tells.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_tests::cluster::Cluster;

/// Ticks a second in what the kernel tells programs, on every architecture that we build for.
const USER_HZ: u64 = 100;

/// The agent of a node.
///
/// # Errors
/// When none runs there.
pub(crate) fn agent(cluster: &Cluster, node: &str) -> Result<u32> {
    let output = cluster
        .on_node(node, "readlink")?
        .arg("/proc/thread-self/ns/net")
        .output()?;
    let netns = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let found = running(&["/weft", "up"])?.into_iter().find(|pid| {
        let own = fs::read_link(format!("/proc/{pid}/ns/net"));
        own.is_ok_and(|own| own == netns)
    });
    found.with_context(|| format!("no agent runs on {node}"))
}

/// The process of the pod that has this address and runs this.
///
/// # Errors
/// When there is none.
pub(crate) fn of_pod(address: &str, words: &[&str]) -> Result<u32> {
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
pub(crate) fn within(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &pid.to_string(), program]);
    command
}

/// How long ago a process was started.
///
/// # Errors
/// When it is gone.
pub(crate) fn age(pid: u32) -> Result<Duration> {
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
