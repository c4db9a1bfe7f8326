//! What a rule does, as expressions.

use std::net::IpAddr;

use super::expression::{REGISTER, SECOND_REGISTER, be32, expression, immediate, verdict};
use super::ruleset::Action;
use super::wire::Message;

const VERDICT_JUMP: i32 = -3;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const NAT_WITH_PORT: u32 = 2;
const NAT_RANDOM_FULLY: u32 = 16;
const RT_TCPMSS: u32 = 3;
const BYTEORDER_HTON: u32 = 1;
const EXTHDR_TCP_OPTION: u32 = 1;
const TCP_OPTION_MAXSEG: u8 = 2;

/// Appends the expressions of `action`.
pub(super) fn put_action(message: Message, action: &Action) -> Message {
    match action {
        Action::Drop => verdict(counter(message), libc::NF_DROP, None),
        Action::Jump(chain) => verdict(message, VERDICT_JUMP, Some(chain)),
        Action::Masquerade => expression(message, "masq", |m| be32(m, 1, NAT_RANDOM_FULLY)),
        Action::SourceNat(to) => {
            let message = immediate(message, REGISTER, &octets(*to));
            expression(message, "nat", |m| nat(m, NAT_SOURCE, *to))
        }
        Action::DestinationNat(to) => {
            let message = immediate(message, REGISTER, &octets(to.ip()));
            let message = immediate(message, SECOND_REGISTER, &to.port().to_be_bytes());
            expression(message, "nat", |m| {
                let m = be32(nat(m, NAT_DESTINATION, to.ip()), 5, SECOND_REGISTER);
                be32(m, 7, NAT_WITH_PORT)
            })
        }
        Action::ClampMss => clamp(message),
    }
}

fn counter(message: Message) -> Message {
    expression(message, "counter", |m| {
        m.attr(1, &0u64.to_be_bytes()).attr(2, &0u64.to_be_bytes())
    })
}

fn nat(message: Message, kind: u32, to: IpAddr) -> Message {
    let family = match to {
        IpAddr::V4(_) => libc::NFPROTO_IPV4,
        IpAddr::V6(_) => libc::NFPROTO_IPV6,
    };
    let message = be32(be32(message, 1, kind), 2, family as u32);
    be32(message, 3, REGISTER)
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
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
