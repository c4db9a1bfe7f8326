//! Requests to rtnetlink as messages. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::{Request, request};
use crate::host::{Link, Mac, PROTOCOL, RouteKey, Target};

/// How a route is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Refused when a route of this key is there.
    New,
    /// In place of the one that is there.
    Replace,
}

/// Asks for one link by name; the answer is read by [`link`](super::link).
pub(crate) fn get_link(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name)
        .append_extra_attribute(without_statistics())
        .build();
    request(RouteNetlinkMessage::GetLink(message), 0)
}

pub(super) fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Refused when a link of this name is there.
pub(crate) fn new_link(message: LinkMessage) -> Request {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewLink(message), flags)
}

pub(crate) fn update_link(message: LinkMessage) -> Request {
    request(RouteNetlinkMessage::SetLink(message), 0)
}

pub(crate) fn set_link(index: u32, link: Link) -> Request {
    let message = LinkUnspec::new_with_index(index).mtu(link.mtu);
    let message = if link.up {
        message.up()
    } else {
        message.down()
    };
    update_link(message.build())
}

pub(crate) fn set_up(index: u32) -> Request {
    update_link(LinkUnspec::new_with_index(index).up().build())
}

pub(crate) fn set_down(index: u32) -> Request {
    update_link(LinkUnspec::new_with_index(index).down().build())
}

pub(crate) fn remove_link(index: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).build();
    request(RouteNetlinkMessage::DelLink(message), 0)
}

pub(crate) fn add_address(index: u32, net: IpNet) -> Request {
    let mut message = address_message(index, net);
    let flags = AddressFlags::Noprefixroute | AddressFlags::Nodad | AddressFlags::Permanent;
    message.attributes.push(AddressAttribute::Flags(flags));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    request(RouteNetlinkMessage::NewAddress(message), flags)
}

pub(crate) fn remove_address(index: u32, net: IpNet) -> Request {
    let message = address_message(index, net);
    request(RouteNetlinkMessage::DelAddress(message), 0)
}

/// Not by rtnetlink's builder, which gives IPv4 a broadcast address and the kernel a route to it.
fn address_message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
    ];
    message
}

/// `index` is that of the target's link, if it has one.
pub(crate) fn put_route(key: RouteKey, target: &Target, index: u32, put: Put) -> Request {
    let flags = match put {
        Put::New => NLM_F_CREATE | NLM_F_EXCL,
        Put::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    };
    let mut message = keyed_route(key, target, index);
    if let Target::Link {
        preferred_source,
        mtu,
        ..
    } = target
    {
        message.header.scope = RouteScope::Link;
        let source = preferred_source.map(|source| RouteAttribute::PrefSource(source.into()));
        let metrics = mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        message.attributes.extend(source);
        message.attributes.extend(metrics);
    }
    request(RouteNetlinkMessage::NewRoute(message), flags)
}

/// Names the route by its key, our protocol, its kind and its link, so that no other can be meant:
/// the address may be another pod's by now.
pub(crate) fn remove_route(key: RouteKey, target: &Target, index: u32) -> Request {
    let mut message = keyed_route(key, target, index);
    // Of whatever scope it is.
    message.header.scope = RouteScope::NoWhere;
    request(RouteNetlinkMessage::DelRoute(message), 0)
}

fn keyed_route(key: RouteKey, target: &Target, index: u32) -> RouteMessage {
    let mut message = route_to(key.destination);
    let priority = RouteAttribute::Priority(key.metric);
    message.attributes.push(priority);
    match target {
        Target::Unreachable => message.header.kind = RouteType::Unreachable,
        Target::Link { .. } => message.attributes.push(RouteAttribute::Oif(index)),
    }
    message
}

/// A unicast route of our protocol in the main table.
fn route_to(destination: IpNet) -> RouteMessage {
    let length = destination.prefix_len();
    match destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .protocol(PROTOCOL.into())
            .destination_prefix(net.addr(), length)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .protocol(PROTOCOL.into())
            .destination_prefix(net.addr(), length)
            .build(),
    }
}

pub(crate) fn set_neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour_message(index, address);
    let mac = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
    message.attributes.push(mac);
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    request(RouteNetlinkMessage::NewNeighbour(message), flags)
}

pub(crate) fn remove_neighbour(index: u32, address: IpAddr) -> Request {
    let message = neighbour_message(index, address);
    request(RouteNetlinkMessage::DelNeighbour(message), 0)
}

fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Asks which route a packet to the address takes; the answer is read by
/// [`is_local`](super::is_local).
pub(crate) fn get_route(address: IpAddr) -> Request {
    // Strict checking wants all else in the header to be 0.
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = IpNet::from(address).prefix_len();
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    request(RouteNetlinkMessage::GetRoute(message), 0)
}

/// A route of a pod's own: on the link, or by a gateway on it.
pub(crate) fn gateway_route(index: u32, destination: IpNet, gateway: Option<IpAddr>) -> Request {
    let mut message = route_to(destination);
    message.attributes.push(RouteAttribute::Oif(index));
    match gateway {
        None => message.header.scope = RouteScope::Link,
        Some(gateway) => message
            .attributes
            .push(RouteAttribute::Gateway(gateway.into())),
    }
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    request(RouteNetlinkMessage::NewRoute(message), flags)
}

/// 0.0.0.0/0 or ::/0, as the gateway's family is.
pub(crate) fn default_of(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
