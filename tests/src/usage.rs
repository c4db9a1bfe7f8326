//! What a process has used so far, as `/proc` tells.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks a second in what the kernel tells programs, on every architecture that we build for.
const USER_HZ: u32 = 100;

/// User and system time of every thread that a process has, or had.
///
/// # Errors
/// When the process is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    cpu_of(&read(pid, "stat")?).context("no times in stat")
}

/// The bytes of its memory that are resident.
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> Result<u64> {
    resident_of(&read(pid, "status")?).context("no VmRSS in status")
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

/// `utime` and `stime`, the 14th and 15th fields of proc_pid_stat(5), in ticks.
fn cpu_of(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold blanks.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(utime + stime) / USER_HZ)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
