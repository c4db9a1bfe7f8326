//! The rules one by one, with clusters made by hand; then all of them with clusters made by chance.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::discovery::kubernetes::object::{Claim, Node, sign};
use crate::discovery::kubernetes::range::claim_name;
use crate::discovery::kubernetes::wire::WeftNodeSpec;
use crate::identity::Identity;

/// A cluster as its API server tells of it.
#[derive(Debug, Default)]
struct Cluster(World);

fn identity(seed: u8) -> Identity {
    Identity::from_bytes(&[seed; 32])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The nth second of a year.
fn created(n: u32) -> String {
    format!("2026-01-01T00:{:02}:{:02}Z", n / 60 % 60, n % 60)
}

impl Cluster {
    fn node(&mut self, name: &str, age: u32, ranges: &[&str]) -> &mut Self {
        let wire = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": created(age)},
            "spec": {"podCIDRs": ranges},
        });
        let (name, node) = Node::cut(serde_json::from_value(wire).unwrap()).unwrap();
        self.0.nodes.insert(name, node);
        self
    }

    /// What the node tells of itself, well signed.
    fn told(&mut self, name: &str, seed: u8, endpoints: &[&str]) -> &mut Self {
        self.told_with(name, seed, endpoints, |_| {})
    }

    fn told_with(
        &mut self,
        name: &str,
        seed: u8,
        endpoints: &[&str],
        change: impl FnOnce(&mut serde_json::Value),
    ) -> &mut Self {
        let uid = format!("uid-{name}");
        let mut spec = spec(seed, endpoints);
        sign(&identity(seed), &name.parse().unwrap(), &uid, &mut spec);
        let mut wire = json!({
            "metadata": {
                "name": name,
                "creationTimestamp": created(0),
                "ownerReferences": [{"kind": "Node", "name": name, "uid": uid}],
            },
            "spec": spec,
        });
        change(&mut wire);
        let (name, told) = Advert::cut(serde_json::from_value(wire).unwrap()).unwrap();
        self.0.adverts.insert(name, told);
        self
    }

    fn claim(&mut self, name: &str, range: &str) -> &mut Self {
        self.claim_as(name, range, &claim_name(&net(range)))
    }

    fn claim_as(&mut self, name: &str, range: &str, object: &str) -> &mut Self {
        let wire = json!({
            "metadata": {
                "name": object,
                "creationTimestamp": created(0),
                "ownerReferences": [{"kind": "Node", "name": name, "uid": format!("uid-{name}")}],
            },
            "spec": {"node": name, "range": range},
        });
        let (object, claim) = Claim::cut(serde_json::from_value(wire).unwrap()).unwrap();
        self.0.claims.insert(object, claim);
        self
    }

    fn judge(&self) -> Judgement {
        judge(&self.0, &me(), &rules(), &Past::default())
    }
}

fn spec(seed: u8, endpoints: &[&str]) -> WeftNodeSpec {
    WeftNodeSpec {
        identity: identity(seed).id().to_string(),
        public_key: PublicKey::from_bytes([seed; 32]).to_string(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        signature: String::new(),
        engine: Some("kernel".into()),
        version: None,
        pod_cidrs: vec!["0.0.0.0/0".into()],
    }
}

/// Node `a`.
fn me() -> Me {
    Me {
        name: "a".parse().unwrap(),
        id: identity(1).id(),
        public_key: PublicKey::from_bytes([1; 32]),
    }
}

fn rules() -> Rules {
    Rules {
        pools: vec![Pool {
            range: net("10.32.0.0/12"),
            share: 24,
        }],
        closed: Vec::new(),
        services: vec![net("10.96.0.0/16")],
    }
}

fn says(judgement: &Judgement, kind: ProblemKind, words: &[&str]) {
    let problems = &judgement.own.problems;
    let found = problems
        .iter()
        .any(|p| p.kind == kind && words.iter().all(|word| p.text.contains(word)));
    assert!(found, "no {kind:?} with {words:?} in {problems:#?}");
}

fn member<'a>(judgement: &'a Judgement, name: &str) -> Option<&'a Member> {
    let mut members = judgement.roster.members.values();
    members.find(|member| member.name.as_str() == name)
}

fn two() -> Cluster {
    let mut cluster = Cluster::default();
    cluster
        .node("a", 1, &["10.244.1.0/24", "fd00:1:2:1::/64"])
        .node("b", 2, &["10.244.2.0/24", "fd00:1:2:2::/64"])
        .told("b", 2, &["192.0.2.2:6783", "b.example:6783"]);
    cluster
}

#[test]
fn a_member_has_what_its_node_was_given_and_what_it_says_counts_for_nothing() {
    let judgement = two().judge();
    let b = member(&judgement, "b").unwrap();
    assert_eq!(b.pod_cidrs, [net("10.244.2.0/24"), net("fd00:1:2:2::/64")]);
    assert_eq!(b.endpoints.len(), 2);
    assert_eq!(
        judgement.own.ranges,
        [net("10.244.1.0/24"), net("fd00:1:2:1::/64")]
    );
    assert_eq!(judgement.own.pools.len(), 4, "each fails closed");
    assert_eq!(judgement.own.unready, None);
    assert!(judgement.own.problems.is_empty() && judgement.cloned.is_none());
}

#[test]
fn a_stolen_node_gets_neither_everything_nor_its_neighbours_range() {
    let mut cluster = two();
    cluster
        .node("c", 3, &["0.0.0.0/0", "10.244.1.128/25"])
        .told("c", 3, &["192.0.2.3:6783"]);
    let judgement = cluster.judge();
    assert_eq!(member(&judgement, "c").unwrap().pod_cidrs, []);
    assert_eq!(judgement.own.ranges.len(), 2);
    says(
        &judgement,
        ProblemKind::RangeClash,
        &["10.244.1.128/25", "c", "older node a"],
    );
    says(&judgement, ProblemKind::RangeOverlap, &["0.0.0.0/0"]);
    // The older one has it, whoever asks.
    cluster.node("c", 0, &["10.244.1.0/25"]);
    let judgement = cluster.judge();
    assert_eq!(
        member(&judgement, "c").unwrap().pod_cidrs,
        [net("10.244.1.0/25")]
    );
    assert_eq!(judgement.own.ranges, [net("fd00:1:2:1::/64")]);
    says(
        &judgement,
        ProblemKind::RangeClash,
        &["10.244.1.0/24", "older node c"],
    );
}

#[test]
fn an_endpoint_where_no_other_node_is_is_refused_and_the_rest_stays() {
    let mut cluster = two();
    let bad = [
        ("10.244.1.7:6783", "the mesh"),
        ("[fd00:1:2:2::1]:6783", "the mesh"),
        ("[::ffff:10.244.2.1]:6783", "the mesh"),
        ("10.96.0.1:443", "Services"),
        ("127.0.0.1:6783", "reach"),
        ("[::1]:6783", "reach"),
        ("169.254.169.254:80", "reach"),
        ("224.0.0.1:6783", "reach"),
        ("192.0.2.9:0", "port"),
        ("x.example:0", "port"),
    ];
    let mut endpoints: Vec<&str> = bad.iter().map(|(endpoint, _)| *endpoint).collect();
    endpoints.push("192.0.2.2:6783");
    cluster.told("b", 2, &endpoints);
    let judgement = cluster.judge();
    let b = member(&judgement, "b").unwrap();
    assert_eq!(b.endpoints, ["192.0.2.2:6783".parse::<Endpoint>().unwrap()]);
    for (endpoint, why) in bad {
        let endpoint = endpoint.parse::<Endpoint>().unwrap().to_string();
        says(&judgement, ProblemKind::PeerRefused, &[&endpoint, why]);
    }
}

#[test]
fn what_is_not_signed_by_its_identity_for_its_node_is_refused_and_named() {
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut cluster = two();
        cluster.told_with("b", 2, &["192.0.2.2:6783"], |wire| change(wire));
        let judgement = cluster.judge();
        assert!(member(&judgement, "b").is_none());
        judgement
    };
    for (field, value) in [
        ("signature", json!("AAAA")),
        (
            "publicKey",
            json!(PublicKey::from_bytes([9; 32]).to_string()),
        ),
        ("publicKey", json!("short")),
        ("endpoints", json!(["192.0.2.66:6783"])),
        ("identity", json!(identity(9).id().to_string())),
    ] {
        let judgement = refused(&|wire| wire["spec"][field] = value.clone());
        says(&judgement, ProblemKind::PeerRefused, &["WeftNode of b"]);
    }
    refused(&|wire| wire["spec"] = json!(7));
    refused(&|wire| wire["spec"]["endpoints"] = json!(vec!["192.0.2.2:6783"; 17]));
    refused(&|wire| wire["metadata"]["ownerReferences"] = json!([]));
    // Of another Node under the same name, which is no more.
    let other = json!([{"kind": "Node", "name": "b", "uid": "uid-old"}]);
    refused(&|wire| wire["metadata"]["ownerReferences"] = other.clone());
    // A good one of another node, under this node's name.
    let mut cluster = two();
    cluster.told_with("c", 3, &[], |wire| {
        wire["metadata"]["name"] = json!("b");
        wire["metadata"]["ownerReferences"][0] =
            json!({"kind": "Node", "name": "b", "uid": "uid-b"});
    });
    assert!(member(&cluster.judge(), "b").is_none());
}

#[test]
fn of_two_nodes_with_one_identity_the_older_has_it_and_the_younger_makes_a_new_one() {
    let mut cluster = two();
    cluster.node("c", 3, &["10.244.3.0/24"]);
    cluster.told_with("c", 2, &["192.0.2.3:6783"], |wire| {
        wire["metadata"]["creationTimestamp"] = json!(created(9));
    });
    let judgement = cluster.judge();
    assert!(member(&judgement, "b").is_some() && member(&judgement, "c").is_none());
    says(&judgement, ProblemKind::Cloned, &["node c", "older node b"]);
    assert_eq!(judgement.cloned, None);
    let on_c = Me {
        name: "c".parse().unwrap(),
        id: identity(2).id(),
        public_key: PublicKey::from_bytes([2; 32]),
    };
    let on_c = judge(&cluster.0, &on_c, &rules(), &Past::default());
    assert!(on_c.cloned.unwrap().contains("older node b"));
    // This node's identity under another name, and this one could not even tell of itself yet.
    cluster.node("d", 4, &[]).told("d", 1, &[]);
    assert!(cluster.judge().cloned.unwrap().contains("older node d"));
}

#[test]
fn where_the_cluster_gives_no_ranges_a_claim_of_one_share_counts() {
    let mut cluster = Cluster::default();
    cluster
        .node("a", 1, &[])
        .node("b", 2, &[])
        .told("b", 2, &[]);
    let judgement = cluster.judge();
    assert!(judgement.own.unready.unwrap().contains("claims one"));
    assert_eq!(judgement.own.pools, [net("10.32.0.0/12")]);
    cluster
        .claim("a", "10.32.0.0/24")
        .claim("b", "10.32.1.0/24");
    let judgement = cluster.judge();
    assert_eq!(judgement.own.ranges, [net("10.32.0.0/24")]);
    assert_eq!(judgement.own.unready, None);
    let b = |cluster: &Cluster| member(&cluster.judge(), "b").unwrap().pod_cidrs.clone();
    assert_eq!(b(&cluster), [net("10.32.1.0/24")]);
    // No more than one, none that is no share, none under another's name.
    cluster
        .claim("b", "10.32.9.0/24")
        .claim("b", "10.32.0.0/16")
        .claim("b", "10.99.0.0/24")
        .claim_as("b", "10.32.0.0/24", "10.32.7.0-24");
    assert_eq!(b(&cluster), [net("10.32.1.0/24")]);
    says(
        &cluster.judge(),
        ProblemKind::RangeClash,
        &["b", "10.32.9.0/24", "beside"],
    );
    // What the Node says goes before every claim.
    cluster.node("b", 2, &["10.244.2.0/24"]);
    assert_eq!(b(&cluster), [net("10.244.2.0/24")]);
}

#[test]
fn a_node_without_its_node_keeps_what_its_pods_have_until_it_is_anothers() {
    let mut cluster = two();
    let past = Past {
        own: vec![net("10.244.1.0/24"), net("10.244.9.0/24")],
        held: [net("10.244.9.0/24")].into(),
    };
    let name = "a".parse().unwrap();
    cluster.0.nodes.remove::<NodeName>(&name);
    let judgement = judge(&cluster.0, &me(), &rules(), &past);
    assert_eq!(judgement.own.ranges, past.own);
    assert!(judgement.own.unready.unwrap().contains("no Node a"));
    cluster.node("c", 5, &["10.244.1.0/24"]);
    let judgement = judge(&cluster.0, &me(), &rules(), &past);
    assert_eq!(judgement.own.ranges, [net("10.244.9.0/24")]);
    assert!(
        judgement.own.pools.contains(&net("10.244.9.0/24")),
        "closed for ever"
    );
}

#[test]
fn a_range_among_the_services_is_refused() {
    let mut cluster = two();
    cluster.node("a", 1, &["10.96.3.0/24"]);
    let judgement = cluster.judge();
    assert_eq!(judgement.own.ranges, []);
    assert!(judgement.own.unready.is_some());
    says(
        &judgement,
        ProblemKind::RangeOverlap,
        &["10.96.3.0/24", "10.96.0.0/16"],
    );
    assert_eq!(judgement.notices.len(), 1);
}

#[test]
fn a_range_over_the_nodes_own_network_is_refused_and_no_endpoint_suffers() {
    let mut cluster = two();
    cluster.node("c", 3, &["192.0.2.0/24"]);
    let at = |cluster: &mut Cluster, name: &str, address: &str| {
        let node = cluster.0.nodes.get_mut(&name.parse::<NodeName>().unwrap());
        node.unwrap().addresses.insert(address.parse().unwrap());
    };
    // One node's word alone takes nobody's range away.
    at(&mut cluster, "b", "192.0.2.2");
    let judgement = cluster.judge();
    assert!(judgement.held.contains(&net("192.0.2.0/24")));
    at(&mut cluster, "a", "192.0.2.1");
    let judgement = cluster.judge();
    assert!(!judgement.held.contains(&net("192.0.2.0/24")));
    assert_eq!(member(&judgement, "b").unwrap().endpoints.len(), 2);
    says(
        &judgement,
        ProblemKind::RangeOverlap,
        &["192.0.2.0/24 of node c", "a and b"],
    );
    at(&mut cluster, "b", "10.244.2.9");
    says(
        &cluster.judge(),
        ProblemKind::RangeOverlap,
        &["10.244.2.0/24 of node b", "its own"],
    );
    // Nor is such a range of the past closed for ever.
    let past = Past {
        held: [net("192.0.2.0/24"), net("10.244.9.0/24")].into(),
        ..Past::default()
    };
    let pools = judge(&cluster.0, &me(), &rules(), &past).own.pools;
    assert!(!pools.contains(&net("192.0.2.0/24")) && pools.contains(&net("10.244.9.0/24")));
}

#[test]
fn a_few_nodes_alone_tell_the_cluster_of_another_nodes_faults() {
    let mut cluster = two();
    cluster.told("a", 1, &["192.0.2.1:6783"]);
    cluster.told("b", 2, &["127.0.0.1:6783"]);
    assert_eq!(cluster.judge().notices.len(), 1);
    let others = ["0", "1", "2"];
    for (seed, name) in (10..).zip(others) {
        cluster
            .node(name, 9, &[])
            .told(name, seed, &["192.0.2.9:6783"]);
    }
    assert_eq!(cluster.judge().notices, []);
    assert_eq!(cluster.judge().own.problems.len(), 1);
}

/// A cluster in which everybody may have lied.
fn clusters() -> impl Strategy<Value = Cluster> {
    let node = (
        0..6u8,
        0..4u32,
        prop::collection::vec(0..12u8, 0..3),
        0..6u8,
        any::<bool>(),
    );
    prop::collection::vec(node, 0..10).prop_map(|nodes| {
        let ranges = [
            "10.244.0.0/24",
            "10.244.1.0/24",
            "10.244.0.0/23",
            "10.244.1.128/25",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "10.96.1.0/24",
            "fd00::/64",
            "fd00::/60",
            "::/0",
            "10.32.1.0/24",
            "x",
        ];
        let mut cluster = Cluster::default();
        for (name, age, given, seed, claims) in nodes {
            let name = ["a", "b", "c", "d", "e", "f"][usize::from(name)];
            let given: Vec<&str> = given.iter().map(|n| ranges[usize::from(*n)]).collect();
            cluster.node(name, age, if claims { &[] } else { &given });
            cluster.told(
                name,
                seed + 1,
                &["192.0.2.1:1", "10.244.0.9:1", "10.96.0.1:1"],
            );
            for range in given.iter().filter(|range| claims && **range != "x") {
                cluster.claim(name, range);
            }
        }
        cluster
    })
}

proptest! {
    #[test]
    fn whatever_is_told_no_two_hold_one_address_one_key_or_an_endpoint_in_the_mesh(cluster in clusters()) {
        let judgement = cluster.judge();
        prop_assert_eq!(&judgement, &cluster.judge());
        let roster = &judgement.roster;
        let mut held = Holders::default();
        let mut names = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let mine = judgement.own.ranges.iter().map(|range| ("a", *range));
        let theirs = roster.members.values().flat_map(|member| {
            member.pod_cidrs.iter().map(|range| (member.name.as_str(), *range))
        });
        for (node, range) in mine.chain(theirs) {
            prop_assert!(held.give(range, node).is_ok());
            prop_assert!(judgement.own.pools.contains(&range));
            let given = &cluster.0.nodes[&node.parse::<NodeName>().unwrap()].ranges;
            let claimed = claim_name(&range);
            prop_assert!(given.contains(&range) || cluster.0.claims.contains_key(&claimed));
            prop_assert!(!range.contains(&net("10.96.1.0/24")));
        }
        for (id, member) in &roster.members {
            prop_assert_eq!(*id, member.id);
            prop_assert!(*id != me().id || judgement.cloned.is_some());
            prop_assert!(member.name.as_str() != "a");
            prop_assert!(names.insert(&member.name) && keys.insert(member.public_key));
            for endpoint in &member.endpoints {
                let Endpoint::Address(at) = endpoint else { panic!() };
                prop_assert!(held.holds(at.ip()).is_none());
            }
        }
    }
}
