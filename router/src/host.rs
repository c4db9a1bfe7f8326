//! The host's network as far as it is weft's: one vocabulary for what is wanted and what is there.
//!
//! Pure values, sorted, printed as sorted text. Reading and writing them is `kernel`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::nft::{Fingerprint, Ruleset};

/// The routing protocol number that our routes bear, and by which we know them.
pub const PROTOCOL: u8 = 119;

/// What the name of each of our links begins with.
pub const LINK_PREFIX: &str = "weft";

/// The link of the tunnel.
pub const MESH_LINK: &str = "weft0";

/// The metric of a route over a link of ours. Low, so that a route somebody adds without a metric
/// in IPv6 (1024) does not beat it.
pub const METRIC: u32 = 50;

/// The metric of a route that refuses: the worst there is, so that any other of the same length wins.
pub const METRIC_UNREACHABLE: u32 = u32::MAX;

/// What the host should be.
pub type Desired = Host<Ruleset>;

/// What the host is, as far as it bears our mark.
pub type Observed = Host<Fingerprint>;

/// The part of a host's network that is ours. `F` is how its firewall table is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<F> {
    /// By name: those whose name begins with [`LINK_PREFIX`]. Links are made by the tunnel and by
    /// attaching pods; here they are only configured.
    pub links: BTreeMap<String, Link>,
    /// Of our links only.
    pub addresses: BTreeSet<Address>,
    /// In the main table, of our [`PROTOCOL`].
    pub routes: BTreeMap<RouteKey, Target>,
    /// Permanent ones, of our links only.
    pub neighbours: BTreeMap<NeighbourKey, Mac>,
    /// By path below `/proc/sys`. Wanted: those to set. Observed: those that we look at.
    pub sysctls: BTreeMap<String, String>,
    /// The table `inet weft`; `None` when there is none, or none is wanted.
    pub firewall: Option<F>,
}

impl<F> Default for Host<F> {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            routes: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            firewall: None,
        }
    }
}

/// A link's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Bytes of the largest packet, without the link's own header.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub link: String,
    /// With host bits; set without a route for its prefix and without duplicate detection.
    pub net: IpNet,
}

/// What tells a route from another of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    pub destination: IpNet,
    pub metric: u32,
}

impl RouteKey {
    /// The key of a route over one of our links.
    pub fn over(destination: IpNet) -> Self {
        Self {
            destination: destination.trunc(),
            metric: METRIC,
        }
    }

    /// The key of a route that refuses.
    pub fn unreachable(destination: IpNet) -> Self {
        Self {
            destination: destination.trunc(),
            metric: METRIC_UNREACHABLE,
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Out of a link of ours, with no gateway.
    Link {
        link: String,
        /// What the host's own packets bear as source; an address of the host.
        preferred_source: Option<IpAddr>,
        /// Less than the link's where given.
        mtu: Option<u32>,
    },
    /// Nowhere: the sender is told so.
    Unreachable,
}

/// What tells a neighbour entry from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    pub link: String,
    pub address: IpAddr,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.destination, self.metric)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Link {
                link,
                preferred_source,
                mtu,
            } => {
                write!(f, "dev {link}")?;
                if let Some(source) = preferred_source {
                    write!(f, " src {source}")?;
                }
                if let Some(mtu) = mtu {
                    write!(f, " mtu {mtu}")?;
                }
                Ok(())
            }
        }
    }
}

/// One line a thing, sorted; the firewall's text last, indented as it is.
impl<F: fmt::Display> fmt::Display for Host<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, link) in &self.links {
            let state = if link.up { "up" } else { "down" };
            writeln!(f, "link {name} {state} mtu {}", link.mtu)?;
        }
        for address in &self.addresses {
            writeln!(f, "address {} dev {}", address.net, address.link)?;
        }
        for (key, target) in &self.routes {
            writeln!(f, "route {key} {target}")?;
        }
        for (key, mac) in &self.neighbours {
            writeln!(f, "neighbour {} dev {} {mac}", key.address, key.link)?;
        }
        for (key, value) in &self.sysctls {
            writeln!(f, "sysctl {key} = {value}")?;
        }
        match &self.firewall {
            Some(firewall) => write!(f, "{firewall}"),
            None => Ok(()),
        }
    }
}
