//! A pod's interface: made, given other addresses, checked, taken down.
//!
//! A veth whose far end is made inside the pod's namespace by the very message that makes it, so
//! no half of it is ever somewhere else. The pod has its addresses as /32 and /128 and one way out:
//! by gateways that exist only as permanent neighbour entries for the host end's Ethernet address,
//! so that nothing is ever asked by ARP or neighbour discovery, in either direction. Neither
//! proxying nor a change of `rp_filter` is needed: the way back to a pod's address is the link it
//! came by, which strict filtering (1) accepts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::oneshot;

use super::linux::{Linux, Worker, flat};
use super::netlink::{self, LinkSeen, Put};
use super::socket::Netlink;
use super::wire::Message;
use super::{KernelError, netns, sysctl};
use crate::host::{LINK_PREFIX, Mac, RouteKey, Target};

/// The pod's gateways; addresses of nobody, the same in every pod.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Links that may wait for their removal.
const REMOVALS: usize = 4096;
/// How long an attach waits for a pod's IPv6 addresses to be answered for; mostly it is 0.1 ms.
const SETTLE: Duration = Duration::from_millis(50);
/// `VETH_INFO_PEER`, `IFLA_INET6_ADDR_GEN_MODE` and its `none`.
const VETH_PEER: u16 = 1;
const ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// In every namespace.
const LOOPBACK: u32 = 1;

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

/// A link that is down and waits for its removal.
#[derive(Debug)]
pub struct Removal(Option<oneshot::Receiver<io::Result<()>>>);

impl Removal {
    /// Returns when the link is gone. Dropping this instead removes it all the same.
    ///
    /// # Errors
    /// When the kernel refused.
    pub async fn finished(self) -> io::Result<()> {
        match self.0 {
            None => Ok(()),
            Some(outcome) => outcome
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the thread that removes links ended"))),
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
    /// a policy for it has to be in place before this is called. On failure nothing is left.
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

    /// Gives a pod other addresses for those it has; its interface stays up. New before old.
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
    seen.name.starts_with(LINK_PREFIX) && seen.kind.as_deref() == Some("veth")
}

/// Whether `cleanup` may take a link away: named as ours, and of a kind that we make.
pub(crate) fn is_ours(seen: &LinkSeen) -> bool {
    seen.name.starts_with(LINK_PREFIX)
        && matches!(seen.kind.as_deref(), Some("veth" | "tun" | "wireguard"))
}

impl Worker {
    fn attach(&mut self, netns: BorrowedFd<'_>, pod: &PodLink) -> Result<Attached, VethError> {
        let mut inside = open_inside(netns)?;
        let macs = macs(&pod.host_link);
        let seen = self.create(netns, pod, macs)?;
        let outcome = self
            .set_up_host(&seen, pod, macs)
            .and_then(|()| set_up_pod(&mut inside, netns, &seen, pod, macs))
            .and_then(|()| self.let_through(pod));
        if let Err(error) = outcome {
            // With either end go both, and all their routes and neighbours.
            let _ = self.route.transact(vec![netlink::remove_link(seen.index)]);
            return Err(error);
        }
        Ok(macs)
    }

    fn create(
        &mut self,
        netns: BorrowedFd<'_>,
        pod: &PodLink,
        macs: Attached,
    ) -> Result<LinkSeen, VethError> {
        let act = || format!("create veth {}", pod.host_link);
        match self.create_once(netns, pod, macs) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                // What an attach that was cut off left behind; or the pod's end is somebody's.
                let Some(stale) = self
                    .find(&pod.host_link)
                    .map_err(VethError::during(act()))?
                else {
                    return Err(VethError::Exists(pod.pod_link.clone()));
                };
                if !is_our_veth(&stale) {
                    return Err(VethError::NotOurs(pod.host_link.clone()));
                }
                flat(self.route.transact(vec![netlink::remove_link(stale.index)]))
                    .map_err(VethError::during(format!("remove veth {}", pod.host_link)))?;
                match self.create_once(netns, pod, macs) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                        Err(VethError::Exists(pod.pod_link.clone()))
                    }
                    outcome => outcome.map_err(VethError::during(act())),
                }
            }
            outcome => outcome.map_err(VethError::during(act())),
        }
    }

    /// Makes both ends and asks for the host's, in one system call.
    fn create_once(
        &mut self,
        netns: BorrowedFd<'_>,
        pod: &PodLink,
        macs: Attached,
    ) -> io::Result<LinkSeen> {
        let mut seen = None;
        let requests = vec![
            new_veth(netns, pod, macs),
            netlink::get_link(&pod.host_link),
        ];
        let outcomes = self.route.exchange(requests, |message| {
            seen = seen.take().or_else(|| netlink::link(&message));
        })?;
        outcomes.into_iter().next().unwrap_or(Ok(()))?;
        seen.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn find(&mut self, name: &str) -> io::Result<Option<LinkSeen>> {
        let mut seen = None;
        let outcomes = self
            .route
            .exchange(vec![netlink::get_link(name)], |message| {
                seen = netlink::link(&message);
            })?;
        match outcomes.into_iter().collect() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(seen),
        }
    }

    fn set_up_host(
        &mut self,
        seen: &LinkSeen,
        pod: &PodLink,
        macs: Attached,
    ) -> Result<(), VethError> {
        // A route needs its link up; the pod's end is down still, so nothing passes yet. The host's
        // end has no address, not even a link-local one: refused where there is no IPv6, at no cost.
        let _ = self.route.transact(vec![no_link_local(seen.index)]);
        let mut requests = vec![netlink::set_up(seen.index)];
        requests.extend(host_side(seen.index, &pod.host_link, &pod.addresses, macs));
        flat(self.route.transact(requests))
            .map_err(VethError::during(format!("route to {}", pod.host_link)))
    }

    /// The host's end came up before it had a carrier, so the kernel drops what it is given until
    /// the work that notices the carrier has run; asking for the link runs it (Linux 6.9).
    fn let_through(&mut self, pod: &PodLink) -> Result<(), VethError> {
        self.find(&pod.host_link)
            .map(drop)
            .map_err(VethError::during(format!("look at {}", pod.host_link)))
    }

    fn detach(&mut self, name: &str) -> Result<Removal, VethError> {
        let act = || format!("take {name} down");
        let Some(seen) = self.find(name).map_err(VethError::during(act()))? else {
            return Ok(Removal(None));
        };
        if !is_our_veth(&seen) {
            return Err(VethError::NotOurs(name.to_owned()));
        }
        match flat(self.route.transact(vec![netlink::set_down(seen.index)])) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Removal(None)),
            outcome => outcome.map_err(VethError::during(act()))?,
        }
        self.reaper
            .remove(seen.index)
            .map_err(VethError::during(format!("queue the removal of {name}")))
    }

    fn readdress(
        &mut self,
        netns: BorrowedFd<'_>,
        pod: &PodLink,
        addresses: &[IpAddr],
    ) -> Result<(), VethError> {
        let act = || format!("give {} other addresses", pod.host_link);
        let mut inside = open_inside(netns)?;
        let seen = self
            .find(&pod.host_link)
            .map_err(VethError::during(act()))?
            .filter(is_our_veth)
            .ok_or_else(|| VethError::NotOurs(pod.host_link.clone()))?;
        let added: Vec<IpAddr> = without(addresses, &pod.addresses);
        let removed: Vec<IpAddr> = without(&pod.addresses, addresses);
        let macs = macs(&pod.host_link);
        let pod_index = seen.peer.unwrap_or(0);

        let host = host_side(seen.index, &pod.host_link, &added, macs);
        flat(self.route.transact(host)).map_err(VethError::during(act()))?;
        let requests = pod_side(pod_index, &added, macs, Known::Yes);
        let after = PodLink {
            addresses: added,
            ..pod.clone()
        };
        add_inside(&mut inside, netns, &after, requests)?;
        let leave = |address: &IpAddr| netlink::remove_address(pod_index, IpNet::from(*address));
        let gone = inside.transact(removed.iter().map(leave).collect());
        all_but_gone(gone).map_err(VethError::during(act()))?;
        let mut requests = Vec::new();
        for address in removed {
            let key = RouteKey::over(IpNet::from(address));
            // Over this link only: the address may be another pod's by now.
            let request = netlink::remove_route(key, &over(&pod.host_link));
            requests.push(request.u32(libc::RTA_OIF, seen.index));
            requests.push(netlink::remove_neighbour(seen.index, address));
        }
        all_but_gone(self.route.transact(requests)).map_err(VethError::during(act()))
    }

    fn check(&mut self, netns: BorrowedFd<'_>, pod: &PodLink) -> Result<Vec<String>, VethError> {
        let act = || format!("check {}", pod.host_link);
        let mut inside = open_inside(netns)?;
        let mut wrong = Vec::new();
        let here = netlink::observe(&mut self.route).map_err(VethError::during(act()))?;
        match here.links.get(&pod.host_link) {
            None => wrong.push(format!("the host has no link {}", pod.host_link)),
            Some(link) if !link.up => wrong.push(format!("{} is down", pod.host_link)),
            Some(_) => {}
        }
        let links = netlink::links(&mut inside).map_err(VethError::during(act()))?;
        let own = netlink::addresses(&mut inside).map_err(VethError::during(act()))?;
        let Some(link) = links.iter().find(|link| link.name == pod.pod_link) else {
            wrong.push(format!("the pod has no link {}", pod.pod_link));
            return Ok(wrong);
        };
        if !link.link.up {
            wrong.push(format!("{} of the pod is down", pod.pod_link));
        }
        if link.link.mtu != pod.mtu {
            let (is, wanted) = (link.link.mtu, pod.mtu);
            wrong.push(format!("the MTU of {} is {is}, not {wanted}", pod.pod_link));
        }
        for address in &pod.addresses {
            if !own.contains(&(link.index, IpNet::from(*address))) {
                wrong.push(format!("{} has not the address {address}", pod.pod_link));
            }
            let target = here.routes.get(&RouteKey::over(IpNet::from(*address)));
            if target != Some(&over(&pod.host_link)) {
                wrong.push(format!("the host has no route to {address}"));
            }
        }
        let gateways = netlink::default_gateways(&mut inside).map_err(VethError::during(act()))?;
        for gateway in gateways_for(&pod.addresses) {
            if !gateways.contains(&(link.index, gateway)) {
                wrong.push(format!("the pod has no default route by {gateway}"));
            }
        }
        Ok(wrong)
    }
}

fn open_inside(netns: BorrowedFd<'_>) -> Result<Netlink, VethError> {
    netns::run(netns, || Netlink::open(libc::NETLINK_ROUTE)).map_err(VethError::Netns)
}

fn new_veth(netns: BorrowedFd<'_>, pod: &PodLink, macs: Attached) -> Message {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    // One queue each way: a veth has no lock to share out, and per-processor queues cost time.
    let end = |message: Message, name: &str, mac: Mac| {
        message
            .text(libc::IFLA_IFNAME, name)
            .attr(libc::IFLA_ADDRESS, &mac.0)
            .u32(libc::IFLA_MTU, pod.mtu)
            .u32(libc::IFLA_NUM_TX_QUEUES, 1)
            .u32(libc::IFLA_NUM_RX_QUEUES, 1)
    };
    let header = netlink::link_header(0, 0, 0);
    let message = Message::new(libc::RTM_NEWLINK, flags, &header);
    end(message, &pod.host_link, macs.host_mac).nest(libc::IFLA_LINKINFO, |info| {
        let info = info.text(libc::IFLA_INFO_KIND, "veth");
        info.nest(libc::IFLA_INFO_DATA, |data| {
            data.nest(VETH_PEER, |peer| {
                let fd = netns.as_raw_fd().cast_unsigned();
                end(peer.raw(&header), &pod.pod_link, macs.pod_mac).u32(libc::IFLA_NET_NS_FD, fd)
            })
        })
    })
}

fn no_link_local(index: u32) -> Message {
    let header = netlink::link_header(index, 0, 0);
    Message::new(libc::RTM_SETLINK, 0, &header).nest(libc::IFLA_AF_SPEC, |spec| {
        spec.nest(libc::AF_INET6 as u16, |v6| {
            v6.attr(ADDR_GEN_MODE, &[ADDR_GEN_NONE])
        })
    })
}

fn over(host_link: &str) -> Target {
    Target::Link {
        link: host_link.to_owned(),
        preferred_source: None,
        mtu: None,
    }
}

/// The host's way to a pod's addresses.
fn host_side(index: u32, name: &str, addresses: &[IpAddr], macs: Attached) -> Vec<Message> {
    let target = over(name);
    addresses
        .iter()
        .flat_map(|address| {
            let key = RouteKey::over(IpNet::from(*address));
            [
                netlink::set_neighbour(index, *address, macs.pod_mac),
                // In place of the route to a link that held the address before and is being removed.
                netlink::put_route(key, &target, index, Put::Replace),
            ]
        })
        .collect()
}

/// Whether the pod's gateways are set already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Yes,
    No,
}

/// Addresses in the pod, and the way out for each family among them.
fn pod_side(index: u32, addresses: &[IpAddr], macs: Attached, gateways: Known) -> Vec<Message> {
    let mut requests: Vec<Message> = addresses
        .iter()
        .map(|address| netlink::add_address(index, IpNet::from(*address)))
        .collect();
    if gateways == Known::Yes {
        return requests;
    }
    for gateway in gateways_for(addresses) {
        requests.push(netlink::set_neighbour(index, gateway, macs.host_mac));
        if gateway.is_ipv4() {
            requests.push(netlink::gateway_route(index, IpNet::from(gateway), None));
        }
        requests.push(netlink::gateway_route(
            index,
            netlink::default_of(gateway),
            Some(gateway),
        ));
    }
    requests
}

fn gateways_for(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    if addresses.iter().any(IpAddr::is_ipv4) {
        gateways.push(IpAddr::V4(GATEWAY_V4));
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        gateways.push(IpAddr::V6(GATEWAY_V6));
    }
    gateways
}

fn set_up_pod(
    inside: &mut Netlink,
    netns: BorrowedFd<'_>,
    seen: &LinkSeen,
    pod: &PodLink,
    macs: Attached,
) -> Result<(), VethError> {
    let index = seen.peer.unwrap_or(0);
    let mut requests = vec![netlink::set_up(LOOPBACK), netlink::set_up(index)];
    requests.extend(pod_side(index, &pod.addresses, macs, Known::No));
    add_inside(inside, netns, pod, requests)
}

/// Carries requests out in the pod; where IPv6 is switched off there, switches it on for the link.
fn add_inside(
    inside: &mut Netlink,
    netns: BorrowedFd<'_>,
    pod: &PodLink,
    requests: Vec<Message>,
) -> Result<(), VethError> {
    let act = || format!("set up {} in the pod", pod.pod_link);
    let outcome = flat(inside.transact(requests.clone()));
    let outcome = match outcome {
        Err(error)
            if error.raw_os_error() == Some(libc::EACCES)
                && pod.addresses.iter().any(IpAddr::is_ipv6) =>
        {
            let key = format!("net/ipv6/conf/{}/disable_ipv6", pod.pod_link);
            netns::run(netns, || sysctl::write(&key, "0")).map_err(VethError::during(act()))?;
            flat(inside.transact(requests))
        }
        outcome => outcome,
    };
    outcome
        .and_then(|()| settle(inside, &pod.addresses))
        .map_err(VethError::during(act()))
}

/// The kernel answers to a new IPv6 address only when work that it queues has run. Waits for that,
/// or the pod's first packets would have no answer.
fn settle(inside: &mut Netlink, addresses: &[IpAddr]) -> io::Result<()> {
    let deadline = Instant::now() + SETTLE;
    for address in addresses.iter().filter(|address| address.is_ipv6()) {
        loop {
            let mut local = false;
            let request = vec![netlink::get_route(*address)];
            inside.exchange(request, |message| local |= netlink::is_local(&message))?;
            if local || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(())
}

fn without(these: &[IpAddr], those: &[IpAddr]) -> Vec<IpAddr> {
    let new = these.iter().filter(|address| !those.contains(address));
    new.copied().collect()
}

/// The first failure that is not "it is gone already".
fn all_but_gone(outcomes: io::Result<Vec<io::Result<()>>>) -> io::Result<()> {
    for outcome in outcomes? {
        match outcome {
            Err(error)
                if !matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes links on a thread of its own: the kernel takes ten milliseconds and more over each.
#[derive(Debug)]
pub(crate) struct Reaper {
    queue: mpsc::SyncSender<(u32, oneshot::Sender<io::Result<()>>)>,
    port: u32,
}

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
        let port = netlink.port();
        let (queue, links) = mpsc::sync_channel::<(u32, oneshot::Sender<_>)>(REMOVALS);
        thread::Builder::new()
            .name("weft-reaper".into())
            .spawn(move || {
                while let Ok((index, done)) = links.recv() {
                    let outcome = match flat(netlink.transact(vec![netlink::remove_link(index)])) {
                        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
                        outcome => outcome,
                    };
                    // Whoever asked need not wait.
                    let _ = done.send(outcome);
                }
            })?;
        Ok(Self { queue, port })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    fn remove(&self, index: u32) -> io::Result<Removal> {
        let (done, outcome) = oneshot::channel();
        self.queue
            .try_send((index, done))
            .map_err(|_| io::Error::other("too many removals wait"))?;
        Ok(Removal(Some(outcome)))
    }
}
