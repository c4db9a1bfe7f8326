//! What gossip is told at its start, and why it may refuse.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::params::{FoundingParams, MeshId, ParamsError};
use super::token::Token;
use crate::Endpoint;
use crate::keystore::StoreError;

/// How long a claim waits for objections.
pub const CLAIM_WAIT: Duration = Duration::from_millis(500);

/// Settings of the gossip discovery.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// Where the mesh's parameters, keys and records are kept; made if it is not there.
    pub state_dir: PathBuf,
    /// TCP addresses to listen on. A peer dials the port that a node's endpoints have.
    pub listen: Vec<SocketAddr>,
    /// Used when this node makes a mesh.
    pub founding: FoundingParams,
    /// How to join; `None` resumes what the state directory knows, or makes a mesh.
    pub join: Option<Join>,
    /// More nodes to dial, always.
    pub peers: Vec<Endpoint>,
    /// The mark that sockets carry (`SO_MARK`), so that routing keeps them out of the mesh.
    pub fwmark: Option<u32>,
    /// How long a claim of a range waits for objections, [`CLAIM_WAIT`] by default.
    pub claim_wait: Duration,
    /// Accept endpoints on the loopback, for tests on one machine.
    pub allow_loopback: bool,
}

/// The token and the nodes to ask.
#[derive(Clone, Debug)]
pub struct Join {
    pub token: Token,
    /// At least one.
    pub hosts: Vec<Endpoint>,
}

/// Why gossip did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Params(#[from] ParamsError),
    #[error(
        "{} belongs to mesh {have} and the token to mesh {token}: \
         use another state directory, or leave the first mesh with `weft cleanup`", .state_dir.display()
    )]
    OtherMesh {
        state_dir: PathBuf,
        have: MeshId,
        token: MeshId,
    },
    #[error("{} is in use by another agent: give each its own state directory", .0.display())]
    InUse(PathBuf),
    #[error("{} holds the parameters of mesh {mesh} but no keyring: restore it, or join again with a token", .state_dir.display())]
    NoKeys { state_dir: PathBuf, mesh: MeshId },
    #[error("a join needs at least one host to ask")]
    NoHosts,
    #[error("listen on tcp {address}: {source}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}
