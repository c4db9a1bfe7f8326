//! Which address of the node's ranges is next. Pure: what is in use is an argument.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// The node's ranges and where the last search ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    v4: Family,
    v6: Family,
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("this node has no range of pod addresses yet")]
    NoRange,
    #[error("{} full: {used} of {size} addresses in use", subject(.ranges))]
    Full {
        ranges: Vec<IpNet>,
        used: u128,
        size: u128,
    },
}

/// The ranges of one family, in the order they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    ranges: Vec<IpNet>,
    /// The search goes on behind this one, so that a freed address is not used again at once.
    last: Option<IpAddr>,
}

impl Pool {
    pub fn new(ranges: &[IpNet]) -> Self {
        let family = |wanted: fn(&&IpNet) -> bool| Family {
            ranges: ranges.iter().filter(wanted).map(IpNet::trunc).collect(),
            last: None,
        };
        Self {
            v4: family(|range| matches!(range, IpNet::V4(_))),
            v6: family(|range| matches!(range, IpNet::V6(_))),
        }
    }

    /// The ranges in use, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = &IpNet> {
        self.v4.ranges.iter().chain(&self.v6.ranges)
    }

    /// The ranges, how many of the addresses in use are in each, and how many it has to give.
    pub fn usage(&self, used: &BTreeSet<IpAddr>) -> Vec<(IpNet, u128, u128)> {
        let inside = |range: &IpNet| used.iter().filter(|at| range.contains(*at)).count() as u128;
        self.ranges()
            .map(|range| (*range, inside(range), size(range)))
            .collect()
    }

    /// Where the searches ended.
    pub fn last(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.last.into_iter().chain(self.v6.last)
    }

    /// Whether the address is in one of the ranges and may be a container's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges()
            .any(|range| offset(range, address).is_some_and(|at| usable(range).contains(&at)))
    }

    /// Goes on behind these, as after picking them.
    pub fn continue_after(&mut self, addresses: &[IpAddr]) {
        for &address in addresses {
            self.family_of(address).last = Some(address);
        }
    }

    /// The next free address of each family that has a range. The IPv6 address takes the IPv4
    /// one's place in its range where that is free (`10.32.7.5` and `fd00:…::5`).
    ///
    /// # Errors
    /// When a family has no free address; nothing is picked then.
    pub fn pick(&mut self, used: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, PoolError> {
        self.complete(&[], used)
    }

    /// As [`Pool::pick`], but of those families only of which `kept` has no address; `kept` comes
    /// first for its family.
    ///
    /// # Errors
    /// As [`Pool::pick`].
    pub fn complete(
        &mut self,
        kept: &[IpAddr],
        used: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, PoolError> {
        if self.v4.ranges.is_empty() && self.v6.ranges.is_empty() {
            return Err(PoolError::NoRange);
        }
        let kept = |v4: bool| kept.iter().copied().find(|address| address.is_ipv4() == v4);
        let v4 = match kept(true) {
            None => self.v4.next(None, used)?,
            some => some,
        };
        let v6 = match kept(false) {
            None => self.v6.next(v4.and_then(|at| self.v4.place(at)), used)?,
            some => some,
        };
        let picked: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
        self.continue_after(&picked);
        Ok(picked)
    }

    fn family_of(&mut self, address: IpAddr) -> &mut Family {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

impl Family {
    /// A free address: at `wish` if it may be, else the next behind the last; `None` without a
    /// range.
    fn next(
        &self,
        wish: Option<u128>,
        used: &BTreeSet<IpAddr>,
    ) -> Result<Option<IpAddr>, PoolError> {
        let Some(first) = self.ranges.first() else {
            return Ok(None);
        };
        let wished = wish
            .filter(|at| usable(first).contains(at))
            .map(|at| address(first, at))
            .filter(|address| !used.contains(address));
        if wished.is_some() {
            return Ok(wished);
        }
        let start = self.ranges.iter().enumerate().find_map(|(index, range)| {
            offset(range, self.last?).map(|at| (index, at.saturating_add(1)))
        });
        let (index, at) = start.unwrap_or((0, 0));
        // From the place in its range to that range's end, the others, then that range's start.
        let (before, from) = self.ranges.split_at(index);
        let tail = from.first().into_iter().map(|range| (range, at, u128::MAX));
        let others = from.iter().skip(1).chain(before);
        let others = others.map(|range| (range, 0, u128::MAX));
        let head = from.first().into_iter().map(|range| (range, 0, at));
        tail.chain(others)
            .chain(head)
            .find_map(|(range, from, to)| free(range, from, to, used))
            .map(Some)
            .ok_or_else(|| self.full(used))
    }

    /// The place of an address in its range.
    fn place(&self, address: IpAddr) -> Option<u128> {
        self.ranges.iter().find_map(|range| offset(range, address))
    }

    fn full(&self, used: &BTreeSet<IpAddr>) -> PoolError {
        let inside = |address: &&IpAddr| self.ranges.iter().any(|range| range.contains(&**address));
        PoolError::Full {
            ranges: self.ranges.clone(),
            used: used.iter().filter(inside).count() as u128,
            size: self.ranges.iter().map(size).sum(),
        }
    }
}

fn size(range: &IpNet) -> u128 {
    let usable = usable(range);
    usable.end - usable.start
}

/// The first free address of a range from one place up to before another. It looks at no more
/// places than there are addresses in use, and one.
fn free(range: &IpNet, from: u128, to: u128, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let usable = usable(range);
    (usable.start.max(from)..usable.end.min(to))
        .map(|at| address(range, at))
        .find(|address| !used.contains(address))
}

/// The places that containers may have. Not the network's own address (in IPv6 the routers'
/// anycast address, RFC 4291 section 2.6.1), not the first behind it, which is the node's, and not
/// IPv4's broadcast address. At most 2^32 of an IPv6 range, which leaves the reserved anycast
/// addresses at its end alone (RFC 2526).
fn usable(range: &IpNet) -> std::ops::Range<u128> {
    let size = 1_u128 << u32::from(range.max_prefix_len() - range.prefix_len()).min(32);
    let end = match range {
        IpNet::V4(net) if net.prefix_len() < 31 => size - 1,
        _ => size,
    };
    2.min(end)..end
}

fn address(range: &IpNet, at: u128) -> IpAddr {
    match range {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + at as u32).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + at).into()),
    }
}

fn offset(range: &IpNet, address: IpAddr) -> Option<u128> {
    match (range, address) {
        (IpNet::V4(net), IpAddr::V4(ip)) if net.contains(&ip) => {
            Some(u128::from(u32::from(ip) - u32::from(net.network())))
        }
        (IpNet::V6(net), IpAddr::V6(ip)) if net.contains(&ip) => {
            Some(u128::from(ip) - u128::from(net.network()))
        }
        _ => None,
    }
}

fn subject(ranges: &[IpNet]) -> String {
    let names: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [one] => format!("range {one} is"),
        many => format!("ranges {} are", many.join(" + ")),
    }
}

#[cfg(test)]
mod tests;
