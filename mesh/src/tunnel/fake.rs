//! A device in memory, for tests: it keeps what it is given and moves no packets.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{Tunnel, TunnelError};
use crate::PublicKey;
use crate::device::{Change, DeviceStatus};

/// A device that keeps what it is given.
#[derive(Debug)]
pub struct FakeTunnel {
    link: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    status: DeviceStatus,
    applied: Vec<Change>,
}

impl FakeTunnel {
    /// A device as it is before anything was set.
    pub fn new(link: &str) -> Self {
        Self {
            link: link.to_owned(),
            state: Mutex::default(),
        }
    }

    /// Every change that was applied, in order.
    pub fn applied(&self) -> Vec<Change> {
        self.state().applied.clone()
    }

    /// Lets a peer of the device be heard from `endpoint` with a handshake at `when`. A key that is
    /// no peer's is ignored, as a device would.
    pub fn hear(&self, peer: &PublicKey, endpoint: SocketAddr, when: SystemTime) {
        if let Some(peer) = self.state().status.peers.get_mut(peer) {
            peer.endpoint = Some(endpoint);
            peer.last_handshake = Some(when);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, reason: &str) -> TunnelError {
        TunnelError::Refused {
            link: self.link.clone(),
            reason: reason.to_owned(),
        }
    }

    fn carry_out(&self, status: &mut DeviceStatus, change: &Change) -> Result<(), TunnelError> {
        match change {
            Change::SetDevice {
                private_key,
                listen_port,
                fwmark,
            } => {
                let key = private_key.public_key();
                status.peers.remove(&key);
                status.public_key = Some(key);
                status.listen_port = *listen_port;
                status.fwmark = *fwmark;
            }
            Change::RemovePeer { public_key } => {
                status.peers.remove(public_key);
            }
            Change::SetPeer { public_key, .. } if status.public_key.is_none() => {
                return Err(self.refused(&format!("peer {public_key} before the device's key")));
            }
            Change::SetPeer { public_key, .. } if status.public_key == Some(*public_key) => {
                return Err(self.refused("a peer has the device's own key"));
            }
            Change::SetPeer { public_key, config } => {
                let prefixes = config.allowed_ips.iter().map(ipnet::IpNet::trunc).collect();
                for peer in status.peers.values_mut() {
                    peer.allowed_ips = &peer.allowed_ips - &prefixes;
                }
                let peer = status.peers.entry(*public_key).or_default();
                peer.endpoint = config.endpoint.or(peer.endpoint);
                peer.allowed_ips = prefixes;
                peer.has_preshared_key = config.preshared_key.is_some();
                peer.persistent_keepalive = config.persistent_keepalive.filter(|&s| s > 0);
            }
        }
        Ok(())
    }
}

impl Tunnel for FakeTunnel {
    async fn status(&self) -> Result<DeviceStatus, TunnelError> {
        Ok(self.state().status.clone())
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), TunnelError> {
        let mut state = self.state();
        let mut result = Ok(());
        for change in changes {
            result = result.and(self.carry_out(&mut state.status, change));
            state.applied.push(change.clone());
        }
        result
    }

    fn link(&self) -> &str {
        &self.link
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::conformance;

    #[tokio::test]
    async fn the_fake_behaves_as_a_device() {
        conformance::check(&FakeTunnel::new("weft0")).await;
    }

    #[tokio::test]
    async fn a_peer_is_heard_where_the_test_says() {
        let tunnel = FakeTunnel::new("weft0");
        let key = conformance::check(&tunnel).await;
        let (endpoint, when) = (([192, 0, 2, 9], 1).into(), SystemTime::UNIX_EPOCH);
        tunnel.hear(&key, endpoint, when);
        let peer = tunnel.status().await.unwrap().peers[&key].clone();
        assert_eq!(
            (peer.endpoint, peer.last_handshake),
            (Some(endpoint), Some(when))
        );
        assert!(!tunnel.applied().is_empty());
    }
}
