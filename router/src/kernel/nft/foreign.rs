//! Firewalls of somebody else's that will drop what we forward: found and named, never changed.

use std::fmt;
use std::io;

use super::encode::{GET_CHAIN, GET_RULE, GET_TABLE, message};
use super::expression::EQUAL;
use super::matches::{META_IIFNAME, META_OIFNAME};
use super::observe::{HEADER, be32_of};
use super::ruleset::Side;
use super::wire::Attributes;
use super::{Nftnetlink, TABLE};
use crate::host::LINK_PREFIX;

const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// A firewall in the way of pods' packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignFirewall {
    /// A base chain at hook forward that drops what no rule of it accepts.
    ForwardDrops {
        /// `ip`, `ip6` or `inet`.
        family: &'static str,
        table: String,
        chain: String,
    },
    /// The same of the FORWARD chain that `iptables-legacy` keeps, where nftables does not see it.
    LegacyForwardDrops {
        /// `ip` or `ip6`.
        family: &'static str,
    },
    Firewalld,
}

impl fmt::Display for ForeignFirewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The tables that iptables-nft writes.
            Self::ForwardDrops {
                family,
                table,
                chain,
            } if table == "filter" && chain == "FORWARD" => {
                let command = if *family == "ip6" { "ip6tables" } else { "iptables" };
                iptables(command, f)
            }
            Self::LegacyForwardDrops { family: "ip6" } => iptables("ip6tables-legacy", f),
            Self::LegacyForwardDrops { .. } => iptables("iptables-legacy", f),
            Self::ForwardDrops {
                family,
                table,
                chain,
            } => write!(
                f,
                "chain {chain} of table {family} {table} has policy drop at hook forward and will \
                 drop pods' packets; allow them: nft insert rule {family} {table} {chain} iifname \
                 \"weft*\" accept; nft insert rule {family} {table} {chain} oifname \"weft*\" accept"
            ),
            Self::Firewalld => f.write_str(
                "firewalld is active and may drop pods' packets; trust our links: \
                 firewall-cmd --permanent --zone=trusted --add-interface=weft0 --add-interface=weft+ \
                 && firewall-cmd --reload",
            ),
        }
    }
}

fn iptables(command: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "{command}' FORWARD chain has policy drop and will drop pods' packets; \
         allow them: {command} -I FORWARD -i weft+ -j ACCEPT; \
         {command} -I FORWARD -o weft+ -j ACCEPT"
    )
}

/// The firewalls of nftables in the way, sorted.
pub(crate) fn find(netlink: &mut Nftnetlink) -> io::Result<Vec<ForeignFirewall>> {
    let mut found = netlink.dump(&message(GET_CHAIN, DUMP, 0).request(), |chain| {
        let attributes = chain.attributes(HEADER);
        let family = family(*chain.body.first()?)?;
        let table = attributes.text(1)?;
        let forward = be32_of(attributes.nested(4), 1)? == libc::NF_INET_FORWARD as u32;
        let drops = be32_of(attributes, 5)? == libc::NF_DROP as u32;
        let ours = family == "inet" && table == TABLE;
        (forward && drops && !ours && table != "firewalld").then_some(
            ForeignFirewall::ForwardDrops {
                family,
                table: table.to_owned(),
                chain: attributes.text(3)?.to_owned(),
            },
        )
    })?;
    let mut accepting = Vec::new();
    for firewall in &found {
        accepting.push(accepts_ours(netlink, firewall)?);
    }
    let mut accepting = accepting.into_iter();
    found.retain(|_| accepting.next() != Some(true));
    found.extend(
        netlink.dump(&message(GET_TABLE, DUMP, 0).request(), |table| {
            (table.attributes(HEADER).text(1)? == "firewalld").then_some(ForeignFirewall::Firewalld)
        })?,
    );
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether rules of the chain accept whatever comes from our links, and whatever goes to them.
fn accepts_ours(netlink: &mut Nftnetlink, firewall: &ForeignFirewall) -> io::Result<bool> {
    let ForeignFirewall::ForwardDrops {
        family: of,
        table,
        chain,
    } = firewall
    else {
        return Ok(false);
    };
    let number = NUMBERS.iter().find(|(_, name)| name == of);
    let number = number.map_or(0, |(number, _)| *number as u8);
    let request = message(GET_RULE, DUMP, number)
        .text(1, table)
        .text(2, chain);
    let accepted = netlink.dump(&request.request(), |rule| {
        let attributes = rule.attributes(HEADER);
        let of_it = attributes.text(1)? == table && attributes.text(2)? == chain;
        of_it.then(|| accepted_link(attributes.nested(4)))?
    })?;
    Ok([Side::Source, Side::Destination]
        .iter()
        .all(|side| accepted.contains(side)))
}

/// The side whose link a rule looks at, where it accepts all that is of ours and asks nothing else.
fn accepted_link(expressions: Attributes<'_>) -> Option<Side> {
    let (mut side, mut is_ours, mut accepts) = (None, false, false);
    for (_, expression) in expressions {
        let expression = Attributes(expression);
        let inside = expression.nested(2);
        match expression.text(1)? {
            "meta" => {
                side = Some(match be32_of(inside, 2)? {
                    META_IIFNAME => Side::Source,
                    META_OIFNAME => Side::Destination,
                    _ => return None,
                });
            }
            "cmp" => {
                let equal = be32_of(inside, 2)? == EQUAL;
                is_ours = equal && inside.nested(3).find(1)? == LINK_PREFIX.as_bytes();
            }
            "counter" => {}
            "immediate" => {
                let verdict = be32_of(inside.nested(2).nested(2), 1)?;
                accepts = verdict == libc::NF_ACCEPT as u32;
            }
            _ => return None,
        }
    }
    side.filter(|_| is_ours && accepts)
}

const NUMBERS: [(i32, &str); 3] = [
    (libc::NFPROTO_INET, "inet"),
    (libc::NFPROTO_IPV4, "ip"),
    (libc::NFPROTO_IPV6, "ip6"),
];

fn family(number: u8) -> Option<&'static str> {
    let found = NUMBERS
        .iter()
        .find(|(known, _)| *known == i32::from(number));
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::super::matches::encode_rule;
    use super::super::ruleset::{Action, Links, Match, Rule};
    use super::*;

    #[test]
    fn a_rule_that_drops_or_asks_more_accepts_nothing() {
        let ours = Match::Link(Side::Source, Links::Prefix(LINK_PREFIX.to_owned()));
        for matches in [vec![ours.clone()], vec![ours, Match::TcpSyn], Vec::new()] {
            let action = Action::Drop;
            let bytes = encode_rule(&Rule { matches, action });
            assert_eq!(accepted_link(Attributes(&bytes)), None);
        }
    }
}
