//! The API's objects as far as we read them: everything else in them is skipped unread.

use serde::{Deserialize, Serialize};

/// What every object has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    pub name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) creation_timestamp: Option<String>,
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// A Node of the core API, whose server vouches for the shape.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeWire {
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) spec: NodeSpec,
    #[serde(default)]
    pub(super) status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeStatus {
    pub(super) conditions: Vec<Condition>,
    pub(super) addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeAddress {
    /// `InternalIP` and the like.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) address: String,
}

/// A condition of a Node, as far as it says something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// An object of our own. Its spec is what the cluster's schema of it lets through, so whatever.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct OwnWire<S> {
    pub(super) metadata: Meta,
    pub(super) spec: Option<Lenient<S>>,
}

impl<S> OwnWire<S> {
    pub(super) fn spec(self) -> Option<S> {
        match self.spec {
            Some(Lenient::Good(spec)) => Some(spec),
            _ => None,
        }
    }
}

/// One bad object must not spoil the list that it is in.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Lenient<S> {
    Good(S),
    Bad(serde::de::IgnoredAny),
}

/// What a node tells the others about itself (`WeftNode`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WeftNodeSpec {
    /// The node's Ed25519 key, base32.
    pub(super) identity: String,
    /// The node's WireGuard key, base64.
    pub(super) public_key: String,
    pub(super) endpoints: Vec<String>,
    /// Base64.
    pub(super) signature: String,
    /// From here on: for people, believed by nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<String>,
}

/// A node's claim of a range (`WeftRange`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WeftRangeSpec {
    pub(super) node: String,
    pub(super) range: String,
}

/// A list, as far as we read it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct List<O> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    pub(super) items: Vec<O>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) more: Option<String>,
}
