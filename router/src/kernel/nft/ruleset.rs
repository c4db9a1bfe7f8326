//! A table's rules as values. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weft_cni::Protocol;

use super::encode::elements;
use super::matches::encode_rule;
use super::set::Set;
use crate::kernel::Targets;

/// The whole of our table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Names are unique.
    pub sets: Vec<Set>,
    /// Names are unique.
    pub chains: Vec<Chain>,
}

/// A chain; a base chain's policy is accept: we drop by rule only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Not a word of nft's language.
    pub name: String,
    /// `None` for one that others jump to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// Where a base chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
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
    Family(Family),
    /// An address of the packet inside a range; also says of which family the packet is.
    Inside(Side, IpNet),
    /// The packet is of the range's family and its address is not inside.
    Outside(Side, IpNet),
    /// The packet is of the set's family and its address is in the set of this name.
    InSet(Side, SetName),
    /// The packet is of the set's family and its address is not in the set of this name.
    NotInSet(Side, SetName),
    /// The link a packet came in by (`Source`) or goes out by (`Destination`).
    Link(Side, Links),
    NotLink(Side, Links),
    /// What the routing table says the destination is.
    DestinationIs(AddressKind),
    /// What the routing table says the destination is not.
    DestinationIsNot(AddressKind),
    /// No route to the packet's source leads over the link that it came in by.
    SourceIsNotOfLink,
    /// The port that a packet of this protocol is for.
    Port(Protocol, u16),
    /// The first packet of a TCP connection, either way.
    TcpSyn,
}

/// An address family of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A set of the same table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetName {
    pub name: String,
    pub family: Family,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Counted.
    Drop,
    Jump(String),
    /// With an address of the link that the packet leaves by.
    Masquerade,
    SourceNat(IpAddr),
    DestinationNat(SocketAddr),
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
        let hashes = self.hashes();
        let chains = self.chains.iter().map(|chain| {
            let print = ChainPrint {
                base: base_text(chain.base.map(|base| BaseSeen {
                    kind: base.kind.name(),
                    hook: base.hook as u32,
                    priority: base.priority,
                    accepts: true,
                })),
                rules: chain
                    .rules
                    .iter()
                    .map(|rule| rule.comment(&hashes))
                    .collect(),
            };
            (chain.name.clone(), print)
        });
        Fingerprint {
            chains: chains.collect(),
        }
    }

    /// Where UDP ports of the host lead.
    pub fn udp_targets(&self) -> Targets {
        let mut targets = Targets::new();
        for rule in self.chains.iter().flat_map(|chain| &chain.rules) {
            if let (Action::DestinationNat(to), Some(Match::Port(Protocol::Udp, port))) =
                (&rule.action, rule.matches.last())
            {
                targets.entry(*port).or_default().insert(*to);
            }
        }
        targets
    }

    /// What is in each set, in short.
    pub(super) fn hashes(&self) -> Hashes<'_> {
        let hash = |set: &Set| {
            elements(set)
                .iter()
                .fold(SEED, |hash, part| more(hash, &part.body))
        };
        self.sets
            .iter()
            .map(|set| (&*set.name, hash(set)))
            .collect()
    }
}

/// By a set's name.
pub(super) type Hashes<'a> = BTreeMap<&'a str, u64>;

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
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
    /// What tells this rule from any other: a hash of its expressions as the kernel gets them, and
    /// of what is in the sets that it looks into.
    pub(super) fn comment(&self, sets: &Hashes<'_>) -> String {
        let mut hash = more(SEED, &encode_rule(self));
        for part in &self.matches {
            if let Match::InSet(_, set) | Match::NotInSet(_, set) = part {
                let of_set = sets.get(&*set.name).copied().unwrap_or_default();
                hash = more(hash, &of_set.to_be_bytes());
            }
        }
        // With the port of a rule whose flows are to be forgotten with it.
        match (&self.action, self.matches.last()) {
            (Action::DestinationNat(_), Some(Match::Port(Protocol::Udp, port))) => {
                format!("weft:{hash:016x}{UDP}{port}")
            }
            _ => format!("weft:{hash:016x}"),
        }
    }
}

const UDP: &str = " udp ";

impl Fingerprint {
    /// The UDP ports whose rules are in one of the two and not in the other.
    pub fn changed_udp(&self, other: &Self) -> BTreeSet<u16> {
        let (ours, theirs) = (self.udp(), other.udp());
        let changed = ours.symmetric_difference(&theirs);
        let port = |comment: &&str| comment.split_once(UDP)?.1.parse().ok();
        changed.filter_map(port).collect()
    }

    fn udp(&self) -> BTreeSet<&str> {
        let rules = self.chains.values().flat_map(|chain| &chain.rules);
        rules
            .map(|comment| &**comment)
            .filter(|c| c.contains(UDP))
            .collect()
    }
}

/// FNV-1a.
const SEED: u64 = 0xcbf2_9ce4_8422_2325;

fn more(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// How a base chain stands.
pub(super) struct BaseSeen<'a> {
    pub(super) kind: &'a str,
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) accepts: bool,
}

/// How a chain stands, in the words that `Fingerprint` compares.
pub(super) fn base_text(base: Option<BaseSeen<'_>>) -> String {
    let Some(base) = base else {
        return "regular".to_owned();
    };
    let policy = if base.accepts { "accept" } else { "drop" };
    format!(
        "type {} hook {} priority {} policy {policy}",
        base.kind, base.hook, base.priority
    )
}
