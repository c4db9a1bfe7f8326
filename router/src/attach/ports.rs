//! Ports of the host that lead to containers. The reconciler puts them in force; here it is seen
//! that they are.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_cni::ipam::Lease;
use weft_cni::{Error, code};

use super::Workloads;
use crate::desired::published;
use crate::kernel::KernelError;

/// How long an ADD waits for its ports; mostly it is 20 ms.
const WITHIN: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(2);

impl Workloads {
    /// Waits until packets to the ports of a published lease go to its container.
    ///
    /// # Errors
    /// [`code::TRY_AGAIN`] when that is not so within 5 s.
    pub(super) async fn ports_in_force(&self, lease: &Lease) -> Result<(), Error> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let missing = self.ports_missing(lease).await;
            let missing = missing.map_err(|e| Error::new(code::IO, e.to_string()))?;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let missing = missing.join("; ");
                let msg = format!("{}: {missing}; see `weft status`", lease.attachment);
                return Err(Error::new(code::TRY_AGAIN, msg));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The ports of a lease that do not lead to its container, in words.
    pub(super) async fn ports_missing(&self, lease: &Lease) -> Result<Vec<String>, KernelError> {
        if lease.ports.is_empty() {
            return Ok(Vec::new());
        }
        let ranges = self.node.borrow().ranges.clone();
        let is_own = |address: &&IpAddr| ranges.iter().any(|range| range.contains(*address));
        let own = lease.addresses.iter().filter(is_own).copied();
        let wanted = published(own, &lease.ports).collect();
        let missing = self.kernel.unpublished(wanted).await?;
        let text = |port: &crate::kernel::nft::Published| {
            format!(
                "{} port {} does not lead to {}",
                port.protocol, port.port, port.to
            )
        };
        Ok(missing.iter().map(text).collect())
    }
}
