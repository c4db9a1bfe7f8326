//! The mesh's names as this node sees them: its own containers', and those of the nodes that it
//! can reach. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tracing::warn;
use weft_dns::{NameError, Place, Zone, ZoneBuilder};
use weft_mesh::{NodeId, NodeName, Roster, ServedName};

use crate::control::NameStatus;

/// How long others may keep an answer. A name's end is everywhere within 3 s, so less than that.
pub(super) const TTL: Duration = Duration::from_secs(1);

/// What the zone is made of.
#[derive(Debug)]
pub(super) struct Names<'a> {
    pub(super) domain: &'a str,
    pub(super) me: &'a NodeName,
    pub(super) my_addresses: &'a [IpAddr],
    /// The names of the containers attached here.
    pub(super) local: &'a [ServedName],
    pub(super) roster: &'a Roster,
    /// Members that answer no more; their names are left out.
    pub(super) dead: &'a BTreeSet<NodeId>,
    /// The mesh's ranges, for reverse names.
    pub(super) pools: &'a [IpNet],
}

impl Names<'_> {
    /// The zone. A name that is no DNS name below the domain is left out, and said in the log.
    ///
    /// # Errors
    /// When the domain itself is no DNS name.
    pub(super) fn zone(&self, serial: u32) -> Result<Zone, NameError> {
        let mut zone = ZoneBuilder::new(self.domain)?
            .ttl(TTL)
            .serial(serial)
            .ranges(self.pools.iter().copied())
            .servers(self.my_addresses.iter().copied());
        for (name, addresses, place, _) in self.all() {
            if let Err(error) = zone.add(name, &addresses, place) {
                warn!(%error, name, "a name is left out of the zone");
            }
        }
        Ok(zone.build())
    }

    /// The names for `weft status dns`, sorted.
    pub(super) fn list(&self) -> Vec<NameStatus> {
        let mut names: BTreeMap<(String, String), Vec<IpAddr>> = BTreeMap::new();
        for (name, addresses, _, node) in self.all() {
            let key = (format!("{name}.{}.", self.domain), node.to_owned());
            names.entry(key).or_default().extend(addresses);
        }
        names
            .into_iter()
            .map(|((name, node), addresses)| NameStatus {
                name,
                addresses,
                node,
            })
            .collect()
    }

    fn all(&self) -> impl Iterator<Item = (&str, Vec<IpAddr>, Place, &str)> {
        let me = self.me.as_str();
        let mine = std::iter::once((me, self.my_addresses.to_vec(), Place::Local, me));
        let local = self
            .local
            .iter()
            .map(move |n| (n.name.as_str(), n.addresses.clone(), Place::Local, me));
        let there = self
            .roster
            .members
            .values()
            .filter(|m| !m.away && !self.dead.contains(&m.id));
        let theirs = there.flat_map(|member| {
            let node = member.name.as_str();
            let own =
                std::iter::once((node, member.mesh_addresses().collect(), Place::Remote, node));
            own.chain(
                member
                    .names
                    .iter()
                    .map(move |n| (n.name.as_str(), n.addresses.clone(), Place::Remote, node)),
            )
        });
        mine.chain(local)
            .chain(theirs)
            .filter(|(_, addresses, _, _)| !addresses.is_empty())
    }
}
