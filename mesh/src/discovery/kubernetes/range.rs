//! Ranges of addresses: who holds them, which shares a pool has, what a claim is called. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Disjoint ranges, each with its holder.
#[derive(Clone, Debug)]
pub(super) struct Holders<T>(BTreeMap<(Family, u128), (IpNet, T)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl<T> Default for Holders<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Holders<T> {
    /// Whoever holds a range that overlaps with this one.
    pub(super) fn overlapping(&self, range: &IpNet) -> Option<&(IpNet, T)> {
        let (family, first, last) = bounds(range);
        // Of disjoint ranges only the last one that begins before `range` ends can reach into it.
        let (_, held) = self.0.range(..=(family, last)).next_back()?;
        let (its_family, _, its_last) = bounds(&held.0);
        (its_family == family && its_last >= first).then_some(held)
    }

    pub(super) fn holds(&self, address: IpAddr) -> Option<&(IpNet, T)> {
        self.overlapping(&address.to_canonical().into())
    }

    /// Gives a range to `holder`.
    ///
    /// # Errors
    /// The range that it overlaps with, and whose that is.
    pub(super) fn give(&mut self, range: IpNet, holder: T) -> Result<(), &(IpNet, T)> {
        let range = range.trunc();
        let (family, first, _) = bounds(&range);
        if self.overlapping(&range).is_some() {
            // Looked up again, for the borrow that is returned would outlive the branch.
            return self.overlapping(&range).map_or(Ok(()), Err);
        }
        self.0.insert((family, first), (range, holder));
        Ok(())
    }
}

impl Holders<()> {
    /// The union of these ranges, held by nobody in particular.
    pub(super) fn union<'a>(ranges: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let all: Vec<IpNet> = ranges.into_iter().copied().collect();
        let mut union = Self::default();
        for range in IpNet::aggregate(&all) {
            // Disjoint already.
            let _ = union.give(range, ());
        }
        union
    }
}

fn bounds(range: &IpNet) -> (Family, u128, u128) {
    match range {
        IpNet::V4(net) => (
            Family::V4,
            u32::from(net.network()).into(),
            u32::from(net.broadcast()).into(),
        ),
        IpNet::V6(net) => (
            Family::V6,
            u128::from(net.network()),
            u128::from(net.broadcast()),
        ),
    }
}

/// What nodes take their ranges from where the cluster gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub range: IpNet,
    /// Prefix length of one node's share.
    pub share: u8,
}

impl Pool {
    /// Whether this is exactly one share.
    pub(super) fn has_share(&self, range: &IpNet) -> bool {
        range.prefix_len() == self.share && range.trunc() == *range && self.range.contains(range)
    }

    /// The lowest share that overlaps with nothing of `taken`.
    pub(super) fn free_share<T>(&self, taken: &Holders<T>) -> Option<IpNet> {
        let mut shares = self.range.subnets(self.share).ok()?;
        shares.find(|share| taken.overlapping(share).is_none())
    }
}

/// Whether pods can have these addresses at all: not everything, not a host's own, not a link's.
pub(super) fn is_for_pods(range: &IpNet) -> bool {
    let reserved: &[&str] = match range {
        IpNet::V4(net) if !(8..=30).contains(&net.prefix_len()) => return false,
        IpNet::V6(net) if !(16..=126).contains(&net.prefix_len()) => return false,
        IpNet::V4(_) => &["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"],
        IpNet::V6(_) => &["::/16", "fe80::/10", "ff00::/8"],
    };
    let overlaps = |reserved: IpNet| reserved.contains(range) || range.contains(&reserved);
    range.trunc() == *range && !reserved.iter().filter_map(|r| r.parse().ok()).any(overlaps)
}

/// What the claim of a range is called: the range, `/` and `:` written as `-`, an IPv6 address with
/// all its groups. So a range has one name, and one claim.
pub(super) fn claim_name(range: &IpNet) -> String {
    match range {
        IpNet::V4(net) => format!("{}-{}", net.network(), net.prefix_len()),
        IpNet::V6(net) => {
            let groups = net.network().segments().map(|group| format!("{group:x}"));
            format!("{}-{}", groups.join("-"), net.prefix_len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_held_once_however_it_overlaps() {
        let mut holders = Holders::default();
        holders.give(net("10.0.1.0/24"), "a").unwrap();
        holders.give(net("10.0.3.0/24"), "b").unwrap();
        for (range, by) in [
            ("10.0.0.0/8", Some("b")),
            ("10.0.1.128/25", Some("a")),
            ("10.0.2.0/24", None),
            ("10.0.0.0/23", Some("a")),
            ("::/0", None),
        ] {
            let found = holders.overlapping(&net(range)).map(|(_, by)| *by);
            assert_eq!(found, by, "{range}");
        }
        assert!(holders.give(net("10.0.0.0/16"), "c").is_err());
        assert!(holders.holds("10.0.3.9".parse().unwrap()).is_some());
        assert!(holders.holds("::ffff:10.0.3.9".parse().unwrap()).is_some());
    }

    #[test]
    fn a_claims_name_is_the_range_in_one_way_only() {
        assert_eq!(claim_name(&net("10.32.5.0/24")), "10.32.5.0-24");
        assert_eq!(
            claim_name(&net("fd00:1:2:a0::/64")),
            "fd00-1-2-a0-0-0-0-0-64"
        );
    }

    #[test]
    fn the_lowest_free_share_is_taken() {
        let pool = Pool {
            range: net("10.32.0.0/22"),
            share: 24,
        };
        let taken = ["10.32.0.0/24", "10.32.1.128/25", "10.32.3.0/24"].map(net);
        let taken = Holders::union(&taken);
        assert_eq!(pool.free_share(&taken), Some(net("10.32.2.0/24")));
        assert!(pool.has_share(&net("10.32.2.0/24")));
        for bad in ["10.32.2.0/25", "10.32.0.0/22", "10.33.0.0/24", "fd00::/24"] {
            assert!(!pool.has_share(&net(bad)), "{bad}");
        }
    }

    #[test]
    fn nobody_gets_everything_or_what_a_host_has_for_itself() {
        for bad in [
            "0.0.0.0/0",
            "10.0.0.0/7",
            "127.0.0.0/16",
            "169.254.1.0/24",
            "224.0.0.0/8",
            "10.0.0.1/24",
            "::/0",
            "::/64",
            "fe80::/64",
            "ff02::/64",
        ] {
            assert!(!is_for_pods(&net(bad)), "{bad}");
        }
        for good in [
            "10.244.0.0/24",
            "100.64.0.0/10",
            "fd00:1::/64",
            "2001:db8::/56",
        ] {
            assert!(is_for_pods(&net(good)), "{good}");
        }
    }
}
