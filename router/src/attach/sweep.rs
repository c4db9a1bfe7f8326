//! What is found out, and done, while the agent runs: containers that ended without a word, links
//! that could not be removed at first, DELs that the plugin noted since it was not heard.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};
use weft_cni::ipam::{Lease, Leases, State};

use super::settle::{orphans, successor};
use super::{HAND_NETWORK, Snapshot, Workloads};
use crate::host::{LINK_PREFIX, MESH_LINK};

/// Notes settled in one go; more wait for the next.
const NOTES: usize = 100;

impl Workloads {
    /// The host's links as they are now, to be said whenever any changed and at times.
    pub fn links_are(&self, links: Vec<String>) {
        self.links.send_replace(links);
    }

    /// Looks after what is attached, whenever something was said of links or node, until dropped.
    pub async fn tend(self: Arc<Self>) {
        let mut links = self.links.subscribe();
        // What was said before counts too.
        links.mark_changed();
        let mut node = self.node.subscribe();
        node.mark_changed();
        loop {
            // Neither ends before us: we have both senders.
            tokio::select! {
                _ = links.changed() => {}
                _ = node.changed() => {}
            }
            let seen = links.borrow_and_update().clone();
            node.mark_unchanged();
            let mut leases = self.leases.lock().await;
            self.follow(&mut leases).await;
            self.sweep(&mut leases, &seen).await;
        }
    }

    async fn sweep(self: &Arc<Self>, leases: &mut Leases, seen: &[String]) {
        let seen: BTreeSet<String> = seen.iter().cloned().collect();
        let mut ended = Vec::new();
        if may_have_work(leases, &seen) {
            // What was seen may be older than an ADD; none crosses while we have the leases.
            match self.kernel.list_ours().await {
                Ok(links) => {
                    let links = links.into_iter().map(|link| link.name).collect();
                    ended = missing(leases, &links);
                    self.sweep_links(leases, &links).await;
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
        self.settle_notes(leases, NOTES).await;
        let gone: Vec<String> = ended.into_iter().map(|lease| lease.host_ifname).collect();
        self.snapshot.send_if_modified(|snapshot| {
            let new = Snapshot {
                moves: snapshot.moves.clone(),
                ..Snapshot::of(leases, gone)
            };
            let differs = **snapshot != new;
            *snapshot = Arc::new(new);
            differs
        });
    }

    /// Gives back what is held for links that are gone, and removes those that nobody has.
    async fn sweep_links(self: &Arc<Self>, leases: &mut Leases, links: &BTreeSet<String>) {
        let held: Vec<Lease> = leases.list().filter(|l| !l.is_live()).cloned().collect();
        for lease in held {
            if !links.contains(&lease.host_ifname) || successor(leases, &lease).is_some() {
                self.release_held(leases, &[lease]);
            } else if !self.removing.has(&lease.host_ifname) {
                let link = lease.host_ifname.clone();
                if let Err(error) = self.remove_link(&link, vec![lease]).await {
                    warn!(%error, link, "a link cannot be removed; that is tried again");
                }
            }
        }
        let orphans = orphans(leases, links);
        for link in orphans.iter().filter(|link| !self.removing.has(link)) {
            warn!(link, "a pod's link without a lease is removed");
            if let Err(error) = self.remove_link(link, Vec::new()).await {
                warn!(%error, link, "a link cannot be removed; that is tried again");
            }
        }
        if orphans.is_empty() {
            self.give_back_corrupt(leases);
        }
    }
}

/// Whether a closer look at the links could find something to do.
fn may_have_work(leases: &Leases, seen: &BTreeSet<String>) -> bool {
    let ours = seen
        .iter()
        .filter(|link| link.starts_with(LINK_PREFIX) && *link != MESH_LINK);
    !leases.corrupt().is_empty()
        || leases.list().any(|lease| !lease.is_live())
        || !missing(leases, seen).is_empty()
        || !orphans(leases, &ours.cloned().collect()).is_empty()
}

/// Leases whose container is attached, their link not there.
fn missing(leases: &Leases, links: &BTreeSet<String>) -> Vec<Lease> {
    let bound = leases.list().filter(|lease| lease.state == State::Bound);
    bound
        .filter(|lease| !links.contains(&lease.host_ifname))
        .cloned()
        .collect()
}
