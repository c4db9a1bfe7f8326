//! Discovery by gossip among nodes that hold the mesh's secret.
//!
//! Each node signs one record about itself; records, tombstones and the keyring spread between
//! members over sealed TCP connections until all hold the same. Nobody is believed beyond what is
//! theirs. Not promised: members that collude, or one that holds several identities, can outvote
//! an honest claim, since anyone who has a token may make identities.

mod admission;
mod channel;
mod claim;
mod config;
mod connection;
mod conns;
mod core;
#[cfg(test)]
mod corpus;
mod dial;
mod dialling;
mod files;
mod grant;
#[cfg(test)]
mod hostile;
mod keep;
mod keyring;
mod message;
mod node;
mod own;
mod params;
mod record;
mod rule;
mod session;
mod socket;
mod status;
mod tasks;
mod text;
mod token;
mod tombstone;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::warn;

pub use config::{CLAIM_WAIT, GossipConfig, Join, StartError};
pub use files::has_mesh;
pub use keyring::{KeyInfo, KeyState, MAX_KEYS};
pub use own::{ClaimState, Standing};
pub use params::{FoundingParams, MAX_SLOTS, MeshId, MeshParams, ParamsError};
pub use status::{GossipStatus, TargetState, TargetStatus};
pub use token::{KeyId, ParseTokenError, Secret, Token};
pub use tombstone::MAX_TOMBSTONES;

use super::{Announcement, Discovery, Health, Own};
use crate::identity::Identity;
use crate::keystore::StoreError;
use crate::{NodeId, Roster};
use files::Files;
use node::{Node, lock};
use tasks::Connections;

/// How long a shutdown waits for what is still to be sent.
const GOODBYE: Duration = Duration::from_secs(1);

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
    #[error("the mesh has {MAX_KEYS} secrets that are newer than any that could be made now")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What becomes of the secrets there are when a new one is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    Stay,
    Retire,
}

/// The gossip discovery of one node. Dropping it ends it.
#[derive(Debug)]
pub struct Gossip {
    node: Arc<Node>,
    services: Mutex<JoinSet<()>>,
    connections: Connections,
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
        let files = Files::open(&config.state_dir)?;
        let mut listeners = Vec::new();
        let mut listening = Vec::new();
        for address in &config.listen {
            let refuse = |source| StartError::Listen {
                address: *address,
                source,
            };
            let listener = socket::listen(*address, config.fwmark).map_err(refuse)?;
            listening.push(listener.local_addr().map_err(refuse)?);
            listeners.push(listener);
        }
        let node = Arc::new(Node::new(config, identity, me, files, listening)?);
        node.begin()?;
        let connections = Connections::default();
        let mut services = JoinSet::new();
        for listener in listeners {
            let connections = Arc::clone(&connections);
            services.spawn(tasks::listen(Arc::clone(&node), listener, connections));
        }
        services.spawn(tasks::dial(Arc::clone(&node), Arc::clone(&connections)));
        services.spawn(tasks::clock(Arc::clone(&node)));
        services.spawn(tasks::save(Arc::clone(&node)));
        services.spawn(tasks::keep(Arc::clone(&node)));
        Ok(Arc::new(Self {
            node,
            services: Mutex::new(services),
            connections,
        }))
    }

    /// This node's standing in gossip's own words.
    pub fn standing(&self) -> Standing {
        self.node.standing()
    }

    pub fn status(&self) -> GossipStatus {
        self.node.status()
    }

    /// The addresses listened on, with the ports that were given for 0.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.node.listening.clone()
    }

    /// Forgets the node that `who` names: its name, or the first characters (at least 4) of its
    /// identity. The others hear it once it is kept on disk here.
    ///
    /// # Errors
    /// When `who` names none, several, or this node, or the disk refuses. Then nobody was forgotten.
    pub async fn forget(&self, who: &str) -> Result<NodeId, ForgetError> {
        let tombstones = self.node.look(|core| core.tombstones_with(who));
        let tombstones = tombstones.ok_or(ForgetError::NotJoined)??;
        self.node.files.save_tombstones(&tombstones)?;
        let forgotten = self.node.drive(|core, now| core.forget(who, now));
        forgotten.ok_or(ForgetError::NotJoined)?
    }

    /// A new secret that lets nodes in beside those there are; its token as text.
    ///
    /// # Errors
    /// Before this node has joined, and when the disk refuses. Then all secrets are as they were.
    pub async fn token_create(&self) -> Result<String, TokenError> {
        self.new_token(Others::Stay)
    }

    /// A new secret; all others let only known nodes in from now on. Its token as text.
    ///
    /// # Errors
    /// As [`token_create`](Self::token_create).
    pub async fn token_rotate(&self) -> Result<String, TokenError> {
        self.new_token(Others::Retire)
    }

    /// The mesh's secrets without the secrets, newest first.
    pub fn token_list(&self) -> Vec<KeyInfo> {
        self.node
            .look(|core| core.keyring().list())
            .unwrap_or_default()
    }

    /// The newest token that lets nodes in, as text: for the join line only, never for a log.
    pub fn join_token(&self) -> String {
        self.node
            .token()
            .map_or_else(String::new, |token| token.reveal())
    }

    async fn end(&self) {
        let mut services = std::mem::take(&mut *lock(&self.services));
        services.shutdown().await;
        lock(&self.node.conns).close();
        let mut connections = std::mem::take(&mut *lock(&self.connections));
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, all).await.is_err() {
            connections.shutdown().await;
        }
        if let Err(error) = self.node.write_changes() {
            warn!(%error, "state not written at the end");
        }
        self.node.files.release();
    }

    fn new_token(&self, others: Others) -> Result<String, TokenError> {
        let secret = Secret::generate().map_err(StoreError::Random)?;
        let mesh = self.node.mesh().ok_or(TokenError::NotJoined)?;
        let now = node::unix_now();
        let keyring = self.node.look(|core| core.keyring().clone());
        let mut keyring = keyring.ok_or(TokenError::NotJoined)?;
        // Newer than all there are, whatever the clock says: the newest is given out.
        let newest = keyring
            .list()
            .first()
            .map_or(0, |k| k.created.saturating_add(1));
        let id = keyring.add(secret.clone(), now.max(newest));
        if keyring.get(id).is_none() {
            return Err(TokenError::Full);
        }
        if others == Others::Retire {
            keyring.retire_all_but(id);
        }
        self.node.files.save_keyring(&keyring)?;
        self.node
            .drive(|core, _| core.merge_keys(keyring.entries()));
        Ok(Token { mesh, secret }.reveal())
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        lock(&self.services).abort_all();
        lock(&self.connections).abort_all();
    }
}

impl Discovery for Gossip {
    fn announce(&self, me: Announcement) {
        self.node.announce(me);
    }

    fn own(&self) -> watch::Receiver<Arc<Own>> {
        self.node.own.subscribe()
    }

    fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.node.roster.subscribe()
    }

    fn health(&self) -> Health {
        self.node.status().into()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}
