//! A set of addresses as intervals, whatever prefixes it was made of. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::ruleset::Family;

/// A named set of addresses of one family. The kernel lets nobody change it once a rule looks into
/// it, so a rule that is as we wrote it looks into what we wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub family: Family,
    /// Invariant: sorted, and no two touch.
    intervals: Vec<Interval>,
}

/// Addresses from one to another, both inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
}

impl Set {
    /// The addresses of `family` in `ranges`, which may overlap and be in any order.
    pub fn new<'a>(
        name: &str,
        family: Family,
        ranges: impl IntoIterator<Item = &'a IpNet>,
    ) -> Self {
        let of_it = ranges
            .into_iter()
            .filter(|net| Family::of(net.addr()) == family);
        let mut all: Vec<Interval> = of_it
            .map(|net| Interval {
                first: net.network(),
                last: net.broadcast(),
            })
            .collect();
        all.sort_by_key(|interval| (interval.first, interval.last));
        let mut intervals: Vec<Interval> = Vec::new();
        for next in all {
            match intervals.last_mut() {
                Some(open) if after(open.last).is_none_or(|free| next.first <= free) => {
                    open.last = open.last.max(next.last);
                }
                _ => intervals.push(next),
            }
        }
        Self {
            name: name.to_owned(),
            family,
            intervals,
        }
    }

    /// The kernel's elements: where an interval begins, and the first address behind it, if there
    /// is one.
    pub(super) fn elements(&self) -> impl Iterator<Item = Element> {
        self.intervals.iter().flat_map(|interval| {
            let begin = Element {
                address: interval.first,
                ends: false,
            };
            let end = after(interval.last).map(|address| Element {
                address,
                ends: true,
            });
            std::iter::once(begin).chain(end)
        })
    }
}

/// One border of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) address: IpAddr,
    pub(super) ends: bool,
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

/// As `nft` prints it.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        writeln!(
            f,
            "\tset {} {{\n\t\ttype {kind}\n\t\tflags constant,interval",
            self.name
        )?;
        if !self.intervals.is_empty() {
            let texts: Vec<String> = self.intervals.iter().map(ToString::to_string).collect();
            writeln!(f, "\t\telements = {{ {} }}", texts.join(", "))?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first, self.last);
        let longest = IpNet::from(first).max_prefix_len();
        let whole = (0..=longest)
            .filter_map(|length| IpNet::new(first, length).ok())
            .find(|net| net.network() == first && net.broadcast() == last);
        match whole {
            Some(net) if net.prefix_len() == longest => write!(f, "{first}"),
            Some(net) => write!(f, "{net}"),
            None => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(family: Family, ranges: &[&str]) -> Set {
        let nets: Vec<IpNet> = ranges.iter().map(|text| text.parse().unwrap()).collect();
        Set::new("s", family, &nets)
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one_interval() {
        let set = set(
            Family::V4,
            &[
                "10.0.2.0/24",
                "10.0.1.0/24",
                "10.0.1.7/32",
                "10.9.0.0/16",
                "10.8.0.1/32",
                "fd00::/8",
            ],
        );
        let texts: Vec<String> = set.intervals.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.1.0-10.0.2.255", "10.8.0.1", "10.9.0.0/16"]);
    }

    #[test]
    fn the_last_address_of_a_family_has_no_end() {
        for (family, range) in [(Family::V4, "255.255.255.0/24"), (Family::V6, "ff00::/8")] {
            assert_eq!(set(family, &[range]).elements().count(), 1);
        }
        assert_eq!(set(Family::V4, &["10.0.0.0/8"]).elements().count(), 2);
    }

    proptest! {
        #[test]
        fn an_address_is_in_the_set_when_it_is_in_a_range(
            ranges in proptest::collection::vec((0u32..64, 26u8..=32), 0..12),
            probe in 0u32..64,
        ) {
            let nets: Vec<IpNet> = ranges
                .into_iter()
                .map(|(address, length)| IpNet::new(IpAddr::V4(address.into()), length).unwrap())
                .collect();
            let probe = IpAddr::V4(probe.into());
            let set = Set::new("s", Family::V4, &nets);
            // As the kernel looks: the last border at or before the address.
            let border = set.elements().filter(|element| element.address <= probe).last();
            let inside = border.is_some_and(|element| !element.ends);
            prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&probe)));
            let sorted: Vec<IpAddr> = set.elements().map(|element| element.address).collect();
            prop_assert!(sorted.is_sorted_by(|a, b| a < b));
        }
    }
}
