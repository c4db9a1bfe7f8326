//! A thousand nodes and their pods as the API server keeps them, written into its store: a client
//! would take an hour of creating what is only there to be read.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_mesh::PrivateKey;
use weft_mesh::identity::Identity;

/// How many nodes beside the agent's own.
pub(super) const PEERS: u32 = 1_000;
pub(super) const PODS: u32 = 30_000;
/// The first peer's port; each has one of its own.
pub(super) const FIRST_PORT: u16 = 20_000;
/// Where all of them are, on the underlay.
pub(super) const ADDRESS: &str = "198.18.200.1";
/// The first peer's range of pods, a /24.
const FIRST_RANGE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
const CREATED: &str = "2024-01-01T00:00:00Z";

/// A key and the value to keep under it.
pub(super) type Entry = (String, Value);

pub(super) fn name(peer: u32) -> String {
    format!("peer-{peer:04}")
}

/// The secret of a peer's WireGuard key; it has a new one in each generation.
pub(super) fn secret(peer: u32, generation: u32) -> [u8; 32] {
    seed("key", peer, generation)
}

/// The peer's own address in the mesh.
pub(super) fn address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_RANGE.to_bits() + peer * 256 + 1)
}

/// The public key as its `WeftNode` tells.
pub(super) fn public_key(peer: u32, generation: u32) -> String {
    let key = PrivateKey::from_bytes(secret(peer, generation));
    key.public_key().to_string()
}

pub(super) fn node(peer: u32) -> Entry {
    let name = name(peer);
    let range = format!("{}/24", Ipv4Addr::from_bits(address(peer).to_bits() - 1));
    // As long as a kubelet makes it.
    let images: Vec<Value> = (0..40)
        .map(|n| {
            let image = format!("registry.example/team/service-{n}");
            json!({
                "names": [format!("{image}@sha256:{:064x}", n), format!("{image}:v1.{n}")],
                "sizeBytes": 50_000_000 + n,
            })
        })
        .collect();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": uid(peer),
            "creationTimestamp": CREATED,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": format!("zone-{}", peer % 3),
            },
        },
        "spec": { "podCIDR": range, "podCIDRs": [range] },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": ADDRESS }],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            "images": images,
        },
    });
    (format!("/registry/minions/{name}"), object)
}

/// What the peer tells of itself, signed.
///
/// # Errors
/// When the name is none.
pub(super) fn weft_node(peer: u32, generation: u32) -> Result<Entry> {
    let (name, uid) = (name(peer), uid(peer));
    let identity = Identity::from_bytes(&seed("identity", peer, 0));
    let key = public_key(peer, generation);
    let port = FIRST_PORT + u16::try_from(peer).context("too many peers")?;
    let endpoint = format!("{ADDRESS}:{port}");
    let text = format!("{name}\n{uid}\n{key}\n{endpoint}\n");
    let signature = identity.sign(&[b"weft.dev/v1alpha1 WeftNode\n", text.as_bytes()]);
    let object = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "WeftNode",
        "metadata": {
            "name": name,
            "uid": format!("1{}", &uid[1..]),
            "creationTimestamp": CREATED,
            "generation": generation + 1,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": name, "uid": uid }],
        },
        "spec": {
            "identity": identity.id().to_string(),
            "publicKey": key,
            "endpoints": [endpoint],
            "signature": BASE64.encode(signature.as_bytes()),
            "engine": "kernel",
            "version": "0.1.0",
            "podCIDRs": [],
        },
    });
    Ok((format!("/registry/weft.dev/weftnodes/{name}"), object))
}

pub(super) fn pod(number: u32) -> Entry {
    let peer = number % PEERS;
    let name = format!("pod-{number:05}");
    let address = Ipv4Addr::from_bits(address(peer).to_bits() + 1 + number / PEERS);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": format!("2{}", &uid(number)[1..]),
            "creationTimestamp": CREATED,
            "labels": { "app": format!("app-{}", number % 200) },
        },
        "spec": {
            "nodeName": self::name(peer),
            "containers": [{ "name": "main", "image": "registry.example/team/service:v1" }],
        },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
    });
    (format!("/registry/pods/default/{name}"), object)
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn seed(what: &str, peer: u32, generation: u32) -> [u8; 32] {
    Sha256::digest(format!("{what} {peer} {generation}")).into()
}
