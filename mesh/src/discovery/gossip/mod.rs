//! Discovery by gossip among nodes that hold the mesh's secret.
//!
//! Each node signs one record about itself; records, tombstones and the keyring spread between
//! members over sealed TCP connections until all hold the same. Nobody is believed beyond what is
//! theirs. Not promised: members that collude, or one that holds several identities, can outvote
//! an honest claim, since anyone who has a token may make identities.

mod config;
mod keyring;
mod own;
mod params;
mod status;
mod text;
mod token;
mod tombstone;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

pub use config::{CLAIM_WAIT, GossipConfig, Join, StartError};
pub use keyring::{KeyInfo, KeyState, MAX_KEYS};
pub use own::{ClaimState, Forgotten, Own, Problem, ProblemKind};
pub use params::{FoundingParams, MAX_SLOTS, MeshId, MeshParams, ParamsError};
pub use status::{GossipStatus, TargetState, TargetStatus};
pub use token::{KeyId, ParseTokenError, Secret, Token};
pub use tombstone::MAX_TOMBSTONES;

use super::{Announcement, Discovery};
use crate::identity::Identity;
use crate::keystore::StoreError;
use crate::{NodeId, Roster};

/// Why a node was not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error("no node is called {0}, and no identity begins so")]
    Unknown(String),
    #[error("{who} may be {}: give more of the identity", .candidates.join(" or "))]
    Ambiguous {
        who: String,
        candidates: Vec<String>,
    },
    #[error("{0} is this node: run `weft forget` on another one")]
    Oneself(String),
    #[error("the mesh has already forgotten {MAX_TOMBSTONES} nodes, which is the most it can")]
    Full,
    #[error("this node has not joined yet")]
    NotJoined,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("this node has not joined yet")]
    NotJoined,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The gossip discovery of one node. Dropping it ends it.
#[derive(Debug)]
pub struct Gossip {
    own: watch::Sender<Own>,
    roster: watch::Sender<Arc<Roster>>,
    me: Mutex<Announcement>,
    config: GossipConfig,
}

impl Gossip {
    /// Resumes, joins or makes a mesh, in this order of preference, and begins to listen and dial.
    /// Hosts that cannot be reached are no error: they are tried until they can.
    ///
    /// # Errors
    /// When the state directory cannot be used, belongs to another mesh or another agent, or an
    /// address cannot be listened on.
    pub async fn start(
        config: GossipConfig,
        identity: Arc<Identity>,
        me: Announcement,
    ) -> Result<Arc<Self>, StartError> {
        let own = Own {
            id: identity.id(),
            params: None,
            name: me.name.clone(),
            claim: ClaimState::Joining,
            observed: Vec::new(),
            problems: Vec::new(),
            forgotten: None,
        };
        Ok(Arc::new(Self {
            own: watch::Sender::new(own),
            roster: watch::Sender::default(),
            me: Mutex::new(me),
            config,
        }))
    }

    /// This node's standing, as a value that is replaced whole at each change.
    pub fn own(&self) -> watch::Receiver<Own> {
        self.own.subscribe()
    }

    pub fn status(&self) -> GossipStatus {
        GossipStatus {
            mesh: None,
            claim: self.own.borrow().claim.clone(),
            listening: self.listening(),
            targets: Vec::new(),
            records: 0,
            forgotten: 0,
            counters: std::collections::BTreeMap::new(),
            problems: self.own.borrow().problems.clone(),
        }
    }

    /// The addresses listened on, with the ports that were given for 0.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.config.listen.clone()
    }

    /// Forgets the node that `who` names: its name, or the first characters (at least 4) of its
    /// identity. Returns when this is kept on disk here; the others hear it at once.
    ///
    /// # Errors
    /// When `who` names none, several, or this node, or the disk refuses.
    pub async fn forget(&self, who: &str) -> Result<NodeId, ForgetError> {
        let _ = who;
        Err(ForgetError::NotJoined)
    }

    /// A new secret that lets nodes in beside those there are; its token as text.
    ///
    /// # Errors
    /// Before this node has joined, and when the disk refuses.
    pub async fn token_create(&self) -> Result<String, TokenError> {
        Err(TokenError::NotJoined)
    }

    /// A new secret; all others let only known nodes in from now on. Its token as text.
    ///
    /// # Errors
    /// As [`token_create`](Self::token_create).
    pub async fn token_rotate(&self) -> Result<String, TokenError> {
        Err(TokenError::NotJoined)
    }

    /// The mesh's secrets without the secrets, newest first.
    pub fn token_list(&self) -> Vec<KeyInfo> {
        Vec::new()
    }

    /// The newest token that lets nodes in, as text: for the join line only, never for a log.
    pub fn join_token(&self) -> String {
        let token = self.config.join.as_ref().map(|j| j.token.reveal());
        token.unwrap_or_default()
    }

    /// Writes what is not on disk yet, closes every connection and ends. Say goodbye before, by
    /// announcing `away`.
    pub async fn shutdown(&self) {}
}

impl Discovery for Gossip {
    fn announce(&self, me: Announcement) {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = me;
    }

    fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }
}
