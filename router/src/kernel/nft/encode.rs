//! Our table as one netlink transaction.

use super::expression::{be32, put_rule};
use super::ruleset::{Chain, Rule, Ruleset};
use super::wire::Message;
use super::{Request, TABLE};

const NESTED: u16 = 0x8000;
pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const INET: u8 = libc::NFPROTO_INET as u8;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

/// Everything of the table in place of whatever it holds; nobody ever sees it half done.
pub(crate) fn replace_table(ruleset: &Ruleset) -> Vec<Request> {
    // Making it first lets the deletion succeed where there is none yet.
    let mut messages = vec![boundary(BATCH_BEGIN), table(NEW_TABLE, CREATE)];
    messages.push(table(DELETE_TABLE, 0));
    messages.push(table(NEW_TABLE, CREATE).acknowledged());
    for chain in &ruleset.chains {
        messages.push(new_chain(chain));
        messages.extend(chain.rules.iter().map(|rule| new_rule(chain, rule)));
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

fn new_chain(chain: &Chain) -> Message {
    let message = message(NEW_CHAIN, CREATE, INET)
        .text(1, TABLE)
        .text(3, &chain.name)
        .nest(4 | NESTED, |m| {
            be32(
                be32(m, 1, chain.hook as u32),
                2,
                chain.priority.cast_unsigned(),
            )
        });
    be32(message, 5, libc::NF_ACCEPT as u32).text(7, chain.kind.name())
}

fn new_rule(chain: &Chain, rule: &Rule) -> Message {
    message(NEW_RULE, CREATE | APPEND, INET)
        .text(1, TABLE)
        .text(2, &chain.name)
        .nest(4 | NESTED, |m| put_rule(m, rule))
        .attr(7, &comment(&rule.comment()))
}

/// User data as `nft` lays it out, so that it shows as `comment "…"`: type 0, length, text, NUL.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, (text.len() + 1) as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}
