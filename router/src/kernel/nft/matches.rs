//! A rule as expressions: what it matches, then what it does.

use ipnet::IpNet;
use weft_cni::Protocol;

use super::action::{octets, put_action};
use super::expression::{EQUAL, NOT_EQUAL, compare, fib, lookup, mask, meta, network, transport};
use super::ruleset::{AddressKind, Family, Links, Match, Rule, SetName, Side};
use super::wire::Message;

pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// Of the source, over the link it came in by, whether there is one.
const FIB_SOURCE_LINK_PRESENT: u32 = 1 | 8 | 32;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const INTERFACE_NAME: usize = 16;

/// The list of expressions (`NFTA_RULE_EXPRESSIONS`), without its own header.
pub(super) fn encode_rule(rule: &Rule) -> Vec<u8> {
    put_rule(Message::new(0, 0, &[]), rule).body
}

/// Appends the expressions of `rule`.
pub(super) fn put_rule(message: Message, rule: &Rule) -> Message {
    let message = rule.matches.iter().fold(message, put_match);
    put_action(message, &rule.action)
}

fn put_match(message: Message, part: &Match) -> Message {
    match part {
        Match::Family(of) => family(message, *of),
        Match::Inside(side, net) => inside(message, *side, net, EQUAL),
        Match::Outside(side, net) => inside(message, *side, net, NOT_EQUAL),
        Match::InSet(side, set) => in_set(message, *side, set, EQUAL),
        Match::NotInSet(side, set) => in_set(message, *side, set, NOT_EQUAL),
        Match::Link(side, links) => link(message, *side, links, EQUAL),
        Match::NotLink(side, links) => link(message, *side, links, NOT_EQUAL),
        Match::DestinationIs(kind) => destination(message, *kind, EQUAL),
        Match::DestinationIsNot(kind) => destination(message, *kind, NOT_EQUAL),
        Match::SourceIsNotOfLink => {
            let message = fib(message, FIB_RESULT_OIF, FIB_SOURCE_LINK_PRESENT);
            compare(message, EQUAL, &[0; 4])
        }
        Match::Port(of, port) => {
            let message = transport(protocol(message, *of), 2, 2);
            compare(message, EQUAL, &port.to_be_bytes())
        }
        Match::TcpSyn => {
            let message = transport(protocol(message, Protocol::Tcp), 13, 1);
            let message = mask(message, &[TCP_SYN | TCP_RST]);
            compare(message, EQUAL, &[TCP_SYN])
        }
    }
}

fn family(message: Message, family: Family) -> Message {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    compare(meta(message, META_NFPROTO), EQUAL, &[number as u8])
}

fn protocol(message: Message, protocol: Protocol) -> Message {
    compare(meta(message, META_L4PROTO), EQUAL, &[protocol as u8])
}

fn destination(message: Message, kind: AddressKind, operator: u32) -> Message {
    let message = fib(message, FIB_RESULT_ADDRTYPE, FIB_DESTINATION);
    // The kernel leaves this one in host order.
    compare(message, operator, &(kind as u32).to_ne_bytes())
}

fn inside(message: Message, side: Side, net: &IpNet, operator: u32) -> Message {
    let message = address(message, side, Family::of(net.addr()));
    let message = if net.prefix_len() == net.max_prefix_len() {
        message
    } else {
        mask(message, &octets(net.netmask()))
    };
    compare(message, operator, &octets(net.network()))
}

fn in_set(message: Message, side: Side, set: &SetName, operator: u32) -> Message {
    lookup(address(message, side, set.family), &set.name, operator)
}

/// Loads an address of the packet, if it is of the family.
fn address(message: Message, side: Side, of: Family) -> Message {
    let (offset, length) = match (of, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    };
    network(family(message, of), offset, length)
}

fn link(message: Message, side: Side, links: &Links, operator: u32) -> Message {
    let key = match side {
        Side::Source => META_IIFNAME,
        Side::Destination => META_OIFNAME,
    };
    let name = match links {
        // Comparing fewer bytes than a name has is how a prefix is matched.
        Links::Prefix(prefix) => prefix.as_bytes().to_vec(),
        Links::Named(name) => {
            let mut padded = name.as_bytes().to_vec();
            padded.resize(INTERFACE_NAME, 0);
            padded
        }
    };
    compare(meta(message, key), operator, &name)
}
