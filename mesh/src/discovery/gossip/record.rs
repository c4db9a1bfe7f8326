//! A node's record: what it says of itself, signed, carried and kept verbatim.
//!
//! Checked in the order of cost: size, then signature, then the words. A record that breaks a rule
//! is refused whole, since an honest node never signs one.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::grant::Grant;
use super::params::{MeshId, MeshParams};
use super::text::hex_bytes;
use crate::identity::{Identity, Signature};
use crate::{Endpoint, NodeId, NodeName, PublicKey, ServedName};

/// The most bytes of a record's body.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// The most endpoints that a node may have.
pub(super) const MAX_ENDPOINTS: usize = 16;
/// The most names that a node may serve, and the most addresses of one.
pub(super) const MAX_NAMES: usize = 1024;
pub(super) const MAX_ADDRESSES: usize = 64;
/// The most grants that count.
pub(super) const MAX_GRANTS: usize = 7;

const CONTEXT: &[u8] = b"weft record v1";

hex_bytes!(
    /// One run of a node, random: two runs at one time are two machines with one key.
    pub(super) Instance, 16, "an instance is 32 hexadecimal digits"
);

impl Instance {
    pub(super) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Which of two records of a node is newer: the run first, then the change within the run. The
/// instance decides between two machines that count alike, so that everybody keeps one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) generation: u64,
    pub(super) version: u64,
    pub(super) instance: Instance,
}

/// A record as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signed {
    pub(super) id: NodeId,
    /// Repeats the body's, so that old news costs no signature check. Not trusted beyond that.
    pub(super) stamp: Stamp,
    pub(super) body: String,
    signature: Signature,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) name: NodeName,
    pub(super) key: PublicKey,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) names: Vec<ServedName>,
    pub(super) claim: Option<Claim>,
    pub(super) grants: Vec<Grant>,
    pub(super) away: bool,
    #[serde(flatten)]
    pub(super) stamp: Stamp,
}

/// A share of the pool that a node asks for, or, once final, says is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) slot: u32,
    #[serde(rename = "final")]
    pub(super) settled: bool,
}

/// A record that passed every check that does not depend on other records.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) signed: Signed,
    pub(super) body: Body,
}

/// Why a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("a record is too large")]
    Size,
    #[error("a record's signature is wrong")]
    Signature,
    #[error("a record cannot be read")]
    Malformed,
    #[error("a record's endpoint is inside the mesh, or no address of a host")]
    Endpoint,
    #[error("a record's name or served name is none that a node may have")]
    Name,
    #[error("a record's served address is outside the node's range")]
    Address,
    #[error("a record claims what is not one node's share of the pool")]
    Range,
    #[error("a record carries a grant that nobody signed")]
    Grant,
}

impl Refused {
    /// The counter it is counted in.
    pub(super) fn counter(self) -> &'static str {
        match self {
            Self::Size => "records refused: size",
            Self::Signature => "records refused: signature",
            Self::Malformed => "records refused: malformed",
            Self::Endpoint => "records refused: endpoint",
            Self::Name => "records refused: name",
            Self::Address => "records refused: address",
            Self::Range => "records refused: range",
            Self::Grant => "records refused: grant",
        }
    }
}

/// The rules that a mesh's parameters and settings make.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) params: MeshParams,
    pub(super) allow_loopback: bool,
}

impl Signed {
    pub(super) fn sign(body: &Body, identity: &Identity, mesh: MeshId) -> Option<Self> {
        let text = serde_json::to_string(body).ok()?;
        Some(Self::sign_text(text, body.stamp, identity, mesh))
    }

    pub(super) fn sign_text(body: String, stamp: Stamp, identity: &Identity, mesh: MeshId) -> Self {
        let id = identity.id();
        let signature = identity.sign(&[CONTEXT, mesh.as_bytes(), id.as_bytes(), body.as_bytes()]);
        Self {
            id,
            stamp,
            body,
            signature,
        }
    }

    /// Checks size and signature.
    pub(super) fn verify(&self, mesh: MeshId) -> Result<(), Refused> {
        if self.body.len() > MAX_BODY {
            return Err(Refused::Size);
        }
        let parts = [
            CONTEXT,
            mesh.as_bytes(),
            self.id.as_bytes(),
            self.body.as_bytes(),
        ];
        if !self.signature.is_by(self.id, &parts) {
            return Err(Refused::Signature);
        }
        Ok(())
    }
}

impl Record {
    /// Checks `signed` whole. Grants that `previous` already had are not checked again.
    pub(super) fn open(
        signed: Signed,
        rules: &Rules,
        previous: Option<&Self>,
    ) -> Result<Self, Refused> {
        signed.verify(rules.params.id())?;
        let body: Body = serde_json::from_str(&signed.body).map_err(|_| Refused::Malformed)?;
        if body.stamp != signed.stamp {
            return Err(Refused::Malformed);
        }
        rules.check(&body)?;
        let record = Self { signed, body };
        record.check_grants(rules.params.id(), previous)?;
        Ok(record)
    }

    pub(super) fn id(&self) -> NodeId {
        self.signed.id
    }

    fn check_grants(&self, mesh: MeshId, previous: Option<&Self>) -> Result<(), Refused> {
        let grants = &self.body.grants;
        if grants.len() > MAX_GRANTS {
            return Err(Refused::Grant);
        }
        let known = previous.map_or(&[] as &[Grant], |p| &p.body.grants);
        for (at, grant) in grants.iter().enumerate() {
            let again = grants[..at].iter().any(|g| g.by == grant.by);
            let valid = known.contains(grant) || grant.is_valid(mesh, self.id());
            if again || !valid {
                return Err(Refused::Grant);
            }
        }
        Ok(())
    }
}

impl Rules {
    /// Whether `endpoint` may be a node's: never inside the mesh, never this very host.
    pub(super) fn allows_endpoint(&self, endpoint: &Endpoint) -> bool {
        match endpoint {
            Endpoint::Address(address) => address.port() != 0 && self.allows_host(address.ip()),
            Endpoint::Name { port, .. } => *port != 0,
        }
    }

    /// Whether a node may be reached at `address`.
    pub(super) fn allows_host(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let unusable = match address {
            IpAddr::V4(a) => a.is_broadcast() || self.params.pool4.contains(&a),
            // A link-local address means nothing on another host.
            IpAddr::V6(a) => a.is_unicast_link_local() || self.params.ula.contains(&a),
        };
        let loopback = address.is_loopback() && !self.allow_loopback;
        !(unusable || loopback || address.is_unspecified() || address.is_multicast())
    }

    /// Whether a served name may be told on by a node with `claim`.
    pub(super) fn check_served(
        &self,
        served: &ServedName,
        claim: Option<Claim>,
    ) -> Result<(), Refused> {
        if !is_domain(&served.name) || served.addresses.len() > MAX_ADDRESSES {
            return Err(Refused::Name);
        }
        let ranges = claim
            .filter(|c| c.settled)
            .and_then(|c| self.params.ranges(c.slot))
            .ok_or(Refused::Address)?;
        let inside = |a: &IpAddr| ranges.iter().any(|r| r.contains(a));
        if served.addresses.iter().all(inside) {
            Ok(())
        } else {
            Err(Refused::Address)
        }
    }

    fn check(&self, body: &Body) -> Result<(), Refused> {
        if body.endpoints.len() > MAX_ENDPOINTS
            || !body.endpoints.iter().all(|e| self.allows_endpoint(e))
        {
            return Err(Refused::Endpoint);
        }
        if body.claim.is_some_and(|c| c.slot >= self.params.slots()) {
            return Err(Refused::Range);
        }
        if !body.name.is_label() || body.names.len() > MAX_NAMES {
            return Err(Refused::Name);
        }
        body.names
            .iter()
            .try_for_each(|served| self.check_served(served, body.claim))
    }
}

/// A name relative to the mesh's domain: DNS labels in lower case, `_` allowed for services.
fn is_domain(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
