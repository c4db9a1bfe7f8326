//! The rules that the mesh needs: guard, masquerade, segment size. Pure.

use ipnet::IpNet;

use super::ruleset::{
    Action, AddressKind, Chain, ChainKind, Hook, Links, Match, Rule, Ruleset, Side,
};
use crate::host::LINK_PREFIX;

/// The ranges that the rules are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// All that is the mesh's: the pod pool and the ULA, or every range a node has held.
    pub mesh: Vec<IpNet>,
    /// This node's own.
    pub own: Vec<IpNet>,
}

/// The chain of what arrives in the clear with an address of the mesh.
pub(crate) const GUARD_IN: &str = "guard_in";
/// The chain of what would leave in the clear for an address of the mesh.
pub(crate) const GUARD_OUT: &str = "guard_out";

/// The table for these ranges.
pub fn mesh_ruleset(ranges: &Ranges) -> Ruleset {
    let mut mesh: Vec<IpNet> = ranges.mesh.iter().map(IpNet::trunc).collect();
    let mut own: Vec<IpNet> = ranges.own.iter().map(IpNet::trunc).collect();
    for list in [&mut mesh, &mut own] {
        list.sort();
        list.dedup();
    }
    Ruleset {
        chains: vec![
            // Before connection tracking: a forged packet makes no entry.
            chain(GUARD_IN, ChainKind::Filter, Hook::Prerouting, -300, {
                mesh.iter().flat_map(arrived_in_the_clear).collect()
            }),
            chain("clamp", ChainKind::Filter, Hook::Forward, -150, clamp()),
            chain("source_nat", ChainKind::Nat, Hook::Postrouting, 100, {
                own.iter().map(|own| masquerade(own, &mesh)).collect()
            }),
            // In postrouting and not in output: there a packet that was just given another
            // destination (a Service's pod) still bears the link of its old route.
            chain(GUARD_OUT, ChainKind::Filter, Hook::Postrouting, 110, {
                mesh.iter().flat_map(leaving_in_the_clear).collect()
            }),
        ],
    }
}

fn chain(name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name: name.to_owned(),
        kind,
        hook,
        priority,
        rules,
    }
}

fn ours() -> Links {
    Links::Prefix(LINK_PREFIX.to_owned())
}

fn loopback() -> Links {
    Links::Named("lo".to_owned())
}

/// A packet with an address of the mesh at either end that comes from outside of the mesh. What is
/// meant for a published port has the host's address here: it is given a pod's later, at -100.
fn arrived_in_the_clear(range: &IpNet) -> [Rule; 2] {
    outside_of_ours(range, Side::Source)
}

/// The second layer below the `unreachable` routes: whatever the routing table says, and whatever
/// was not masqueraded. A published port's answer bears the host's address by now.
fn leaving_in_the_clear(range: &IpNet) -> [Rule; 2] {
    outside_of_ours(range, Side::Destination)
}

/// Drops what has an end inside `range` and passes a link on `side` that is none of the mesh's.
fn outside_of_ours(range: &IpNet, side: Side) -> [Rule; 2] {
    [Side::Source, Side::Destination].map(|end| Rule {
        matches: vec![
            Match::Inside(end, *range),
            Match::NotLink(side, loopback()),
            Match::NotLink(side, ours()),
        ],
        action: Action::Drop,
    })
}

fn masquerade(own: &IpNet, mesh: &[IpNet]) -> Rule {
    let mut matches = vec![Match::Inside(Side::Source, *own)];
    matches.extend(
        mesh.iter()
            .filter(|range| range.addr().is_ipv4() == own.addr().is_ipv4())
            .map(|range| Match::Outside(Side::Destination, *range)),
    );
    matches.push(Match::NotLink(Side::Destination, ours()));
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
        }
    }

    #[test]
    fn the_table_of_a_node() {
        let table = mesh_ruleset(&ranges(
            &["10.32.0.0/12", "fd00:77::/48"],
            &["10.32.1.0/24", "fd00:77:0:1::/64"],
        ));
        assert_eq!(
            table.to_string(),
            r#"table inet weft {
	chain guard_in {
		type filter hook prerouting priority -300; policy accept;
		ip saddr 10.32.0.0/12 iifname != "lo" iifname != "weft*" counter drop
		ip daddr 10.32.0.0/12 iifname != "lo" iifname != "weft*" counter drop
		ip6 saddr fd00:77::/48 iifname != "lo" iifname != "weft*" counter drop
		ip6 daddr fd00:77::/48 iifname != "lo" iifname != "weft*" counter drop
	}
	chain clamp {
		type filter hook forward priority -150; policy accept;
		iifname "weft*" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
		oifname "weft*" tcp flags syn / syn,rst tcp option maxseg size set rt mtu
	}
	chain source_nat {
		type nat hook postrouting priority 100; policy accept;
		ip saddr 10.32.1.0/24 ip daddr != 10.32.0.0/12 oifname != "weft*" fib daddr type != local fib daddr type != broadcast fib daddr type != multicast masquerade fully-random
		ip6 saddr fd00:77:0:1::/64 ip6 daddr != fd00:77::/48 oifname != "weft*" fib daddr type != local fib daddr type != broadcast fib daddr type != multicast masquerade fully-random
	}
	chain guard_out {
		type filter hook postrouting priority 110; policy accept;
		ip saddr 10.32.0.0/12 oifname != "lo" oifname != "weft*" counter drop
		ip daddr 10.32.0.0/12 oifname != "lo" oifname != "weft*" counter drop
		ip6 saddr fd00:77::/48 oifname != "lo" oifname != "weft*" counter drop
		ip6 daddr fd00:77::/48 oifname != "lo" oifname != "weft*" counter drop
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
