//! A change of the device in parts, as WireGuard's configuration protocol has it: what is not named
//! stays. Peers are changed in order, in one step that no packet sees half of.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::device::Change;
use crate::{PresharedKey, PrivateKey, PublicKey};

/// What of the device is to change.
#[derive(Clone, Debug, Default)]
pub(super) struct Update {
    /// `Some(None)` takes the key away.
    pub(super) private_key: Option<Option<PrivateKey>>,
    /// 0 is any that is free.
    pub(super) listen_port: Option<u16>,
    pub(super) fwmark: Option<u32>,
    /// Every peer goes first.
    pub(super) replace_peers: bool,
    pub(super) peers: Vec<PeerUpdate>,
}

/// What of one peer is to change.
#[derive(Clone, Debug)]
pub(super) struct PeerUpdate {
    pub(super) key: PublicKey,
    pub(super) remove: bool,
    /// Nothing is done where there is no such peer.
    pub(super) update_only: bool,
    /// `Some(None)` takes it away.
    pub(super) preshared_key: Option<Option<PresharedKey>>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds; 0 is off.
    pub(super) persistent_keepalive: Option<u16>,
    /// All its prefixes go first.
    pub(super) replace_allowed_ips: bool,
    /// Prefixes that it gets, or that it loses where it has them.
    pub(super) allowed_ips: Vec<(IpNet, Prefix)>,
}

/// What becomes of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Add,
    Remove,
}

impl PeerUpdate {
    pub(super) fn new(key: PublicKey) -> Self {
        Self {
            key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

impl From<&Change> for Update {
    fn from(change: &Change) -> Self {
        let one = |peer| Self {
            peers: vec![peer],
            ..Self::default()
        };
        match change {
            Change::SetDevice {
                private_key,
                listen_port,
                fwmark,
            } => Self {
                private_key: Some(Some(private_key.clone())),
                listen_port: Some(*listen_port),
                fwmark: Some(*fwmark),
                ..Self::default()
            },
            Change::SetPeer { public_key, config } => one(PeerUpdate {
                preshared_key: Some(config.preshared_key.clone()),
                endpoint: config.endpoint,
                persistent_keepalive: Some(config.persistent_keepalive.unwrap_or(0)),
                replace_allowed_ips: true,
                allowed_ips: config
                    .allowed_ips
                    .iter()
                    .map(|&prefix| (prefix, Prefix::Add))
                    .collect(),
                ..PeerUpdate::new(*public_key)
            }),
            Change::RemovePeer { public_key } => one(PeerUpdate {
                remove: true,
                ..PeerUpdate::new(*public_key)
            }),
        }
    }
}
