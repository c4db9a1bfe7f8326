//! What the overlap rules look at: the host's interfaces, routes, gateways and name servers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use weft_dns::ResolvConf;

use super::netlink::{Rtnetlink, addresses, all_routes, links};
use crate::host::{LINK_PREFIX, PROTOCOL};
use crate::overlap::{HostRoute, InterfaceAddress, Snapshot};

/// resolv.conf, and where systemd-resolved keeps the servers behind its own.
const RESOLV: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

pub(crate) fn snapshot(netlink: &mut Rtnetlink) -> io::Result<Snapshot> {
    let names: BTreeMap<u32, String> = links(netlink)?
        .into_iter()
        .map(|seen| (seen.index, seen.name))
        .collect();
    let name = |index: u32| names.get(&index).cloned().unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = addresses(netlink)?
        .into_iter()
        .map(|(index, net)| InterfaceAddress {
            link: name(index),
            net,
        })
        .partition(|interface| interface.link.starts_with(LINK_PREFIX));
    let foreign: Vec<_> = all_routes(netlink)?
        .into_iter()
        .filter(|route| route.protocol != PROTOCOL.into())
        .filter(|route| !name(route.link).starts_with(LINK_PREFIX))
        .collect();
    let gateways: BTreeSet<IpAddr> = foreign.iter().filter_map(|route| route.gateway).collect();
    let routes: BTreeSet<HostRoute> = foreign
        .iter()
        .map(|route| HostRoute {
            destination: route.destination,
            link: name(route.link),
        })
        .collect();
    let resolvers: BTreeSet<IpAddr> = RESOLV
        .iter()
        .filter_map(|path| ResolvConf::read(path.as_ref()).ok())
        .flat_map(|conf| conf.servers)
        .filter(|address| !ours.iter().any(|own| own.net.addr() == *address))
        .collect();
    Ok(Snapshot {
        interfaces: others,
        routes: routes.into_iter().collect(),
        gateways: gateways.into_iter().collect(),
        resolvers: resolvers.into_iter().collect(),
        endpoints: Vec::new(),
    })
}
