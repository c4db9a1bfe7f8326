//! Routes as dumps tell them: ours, and what of the others' we have to know.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::asked::route_header;
use super::seen::links;
use super::{DUMP, METRIC_MTU, ROUTE_HEADER};
use crate::host::{PROTOCOL, RouteKey};
use crate::kernel::socket::Netlink;
use crate::kernel::wire::{Message, Received, address, u32_at};

/// `RTPROT_RA`: the kernel, from a router advertisement.
const PROTOCOL_RA: u8 = 9;

/// A route over a link, by its index.
pub(super) struct RouteOver {
    pub(super) link: u32,
    pub(super) preferred_source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
}

pub(super) struct OurRoute {
    pub(super) key: RouteKey,
    /// `None` refuses.
    pub(super) target: Option<RouteOver>,
}

/// What bears our protocol in the main table.
pub(super) fn our_routes(netlink: &mut Netlink) -> io::Result<Vec<OurRoute>> {
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

/// Whether the route that [`get_route`] found ends on this host.
pub(crate) fn is_local(message: &Received<'_>) -> bool {
    message.kind == libc::RTM_NEWROUTE && message.body.get(7) == Some(&libc::RTN_LOCAL)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::messages;

    #[test]
    fn no_answer_of_the_corpus_panics_the_reader() {
        let mut routes = 0;
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "netlink", |bytes| {
            for message in messages(bytes) {
                for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
                    routes += usize::from(any_route(&message, family).is_some());
                    let _ = our_route(&message, family);
                }
            }
        });
        assert!(routes > 100, "{routes} were read as routes");
    }
}
