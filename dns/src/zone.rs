//! The names this node answers for, as one immutable value: built whole, swapped by one pointer.
//! It holds no records; `answer` makes them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnet::IpNet;

mod build;

pub use build::ZoneBuilder;

use crate::reverse::{self, Reverse};

/// Where an address is, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node: given first.
    Local,
    /// On another node.
    Remote,
}

/// The addresses of one name, each list sorted and without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub local: Vec<IpAddr>,
    pub remote: Vec<IpAddr>,
}

/// Why a name cannot be in the zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("name {0:?} is not a DNS name of at most 255 bytes in labels of 1 to 63")]
    Malformed(String),
    #[error("name {name} is not inside {domain}")]
    Outside { name: String, domain: String },
}

/// The names of one domain and of the reverse zones of the mesh's ranges.
///
/// Invariant: every name between a name and the domain is present, with no addresses if it has
/// none (an empty non-terminal, RFC 8020 section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    domain: Name,
    server: Name,
    names: HashMap<Name, Addresses>,
    pointers: BTreeMap<IpAddr, Vec<Name>>,
    ranges: Vec<IpNet>,
    serial: u32,
    ttl: u32,
}

/// What the reverse zones say of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReverseName<'a> {
    /// An address with names; `apex` is the top of its zone.
    Named { apex: Name, names: &'a [Name] },
    /// A name that exists only because others lie below it, or the top of a reverse zone.
    Empty { apex: Name },
    /// Inside a range of ours, and nobody's.
    Missing { apex: Name },
}

impl Zone {
    /// The domain, absolute.
    pub fn domain(&self) -> String {
        self.domain.to_ascii()
    }

    /// Each name that has an address, absolute, with its addresses, in alphabetical order.
    pub fn entries(&self) -> Vec<(String, &Addresses)> {
        let named = self.names.iter().filter(|(_, found)| !found.is_empty());
        let mut entries: Vec<_> = named
            .map(|(name, found)| (name.to_ascii(), found))
            .collect();
        entries.sort_by(|one, two| one.0.cmp(&two.0));
        entries
    }

    /// How long others may keep an answer, in seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The serial of the zone's SOA.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    pub(crate) fn apex(&self) -> &Name {
        &self.domain
    }

    pub(crate) fn server(&self) -> &Name {
        &self.server
    }

    /// Whether a name lies in the domain.
    pub(crate) fn holds(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// The addresses of a name; none of them for an empty non-terminal; `None` for no such name.
    pub(crate) fn addresses(&self, name: &Name) -> Option<&Addresses> {
        self.names.get(name)
    }

    /// What our reverse zones say of a name; `None` if it is in none of them.
    pub(crate) fn reverse(&self, name: &Name) -> Option<ReverseName<'_>> {
        let Reverse { net, whole } = reverse::parse(name)?;
        let range = self.ranges.iter().find(|range| range.contains(&net));
        let full = net.prefix_len() == net.max_prefix_len();
        if full
            && whole
            && let Some(names) = self.pointers.get(&net.addr())
        {
            let own = IpNet::from(net.addr());
            let apex = reverse::apex(name, range.unwrap_or(&own));
            return Some(ReverseName::Named { apex, names });
        }
        let apex = reverse::apex(name, range?);
        let below = self.pointers.range(net.network()..=net.broadcast());
        let exists = whole && (*name == apex || below.count() > 0);
        Some(if exists {
            ReverseName::Empty { apex }
        } else {
            ReverseName::Missing { apex }
        })
    }
}

impl Addresses {
    fn is_empty(&self) -> bool {
        self.local.is_empty() && self.remote.is_empty()
    }
}
