//! What a mesh is: its founder and the address space that its nodes share, bound to its id.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::text::{hex_bytes, short_hash};
use crate::NodeId;

hex_bytes!(
    /// A mesh's id: the first 16 bytes of SHA-256 over its parameters, so whoever holds the id
    /// (a token does) can check the parameters it is given.
    pub MeshId, 16, "a mesh id is 32 hexadecimal digits"
);

impl MeshId {
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The most shares that a mesh's pool may have: a share is also one of the 65,536 /64s of a /48.
pub const MAX_SLOTS: u32 = 65_536;

/// What the founder decides for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundingParams {
    /// The IPv4 pool, 10.32.0.0/12 by default.
    pub pool4: Ipv4Net,
    /// The length of one node's share of it, 24 by default.
    pub node_prefix4: u8,
}

impl Default for FoundingParams {
    fn default() -> Self {
        Self {
            pool4: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 32, 0, 0), 12),
            node_prefix4: 24,
        }
    }
}

/// Why a mesh's parameters were refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParamsError {
    #[error("a node's share /{share} is larger than the pool {pool}")]
    ShareTooLarge { pool: Ipv4Net, share: u8 },
    #[error(
        "a node's share /{0} is too small: the node itself and its pods need addresses, so at most /28"
    )]
    ShareTooSmall(u8),
    #[error(
        "{pool} has 2^{bits} shares of /{share} and a mesh at most 2^16: \
         take a smaller pool or larger shares"
    )]
    TooManySlots { pool: Ipv4Net, share: u8, bits: u8 },
    #[error("the pool {0} has host bits set: its network is {net}", net = .0.trunc())]
    HostBits(Ipv4Net),
    #[error("the mesh's parameters are not those of mesh {0}")]
    OtherMesh(MeshId),
    #[error("the mesh's parameters cannot be read: {0}")]
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    founder: NodeId,
    pool4: Ipv4Net,
    node_prefix4: u8,
    /// Makes two meshes of one founder two meshes.
    nonce: String,
}

/// A mesh's parameters, checked. They never change: another set is another mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshParams {
    /// As encoded by the founder; the id is a hash of these very bytes.
    text: String,
    id: MeshId,
    pub founder: NodeId,
    pub pool4: Ipv4Net,
    pub node_prefix4: u8,
    /// A unique local /48 (RFC 4193 section 3.2), its 40 bits a hash of the mesh's nonce.
    pub ula: Ipv6Net,
}

impl MeshParams {
    /// A new mesh.
    ///
    /// # Errors
    /// When pool and share do not fit each other.
    pub fn found(
        founder: NodeId,
        params: FoundingParams,
        nonce: [u8; 16],
    ) -> Result<Self, ParamsError> {
        let encoded = Encoded {
            founder,
            pool4: params.pool4,
            node_prefix4: params.node_prefix4,
            nonce: data_encoding::HEXLOWER.encode(&nonce),
        };
        let text = serde_json::to_string(&encoded)
            .map_err(|error| ParamsError::Malformed(error.to_string()))?;
        Self::decode(&text)
    }

    /// Reads what [`encoded`](Self::encoded) gave.
    ///
    /// # Errors
    /// When it is malformed or its pool and share do not fit.
    pub fn decode(text: &str) -> Result<Self, ParamsError> {
        let encoded: Encoded = serde_json::from_str(text)
            .map_err(|error| ParamsError::Malformed(error.to_string()))?;
        check(encoded.pool4, encoded.node_prefix4)?;
        let global: [u8; 5] = short_hash(&[b"weft ula v1", encoded.nonce.as_bytes()]);
        let mut ula = [0; 16];
        ula[0] = 0xfd;
        ula[1..6].copy_from_slice(&global);
        Ok(Self {
            id: MeshId(short_hash(&[b"weft mesh v1", text.as_bytes()])),
            text: text.to_owned(),
            founder: encoded.founder,
            pool4: encoded.pool4,
            node_prefix4: encoded.node_prefix4,
            ula: Ipv6Net::new_assert(ula.into(), 48),
        })
    }

    /// Reads parameters that a peer sent, and refuses those of another mesh.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and when they are not those of `id`.
    pub fn verify(text: &str, id: MeshId) -> Result<Self, ParamsError> {
        let params = Self::decode(text)?;
        if params.id != id {
            return Err(ParamsError::OtherMesh(id));
        }
        Ok(params)
    }

    pub fn encoded(&self) -> &str {
        &self.text
    }

    pub fn id(&self) -> MeshId {
        self.id
    }

    /// How many nodes the pool has shares for.
    pub fn slots(&self) -> u32 {
        1 << (self.node_prefix4 - self.pool4.prefix_len())
    }

    /// The ranges of share `slot`, IPv4 first; `None` beyond the last.
    pub fn ranges(&self, slot: u32) -> Option<[IpNet; 2]> {
        if slot >= self.slots() {
            return None;
        }
        let v4 = u32::from(self.pool4.network()) + (slot << (32 - self.node_prefix4));
        let v6 = u128::from(self.ula.network()) | (u128::from(slot) << 64);
        Some([
            Ipv4Net::new(v4.into(), self.node_prefix4).ok()?.into(),
            Ipv6Net::new(Ipv6Addr::from(v6), 64).ok()?.into(),
        ])
    }
}

fn check(pool: Ipv4Net, share: u8) -> Result<(), ParamsError> {
    if pool != pool.trunc() {
        return Err(ParamsError::HostBits(pool));
    }
    if share < pool.prefix_len() {
        return Err(ParamsError::ShareTooLarge { pool, share });
    }
    if share > 28 {
        return Err(ParamsError::ShareTooSmall(share));
    }
    let bits = share - pool.prefix_len();
    if 1_u64 << bits > u64::from(MAX_SLOTS) {
        return Err(ParamsError::TooManySlots { pool, share, bits });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pool: &str, share: u8) -> Result<MeshParams, ParamsError> {
        let params = FoundingParams {
            pool4: pool.parse().unwrap(),
            node_prefix4: share,
        };
        MeshParams::found(NodeId::from_bytes([1; 32]), params, [7; 16])
    }

    #[test]
    fn a_share_is_a_range_of_each_family() {
        let params = found("10.32.0.0/12", 24).unwrap();
        assert_eq!(params.slots(), 4096);
        let [v4, v6] = params.ranges(258).unwrap();
        assert_eq!(v4.to_string(), "10.33.2.0/24");
        assert!(v6.to_string().ends_with(":102::/64"), "{v6}");
        assert!(IpNet::from(params.ula).contains(&v6));
        assert_eq!(params.ranges(4096), None);
        assert_eq!(found("10.0.0.0/8", 24).unwrap().slots(), 65_536);
    }

    #[test]
    fn pools_and_shares_that_do_not_fit_are_refused_with_the_reason() {
        let error = |pool, share| found(pool, share).unwrap_err().to_string();
        assert!(error("10.0.0.0/8", 25).contains("at most 2^16"));
        assert!(error("10.0.0.0/24", 16).contains("larger than the pool"));
        assert!(error("10.0.0.0/24", 30).contains("too small"));
        assert!(error("10.0.0.1/24", 26).contains("10.0.0.0/24"));
    }

    #[test]
    fn parameters_are_those_of_the_id_or_refused() {
        let params = found("10.32.0.0/12", 24).unwrap();
        assert_eq!(
            MeshParams::verify(params.encoded(), params.id()),
            Ok(params.clone())
        );
        let other = params.encoded().replace("10.32.0.0/12", "10.48.0.0/12");
        assert_eq!(
            MeshParams::verify(&other, params.id()),
            Err(ParamsError::OtherMesh(params.id()))
        );
    }
}
