//! What was left behind: by an agent that was killed, by a plugin that found no agent, by
//! containers that ended without a word.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tracing::{info, warn};
use weft_cni::ipam::{Lease, Leases, State};
use weft_cni::{Attachment, Error, code, note};

use super::Workloads;
use crate::kernel::KernelError;

/// Notes settled at a start; more are settled while the agent runs.
const NOTES: usize = 10_000;

impl Workloads {
    /// Undoes and finishes what an ended agent left: ADDs cut short, moves to other addresses, DELs
    /// whose link is still there, DELs that the plugin noted meanwhile, and leases whose container
    /// is gone.
    ///
    /// # Errors
    /// When the kernel cannot be asked what is there: nothing may be attached beside that.
    pub async fn settle(self: &Arc<Self>) -> Result<(), KernelError> {
        let mut leases = self.leases.lock().await;
        let links = self.kernel.list_ours().await?;
        let links: BTreeSet<String> = links.into_iter().map(|link| link.name).collect();
        for lease in leases.list().cloned().collect::<Vec<_>>() {
            match lease.state {
                State::Held => match successor(&leases, &lease).cloned() {
                    Some(new) if is_move(&lease, &new) && links.contains(&new.host_ifname) => {
                        self.move_pod(&mut leases, &lease, &new).await;
                    }
                    Some(_) => self.release_held(&mut leases, &[lease]),
                    None => self.forget(&mut leases, &lease).await,
                },
                State::Pending => self.forget(&mut leases, &lease).await,
                State::Bound if !links.contains(&lease.host_ifname) => {
                    info!(attachment = %lease.attachment, "its container ended meanwhile");
                    let _ = leases.release(&lease.attachment);
                }
                State::Bound => {}
            }
        }
        if !leases.ranges().is_empty() {
            // The last run took other ranges and came no further.
            for stray in leases.strays() {
                self.readdress(&mut leases, &stray).await;
            }
        }
        let mut is_clear = true;
        for link in orphans(&leases, &links) {
            warn!(link, "a pod's link without a lease is removed");
            if let Err(error) = self.remove_and_wait(&link).await {
                warn!(error, link, "a link cannot be removed; that is tried again");
                is_clear = false;
            }
        }
        if is_clear {
            self.give_back_corrupt(&mut leases);
        }
        self.settle_notes(&mut leases, NOTES).await;
        self.publish(&leases);
        Ok(())
    }

    /// To be called once every link is gone that could bear the addresses of a ruined lease.
    pub(super) fn give_back_corrupt(&self, leases: &mut Leases) {
        for corrupt in leases.corrupt().to_vec() {
            if let Err(error) = leases.give_back(&corrupt) {
                warn!(%error, "what is left of a lease cannot be removed");
            }
        }
    }

    pub(super) async fn settle_notes(&self, leases: &mut Leases, most: usize) {
        let notes = note::list(&self.notes, most).unwrap_or_else(|error| {
            warn!(%error, "the plugin's notes cannot be read");
            Vec::new()
        });
        for note in notes {
            if let Err(error) = self.settle_note(leases, &note.del.attachment).await {
                warn!(%error, attachment = %note.del.attachment, "a noted DEL failed");
            }
        }
    }

    /// Does the DEL that the plugin noted while it was not heard; one older than the lease is
    /// another container's.
    pub(super) async fn settle_note(
        &self,
        leases: &mut Leases,
        attachment: &Attachment,
    ) -> Result<(), Error> {
        let io = |e: io::Error| Error::new(code::IO, e.to_string());
        let Some(note) = note::find(&self.notes, attachment).map_err(io)? else {
            return Ok(());
        };
        let lease = leases.by_attachment(attachment).cloned();
        if let Some(lease) = lease.filter(|lease| lease.made <= note.left) {
            self.forget(leases, &lease).await;
            info!(%attachment, "detached, as the plugin noted");
        }
        note::remove(&self.notes, attachment).map_err(io)
    }
}

/// The live lease that has a held one's link: the link was made anew, or bears other addresses.
pub(super) fn successor<'a>(leases: &'a Leases, held: &Lease) -> Option<&'a Lease> {
    leases
        .list()
        .find(|lease| lease.is_live() && lease.host_ifname == held.host_ifname)
}

/// Whether the container may still have the held addresses in place of its own. Where its link was
/// made anew it has its own, and a move changes nothing.
fn is_move(held: &Lease, new: &Lease) -> bool {
    new.state == State::Bound && new.attachment == held.attachment
}

/// The links that no lease has.
pub(super) fn orphans(leases: &Leases, links: &BTreeSet<String>) -> Vec<String> {
    let is_orphan = |link: &&String| !leases.list().any(|lease| lease.host_ifname == **link);
    links.iter().filter(is_orphan).cloned().collect()
}
