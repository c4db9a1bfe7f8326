//! Ports of the host that lead to pods (`hostPort`), as chains of our table. Pure.
//!
//! The client's address is kept. A pod that asks for itself by the host's address is the exception:
//! it would refuse a packet from its own address. What a process of the host sends *from* a loopback
//! address is left alone: the kernel routes such a packet to no pod, unless `route_localnet` is set.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use weft_cni::Protocol;

use super::Nftnetlink;
use super::mesh::{chain, first_of};
use super::observe::comments;
use super::ruleset::{
    Action, AddressKind, Chain, ChainKind, Family, Hashes, Hook, Match, Rule, Side,
};

/// A port of the host, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub protocol: Protocol,
    /// The host's address that it is on; `None` for each one of the family of `to`.
    pub host: Option<IpAddr>,
    pub port: u16,
    /// A pod's address, and the port there.
    pub to: SocketAddr,
}

/// The chain of the ports themselves, one rule each.
pub(crate) const PORTS: &str = "host_ports";

/// Behind kube-proxy's chains, which are at -100: a Service that has the same port goes first.
const PRIORITY: i32 = -99;

/// Those whose rules are not in our table.
pub(crate) fn missing(
    netlink: &mut Nftnetlink,
    mut wanted: Vec<Published>,
) -> io::Result<Vec<Published>> {
    let present: BTreeSet<String> = comments(netlink, PORTS)?.into_iter().collect();
    wanted.retain(|port| !present.contains(&forward(port).comment(&Hashes::new())));
    Ok(wanted)
}

/// Nothing where there are no ports.
pub(super) fn chains(ports: &[Published]) -> Vec<Chain> {
    if ports.is_empty() {
        return Vec::new();
    }
    let mut sorted = ports.to_vec();
    // One that is on a certain address before those that are on all of them.
    sorted.sort_by(|a, b| (a.host.is_none(), a).cmp(&(b.host.is_none(), b)));
    sorted.dedup();
    let nat = |name, hook, rules| chain(name, ChainKind::Nat, hook, PRIORITY, rules);
    vec![
        Chain {
            name: PORTS.to_owned(),
            base: None,
            rules: sorted.iter().map(forward).collect(),
        },
        nat("ports_in", Hook::Prerouting, vec![local(None)]),
        nat(
            "ports_out",
            Hook::Output,
            LOOPBACKS.map(Some).map(local).into(),
        ),
    ]
}

/// Source NAT of what a pod sends to a port of the host and so to itself.
pub(super) fn to_themselves(ports: &[Published], addresses: &[IpAddr]) -> Vec<Rule> {
    let pods: BTreeSet<IpAddr> = ports.iter().map(|port| port.to.ip()).collect();
    pods.into_iter()
        .filter_map(|pod| {
            let ends = [Side::Source, Side::Destination];
            Some(Rule {
                matches: ends.map(|end| Match::Inside(end, pod.into())).into(),
                action: Action::SourceNat(first_of(addresses, Family::of(pod))?),
            })
        })
        .collect()
}

const LOOPBACKS: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// What is for this host, but not from `except`.
fn local(except: Option<IpNet>) -> Rule {
    let mut matches: Vec<Match> = except
        .map(|range| Match::Outside(Side::Source, range.trunc()))
        .into_iter()
        .collect();
    matches.push(Match::DestinationIs(AddressKind::Local));
    Rule {
        matches,
        action: Action::Jump(PORTS.to_owned()),
    }
}

fn forward(port: &Published) -> Rule {
    let to = match port.host {
        Some(host) => Match::Inside(Side::Destination, host.into()),
        None => Match::Family(Family::of(port.to.ip())),
    };
    Rule {
        matches: vec![to, Match::Port(port.protocol, port.port)],
        action: Action::DestinationNat(port.to),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ranges, mesh_ruleset};
    use super::*;

    fn published(protocol: Protocol, host: Option<&str>, port: u16, to: &str) -> Published {
        Published {
            protocol,
            host: host.map(|text| text.parse().unwrap()),
            port,
            to: to.parse().unwrap(),
        }
    }

    fn table(ports: Vec<Published>) -> super::super::Ruleset {
        mesh_ruleset(&Ranges {
            addresses: vec![
                "10.32.1.1".parse().unwrap(),
                "fd00:77:0:1::1".parse().unwrap(),
            ],
            ports,
            ..Ranges::default()
        })
    }

    #[test]
    fn the_chains_of_ports() {
        let text = table(vec![
            published(Protocol::Tcp, None, 8080, "10.32.1.7:80"),
            published(Protocol::Tcp, None, 8080, "[fd00:77:0:1::7]:80"),
            published(Protocol::Udp, Some("192.0.2.1"), 53, "10.32.1.8:53"),
        ])
        .to_string();
        for wanted in [
            r#"	chain host_ports {
		ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.32.1.8:53
		meta nfproto ipv4 tcp dport 8080 dnat ip to 10.32.1.7:80
		meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd00:77:0:1::7]:80
	}
	chain ports_in {
		type nat hook prerouting priority -99; policy accept;
		fib daddr type local jump host_ports
	}
	chain ports_out {
		type nat hook output priority -99; policy accept;
		ip saddr != 127.0.0.0/8 fib daddr type local jump host_ports
		ip6 saddr != ::1 fib daddr type local jump host_ports
	}
"#,
            "\t\tip saddr 10.32.1.7 ip daddr 10.32.1.7 snat ip to 10.32.1.1\n",
            "\t\tip6 saddr fd00:77:0:1::7 ip6 daddr fd00:77:0:1::7 snat ip6 to fd00:77:0:1::1\n",
        ] {
            assert!(text.contains(wanted), "{wanted}\n is not in\n{text}");
        }
        assert!(!table(Vec::new()).to_string().contains("host_ports"));
    }

    #[test]
    fn the_udp_ports_that_changed_are_told_by_fingerprints() {
        let old = table(vec![
            published(Protocol::Udp, None, 53, "10.32.1.7:53"),
            published(Protocol::Udp, None, 99, "10.32.1.7:99"),
            published(Protocol::Tcp, None, 80, "10.32.1.7:80"),
        ]);
        let new = table(vec![
            published(Protocol::Udp, None, 53, "10.32.1.8:53"),
            published(Protocol::Udp, None, 99, "10.32.1.7:99"),
            published(Protocol::Udp, None, 7, "10.32.1.7:7"),
        ]);
        let changed = new.fingerprint().changed_udp(&old.fingerprint());
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), [7, 53]);
    }
}
