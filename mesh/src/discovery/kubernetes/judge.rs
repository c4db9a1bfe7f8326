//! Who is in the mesh and what this node holds, out of what the API has said. Pure: equal inputs
//! give equal output.
//!
//! Nobody is believed beyond what is theirs. A member is a Node with a `WeftNode` of its name that
//! it owns and that its identity has signed; its ranges are those that the cluster gave it
//! ([`Holdings`]); its endpoints lie neither in the mesh nor among the cluster's Services.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::holders::{Finding, Holdings};
use super::object::{Advert, Created};
use super::range::{Holders, Pool};
use super::world::World;
use crate::discovery::{Own, Problem, ProblemKind};
use crate::endpoint::is_usable;
use crate::{Endpoint, Member, NodeId, NodeName, PublicKey, Roster};

/// More problems than these are counted alone.
const MAX_PROBLEMS: usize = 32;
/// So many nodes, the first by name, tell the cluster of what is wrong with another.
const TELLERS: usize = 3;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Me {
    pub(super) name: NodeName,
    pub(super) id: NodeId,
    pub(super) public_key: PublicKey,
}

/// What is set for the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// What shares are taken from where the cluster gives no ranges.
    pub(super) pools: Vec<Pool>,
    /// Fails closed whoever holds it.
    pub(super) closed: Vec<IpNet>,
    /// The cluster's Services.
    pub(super) services: Vec<IpNet>,
}

/// What was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    /// What this node held.
    pub(super) own: Vec<IpNet>,
    /// What anybody has ever held.
    pub(super) held: BTreeSet<IpNet>,
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) own: Own,
    pub(super) roster: Roster,
    /// Every range that is somebody's or was.
    pub(super) held: BTreeSet<IpNet>,
    /// What this node tells the cluster of.
    pub(super) notices: Vec<Problem>,
    /// An older node has this node's identity or key: it must make itself new ones.
    pub(super) cloned: Option<String>,
}

pub(super) fn judge(world: &World, me: &Me, rules: &Rules, past: &Past) -> Judgement {
    let mut holdings = Holdings::of(world, rules);
    let mut findings = std::mem::take(&mut holdings.findings);
    let signed = signed(world, &mut findings);
    let keys = Keys::of(&signed, me);
    // A range given by mistake that the nodes' own network lies in is not to shut that for ever.
    let past_held = past
        .held
        .iter()
        .filter(|range| !holdings.places.cover(range));
    let held: BTreeSet<IpNet> = past_held
        .chain(holdings.of.values().flatten())
        .copied()
        .collect();
    let in_use = rules
        .pools
        .iter()
        .filter(|_| uses_pool(world, me, &holdings));
    let pools: BTreeSet<IpNet> = (rules.closed.iter().copied())
        .chain(held.iter().copied())
        .chain(in_use.map(|pool| pool.range))
        .collect();
    let closed = Closed {
        mesh: Holders::union(&pools),
        services: Holders::union(&rules.services),
    };
    let mut roster = Roster::default();
    for (name, advert) in &signed {
        if let Some(finding) = keys.fault(name, advert) {
            findings.push(finding);
            continue;
        }
        if *name == &me.name {
            continue;
        }
        let member = Member {
            id: advert.id,
            name: (*name).clone(),
            public_key: advert.public_key,
            endpoints: closed.endpoints(name, advert, &mut findings),
            pod_cidrs: holdings.of.get(name).cloned().unwrap_or_default(),
            names: Vec::new(),
            away: false,
        };
        roster.members.insert(advert.id, member);
    }
    let cloned = keys.cloned(me);
    findings.extend(cloned.iter().map(|text| Finding {
        about: &me.name,
        kind: ProblemKind::Cloned,
        text: text.clone(),
    }));
    let tells = signed.keys().take(TELLERS).any(|name| *name == &me.name);
    let notices = findings.iter().filter(|f| tells || *f.about == me.name);
    let notices = problems(notices);
    let (ranges, unready) = standing(world, me, past, &holdings);
    Judgement {
        own: Own {
            id: me.id,
            name: me.name.clone(),
            ranges,
            pools: pools.into_iter().collect(),
            services: rules.services.clone(),
            unready,
            observed: Vec::new(),
            problems: problems(findings.iter()),
            forgotten: None,
        },
        roster,
        held,
        notices,
        cloned,
    }
}

/// Nodes with a `WeftNode` that is theirs.
fn signed<'a>(
    world: &'a World,
    findings: &mut Vec<Finding<'a>>,
) -> BTreeMap<&'a NodeName, &'a Advert> {
    let mut signed = BTreeMap::new();
    for (name, told) in &world.adverts {
        // Without its Node it is the cluster's garbage, soon collected; so it is if another Node of
        // that name owned it.
        let Some(node) = world.nodes.get(name) else {
            continue;
        };
        match told {
            Ok(advert) if advert.owner == node.uid => {
                signed.insert(name, advert);
            }
            Ok(_) => {}
            Err(why) => findings.push(Finding {
                about: name,
                kind: ProblemKind::PeerRefused,
                text: format!("the WeftNode of {name} is refused: {why}"),
            }),
        }
    }
    signed
}

/// Which node has which identity and key: of two with the same one the older has it.
struct Keys<'a> {
    ids: BTreeMap<NodeId, &'a NodeName>,
    keys: BTreeMap<PublicKey, &'a NodeName>,
}

impl<'a> Keys<'a> {
    fn of(signed: &BTreeMap<&'a NodeName, &'a Advert>, me: &'a Me) -> Self {
        let mut by_age: Vec<(&Created, &NodeName, NodeId, PublicKey)> = signed
            .iter()
            .filter(|(name, _)| **name != &me.name)
            .map(|(name, advert)| (&advert.created, *name, advert.id, advert.public_key))
            .collect();
        // This node has what it has on disk, whether it could tell of that yet or not.
        if let Some(mine) = signed.get(&me.name)
            && mine.id == me.id
            && mine.public_key == me.public_key
        {
            by_age.push((&mine.created, &me.name, me.id, me.public_key));
        }
        by_age.sort_unstable();
        let mut keys = Self {
            ids: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        for (_, name, id, key) in by_age {
            keys.ids.entry(id).or_insert(name);
            keys.keys.entry(key).or_insert(name);
        }
        keys
    }

    /// Whose of the two is not this node's.
    fn other(
        &self,
        name: &NodeName,
        id: NodeId,
        key: PublicKey,
    ) -> Option<(&'static str, &NodeName)> {
        let other = |holder: Option<&&'a NodeName>| holder.copied().filter(|h| *h != name);
        let by_id = other(self.ids.get(&id)).map(|holder| ("identity", holder));
        by_id.or_else(|| other(self.keys.get(&key)).map(|holder| ("WireGuard key", holder)))
    }

    fn fault(&self, name: &'a NodeName, advert: &Advert) -> Option<Finding<'a>> {
        let (what, holder) = self.other(name, advert.id, advert.public_key)?;
        Some(Finding {
            about: name,
            kind: ProblemKind::Cloned,
            text: format!(
                "node {name} has the {what} of the older node {holder}: was its disk copied?"
            ),
        })
    }

    fn cloned(&self, me: &Me) -> Option<String> {
        let (what, holder) = self.other(&me.name, me.id, me.public_key)?;
        Some(format!(
            "this node's {what} is that of the older node {holder}; it makes itself a new one"
        ))
    }
}

/// Where no endpoint lies.
struct Closed {
    mesh: Holders<()>,
    services: Holders<()>,
}

impl Closed {
    fn endpoints<'a>(
        &self,
        name: &'a NodeName,
        advert: &Advert,
        findings: &mut Vec<Finding<'a>>,
    ) -> Vec<Endpoint> {
        let mut kept = Vec::new();
        for endpoint in &advert.endpoints {
            match self.fault(endpoint) {
                None => kept.push(endpoint.clone()),
                Some(why) => findings.push(Finding {
                    about: name,
                    kind: ProblemKind::PeerRefused,
                    text: format!("endpoint {endpoint} of node {name} is refused: {why}"),
                }),
            }
        }
        kept
    }

    fn fault(&self, endpoint: &Endpoint) -> Option<String> {
        let address = match endpoint {
            Endpoint::Address(address) if address.port() != 0 => address.ip(),
            Endpoint::Name { port: 1.., .. } => return None,
            _ => return Some("it has no port".into()),
        };
        if !is_usable(address) {
            return Some("no other node can reach such an address".into());
        }
        let inside = |(range, ()): &(IpNet, ()), of| format!("it lies in {range} of the {of}");
        let mesh = self.mesh.holds(address).map(|held| inside(held, "mesh"));
        mesh.or_else(|| {
            let services = self.services.holds(address);
            services.map(|held| inside(held, "cluster's Services"))
        })
    }
}

/// Whether shares of the pool are, or will be, nodes' ranges.
fn uses_pool(world: &World, me: &Me, holdings: &Holdings<'_>) -> bool {
    let is_new = world.nodes.contains_key(&me.name) && !holdings.given;
    is_new || world.claims.values().any(Result::is_ok)
}

/// This node's ranges, and why it may not be given any pods.
fn standing(
    world: &World,
    me: &Me,
    past: &Past,
    holdings: &Holdings<'_>,
) -> (Vec<IpNet>, Option<String>) {
    if let Some(ranges) = holdings.of.get(&me.name) {
        return (ranges.clone(), None);
    }
    let name = &me.name;
    let why = match world.nodes.get(name) {
        None if world.nodes.is_empty() => "the Kubernetes API has not said anything yet".into(),
        None => format!("there is no Node {name} in the Kubernetes API: is --name the Node's?"),
        Some(node) if !node.ranges.is_empty() || !node.nonsense.is_empty() => {
            "this node's range is refused: see the problems".into()
        }
        Some(_) if holdings.given => format!(
            "Node {name} has no podCIDRs yet, and others have: the controller manager gives them"
        ),
        Some(_) => "this node has no range yet and claims one".into(),
    };
    // Pods that run keep their addresses for as long as those are nobody else's.
    let own = past.own.iter();
    let own = own.filter(|range| holdings.held.overlapping(range).is_none());
    (own.copied().collect(), Some(why))
}

fn problems<'a>(findings: impl Iterator<Item = &'a Finding<'a>>) -> Vec<Problem> {
    let all: BTreeSet<Problem> = findings
        .map(|finding| Problem {
            kind: finding.kind,
            text: finding.text.clone(),
        })
        .collect();
    let count = all.len();
    let mut problems: Vec<Problem> = all.into_iter().take(MAX_PROBLEMS).collect();
    if count > MAX_PROBLEMS {
        problems.push(Problem {
            kind: ProblemKind::PeerRefused,
            text: format!("and {} more such problems", count - MAX_PROBLEMS),
        });
    }
    problems
}

#[cfg(test)]
mod tests;
