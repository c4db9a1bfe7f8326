//! Links, addresses, routes and neighbours over rtnetlink: requests as bytes, dumps as values.
//!
//! Of routes only what bears our protocol number is seen, of the rest only what hangs on our links.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::socket::Netlink;
use super::wire::{Message, Received, address, i32_at, u16_at, u32_at};
use crate::host::{
    Address, LINK_PREFIX, Link, Mac, NeighbourKey, Observed, PROTOCOL, RouteKey, Target,
};

const DUMP: u16 = libc::NLM_F_DUMP as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// No statistics in dumps of links.
const SKIP_STATISTICS: u32 = 1 << 3;
const UP: u32 = libc::IFF_UP as u32;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const NEIGHBOUR_HEADER: usize = 12;

/// `RTPROT_RA`: the kernel, from a router advertisement.
const PROTOCOL_RA: u8 = 9;
/// `RTAX_MTU`
const METRIC_MTU: u16 = 2;

/// A link as a dump tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkSeen {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) link: Link,
    pub(crate) kind: Option<String>,
    /// Of a veth: the index of its other end, in the other end's namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) mac: Option<Mac>,
}

/// How a route is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Refused when a route of this key is there.
    New,
    /// In place of the one that is there.
    Replace,
}

// What is seen.

pub(crate) fn links(netlink: &mut Netlink) -> io::Result<Vec<LinkSeen>> {
    let request = Message::new(libc::RTM_GETLINK, DUMP, &[0; LINK_HEADER])
        .u32(libc::IFLA_EXT_MASK, SKIP_STATISTICS);
    netlink.dump(&request, |message| link(&message))
}

/// The host as far as it is ours; its sysctls and firewall are others' to add.
pub(crate) fn observe(netlink: &mut Netlink) -> io::Result<Observed> {
    let ours: BTreeMap<u32, LinkSeen> = links(netlink)?
        .into_iter()
        .filter(|seen| seen.name.starts_with(LINK_PREFIX))
        .map(|seen| (seen.index, seen))
        .collect();
    let name = |index: u32| ours.get(&index).map(|seen| seen.name.clone());
    let addresses = addresses(netlink)?
        .into_iter()
        .filter(|(_, net)| !is_link_local(net.addr()))
        .filter_map(|(index, net)| {
            let link = name(index)?;
            Some(Address { link, net })
        });
    let addresses: BTreeSet<Address> = addresses.collect();
    let mut routes = BTreeMap::new();
    for route in our_routes(netlink)? {
        let target = match route.target {
            Some(RouteOver {
                link,
                preferred_source,
                mtu,
            }) => Target::Link {
                // A route of our protocol over a link that is not ours is none we want.
                link: name(link).unwrap_or_else(|| format!("#{link}")),
                preferred_source,
                mtu,
            },
            None => Target::Unreachable,
        };
        routes.insert(route.key, target);
    }
    let neighbours = neighbours(netlink)?
        .into_iter()
        .filter_map(|(index, address, mac)| {
            let link = name(index)?;
            Some((NeighbourKey { link, address }, mac))
        });
    let neighbours = neighbours.collect();
    Ok(Observed {
        links: ours
            .into_values()
            .map(|seen| (seen.name, seen.link))
            .collect(),
        addresses,
        routes,
        neighbours,
        ..Observed::default()
    })
}

pub(crate) fn link(message: &Received<'_>) -> Option<LinkSeen> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let attributes = message.attributes(LINK_HEADER);
    Some(LinkSeen {
        index: u32_at(message.body, 4)?,
        name: attributes.text(libc::IFLA_IFNAME)?.to_owned(),
        link: Link {
            mtu: attributes.u32(libc::IFLA_MTU).unwrap_or(0),
            up: u32_at(message.body, 8)? & UP != 0,
        },
        kind: attributes
            .nested(libc::IFLA_LINKINFO)
            .text(libc::IFLA_INFO_KIND)
            .map(str::to_owned),
        peer: attributes.u32(libc::IFLA_LINK),
        mac: attributes
            .find(libc::IFLA_ADDRESS)
            .and_then(|bytes| Some(Mac(bytes.try_into().ok()?))),
    })
}

/// Every address, with its link's index.
pub(crate) fn addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpNet)>> {
    let request = Message::new(libc::RTM_GETADDR, DUMP, &[0; ADDRESS_HEADER]);
    netlink.dump(&request, |message| {
        let attributes = message.attributes(ADDRESS_HEADER);
        // On a link that is not point to point IFA_LOCAL and IFA_ADDRESS are the same, and IPv6
        // gives the second alone.
        let bytes = attributes
            .find(libc::IFA_LOCAL)
            .or_else(|| attributes.find(libc::IFA_ADDRESS))?;
        let net = IpNet::new(address(bytes)?, *message.body.get(1)?).ok()?;
        Some((u32_at(message.body, 4)?, net))
    })
}

struct RouteOver {
    link: u32,
    preferred_source: Option<IpAddr>,
    mtu: Option<u32>,
}

struct OurRoute {
    key: RouteKey,
    /// `None` refuses.
    target: Option<RouteOver>,
}

fn our_routes(netlink: &mut Netlink) -> io::Result<Vec<OurRoute>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // With strict checking the kernel leaves out what has another protocol itself.
        let header = route_header(family as u8, 0, 0, 0);
        let request = Message::new(libc::RTM_GETROUTE, DUMP, &header);
        found.extend(netlink.dump(&request, |message| our_route(&message, family as u8))?);
    }
    Ok(found)
}

fn our_route(message: &Received<'_>, family: u8) -> Option<OurRoute> {
    let body = message.body;
    let header = body.get(..ROUTE_HEADER)?;
    let (table, protocol, kind) = (header[4], header[5], header[7]);
    let cloned = u32_at(header, 8)? & libc::RTM_F_CLONED != 0;
    if header[0] != family || protocol != PROTOCOL || table != libc::RT_TABLE_MAIN || cloned {
        return None;
    }
    let attributes = message.attributes(ROUTE_HEADER);
    let destination = match attributes.find(libc::RTA_DST) {
        Some(bytes) => address(bytes)?,
        None if i32::from(family) == libc::AF_INET => IpAddr::from([0; 4]),
        None => IpAddr::from([0; 16]),
    };
    let key = RouteKey {
        destination: IpNet::new(destination, header[1]).ok()?,
        metric: attributes.u32(libc::RTA_PRIORITY).unwrap_or(0),
    };
    let target = (kind == libc::RTN_UNICAST).then(|| RouteOver {
        link: attributes.u32(libc::RTA_OIF).unwrap_or(0),
        preferred_source: attributes.find(libc::RTA_PREFSRC).and_then(address),
        mtu: attributes.nested(libc::RTA_METRICS).u32(METRIC_MTU),
    });
    Some(OurRoute { key, target })
}

fn neighbours(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpAddr, Mac)>> {
    let request = Message::new(libc::RTM_GETNEIGH, DUMP, &[0; NEIGHBOUR_HEADER]);
    netlink.dump(&request, |message| {
        let permanent = u16_at(message.body, 8)? & libc::NUD_PERMANENT != 0;
        let attributes = message.attributes(NEIGHBOUR_HEADER);
        let mac = Mac(attributes.find(libc::NDA_LLADDR)?.try_into().ok()?);
        let address = address(attributes.find(libc::NDA_DST)?)?;
        permanent.then_some((i32_at(message.body, 4)?.cast_unsigned(), address, mac))
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

// What is asked for.

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

fn route_header(family: u8, length: u8, scope: u8, kind: u8) -> [u8; ROUTE_HEADER] {
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

/// Whether the route that [`get_route`] found ends on this host.
pub(crate) fn is_local(message: &Received<'_>) -> bool {
    message.kind == libc::RTM_NEWROUTE && message.body.get(7) == Some(&libc::RTN_LOCAL)
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

/// A route of anybody's in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnyRoute {
    pub(crate) destination: IpNet,
    pub(crate) protocol: u8,
    pub(crate) kind: u8,
    pub(crate) gateway: Option<IpAddr>,
    /// The index; 0 where it has none.
    pub(crate) link: u32,
}

pub(crate) fn all_routes(netlink: &mut Netlink) -> io::Result<Vec<AnyRoute>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; ROUTE_HEADER];
        header[0] = family as u8;
        let request = Message::new(libc::RTM_GETROUTE, DUMP, &header);
        found.extend(netlink.dump(&request, |message| any_route(&message, family as u8))?);
    }
    Ok(found)
}

fn any_route(message: &Received<'_>, family: u8) -> Option<AnyRoute> {
    let header = message.body.get(..ROUTE_HEADER)?;
    let cloned = u32_at(header, 8)? & libc::RTM_F_CLONED != 0;
    if header[0] != family || header[4] != libc::RT_TABLE_MAIN || cloned {
        return None;
    }
    let attributes = message.attributes(ROUTE_HEADER);
    let destination = match attributes.find(libc::RTA_DST) {
        Some(bytes) => address(bytes)?,
        None if i32::from(family) == libc::AF_INET => IpAddr::from([0; 4]),
        None => IpAddr::from([0; 16]),
    };
    Some(AnyRoute {
        destination: IpNet::new(destination, header[1]).ok()?,
        protocol: header[5],
        kind: header[7],
        gateway: attributes.find(libc::RTA_GATEWAY).and_then(address),
        link: attributes.u32(libc::RTA_OIF).unwrap_or(0),
    })
}

/// Default routes by a gateway, with their links.
pub(crate) fn default_gateways(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpAddr)>> {
    let defaults = all_routes(netlink)?
        .into_iter()
        .filter(|route| route.destination.prefix_len() == 0);
    Ok(defaults
        .filter_map(|route| Some((route.link, route.gateway?)))
        .collect())
}

/// Links with a default route that a router advertisement gave.
pub(crate) fn ra_links(netlink: &mut Netlink) -> io::Result<Vec<String>> {
    let by_ra: BTreeSet<u32> = all_routes(netlink)?
        .into_iter()
        .filter(|route| route.destination == IpNet::V6(ipnet::Ipv6Net::default()))
        .filter(|route| route.protocol == PROTOCOL_RA)
        .map(|route| route.link)
        .collect();
    if by_ra.is_empty() {
        return Ok(Vec::new());
    }
    let links = links(netlink)?.into_iter();
    Ok(links
        .filter(|seen| by_ra.contains(&seen.index))
        .map(|seen| seen.name)
        .collect())
}
