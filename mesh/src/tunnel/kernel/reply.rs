//! The kernel's answers, read: the family's number, a link's kind, the device with its peers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable, ParseableParametrized};
use netlink_packet_generic::GenlHeader;
use netlink_packet_generic::ctrl::GenlCtrl;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute,
};
use zeroize::Zeroize;

use super::netlink::Replies;
use crate::PublicKey;
use crate::device::{DeviceStatus, PeerStatus};

/// A generic netlink header.
const GENERIC: usize = 4;

pub(super) fn family(replies: &Replies) -> Option<u16> {
    let body = replies.first()?.get(GENERIC..)?;
    let header = GenlHeader { cmd: 1, version: 2 };
    let reply = GenlCtrl::parse_with_param(body, header).ok()?;
    reply.nlas.iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    })
}

/// `wireguard`, `tun`; none for a link that is no virtual one.
pub(super) fn link_kind(replies: &Replies) -> Option<String> {
    let link = LinkMessage::parse(replies.first()?.as_slice()).ok()?;
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
                LinkInfo::Kind(kind) => Some(kind.to_string()),
                _ => None,
            }),
            _ => None,
        })
}

/// The device out of a dump. A peer whose allowed IPs fill a message goes on in the next.
pub(super) fn status(replies: &Replies) -> Result<DeviceStatus, DecodeError> {
    let mut status = DeviceStatus::default();
    for reply in replies {
        let body = reply.get(GENERIC..).unwrap_or_default();
        let header = GenlHeader { cmd: 0, version: 1 };
        for attribute in WireguardMessage::parse_with_param(body, header)?.attributes {
            match attribute {
                WireguardAttribute::PrivateKey(mut key) => key.zeroize(),
                WireguardAttribute::PublicKey(key) => {
                    status.public_key = Some(PublicKey::from_bytes(key));
                }
                WireguardAttribute::ListenPort(port) => status.listen_port = port,
                WireguardAttribute::Fwmark(mark) => status.fwmark = mark,
                WireguardAttribute::Peers(peers) => {
                    peers.iter().for_each(|peer| enter(&mut status.peers, peer));
                }
                _ => {}
            }
        }
    }
    Ok(status)
}

fn enter(peers: &mut BTreeMap<PublicKey, PeerStatus>, peer: &WireguardPeer) {
    let key = peer.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey::from_bytes(*key)),
        _ => None,
    });
    let Some(key) = key else { return };
    let status = peers.entry(key).or_default();
    for attribute in peer.iter() {
        match attribute {
            WireguardPeerAttribute::PresharedKey(key) => {
                status.has_preshared_key = key.iter().any(|&byte| byte != 0);
            }
            WireguardPeerAttribute::Endpoint(endpoint) => status.endpoint = Some(*endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => {
                status.persistent_keepalive = Some(*seconds).filter(|&seconds| seconds > 0);
            }
            WireguardPeerAttribute::LastHandshake(time) => {
                let seconds = u64::try_from(time.seconds).unwrap_or(0);
                let nanos = u32::try_from(time.nano_seconds)
                    .unwrap_or(0)
                    .min(999_999_999);
                // All zeros is never.
                status.last_handshake = SystemTime::UNIX_EPOCH
                    .checked_add(Duration::new(seconds, nanos))
                    .filter(|&time| time > SystemTime::UNIX_EPOCH);
            }
            WireguardPeerAttribute::RxBytes(bytes) => status.rx_bytes = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => status.tx_bytes = *bytes,
            WireguardPeerAttribute::AllowedIps(prefixes) => {
                status
                    .allowed_ips
                    .extend(prefixes.iter().filter_map(prefix));
            }
            _ => {}
        }
    }
}

fn prefix(allowed: &WireguardAllowedIp) -> Option<IpNet> {
    let address = allowed.iter().find_map(|attribute| match attribute {
        WireguardAllowedIpAttr::IpAddr(address) => Some(*address),
        _ => None,
    })?;
    let length = allowed.iter().find_map(|attribute| match attribute {
        WireguardAllowedIpAttr::Cidr(length) => Some(*length),
        _ => None,
    })?;
    IpNet::new(address, length).ok()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_wireguard::{WireguardCmd, WireguardTimeSpec};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn reply(attributes: Vec<WireguardAttribute>) -> Zeroizing<Vec<u8>> {
        let message = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes,
        };
        let mut bytes = vec![0; GENERIC + message.buffer_len()];
        message.emit(&mut bytes[GENERIC..]);
        Zeroizing::new(bytes)
    }

    fn allowed(address: &str, length: u8) -> WireguardAllowedIp {
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::IpAddr(address.parse().unwrap()),
            WireguardAllowedIpAttr::Cidr(length),
        ])
    }

    #[test]
    fn a_peer_that_is_told_in_two_messages_is_one() {
        let key = WireguardPeerAttribute::PublicKey([5; 32]);
        let first = WireguardPeer(vec![
            key.clone(),
            WireguardPeerAttribute::PresharedKey([0; 32]),
            WireguardPeerAttribute::Endpoint("[2001:db8::1]:6783".parse().unwrap()),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec {
                seconds: 10,
                nano_seconds: 5,
            }),
            WireguardPeerAttribute::RxBytes(7),
            WireguardPeerAttribute::TxBytes(8),
            WireguardPeerAttribute::PersistentKeepalive(0),
            WireguardPeerAttribute::AllowedIps(vec![allowed("10.32.1.0", 24)]),
        ]);
        let second = WireguardPeer(vec![
            key,
            WireguardPeerAttribute::AllowedIps(vec![allowed("fd00::", 64)]),
        ]);
        let replies = vec![
            reply(vec![
                WireguardAttribute::PrivateKey([1; 32]),
                WireguardAttribute::PublicKey([2; 32]),
                WireguardAttribute::ListenPort(6783),
                WireguardAttribute::Fwmark(9),
                WireguardAttribute::Peers(vec![first]),
            ]),
            reply(vec![WireguardAttribute::Peers(vec![second])]),
        ];
        let expected = PeerStatus {
            endpoint: Some("[2001:db8::1]:6783".parse().unwrap()),
            allowed_ips: ["10.32.1.0/24", "fd00::/64"]
                .map(|net| net.parse().unwrap())
                .into(),
            last_handshake: Some(SystemTime::UNIX_EPOCH + Duration::new(10, 5)),
            rx_bytes: 7,
            tx_bytes: 8,
            ..PeerStatus::default()
        };
        let status = status(&replies).unwrap();
        assert_eq!(
            status.peers,
            BTreeMap::from([(PublicKey::from_bytes([5; 32]), expected)])
        );
        assert_eq!(status.public_key, Some(PublicKey::from_bytes([2; 32])));
        assert_eq!((status.listen_port, status.fwmark), (6783, 9));
    }

    #[test]
    fn a_handshake_that_never_was_is_none() {
        let zero = WireguardTimeSpec::default();
        let peer = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey([5; 32]),
            WireguardPeerAttribute::LastHandshake(zero),
        ]);
        let status = status(&vec![reply(vec![WireguardAttribute::Peers(vec![peer])])]).unwrap();
        assert_eq!(status.peers.values().next().unwrap().last_handshake, None);
    }

    proptest! {
        #[test]
        fn no_link_or_family_answer_panics_the_reader(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let replies = vec![Zeroizing::new(bytes)];
            family(&replies);
            link_kind(&replies);
        }
    }
}
