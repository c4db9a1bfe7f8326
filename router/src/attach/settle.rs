//! What was left behind: by an agent that was killed, by a plugin that found no agent, by
//! containers that ended without a word.

use std::io;
use std::sync::Arc;

use tracing::{info, warn};
use weft_cni::ipam::{Lease, Leases, State};
use weft_cni::{Attachment, Error, code, note};

use super::{HAND_NETWORK, Snapshot, Workloads};

/// Notes settled in one go; more wait for the next start.
const NOTES: usize = 10_000;

impl Workloads {
    /// Undoes and finishes what an ended agent left: ADDs cut short, DELs whose link is still
    /// there, DELs that the plugin noted meanwhile, and leases whose container is gone.
    pub async fn settle(self: &Arc<Self>) {
        let mut leases = self.leases.lock().await;
        let links = match self.kernel.list_ours().await {
            Ok(links) => links,
            Err(error) => {
                warn!(%error, "what was attached before cannot be looked up");
                return;
            }
        };
        let is_there = |name: &str| links.iter().any(|link| link.name == name);
        for lease in leases.list().cloned().collect::<Vec<_>>() {
            match lease.state {
                State::Pending => self.forget(&mut leases, &lease).await,
                State::Held => self.forget(&mut leases, &lease).await,
                State::Bound if !is_there(&lease.host_ifname) => {
                    info!(attachment = %lease.attachment, "its container ended meanwhile");
                    let _ = leases.release(&lease.attachment);
                }
                State::Bound => {}
            }
        }
        for link in &links {
            if !leases.list().any(|lease| lease.host_ifname == link.name) {
                warn!(link = link.name, "a pod's link without a lease is removed");
                let _ = self.kernel.detach(&link.name).await;
            }
        }
        for corrupt in leases.corrupt().to_vec() {
            // Every link that could bear its addresses is gone by now.
            if let Err(error) = leases.give_back(&corrupt) {
                warn!(%error, "what is left of a lease cannot be removed");
            }
        }
        for note in note::list(&self.notes, NOTES).unwrap_or_default() {
            if let Err(error) = self.settle_note(&mut leases, &note.del.attachment).await {
                warn!(%error, attachment = %note.del.attachment, "a noted DEL failed");
            }
        }
        self.publish(&leases);
    }

    /// Does the DEL that the plugin noted while no agent was there; one older than the lease is
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
        if let Some(lease) = lease.filter(|lease| lease.created_ms <= note.left_ms) {
            self.forget(leases, &lease).await;
            info!(%attachment, "detached, as noted while no agent was there");
        }
        note::remove(&self.notes, attachment).map_err(io)
    }

    /// Takes a lease back with all that was made for it, and waits until it is gone.
    pub(super) async fn forget(&self, leases: &mut Leases, lease: &Lease) {
        let gone = match self.kernel.detach(&lease.host_ifname).await {
            Ok(removal) => removal.finished().await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = gone {
            warn!(
                error,
                link = lease.host_ifname,
                "a link cannot be removed; its addresses stay taken"
            );
            return;
        }
        let released = match lease.state {
            State::Held => leases.release_held(&lease.addresses),
            _ => leases.release(&lease.attachment),
        };
        if let Err(error) = released {
            warn!(%error, "a lease cannot be given back");
        }
        self.publish(leases);
    }

    /// Looks for containers whose link went with their namespace: one attached by hand is
    /// detached, the name of any other is withdrawn until its runtime says DEL.
    pub async fn sweep(&self, links: &[String]) {
        let mut leases = self.leases.lock().await;
        let missing = |leases: &Leases, links: &[String]| -> Vec<Lease> {
            let bound = leases.list().filter(|lease| lease.state == State::Bound);
            bound
                .filter(|lease| !links.contains(&lease.host_ifname))
                .cloned()
                .collect()
        };
        let mut ended = missing(&leases, links);
        if !ended.is_empty() {
            // What was seen may be older than an ADD; none crosses while we have the leases.
            match self.kernel.list_ours().await {
                Ok(links) => {
                    let names: Vec<String> = links.into_iter().map(|link| link.name).collect();
                    ended = missing(&leases, &names);
                }
                Err(error) => {
                    warn!(%error, "whose container ended cannot be looked up");
                    return;
                }
            }
        }
        for lease in ended.iter().filter(|lease| lease.network == HAND_NETWORK) {
            info!(attachment = %lease.attachment, "its container ended");
            let _ = leases.release(&lease.attachment);
        }
        let gone: Vec<String> = ended.into_iter().map(|lease| lease.host_ifname).collect();
        self.snapshot.send_if_modified(|snapshot| {
            let new = Snapshot {
                moves: snapshot.moves.clone(),
                ..Snapshot::of(&leases, gone)
            };
            let differs = **snapshot != new;
            *snapshot = Arc::new(new);
            differs
        });
    }
}
