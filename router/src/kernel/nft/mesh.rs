//! The rules that the mesh needs: guard, pods' sources, source NAT, segment size. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ports::{self, Published};
use super::ruleset::{
    Action, AddressKind, Base, Chain, ChainKind, Family, Hook, Links, Match, Rule, Ruleset,
    SetName, Side,
};
use super::set::Set;
use crate::host::{LINK_PREFIX, MESH_LINK};

/// What the rules are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// All that is the mesh's: the pod pool and the ULA, or every range a node has held.
    pub mesh: Vec<IpNet>,
    /// This node's own.
    pub own: Vec<IpNet>,
    /// This node's own addresses in the mesh; the first of each family is used.
    pub addresses: Vec<IpAddr>,
    /// Ports of the host that lead to pods.
    pub ports: Vec<Published>,
}

/// The chain of what arrives in the clear with an address of the mesh.
pub(crate) const GUARD_IN: &str = "guard_in";
/// The chain of what a pod sends with an address that is not its own.
pub(crate) const GUARD_PODS: &str = "guard_pods";
/// The chain of what a peer sends for a third.
pub(crate) const GUARD_TRANSIT: &str = "guard_transit";
/// The chain of what would leave in the clear for an address of the mesh.
pub(crate) const GUARD_OUT: &str = "guard_out";

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The table for these ranges.
pub fn mesh_ruleset(ranges: &Ranges) -> Ruleset {
    let sets = FAMILIES.map(|family| {
        [(mesh(family), &ranges.mesh), (own(family), &ranges.own)]
            .map(|(name, nets)| Set::new(&name.name, family, nets))
    });
    let each = |rules: fn(Family) -> Vec<Rule>| FAMILIES.into_iter().flat_map(rules).collect();
    let mut chains = ports::chains(&ranges.ports);
    chains.extend([
        // Before connection tracking: a forged packet makes no entry.
        filter(GUARD_IN, Hook::Prerouting, -300, each(arrived_in_the_clear)),
        filter(GUARD_PODS, Hook::Prerouting, -300, each(not_its_own)),
        filter(GUARD_TRANSIT, Hook::Prerouting, -300, each(for_a_third)),
        filter("clamp", Hook::Forward, -150, clamp()),
        chain("source_nat", ChainKind::Nat, Hook::Postrouting, 100, {
            let masquerade = FAMILIES.map(masquerade).into_iter();
            let hairpin = ports::to_themselves(&ranges.ports, &ranges.addresses);
            let rules = masquerade.chain(into_the_mesh(&ranges.addresses));
            rules.chain(hairpin).collect()
        }),
        // In postrouting and not in output: there a packet that was just given another
        // destination (a Service's pod) still bears the link of its old route.
        filter(
            GUARD_OUT,
            Hook::Postrouting,
            110,
            each(leaving_in_the_clear),
        ),
    ]);
    Ruleset {
        sets: sets.into_iter().flatten().collect(),
        chains,
    }
}

fn filter(name: &str, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    chain(name, ChainKind::Filter, hook, priority, rules)
}

pub(super) fn chain(
    name: &str,
    kind: ChainKind,
    hook: Hook,
    priority: i32,
    rules: Vec<Rule>,
) -> Chain {
    Chain {
        name: name.to_owned(),
        base: Some(Base {
            kind,
            hook,
            priority,
        }),
        rules,
    }
}

fn mesh(family: Family) -> SetName {
    set_name("mesh", family)
}

fn own(family: Family) -> SetName {
    set_name("own", family)
}

fn set_name(what: &str, family: Family) -> SetName {
    let number = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    SetName {
        name: format!("{what}{number}"),
        family,
    }
}

fn ours() -> Links {
    Links::Prefix(LINK_PREFIX.to_owned())
}

fn named(link: &str) -> Links {
    Links::Named(link.to_owned())
}

/// A packet with an address of the mesh at either end that comes from outside of the mesh. What is
/// meant for a published port has the host's address here: it is given a pod's later, at -100.
fn arrived_in_the_clear(family: Family) -> Vec<Rule> {
    outside_of_ours(family, Side::Source)
}

/// The second layer below the `unreachable` routes: whatever the routing table says, and whatever
/// was not masqueraded. A published port's answer bears the host's address by now.
fn leaving_in_the_clear(family: Family) -> Vec<Rule> {
    outside_of_ours(family, Side::Destination)
}

/// Drops what has an end inside the mesh and passes a link on `side` that is none of the mesh's.
fn outside_of_ours(family: Family, side: Side) -> Vec<Rule> {
    let drop = |end| Rule {
        matches: vec![
            Match::InSet(end, mesh(family)),
            Match::NotLink(side, named("lo")),
            Match::NotLink(side, ours()),
        ],
        action: Action::Drop,
    };
    [Side::Source, Side::Destination].map(drop).into()
}

/// Each pair of nodes has a tunnel of its own. What comes here for another node was sealed for it under
/// a key that two have, a cloned disk's; passed on, it would be given our address, and connection
/// tracking would lead that node's own packets astray for as long as they come.
fn for_a_third(family: Family) -> Vec<Rule> {
    vec![Rule {
        matches: vec![
            Match::Link(Side::Source, named(MESH_LINK)),
            Match::InSet(Side::Destination, mesh(family)),
            Match::NotInSet(Side::Destination, own(family)),
        ],
        action: Action::Drop,
    }]
}

/// By the routes, which lead to each pod over its own link alone: so this holds for a link the
/// moment that it is there, and until its routes are.
fn not_its_own(family: Family) -> Vec<Rule> {
    let of_family = match family {
        Family::V4 => Match::Family(family),
        // Link-local addresses have no route and go no further than the host. Neighbour discovery
        // from the unspecified address is passed by the kernel's lookup itself.
        Family::V6 => Match::Outside(Side::Source, LINK_LOCAL),
    };
    vec![Rule {
        matches: vec![
            Match::Link(Side::Source, ours()),
            Match::NotLink(Side::Source, named(MESH_LINK)),
            of_family,
            Match::SourceIsNotOfLink,
        ],
        action: Action::Drop,
    }]
}

/// fe80::/10 (RFC 4291, section 2.5.6).
const LINK_LOCAL: IpNet = IpNet::V6(ipnet::Ipv6Net::new_assert(
    std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
    10,
));

fn masquerade(family: Family) -> Rule {
    let mut matches = vec![
        Match::InSet(Side::Source, own(family)),
        Match::NotInSet(Side::Destination, mesh(family)),
        Match::NotLink(Side::Destination, ours()),
    ];
    for kind in [
        AddressKind::Local,
        AddressKind::Broadcast,
        AddressKind::Multicast,
    ] {
        matches.push(Match::DestinationIsNot(kind));
    }
    Rule {
        matches,
        action: Action::Masquerade,
    }
}

/// The far end believes sources of this node's ranges alone. What the host sends by another address
/// of its own, to a Service that is a far pod, or passes on for a client, goes as the node's.
fn into_the_mesh(addresses: &[IpAddr]) -> impl Iterator<Item = Rule> {
    let first = |family| {
        addresses
            .iter()
            .copied()
            .find(move |a| Family::of(*a) == family)
    };
    FAMILIES
        .map(first)
        .into_iter()
        .flatten()
        .map(|address| Rule {
            matches: vec![
                Match::Link(Side::Destination, named(MESH_LINK)),
                Match::NotInSet(Side::Source, own(Family::of(address))),
            ],
            action: Action::SourceNat(address),
        })
}

pub(super) fn first_of(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    let mut of_it = addresses
        .iter()
        .copied()
        .filter(|a| Family::of(*a) == family);
    of_it.next()
}

/// Both ways: the packet that opens a connection and the one that answers it.
fn clamp() -> Vec<Rule> {
    [Side::Source, Side::Destination]
        .into_iter()
        .map(|side| Rule {
            matches: vec![Match::Link(side, ours()), Match::TcpSyn],
            action: Action::ClampMss,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(mesh: &[&str], own: &[&str]) -> Ranges {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Ranges {
            mesh: nets(mesh),
            own: nets(own),
            ..Ranges::default()
        }
    }

    #[test]
    fn the_table_of_a_node() {
        let ranges = Ranges {
            addresses: ["10.32.1.1", "10.32.1.9", "fd00:77:0:1::1"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            ..ranges(
                &["10.32.0.0/12", "fd00:77::/48"],
                &["10.32.1.0/24", "fd00:77:0:1::/64"],
            )
        };
        assert_eq!(
            mesh_ruleset(&ranges).to_string(),
            r#"table inet weft {
	set mesh4 {
		type ipv4_addr
		flags constant,interval
		elements = { 10.32.0.0/12 }
	}
	set own4 {
		type ipv4_addr
		flags constant,interval
		elements = { 10.32.1.0/24 }
	}
	set mesh6 {
		type ipv6_addr
		flags constant,interval
		elements = { fd00:77::/48 }
	}
	set own6 {
		type ipv6_addr
		flags constant,interval
		elements = { fd00:77:0:1::/64 }
	}
	chain guard_in {
		type filter hook prerouting priority -300; policy accept;
		ip saddr @mesh4 iifname != "lo" iifname != "weft*" counter drop
		ip daddr @mesh4 iifname != "lo" iifname != "weft*" counter drop
		ip6 saddr @mesh6 iifname != "lo" iifname != "weft*" counter drop
		ip6 daddr @mesh6 iifname != "lo" iifname != "weft*" counter drop
	}
	chain guard_pods {
		type filter hook prerouting priority -300; policy accept;
		iifname "weft*" iifname != "weft0" meta nfproto ipv4 fib saddr . iif oif missing counter drop
		iifname "weft*" iifname != "weft0" ip6 saddr != fe80::/10 fib saddr . iif oif missing counter drop
	}
	chain guard_transit {
		type filter hook prerouting priority -300; policy accept;
		iifname "weft0" ip daddr @mesh4 ip daddr != @own4 counter drop
		iifname "weft0" ip6 daddr @mesh6 ip6 daddr != @own6 counter drop
	}
	chain clamp {
		type filter hook forward priority -150; policy accept;
		iifname "weft*" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
		oifname "weft*" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
	}
	chain source_nat {
		type nat hook postrouting priority 100; policy accept;
		ip saddr @own4 ip daddr != @mesh4 oifname != "weft*" fib daddr type != local fib daddr type != broadcast fib daddr type != multicast masquerade fully-random
		ip6 saddr @own6 ip6 daddr != @mesh6 oifname != "weft*" fib daddr type != local fib daddr type != broadcast fib daddr type != multicast masquerade fully-random
		oifname "weft0" ip saddr != @own4 snat ip to 10.32.1.1
		oifname "weft0" ip6 saddr != @own6 snat ip6 to fd00:77:0:1::1
	}
	chain guard_out {
		type filter hook postrouting priority 110; policy accept;
		ip saddr @mesh4 oifname != "lo" oifname != "weft*" counter drop
		ip daddr @mesh4 oifname != "lo" oifname != "weft*" counter drop
		ip6 saddr @mesh6 oifname != "lo" oifname != "weft*" counter drop
		ip6 daddr @mesh6 oifname != "lo" oifname != "weft*" counter drop
	}
}
"#
        );
    }

    #[test]
    fn the_order_and_host_bits_of_ranges_do_not_matter() {
        let one = ranges(&["10.32.0.0/12", "10.64.0.0/16"], &["10.32.1.0/24"]);
        let other = ranges(
            &["10.64.3.0/16", "10.33.0.0/12", "10.64.0.0/16"],
            &["10.32.1.9/24"],
        );
        assert_eq!(mesh_ruleset(&one), mesh_ruleset(&other));
    }

    #[test]
    fn tables_of_other_ranges_have_other_fingerprints() {
        let of = |own| mesh_ruleset(&ranges(&["10.32.0.0/12"], own)).fingerprint();
        assert_eq!(of(&["10.32.1.0/24"]), of(&["10.32.1.0/24"]));
        assert_ne!(of(&["10.32.1.0/24"]), of(&["10.32.2.0/24"]));
        assert_ne!(of(&["10.32.1.0/24"]), of(&[]));
    }
}
