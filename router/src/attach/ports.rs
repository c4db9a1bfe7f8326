//! Ports of the host that lead to containers. The reconciler puts them in force; here it is seen
//! that they are.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_cni::ipam::Lease;
use weft_cni::{Error, Protocol, code};

use super::Workloads;
use crate::desired::published;
use crate::kernel::nft::Published;
use crate::kernel::{KernelError, Targets};

/// How long an ADD waits for its ports; mostly it is 20 ms.
const WITHIN: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(2);

impl Workloads {
    /// Waits until packets to the ports of a published lease go to its container, those of flows
    /// from before too.
    ///
    /// # Errors
    /// [`code::TRY_AGAIN`] when that is not so within 5 s.
    pub(super) async fn ports_in_force(&self, lease: &Lease) -> Result<(), Error> {
        let failed = |e: KernelError| Error::new(code::IO, e.to_string());
        let wanted = self.published(lease);
        let deadline = Instant::now() + WITHIN;
        loop {
            let missing = self.kernel.unpublished(wanted.clone()).await;
            let missing = missing.map_err(failed)?;
            if missing.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                let missing = in_words(&missing).join("; ");
                let msg = format!("{}: {missing}; see `weft status`", lease.attachment);
                return Err(Error::new(code::TRY_AGAIN, msg));
            }
            tokio::time::sleep(TICK).await;
        }
        // The reconciler does it too, and may not have come to it yet.
        let mut targets = Targets::new();
        for port in wanted.iter().filter(|port| port.protocol == Protocol::Udp) {
            targets.entry(port.port).or_default().insert(port.to);
        }
        if targets.is_empty() {
            return Ok(());
        }
        self.kernel.forget_flows(targets).await.map_err(failed)
    }

    /// The ports of a lease that do not lead to its container, in words.
    pub(super) async fn ports_missing(&self, lease: &Lease) -> Result<Vec<String>, KernelError> {
        if lease.ports.is_empty() {
            return Ok(Vec::new());
        }
        let missing = self.kernel.unpublished(self.published(lease)).await?;
        Ok(in_words(&missing))
    }

    fn published(&self, lease: &Lease) -> Vec<Published> {
        let ranges = self.node.borrow().ranges.clone();
        let is_own = |address: &&IpAddr| ranges.iter().any(|range| range.contains(*address));
        let own = lease.addresses.iter().filter(is_own).copied();
        published(own, &lease.ports).collect()
    }
}

fn in_words(missing: &[Published]) -> Vec<String> {
    let text = |port: &Published| {
        let Published { protocol, to, .. } = port;
        format!("{protocol} port {} does not lead to {to}", port.port)
    };
    missing.iter().map(text).collect()
}
