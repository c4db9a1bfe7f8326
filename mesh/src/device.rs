//! What a WireGuard device is wanted to be, what it is, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::{PresharedKey, PrivateKey, PublicKey};

/// The wanted state of the device.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    pub private_key: PrivateKey,
    /// UDP port, not 0.
    pub listen_port: u16,
    /// The mark that the device's own datagrams carry (`SO_MARK`), so that routing keeps them out
    /// of the mesh.
    pub fwmark: u32,
    pub peers: BTreeMap<PublicKey, PeerConfig>,
}

/// The wanted state of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// `None` leaves whatever the device has learnt (roaming) alone.
    pub endpoint: Option<SocketAddr>,
    pub allowed_ips: BTreeSet<IpNet>,
    pub preshared_key: Option<PresharedKey>,
    /// Seconds between keepalives; `None` is off.
    pub persistent_keepalive: Option<u16>,
}

/// What the device is now. It never holds a private key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    pub public_key: Option<PublicKey>,
    pub listen_port: u16,
    pub fwmark: u32,
    pub peers: BTreeMap<PublicKey, PeerStatus>,
    /// Packets that the engine dropped, by reason; empty for the kernel's, which does not say.
    pub drops: BTreeMap<&'static str, u64>,
}

/// What a peer of the device is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    pub endpoint: Option<SocketAddr>,
    pub allowed_ips: BTreeSet<IpNet>,
    pub has_preshared_key: bool,
    pub persistent_keepalive: Option<u16>,
    pub last_handshake: Option<SystemTime>,
    /// Bytes on the wire, as WireGuard counts them.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Why the last datagram to the peer was not sent; the kernel's engine does not say.
    pub send_error: Option<String>,
}

/// One step from what a device is to what it should be. A change touches one peer, never the rest.
#[derive(Clone, Debug)]
pub enum Change {
    /// The device's own key, port and mark.
    SetDevice {
        private_key: PrivateKey,
        listen_port: u16,
        fwmark: u32,
    },
    /// A peer as a whole: added where it is not there, else brought to this state. Allowed IPs that
    /// are not listed are taken from it; its session survives unless its pre-shared key changed.
    SetPeer {
        public_key: PublicKey,
        config: PeerConfig,
    },
    RemovePeer {
        public_key: PublicKey,
    },
}
