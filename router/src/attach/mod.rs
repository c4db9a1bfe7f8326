//! Attached containers: lease, interface and name of each, from ADD to DEL.
//!
//! One call at a time: an ADD and a DEL of one container cannot cross, and the kernel serialises
//! most of the work anyway. Every step is written down before it is done, so that an agent killed
//! between any two finds what to undo ([`Workloads::settle`]).

mod snapshot;

pub use snapshot::{Attached, Snapshot};

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};
use weft_cni::api::{
    self, AddReply, AddRequest, CheckRequest, DelRequest, Empty, GcRequest, StatusRequest,
};
use weft_cni::ipam::{Allocation, DiskStore, Lease, LeaseError, Leases, State};
use weft_cni::{Attachment, Error, code, note};

use crate::kernel::veth::{self, GATEWAY_V4, GATEWAY_V6, PodLink};
use crate::kernel::{Linux, netns};

/// The network of what `weft attach` attached: nobody but the container's end detaches it.
pub const HAND_NETWORK: &str = "weft-attach";
/// Notes settled in one go; more wait for the next.
const NOTES: usize = 10_000;
/// Held addresses are given back by one background task a DEL; this many at most.
const MOVES_KEPT: usize = 64;

/// This node's attached containers.
#[derive(Debug)]
pub struct Workloads {
    kernel: Linux,
    notes: PathBuf,
    dns_domain: String,
    leases: Mutex<Leases>,
    node: watch::Sender<Node>,
    snapshot: watch::Sender<Arc<Snapshot>>,
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
            node: watch::Sender::default(),
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
        let lease = self.allocate(&mut leases, &request, &netns).await?;
        let mtu = request.mtu.unwrap_or(node.pod_mtu);
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
            return Err(lease_error(&error));
        }
        self.publish(&leases);
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
    ) -> Result<Lease, Error> {
        let attachment = &request.attachment;
        let wanted = Allocation {
            attachment: attachment.clone(),
            network: request.network.clone(),
            name: request.name.clone(),
            namespace: request.namespace.clone(),
            netns: request.netns_path.clone(),
            netns_inode: rustix::fs::fstat(netns).ok().map(|stat| stat.st_ino),
            host_ifname: veth::host_link(
                attachment.container_id.as_str(),
                attachment.ifname.as_str(),
            ),
        };
        match leases.allocate(wanted.clone(), SystemTime::now()) {
            Err(LeaseError::Unfinished(_)) => {
                let earlier = leases.by_attachment(attachment).cloned();
                if let Some(earlier) = earlier {
                    self.forget(leases, &earlier).await;
                }
                leases
                    .allocate(wanted, SystemTime::now())
                    .map_err(|e| lease_error(&e))
            }
            other => other.map_err(|e| lease_error(&e)),
        }
    }

    /// DEL. Returns once the link is down; its addresses stay nobody's until it is gone.
    ///
    /// # Errors
    /// When the kernel or the disk refuses; never because there is nothing to do.
    pub async fn del(self: &Arc<Self>, request: &DelRequest) -> Result<Empty, Error> {
        let mut leases = self.leases.lock().await;
        self.detach(&mut leases, &request.attachment).await?;
        if let Err(error) = note::remove(&self.notes, &request.attachment) {
            warn!(%error, "a note cannot be removed");
        }
        Ok(Empty {})
    }

    async fn detach(
        self: &Arc<Self>,
        leases: &mut Leases,
        attachment: &Attachment,
    ) -> Result<(), Error> {
        let held = leases.hold(attachment).map_err(|e| lease_error(&e));
        self.publish(leases);
        let Some(lease) = held? else { return Ok(()) };
        let removal = self
            .kernel
            .detach(&lease.host_ifname)
            .await
            .map_err(|e| Error::new(code::IO, format!("detach {attachment}: {e}")))?;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            match removal.finished().await {
                Ok(()) => this.release_held(&lease).await,
                Err(error) => {
                    warn!(%error, link = lease.host_ifname, "a link cannot be removed; its addresses are held")
                }
            }
        });
        info!(%attachment, "detached");
        Ok(())
    }

    async fn release_held(&self, lease: &Lease) {
        let mut leases = self.leases.lock().await;
        if let Err(error) = leases.release_held(&lease.addresses) {
            warn!(%error, "held addresses cannot be given back");
        }
    }

    /// CHECK.
    ///
    /// # Errors
    /// [`code::CHECK_FAILED`] with everything that is not as ADD left it.
    pub async fn check(
        &self,
        request: &CheckRequest,
        netns: Option<OwnedFd>,
    ) -> Result<Empty, Error> {
        let netns = netns
            .ok_or_else(|| Error::new(code::PROTOCOL, "a CHECK comes with a network namespace"))?;
        let leases = self.leases.lock().await;
        let lease = leases.by_attachment(&request.attachment).cloned();
        drop(leases);
        let lease = lease.ok_or_else(|| {
            Error::new(
                code::UNKNOWN_CONTAINER,
                format!("{} is not attached", request.attachment),
            )
        })?;
        let mut wrong = Vec::new();
        for expected in &request.expected.addresses {
            if !lease.addresses.contains(&expected.addr()) {
                wrong.push(format!("{expected} is not this container's"));
            }
        }
        for address in &lease.addresses {
            if !request
                .expected
                .addresses
                .iter()
                .any(|e| e.addr() == *address)
            {
                wrong.push(format!("{address} is missing from the result"));
            }
        }
        let pod = PodLink {
            host_link: lease.host_ifname,
            pod_link: request.attachment.ifname.to_string(),
            addresses: lease.addresses,
            mtu: request.expected.mtu.unwrap_or(self.node.borrow().pod_mtu),
        };
        let found = self.kernel.check(netns, pod).await;
        wrong.extend(found.map_err(|e| Error::new(code::CHECK_FAILED, e.to_string()))?);
        if wrong.is_empty() {
            return Ok(Empty {});
        }
        Err(Error::new(
            code::CHECK_FAILED,
            format!("{}: {}", request.attachment, wrong.join("; ")),
        ))
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
                State::Held => {
                    let _ = self.kernel.detach(&lease.host_ifname).await;
                    let _ = leases.release_held(&lease.addresses);
                }
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
    async fn settle_note(&self, leases: &mut Leases, attachment: &Attachment) -> Result<(), Error> {
        let io = |e: std::io::Error| Error::new(code::IO, e.to_string());
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
    async fn forget(&self, leases: &mut Leases, lease: &Lease) {
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
        if let Err(error) = leases.release(&lease.attachment) {
            warn!(%error, "a lease cannot be given back");
        }
        self.publish(leases);
    }

    /// What the node is now. Containers whose addresses are no longer the node's get others.
    pub async fn node_is(&self, node: Node) {
        let ranges_changed = self.node.borrow().ranges != node.ranges;
        self.node.send_if_modified(|present| {
            let differs = *present != node;
            present.clone_from(&node);
            differs
        });
        if !ranges_changed || node.ranges.is_empty() {
            return;
        }
        let mut leases = self.leases.lock().await;
        for lease in leases.replace_ranges(&node.ranges) {
            self.readdress(&mut leases, &lease, node.pod_mtu).await;
        }
        self.publish(&leases);
    }

    async fn readdress(&self, leases: &mut Leases, lease: &Lease, mtu: u32) {
        let moved = match leases.readdress(&lease.attachment, SystemTime::now()) {
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

    /// Looks for containers whose link went with their namespace: one attached by hand is
    /// detached, the name of any other is withdrawn until its runtime says DEL.
    pub async fn sweep(&self, links: &[String]) {
        let mut leases = self.leases.lock().await;
        let ended: Vec<Lease> = leases
            .list()
            .filter(|lease| lease.state == State::Bound && !links.contains(&lease.host_ifname))
            .cloned()
            .collect();
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

    fn publish(&self, leases: &Leases) {
        self.snapshot.send_modify(|snapshot| {
            let new = Snapshot::of(leases, snapshot.gone.clone());
            *snapshot = Arc::new(Snapshot {
                moves: snapshot.moves.clone(),
                ..new
            });
        });
    }
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

fn lease_error(error: &LeaseError) -> Error {
    let code = match error {
        LeaseError::Attached { .. } => code::ALREADY_ATTACHED,
        LeaseError::Unfinished(_) | LeaseError::Pool(_) => code::TRY_AGAIN,
        LeaseError::Unknown(_) => code::UNKNOWN_CONTAINER,
        LeaseError::Store(_) => code::IO,
    };
    Error::new(code, error.to_string())
}

fn list(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
