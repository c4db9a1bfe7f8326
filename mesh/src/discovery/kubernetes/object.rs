//! The objects that discovery goes by, cut down and checked one by one. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use data_encoding::BASE64;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::range::{claim_name, is_for_pods};
use super::wire::{Meta, NodeWire, OwnWire, WeftNodeSpec, WeftRangeSpec};
use crate::identity::{Identity, Signature};
use crate::{Endpoint, NodeId, NodeName, PublicKey};

/// What a signature is for, and no other.
const CONTEXT: &[u8] = b"weft.dev/v1alpha1 WeftNode\n";
/// The most endpoints of a node.
pub(super) const MAX_ENDPOINTS: usize = 16;
/// The most ranges of a Node that are looked at; Kubernetes allows one of each family.
const MAX_RANGES: usize = 4;
/// The most addresses of a Node that are looked at.
const MAX_ADDRESSES: usize = 8;
/// A Kubernetes name, and a port.
const MAX_ENDPOINT: usize = 261;

/// When an object was made, as the API writes it: equal length, so equal to its order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Created(String);

impl Created {
    fn of(meta: &Meta) -> Self {
        let text = meta.creation_timestamp.as_deref().unwrap_or_default();
        // Whatever says nothing of its age is the youngest of all.
        let known = text.len() == 20 && text.ends_with('Z') && text.is_ascii();
        Self(if known { text } else { "9999-12-31T23:59:59Z" }.to_owned())
    }
}

/// A Node, as far as it is anything to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) uid: String,
    pub(super) created: Created,
    /// Sorted.
    pub(super) ranges: Vec<IpNet>,
    /// Where the node itself is, as its kubelet says.
    #[serde(default)]
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Those of its ranges that no pod can have.
    #[serde(default)]
    pub(super) nonsense: Vec<String>,
}

impl Node {
    pub(super) fn cut(wire: NodeWire) -> Option<(NodeName, Self)> {
        let name = wire.metadata.name.parse().ok()?;
        let mut texts = wire.spec.pod_cidrs;
        if texts.is_empty() {
            texts.extend(wire.spec.pod_cidr.filter(|text| !text.is_empty()));
        }
        texts.truncate(MAX_RANGES);
        let addresses = wire.status.addresses.iter();
        let addresses = addresses.filter(|a| matches!(&*a.kind, "InternalIP" | "ExternalIP"));
        let addresses = addresses.filter_map(|a| a.address.parse::<IpAddr>().ok());
        let mut node = Self {
            created: Created::of(&wire.metadata),
            uid: wire.metadata.uid,
            ranges: Vec::new(),
            addresses: addresses.take(MAX_ADDRESSES).collect(),
            nonsense: Vec::new(),
        };
        for text in texts {
            match text.parse::<IpNet>() {
                Ok(range) if is_for_pods(&range) => node.ranges.push(range),
                _ => node.nonsense.push(text.chars().take(64).collect()),
            }
        }
        node.ranges.sort_unstable();
        node.ranges.dedup();
        Some((name, node))
    }
}

/// A `WeftNode` whose signature holds, or why it is none.
pub(super) type Told = Result<Advert, String>;

/// What a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advert {
    pub(super) created: Created,
    /// The uid of the Node that owns it, which the signature covers.
    pub(super) owner: String,
    pub(super) id: NodeId,
    pub(super) public_key: PublicKey,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) spec: WeftNodeSpec,
}

impl Advert {
    pub(super) fn cut(wire: OwnWire<WeftNodeSpec>) -> Option<(NodeName, Told)> {
        let name: NodeName = wire.metadata.name.parse().ok()?;
        let created = Created::of(&wire.metadata);
        let owner = owner(&wire.metadata, &name);
        let told = match (owner, wire.spec()) {
            (None, _) => Err("no Node owns it".into()),
            (_, None) => Err("its spec is none".into()),
            (Some(owner), Some(spec)) => Self::open(&name, created, owner, spec),
        };
        Some((name, told))
    }

    /// Checks all that can be checked of it alone.
    pub(super) fn open(
        name: &NodeName,
        created: Created,
        owner: String,
        mut spec: WeftNodeSpec,
    ) -> Told {
        if spec.endpoints.len() > MAX_ENDPOINTS {
            return Err(format!("more than {MAX_ENDPOINTS} endpoints"));
        }
        let id: NodeId = spec.identity.parse().map_err(said)?;
        let public_key: PublicKey = spec.public_key.parse().map_err(said)?;
        if public_key.as_bytes() == &[0; 32] {
            return Err("its WireGuard key is none".into());
        }
        let endpoint = |text: &String| match text.len() {
            0..=MAX_ENDPOINT => text.parse::<Endpoint>().map_err(said),
            _ => Err("an endpoint is too long".into()),
        };
        let endpoints = spec.endpoints.iter().map(endpoint);
        let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, String>>()?;
        let signature = BASE64.decode(spec.signature.as_bytes()).ok();
        let signature: Option<[u8; 64]> = signature.and_then(|bytes| bytes.try_into().ok());
        let text = canonical(name, &owner, &spec);
        let signed = signature.map(Signature::from_bytes);
        if !signed.is_some_and(|signature| signature.is_by(id, &[CONTEXT, text.as_bytes()])) {
            return Err("its signature is not its identity's".into());
        }
        // For people, so of no more length than people read.
        let short = |text: &String| text.len() <= 64;
        spec.engine = spec.engine.filter(short);
        spec.version = spec.version.filter(short);
        spec.pod_cidrs.retain(short);
        spec.pod_cidrs.truncate(MAX_ENDPOINTS);
        Ok(Self {
            created,
            owner,
            id,
            public_key,
            endpoints,
            spec,
        })
    }
}

/// Signs what a node tells of itself.
pub(super) fn sign(identity: &Identity, name: &NodeName, owner: &str, spec: &mut WeftNodeSpec) {
    let text = canonical(name, owner, spec);
    let signature = identity.sign(&[CONTEXT, text.as_bytes()]);
    spec.signature = BASE64.encode(signature.as_bytes());
}

/// A line each: the Node's name and uid, the key, the endpoints. What was parsed holds no line's
/// end, so no two are alike.
fn canonical(name: &NodeName, owner: &str, spec: &WeftNodeSpec) -> String {
    let mut text = format!("{name}\n{owner}\n{}\n", spec.public_key);
    for endpoint in &spec.endpoints {
        text.push_str(endpoint);
        text.push('\n');
    }
    text
}

/// The claim of a range, or why it is none.
pub(super) type Claimed = Result<Claim, String>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) created: Created,
    /// The uid of the Node that owns it.
    pub(super) owner: String,
    pub(super) node: NodeName,
    pub(super) range: IpNet,
}

impl Claim {
    pub(super) fn cut(wire: OwnWire<WeftRangeSpec>) -> Option<(String, Claimed)> {
        let name = wire.metadata.name.clone();
        if name.len() > 253 {
            return None;
        }
        Some((name, Self::open(wire)))
    }

    fn open(wire: OwnWire<WeftRangeSpec>) -> Claimed {
        let meta = wire.metadata.clone();
        let spec = wire.spec().ok_or("its spec is none")?;
        let node: NodeName = spec.node.parse().map_err(said)?;
        let range: IpNet = spec.range.parse().map_err(|_| "its range is none")?;
        if claim_name(&range) != meta.name || !is_for_pods(&range) {
            return Err(format!("it is not named after its range {range}"));
        }
        let owner = owner(&meta, &node).ok_or("no Node of that name owns it")?;
        Ok(Self {
            created: Created::of(&meta),
            owner,
            node,
            range,
        })
    }
}

/// The uid of the Node of this name that owns the object.
fn owner(meta: &Meta, name: &NodeName) -> Option<String> {
    let owners = &meta.owner_references;
    let of_node = |owner: &&super::wire::Owner| owner.kind == "Node" && owner.name == name.as_str();
    let uid = &owners.iter().find(of_node)?.uid;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    ((1..=64).contains(&uid.len()) && uid.bytes().all(legal)).then(|| uid.clone())
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
