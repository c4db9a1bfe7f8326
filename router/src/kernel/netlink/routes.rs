//! Routes as dumps tell them: ours, and what of the others' we have to know.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::seen::links;
use super::{Rtnetlink, request};
use crate::host::{PROTOCOL, RouteKey};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

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
pub(super) fn our_routes(netlink: &mut Rtnetlink) -> io::Result<Vec<OurRoute>> {
    let mut ours = RouteMessage::default();
    // With strict checking the kernel leaves out what has another protocol itself.
    ours.header.table = RouteHeader::RT_TABLE_MAIN;
    ours.header.protocol = PROTOCOL.into();
    main_routes(netlink, &ours, our_route)
}

/// A route of anybody's in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnyRoute {
    pub(crate) destination: IpNet,
    pub(crate) protocol: RouteProtocol,
    pub(crate) gateway: Option<IpAddr>,
    /// The index; 0 where it has none.
    pub(crate) link: u32,
}

pub(crate) fn all_routes(netlink: &mut Rtnetlink) -> io::Result<Vec<AnyRoute>> {
    main_routes(netlink, &RouteMessage::default(), any_route)
}

/// Of both families, through `read`.
fn main_routes<T>(
    netlink: &mut Rtnetlink,
    wanted: &RouteMessage,
    read: impl Fn(&RouteMessage) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut wanted = wanted.clone();
        wanted.header.address_family = family;
        let request = request(RouteNetlinkMessage::GetRoute(wanted), NLM_F_DUMP);
        found.extend(netlink.dump(&request, |message| {
            let RouteNetlinkMessage::NewRoute(route) = message else {
                return None;
            };
            let header = &route.header;
            let of_main = header.address_family == family
                && header.table == RouteHeader::RT_TABLE_MAIN
                && !header.flags.contains(RouteFlags::Cloned);
            of_main.then(|| read(&route))?
        })?);
    }
    Ok(found)
}

fn our_route(route: &RouteMessage) -> Option<OurRoute> {
    if route.header.protocol != PROTOCOL.into() {
        return None;
    }
    let mut metric = 0;
    let mut over = RouteOver {
        link: 0,
        preferred_source: None,
        mtu: None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => over.link = *index,
            RouteAttribute::PrefSource(source) => over.preferred_source = address(source),
            RouteAttribute::Metrics(metrics) => over.mtu = metrics.iter().find_map(mtu),
            _ => {}
        }
    }
    let key = RouteKey {
        destination: destination(route)?,
        metric,
    };
    let target = (route.header.kind == RouteType::Unicast).then_some(over);
    Some(OurRoute { key, target })
}

fn any_route(route: &RouteMessage) -> Option<AnyRoute> {
    let mut found = AnyRoute {
        destination: destination(route)?,
        protocol: route.header.protocol,
        gateway: None,
        link: 0,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(gateway) => found.gateway = address(gateway),
            RouteAttribute::Oif(index) => found.link = *index,
            _ => {}
        }
    }
    Some(found)
}

/// Whether what [`get_route`](super::get_route) found ends on this host.
pub(crate) fn is_local(message: &RouteNetlinkMessage) -> bool {
    matches!(message, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
}

/// A default route has no destination attribute.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let given = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(destination) => Some(destination),
            _ => None,
        });
    let destination = match given {
        Some(given) => address(given)?,
        None if route.header.address_family == AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        None => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new(destination, route.header.destination_prefix_length).ok()
}

fn address(given: &RouteAddress) -> Option<IpAddr> {
    match given {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

/// Default routes by a gateway, with their links.
pub(crate) fn default_gateways(netlink: &mut Rtnetlink) -> io::Result<Vec<(u32, IpAddr)>> {
    let defaults = all_routes(netlink)?
        .into_iter()
        .filter(|route| route.destination.prefix_len() == 0);
    Ok(defaults
        .filter_map(|route| Some((route.link, route.gateway?)))
        .collect())
}

/// Links with a default route that a router advertisement gave.
pub(crate) fn ra_links(netlink: &mut Rtnetlink) -> io::Result<Vec<String>> {
    let by_ra: BTreeSet<u32> = all_routes(netlink)?
        .into_iter()
        .filter(|route| route.destination == IpNet::V6(ipnet::Ipv6Net::default()))
        .filter(|route| route.protocol == RouteProtocol::Ra)
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
    use netlink_packet_core::NetlinkPayload;

    use super::*;
    use crate::kernel::socket::messages;

    #[test]
    fn no_answer_of_the_corpus_panics_the_reader() {
        let mut routes = 0;
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "netlink", |bytes| {
            for message in messages(bytes) {
                let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) =
                    message.payload
                else {
                    continue;
                };
                routes += usize::from(any_route(&route).is_some());
                let _ = our_route(&route);
            }
        });
        assert!(routes > 100, "{routes} were read as routes");
    }
}
