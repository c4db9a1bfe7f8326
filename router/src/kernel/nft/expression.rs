//! An expression as the kernel's virtual machine takes it (`linux/netfilter/nf_tables.h`): what
//! matches and actions are made of.

use super::wire::Message;

pub(super) const NESTED: u16 = 0x8000;
/// Attributes that every list and every expression is made of.
pub(super) const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// The first 16-byte register; each match loads it afresh.
pub(super) const REGISTER: u32 = 1;
pub(super) const SECOND_REGISTER: u32 = 2;
const VERDICT_REGISTER: u32 = 0;

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
/// Operators of a comparison.
pub(super) const EQUAL: u32 = 0;
pub(super) const NOT_EQUAL: u32 = 1;
/// Flag of a lookup.
const INVERTED: u32 = 1;

pub(super) fn meta(message: Message, key: u32) -> Message {
    expression(message, "meta", |m| be32(be32(m, 1, REGISTER), 2, key))
}

/// Bytes of the network header.
pub(super) fn network(message: Message, offset: u32, length: usize) -> Message {
    payload(message, BASE_NETWORK, offset, length)
}

/// Bytes of the transport header.
pub(super) fn transport(message: Message, offset: u32, length: usize) -> Message {
    payload(message, BASE_TRANSPORT, offset, length)
}

fn payload(message: Message, base: u32, offset: u32, length: usize) -> Message {
    expression(message, "payload", |m| {
        let m = be32(be32(m, 1, REGISTER), 2, base);
        be32(be32(m, 3, offset), 4, length as u32)
    })
}

pub(super) fn mask(message: Message, bits: &[u8]) -> Message {
    let zeros = vec![0; bits.len()];
    expression(message, "bitwise", |m| {
        let m = be32(be32(m, 1, REGISTER), 2, REGISTER);
        let m = be32(m, 3, bits.len() as u32);
        data(data(m, 4, bits), 5, &zeros)
    })
}

pub(super) fn compare(message: Message, operator: u32, value: &[u8]) -> Message {
    expression(message, "cmp", |m| {
        data(be32(be32(m, 1, REGISTER), 2, operator), 3, value)
    })
}

/// Whether the register is in the set, or is not.
pub(super) fn lookup(message: Message, set: &str, operator: u32) -> Message {
    expression(message, "lookup", |m| {
        let m = be32(m.text(1, set), 2, REGISTER);
        match operator {
            NOT_EQUAL => be32(m, 5, INVERTED),
            _ => m,
        }
    })
}

pub(super) fn fib(message: Message, result: u32, flags: u32) -> Message {
    expression(message, "fib", |m| {
        be32(be32(be32(m, 1, REGISTER), 2, result), 3, flags)
    })
}

/// Puts bytes into a register.
pub(super) fn immediate(message: Message, register: u32, value: &[u8]) -> Message {
    expression(message, "immediate", |m| {
        data(be32(m, 1, register), 2, value)
    })
}

/// `chain` is where a jump leads.
pub(super) fn verdict(message: Message, code: i32, chain: Option<&str>) -> Message {
    expression(message, "immediate", |m| {
        be32(m, 1, VERDICT_REGISTER).nest(2 | NESTED, |m| {
            m.nest(2 | NESTED, |m| {
                let m = be32(m, 1, code.cast_unsigned());
                match chain {
                    Some(chain) => m.text(2, chain),
                    None => m,
                }
            })
        })
    })
}

pub(super) fn expression(
    message: Message,
    name: &str,
    inside: impl FnOnce(Message) -> Message,
) -> Message {
    message.nest(LIST_ELEMENT | NESTED, |m| {
        m.text(EXPRESSION_NAME, name)
            .nest(EXPRESSION_DATA | NESTED, inside)
    })
}

pub(super) fn data(message: Message, kind: u16, value: &[u8]) -> Message {
    message.nest(kind | NESTED, |m| m.attr(1, value))
}

/// Numbers of nftables are in network order.
pub(crate) fn be32(message: Message, kind: u16, value: u32) -> Message {
    message.attr(kind, &value.to_be_bytes())
}
