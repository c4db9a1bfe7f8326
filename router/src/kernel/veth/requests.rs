//! The messages that make a pod's interface: the pair, the host's side, the pod's side. Pure.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Attached, GATEWAY_V4, GATEWAY_V6, PodLink};
use crate::host::{Mac, RouteKey, Target};
use crate::kernel::netlink::{self, Put, Request};

/// Both ends at once, the pod's in its namespace.
pub(super) fn new_veth(netns: BorrowedFd<'_>, pod: &PodLink, macs: Attached) -> Request {
    let peer = LinkUnspec::new_with_name(&pod.pod_link).setns_by_fd(netns.as_raw_fd());
    let peer = end(peer, pod.mtu, macs.pod_mac).build();
    let host = LinkVeth::new(&pod.host_link, &pod.pod_link)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    netlink::new_link(end(host, pod.mtu, macs.host_mac).build())
}

/// One queue each way: a veth has no lock to share out, and per-processor queues cost time.
fn end<T>(link: LinkMessageBuilder<T>, mtu: u32, mac: Mac) -> LinkMessageBuilder<T> {
    link.address(mac.0.to_vec())
        .mtu(mtu)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

pub(super) fn no_link_local(index: u32) -> Request {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
    let message = LinkUnspec::new_with_index(index).append_extra_attribute(spec);
    netlink::update_link(message.build())
}

pub(super) fn over(host_link: &str) -> Target {
    Target::Link {
        link: host_link.to_owned(),
        preferred_source: None,
        mtu: None,
    }
}

/// The host's way to a pod's addresses.
pub(super) fn host_side(
    index: u32,
    name: &str,
    addresses: &[IpAddr],
    macs: Attached,
) -> Vec<Request> {
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
pub(super) enum Known {
    Yes,
    No,
}

/// Addresses in the pod, and the way out for each family among them.
pub(super) fn pod_side(
    index: u32,
    addresses: &[IpAddr],
    macs: Attached,
    gateways: Known,
) -> Vec<Request> {
    let mut requests: Vec<Request> = addresses
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

pub(super) fn gateways_for(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    if addresses.iter().any(IpAddr::is_ipv4) {
        gateways.push(IpAddr::V4(GATEWAY_V4));
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        gateways.push(IpAddr::V6(GATEWAY_V6));
    }
    gateways
}
