//! Ranges of the mesh that collide with what the host has. Pure; the kernel module takes the snapshot.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// The host's network as the rules look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Addresses with their prefix, of links that are not ours.
    pub interfaces: Vec<InterfaceAddress>,
    /// Of the main table, without ours.
    pub routes: Vec<HostRoute>,
    /// Of every route that is not ours.
    pub gateways: Vec<IpAddr>,
    /// From resolv.conf, without addresses of our own links.
    pub resolvers: Vec<IpAddr>,
    /// Where this node or peers are reached, as set by hand; the caller adds them.
    pub endpoints: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    pub link: String,
    /// With host bits.
    pub net: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    pub destination: IpNet,
    /// Empty for a route without one.
    pub link: String,
}

/// A collision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub severity: Severity,
    /// The mesh's range.
    pub range: IpNet,
    pub with: Collision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The range must not be used.
    Refused,
    /// It works as long as nobody relies on the other thing for the range.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collision {
    Interface(InterfaceAddress),
    /// Equal to the range, or inside.
    Route(HostRoute),
    /// The range is a part of what it leads to.
    SummaryRoute(HostRoute),
    Gateway(IpAddr),
    Resolver(IpAddr),
    Endpoint(IpAddr),
}

/// Every collision of `ranges` with the host, sorted, the refusals first. A default route is none.
pub fn check(ranges: &[IpNet], host: &Snapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    for range in ranges {
        let range = range.trunc();
        interfaces_and_routes(&range, host, &mut found);
        let addresses = [
            (
                &host.gateways,
                Collision::Gateway as fn(IpAddr) -> Collision,
            ),
            (&host.resolvers, Collision::Resolver),
            (&host.endpoints, Collision::Endpoint),
        ];
        for (list, collision) in addresses {
            let inside = list.iter().filter(|address| range.contains(*address));
            found.extend(inside.map(|address| Finding {
                severity: Severity::Refused,
                range,
                with: collision(*address),
            }));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn interfaces_and_routes(range: &IpNet, host: &Snapshot, found: &mut Vec<Finding>) {
    for interface in &host.interfaces {
        if overlap(range, &interface.net.trunc()) {
            found.push(Finding {
                severity: Severity::Refused,
                range: *range,
                with: Collision::Interface(interface.clone()),
            });
        }
    }
    for route in &host.routes {
        let destination = route.destination.trunc();
        let of_interface =
            |i: &InterfaceAddress| i.link == route.link && i.net.trunc() == destination;
        // The kernel's own route for an interface's prefix says nothing that the interface did not.
        if destination.prefix_len() == 0 || host.interfaces.iter().any(of_interface) {
            continue;
        }
        let (severity, with) = if range.contains(&destination) {
            (Severity::Refused, Collision::Route(route.clone()))
        } else if destination.contains(range) {
            (Severity::Warning, Collision::SummaryRoute(route.clone()))
        } else {
            continue;
        };
        found.push(Finding {
            severity,
            range: *range,
            with,
        });
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.range;
        let via = |route: &HostRoute| match route.link.as_str() {
            "" => String::new(),
            link => format!(" over {link}"),
        };
        match &self.with {
            Collision::Interface(interface) => write!(
                f,
                "range {range} overlaps {} of interface {}",
                interface.net, interface.link
            ),
            Collision::Route(route) => write!(
                f,
                "range {range} overlaps the host's route to {}{}",
                route.destination,
                via(route)
            ),
            Collision::SummaryRoute(route) => write!(
                f,
                "range {range} is part of the host's route to {}{}; the mesh's is more specific and wins",
                route.destination,
                via(route)
            ),
            Collision::Gateway(address) => write!(f, "range {range} covers the gateway {address}"),
            Collision::Resolver(address) => {
                write!(f, "range {range} covers the name server {address}")
            }
            Collision::Endpoint(address) => {
                write!(f, "range {range} covers the endpoint {address}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
