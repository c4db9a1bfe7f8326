//! Plans against the host in memory: every step is one that a kernel would take.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::host::Host;
use crate::kernel::fake::FakeHost;
use crate::kernel::nft::{Fingerprint, Ranges, Ruleset, mesh_ruleset};

const LINKS: [&str; 3] = ["weft0", "weft1a", "weft2b"];
const RANGES: [&str; 6] = [
    "10.32.0.0/12",
    "10.32.1.0/24",
    "10.32.1.7/32",
    "fd00:1::/48",
    "fd00:1:0:1::/64",
    "fd00:1:0:1::7/128",
];
const OWN: [&str; 4] = ["10.32.1.1", "10.32.2.1", "fd00:1:0:1::1", "fd00:1:0:2::1"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ruleset(own: &str) -> Ruleset {
    mesh_ruleset(&Ranges {
        mesh: vec![net("10.32.0.0/12")],
        own: vec![net(own)],
        ..Ranges::default()
    })
}

/// A host that a kernel could be in, with every link up.
fn hosts() -> impl Strategy<Value = Host<Ruleset>> {
    let links = subsequence(LINKS.to_vec(), 0..=LINKS.len());
    links.prop_flat_map(|links| {
        let mtus = proptest::collection::vec(select(vec![1280, 1420]), links.len());
        let own = if links.is_empty() { 0 } else { OWN.len() };
        let addresses = subsequence(OWN.to_vec(), 0..=own);
        (Just(links), mtus, addresses).prop_flat_map(|(links, mtus, own)| {
            let link = select(if links.is_empty() {
                vec![""]
            } else {
                links.clone()
            });
            let addresses = proptest::collection::vec(link.clone(), own.len());
            let routes = subsequence(RANGES.to_vec(), 0..=RANGES.len());
            let targets = proptest::collection::vec(
                (
                    link.clone(),
                    proptest::option::of(0..OWN.len()),
                    any::<bool>(),
                ),
                RANGES.len(),
            );
            let refusing = subsequence(RANGES.to_vec(), 0..=RANGES.len());
            let neighbours = proptest::collection::btree_map(
                (link, select(OWN.to_vec())),
                any::<[u8; 6]>(),
                0..3,
            );
            let firewall = proptest::option::of(select(vec!["10.32.1.0/24", "10.32.2.0/24"]));
            let forwards = select(vec!["0", "1"]);
            (
                addresses, routes, targets, refusing, neighbours, firewall, forwards,
            )
                .prop_map(
                    move |(on, routes, targets, refusing, neighbours, firewall, forwards)| {
                        let links_up = links.iter().zip(&mtus).map(|(name, mtu)| {
                            (
                                (*name).to_owned(),
                                Link {
                                    mtu: *mtu,
                                    up: true,
                                },
                            )
                        });
                        let over =
                            |(range, (link, source, mtu)): (&str, (&str, Option<usize>, bool))| {
                                let range = net(range);
                                let source = source
                                    .and_then(|index| own.get(index))
                                    .map(|text| {
                                        net(&format!("{text}/{}", range.max_prefix_len().min(32)))
                                            .addr()
                                    })
                                    .filter(|source| source.is_ipv4() == range.addr().is_ipv4());
                                let target = Target::Link {
                                    link: link.to_owned(),
                                    preferred_source: source,
                                    mtu: mtu.then_some(1280),
                                };
                                (RouteKey::over(range), target)
                            };
                        let mut all: BTreeMap<RouteKey, Target> = refusing
                            .into_iter()
                            .map(|range| (RouteKey::unreachable(net(range)), Target::Unreachable))
                            .collect();
                        if !links.is_empty() {
                            all.extend(routes.into_iter().zip(targets).map(over));
                        }
                        Host {
                            addresses: own
                                .iter()
                                .zip(&on)
                                .map(|(text, link)| Address {
                                    link: (*link).to_owned(),
                                    net: text.parse::<IpAddr>().unwrap().into(),
                                })
                                .collect::<BTreeSet<_>>(),
                            routes: all,
                            neighbours: neighbours
                                .into_iter()
                                .filter(|_| !links.is_empty())
                                .map(|((link, address), mac)| {
                                    let (link, address) =
                                        (link.to_owned(), address.parse().unwrap());
                                    (NeighbourKey { link, address }, Mac(mac))
                                })
                                .collect(),
                            sysctls: [
                                ("net/ipv4/ip_forward", forwards),
                                ("net/ipv6/conf/all/forwarding", forwards),
                                ("net/ipv6/conf/eth0/accept_ra", "2"),
                            ]
                            .map(|(key, value)| (key.to_owned(), value.to_owned()))
                            .into(),
                            firewall: firewall.map(ruleset),
                            links: links_up.collect(),
                        }
                    },
                )
        })
    })
}

fn seen(host: Host<Ruleset>) -> Observed {
    let firewall: Option<Fingerprint> = host.firewall.as_ref().map(Ruleset::fingerprint);
    Host {
        links: host.links,
        addresses: host.addresses,
        routes: host.routes,
        neighbours: host.neighbours,
        sysctls: host.sysctls,
        firewall,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_is_possible_and_a_second_plan_is_empty(
        desired in hosts(),
        before in hosts(),
        absent in any::<bool>(),
    ) {
        let mut before = seen(before);
        if !absent {
            for (name, link) in &desired.links {
                before.links.entry(name.clone()).or_insert(Link { up: false, ..*link });
            }
        }
        let host = FakeHost::new(before.clone());
        let steps = plan(&desired, &before);
        let refusing: Vec<&RouteKey> = desired
            .routes
            .iter()
            .filter(|(_, target)| **target == Target::Unreachable)
            .map(|(key, _)| key)
            .collect();
        for (index, step) in steps.steps.iter().enumerate() {
            host.step(step).map_err(|error| {
                TestCaseError::fail(format!("{step}: {error}\nof\n{steps}\nfrom\n{before}"))
            })?;
            // Every range that shall be refused is so before anything else is touched, and stays so.
            if index + 1 >= refusing.len() {
                for key in &refusing {
                    prop_assert!(host.now().routes.contains_key(key), "{} after {}", key, step);
                }
            }
        }
        let after = host.now();
        let again = plan(&desired, &after);
        prop_assert!(again.is_empty(), "again\n{again}\nafter\n{steps}");
        if again.absent_links.is_empty() {
            let mut wanted = seen(desired);
            for (name, link) in &after.links {
                wanted.links.entry(name.clone()).or_insert(*link);
            }
            prop_assert_eq!(after.to_string(), wanted.to_string());
        }
    }

    #[test]
    fn forwarding_comes_after_the_guard_and_after_what_keeps_the_default_route(
        desired in hosts(),
        before in hosts(),
    ) {
        let mut before = seen(before);
        before.sysctls.insert("net/ipv6/conf/eth0/accept_ra".to_owned(), "1".to_owned());
        let steps = plan(&desired, &before).steps;
        let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted);
        let forwarding = at(&|step| {
            matches!(step, Step::SetSysctl { key, .. } if key.ends_with("forwarding"))
        });
        let guard = at(&|step| matches!(step, Step::SetFirewall(_)));
        let accept = at(&|step| {
            matches!(step, Step::SetSysctl { key, .. } if key.ends_with("accept_ra"))
        });
        if let Some(forwarding) = forwarding {
            prop_assert!(guard.is_none_or(|guard| guard < forwarding));
            prop_assert!(accept.is_some_and(|accept| accept < forwarding));
        }
    }
}

fn small() -> Desired {
    Desired {
        links: [(
            "weft0".to_owned(),
            Link {
                mtu: 1420,
                up: true,
            },
        )]
        .into(),
        addresses: [Address {
            link: "weft0".to_owned(),
            net: net("10.32.1.1/32"),
        }]
        .into(),
        routes: [
            (
                RouteKey::unreachable(net("10.32.0.0/12")),
                Target::Unreachable,
            ),
            (
                RouteKey::over(net("10.32.2.0/24")),
                Target::Link {
                    link: "weft0".to_owned(),
                    preferred_source: Some("10.32.1.1".parse().unwrap()),
                    mtu: Some(1400),
                },
            ),
        ]
        .into(),
        sysctls: [("net/ipv4/ip_forward".to_owned(), "1".to_owned())].into(),
        firewall: Some(ruleset("10.32.1.0/24")),
        ..Desired::default()
    }
}

#[test]
fn a_new_host_is_brought_up_in_order() {
    let host = FakeHost::default();
    let down = Link {
        mtu: 1500,
        up: false,
    };
    host.set_link("weft0", Some(down));
    assert_eq!(
        plan(&small(), &host.now()).to_string(),
        "add route 10.32.0.0/12 metric 4294967295 unreachable\n\
         replace table inet weft\n\
         set link weft0 up mtu 1420\n\
         set sysctl net/ipv4/ip_forward = 1\n\
         add address 10.32.1.1/32 dev weft0\n\
         add route 10.32.2.0/24 metric 50 dev weft0 src 10.32.1.1 mtu 1400\n"
    );
}

#[test]
fn without_its_link_a_host_still_refuses() {
    assert_eq!(
        plan(&small(), &Observed::default()).to_string(),
        "add route 10.32.0.0/12 metric 4294967295 unreachable\n\
         replace table inet weft\n\
         set sysctl net/ipv4/ip_forward = 1\n\
         wait for link weft0\n"
    );
}

#[test]
fn a_pods_route_waits_for_the_source_it_prefers() {
    let mut desired = small();
    desired.routes.insert(
        RouteKey::over(net("10.32.1.7/32")),
        Target::Link {
            link: "weft1a".to_owned(),
            preferred_source: Some("10.32.1.1".parse().unwrap()),
            mtu: None,
        },
    );
    let host = FakeHost::default();
    let up = Link {
        mtu: 1420,
        up: true,
    };
    host.set_link("weft1a", Some(up));
    let steps = plan(&desired, &host.now()).to_string();
    assert!(!steps.contains("weft1a"), "{steps}");
    host.set_link("weft0", Some(up));
    let steps = plan(&desired, &host.now()).to_string();
    assert!(steps.contains("dev weft1a src 10.32.1.1"), "{steps}");
}

#[test]
fn all_is_taken_away_in_reverse() {
    let host = FakeHost::new(seen(small()));
    assert_eq!(
        plan(&Desired::default(), &host.now()).to_string(),
        "remove route 10.32.2.0/24 metric 50 dev weft0 src 10.32.1.1 mtu 1400\n\
         remove address 10.32.1.1/32 dev weft0\n\
         remove route 10.32.0.0/12 metric 4294967295 unreachable\n\
         remove table inet weft\n"
    );
}

#[test]
fn a_host_prints_itself_sorted() {
    let mut host = small();
    host.neighbours.insert(
        NeighbourKey {
            link: "weft1a".to_owned(),
            address: "10.32.1.7".parse().unwrap(),
        },
        Mac([6, 0, 0, 0, 0, 1]),
    );
    host.firewall = None;
    assert_eq!(
        host.to_string(),
        "link weft0 up mtu 1420\n\
         address 10.32.1.1/32 dev weft0\n\
         route 10.32.0.0/12 metric 4294967295 unreachable\n\
         route 10.32.2.0/24 metric 50 dev weft0 src 10.32.1.1 mtu 1400\n\
         neighbour 10.32.1.7 dev weft1a 06:00:00:00:00:01\n\
         sysctl net/ipv4/ip_forward = 1\n"
    );
}
