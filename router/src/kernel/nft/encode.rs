//! Our table as one netlink transaction.

use super::action::octets;
use super::expression::{LIST_ELEMENT, NESTED, be32, data};
use super::matches::put_rule;
use super::ruleset::{Chain, Family, Hashes, Rule, Ruleset};
use super::set::{Element, Set};
use super::wire::Message;
use super::{Request, TABLE};

pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
const NEW_SET_ELEMENT: u16 = 12;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const INET: u8 = libc::NFPROTO_INET as u8;

const SET_CONSTANT: u32 = 2;
const SET_INTERVAL: u32 = 4;
const INTERVAL_END: u32 = 1;
/// Elements a message: one of IPv6 takes 36 bytes.
const ELEMENTS: usize = 1500;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// Everything of the table in place of whatever it holds; nobody ever sees it half done.
pub(crate) fn replace_table(ruleset: &Ruleset) -> Vec<Request> {
    // Making it first lets the deletion succeed where there is none yet.
    let mut messages = vec![boundary(BATCH_BEGIN), table(NEW_TABLE, CREATE)];
    messages.push(table(DELETE_TABLE, 0));
    messages.push(table(NEW_TABLE, CREATE).acknowledged());
    // In this order, as nothing may be named before it is there; and a set whose elements nobody
    // may change takes none once a rule looks into it.
    for (number, set) in ruleset.sets.iter().enumerate() {
        messages.push(new_set(set, number as u32));
        messages.extend(elements(set));
    }
    messages.extend(ruleset.chains.iter().map(new_chain));
    let hashes = ruleset.hashes();
    for chain in &ruleset.chains {
        let rules = chain.rules.iter();
        messages.extend(rules.map(|rule| new_rule(chain, rule, &hashes)));
    }
    messages.push(boundary(BATCH_END));
    messages.into_iter().map(Message::request).collect()
}

pub(crate) fn remove_table() -> Vec<Request> {
    let messages = [
        boundary(BATCH_BEGIN),
        table(NEW_TABLE, CREATE),
        table(DELETE_TABLE, 0).acknowledged(),
        boundary(BATCH_END),
    ];
    messages.map(Message::request).into()
}

/// A message of nftables; `family` is `NFPROTO_*`, 0 for all.
pub(crate) fn message(kind: u16, flags: u16, family: u8) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &[family, 0, 0, 0])
}

fn boundary(kind: u16) -> Message {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(kind, 0, &[0, 0, high, low])
}

fn table(kind: u16, flags: u16) -> Message {
    message(kind, flags, INET).text(1, TABLE)
}

/// `number` tells the sets of one transaction apart.
fn new_set(set: &Set, number: u32) -> Message {
    // nft's own numbers for types of data.
    let (kind, length) = match set.family {
        Family::V4 => (7, 4),
        Family::V6 => (8, 16),
    };
    let message = message(NEW_SET, CREATE, INET)
        .text(1, TABLE)
        .text(2, &set.name);
    let message = be32(message, 3, SET_CONSTANT | SET_INTERVAL);
    be32(be32(be32(message, 4, kind), 5, length), 10, number)
}

/// What is in a set, in as many messages as it takes: a list's length is a 16-bit number.
pub(super) fn elements(set: &Set) -> Vec<Message> {
    let all: Vec<Element> = set.elements().collect();
    let part = |part: &[Element]| {
        let message = message(NEW_SET_ELEMENT, CREATE, INET)
            .text(1, TABLE)
            .text(2, &set.name);
        message.nest(3 | NESTED, |m| part.iter().fold(m, put_element))
    };
    all.chunks(ELEMENTS).map(part).collect()
}

fn put_element(message: Message, element: &Element) -> Message {
    message.nest(LIST_ELEMENT | NESTED, |m| {
        let m = match element.ends {
            true => be32(m, 3, INTERVAL_END),
            false => m,
        };
        data(m, 1, &octets(element.address))
    })
}

fn new_chain(chain: &Chain) -> Message {
    let message = message(NEW_CHAIN, CREATE, INET)
        .text(1, TABLE)
        .text(3, &chain.name);
    let Some(base) = chain.base else {
        return message;
    };
    let message = message.nest(4 | NESTED, |m| {
        be32(
            be32(m, 1, base.hook as u32),
            2,
            base.priority.cast_unsigned(),
        )
    });
    be32(message, 5, libc::NF_ACCEPT as u32).text(7, base.kind.name())
}

fn new_rule(chain: &Chain, rule: &Rule, sets: &Hashes<'_>) -> Message {
    message(NEW_RULE, CREATE | APPEND, INET)
        .text(1, TABLE)
        .text(2, &chain.name)
        .nest(4 | NESTED, |m| put_rule(m, rule))
        .attr(7, &comment(&rule.comment(sets)))
}

/// User data as `nft` lays it out, so that it shows as `comment "…"`: type 0, length, text, NUL.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, (text.len() + 1) as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}
