//! The capture of the underlay, as the demo's.

use anyhow::{Result, bail};
use ipnet::IpNet;
use weft_router::demo::capture::{Capture, Counts, Hosts, Watch};

use super::Lab;

/// The mesh's port where nothing else is said.
const PORT: u16 = 6783;
/// The default pool, and every unique local address: the underlay has none.
const POOLS: [&str; 2] = ["10.32.0.0/12", "fc00::/7"];

impl Lab {
    /// Starts to count what crosses the underlay. `secrets` are bytes that may not be seen at all.
    ///
    /// # Errors
    /// When the kernel gives no packet socket.
    pub fn capture(&self, secrets: &[&[u8]]) -> Result<Capture> {
        let pools: Result<Vec<IpNet>, _> = POOLS.iter().map(|pool| pool.parse()).collect();
        let watch = Watch {
            port: PORT,
            pools: pools?,
            secrets: secrets.iter().map(|bytes| bytes.to_vec()).collect(),
            hosts: Hosts::Silent,
        };
        Ok(Capture::start(&self.netns, self.segment.bridge(), watch)?)
    }
}

/// Checks that everything was sealed, that something was, and that nothing went by unseen.
///
/// # Errors
/// With what was seen.
pub fn all_sealed(counts: &Counts) -> Result<()> {
    if counts.plaintext > 0 || counts.kernel_dropped > 0 || counts.wireguard == 0 {
        bail!("the underlay carried more than sealed traffic, or none: {counts:?}");
    }
    Ok(())
}
