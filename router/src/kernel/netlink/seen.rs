//! Links, addresses and neighbours as dumps tell them, and the host out of all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::LinkUnspec;

use super::asked::without_statistics;
use super::routes::routes_of;
use super::{Rtnetlink, request};
use crate::host::{Address, Link, Mac, NeighbourKey, Observed, PROTOCOL, RouteKey, Target};

/// A link as a dump tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkSeen {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) link: Link,
    pub(crate) kind: Option<InfoKind>,
    /// Of a veth: the index of its other end, in the other end's namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) mac: Option<Mac>,
}

pub(crate) fn links(netlink: &mut Rtnetlink) -> io::Result<Vec<LinkSeen>> {
    let wanted = LinkUnspec::new_with_index(0)
        .append_extra_attribute(without_statistics())
        .build();
    netlink.dump(
        &request(RouteNetlinkMessage::GetLink(wanted), NLM_F_DUMP),
        link,
    )
}

/// The host as far as it is ours; its sysctls and firewall are others' to add.
pub(crate) fn observe(netlink: &mut Rtnetlink) -> io::Result<Observed> {
    let ours: BTreeMap<u32, LinkSeen> = links(netlink)?
        .into_iter()
        .filter(crate::kernel::veth::is_ours)
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
    for route in routes_of(netlink, PROTOCOL.into())? {
        let target = match route.is_unicast {
            true => Target::Link {
                // A route of our protocol over a link that is not ours is none we want.
                link: name(route.link).unwrap_or_else(|| format!("#{}", route.link)),
                preferred_source: route.preferred_source,
                mtu: route.mtu,
            },
            false => Target::Unreachable,
        };
        let key = RouteKey {
            destination: route.destination,
            metric: route.metric,
        };
        routes.insert(key, target);
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

pub(crate) fn link(message: RouteNetlinkMessage) -> Option<LinkSeen> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut name = None;
    let mut mtu = 0;
    let (mut kind, mut peer, mut mac) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(given) => name = Some(given),
            LinkAttribute::Mtu(given) => mtu = given,
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::Address(bytes) => mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => kind = infos.into_iter().find_map(info_kind),
            _ => {}
        }
    }
    Some(LinkSeen {
        index: message.header.index,
        name: name?,
        link: Link {
            mtu,
            up: message.header.flags.contains(LinkFlags::Up),
        },
        kind,
        peer,
        mac,
    })
}

fn info_kind(info: LinkInfo) -> Option<InfoKind> {
    match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    }
}

/// Every address, with its link's index.
pub(crate) fn addresses(netlink: &mut Rtnetlink) -> io::Result<Vec<(u32, IpNet)>> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    netlink.dump(&request(all, NLM_F_DUMP), |message| {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            return None;
        };
        let (mut local, mut address) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(given) => local = Some(given),
                AddressAttribute::Address(given) => address = Some(given),
                _ => {}
            }
        }
        // On a link that is not point to point the two are the same, and IPv6 gives the second
        // alone.
        let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
        Some((message.header.index, net))
    })
}

fn neighbours(netlink: &mut Rtnetlink) -> io::Result<Vec<(u32, IpAddr, Mac)>> {
    let all = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    netlink.dump(&request(all, NLM_F_DUMP), |message| {
        let RouteNetlinkMessage::NewNeighbour(message) = message else {
            return None;
        };
        if message.header.state != NeighbourState::Permanent {
            return None;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok().map(Mac),
                _ => {}
            }
        }
        Some((message.header.ifindex, address?, mac?))
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
