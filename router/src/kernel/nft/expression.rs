//! A rule's expressions as the kernel's virtual machine takes them (`linux/netfilter/nf_tables.h`).

use ipnet::IpNet;

use super::ruleset::{Action, Links, Match, Rule, Side};
use super::wire::Message;

const NESTED: u16 = 0x8000;
/// Attributes that every list and every expression is made of.
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// The first 16-byte register; each match loads it afresh.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const NAT_RANDOM_FULLY: u32 = 16;
const RT_TCPMSS: u32 = 3;
const BYTEORDER_HTON: u32 = 1;
const EXTHDR_TCP_OPTION: u32 = 1;
const TCP_OPTION_MAXSEG: u8 = 2;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const INTERFACE_NAME: usize = 16;

/// The list of expressions (`NFTA_RULE_EXPRESSIONS`), without its own header.
pub(crate) fn encode_rule(rule: &Rule) -> Vec<u8> {
    put_rule(Message::new(0, 0, &[]), rule).body
}

/// Appends the expressions of `rule`.
pub(crate) fn put_rule(message: Message, rule: &Rule) -> Message {
    let message = rule.matches.iter().fold(message, put_match);
    match rule.action {
        Action::Drop => drop_counted(message),
        Action::Masquerade => expression(message, "masq", |m| be32(m, 1, NAT_RANDOM_FULLY)),
        Action::ClampMss => clamp(message),
    }
}

fn put_match(message: Message, part: &Match) -> Message {
    match part {
        Match::Inside(side, net) => address(message, *side, net, EQUAL),
        Match::Outside(side, net) => address(message, *side, net, NOT_EQUAL),
        Match::Link(side, links) => link(message, *side, links, EQUAL),
        Match::NotLink(side, links) => link(message, *side, links, NOT_EQUAL),
        Match::DestinationIsNot(kind) => {
            let message = expression(message, "fib", |m| {
                let m = be32(m, 1, REGISTER);
                let m = be32(m, 2, FIB_RESULT_ADDRTYPE);
                be32(m, 3, FIB_DESTINATION)
            });
            // The kernel leaves this one in host order.
            compare(message, NOT_EQUAL, &(*kind as u32).to_ne_bytes())
        }
        Match::TcpSyn => {
            let message = meta(message, META_L4PROTO);
            let message = compare(message, EQUAL, &[libc::IPPROTO_TCP as u8]);
            let message = payload(message, BASE_TRANSPORT, 13, 1);
            let message = mask(message, &[TCP_SYN | TCP_RST]);
            compare(message, EQUAL, &[TCP_SYN])
        }
    }
}

fn address(message: Message, side: Side, net: &IpNet, operator: u32) -> Message {
    let (protocol, offsets, bytes, netmask) = match net {
        IpNet::V4(net) => (
            libc::NFPROTO_IPV4,
            (12, 16),
            net.network().octets().to_vec(),
            net.netmask().octets().to_vec(),
        ),
        IpNet::V6(net) => (
            libc::NFPROTO_IPV6,
            (8, 24),
            net.network().octets().to_vec(),
            net.netmask().octets().to_vec(),
        ),
    };
    let offset = match side {
        Side::Source => offsets.0,
        Side::Destination => offsets.1,
    };
    let message = meta(message, META_NFPROTO);
    let message = compare(message, EQUAL, &[protocol as u8]);
    let message = payload(message, BASE_NETWORK, offset, bytes.len() as u32);
    let message = if net.prefix_len() == net.max_prefix_len() {
        message
    } else {
        mask(message, &netmask)
    };
    compare(message, operator, &bytes)
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

fn drop_counted(message: Message) -> Message {
    let message = expression(message, "counter", |m| {
        m.attr(1, &0u64.to_be_bytes()).attr(2, &0u64.to_be_bytes())
    });
    expression(message, "immediate", |m| {
        be32(m, 1, VERDICT_REGISTER).nest(2 | NESTED, |m| {
            m.nest(2 | NESTED, |m| be32(m, 1, libc::NF_DROP as u32))
        })
    })
}

fn clamp(message: Message) -> Message {
    let message = expression(message, "rt", |m| be32(be32(m, 1, REGISTER), 2, RT_TCPMSS));
    let message = expression(message, "byteorder", |m| {
        let m = be32(be32(m, 1, REGISTER), 2, REGISTER);
        be32(be32(be32(m, 3, BYTEORDER_HTON), 4, 2), 5, 2)
    });
    expression(message, "exthdr", |m| {
        let m = be32(m, 7, REGISTER).attr(2, &[TCP_OPTION_MAXSEG]);
        let m = be32(be32(m, 3, 2), 4, 2);
        be32(m, 6, EXTHDR_TCP_OPTION)
    })
}

fn meta(message: Message, key: u32) -> Message {
    expression(message, "meta", |m| be32(be32(m, 1, REGISTER), 2, key))
}

fn payload(message: Message, base: u32, offset: u32, length: u32) -> Message {
    expression(message, "payload", |m| {
        let m = be32(be32(m, 1, REGISTER), 2, base);
        be32(be32(m, 3, offset), 4, length)
    })
}

fn mask(message: Message, bits: &[u8]) -> Message {
    let zeros = vec![0; bits.len()];
    expression(message, "bitwise", |m| {
        let m = be32(be32(m, 1, REGISTER), 2, REGISTER);
        let m = be32(m, 3, bits.len() as u32);
        data(data(m, 4, bits), 5, &zeros)
    })
}

fn compare(message: Message, operator: u32, value: &[u8]) -> Message {
    expression(message, "cmp", |m| {
        data(be32(be32(m, 1, REGISTER), 2, operator), 3, value)
    })
}

fn expression(message: Message, name: &str, inside: impl FnOnce(Message) -> Message) -> Message {
    message.nest(LIST_ELEMENT | NESTED, |m| {
        m.text(EXPRESSION_NAME, name)
            .nest(EXPRESSION_DATA | NESTED, inside)
    })
}

fn data(message: Message, kind: u16, value: &[u8]) -> Message {
    message.nest(kind | NESTED, |m| m.attr(1, value))
}

/// Numbers of nftables are in network order.
pub(crate) fn be32(message: Message, kind: u16, value: u32) -> Message {
    message.attr(kind, &value.to_be_bytes())
}
