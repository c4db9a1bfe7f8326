//! What is attached, for those who only read.

use std::net::IpAddr;
use std::sync::Arc;

use weft_cni::PortMapping;
use weft_cni::ipam::{Leases, State};
use weft_mesh::ServedName;

use crate::control;

/// Everything attached at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By address.
    pub attached: Vec<Attached>,
    /// Host ends that an ADD is making at this moment: its alone to touch.
    pub attaching: Vec<String>,
    /// Host ends that are no longer there though their container was not detached.
    pub gone: Vec<String>,
    /// Containers that had to take other addresses, in words, oldest first.
    pub moves: Vec<String>,
    /// How many addresses the IPv4 range has for containers.
    pub capacity: u64,
}

/// A container's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub container_id: String,
    pub ifname: String,
    pub host_link: String,
    pub addresses: Vec<IpAddr>,
    pub name: Option<String>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortMapping>,
}

impl Snapshot {
    pub(super) fn of(leases: &Leases, gone: Vec<String>) -> Self {
        let bound = leases.list().filter(|lease| lease.state == State::Bound);
        let attached = bound.map(|lease| Attached {
            container_id: lease.attachment.container_id.to_string(),
            ifname: lease.attachment.ifname.to_string(),
            host_link: lease.host_ifname.clone(),
            addresses: lease.addresses.clone(),
            name: lease.name.clone(),
            ports: lease.ports.clone(),
        });
        let pending = leases.list().filter(|lease| lease.state == State::Pending);
        let v4 = leases
            .usage()
            .into_iter()
            .find(|(range, ..)| range.addr().is_ipv4());
        Self {
            attached: attached.collect(),
            attaching: pending.map(|lease| lease.host_ifname.clone()).collect(),
            gone,
            moves: Vec::new(),
            capacity: v4.map_or(0, |(_, _, size)| u64::try_from(size).unwrap_or(u64::MAX)),
        }
    }

    pub(super) fn renewed(&self, leases: &Leases) -> Arc<Self> {
        Arc::new(Self {
            moves: self.moves.clone(),
            ..Self::of(leases, self.gone.clone())
        })
    }

    /// Those whose link is there.
    pub fn present(&self) -> impl Iterator<Item = &Attached> {
        self.attached
            .iter()
            .filter(|attached| !self.gone.contains(&attached.host_link))
    }

    /// The names of those whose link is there, sorted, one entry a name.
    pub fn names(&self) -> Vec<ServedName> {
        let mut names: Vec<ServedName> = Vec::new();
        for attached in self.present() {
            let Some(name) = attached.name.as_deref().map(str::to_ascii_lowercase) else {
                continue;
            };
            match names.iter_mut().find(|served| served.name == name) {
                Some(served) => served.addresses.extend(&attached.addresses),
                None => names.push(ServedName {
                    name,
                    addresses: attached.addresses.clone(),
                }),
            }
        }
        for served in &mut names {
            served.addresses.sort_unstable();
        }
        names.sort();
        names
    }

    /// For `weft status ipam`.
    pub fn leases(&self) -> Vec<control::Lease> {
        let lease = |attached: &Attached| control::Lease {
            container_id: attached.container_id.clone(),
            ifname: attached.ifname.clone(),
            host_ifname: attached.host_link.clone(),
            name: attached.name.clone(),
            addresses: attached.addresses.clone(),
        };
        self.attached.iter().map(lease).collect()
    }
}
