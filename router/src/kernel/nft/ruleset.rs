//! A table's rules as values, printed in the words of `nft`. Pure.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

use super::TABLE;
use super::expression::encode_rule;

/// The whole of our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Names are unique.
    pub chains: Vec<Chain>,
}

/// A base chain, of policy accept: we drop by rule only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Not a word of nft's language.
    pub name: String,
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

/// Where in the kernel's way of a packet a chain stands; the numbers are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// All of `matches`, then `action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// An address of the packet inside a range; also says of which family the packet is.
    Inside(Side, IpNet),
    /// The packet is of the range's family and its address is not inside.
    Outside(Side, IpNet),
    /// The link a packet came in by (`Source`) or goes out by (`Destination`).
    Link(Side, Links),
    NotLink(Side, Links),
    /// What the routing table says the destination is not.
    DestinationIsNot(AddressKind),
    /// The first packet of a TCP connection, either way.
    TcpSyn,
}

/// Which end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Links {
    /// One link.
    Named(String),
    /// Every link whose name begins so.
    Prefix(String),
}

/// As the routing table has it; the numbers are the kernel's `RTN_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    Local = 2,
    Broadcast = 3,
    Multicast = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Counted.
    Drop,
    Masquerade,
    /// The largest segment no larger than the MTU of the packet's route, or of the way back, allows.
    ClampMss,
}

/// What of a table can be told apart: its chains, and each rule by a hash of what we wrote in it.
///
/// A rule's hash is kept in its comment. The kernel has no way to change a rule and keep its
/// comment, so equal fingerprints mean that the table is as we wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    pub(crate) chains: BTreeMap<String, ChainPrint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainPrint {
    /// Type, hook, priority and policy.
    pub(crate) base: String,
    /// Comments, in the order of the rules.
    pub(crate) rules: Vec<String>,
}

impl Ruleset {
    pub fn fingerprint(&self) -> Fingerprint {
        let chains = self.chains.iter().map(|chain| {
            let print = ChainPrint {
                base: base_text(chain.kind.name(), chain.hook as u32, chain.priority, true),
                rules: chain.rules.iter().map(Rule::comment).collect(),
            };
            (chain.name.clone(), print)
        });
        Fingerprint {
            chains: chains.collect(),
        }
    }
}

impl ChainKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl Rule {
    /// What tells this rule from any other: FNV-1a of its expressions as the kernel gets them.
    pub(crate) fn comment(&self) -> String {
        let hash = encode_rule(self)
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        format!("weft:{hash:016x}")
    }
}

/// How a base chain stands, in the words that `Fingerprint` compares.
pub(crate) fn base_text(kind: &str, hook: u32, priority: i32, accepts: bool) -> String {
    let policy = if accepts { "accept" } else { "drop" };
    format!("type {kind} hook {hook} priority {priority} policy {policy}")
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for chain in &self.chains {
            writeln!(f, "\tchain {} {{", chain.name)?;
            writeln!(
                f,
                "\t\ttype {} hook {} priority {}; policy accept;",
                chain.kind.name(),
                format!("{:?}", chain.hook).to_lowercase(),
                chain.priority,
            )?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        match self.action {
            Action::Drop => f.write_str("counter drop"),
            Action::Masquerade => f.write_str("masquerade fully-random"),
            Action::ClampMss => f.write_str("tcp option maxseg size set rt mtu"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |net: &IpNet| if net.addr().is_ipv4() { "ip" } else { "ip6" };
        let address = |side: &Side| match side {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        };
        let link = |side: &Side| match side {
            Side::Source => "iifname",
            Side::Destination => "oifname",
        };
        match self {
            Self::Inside(side, net) => write!(f, "{} {} {net}", family(net), address(side)),
            Self::Outside(side, net) => write!(f, "{} {} != {net}", family(net), address(side)),
            Self::Link(side, links) => write!(f, "{} {links}", link(side)),
            Self::NotLink(side, links) => write!(f, "{} != {links}", link(side)),
            Self::DestinationIsNot(kind) => {
                let kind = format!("{kind:?}").to_lowercase();
                write!(f, "fib daddr type != {kind}")
            }
            Self::TcpSyn => f.write_str("tcp flags syn / syn,rst"),
        }
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "\"{name}\""),
            Self::Prefix(prefix) => write!(f, "\"{prefix}*\""),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, chain) in &self.chains {
            writeln!(f, "chain {name} {}: {}", chain.base, chain.rules.join(" "))?;
        }
        Ok(())
    }
}
