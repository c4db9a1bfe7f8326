//! The messages to the kernel, as bytes. No socket: what is sent for a change can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_generic::GenlHeader;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::traits::GenlFamily;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use zeroize::{Zeroize, Zeroizing};

use super::netlink::Request;
use crate::PublicKey;
use crate::device::{Change, PeerConfig};

/// An attribute's length has 16 bits; an allowed IP takes up to 40 bytes.
const ALLOWED_IPS_A_MESSAGE: usize = 1_000;

const GENL_ID_CTRL: u16 = 16;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;

/// Asks for the number of the wireguard family; this loads the module where it is not loaded.
pub(super) fn find_family() -> Request {
    let payload = GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(
            WireguardMessage::family_name().to_owned(),
        )],
    };
    generic(GENL_ID_CTRL, payload.command(), payload.version(), &payload)
}

/// Asks for the device with all its peers, to be sent as a dump.
pub(super) fn get_device(family: u16, link: &str) -> Request {
    wireguard(
        family,
        WireguardCmd::GetDevice,
        vec![WireguardAttribute::IfName(link.to_owned())],
    )
}

pub(super) fn create_link(link: &str) -> Request {
    let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]);
    route(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        vec![name(link), info],
    )
}

pub(super) fn get_link(link: &str) -> Request {
    route(RTM_GETLINK, 0, vec![name(link)])
}

/// What carries out one change. `held` are the allowed IPs that each peer of the device has now.
pub(super) fn requests(
    family: u16,
    link: &str,
    change: &Change,
    held: &BTreeMap<PublicKey, BTreeSet<IpNet>>,
) -> Vec<Request> {
    let set = |attribute: Vec<WireguardAttribute>| {
        let mut attributes = vec![WireguardAttribute::IfName(link.to_owned())];
        attributes.extend(attribute);
        wireguard(family, WireguardCmd::SetDevice, attributes)
    };
    match change {
        Change::SetDevice {
            private_key,
            listen_port,
            fwmark,
        } => vec![set(vec![
            WireguardAttribute::PrivateKey(*private_key.expose()),
            WireguardAttribute::ListenPort(*listen_port),
            WireguardAttribute::Fwmark(*fwmark),
        ])],
        Change::RemovePeer { public_key } => {
            let peer = WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey(*public_key.as_bytes()),
                WireguardPeerAttribute::Flags(
                    WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly,
                ),
            ]);
            vec![set(vec![WireguardAttribute::Peers(vec![peer])])]
        }
        Change::SetPeer { public_key, config } => peers(*public_key, config, held.get(public_key))
            .into_iter()
            .map(|peer| set(vec![WireguardAttribute::Peers(vec![peer])]))
            .collect(),
    }
}

/// The peer in as many messages as its allowed IPs need.
fn peers(
    key: PublicKey,
    config: &PeerConfig,
    held: Option<&BTreeSet<IpNet>>,
) -> Vec<WireguardPeer> {
    let wanted: BTreeSet<IpNet> = config.allowed_ips.iter().map(IpNet::trunc).collect();
    let allowed: Vec<_> = wanted.iter().map(allowed_ip).collect();
    let mut chunks = allowed.chunks(ALLOWED_IPS_A_MESSAGE);

    let mut first = vec![WireguardPeerAttribute::PublicKey(*key.as_bytes())];
    // Replacing takes all of them away for a moment: only where one is to go.
    if held.is_some_and(|held| !held.is_subset(&wanted)) {
        first.push(WireguardPeerAttribute::Flags(
            WireguardPeerFlags::ReplaceAllowedIps,
        ));
    }
    // All zeros is no key.
    let preshared = config
        .preshared_key
        .as_ref()
        .map_or([0; 32], |key| *key.expose());
    first.push(WireguardPeerAttribute::PresharedKey(preshared));
    first.extend(config.endpoint.map(WireguardPeerAttribute::Endpoint));
    let keepalive = config.persistent_keepalive.unwrap_or(0);
    first.push(WireguardPeerAttribute::PersistentKeepalive(keepalive));
    let head = chunks.next().unwrap_or_default().to_vec();
    first.push(WireguardPeerAttribute::AllowedIps(head));

    let rest = chunks.map(|chunk| {
        WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key.as_bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
            WireguardPeerAttribute::AllowedIps(chunk.to_vec()),
        ])
    });
    std::iter::once(WireguardPeer(first)).chain(rest).collect()
}

fn allowed_ip(prefix: &IpNet) -> WireguardAllowedIp {
    let family = match prefix.addr() {
        IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
        IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(prefix.addr()),
        WireguardAllowedIpAttr::Cidr(prefix.prefix_len()),
    ])
}

fn wireguard(family: u16, cmd: WireguardCmd, attributes: Vec<WireguardAttribute>) -> Request {
    let mut message = WireguardMessage { cmd, attributes };
    let request = generic(family, message.command(), message.version(), &message);
    message.attributes.iter_mut().for_each(wipe);
    request
}

fn wipe(attribute: &mut WireguardAttribute) {
    match attribute {
        WireguardAttribute::PrivateKey(key) => key.zeroize(),
        WireguardAttribute::Peers(peers) => {
            for attribute in peers.iter_mut().flat_map(|peer| &mut peer.0) {
                if let WireguardPeerAttribute::PresharedKey(key) = attribute {
                    key.zeroize();
                }
            }
        }
        _ => {}
    }
}

fn generic(kind: u16, cmd: u8, version: u8, body: &impl Emitable) -> Request {
    let header = GenlHeader { cmd, version };
    let mut payload = Zeroizing::new(vec![0; header.buffer_len() + body.buffer_len()]);
    header.emit(&mut payload);
    body.emit(&mut payload[header.buffer_len()..]);
    Request {
        kind,
        flags: 0,
        payload,
    }
}

fn route(kind: u16, flags: u16, attributes: Vec<LinkAttribute>) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    let mut payload = Zeroizing::new(vec![0; message.buffer_len()]);
    message.emit(&mut payload);
    Request {
        kind,
        flags,
        payload,
    }
}

fn name(link: &str) -> LinkAttribute {
    LinkAttribute::IfName(link.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PresharedKey, PrivateKey};

    /// The kernel reads native byte order; the bytes below are those of a little-endian machine.
    fn bytes(request: &Request) -> String {
        data_encoding::HEXLOWER.encode(&request.payload)
    }

    fn requests_for(change: &Change, held: &[&str]) -> Vec<Request> {
        let held = held.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let held = BTreeMap::from([(PublicKey::from_bytes([0x22; 32]), held)]);
        requests(30, "weft0", change, &held)
    }

    fn peer(allowed: &[&str]) -> Change {
        Change::SetPeer {
            public_key: PublicKey::from_bytes([0x22; 32]),
            config: PeerConfig {
                endpoint: Some("192.0.2.7:6783".parse().unwrap()),
                allowed_ips: allowed
                    .iter()
                    .map(|prefix| prefix.parse().unwrap())
                    .collect(),
                preshared_key: Some(PresharedKey::from_bytes([0x33; 32])),
                persistent_keepalive: Some(25),
            },
        }
    }

    const NAME: &str = "0a000200776566743000" /* weft0 */;

    #[test]
    fn the_device_is_set_without_touching_peers() {
        let private_key = PrivateKey::from_bytes([0x40; 32]);
        let change = Change::SetDevice {
            private_key,
            listen_port: 6783,
            fwmark: 0x7766,
        };
        let [request] = &requests_for(&change, &[])[..] else {
            panic!("one message")
        };
        let expected = [
            "01010000",
            NAME,
            "0000",
            "24000300",
            &"40".repeat(32),
            "060006007f1a0000",
            "0800070066770000",
        ];
        assert_eq!(bytes(request), expected.concat());
        assert_eq!((request.kind, request.flags), (30, 0));
    }

    #[test]
    fn a_peer_is_set_in_one_message_of_its_own() {
        let [request] = &requests_for(&peer(&["10.32.7.9/24", "fd00:7::/64"]), &[])[..] else {
            panic!("one message")
        };
        let expected = [
            "01010000",
            NAME,
            "0000",
            "b4000880",
            "b0000080",
            "24000100",
            &"22".repeat(32),
            "24000200",
            &"33".repeat(32),
            "14000400",
            "02001a7fc00002070000000000000000",
            "0600050019000000",
            "48000980",
            "1c000080",
            "0600010002000000",
            "080002000a200700",
            "0500030018000000",
            "28000080",
            "060001000a000000",
            "14000200",
            "fd000007000000000000000000000000",
            "0500030040000000",
        ];
        assert_eq!(bytes(request), expected.concat());
    }

    #[test]
    fn allowed_ips_are_replaced_only_where_one_is_to_go() {
        let replaces = |held: &[&str]| {
            let request = &requests_for(&peer(&["10.32.7.0/24"]), held)[0];
            bytes(request).contains("0800030002000000")
        };
        assert!(!replaces(&[]));
        assert!(!replaces(&["10.32.7.0/24"]));
        assert!(replaces(&["10.32.7.0/24", "10.32.8.0/24"]));
    }

    #[test]
    fn a_peer_is_removed_by_its_key_alone() {
        let change = Change::RemovePeer {
            public_key: PublicKey::from_bytes([0x22; 32]),
        };
        let [request] = &requests_for(&change, &[])[..] else {
            panic!("one message")
        };
        let key = "22".repeat(32);
        let expected = [
            "01010000", NAME, "0000", "34000880", "30000080", "24000100", &key, "08000300",
            "05000000",
        ];
        assert_eq!(bytes(request), expected.concat());
    }

    #[test]
    fn more_allowed_ips_than_a_message_holds_are_split() {
        let prefixes: Vec<_> = (0..2_500).map(|n| format!("fd00:{n:x}::/64")).collect();
        let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
        let requests = requests_for(&peer(&prefixes), &[]);
        assert_eq!(requests.len(), 3);
        assert!(
            requests
                .iter()
                .all(|request| request.payload.len() < 48 * 1024)
        );
        let update_only = "0800030004000000";
        let is_update = |request: &Request| bytes(request).contains(update_only);
        assert_eq!(
            requests.iter().map(is_update).collect::<Vec<_>>(),
            [false, true, true]
        );
    }

    #[test]
    fn the_link_is_made_as_a_wireguard_link_and_never_taken_over() {
        let request = create_link("weft0");
        let expected = [
            "00".repeat(16).as_str(),
            "0a000300776566743000",
            "0000",
            "14001200",
            "0e000100",
            "776972656775617264", /* wireguard */
            "00",
            "0000",
        ]
        .concat();
        assert_eq!(bytes(&request), expected);
        assert_eq!((request.kind, request.flags), (16, 0x600));
    }
}
