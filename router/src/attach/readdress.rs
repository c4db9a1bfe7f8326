//! Other ranges for the node: its containers take other addresses where they stand.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;
use weft_cni::SinceBoot;
use weft_cni::ipam::{Lease, Leases};

use super::{Node, Snapshot, Workloads};
use crate::kernel::netns;
use crate::kernel::veth::PodLink;

/// Moves that are remembered for `weft status`.
const MOVES_KEPT: usize = 64;

impl Workloads {
    /// What the node is now. Waits for nobody: an ADD goes by it from its start on, and
    /// [`Workloads::tend`] gives containers whose addresses are no longer the node's others.
    pub fn node_is(&self, node: Node) {
        self.node.send_if_modified(|present| {
            let differs = *present != node;
            present.clone_from(&node);
            differs
        });
    }

    /// Takes the node's present ranges, and readdresses the containers that lose an address.
    pub(super) async fn follow(&self, leases: &mut Leases) {
        let node = self.node.borrow().clone();
        if node.ranges.is_empty() || node.ranges == leases.ranges() {
            return;
        }
        for lease in leases.replace_ranges(&node.ranges) {
            self.readdress(leases, &lease).await;
        }
        self.publish(leases);
    }

    pub(super) async fn readdress(&self, leases: &mut Leases, lease: &Lease) {
        match leases.readdress(&lease.attachment, SinceBoot::now()) {
            Ok((old, new)) => self.move_pod(leases, &old, &new).await,
            Err(error) => self.tell_move(lease, Err(error.to_string())),
        }
    }

    /// Takes a container from the addresses of a held lease to those of its live one. Killed at
    /// any moment of it, the next start does it again.
    pub(super) async fn move_pod(&self, leases: &mut Leases, old: &Lease, new: &Lease) {
        let moved = self.change_addresses(old, new).await;
        if moved.is_ok() {
            self.release_held(leases, std::slice::from_ref(old));
        }
        self.tell_move(old, moved.map(|()| new));
    }

    async fn change_addresses(&self, old: &Lease, new: &Lease) -> Result<(), String> {
        let netns = netns::open(Path::new(&old.netns)).map_err(|e| match e.kind() {
            // In a cluster the agent is in a container, and its pods' namespaces have no names there.
            io::ErrorKind::NotFound => {
                "its network namespace is not to be seen from here".to_owned()
            }
            _ => format!("{}: {e}", old.netns),
        })?;
        let inode = rustix::fs::fstat(&netns).map_err(|e| e.to_string())?.st_ino;
        if old.netns_inode.is_some_and(|known| known != inode) {
            return Err(format!("{} is another namespace now", old.netns));
        }
        let pod = PodLink {
            host_link: old.host_ifname.clone(),
            pod_link: old.attachment.ifname.to_string(),
            addresses: old.addresses.clone(),
            mtu: old.mtu.unwrap_or_default(),
        };
        self.kernel
            .readdress(netns, pod, new.addresses.clone())
            .await
            .map_err(|e| e.to_string())
    }

    /// Says in the log and in `weft status` what became of a move.
    fn tell_move(&self, old: &Lease, moved: Result<&Lease, String>) {
        let who = old
            .name
            .clone()
            .unwrap_or_else(|| old.attachment.to_string());
        let text = match moved {
            Ok(new) => format!(
                "{who} has other addresses: {} instead of {}",
                list(&new.addresses),
                list(&old.addresses)
            ),
            Err(error) => format!(
                "{who} cannot be given other addresses for {}: {error}; make it anew",
                list(&old.addresses)
            ),
        };
        warn!("{text}");
        self.snapshot.send_modify(|snapshot| {
            let mut moves = snapshot.moves.clone();
            moves.push(text);
            let excess = moves.len().saturating_sub(MOVES_KEPT);
            moves.drain(..excess);
            *snapshot = Arc::new(Snapshot {
                moves,
                ..Snapshot::clone(snapshot)
            });
        });
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
