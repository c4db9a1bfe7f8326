//! The messages that make a pod's interface: the pair, the host's side, the pod's side. Pure.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::{Attached, GATEWAY_V4, GATEWAY_V6, PodLink};
use crate::host::{Mac, RouteKey, Target};
use crate::kernel::netlink::{self, Put};
use crate::kernel::wire::Message;

/// `VETH_INFO_PEER`, `IFLA_INET6_ADDR_GEN_MODE` and its `none`.
const VETH_PEER: u16 = 1;
const ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

pub(super) fn new_veth(netns: BorrowedFd<'_>, pod: &PodLink, macs: Attached) -> Message {
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

pub(super) fn no_link_local(index: u32) -> Message {
    let header = netlink::link_header(index, 0, 0);
    Message::new(libc::RTM_SETLINK, 0, &header).nest(libc::IFLA_AF_SPEC, |spec| {
        spec.nest(libc::AF_INET6 as u16, |v6| {
            v6.attr(ADDR_GEN_MODE, &[ADDR_GEN_NONE])
        })
    })
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
) -> Vec<Message> {
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
) -> Vec<Message> {
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
