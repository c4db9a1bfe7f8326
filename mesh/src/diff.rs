//! The changes that bring a device from what it is to what it should be. Pure: equal inputs give
//! equal changes, and a device that is as it should be gives none.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::device::{Change, DeviceConfig, DeviceStatus, PeerConfig, PeerStatus};
use crate::{PresharedKey, PublicKey};

/// The changes from `present` to `wanted`, in the order in which they must be made.
///
/// `preshared` holds the pre-shared keys that were last set: a device tells that it has one, not
/// which. A peer that is not in it gets its key set again, which costs no session.
///
/// An endpoint that `wanted` leaves out is left alone; which endpoint to ask for is decided by
/// [`endpoint`](crate::endpoint). No two peers of `wanted` may hold the same allowed IP.
pub fn diff(
    wanted: &DeviceConfig,
    present: &DeviceStatus,
    preshared: &BTreeMap<PublicKey, PresharedKey>,
) -> Vec<Change> {
    let mut changes: Vec<Change> = present
        .peers
        .keys()
        .filter(|key| !wanted.peers.contains_key(key))
        .map(|&public_key| Change::RemovePeer { public_key })
        .collect();

    if present.public_key != Some(wanted.private_key.public_key())
        || present.listen_port != wanted.listen_port
        || present.fwmark != wanted.fwmark
    {
        changes.push(Change::SetDevice {
            private_key: wanted.private_key.clone(),
            listen_port: wanted.listen_port,
            fwmark: wanted.fwmark,
        });
    }

    // An allowed IP is taken from one peer before it is given to another. A peer that both gives
    // and takes is touched twice: two of them may be exchanging ranges.
    let mut giving = Vec::new();
    let mut taking = Vec::new();
    for (&public_key, config) in &wanted.peers {
        let config = normal(config);
        let Some(status) = present.peers.get(&public_key) else {
            taking.push(Change::SetPeer { public_key, config });
            continue;
        };
        if is_as_wanted(&config, status, preshared.get(&public_key)) {
            continue;
        }
        let gains = !config.allowed_ips.is_subset(&status.allowed_ips);
        let loses = !status.allowed_ips.is_subset(&config.allowed_ips);
        if loses && gains {
            let kept = &config.allowed_ips & &status.allowed_ips;
            let config = PeerConfig {
                allowed_ips: kept,
                ..config.clone()
            };
            giving.push(Change::SetPeer { public_key, config });
        }
        let change = Change::SetPeer { public_key, config };
        if loses && !gains {
            giving.push(change);
        } else {
            taking.push(change);
        }
    }
    changes.append(&mut giving);
    changes.append(&mut taking);
    changes
}

fn is_as_wanted(config: &PeerConfig, status: &PeerStatus, last: Option<&PresharedKey>) -> bool {
    let endpoint = config.endpoint.is_none() || config.endpoint == status.endpoint;
    let preshared = match &config.preshared_key {
        None => !status.has_preshared_key,
        Some(key) => status.has_preshared_key && last == Some(key),
    };
    endpoint
        && preshared
        && config.allowed_ips == status.allowed_ips
        && config.persistent_keepalive == status.persistent_keepalive
}

/// As a device would say it: allowed IPs without host bits, a keepalive of 0 as none.
fn normal(config: &PeerConfig) -> PeerConfig {
    PeerConfig {
        allowed_ips: config
            .allowed_ips
            .iter()
            .map(IpNet::trunc)
            .collect::<BTreeSet<_>>(),
        persistent_keepalive: config.persistent_keepalive.filter(|&seconds| seconds != 0),
        ..config.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PrivateKey;

    /// A device that panics where one peer takes an allowed IP from another.
    fn apply(device: &mut DeviceStatus, changes: &[Change]) {
        for change in changes {
            match change {
                Change::SetDevice {
                    private_key,
                    listen_port,
                    fwmark,
                } => {
                    device.public_key = Some(private_key.public_key());
                    device.listen_port = *listen_port;
                    device.fwmark = *fwmark;
                }
                Change::RemovePeer { public_key } => {
                    assert!(device.peers.remove(public_key).is_some());
                }
                Change::SetPeer { public_key, config } => {
                    for (other, status) in &device.peers {
                        assert!(
                            other == public_key
                                || status.allowed_ips.is_disjoint(&config.allowed_ips),
                            "an allowed IP was given before it was taken"
                        );
                    }
                    let peer = device.peers.entry(*public_key).or_default();
                    peer.endpoint = config.endpoint.or(peer.endpoint);
                    peer.allowed_ips = config.allowed_ips.clone();
                    peer.has_preshared_key = config.preshared_key.is_some();
                    peer.persistent_keepalive = config.persistent_keepalive;
                }
            }
        }
    }

    fn preshared(config: &DeviceConfig) -> BTreeMap<PublicKey, PresharedKey> {
        let key =
            |(key, peer): (&PublicKey, &PeerConfig)| Some((*key, peer.preshared_key.clone()?));
        config.peers.iter().filter_map(key).collect()
    }

    prop_compose! {
        /// Up to eight peers that share out sixteen ranges.
        fn config()(
            key in 1_u8..3,
            port in 1_u16..3,
            fwmark in 0_u32..2,
            owners in prop::collection::vec(0_u8..10, 16),
            peers in prop::collection::btree_map(
                0_u8..8,
                (0_u16..3, prop::option::of(0_u8..2), prop::option::of(0_u16..3)),
                0..8,
            ),
        ) -> DeviceConfig {
            let range = |n: usize| format!("10.32.{n}.7/24").parse::<IpNet>().unwrap();
            let peer = |(id, (endpoint, psk, keepalive)): (u8, (u16, Option<u8>, Option<u16>))| {
                let owned = (0..16).filter(|&n| owners[n] == id).map(range).collect();
                (PublicKey::from_bytes([id; 32]), PeerConfig {
                    endpoint: (endpoint > 0).then(|| ([192, 0, 2, 1], endpoint).into()),
                    allowed_ips: owned,
                    preshared_key: psk.map(|byte| PresharedKey::from_bytes([byte; 32])),
                    persistent_keepalive: keepalive,
                })
            };
            DeviceConfig {
                private_key: PrivateKey::from_bytes([key; 32]),
                listen_port: port,
                fwmark,
                peers: peers.into_iter().map(peer).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn applying_the_changes_gives_what_was_wanted(first in config(), second in config()) {
            let mut device = DeviceStatus::default();
            let changes = diff(&first, &device, &BTreeMap::new());
            apply(&mut device, &changes);
            let changes = diff(&second, &device, &preshared(&first));
            apply(&mut device, &changes);

            prop_assert_eq!(diff(&second, &device, &preshared(&second)).len(), 0);
            prop_assert_eq!(device.listen_port, second.listen_port);
            prop_assert_eq!(device.peers.len(), second.peers.len());
            for (key, wanted) in &second.peers {
                let present = &device.peers[key];
                let ranges = wanted.allowed_ips.iter().map(IpNet::trunc).collect();
                prop_assert_eq!(&present.allowed_ips, &ranges);
                prop_assert_eq!(present.has_preshared_key, wanted.preshared_key.is_some());
                prop_assert!(wanted.endpoint.is_none() || wanted.endpoint == present.endpoint);
            }
        }
    }

    fn two_peers() -> (DeviceConfig, DeviceStatus) {
        let mut config = DeviceConfig {
            private_key: PrivateKey::from_bytes([1; 32]),
            listen_port: 6783,
            fwmark: 1,
            peers: BTreeMap::new(),
        };
        for id in 1..=2_u8 {
            let peer = PeerConfig {
                endpoint: Some(([192, 0, 2, id], 6783).into()),
                allowed_ips: [format!("10.32.{id}.0/24").parse().unwrap()].into(),
                ..PeerConfig::default()
            };
            config.peers.insert(PublicKey::from_bytes([id; 32]), peer);
        }
        let mut device = DeviceStatus::default();
        let changes = diff(&config, &device, &BTreeMap::new());
        apply(&mut device, &changes);
        (config, device)
    }

    #[test]
    fn a_change_touches_the_peer_that_differs_and_no_other() {
        let (mut config, device) = two_peers();
        let key = PublicKey::from_bytes([2; 32]);
        config.peers.get_mut(&key).unwrap().persistent_keepalive = Some(25);
        let changes = diff(&config, &device, &BTreeMap::new());
        assert!(
            matches!(&changes[..], [Change::SetPeer { public_key, .. }] if *public_key == key),
            "{changes:?}"
        );
    }

    #[test]
    fn an_endpoint_that_is_not_asked_for_is_left_where_it_roamed_to() {
        let (mut config, mut device) = two_peers();
        let key = PublicKey::from_bytes([1; 32]);
        device.peers.get_mut(&key).unwrap().endpoint = Some(([198, 51, 100, 9], 1).into());
        config.peers.get_mut(&key).unwrap().endpoint = None;
        assert!(diff(&config, &device, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn a_changed_preshared_key_is_set() {
        let (mut config, mut device) = two_peers();
        let key = PublicKey::from_bytes([1; 32]);
        config.peers.get_mut(&key).unwrap().preshared_key = Some(PresharedKey::from_bytes([5; 32]));
        let changes = diff(&config, &device, &BTreeMap::new());
        apply(&mut device, &changes);
        let last = preshared(&config);
        assert!(diff(&config, &device, &last).is_empty());
        config.peers.get_mut(&key).unwrap().preshared_key = Some(PresharedKey::from_bytes([6; 32]));
        assert_eq!(diff(&config, &device, &last).len(), 1);
    }
}
