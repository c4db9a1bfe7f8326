//! Names gathered into a zone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::Name;
use ipnet::IpNet;

use super::{Addresses, NameError, Place, Zone};

/// How long others may keep an answer of ours unless the builder says otherwise.
const DEFAULT_TTL: Duration = Duration::from_secs(5);

/// The name server that the zone names in its NS record, below the domain.
const NAME_SERVER: &str = "ns.dns";

/// Gathers names into a [`Zone`]. Equal inputs in any order give equal zones.
#[derive(Clone, Debug)]
pub struct ZoneBuilder {
    domain: Name,
    server: Name,
    names: HashMap<Name, BTreeMap<IpAddr, Place>>,
    servers: BTreeSet<IpAddr>,
    ranges: Vec<IpNet>,
    serial: u32,
    ttl: Duration,
}

impl ZoneBuilder {
    /// Begins a zone for `domain`, such as `weft.local`, with or without its last dot.
    ///
    /// # Errors
    /// When the domain is the root, not a DNS name, or too long to hold names.
    pub fn new(domain: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Malformed(domain.to_owned());
        let name = parse(domain)?;
        if name.is_root() {
            return Err(malformed());
        }
        let server = Name::from_ascii(NAME_SERVER)
            .and_then(|server| server.append_domain(&name))
            .map_err(|_| malformed())?;
        Ok(Self {
            domain: name,
            server,
            names: HashMap::new(),
            servers: BTreeSet::new(),
            ranges: Vec::new(),
            serial: 1,
            ttl: DEFAULT_TTL,
        })
    }

    /// How long others may keep answers: whole seconds, 5 by default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The serial of the SOA, 1 by default; it should grow (RFC 1982) with each change.
    #[must_use]
    pub fn serial(mut self, serial: u32) -> Self {
        self.serial = serial;
        self
    }

    /// Takes authority for the reverse names of `ranges`: an address in one that nobody has does
    /// not exist, and is asked of nobody else.
    #[must_use]
    pub fn ranges(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.ranges
            .extend(ranges.into_iter().map(|range| range.trunc()));
        self
    }

    /// The addresses of this name server itself, given for the name in the zone's NS record.
    #[must_use]
    pub fn servers(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.servers.extend(addresses);
        self
    }

    /// Adds addresses to a name. The name is absolute if it ends in a dot or in the domain, else
    /// below the domain; letters' case does not matter. An address added as local stays local.
    ///
    /// # Errors
    /// When it is no DNS name or lies outside the domain; the zone is as it was.
    pub fn add(&mut self, name: &str, addresses: &[IpAddr], place: Place) -> Result<(), NameError> {
        let name = self.absolute(name)?;
        let held = self.names.entry(name).or_default();
        for address in addresses {
            let slot = held.entry(*address).or_insert(place);
            if place == Place::Local {
                *slot = place;
            }
        }
        Ok(())
    }

    /// The zone of everything added.
    pub fn build(self) -> Zone {
        let mut names: HashMap<Name, Addresses> = HashMap::new();
        let mut pointers: BTreeMap<IpAddr, Vec<Name>> = BTreeMap::new();
        for (name, held) in self.names {
            for address in held.keys() {
                pointers.entry(*address).or_default().push(name.clone());
            }
            enter_above(&mut names, &name, &self.domain);
            enter(&mut names, name, held);
        }
        for held in pointers.values_mut() {
            held.sort();
        }
        enter_above(&mut names, &self.server, &self.domain);
        let servers = self
            .servers
            .into_iter()
            .map(|it| (it, Place::Local))
            .collect();
        enter(&mut names, self.server.clone(), servers);
        let mut ranges = self.ranges;
        // The widest first: the outermost range is the zone that a name is in.
        ranges.sort_by_key(|range| (range.prefix_len(), *range));
        ranges.dedup();
        Zone {
            domain: self.domain,
            server: self.server,
            names,
            pointers,
            ranges,
            serial: self.serial,
            ttl: u32::try_from(self.ttl.as_secs())
                .unwrap_or(u32::MAX)
                .min(i32::MAX as u32),
        }
    }

    fn absolute(&self, text: &str) -> Result<Name, NameError> {
        let name = parse(text)?;
        if self.domain.zone_of(&name) {
            return Ok(name);
        }
        if text.ends_with('.') {
            return Err(NameError::Outside {
                name: text.to_owned(),
                domain: self.domain.to_ascii(),
            });
        }
        let mut relative = name;
        relative.set_fqdn(false);
        let joined = relative.append_domain(&self.domain);
        Ok(joined
            .map_err(|_| NameError::Malformed(text.to_owned()))?
            .to_lowercase())
    }
}

/// Reads a name as absolute and in lower case.
fn parse(text: &str) -> Result<Name, NameError> {
    let malformed = || NameError::Malformed(text.to_owned());
    if text.is_empty() {
        return Err(malformed());
    }
    let mut name = Name::from_ascii(text)
        .map_err(|_| malformed())?
        .to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

fn enter(names: &mut HashMap<Name, Addresses>, name: Name, held: BTreeMap<IpAddr, Place>) {
    let entry = names.entry(name).or_default();
    for (address, place) in held {
        let list = match place {
            Place::Local => &mut entry.local,
            Place::Remote => &mut entry.remote,
        };
        if let Err(at) = list.binary_search(&address) {
            list.insert(at, address);
        }
    }
    let local = &entry.local;
    entry
        .remote
        .retain(|address| local.binary_search(address).is_err());
}

/// Enters every name above `name`, up to the domain, with no addresses of its own.
fn enter_above(names: &mut HashMap<Name, Addresses>, name: &Name, domain: &Name) {
    let mut above = name.clone();
    while above != *domain && !above.is_root() {
        above = above.base_name();
        names.entry(above.clone()).or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_relative_unless_they_end_in_a_dot_or_the_domain() {
        let builder = ZoneBuilder::new("weft.local").unwrap();
        let cases = [
            ("web", Some("web.weft.local.")),
            ("db.prod", Some("db.prod.weft.local.")),
            ("WEB.weft.LOCAL", Some("web.weft.local.")),
            ("web.weft.local.", Some("web.weft.local.")),
            ("web.example.", None),
            ("", None),
            ("a..b", None),
            ("with space", None),
        ];
        for (text, want) in cases {
            let got = builder.absolute(text).ok().map(|name| name.to_ascii());
            assert_eq!(got.as_deref(), want, "{text}");
        }
        let long = ["a".repeat(63).as_str(); 4].join(".");
        assert!(builder.absolute(&long).is_err());
    }

    #[test]
    fn equal_inputs_in_any_order_give_equal_zones() {
        let adds = [
            ("web", "10.32.0.2", Place::Local),
            ("web", "10.33.0.2", Place::Remote),
            ("Web", "10.32.0.2", Place::Remote),
            ("db.prod", "10.33.0.3", Place::Remote),
            ("also-web", "10.32.0.2", Place::Local),
        ];
        let build = |order: &[usize]| {
            let mut builder = ZoneBuilder::new("weft.local.").unwrap();
            for at in order {
                let (name, address, place) = adds[*at];
                builder.add(name, &[ip(address)], place).unwrap();
            }
            builder.build()
        };
        let zone = build(&[0, 1, 2, 3, 4]);
        assert_eq!(zone, build(&[4, 3, 2, 1, 0]));
        let entries = zone.entries();
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        let want = [
            "also-web.weft.local.",
            "db.prod.weft.local.",
            "web.weft.local.",
        ];
        assert_eq!(names, want);
        assert_eq!(entries[2].1.local, [ip("10.32.0.2")]);
        assert_eq!(entries[2].1.remote, [ip("10.33.0.2")]);
    }

    #[test]
    fn the_root_is_no_domain() {
        assert!(ZoneBuilder::new(".").is_err());
        assert!(ZoneBuilder::new("").is_err());
    }
}
