//! What an agent and its node have used so far.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_router::host::MESH_LINK;
use weft_tests::usage;

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
    let net_dev = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    Ok(Usage {
        cpu: usage::cpu(pid)?,
        resident: usage::resident(pid)?,
        packets: packets(&net_dev).context("no mesh link in net/dev")?,
    })
}

/// The packets sent by the link are the tenth number of its line.
fn packets(net_dev: &str) -> Option<u64> {
    let line = net_dev
        .lines()
        .find_map(|line| line.trim().strip_prefix(MESH_LINK)?.strip_prefix(':'))?;
    line.split_whitespace().nth(9)?.parse().ok()
}
