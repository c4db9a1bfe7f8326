//! The peers, as a snapshot that readers load without a lock and the control side replaces whole.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::allowed_ips::AllowedIps;
use super::identity::Identity;
use super::session::Session;
use super::udp::Segmentation;
use crate::PublicKey;

/// A peer that was not heard for so long is answered from whichever address the routes choose.
const STICKY: Duration = Duration::from_secs(15);

/// Who the peers are and how each is found.
#[derive(Clone, Default)]
pub(super) struct Table {
    /// None until the device has a key or a peer; see [`Table::identity`].
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) peers: HashMap<PublicKey, Arc<Peer>>,
    /// By the upper 24 bits of the receiver index on the wire.
    pub(super) by_index: HashMap<u32, Arc<Peer>>,
    pub(super) allowed_ips: AllowedIps<Arc<Peer>>,
}

impl Table {
    /// The device's key, if it was given one.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity
            .as_ref()
            .filter(|identity| !identity.is_stand_in)
    }

    pub(super) fn set_identity(&mut self, identity: Arc<Identity>) {
        self.identity = Some(identity);
    }

    /// Removes every peer.
    pub(super) fn clear(&mut self) {
        self.peers.clear();
        self.by_index.clear();
        self.allowed_ips = AllowedIps::default();
    }

    /// A free index, unpredictable so that nobody off the path can guess one.
    pub(super) fn free_index(&self) -> Result<u32, getrandom::Error> {
        loop {
            let index = getrandom::u32()? >> 8;
            if !self.by_index.contains_key(&index) {
                return Ok(index);
            }
        }
    }

    /// Enters the indices that `peer`'s session has now and forgets the others.
    pub(super) fn index(&mut self, peer: &Arc<Peer>) {
        self.by_index.retain(|_, other| !Arc::ptr_eq(other, peer));
        for index in peer.lock().session.indices() {
            self.by_index.insert(index, Arc::clone(peer));
        }
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.remove(key) else {
            return;
        };
        self.by_index.retain(|_, other| !Arc::ptr_eq(other, &peer));
        self.allowed_ips
            .retain(|_, holder| !Arc::ptr_eq(holder, &peer));
    }
}

/// A peer of the device.
pub(super) struct Peer {
    pub(super) key: PublicKey,
    state: Mutex<PeerState>,
    /// Held from the sealing of data until it is sent, before the state: what is on the wire is in
    /// the order of its counters.
    order: Mutex<()>,
    /// What is known of the way to its endpoint.
    pub(super) way: Segmentation,
    /// Bytes of UDP payload, authentic ones only.
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    /// Why the last datagram to it was not sent, 0 if it was.
    errno: AtomicI32,
}

/// Where a peer is reached. Another way than straight there, a relay, would be another variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Udp(SocketAddr),
}

impl Endpoint {
    /// The address that datagrams go to.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Udp(address) => address,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

/// The way of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) remote: SocketAddr,
    /// This host's address; `None` leaves it to the routes.
    pub(super) local: Option<IpAddr>,
}

/// What one packet at a time may touch.
pub(super) struct PeerState {
    pub(super) session: Session,
    pub(super) endpoint: Option<Endpoint>,
    /// This host's address that the endpoint spoke to: a strict NAT before the peer, or a firewall,
    /// lets only that one answer.
    pub(super) local: Option<IpAddr>,
}

impl PeerState {
    /// Where the peer is reached.
    pub(super) fn path(&self, now: Instant) -> Option<Path> {
        Some(Path {
            remote: self.endpoint?.address(),
            local: self.local.filter(|_| !self.session.is_silent(STICKY, now)),
        })
    }
}

impl Peer {
    pub(super) fn new(key: PublicKey, session: Session) -> Self {
        Self {
            key,
            state: Mutex::new(PeerState {
                session,
                endpoint: None,
                local: None,
            }),
            order: Mutex::new(()),
            way: Segmentation::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            errno: AtomicI32::new(0),
        }
    }

    pub(super) fn order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
        if self.errno.load(Relaxed) != 0 {
            self.errno.store(0, Relaxed);
        }
    }

    /// A datagram to the peer was not sent.
    pub(super) fn failed(&self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(libc::ENOTCONN);
        self.errno.store(errno, Relaxed);
    }

    /// Why the last datagram to the peer was not sent.
    pub(super) fn send_error(&self) -> Option<io::Error> {
        let errno = self.errno.load(Relaxed);
        (errno != 0).then(|| io::Error::from_raw_os_error(errno))
    }
}
