//! The kernel's answers, read: the family's number, a link's kind, the device with its peers.
//!
//! By hand, as far as we need them: the readers of the netlink crates know everything that may be
//! in an answer, and panic at some of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator};

use super::netlink::Replies;
use crate::PublicKey;
use crate::device::{DeviceStatus, PeerStatus};

/// A generic netlink header.
const GENERIC: usize = 4;
/// `struct ifinfomsg`.
const LINK: usize = 16;

const CTRL_ATTR_FAMILY_ID: u16 = 1;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_FWMARK: u16 = 7;
const WGDEVICE_A_PEERS: u16 = 8;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_PRESHARED_KEY: u16 = 2;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: u16 = 5;
const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
const WGPEER_A_RX_BYTES: u16 = 7;
const WGPEER_A_TX_BYTES: u16 = 8;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

pub(super) fn family(replies: &Replies) -> Option<u16> {
    let id = find(replies.first()?.get(GENERIC..)?, CTRL_ATTR_FAMILY_ID)?;
    id.try_into().ok().map(u16::from_ne_bytes)
}

/// `wireguard`, `tun`; none for a link that is no virtual one.
pub(super) fn link_kind(replies: &Replies) -> Option<String> {
    let info = find(replies.first()?.get(LINK..)?, IFLA_LINKINFO)?;
    let kind = find(info, IFLA_INFO_KIND)?;
    let text = str::from_utf8(kind).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

/// The device out of a dump. A peer whose allowed IPs fill a message goes on in the next.
pub(super) fn status(replies: &Replies) -> Result<DeviceStatus, DecodeError> {
    let mut status = DeviceStatus::default();
    for reply in replies {
        for attribute in attributes(reply.get(GENERIC..).unwrap_or_default()) {
            let (kind, value) = attribute?;
            match kind {
                WGDEVICE_A_PUBLIC_KEY => {
                    status.public_key = Some(PublicKey::from_bytes(exact(value)?));
                }
                WGDEVICE_A_LISTEN_PORT => status.listen_port = u16::from_ne_bytes(exact(value)?),
                WGDEVICE_A_FWMARK => status.fwmark = u32::from_ne_bytes(exact(value)?),
                WGDEVICE_A_PEERS => {
                    for peer in attributes(value) {
                        enter(&mut status.peers, peer?.1)?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(status)
}

fn enter(peers: &mut BTreeMap<PublicKey, PeerStatus>, peer: &[u8]) -> Result<(), DecodeError> {
    let key = find(peer, WGPEER_A_PUBLIC_KEY).ok_or("a peer without its key")?;
    let status = peers.entry(PublicKey::from_bytes(exact(key)?)).or_default();
    for attribute in attributes(peer) {
        let (kind, value) = attribute?;
        match kind {
            WGPEER_A_PRESHARED_KEY => {
                status.has_preshared_key = value.iter().any(|&byte| byte != 0);
            }
            WGPEER_A_ENDPOINT => status.endpoint = Some(endpoint(value)?),
            WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL => {
                let seconds = u16::from_ne_bytes(exact(value)?);
                status.persistent_keepalive = Some(seconds).filter(|&seconds| seconds > 0);
            }
            WGPEER_A_LAST_HANDSHAKE_TIME => status.last_handshake = time(value)?,
            WGPEER_A_RX_BYTES => status.rx_bytes = u64::from_ne_bytes(exact(value)?),
            WGPEER_A_TX_BYTES => status.tx_bytes = u64::from_ne_bytes(exact(value)?),
            WGPEER_A_ALLOWEDIPS => {
                for allowed in attributes(value) {
                    status.allowed_ips.insert(prefix(allowed?.1)?);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn endpoint(value: &[u8]) -> Result<SocketAddr, DecodeError> {
    let (family, rest) = value
        .split_at_checked(2)
        .ok_or("an endpoint that is cut short")?;
    let (port, rest) = rest
        .split_at_checked(2)
        .ok_or("an endpoint that is cut short")?;
    let port = u16::from_be_bytes(exact(port)?);
    match i32::from(u16::from_ne_bytes(exact(family)?)) {
        libc::AF_INET => {
            let address: [u8; 4] = exact(rest.get(..4).unwrap_or_default())?;
            Ok((address, port).into())
        }
        libc::AF_INET6 => {
            let address: [u8; 16] = exact(rest.get(4..20).unwrap_or_default())?;
            let scope = u32::from_ne_bytes(exact(rest.get(20..24).unwrap_or_default())?);
            Ok(SocketAddrV6::new(address.into(), port, 0, scope).into())
        }
        family => Err(format!("an endpoint of family {family}").into()),
    }
}

/// `struct __kernel_timespec`; all zeros is never.
fn time(value: &[u8]) -> Result<Option<SystemTime>, DecodeError> {
    let (seconds, nanos) = value
        .split_at_checked(8)
        .ok_or("a time that is cut short")?;
    let seconds = u64::try_from(i64::from_ne_bytes(exact(seconds)?)).unwrap_or(0);
    let nanos = u32::try_from(i64::from_ne_bytes(exact(nanos)?)).unwrap_or(0);
    let since = Duration::new(seconds, nanos.min(999_999_999));
    let time = SystemTime::UNIX_EPOCH.checked_add(since);
    Ok(time.filter(|&time| time > SystemTime::UNIX_EPOCH))
}

fn prefix(allowed: &[u8]) -> Result<IpNet, DecodeError> {
    let address = find(allowed, WGALLOWEDIP_A_IPADDR).unwrap_or_default();
    let address = match address.len() {
        4 => IpAddr::from(exact::<4>(address)?),
        _ => IpAddr::from(exact::<16>(address)?),
    };
    let [length] = exact(find(allowed, WGALLOWEDIP_A_CIDR_MASK).unwrap_or_default())?;
    IpNet::new(address, length).map_err(|_| format!("a prefix of {length} bits").into())
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .map_while(Result::ok)
        .find_map(|(found, value)| (found == kind).then_some(value))
}

/// Kinds, without their flags, and values.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), DecodeError>> {
    NlasIterator::new(bytes).map(|attribute| {
        let attribute = attribute?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let value = attribute.into_inner().get(4..length);
        Ok((kind, value.unwrap_or_default()))
    })
}

fn exact<const LENGTH: usize>(value: &[u8]) -> Result<[u8; LENGTH], DecodeError> {
    let wrong = |_| format!("{} bytes where {LENGTH} are due", value.len()).into();
    value.try_into().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_wireguard::{
        WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
        WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardTimeSpec,
    };
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

    #[test]
    fn no_answer_of_the_corpus_panics_the_reader() {
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "netlink", |bytes| {
            let replies = vec![Zeroizing::new(bytes.to_vec())];
            family(&replies);
            link_kind(&replies);
            if let Ok(device) = status(&replies) {
                let allowed = device.peers.values().map(|peer| peer.allowed_ips.len());
                assert!(
                    allowed.sum::<usize>() <= bytes.len(),
                    "no more than was said"
                );
            }
        });
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
