//! Other ranges for the node: its containers take other addresses where they stand.

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
            self.readdress(leases, &lease, node.pod_mtu).await;
        }
        self.publish(leases);
    }

    async fn readdress(&self, leases: &mut Leases, lease: &Lease, mtu: u32) {
        let moved = match leases.readdress(&lease.attachment, SinceBoot::now()) {
            Ok((old, new)) => self.move_pod(&old, &new, mtu).await.map(|()| new),
            Err(error) => Err(error.to_string()),
        };
        let who = lease
            .name
            .clone()
            .unwrap_or_else(|| lease.attachment.to_string());
        let text = match moved {
            Ok(new) => format!(
                "{who} has other addresses: {} instead of {}",
                list(&new.addresses),
                list(&lease.addresses)
            ),
            Err(error) => format!(
                "{who} cannot be given other addresses for {}: {error}; restart it",
                list(&lease.addresses)
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

    async fn move_pod(&self, old: &Lease, new: &Lease, mtu: u32) -> Result<(), String> {
        let netns =
            netns::open(Path::new(&old.netns)).map_err(|e| format!("{}: {e}", old.netns))?;
        let inode = rustix::fs::fstat(&netns).map_err(|e| e.to_string())?.st_ino;
        if old.netns_inode.is_some_and(|known| known != inode) {
            return Err(format!("{} is another namespace now", old.netns));
        }
        let pod = PodLink {
            host_link: old.host_ifname.clone(),
            pod_link: old.attachment.ifname.to_string(),
            addresses: old.addresses.clone(),
            mtu,
        };
        self.kernel
            .readdress(netns, pod, new.addresses.clone())
            .await
            .map_err(|e| e.to_string())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
