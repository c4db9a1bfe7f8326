//! The network that the host is in: where this node can be reached, what a path carries, and which
//! of the mesh's ranges collide with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use ipnet::IpNet;
use tracing::{info, warn};
use weft_mesh::{Endpoint, Roster};

use crate::config::Config;
use crate::kernel::{Linux, sysctl};
use crate::overlap::{self, Severity, Snapshot};
use crate::underlay;

/// An Ethernet without any word of its MTU.
const COMMON_MTU: u32 = 1500;

pub(super) struct Surroundings {
    /// The host's own addresses, but those in the mesh.
    pub(super) local: Vec<IpAddr>,
    /// Of the network between nodes, bytes.
    pub(super) mtu: u32,
    host: Snapshot,
    has_ipv6: bool,
    checked: Vec<IpNet>,
    /// Ranges that collide with the host's network, and with what.
    collisions: BTreeMap<IpNet, String>,
    accepted: BTreeSet<IpNet>,
}

impl Surroundings {
    pub(super) fn new() -> Self {
        Self {
            local: Vec::new(),
            mtu: COMMON_MTU,
            host: Snapshot::default(),
            has_ipv6: true,
            checked: Vec::new(),
            collisions: BTreeMap::new(),
            accepted: BTreeSet::new(),
        }
    }

    /// Looks at the host's network anew. True if the MTU of the ways out is another.
    pub(super) async fn look(&mut self, kernel: &Linux, config: &Config, pools: &[IpNet]) -> bool {
        match snapshot(kernel, config).await {
            Ok(host) => {
                let addresses = host.interfaces.iter().map(|i| i.net.addr());
                self.local = addresses
                    .filter(|a| !pools.iter().any(|p| p.contains(a)))
                    .collect();
                if self.host != host {
                    self.host = host;
                    self.checked.clear();
                }
            }
            Err(error) => warn!("{error:#}"),
        }
        let has_ipv6 = sysctl::has_ipv6();
        if self.has_ipv6 != has_ipv6 {
            info!(
                has_ipv6,
                "IPv6 of the host; without it, pods here have IPv4 alone"
            );
            self.has_ipv6 = has_ipv6;
        }
        let before = self.mtu;
        self.mtu = config.underlay_mtu.unwrap_or_else(|| world_mtu(config));
        self.mtu != before
    }

    /// Pods get what fits through either underlay family.
    pub(super) fn pod_mtu(&self) -> u32 {
        underlay::tunnel_mtu(self.mtu, std::net::Ipv6Addr::UNSPECIFIED.into())
    }

    /// What the mesh's link carries, bytes.
    pub(super) fn link_mtu(&self) -> u32 {
        underlay::tunnel_mtu(self.mtu, std::net::Ipv4Addr::UNSPECIFIED.into())
    }

    /// The ranges that pods here can have: none that collides, and without IPv6 on the host there
    /// is none for its pods.
    pub(super) fn usable(&self, ranges: &[IpNet]) -> Vec<IpNet> {
        let usable = ranges.iter().filter(|range| {
            (self.has_ipv6 || range.addr().is_ipv4()) && self.refusal(range).is_none()
        });
        usable.copied().collect()
    }

    /// The ranges that do not collide, as few as they can be said with.
    pub(super) fn accepted(&self, pools: &[IpNet]) -> Vec<IpNet> {
        let accepted = pools.iter().filter(|range| self.refusal(range).is_none());
        let accepted: Vec<IpNet> = accepted.copied().collect();
        let mut few = IpNet::aggregate(&accepted);
        few.sort_unstable();
        few
    }

    /// Looks which ranges the host uses for something else, where either changed. One that did not
    /// collide when it came is used on: pods have its addresses, and are not to be let out in the
    /// clear because somebody made another link.
    pub(super) fn check(&mut self, ranges: &[IpNet]) {
        if self.checked == ranges {
            return;
        }
        self.collisions.clear();
        for finding in overlap::check(ranges, &self.host) {
            match finding.severity {
                Severity::Warning => warn!("{finding}"),
                Severity::Refused => {
                    let said = self.collisions.entry(finding.range).or_default();
                    if !said.is_empty() {
                        said.push_str("; ");
                    }
                    said.push_str(&finding.to_string());
                }
            }
        }
        self.accepted.retain(|range| ranges.contains(range));
        let good = ranges.iter().filter(|r| !self.collisions.contains_key(r));
        self.accepted.extend(good.copied());
        ranges.clone_into(&mut self.checked);
    }

    /// What collides, in words, sorted by range.
    pub(super) fn collisions(&self) -> impl Iterator<Item = &String> {
        self.collisions.values()
    }

    /// Why this range may not be used here.
    pub(super) fn refusal(&self, range: &IpNet) -> Option<&str> {
        self.refusals()
            .find(|(refused, _)| refused.contains(range))
            .map(|(_, why)| why)
    }

    fn refusals(&self) -> impl Iterator<Item = (&IpNet, &str)> {
        let refused = self.collisions.iter();
        refused
            .filter(|(range, _)| !self.accepted.contains(*range))
            .map(|(range, why)| (range, why.as_str()))
    }

    /// Ends a node whose mesh has ranges that the host uses for something else.
    ///
    /// # Errors
    /// What collides, and what to do about it.
    pub(super) fn insist(&self) -> anyhow::Result<()> {
        let refusals: Vec<&str> = self.refusals().map(|(_, why)| why).collect();
        if refusals.is_empty() {
            return Ok(());
        }
        bail!(
            "{}; make the mesh with another --pool, or take the other one away",
            refusals.join("; ")
        )
    }

    /// The roster without the ranges that collide; `None` where it is the same.
    pub(super) fn cut(&self, roster: &Roster) -> Option<Roster> {
        self.refusals().next()?;
        let mut cut = roster.clone();
        for member in cut.members.values_mut() {
            member
                .pod_cidrs
                .retain(|range| self.refusal(range).is_none());
        }
        Some(cut)
    }
}

/// Refuses ranges that the host uses for something else, before any of it is touched.
pub(super) async fn refuse_overlaps(
    kernel: &Linux,
    config: &Config,
    ranges: &[IpNet],
) -> anyhow::Result<()> {
    let mut surroundings = Surroundings::new();
    surroundings.host = snapshot(kernel, config).await?;
    surroundings.check(ranges);
    surroundings.insist()
}

async fn snapshot(kernel: &Linux, config: &Config) -> anyhow::Result<Snapshot> {
    let mut host = kernel.snapshot().await?;
    let joined = config.join.iter().flat_map(|line| &line.hosts);
    host.endpoints = config
        .endpoints
        .iter()
        .chain(joined)
        .filter_map(|endpoint| match endpoint {
            Endpoint::Address(address) => Some(address.ip()),
            Endpoint::Name { .. } => None,
        })
        .collect();
    Ok(host)
}

/// Of the way to the world; that of each peer is asked when its endpoint is known.
fn world_mtu(config: &Config) -> u32 {
    let world: [SocketAddr; 2] = [
        ([192, 0, 2, 1], 9).into(),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into(),
    ];
    let mtus = world
        .iter()
        .filter_map(|to| underlay::path_mtu(*to, config.fwmark).ok());
    mtus.min().unwrap_or(COMMON_MTU)
}
