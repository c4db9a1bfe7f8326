//! What a cluster is to be like.

use std::net::IpAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What a cluster is to be like.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Options {
    /// How many nodes; the control plane is on the first
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub nodes: u8,

    /// How kube-proxy balances, or that there is none
    #[arg(long, default_value = "nftables")]
    pub proxy: Proxy,

    /// Which addresses nodes, pods and Services have
    #[arg(long, default_value = "ipv4")]
    pub family: Family,

    /// The cluster's DNS server
    #[arg(long, default_value = "coredns")]
    pub dns: Dns,

    /// Who connects the pods
    #[arg(long, default_value = "weft")]
    pub cni: Cni,

    /// Who gives each node its part of the pods' ranges
    #[arg(long, default_value = "cluster")]
    pub ranges: Ranges,

    /// How weft's image is built
    #[arg(long, default_value = "release")]
    pub profile: Profile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Proxy {
    Nftables,
    Iptables,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Family {
    Ipv4,
    Ipv6,
    Dual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Dns {
    Coredns,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Cni {
    /// `deploy/weft.yaml`, as it is
    Weft,
    /// The reference plugins, with routes between the nodes set by hand: nothing is encrypted
    Reference,
    /// Nobody: the nodes stay NotReady until somebody brings a network
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Ranges {
    /// The controller manager, as the Nodes' `podCIDRs`
    Cluster,
    /// The nodes themselves, by weft's claims
    Weft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Profile {
    Release,
    /// Built in seconds, but too large to ship
    Dev,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            proxy: Proxy::Nftables,
            family: Family::Ipv4,
            dns: Dns::Coredns,
            cni: Cni::Weft,
            ranges: Ranges::Cluster,
            profile: Profile::Release,
        }
    }
}

impl Options {
    /// Where the pods' addresses are; weft's own IPv6 range is not known before the cluster is.
    pub(crate) fn pods(&self) -> &'static [&'static str] {
        match self.ranges {
            Ranges::Cluster => self.family.of(&["10.244.0.0/16", "fd00:10:244::/56"]),
            Ranges::Weft => self.family.of(&["10.32.0.0/12", "fd00::/8"]),
        }
    }
}

impl Proxy {
    /// kube-proxy's own word for it.
    pub(crate) fn mode(self) -> Option<&'static str> {
        match self {
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
            Self::None => None,
        }
    }
}

impl Family {
    /// The Services' ranges.
    pub fn services(self) -> &'static [&'static str] {
        self.of(&["10.96.0.0/16", "fd00:10:96::/112"])
    }

    /// The API server's addresses as a Service: the first of each range.
    pub fn apis(self) -> &'static [&'static str] {
        self.of(&["10.96.0.1", "fd00:10:96::1"])
    }

    /// The DNS server's address.
    pub fn dns(self) -> &'static str {
        self.of(&["10.96.0.10", "fd00:10:96::a"])[0]
    }

    /// Those of a node's addresses by which Kubernetes knows it.
    pub(crate) fn addresses(self, v4: IpAddr, v6: IpAddr) -> Vec<IpAddr> {
        match self {
            Self::Ipv4 => vec![v4],
            Self::Ipv6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }

    fn of<T>(self, both: &'static [T; 2]) -> &'static [T] {
        match self {
            Self::Ipv4 => &both[..1],
            Self::Ipv6 => &both[1..],
            Self::Dual => both,
        }
    }
}
