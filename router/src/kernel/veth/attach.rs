//! Making a pod's interface, in as few system calls as can be.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::requests::{Known, host_side, new_veth, no_link_local, pod_side};
use super::{Attached, PodLink, VethError, is_our_veth, macs};
use crate::kernel::linux::{Worker, flat};
use crate::kernel::netlink::{self, LinkSeen, Request, Rtnetlink};
use crate::kernel::{netns, sysctl};

/// How long an attach waits for a pod's IPv6 addresses to be answered for; mostly it is 0.1 ms.
const SETTLE: Duration = Duration::from_millis(50);
/// In every namespace.
const LOOPBACK: u32 = 1;

impl Worker {
    pub(super) fn attach(
        &mut self,
        netns: BorrowedFd<'_>,
        pod: &PodLink,
    ) -> Result<Attached, VethError> {
        not_the_hosts(netns)?;
        let pod = &self.usable(pod);
        let macs = macs(&pod.host_link);
        // The kernel takes as long over the pair as it takes to enter the pod.
        let (inside, seen) = thread::scope(|scope| {
            let inside = netns::start(scope, netns, Rtnetlink::open);
            let seen = self.create(netns, pod, macs);
            (inside.and_then(netns::finish), seen)
        });
        let inside = inside.map_err(VethError::Netns);
        let seen = match seen {
            Ok(seen) => seen,
            // Of the two it is the reason.
            Err(error) => return Err(inside.err().unwrap_or(error)),
        };
        let outcome = inside.and_then(|mut inside| {
            self.set_up_host(&seen, pod, macs)?;
            set_up_pod(&mut inside, netns, &seen, pod, macs)?;
            self.let_through(pod)?;
            settle(&mut inside, pod)
        });
        if let Err(error) = outcome {
            // With either end go both, and all their routes and neighbours.
            let _ = self.route.transact(vec![netlink::remove_link(seen.index)]);
            return Err(error);
        }
        Ok(macs)
    }

    /// Without its IPv6 addresses where the host has no IPv6: no route could lead to them.
    fn usable(&self, pod: &PodLink) -> PodLink {
        let mut pod = pod.clone();
        if sysctl::read(sysctl::IPV6_DISABLED).map_or(true, |value| value != "0") {
            pod.addresses.retain(IpAddr::is_ipv4);
        }
        pod
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
            seen = seen.take().or_else(|| netlink::link(message));
        })?;
        outcomes.into_iter().next().unwrap_or(Ok(()))?;
        seen.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    pub(super) fn find(&mut self, name: &str) -> io::Result<Option<LinkSeen>> {
        let mut seen = None;
        let outcomes = self
            .route
            .exchange(vec![netlink::get_link(name)], |message| {
                seen = netlink::link(message);
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
        let mut requests = vec![no_link_local(seen.index), netlink::set_up(seen.index)];
        requests.extend(host_side(seen.index, &pod.host_link, &pod.addresses, macs));
        let outcomes = self.route.transact(requests);
        let needed = outcomes.map(|outcomes| outcomes.into_iter().skip(1).collect());
        flat(needed).map_err(VethError::during(format!("route to {}", pod.host_link)))
    }

    /// The host's end came up before it had a carrier, so the kernel drops what it is given until
    /// the work that notices the carrier has run; asking for the link runs it (Linux 6.9).
    fn let_through(&mut self, pod: &PodLink) -> Result<(), VethError> {
        self.find(&pod.host_link)
            .map(drop)
            .map_err(VethError::during(format!("look at {}", pod.host_link)))
    }
}

/// In the host's own namespace the pod's default route would become the host's.
fn not_the_hosts(netns: BorrowedFd<'_>) -> Result<(), VethError> {
    let identity = |fd: BorrowedFd<'_>| -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(fd)?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let own = netns::current().map_err(VethError::Netns)?;
    let same = identity(netns)
        .and_then(|theirs| Ok(theirs == identity(own.as_fd())?))
        .map_err(VethError::Netns)?;
    if same {
        Err(VethError::HostNetns)
    } else {
        Ok(())
    }
}

pub(super) fn open_inside(netns: BorrowedFd<'_>) -> Result<Rtnetlink, VethError> {
    netns::run(netns, Rtnetlink::open).map_err(VethError::Netns)
}

fn set_up_pod(
    inside: &mut Rtnetlink,
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
pub(super) fn add_inside(
    inside: &mut Rtnetlink,
    netns: BorrowedFd<'_>,
    pod: &PodLink,
    requests: Vec<Request>,
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
    outcome.map_err(VethError::during(act()))
}

/// The kernel answers to a new IPv6 address only when work that it queues has run. Waits for that,
/// or the pod's first packets would have no answer.
pub(super) fn settle(inside: &mut Rtnetlink, pod: &PodLink) -> Result<(), VethError> {
    let deadline = Instant::now() + SETTLE;
    for address in pod.addresses.iter().filter(|address| address.is_ipv6()) {
        loop {
            let mut local = false;
            let request = vec![netlink::get_route(*address)];
            inside
                .exchange(request, |message| local |= netlink::is_local(&message))
                .map_err(VethError::during(format!("look for {address} in the pod")))?;
            if local || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(())
}
