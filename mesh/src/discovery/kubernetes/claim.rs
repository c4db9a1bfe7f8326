//! Which ranges this node claims, where the cluster gives none, and which claims it gives up. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::holders::Holdings;
use super::judge::Rules;
use super::range::{Holders, Pool};
use super::world::World;
use super::write::Deed;
use crate::NodeName;

/// How long a Node has no ranges, and no other has any, before it is sure that none will be given:
/// the controller manager may be slower than the first agent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Since when the cluster seems to give no ranges.
#[derive(Debug, Default)]
pub(super) struct Claims {
    without: Option<Instant>,
    /// Taken by others, as the server said before the watch did.
    pub(super) taken: BTreeSet<IpNet>,
}

impl Claims {
    /// What is to be done, and when to look again though nothing changed.
    pub(super) fn deeds(
        &mut self,
        world: &World,
        me: &NodeName,
        rules: &Rules,
        now: Instant,
    ) -> (Vec<Deed>, Option<Instant>) {
        let Some(node) = world.nodes.get(me) else {
            self.without = None;
            return (Vec::new(), None);
        };
        let mine = world.claims.iter().filter_map(|(name, claim)| {
            let claim = claim.as_ref().ok()?;
            (claim.node == *me && claim.owner == node.uid).then_some((name, claim.range))
        });
        if !node.ranges.is_empty() {
            self.without = None;
            let deeds = mine.map(|(name, _)| Deed::Release(name.clone()));
            return (deeds.collect(), None);
        }
        if world.nodes.values().any(|node| !node.ranges.is_empty()) {
            self.without = None;
            return (Vec::new(), None);
        }
        let due = *self.without.get_or_insert(now) + PATIENCE;
        let lacks = |pool: &&Pool| !mine.clone().any(|(_, range)| pool.has_share(&range));
        let lacking: Vec<&Pool> = rules.pools.iter().filter(lacks).collect();
        if lacking.is_empty() {
            return (Vec::new(), None);
        }
        if now < due {
            return (Vec::new(), Some(due));
        }
        let claimed = world.claims.values().flatten().map(|claim| &claim.range);
        let taken = Holders::union(claimed.chain(&self.taken).chain(&rules.services));
        let free = lacking.iter().filter_map(|pool| pool.free_share(&taken));
        (free.map(Deed::Claim).collect(), None)
    }

    /// Whether every share of a pool that this node needs is taken.
    pub(super) fn is_full(world: &World, me: &NodeName, rules: &Rules) -> bool {
        let holdings = Holdings::of(world, rules);
        !holdings.given
            && !holdings.of.contains_key(me)
            && rules
                .pools
                .iter()
                .any(|pool| pool.free_share(&holdings.held).is_none())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::discovery::kubernetes::object::{Claim, Node};

    fn node(world: &mut World, name: &str, ranges: &[&str]) {
        let wire = json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": ranges}});
        let (name, node) = Node::cut(from_value(wire).unwrap()).unwrap();
        world.nodes.insert(name, node);
    }

    fn claim(world: &mut World, name: &str, range: &str) {
        let wire = json!({
            "metadata": {
                "name": range.replace('/', "-"),
                "ownerReferences": [{"kind": "Node", "name": name, "uid": name}],
            },
            "spec": {"node": name, "range": range},
        });
        let (object, claim) = Claim::cut(from_value(wire).unwrap()).unwrap();
        world.claims.insert(object, claim);
    }

    #[test]
    fn a_range_is_claimed_when_it_is_sure_that_none_is_given_and_given_up_when_one_is() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let rules = Rules {
            pools: vec![Pool {
                range: net("10.32.0.0/22"),
                share: 24,
            }],
            services: vec![net("10.32.2.0/24")],
            ..Rules::default()
        };
        let me = "a".parse().unwrap();
        let start = Instant::now();
        let later = start + PATIENCE;
        let mut world = World::default();
        let mut claims = Claims::default();
        let mut deeds = |world: &World, at| claims.deeds(world, &me, &rules, at).0;
        assert_eq!(deeds(&world, start), [], "there is no Node");
        node(&mut world, "a", &[]);
        assert_eq!(deeds(&world, start), [], "it may be given one yet");
        claim(&mut world, "b", "10.32.0.0/24");
        assert_eq!(deeds(&world, later), [Deed::Claim(net("10.32.1.0/24"))]);
        node(&mut world, "b", &["10.244.0.0/24"]);
        assert_eq!(deeds(&world, later), [], "the cluster gives ranges");
        world.nodes.remove(&"b".parse::<NodeName>().unwrap());
        assert_eq!(deeds(&world, later), [], "the wait begins anew");
        claims.taken.insert(net("10.32.1.0/24"));
        let mut deeds = |world: &World, at| claims.deeds(world, &me, &rules, at).0;
        let last = later + PATIENCE;
        assert_eq!(deeds(&world, last), [Deed::Claim(net("10.32.3.0/24"))]);
        claim(&mut world, "a", "10.32.3.0/24");
        assert_eq!(deeds(&world, last), []);
        node(&mut world, "a", &["10.244.1.0/24"]);
        assert_eq!(deeds(&world, last), [Deed::Release("10.32.3.0-24".into())]);
        assert!(!Claims::is_full(&world, &me, &rules));
    }
}
