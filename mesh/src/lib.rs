//! WireGuard tunnels between weft nodes, and who is in the mesh.
//!
//! This crate knows nothing of routes, pods or nftables: it turns what nodes say about
//! themselves into a [`Roster`], and a wanted [`DeviceConfig`](device::DeviceConfig) into tunnels.

pub mod device;
pub mod diff;
pub mod discovery;
pub mod endpoint;
pub mod identity;
pub mod key;
pub mod keystore;
pub mod member;
pub mod probe;
pub mod tunnel;

#[cfg(test)]
#[path = "../../tests/corpus.rs"]
mod corpus;

pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use member::{Endpoint, Member, NodeId, NodeName, Roster, ServedName};
