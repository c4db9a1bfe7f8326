//! Links on their way out, and the leases that end with them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;
use weft_cni::ipam::{Lease, Leases};

use super::Workloads;
use crate::kernel::veth::VethError;

/// Links whose removal is under way.
#[derive(Debug, Default)]
pub(super) struct Removing(Mutex<BTreeSet<String>>);

impl Removing {
    pub(super) fn has(&self, link: &str) -> bool {
        self.with(|links| links.contains(link))
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        // Each act is one call of the set's, so a poisoned set is still whole.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Workloads {
    /// Takes a link down and has it removed; the addresses of these held leases are free once it
    /// is gone.
    ///
    /// # Errors
    /// When the kernel refuses at once. What it refuses later, [`Workloads::tend`] tries again.
    pub(super) async fn remove_link(
        self: &Arc<Self>,
        link: &str,
        held: Vec<Lease>,
    ) -> Result<(), VethError> {
        let removal = self.kernel.detach(link).await?;
        self.removing.with(|links| links.insert(link.to_owned()));
        let (this, link) = (Arc::clone(self), link.to_owned());
        tokio::spawn(async move {
            match removal.finished().await {
                Ok(()) => this.release_held(&mut *this.leases.lock().await, &held),
                Err(error) => warn!(%error, link, "a link cannot be removed; that is tried again"),
            }
            this.removing.with(|links| links.remove(&link));
        });
        Ok(())
    }

    /// Gives the addresses of leases back that are held to this moment.
    pub(super) fn release_held(&self, leases: &mut Leases, held: &[Lease]) {
        for lease in held {
            // The same addresses may be another container's by now, and held after that one.
            if !leases.list().any(|present| present == lease) {
                continue;
            }
            if let Err(error) = leases.release_held(&lease.addresses) {
                warn!(%error, "held addresses cannot be given back; that is tried again");
            }
        }
    }

    /// Takes a lease back with all that was made for it, and waits until it is gone. Where that
    /// fails the lease is held, and taken back later.
    pub(super) async fn forget(&self, leases: &mut Leases, lease: &Lease) {
        let released = match self.remove_and_wait(&lease.host_ifname).await {
            Ok(()) if lease.is_live() => leases.release(&lease.attachment),
            Ok(()) => leases.release_held(&lease.addresses),
            Err(error) => {
                warn!(
                    error,
                    link = lease.host_ifname,
                    "a link cannot be removed; its addresses are held"
                );
                leases.hold(&lease.attachment)
            }
        };
        if let Err(error) = released {
            warn!(%error, "a lease cannot be given back; that is tried again");
            // Counts in memory, whatever the disk says.
            let _ = leases.hold(&lease.attachment);
        }
        self.publish(leases);
    }

    /// # Errors
    /// In words, when the link may still be there.
    pub(super) async fn remove_and_wait(&self, link: &str) -> Result<(), String> {
        let removal = self.kernel.detach(link).await.map_err(|e| e.to_string())?;
        removal.finished().await.map_err(|e| e.to_string())
    }
}
