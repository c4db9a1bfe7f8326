//! Taking a pod's interface down, giving it other addresses, checking it.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;

use super::attach::{add_inside, open_inside, settle};
use super::requests::{Known, gateways_for, host_side, over, pod_side};
use super::{Inside, PodLink, Removal, VethError, is_our_veth, macs};
use crate::host::{RouteKey, Target};
use crate::kernel::linux::{Worker, flat};
use crate::kernel::netlink;

impl Worker {
    pub(super) fn detach(&mut self, name: &str) -> Result<Removal, VethError> {
        let act = || format!("take {name} down");
        let Some(seen) = self.find(name).map_err(VethError::during(act()))? else {
            return Ok(Removal::done());
        };
        if !is_our_veth(&seen) {
            return Err(VethError::NotOurs(name.to_owned()));
        }
        match flat(self.route.transact(vec![netlink::set_down(seen.index)])) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Removal::done()),
            outcome => outcome.map_err(VethError::during(act()))?,
        }
        self.reaper
            .remove(seen.index)
            .map_err(VethError::during(format!("queue the removal of {name}")))
    }

    pub(super) fn readdress(
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
        settle(&mut inside, &after)?;
        let leave = |address: &IpAddr| netlink::remove_address(pod_index, IpNet::from(*address));
        let gone = inside.transact(removed.iter().map(leave).collect());
        all_but_gone(gone).map_err(VethError::during(act()))?;
        let mut requests = Vec::new();
        for address in removed {
            let key = RouteKey::over(IpNet::from(address));
            let target = over(&pod.host_link);
            requests.push(netlink::remove_route(key, &target, seen.index));
            requests.push(netlink::remove_neighbour(seen.index, address));
        }
        all_but_gone(self.route.transact(requests)).map_err(VethError::during(act()))
    }

    pub(super) fn check(
        &mut self,
        netns: BorrowedFd<'_>,
        pod: &PodLink,
    ) -> Result<Vec<String>, VethError> {
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
            // What source it prefers is the reconciler's.
            if !matches!(target, Some(Target::Link { link, .. }) if *link == pod.host_link) {
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

pub(super) fn inside(netns: BorrowedFd<'_>, pod_link: &str) -> Result<Inside, VethError> {
    let act = || format!("look at {pod_link} of the pod");
    let mut inside = open_inside(netns)?;
    let links = netlink::links(&mut inside).map_err(VethError::during(act()))?;
    let routes = netlink::all_routes(&mut inside).map_err(VethError::during(act()))?;
    let link = links.into_iter().find(|link| link.name == pod_link);
    Ok(Inside {
        mac: link.and_then(|link| link.mac),
        routes: routes
            .into_iter()
            .map(|route| (route.destination, route.gateway))
            .collect(),
    })
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
