//! Firewalls of somebody else's that will drop what we forward: found and named, never changed.

use std::fmt;
use std::io;

use super::encode::{GET_CHAIN, GET_TABLE, message};
use super::observe::{HEADER, be32_of};
use super::{Nftnetlink, TABLE};

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
    found.extend(
        netlink.dump(&message(GET_TABLE, DUMP, 0).request(), |table| {
            (table.attributes(HEADER).text(1)? == "firewalld").then_some(ForeignFirewall::Firewalld)
        })?,
    );
    found.sort();
    found.dedup();
    Ok(found)
}

fn family(number: u8) -> Option<&'static str> {
    match i32::from(number) {
        libc::NFPROTO_INET => Some("inet"),
        libc::NFPROTO_IPV4 => Some("ip"),
        libc::NFPROTO_IPV6 => Some("ip6"),
        _ => None,
    }
}
