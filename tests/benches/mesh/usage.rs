//! What a process has used so far, as `/proc` tells.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_router::host::MESH_LINK;

/// Ticks a second in what the kernel tells programs, on every architecture that we build for.
const USER_HZ: u32 = 100;

/// What is counted of an agent and its node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time of every thread there was.
    pub(crate) cpu: Duration,
    /// Bytes.
    pub(crate) resident: u64,
    /// Packets that the node put into the tunnel.
    pub(crate) packets: u64,
}

/// Reads all of it now.
///
/// # Errors
/// When the process is gone.
pub(crate) fn of(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    Ok(Usage {
        cpu: cpu(&read("stat")?).context("no times in stat")?,
        resident: resident(&read("status")?).context("no VmRSS in status")?,
        packets: packets(&read("net/dev")?).context("no mesh link in net/dev")?,
    })
}

/// `utime` and `stime`, the 14th and 15th fields of proc_pid_stat(5), in ticks.
fn cpu(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold blanks.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(utime + stime) / USER_HZ)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The packets sent by the link are the tenth number of its line.
fn packets(net_dev: &str) -> Option<u64> {
    let line = net_dev
        .lines()
        .find_map(|line| line.trim().strip_prefix(MESH_LINK)?.strip_prefix(':'))?;
    line.split_whitespace().nth(9)?.parse().ok()
}
