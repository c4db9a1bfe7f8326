//! Which peer holds an address: one table for the whole device, the longest prefix wins.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Prefixes and the peer that holds each.
///
/// Invariant: a prefix has one holder.
#[derive(Clone)]
pub(super) struct AllowedIps<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self {
            v4: PrefixMap::new(),
            v6: PrefixMap::new(),
        }
    }
}

impl<T> AllowedIps<T> {
    /// Gives the prefix to `holder`, taking it from whoever held it.
    pub(super) fn insert(&mut self, prefix: IpNet, holder: T) {
        match prefix.trunc() {
            IpNet::V4(prefix) => self.v4.insert(prefix, holder),
            IpNet::V6(prefix) => self.v6.insert(prefix, holder),
        };
    }

    /// Whoever holds this very prefix.
    pub(super) fn holder(&self, prefix: IpNet) -> Option<&T> {
        match prefix.trunc() {
            IpNet::V4(prefix) => self.v4.get(&prefix),
            IpNet::V6(prefix) => self.v6.get(&prefix),
        }
    }

    /// Takes the prefix from whoever holds it.
    pub(super) fn remove(&mut self, prefix: IpNet) {
        match prefix.trunc() {
            IpNet::V4(prefix) => self.v4.remove(&prefix),
            IpNet::V6(prefix) => self.v6.remove(&prefix),
        };
    }

    /// Keeps the prefixes of which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(IpNet, &T) -> bool) {
        self.v4
            .retain(|prefix, holder| keep(IpNet::V4(*prefix), holder));
        self.v6
            .retain(|prefix, holder| keep(IpNet::V6(*prefix), holder));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self
            .v4
            .iter()
            .map(|(prefix, holder)| (IpNet::V4(prefix), holder));
        let v6 = self
            .v6
            .iter()
            .map(|(prefix, holder)| (IpNet::V6(prefix), holder));
        v4.chain(v6)
    }

    /// The holder of the longest prefix that contains the address.
    pub(super) fn longest_match(&self, address: IpAddr) -> Option<(u8, &T)> {
        match address {
            IpAddr::V4(address) => {
                let (prefix, holder) = self.v4.get_lpm(&Ipv4Net::from(address))?;
                Some((prefix.prefix_len(), holder))
            }
            IpAddr::V6(address) => {
                let (prefix, holder) = self.v6.get_lpm(&Ipv6Net::from(address))?;
                Some((prefix.prefix_len(), holder))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_moves_to_its_new_holder() {
        let mut table = AllowedIps::default();
        table.insert("10.1.2.3/16".parse().unwrap(), 1);
        table.insert("10.1.0.0/16".parse().unwrap(), 2);
        assert_eq!(
            table.iter().collect::<Vec<_>>(),
            [("10.1.0.0/16".parse().unwrap(), &2)]
        );
    }

    #[test]
    fn the_narrower_prefix_of_another_peer_wins() {
        let mut table = AllowedIps::default();
        table.insert("fd00::/16".parse().unwrap(), 1);
        table.insert("fd00:1::/32".parse().unwrap(), 2);
        let holder = |address: &str| table.longest_match(address.parse().unwrap());
        assert_eq!(holder("fd00:1::5"), Some((32, &2)));
        assert_eq!(holder("fd00:2::5"), Some((16, &1)));
        assert_eq!(holder("fe00::1"), None);
        assert_eq!(holder("10.0.0.1"), None);
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_looking_at_every_prefix(
            prefixes in prop::collection::btree_map((any::<u16>(), 0_u8..=32), any::<u8>(), 0..40),
            addresses in prop::collection::vec(any::<u16>(), 1..40),
        ) {
            let spread = |bits: u16| Ipv4Addr::from(u32::from(bits) * 0x0001_0001);
            let mut table = AllowedIps::default();
            let mut slow = Vec::new();
            for ((bits, length), holder) in prefixes {
                let prefix = Ipv4Net::new_assert(spread(bits), length).trunc();
                table.insert(prefix.into(), holder);
                slow.retain(|&(other, _)| other != prefix);
                slow.push((prefix, holder));
            }
            for address in addresses.into_iter().map(spread) {
                let expected = slow
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address))
                    .max_by_key(|(prefix, _)| prefix.prefix_len())
                    .map(|(prefix, holder)| (prefix.prefix_len(), holder));
                prop_assert_eq!(table.longest_match(address.into()), expected);
            }
        }
    }
}
