//! Which node holds which range, by what those who give ranges have said. Pure.
//!
//! A node's ranges are its Node's `podCIDRs`; where there are none, the claims that its Node owns,
//! one of each family. Whatever the node says of itself counts for nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::judge::Rules;
use super::object::Created;
use super::range::Holders;
use super::world::World;
use crate::NodeName;
use crate::discovery::ProblemKind;

/// Every range that is somebody's.
#[derive(Debug, Default)]
pub(super) struct Holdings<'a> {
    /// Sorted ranges of each node.
    pub(super) of: BTreeMap<&'a NodeName, Vec<IpNet>>,
    pub(super) held: Holders<&'a NodeName>,
    /// Whether the cluster gives its nodes ranges.
    pub(super) given: bool,
    pub(super) places: Places<'a>,
    pub(super) findings: Vec<Finding<'a>>,
}

/// Something wrong with a node, in words.
#[derive(Debug)]
pub(super) struct Finding<'a> {
    pub(super) about: &'a NodeName,
    pub(super) kind: ProblemKind,
    pub(super) text: String,
}

/// A range that a node may have, by the age of its right.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Right<'a> {
    created: &'a Created,
    node: &'a NodeName,
    range: IpNet,
}

/// Where the nodes themselves are.
#[derive(Debug, Default)]
pub(super) struct Places<'a>(BTreeMap<IpAddr, &'a NodeName>);

impl<'a> Places<'a> {
    fn of(world: &'a World) -> Self {
        let all = world.nodes.iter();
        Self(
            all.flat_map(|(name, node)| node.addresses.iter().map(move |at| (*at, name)))
                .collect(),
        )
    }

    /// Whether more than one node is inside `range`.
    pub(super) fn cover(&self, range: &IpNet) -> bool {
        self.within(range, None).is_some()
    }

    /// Which nodes are inside `range`, in words, where that is its own node or more than one other.
    /// One other may say so to have the range taken from its holder.
    fn within(&self, range: &IpNet, node: Option<&NodeName>) -> Option<String> {
        let inside = self.0.range(range.network()..=range.broadcast());
        let mut first = None;
        for (_, name) in inside {
            match first {
                _ if node == Some(*name) => return Some("its own address is in it".into()),
                Some(other) if other != name => {
                    return Some(format!("{other} and {name} are in it"));
                }
                _ => first = Some(name),
            }
        }
        None
    }
}

impl<'a> Holdings<'a> {
    /// Of two nodes with overlapping ranges the older has its range, the other has not.
    pub(super) fn of(world: &'a World, rules: &Rules) -> Self {
        let mut holdings = Self {
            given: world.nodes.values().any(|node| !node.ranges.is_empty()),
            places: Places::of(world),
            ..Self::default()
        };
        let claimed = holdings.claimed(world, rules);
        let mut rights = Vec::new();
        for (name, node) in &world.nodes {
            for text in &node.nonsense {
                holdings.find(name, ProblemKind::RangeOverlap, || {
                    format!("node {name} was given {text:?}, which is no range for pods")
                });
            }
            let claims = claimed.get(name).map(Vec::as_slice).unwrap_or_default();
            let ranges = if node.ranges.is_empty() {
                claims
            } else {
                &node.ranges
            };
            rights.extend(ranges.iter().map(|range| Right {
                created: &node.created,
                node: name,
                range: *range,
            }));
        }
        rights.sort_unstable();
        let services = Holders::union(&rules.services);
        for Right { node, range, .. } in rights {
            if let Some((service, ())) = services.overlapping(&range) {
                holdings.find(node, ProblemKind::RangeOverlap, || {
                    format!(
                        "range {range} of node {node} overlaps {service} of the cluster's Services"
                    )
                });
                continue;
            }
            if let Some(there) = holdings.places.within(&range, Some(node)) {
                holdings.find(node, ProblemKind::RangeOverlap, || {
                    format!("range {range} of node {node} covers the nodes' own network: {there}")
                });
                continue;
            }
            match holdings.held.give(range, node) {
                Ok(()) => holdings.of.entry(node).or_default().push(range),
                Err((other, holder)) => {
                    let text = if *holder == node {
                        format!("range {range} of node {node} overlaps its other range {other}")
                    } else {
                        format!(
                            "range {range} of node {node} overlaps {other} of the older node {holder}"
                        )
                    };
                    holdings.find(node, ProblemKind::RangeClash, || text);
                }
            }
        }
        holdings
    }

    /// The claims that count: one of each family a node, the oldest.
    fn claimed(&mut self, world: &'a World, rules: &Rules) -> BTreeMap<&'a NodeName, Vec<IpNet>> {
        let mut claims: Vec<_> = world.claims.values().flatten().collect();
        claims.sort_unstable_by_key(|claim| (&claim.created, claim.range));
        let mut ranges: BTreeMap<&NodeName, Vec<IpNet>> = BTreeMap::new();
        for claim in claims {
            let (name, range) = (&claim.node, claim.range);
            match world.nodes.get(name) {
                Some(node) if node.uid == claim.owner => {}
                // Of a Node that was: the cluster's garbage, soon collected.
                _ => continue,
            }
            if !rules.pools.iter().any(|pool| pool.has_share(&range)) {
                self.find(name, ProblemKind::RangeClash, || {
                    format!("node {name} claims {range}, which is no node's share of the pool")
                });
                continue;
            }
            let of_node = ranges.entry(name).or_default();
            let is_v4 = range.addr().is_ipv4();
            if of_node.iter().any(|other| other.addr().is_ipv4() == is_v4) {
                self.find(name, ProblemKind::RangeClash, || {
                    format!("node {name} claims {range} beside the range that it has")
                });
                continue;
            }
            of_node.push(range);
        }
        for of_node in ranges.values_mut() {
            of_node.sort_unstable();
        }
        ranges
    }

    fn find(&mut self, about: &'a NodeName, kind: ProblemKind, text: impl FnOnce() -> String) {
        self.findings.push(Finding {
            about,
            kind,
            text: text(),
        });
    }
}
