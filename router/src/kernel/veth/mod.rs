//! A pod's interface: made, given other addresses, checked, taken down.
//!
//! A veth whose far end is made inside the pod's namespace by the very message that makes it, so
//! no half of it is ever somewhere else. The pod has its addresses as /32 and /128 and one way out:
//! by gateways that exist only as permanent neighbour entries for the host end's Ethernet address,
//! so that nothing is ever asked by ARP or neighbour discovery, in either direction. Neither
//! proxying nor a change of `rp_filter` is needed: the way back to a pod's address is the link it
//! came by, which strict filtering (1) accepts.

mod attach;
mod change;
mod reaper;
mod requests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use ipnet::IpNet;
use netlink_packet_route::link::InfoKind;

use super::KernelError;
use super::linux::Linux;
use super::netlink::{self, LinkSeen};
use crate::host::{LINK_PREFIX, MESH_LINK, Mac};

pub(crate) use reaper::Reaper;
pub use reaper::Removal;

/// The pod's gateways; addresses of nobody, the same in every pod.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// One interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The host's end, from [`host_link`].
    pub host_link: String,
    /// The pod's end: `eth0`.
    pub pod_link: String,
    /// At most one or two, of either family.
    pub addresses: Vec<IpAddr>,
    pub mtu: u32,
}

/// A pod's interface as it now is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub host_mac: Mac,
    pub pod_mac: Mac,
}

/// What a pod has, by whoever set it up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Of the interface that was asked for.
    pub mac: Option<Mac>,
    /// Of every interface: the destination and, where there is just one, the gateway.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

/// A veth of ours on the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostVeth {
    pub name: String,
    pub index: u32,
    pub up: bool,
}

/// Why a pod's interface could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    #[error("enter the pod's network namespace: {0}")]
    Netns(#[source] io::Error),
    #[error("this is the host's own network namespace, not a pod's")]
    HostNetns,
    #[error("the pod has an interface {0} already")]
    Exists(String),
    #[error("{0} is no veth of ours")]
    NotOurs(String),
    #[error("{act}: {source}")]
    Io {
        act: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl VethError {
    fn during(act: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            act: act.into(),
            source,
        }
    }
}

/// The name of the host's end for a container's interface: the same for the same two, 15 characters.
pub fn host_link(container_id: &str, ifname: &str) -> String {
    let bytes = container_id.bytes().chain([0]).chain(ifname.bytes());
    let hash = fnv(bytes) >> 20;
    format!("{LINK_PREFIX}{hash:011x}")
}

/// The Ethernet addresses of both ends, made from the host's end's name.
pub fn macs(host_link: &str) -> Attached {
    let [.., a, b, c, d, e] = fnv(host_link.bytes()).to_be_bytes();
    Attached {
        host_mac: Mac([0x02, a, b, c, d, e]),
        pod_mac: Mac([0x06, a, b, c, d, e]),
    }
}

/// FNV-1a, 64 bits.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Linux {
    /// Makes a pod's interface with addresses and routes at both ends. The pod's end comes up last;
    /// a policy for it has to be in place before this is called. On failure nothing is left. Where
    /// the host has IPv6 switched off, the pod's IPv6 addresses are left out.
    ///
    /// # Errors
    /// [`VethError`]
    pub async fn attach(&self, netns: OwnedFd, pod: PodLink) -> Result<Attached, VethError> {
        self.call(move |worker| worker.attach(netns.as_fd(), &pod))
            .await?
    }

    /// Takes the link down, so that nothing passes it any more, and has it removed soon. A link
    /// that is not there is removed.
    ///
    /// # Errors
    /// [`VethError`]; never because the link is gone.
    pub async fn detach(&self, host_link: &str) -> Result<Removal, VethError> {
        let name = host_link.to_owned();
        self.call(move |worker| worker.detach(&name)).await?
    }

    /// Gives a pod other addresses for those it has; its interface stays up, its MTU as it is. New
    /// before old; done in part before, it is done to the end.
    ///
    /// # Errors
    /// [`VethError`]
    pub async fn readdress(
        &self,
        netns: OwnedFd,
        pod: PodLink,
        addresses: Vec<IpAddr>,
    ) -> Result<(), VethError> {
        self.call(move |worker| worker.readdress(netns.as_fd(), &pod, &addresses))
            .await?
    }

    /// What is wrong with a pod's interface, in words; empty when all is as [`attach`](Self::attach)
    /// made it.
    ///
    /// # Errors
    /// When the namespace or the kernel cannot be asked.
    pub async fn check(&self, netns: OwnedFd, pod: PodLink) -> Result<Vec<String>, VethError> {
        self.call(move |worker| worker.check(netns.as_fd(), &pod))
            .await?
    }

    /// What is in the pod, of us or of others.
    ///
    /// # Errors
    /// When the namespace or the kernel cannot be asked.
    pub async fn inside(&self, netns: OwnedFd, pod_link: String) -> Result<Inside, VethError> {
        self.call(move |_| change::inside(netns.as_fd(), &pod_link))
            .await?
    }

    /// Every veth on the host whose name is ours, sorted.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn list_ours(&self) -> Result<Vec<HostVeth>, KernelError> {
        let links = self
            .call(|worker| netlink::links(&mut worker.route))
            .await?
            .map_err(KernelError::during("list links"))?;
        let mut ours: Vec<HostVeth> = links
            .into_iter()
            .filter(is_our_veth)
            .map(|seen| HostVeth {
                name: seen.name,
                index: seen.index,
                up: seen.link.up,
            })
            .collect();
        ours.sort();
        Ok(ours)
    }
}

fn is_our_veth(seen: &LinkSeen) -> bool {
    seen.name.starts_with(LINK_PREFIX)
        && seen.name != MESH_LINK
        && seen.kind == Some(InfoKind::Veth)
}

/// Whether `cleanup` may take a link away: named as ours, and of a kind that we make.
pub(crate) fn is_ours(seen: &LinkSeen) -> bool {
    seen.name.starts_with(LINK_PREFIX)
        && matches!(
            seen.kind,
            Some(InfoKind::Veth | InfoKind::Tun | InfoKind::Wireguard)
        )
}
