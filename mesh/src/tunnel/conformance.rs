//! What every [`Tunnel`] keeps to, asked of a device that is fresh. It panics where one does not;
//! packets are no part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::Tunnel;
use crate::device::{Change, DeviceConfig, DeviceStatus, PeerConfig};
use crate::diff::diff;
use crate::{PresharedKey, PrivateKey, PublicKey};

/// Drives `tunnel` through the life of a device and returns the key of a peer that it leaves.
///
/// # Panics
/// When the device does not do what it was asked for.
pub async fn check(tunnel: &impl Tunnel) -> PublicKey {
    let (one, two) = (key(1), key(2));
    let mut device = Device {
        tunnel,
        config: DeviceConfig {
            private_key: PrivateKey::from_bytes([0x50; 32]),
            listen_port: 6783,
            fwmark: 0x7766,
            peers: BTreeMap::new(),
        },
        preshared: BTreeMap::new(),
    };

    // From nothing: the device, then peers of both families.
    device.reach("the device alone").await;
    device.peer(one).endpoint = Some(address("192.0.2.1:6783"));
    device.peer(one).allowed_ips = prefixes(&["10.32.1.9/24", "fd00:1::/64"]);
    device.peer(two).endpoint = Some(address("[2001:db8::2]:6783"));
    device.peer(two).allowed_ips = prefixes(&["10.32.2.0/24"]);
    let status = device.reach("two peers").await;
    assert_eq!(
        status.public_key,
        Some(device.config.private_key.public_key())
    );
    assert_eq!((status.listen_port, status.fwmark), (6783, 0x7766));
    assert_eq!(status.peers[&one].last_handshake, None);

    // One peer changes in each thing that it has; the other is as it was.
    let untouched = status.peers[&two].clone();
    device.peer(one).persistent_keepalive = Some(25);
    device.reach("a keepalive").await;
    device.peer(one).preshared_key = Some(PresharedKey::from_bytes([7; 32]));
    device.reach("a pre-shared key").await;
    device.peer(one).preshared_key = Some(PresharedKey::from_bytes([8; 32]));
    device.reach("another pre-shared key").await;
    device.peer(one).endpoint = Some(address("192.0.2.77:7000"));
    device.reach("another endpoint").await;
    device.peer(one).allowed_ips = prefixes(&["10.32.1.0/24", "10.32.3.0/24"]);
    device.reach("other allowed IPs").await;
    device.peer(one).preshared_key = None;
    device.peer(one).persistent_keepalive = Some(0);
    let status = device.reach("neither pre-shared key nor keepalive").await;
    assert_eq!(status.peers[&two].endpoint, untouched.endpoint);
    assert_eq!(status.peers[&two].allowed_ips, untouched.allowed_ips);

    // An endpoint that is not asked for stays what it is.
    device.peer(one).endpoint = None;
    device.peer(one).allowed_ips = prefixes(&["10.32.1.0/24"]);
    let status = device.reach("no endpoint").await;
    assert_eq!(
        status.peers[&one].endpoint,
        Some(address("192.0.2.77:7000"))
    );

    // Two peers exchange their ranges.
    device.peer(one).allowed_ips = prefixes(&["10.32.2.0/24"]);
    device.peer(two).allowed_ips = prefixes(&["10.32.1.0/24"]);
    device.reach("exchanged ranges").await;

    // A range goes to whoever asked for it last, as in the kernel.
    let config = PeerConfig {
        allowed_ips: prefixes(&["10.32.1.0/24"]),
        ..PeerConfig::default()
    };
    let steal = Change::SetPeer {
        public_key: one,
        config,
    };
    tunnel
        .apply(&[steal])
        .await
        .expect("a range can be taken over");
    let status = tunnel.status().await.expect("a status");
    assert_eq!(status.peers[&one].allowed_ips, prefixes(&["10.32.1.0/24"]));
    assert_eq!(status.peers[&two].allowed_ips, BTreeSet::new());
    device.reach("what was wanted, put back").await;

    // Many ranges of one peer.
    let many: BTreeSet<IpNet> = (0..1_500_u16)
        .map(|n| format!("fd00:{n:x}::/64").parse().expect("a prefix"))
        .collect();
    device.peer(two).allowed_ips = many;
    device.reach("1,500 ranges").await;
    device.peer(two).allowed_ips = prefixes(&["10.32.1.0/24"]);
    device.reach("one range again").await;

    // A peer that is not there is removed without complaint, one that is without the others.
    tunnel
        .apply(&[Change::RemovePeer { public_key: key(9) }])
        .await
        .expect("nothing to do");
    device.config.peers.remove(&one);
    let status = device.reach("one peer").await;
    assert_eq!(status.peers.len(), 1);

    // Another port and mark.
    (device.config.listen_port, device.config.fwmark) = (6799, 0);
    device.reach("another port").await;

    // Another key: peers stay.
    device.config.private_key = PrivateKey::from_bytes([0x51; 32]);
    let status = device.reach("another key").await;
    assert_eq!(status.peers.len(), 1);
    two
}

struct Device<'a, T> {
    tunnel: &'a T,
    config: DeviceConfig,
    preshared: BTreeMap<PublicKey, PresharedKey>,
}

impl<T: Tunnel> Device<'_, T> {
    fn peer(&mut self, key: PublicKey) -> &mut PeerConfig {
        self.config.peers.entry(key).or_default()
    }

    /// Brings the device to the configuration, after which there must be nothing left to change.
    async fn reach(&mut self, what: &str) -> DeviceStatus {
        let present = self.tunnel.status().await.expect(what);
        let changes = diff(&self.config, &present, &self.preshared);
        self.tunnel.apply(&changes).await.expect(what);
        let set =
            |(key, peer): (&PublicKey, &PeerConfig)| Some((*key, peer.preshared_key.clone()?));
        self.preshared = self.config.peers.iter().filter_map(set).collect();
        let status = self.tunnel.status().await.expect(what);
        let left = diff(&self.config, &status, &self.preshared);
        assert!(left.is_empty(), "{what}: still to be done: {left:?}");
        status
    }
}

fn key(id: u8) -> PublicKey {
    PrivateKey::from_bytes([id; 32]).public_key()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn prefixes(texts: &[&str]) -> BTreeSet<IpNet> {
    texts
        .iter()
        .map(|text| text.parse::<IpNet>().expect("a prefix").trunc())
        .collect()
}
