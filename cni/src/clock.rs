//! The clock by which notes and leases are compared. Nobody sets it, so a DEL is never taken for
//! one of before its ADD; leases and notes are of one boot anyway.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since the kernel's boot, those that it slept included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SinceBoot(pub u64);

impl SinceBoot {
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let milliseconds = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
        Self(seconds.saturating_mul(1000).saturating_add(milliseconds))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::SinceBoot;

    #[test]
    fn the_clock_is_the_kernels_uptime() {
        let uptime = || -> f64 {
            let text = fs::read_to_string("/proc/uptime").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let before = uptime();
        let now = SinceBoot::now().0 as f64 / 1000.0;
        // The file has hundredths of a second.
        assert!(before - 0.02 <= now && now <= uptime() + 0.02, "{now}");
    }
}
