//! What our table says now, asked of the kernel.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

use super::encode::{DELETE_TABLE, GET_CHAIN, GET_RULE, GET_TABLE, NEW_CHAIN, NEW_TABLE, message};
use super::ruleset::{BaseSeen, ChainPrint, Fingerprint, base_text};
use super::wire::{Attributes, Message};
use super::{GUARD_IN, GUARD_OUT, GUARD_PODS, GUARD_TRANSIT, Nftnetlink, TABLE};
use crate::kernel::socket::messages;

const INET: u8 = libc::NFPROTO_INET as u8;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// Of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;
const TABLE_DORMANT: u32 = 1;
const DELETE_CHAIN: u16 = 5;
const NEW_GENERATION: u16 = 15;

/// The fingerprint of our table; `None` when there is no such table, or no nftables at all.
pub(crate) fn observe(netlink: &mut Nftnetlink) -> io::Result<Option<Fingerprint>> {
    match observe_table(netlink) {
        // What a kernel says that has netfilter's netlink and not this part of it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(None)
        }
        outcome => outcome,
    }
}

fn observe_table(netlink: &mut Nftnetlink) -> io::Result<Option<Fingerprint>> {
    let tables = netlink.dump(&message(GET_TABLE, DUMP, INET).request(), |table| {
        let attributes = table.attributes(HEADER);
        (attributes.text(1) == Some(TABLE)).then(|| be32_of(attributes, 2).unwrap_or(0))
    })?;
    let Some(flags) = tables.first() else {
        return Ok(None);
    };
    let mut fingerprint = Fingerprint::default();
    if flags & TABLE_DORMANT != 0 {
        // A table asleep is not what we wrote, whatever it holds.
        return Ok(Some(fingerprint));
    }
    let chains = netlink.dump(&message(GET_CHAIN, DUMP, INET).request(), |chain| {
        let (table, name, base) = chain_of(&chain)?;
        (table == TABLE).then_some((name, base))
    })?;
    for (name, base) in chains {
        let rules = Vec::new();
        fingerprint.chains.insert(name, ChainPrint { base, rules });
    }
    let request = message(GET_RULE, DUMP, INET).text(1, TABLE).request();
    let rules = netlink.dump(&request, |rule| {
        let attributes = rule.attributes(HEADER);
        let ours = attributes.text(1) == Some(TABLE);
        ours.then_some((attributes.text(2)?.to_owned(), comment_of(attributes)))
    })?;
    for (chain, comment) in rules {
        if let Some(chain) = fingerprint.chains.get_mut(&chain) {
            chain.rules.push(comment);
        }
    }
    Ok(Some(fingerprint))
}

/// Whether a notification is of our table, or of a table or base chain that comes or goes.
pub(crate) fn is_news(frame: &[u8]) -> bool {
    let of_interest = |message: NetlinkMessage<Message>| {
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            return false;
        };
        let attributes = inner.attributes(HEADER);
        match message.header.message_type & 0xff {
            // Each transaction ends with one.
            NEW_GENERATION => false,
            _ if attributes.text(1) == Some(TABLE) => true,
            NEW_TABLE | DELETE_TABLE => true,
            NEW_CHAIN | DELETE_CHAIN => attributes.find(4).is_some(),
            _ => false,
        }
    };
    messages::<Message>(frame).any(of_interest)
}

/// The comments of one chain's rules; none where there is no such chain.
pub(super) fn comments(netlink: &mut Nftnetlink, chain: &str) -> io::Result<Vec<String>> {
    let request = message(GET_RULE, DUMP, INET).text(1, TABLE).text(2, chain);
    netlink.dump(&request.request(), |rule| {
        let attributes = rule.attributes(HEADER);
        let of_it = (attributes.text(1)?, attributes.text(2)?) == (TABLE, chain);
        of_it.then(|| comment_of(attributes))
    })
}

/// Packets that our guards dropped, by what was wrong with them. Empty without our table.
pub(crate) fn guarded(netlink: &mut Nftnetlink) -> io::Result<BTreeMap<&'static str, u64>> {
    let request = message(GET_RULE, DUMP, INET).text(1, TABLE).request();
    let counted = netlink.dump(&request, |rule| {
        let attributes = rule.attributes(HEADER);
        let what = match (attributes.text(1)?, attributes.text(2)?) {
            (TABLE, GUARD_IN) => "arrived_in_the_clear",
            (TABLE, GUARD_OUT) => "leaving_in_the_clear",
            (TABLE, GUARD_TRANSIT) => "for_another_node",
            (TABLE, GUARD_PODS) => "not_the_pods_own_source",
            _ => return None,
        };
        Some((what, packets(attributes)?))
    })?;
    let mut sums = BTreeMap::new();
    for (what, packets) in counted.into_iter().filter(|(_, packets)| *packets > 0) {
        *sums.entry(what).or_default() += packets;
    }
    Ok(sums)
}

/// What a rule's counter says, if it has one.
fn packets(rule: Attributes<'_>) -> Option<u64> {
    let expressions = rule.nested(4).map(|(_, expression)| Attributes(expression));
    let counter = { expressions }.find(|expression| expression.text(1) == Some("counter"))?;
    let packets = counter.nested(2).find(2)?;
    Some(u64::from_be_bytes(packets.try_into().ok()?))
}

/// Table, name and base of a chain.
fn chain_of(chain: &Message) -> Option<(String, String, String)> {
    let attributes = chain.attributes(HEADER);
    let hook = attributes.nested(4);
    let base = base_text(be32_of(hook, 1).map(|number| BaseSeen {
        kind: attributes.text(7).unwrap_or("none"),
        hook: number,
        priority: be32_of(hook, 2).unwrap_or(0).cast_signed(),
        accepts: be32_of(attributes, 5) == Some(libc::NF_ACCEPT as u32),
    }));
    Some((
        attributes.text(1)?.to_owned(),
        attributes.text(3)?.to_owned(),
        base,
    ))
}

/// A rule's comment; empty when it has none, as a rule of somebody else's may.
fn comment_of(rule: Attributes<'_>) -> String {
    let Some([0, length, text @ ..]) = rule.find(7) else {
        return String::new();
    };
    let text = text.get(..usize::from(*length)).unwrap_or(text);
    String::from_utf8_lossy(text)
        .trim_end_matches('\0')
        .to_owned()
}

pub(crate) fn be32_of(attributes: Attributes<'_>, kind: u16) -> Option<u32> {
    let value = attributes.find(kind)?.get(..4)?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_of_the_corpus_panics_the_reader() {
        let mut chains = 0;
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "netlink", |bytes| {
            for message in messages::<Message>(bytes) {
                let NetlinkPayload::InnerMessage(message) = message.payload else {
                    continue;
                };
                chains += usize::from(chain_of(&message).is_some());
                let _ = comment_of(message.attributes(HEADER));
            }
        });
        assert!(chains > 100, "{chains} were read as chains");
    }
}
