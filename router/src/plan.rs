//! The ordered steps from the host as it is to the host as it should be. Pure.
//!
//! The order keeps two things true at every moment: no range is without either its route or an
//! `unreachable` one, and forwarding is on only with the guard in place.

use std::fmt;
use std::net::IpAddr;

use crate::host::{Address, Desired, Link, Mac, NeighbourKey, Observed, RouteKey, Target};
use crate::kernel::Targets;
use crate::kernel::nft::{Fingerprint, Ruleset};

/// The steps in order, and what they wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Wanted links that are not there. What hangs on them is left out until they are.
    pub absent_links: Vec<String>,
}

/// One change to the host. Nothing of anybody else's is ever named by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    SetLink {
        name: String,
        link: Link,
    },
    AddAddress(Address),
    RemoveAddress(Address),
    /// Refused when somebody else has a route of that destination and metric.
    AddRoute {
        key: RouteKey,
        target: Target,
    },
    /// In one move, of a route that is ours.
    ReplaceRoute {
        key: RouteKey,
        target: Target,
    },
    RemoveRoute {
        key: RouteKey,
        target: Target,
    },
    SetNeighbour {
        key: NeighbourKey,
        mac: Mac,
    },
    RemoveNeighbour(NeighbourKey),
    /// The path is below `/proc/sys`.
    SetSysctl {
        key: String,
        value: String,
    },
    /// The whole table, in one transaction.
    SetFirewall(Ruleset),
    RemoveFirewall,
    /// Of UDP, to ports of the host that led elsewhere.
    ForgetFlows(Targets),
}

impl Step {
    /// Whether packets may leave in the clear where this failed.
    pub fn guards(&self) -> bool {
        match self {
            Self::SetFirewall(_) => true,
            Self::AddRoute { target, .. } | Self::ReplaceRoute { target, .. } => {
                *target == Target::Unreachable
            }
            _ => false,
        }
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Compares what should be with what is. A plan made from its own outcome is empty.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut steps = Vec::new();
    let there = |link: &str| observed.links.contains_key(link);
    // Refused by the kernel until the preferred source is an address of the host.
    let waits = |source: &IpAddr| {
        let of_it = |address: &&Address| address.net.addr() == *source;
        let mut on = desired.addresses.iter().filter(of_it).peekable();
        on.peek().is_some() && on.all(|address| !there(&address.link))
    };
    let usable = |target: &Target| match target {
        Target::Unreachable => true,
        Target::Link {
            link,
            preferred_source,
            ..
        } => there(link) && !preferred_source.as_ref().is_some_and(waits),
    };

    let mut over = Vec::new();
    for (&key, target) in &desired.routes {
        let step = match observed.routes.get(&key) {
            Some(present) if present == target => continue,
            _ if !usable(target) => continue,
            Some(_) => Step::ReplaceRoute {
                key,
                target: target.clone(),
            },
            None => Step::AddRoute {
                key,
                target: target.clone(),
            },
        };
        // Refusing first: a range is never without an answer.
        if *target == Target::Unreachable {
            steps.push(step);
        } else {
            over.push(step);
        }
    }
    if let Some(ruleset) = &desired.firewall {
        let (wanted, nothing) = (ruleset.fingerprint(), Fingerprint::default());
        let present = observed.firewall.as_ref();
        if present != Some(&wanted) {
            steps.push(Step::SetFirewall(ruleset.clone()));
        }
        let ports = wanted.changed_udp(present.unwrap_or(&nothing));
        if !ports.is_empty() {
            let targets = ruleset.udp_targets();
            let targets = |port| (port, targets.get(&port).cloned().unwrap_or_default());
            steps.push(Step::ForgetFlows(ports.into_iter().map(targets).collect()));
        }
    }
    for (name, link) in &desired.links {
        if observed.links.get(name).is_some_and(|is| is != link) {
            steps.push(Step::SetLink {
                name: name.clone(),
                link: *link,
            });
        }
    }
    sysctls(desired, observed, &mut steps);
    // Address before route: a preferred source has to be an address of the host.
    for address in desired.addresses.difference(&observed.addresses) {
        if there(&address.link) {
            steps.push(Step::AddAddress(address.clone()));
        }
    }
    for (key, mac) in &desired.neighbours {
        if observed.neighbours.get(key) != Some(mac) && there(&key.link) {
            steps.push(Step::SetNeighbour {
                key: key.clone(),
                mac: *mac,
            });
        }
    }
    steps.append(&mut over);
    removals(desired, observed, &mut steps);
    Plan {
        steps,
        absent_links: absent_links(desired, observed),
    }
}

fn sysctls(desired: &Desired, observed: &Observed, steps: &mut Vec<Step>) {
    let changed = desired
        .sysctls
        .iter()
        .filter(|(key, value)| observed.sysctls.get(*key) != Some(*value));
    // Turning IPv6 forwarding on drops the default routes that router advertisements gave, but for
    // links whose accept_ra is 2: so those first.
    let (first, then): (Vec<_>, Vec<_>) = changed.partition(|(key, _)| key.ends_with("/accept_ra"));
    for (key, value) in first.into_iter().chain(then) {
        steps.push(Step::SetSysctl {
            key: key.clone(),
            value: value.clone(),
        });
    }
}

fn removals(desired: &Desired, observed: &Observed, steps: &mut Vec<Step>) {
    let (refusing, over): (Vec<_>, Vec<_>) = observed
        .routes
        .iter()
        .filter(|(key, _)| !desired.routes.contains_key(key))
        .partition(|(_, target)| **target == Target::Unreachable);
    let remove = |(key, target): (&RouteKey, &Target)| Step::RemoveRoute {
        key: *key,
        target: target.clone(),
    };
    steps.extend(over.into_iter().map(remove));
    for key in observed.neighbours.keys() {
        if !desired.neighbours.contains_key(key) {
            steps.push(Step::RemoveNeighbour(key.clone()));
        }
    }
    for address in observed.addresses.difference(&desired.addresses) {
        steps.push(Step::RemoveAddress(address.clone()));
    }
    steps.extend(refusing.into_iter().map(remove));
    if desired.firewall.is_none() && observed.firewall.is_some() {
        steps.push(Step::RemoveFirewall);
    }
}

fn absent_links(desired: &Desired, observed: &Observed) -> Vec<String> {
    let by_routes = desired.routes.values().filter_map(|target| match target {
        Target::Link { link, .. } => Some(link),
        Target::Unreachable => None,
    });
    let mut absent: Vec<String> = desired
        .links
        .keys()
        .chain(desired.addresses.iter().map(|address| &address.link))
        .chain(desired.neighbours.keys().map(|key| &key.link))
        .chain(by_routes)
        .filter(|link| !observed.links.contains_key(*link))
        .cloned()
        .collect();
    absent.sort();
    absent.dedup();
    absent
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetLink { name, link } => {
                let state = if link.up { "up" } else { "down" };
                write!(f, "set link {name} {state} mtu {}", link.mtu)
            }
            Self::AddAddress(address) => {
                write!(f, "add address {} dev {}", address.net, address.link)
            }
            Self::RemoveAddress(address) => {
                write!(f, "remove address {} dev {}", address.net, address.link)
            }
            Self::AddRoute { key, target } => write!(f, "add route {key} {target}"),
            Self::ReplaceRoute { key, target } => write!(f, "replace route {key} {target}"),
            Self::RemoveRoute { key, target } => write!(f, "remove route {key} {target}"),
            Self::SetNeighbour { key, mac } => {
                write!(f, "set neighbour {} dev {} {mac}", key.address, key.link)
            }
            Self::RemoveNeighbour(key) => {
                write!(f, "remove neighbour {} dev {}", key.address, key.link)
            }
            Self::SetSysctl { key, value } => write!(f, "set sysctl {key} = {value}"),
            Self::SetFirewall(_) => f.write_str("replace table inet weft"),
            Self::RemoveFirewall => f.write_str("remove table inet weft"),
            Self::ForgetFlows(ports) => {
                let ports: Vec<String> = ports.keys().map(u16::to_string).collect();
                write!(f, "forget flows to udp ports {}", ports.join(" "))
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for link in &self.absent_links {
            writeln!(f, "wait for link {link}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
