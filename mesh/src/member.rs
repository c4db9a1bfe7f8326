//! What the mesh knows of a node, already checked, and the whole of it: the roster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::PublicKey;

/// A node's identity: its Ed25519 public key. Everything a node says is signed by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

/// Why a node's identity or name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseNodeError {
    #[error("a node's identity is 52 characters of lower-case base32")]
    Id,
    #[error(
        "a node's name is a DNS name: labels of 1 to 63 of a-z, 0-9 and '-', neither first nor last \
         a '-', with dots between them, 253 characters at most"
    )]
    Name,
    #[error("an endpoint is HOST:PORT, an IPv6 address in brackets")]
    Endpoint,
}

impl NodeId {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters, for logs and screens.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            &data_encoding::BASE32_NOPAD
                .encode(&self.0)
                .to_ascii_lowercase(),
        )
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseNodeError;

    fn from_str(text: &str) -> Result<Self, ParseNodeError> {
        let bytes = data_encoding::BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| ParseNodeError::Id)?;
        bytes.try_into().map(Self).map_err(|_| ParseNodeError::Id)
    }
}

/// A node's name: a DNS name (RFC 1123), lower case. One label in a mesh of gossip; Kubernetes has
/// names with dots as well.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one label, without dots.
    pub fn is_label(&self) -> bool {
        !self.0.contains('.')
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = ParseNodeError;

    fn from_str(text: &str) -> Result<Self, ParseNodeError> {
        let label = |label: &str| {
            let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
            (1..=63).contains(&label.len())
                && label.bytes().all(legal)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        (text.len() <= 253 && text.split('.').all(label))
            .then(|| Self(text.to_owned()))
            .ok_or(ParseNodeError::Name)
    }
}

/// Where a node's WireGuard port may be reached: an address, or a name to be resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ParseNodeError;

    fn from_str(text: &str) -> Result<Self, ParseNodeError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(ParseNodeError::Endpoint)?;
        let port = port.parse().map_err(|_| ParseNodeError::Endpoint)?;
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if host.len() > 253 || !host.trim_end_matches('.').split('.').all(label) {
            return Err(ParseNodeError::Endpoint);
        }
        Ok(Self::Name {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

/// Written and read by serde as `Display` and `FromStr` do.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(NodeId, NodeName, Endpoint);

/// A name that a node answers for, below the mesh's domain (`web`, `db.prod`), with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServedName {
    /// Relative to the mesh's domain, lower case, no trailing dot.
    pub name: String,
    /// All inside the node's own ranges.
    pub addresses: Vec<IpAddr>,
}

/// A node of the mesh, as its signed record says it and the rules allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub name: NodeName,
    pub public_key: PublicKey,
    /// Most preferred first.
    pub endpoints: Vec<Endpoint>,
    /// The ranges that are this node's, sorted; empty until its claim is final.
    pub pod_cidrs: Vec<IpNet>,
    /// Sorted by name; empty when it is away.
    pub names: Vec<ServedName>,
    /// It said goodbye: its names are withdrawn, its ranges stay its own.
    pub away: bool,
}

impl Member {
    /// The node's own address in each family: the first of each of its ranges' addresses
    /// (`10.32.7.1` of `10.32.7.0/24`).
    pub fn mesh_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.pod_cidrs.iter().filter_map(mesh_address)
    }
}

/// The address that a node takes for itself in its range: the first after the network's.
pub fn mesh_address(range: &IpNet) -> Option<IpAddr> {
    match range {
        IpNet::V4(net) => net.hosts().next().map(IpAddr::V4),
        IpNet::V6(net) => {
            let first = u128::from(net.network()) | 1;
            Some(IpAddr::V6(first.into()))
        }
    }
}

/// Everybody in the mesh but this node.
///
/// Invariant: no two members share a name, a public key or overlap in a pod CIDR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    pub members: BTreeMap<NodeId, Member>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_dns_names_are_refused() {
        let long = ["x"; 128].join(".");
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a..b",
            ".a",
            "a.",
            "a_b",
            &"x".repeat(64),
            &long,
        ] {
            assert_eq!(bad.parse::<NodeName>(), Err(ParseNodeError::Name), "{bad}");
        }
        assert!("edge-7".parse::<NodeName>().unwrap().is_label());
        assert!(!"a.example".parse::<NodeName>().unwrap().is_label());
    }

    #[test]
    fn an_identity_survives_its_text() {
        let id = NodeId::from_bytes([9; 32]);
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
    }

    #[test]
    fn endpoints_are_addresses_or_names() {
        let check = |text: &str, good: bool| {
            assert_eq!(text.parse::<Endpoint>().is_ok(), good, "{text}");
        };
        check("192.0.2.1:6783", true);
        check("[2001:db8::1]:6783", true);
        check("edge.example.com:6783", true);
        check("edge.example.com", false);
        check("a b:1", false);
        check("2001:db8::1:6783:x", false);
    }

    #[test]
    fn the_mesh_address_is_the_first_of_the_range() {
        let first = |range: &str| mesh_address(&range.parse().unwrap()).unwrap().to_string();
        assert_eq!(first("10.32.7.0/24"), "10.32.7.1");
        assert_eq!(first("fd00:1:2:7::/64"), "fd00:1:2:7::1");
    }
}
