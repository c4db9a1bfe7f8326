//! Links, addresses and neighbours as dumps tell them, and the host out of all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::routes::{RouteOver, our_routes};
use super::{ADDRESS_HEADER, DUMP, LINK_HEADER, NEIGHBOUR_HEADER, SKIP_STATISTICS, UP};
use crate::host::{Address, LINK_PREFIX, Link, Mac, NeighbourKey, Observed, Target};
use crate::kernel::socket::Netlink;
use crate::kernel::wire::{Message, Received, address, i32_at, u16_at, u32_at};

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
