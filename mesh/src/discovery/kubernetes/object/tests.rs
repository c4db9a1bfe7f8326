//! Objects one by one: as the cluster's schema has them, and as nobody should send them.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn spec() -> WeftNodeSpec {
    let identity = Identity::from_bytes(&[1; 32]);
    let mut spec = WeftNodeSpec {
        identity: identity.id().to_string(),
        public_key: PublicKey::from_bytes([2; 32]).to_string(),
        endpoints: vec!["192.0.2.1:6783".into(), "[2001:db8::1]:6783".into()],
        signature: String::new(),
        engine: Some("kernel".into()),
        version: Some("0.1.0".into()),
        pod_cidrs: vec!["10.244.1.0/24".into()],
    };
    sign(&identity, &"a".parse().unwrap(), "uid-a", &mut spec);
    spec
}

fn wire(spec: Value) -> Value {
    json!({
        "metadata": {
            "name": "a",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"kind": "Node", "name": "a", "uid": "uid-a"}],
        },
        "spec": spec,
    })
}

/// The names of the properties of `kind`'s spec in the manifest.
fn properties(kind: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = std::fs::read_to_string(root.join("deploy/weft.yaml")).unwrap();
    let mut documents = manifest.split("\n---\n");
    let crd = documents
        .find(|d| {
            d.contains("kind: CustomResourceDefinition") && d.contains(&format!("kind: {kind}\n"))
        })
        .unwrap();
    let (_, spec) = crd.split_once("\n            spec:\n").unwrap();
    let (_, fields) = spec.split_once("\n              properties:\n").unwrap();
    let field =
        |line: &&str| line.starts_with(&" ".repeat(16)) && !line.starts_with(&" ".repeat(17));
    let names = fields
        .lines()
        .filter(field)
        .filter_map(|l| l.trim().split(':').next());
    names.map(str::to_owned).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_manifest_has_the_fields_that_are_written_and_no_other() {
    let told = serde_json::to_value(spec()).unwrap();
    assert_eq!(properties("WeftNode"), keys(&told));
    assert_eq!(told["identity"].as_str().unwrap().len(), 52);
    assert_eq!(told["publicKey"].as_str().unwrap().len(), 44);
    assert_eq!(told["signature"].as_str().unwrap().len(), 88);
    let claim = WeftRangeSpec {
        node: "a".into(),
        range: "10.32.0.0/24".into(),
    };
    assert_eq!(
        properties("WeftRange"),
        keys(&serde_json::to_value(claim).unwrap())
    );
}

#[test]
fn what_was_signed_is_read_back_and_people_s_fields_count_for_nothing() {
    let cut = |spec: WeftNodeSpec| {
        let wire = wire(serde_json::to_value(spec).unwrap());
        Advert::cut(serde_json::from_value(wire).unwrap())
            .unwrap()
            .1
    };
    let advert = cut(spec()).unwrap();
    assert_eq!(
        (advert.endpoints.len(), advert.owner.as_str()),
        (2, "uid-a")
    );
    let long = "x".repeat(1000);
    let advert = cut(WeftNodeSpec {
        engine: Some(long.clone()),
        pod_cidrs: vec![long; 100],
        ..spec()
    });
    let advert = advert.unwrap();
    assert!(advert.spec.engine.is_none() && advert.spec.pod_cidrs.is_empty());
}

#[test]
fn an_object_without_its_age_is_the_youngest() {
    let of = |text: Value| {
        let meta = json!({"creationTimestamp": text});
        Created::of(&serde_json::from_value(meta).unwrap())
    };
    let known = of(json!("2026-01-01T00:00:00Z"));
    for odd in [
        json!(null),
        json!(""),
        json!("0000"),
        json!("2026-01-01T00:00:00.0Z"),
    ] {
        assert!(of(odd) > known);
    }
}

/// Any JSON, small.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("10.0.0.0/24")),
        Just(json!(["192.0.2.1:1"])),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let names = prop_oneof![
            Just("identity".to_owned()),
            Just("publicKey".to_owned()),
            Just("endpoints".to_owned()),
            Just("signature".to_owned()),
            Just("podCIDRs".to_owned()),
            Just("node".to_owned()),
            Just("range".to_owned()),
            ".{0,5}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_spec_of_our_own_objects_spoils_the_list_that_it_is_in(spec in values()) {
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": [wire(spec), wire(json!(null))]});
        let nodes: super::super::wire::List<OwnWire<WeftNodeSpec>> =
            serde_json::from_value(list.clone()).unwrap();
        for wire in nodes.items {
            prop_assert!(Advert::cut(wire).unwrap().1.is_err());
        }
        let ranges: super::super::wire::List<OwnWire<WeftRangeSpec>> =
            serde_json::from_value(list).unwrap();
        for wire in ranges.items {
            prop_assert!(Claim::cut(wire).unwrap().1.is_err());
        }
    }
}
