//! Attached containers: lease, interface and name of each, from ADD to DEL.
//!
//! One call at a time: an ADD and a DEL of one container cannot cross, and the kernel serialises
//! most of the work anyway. Every step is written down before it is done, so that an agent killed
//! between any two finds what to undo ([`Workloads::settle`]), and what could not be done at once
//! is done later ([`Workloads::tend`]).

mod check;
mod name;
mod ports;
mod readdress;
mod removal;
mod settle;
mod snapshot;
mod sweep;

pub use snapshot::{Attached, Snapshot};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};
use weft_cni::api::{self, AddReply, AddRequest, DelRequest, Empty, GcRequest, StatusRequest};
use weft_cni::ipam::{Allocation, DiskStore, Lease, LeaseError, Leases};
use weft_cni::{Attachment, Error, SinceBoot, code, note};

use self::removal::Removing;
use crate::kernel::Linux;
use crate::kernel::veth::{self, GATEWAY_V4, GATEWAY_V6, PodLink};

/// The network of what `weft attach` attached: nobody but the container's end detaches it.
pub const HAND_NETWORK: &str = "weft-attach";

/// This node's attached containers.
#[derive(Debug)]
pub struct Workloads {
    kernel: Linux,
    notes: PathBuf,
    dns_domain: String,
    leases: Mutex<Leases>,
    node: watch::Sender<Node>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// The host's links as they were last seen.
    links: watch::Sender<Vec<String>>,
    removing: Removing,
}

/// What an attachment needs to know of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its own addresses: the name servers of its pods. Empty until there is a range.
    pub addresses: Vec<IpAddr>,
    pub ranges: Vec<IpNet>,
    /// Bytes.
    pub pod_mtu: u32,
    /// Why nothing can be attached now.
    pub unready: Option<String>,
    /// The names of the mesh's nodes, which no container may have.
    pub node_names: BTreeSet<String>,
}

impl Workloads {
    /// Takes up what the last run left in `directory`.
    ///
    /// # Errors
    /// When the leases cannot be read.
    pub fn restore(
        kernel: Linux,
        directory: &Path,
        notes: PathBuf,
        boot_id: &str,
        dns_domain: String,
        ranges: &[IpNet],
    ) -> std::io::Result<Self> {
        let store = DiskStore::open(directory, boot_id)?;
        let (leases, restored) = Leases::restore(Box::new(store), ranges)?;
        if restored.void > 0 {
            info!(leases = restored.void, "leases of an earlier boot are void");
        }
        for corrupt in &restored.corrupt {
            warn!(
                ?corrupt,
                "a lease cannot be read; its addresses are held back"
            );
        }
        let workloads = Self {
            kernel,
            notes,
            dns_domain,
            snapshot: watch::Sender::new(Arc::new(Snapshot::of(&leases, Vec::new()))),
            leases: Mutex::new(leases),
            node: watch::Sender::new(Node {
                unready: Some("this node's agent is starting".to_owned()),
                ..Node::default()
            }),
            links: watch::Sender::default(),
            removing: Removing::default(),
        };
        Ok(workloads)
    }

    /// What is attached, as a value that is replaced whole at each change.
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// ADD.
    ///
    /// # Errors
    /// With the specification's codes; nothing is left then.
    pub async fn add(
        &self,
        request: AddRequest,
        netns: Option<OwnedFd>,
    ) -> Result<AddReply, Error> {
        let netns = netns
            .ok_or_else(|| Error::new(code::PROTOCOL, "an ADD comes with a network namespace"))?;
        let mut leases = self.leases.lock().await;
        self.settle_note(&mut leases, &request.attachment).await?;
        let node = self.node.borrow().clone();
        if let Some(reason) = &node.unready {
            return Err(Error::new(code::TRY_AGAIN, reason.clone()));
        }
        self.follow(&mut leases).await;
        let name = allowed_name(&request, &node)?;
        let request = AddRequest { name, ..request };
        let mtu = request.mtu.unwrap_or(node.pod_mtu);
        let lease = self.allocate(&mut leases, &request, &netns, mtu).await?;
        self.publish_quietly(&leases);
        let pod = PodLink {
            host_link: lease.host_ifname.clone(),
            pod_link: request.attachment.ifname.to_string(),
            addresses: lease.addresses.clone(),
            mtu,
        };
        let made = match self.kernel.attach(netns, pod).await {
            Ok(made) => made,
            Err(error) => {
                self.forget(&mut leases, &lease).await;
                return Err(Error::new(
                    code::IO,
                    format!("attach {}: {error}", lease.attachment),
                ));
            }
        };
        if let Err(error) = leases.bind(&lease.attachment) {
            self.forget(&mut leases, &lease).await;
            return Err(error.into());
        }
        self.publish(&leases);
        if !lease.ports.is_empty() {
            // Who puts the ports in force is not kept from the leases meanwhile.
            drop(leases);
            if let Err(error) = self.ports_in_force(&lease).await {
                self.forget(&mut *self.leases.lock().await, &lease).await;
                return Err(error);
            }
        }
        info!(attachment = %lease.attachment, addresses = ?lease.addresses, name = lease.name.as_deref(), "attached");
        Ok(AddReply {
            host_ifname: lease.host_ifname,
            host_mac: made.host_mac.to_string(),
            mac: made.pod_mac.to_string(),
            mtu,
            addresses: lease.addresses.iter().copied().map(with_gateway).collect(),
            routes: lease.addresses.iter().copied().map(default_route).collect(),
            dns: api::Dns {
                nameservers: node.addresses,
                domain: Some(self.dns_domain.clone()),
                search: vec![self.dns_domain.clone()],
                options: Vec::new(),
            },
        })
    }

    async fn allocate(
        &self,
        leases: &mut Leases,
        request: &AddRequest,
        netns: &OwnedFd,
        mtu: u32,
    ) -> Result<Lease, Error> {
        let attachment = &request.attachment;
        let wanted = Allocation {
            attachment: attachment.clone(),
            network: request.network.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            netns: request.netns_path.clone(),
            netns_inode: rustix::fs::fstat(netns).ok().map(|stat| stat.st_ino),
            host_ifname: host_link(attachment),
            mtu,
            ports: request.ports.clone(),
        };
        match leases.allocate(wanted.clone(), SinceBoot::now()) {
            Err(LeaseError::Unfinished(_)) => {
                let earlier = leases.by_attachment(attachment).cloned();
                if let Some(earlier) = earlier {
                    self.forget(leases, &earlier).await;
                }
                Ok(leases.allocate(wanted, SinceBoot::now())?)
            }
            other => Ok(other?),
        }
    }

    /// DEL. Returns once the link is down; its addresses stay nobody's until it is gone. What the
    /// kernel refuses is tried again later: a runtime could do nothing about it.
    ///
    /// # Errors
    /// When both the disk and the kernel refuse; never because there is nothing to do.
    pub async fn del(self: &Arc<Self>, request: &DelRequest) -> Result<Empty, Error> {
        let mut leases = self.leases.lock().await;
        self.detach(&mut leases, &request.attachment).await?;
        if let Err(error) = note::remove(&self.notes, &request.attachment) {
            warn!(%error, "a note cannot be removed");
        }
        Ok(Empty {})
    }

    /// Goes by the attachment alone, so that one that failed halfway is taken up where it was.
    async fn detach(
        self: &Arc<Self>,
        leases: &mut Leases,
        attachment: &Attachment,
    ) -> Result<(), Error> {
        let written = leases.hold(attachment);
        if let Err(error) = &written {
            // A full disk, say. The next start finds the lease without its link, which is as good.
            warn!(%error, %attachment, "a DEL cannot be written down");
        }
        self.publish(leases);
        let held: Vec<Lease> = leases
            .list()
            .filter(|lease| lease.attachment == *attachment)
            .cloned()
            .collect();
        let is_known = !held.is_empty();
        match self.remove_link(&host_link(attachment), held).await {
            Ok(()) if is_known => info!(%attachment, "detached"),
            Ok(()) => {}
            Err(error) if written.is_ok() => {
                warn!(%error, %attachment, "a link cannot be removed; that is tried again");
            }
            Err(error) => {
                return Err(Error::new(
                    code::IO,
                    format!("detach {attachment}: {error}"),
                ));
            }
        }
        Ok(())
    }

    /// GC: everything of the network that is not in `valid` is detached.
    ///
    /// # Errors
    /// The last failure, after everything was tried.
    pub async fn gc(self: &Arc<Self>, request: &GcRequest) -> Result<Empty, Error> {
        let mut leases = self.leases.lock().await;
        let stale: Vec<Attachment> = leases
            .list()
            .filter(|lease| lease.is_live() && lease.network == request.network)
            .filter(|lease| !request.valid.contains(&lease.attachment))
            .map(|lease| lease.attachment.clone())
            .collect();
        let mut result = Ok(Empty {});
        for attachment in stale {
            if let Err(error) = self.detach(&mut leases, &attachment).await {
                result = Err(error);
            }
        }
        result
    }

    /// STATUS.
    ///
    /// # Errors
    /// [`code::NOT_AVAILABLE`] with the reason.
    pub fn status(&self, _: &StatusRequest) -> Result<Empty, Error> {
        match &self.node.borrow().unready {
            Some(reason) => Err(Error::new(code::NOT_AVAILABLE, reason.clone())),
            None => Ok(Empty {}),
        }
    }

    fn publish(&self, leases: &Leases) {
        self.snapshot
            .send_modify(|snapshot| *snapshot = snapshot.renewed(leases));
    }

    /// For who looks anyway: there is nothing to do about it yet.
    fn publish_quietly(&self, leases: &Leases) {
        self.snapshot.send_if_modified(|snapshot| {
            *snapshot = snapshot.renewed(leases);
            false
        });
    }
}

/// A person is told what is wrong with a name; a runtime's pod starts without one.
fn allowed_name(request: &AddRequest, node: &Node) -> Result<Option<String>, Error> {
    let Some(name) = &request.name else {
        return Ok(None);
    };
    match name::check(name, &node.node_names) {
        Ok(name) => Ok(Some(name)),
        Err(error) if request.network == HAND_NETWORK => {
            Err(Error::new(code::INVALID_CONFIG, error.to_string()))
        }
        Err(error) => {
            warn!(%error, attachment = %request.attachment, "a pod is attached without a name");
            Ok(None)
        }
    }
}

fn host_link(attachment: &Attachment) -> String {
    veth::host_link(attachment.container_id.as_str(), attachment.ifname.as_str())
}

fn with_gateway(address: IpAddr) -> api::Address {
    api::Address {
        address: address.into(),
        gateway: gateway(address),
    }
}

fn default_route(address: IpAddr) -> api::Route {
    let dst = match address {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    api::Route {
        dst,
        gw: Some(gateway(address)),
    }
}

fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}
