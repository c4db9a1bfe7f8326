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

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// A route of the main table, as far as anybody here asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteSeen {
    pub(crate) destination: IpNet,
    pub(crate) metric: u32,
    pub(crate) protocol: RouteProtocol,
    /// Leads somewhere; others refuse.
    pub(crate) is_unicast: bool,
    pub(crate) gateway: Option<IpAddr>,
    /// The index; 0 where it has none.
    pub(crate) link: u32,
    pub(crate) preferred_source: Option<IpAddr>,
    /// Bytes.
    pub(crate) mtu: Option<u32>,
}

/// What bears a protocol's number in the main table.
pub(super) fn routes_of(
    netlink: &mut Rtnetlink,
    protocol: RouteProtocol,
) -> io::Result<Vec<RouteSeen>> {
    let mut wanted = RouteMessage::default();
    // With strict checking the kernel leaves out what has another protocol itself.
    wanted.header.table = RouteHeader::RT_TABLE_MAIN;
    wanted.header.protocol = protocol;
    let mut routes = main_routes(netlink, &wanted)?;
    routes.retain(|route| route.protocol == protocol);
    Ok(routes)
}

/// A route of anybody's in the main table.
pub(crate) fn all_routes(netlink: &mut Rtnetlink) -> io::Result<Vec<RouteSeen>> {
    main_routes(netlink, &RouteMessage::default())
}

/// Of both families.
fn main_routes(netlink: &mut Rtnetlink, wanted: &RouteMessage) -> io::Result<Vec<RouteSeen>> {
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
            of_main.then(|| seen(&route))?
        })?);
    }
    Ok(found)
}

fn seen(route: &RouteMessage) -> Option<RouteSeen> {
    // A default route has no destination attribute.
    let mut destination = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut metric, mut link) = (0, 0);
    let (mut gateway, mut preferred_source, mut mtu) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(given) => destination = address(given)?,
            RouteAttribute::Priority(given) => metric = *given,
            RouteAttribute::Gateway(given) => gateway = address(given),
            RouteAttribute::Oif(index) => link = *index,
            RouteAttribute::PrefSource(given) => preferred_source = address(given),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(of_mtu),
            _ => {}
        }
    }
    Some(RouteSeen {
        destination: IpNet::new(destination, route.header.destination_prefix_length).ok()?,
        metric,
        protocol: route.header.protocol,
        is_unicast: route.header.kind == RouteType::Unicast,
        gateway,
        link,
        preferred_source,
        mtu,
    })
}

/// Whether what [`get_route`](super::get_route) found ends on this host.
pub(crate) fn is_local(message: &RouteNetlinkMessage) -> bool {
    matches!(message, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local)
}

fn address(given: &RouteAddress) -> Option<IpAddr> {
    match given {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn of_mtu(metric: &RouteMetric) -> Option<u32> {
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
    let by_ra: BTreeSet<u32> = routes_of(netlink, RouteProtocol::Ra)?
        .into_iter()
        .filter(|route| route.destination == IpNet::V6(ipnet::Ipv6Net::default()))
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
                routes += usize::from(seen(&route).is_some());
            }
        });
        assert!(routes > 100, "{routes} were read as routes");
    }
}
