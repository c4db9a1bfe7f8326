//! The seam: who is in the mesh, and the telling of it.

pub mod gossip;

use std::sync::Arc;

use tokio::sync::watch;

use crate::{Endpoint, NodeName, PublicKey, Roster, ServedName};

/// What this node says of itself. Its identity and its ranges are the discovery's own business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub name: NodeName,
    pub public_key: PublicKey,
    pub endpoints: Vec<Endpoint>,
    /// Served addresses lie in this node's ranges; others are not told on.
    pub names: Vec<ServedName>,
    /// A goodbye: the names are withdrawn everywhere, the ranges stay this node's.
    pub away: bool,
}

/// A source of membership: gossip, the Kubernetes API, or a file.
pub trait Discovery: Send + Sync {
    /// Replaces what this node says of itself; told to the others at once if it changed.
    fn announce(&self, me: Announcement);

    /// The others, as a value that is replaced whole at each change.
    fn roster(&self) -> watch::Receiver<Arc<Roster>>;
}
