//! Requests to rtnetlink as messages. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    ADDRESS_HEADER, LINK_HEADER, METRIC_MTU, NEIGHBOUR_HEADER, ROUTE_HEADER, SKIP_STATISTICS, UP,
};
use crate::host::{Link, Mac, PROTOCOL, RouteKey, Target};
use crate::kernel::wire::Message;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;

/// How a route is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Refused when a route of this key is there.
    New,
    /// In place of the one that is there.
    Replace,
}

/// Asks for one link by name; the answer is read by [`link`].
pub(crate) fn get_link(name: &str) -> Message {
    Message::new(libc::RTM_GETLINK, 0, &[0; LINK_HEADER])
        .u32(libc::IFLA_EXT_MASK, SKIP_STATISTICS)
        .text(libc::IFLA_IFNAME, name)
}

pub(crate) fn set_link(index: u32, link: Link) -> Message {
    let flags = if link.up { UP } else { 0 };
    Message::new(libc::RTM_SETLINK, 0, &link_header(index, flags, UP)).u32(libc::IFLA_MTU, link.mtu)
}

pub(crate) fn set_up(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &link_header(index, UP, UP))
}

pub(crate) fn set_down(index: u32) -> Message {
    Message::new(libc::RTM_SETLINK, 0, &link_header(index, 0, UP))
}

pub(crate) fn remove_link(index: u32) -> Message {
    Message::new(libc::RTM_DELLINK, 0, &link_header(index, 0, 0))
}

pub(crate) fn link_header(index: u32, flags: u32, mask: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&mask.to_ne_bytes());
    header
}

pub(crate) fn add_address(index: u32, net: IpNet) -> Message {
    let flags = libc::IFA_F_NOPREFIXROUTE | libc::IFA_F_NODAD | libc::IFA_F_PERMANENT;
    address_message(libc::RTM_NEWADDR, CREATE | REPLACE, index, net).u32(libc::IFA_FLAGS, flags)
}

pub(crate) fn remove_address(index: u32, net: IpNet) -> Message {
    address_message(libc::RTM_DELADDR, 0, index, net)
}

fn address_message(kind: u16, flags: u16, index: u32, net: IpNet) -> Message {
    let mut header = [0; ADDRESS_HEADER];
    header[0] = family(net.addr());
    header[1] = net.prefix_len();
    header[4..].copy_from_slice(&index.to_ne_bytes());
    Message::new(kind, flags, &header)
        .address(libc::IFA_LOCAL, net.addr())
        .address(libc::IFA_ADDRESS, net.addr())
}

/// `index` is that of the target's link, if it has one.
pub(crate) fn put_route(key: RouteKey, target: &Target, index: u32, put: Put) -> Message {
    let flags = match put {
        Put::New => CREATE | EXCLUSIVE,
        Put::Replace => CREATE | REPLACE,
    };
    let (kind, scope) = match target {
        Target::Unreachable => (libc::RTN_UNREACHABLE, libc::RT_SCOPE_UNIVERSE),
        Target::Link { .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK),
    };
    let message = route_message(libc::RTM_NEWROUTE, flags, key, kind, scope);
    let Target::Link {
        preferred_source,
        mtu,
        ..
    } = target
    else {
        return message;
    };
    let mut message = message.u32(libc::RTA_OIF, index);
    if let Some(source) = preferred_source {
        message = message.address(libc::RTA_PREFSRC, *source);
    }
    if let Some(mtu) = mtu {
        message = message.nest(libc::RTA_METRICS, |m| m.u32(METRIC_MTU, *mtu));
    }
    message
}

/// Names the route by its key, our protocol and its kind, so that no other can be meant.
pub(crate) fn remove_route(key: RouteKey, target: &Target) -> Message {
    let kind = match target {
        Target::Unreachable => libc::RTN_UNREACHABLE,
        Target::Link { .. } => libc::RTN_UNICAST,
    };
    route_message(libc::RTM_DELROUTE, 0, key, kind, libc::RT_SCOPE_NOWHERE)
}

fn route_message(kind: u16, flags: u16, key: RouteKey, route: u8, scope: u8) -> Message {
    let destination = key.destination;
    let family = family(destination.addr());
    let header = route_header(family, destination.prefix_len(), scope, route);
    Message::new(kind, flags, &header)
        .address(libc::RTA_DST, destination.addr())
        .u32(libc::RTA_PRIORITY, key.metric)
}

pub(super) fn route_header(family: u8, length: u8, scope: u8, kind: u8) -> [u8; ROUTE_HEADER] {
    let mut header = [0; ROUTE_HEADER];
    header[0] = family;
    header[1] = length;
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = PROTOCOL;
    header[6] = scope;
    header[7] = kind;
    header
}

pub(crate) fn set_neighbour(index: u32, address: IpAddr, mac: Mac) -> Message {
    neighbour_message(libc::RTM_NEWNEIGH, CREATE | REPLACE, index, address)
        .attr(libc::NDA_LLADDR, &mac.0)
}

pub(crate) fn remove_neighbour(index: u32, address: IpAddr) -> Message {
    neighbour_message(libc::RTM_DELNEIGH, 0, index, address)
}

fn neighbour_message(kind: u16, flags: u16, index: u32, address: IpAddr) -> Message {
    let mut header = [0; NEIGHBOUR_HEADER];
    header[0] = family(address);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    Message::new(kind, flags, &header).address(libc::NDA_DST, address)
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// Asks which route a packet to the address takes; the answer is read by [`is_local`].
pub(crate) fn get_route(address: IpAddr) -> Message {
    let mut header = [0; ROUTE_HEADER];
    header[0] = family(address);
    header[1] = IpNet::from(address).prefix_len();
    Message::new(libc::RTM_GETROUTE, 0, &header).address(libc::RTA_DST, address)
}

/// A route of a pod's own: on the link, or by a gateway on it.
pub(crate) fn gateway_route(index: u32, destination: IpNet, gateway: Option<IpAddr>) -> Message {
    let scope = match gateway {
        None => libc::RT_SCOPE_LINK,
        Some(_) => libc::RT_SCOPE_UNIVERSE,
    };
    let family = family(destination.addr());
    let header = route_header(family, destination.prefix_len(), scope, libc::RTN_UNICAST);
    let mut message = Message::new(libc::RTM_NEWROUTE, CREATE | REPLACE, &header)
        .address(libc::RTA_DST, destination.addr())
        .u32(libc::RTA_OIF, index);
    if let Some(gateway) = gateway {
        message = message.address(libc::RTA_GATEWAY, gateway);
    }
    message
}

/// 0.0.0.0/0 or ::/0, as the gateway's family is.
pub(crate) fn default_of(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
