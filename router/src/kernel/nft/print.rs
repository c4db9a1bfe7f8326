//! A ruleset in the words of `nft`, as `nft list table` prints it. Pure.

use std::fmt;

use ipnet::IpNet;

use super::TABLE;
use super::ruleset::{Action, Base, Family, Fingerprint, Links, Match, Rule, Ruleset, Side};

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        for set in &self.sets {
            write!(f, "{set}")?;
        }
        for chain in &self.chains {
            writeln!(f, "\tchain {} {{", chain.name)?;
            if let Some(base) = &chain.base {
                writeln!(f, "\t\t{base}")?;
            }
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "type {} hook {} priority {}; policy accept;",
            self.kind.name(),
            word(&self.hook),
            self.priority,
        )
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        match &self.action {
            Action::Drop => f.write_str("counter drop"),
            Action::Jump(chain) => write!(f, "jump {chain}"),
            Action::Masquerade => f.write_str("masquerade fully-random"),
            Action::SourceNat(to) => write!(f, "snat {} to {to}", Family::of(*to)),
            Action::DestinationNat(to) => write!(f, "dnat {} to {to}", Family::of(to.ip())),
            Action::ClampMss => f.write_str("tcp option maxseg size set rt mtu"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |net: &IpNet| Family::of(net.addr());
        // A single address is printed without its length.
        let plain = |net: &IpNet| match net.prefix_len() == net.max_prefix_len() {
            true => net.addr().to_string(),
            false => net.to_string(),
        };
        let address = |side: &Side| match side {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        };
        let link = |side: &Side| match side {
            Side::Source => "iifname",
            Side::Destination => "oifname",
        };
        match self {
            Self::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::Inside(side, net) => {
                write!(f, "{} {} {}", family(net), address(side), plain(net))
            }
            Self::Outside(side, net) => {
                write!(f, "{} {} != {}", family(net), address(side), plain(net))
            }
            Self::InSet(side, set) => write!(f, "{} {} @{}", set.family, address(side), set.name),
            Self::NotInSet(side, set) => {
                write!(f, "{} {} != @{}", set.family, address(side), set.name)
            }
            Self::Link(side, links) => write!(f, "{} {links}", link(side)),
            Self::NotLink(side, links) => write!(f, "{} != {links}", link(side)),
            Self::DestinationIs(kind) => write!(f, "fib daddr type {}", word(kind)),
            Self::DestinationIsNot(kind) => write!(f, "fib daddr type != {}", word(kind)),
            Self::SourceIsNotOfLink => f.write_str("fib saddr . iif oif missing"),
            Self::Port(protocol, port) => write!(f, "{} dport {port}", word(protocol)),
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

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// nft's word for a variant.
fn word(variant: &impl fmt::Debug) -> String {
    format!("{variant:?}").to_lowercase()
}
