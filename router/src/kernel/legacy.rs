//! The tables of `iptables-legacy`, which nftables does not show: whether their FORWARD chain drops
//! what no rule of it accepts. Read by the socket options that `iptables-legacy` itself uses
//! (`linux/netfilter/x_tables.h`), never changed.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use rustix::fd::BorrowedFd;

use super::nft::foreign::ForeignFirewall;
use crate::host::LINK_PREFIX;

/// More of a table than this is not read.
const MAX_TABLE: usize = 16 << 20;
const TABLE: &[u8] = b"filter";
const FORWARD: usize = libc::NF_INET_FORWARD as usize;
const NAME: usize = 32;
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; those of IPv6 have the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// A verdict is its negative, less 1.
const DROP: i32 = -libc::NF_DROP - 1;
const ACCEPT: i32 = -libc::NF_ACCEPT - 1;

/// How one family lays its tables out.
struct Family {
    name: &'static str,
    /// Of the tables there are. Asking for one that is not there would make it.
    tables: &'static str,
    bind: &'static str,
    level: i32,
    entry: Entry,
}

/// Where the fields of `struct ipt_entry` and `ip6t_entry` are.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The names of two links, and their masks after them.
    links: usize,
    /// A number of 16 bits; another one, of where the next entry is, follows.
    target_offset: usize,
}

const V4: Entry = Entry {
    links: 16,
    target_offset: 88,
};
const V6: Entry = Entry {
    links: 64,
    target_offset: 140,
};
const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        tables: "/proc/thread-self/net/ip_tables_names",
        bind: "0.0.0.0:0",
        level: libc::IPPROTO_IP,
        entry: V4,
    },
    Family {
        name: "ip6",
        tables: "/proc/thread-self/net/ip6_tables_names",
        bind: "[::]:0",
        level: libc::IPPROTO_IPV6,
        entry: V6,
    },
];

/// The FORWARD chains that will drop pods' packets.
///
/// # Errors
/// When a table is there and cannot be read.
pub(crate) fn find() -> io::Result<Vec<ForeignFirewall>> {
    let mut found = Vec::new();
    for family in &FAMILIES {
        let names = fs::read_to_string(family.tables).unwrap_or_default();
        if names.lines().any(|name| name.as_bytes() == TABLE) && drops(family)? {
            found.push(ForeignFirewall::LegacyForwardDrops {
                family: family.name,
            });
        }
    }
    Ok(found)
}

fn drops(family: &Family) -> io::Result<bool> {
    // Of any kind: the options are the address family's.
    let socket = UdpSocket::bind(family.bind)?;
    let mut info = [0; INFO];
    info[..TABLE.len()].copy_from_slice(TABLE);
    get(socket.as_fd(), family.level, GET_INFO, &mut info)?;
    let Some(info) = Info::read(&info).filter(|info| info.size <= MAX_TABLE) else {
        return Ok(false);
    };
    let mut entries = vec![0; HEADER + info.size];
    entries[..TABLE.len()].copy_from_slice(TABLE);
    entries[NAME..NAME + 4].copy_from_slice(&(info.size as u32).to_ne_bytes());
    // Refused when the table changed in between: it is looked at again soon.
    get(socket.as_fd(), family.level, GET_ENTRIES, &mut entries)?;
    Ok(drops_pods(&entries[HEADER..], &info, family.entry))
}

/// `struct ipt_getinfo`: name, hooks, entries' and policies' offsets of five hooks, count, size.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// `struct ipt_get_entries` as far as its entries.
const HEADER: usize = NAME + 8;

/// Where the FORWARD chain begins, and where the entry is that is its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    begins: usize,
    policy: usize,
    size: usize,
}

impl Info {
    /// `None` where nothing hooks into FORWARD.
    fn read(bytes: &[u8]) -> Option<Self> {
        let hooks = u32_at(bytes, NAME)?;
        (hooks & (1 << FORWARD) != 0).then_some(())?;
        Some(Self {
            begins: u32_at(bytes, NAME + 4 + 4 * FORWARD)? as usize,
            policy: u32_at(bytes, NAME + 24 + 4 * FORWARD)? as usize,
            size: u32_at(bytes, NAME + 48)? as usize,
        })
    }
}

/// Whether the policy is to drop, and no rule before it accepts all of our links' packets.
fn drops_pods(entries: &[u8], info: &Info, layout: Entry) -> bool {
    if verdict(entries, info.policy, layout) != Some(DROP) {
        return false;
    }
    let mut at = info.begins;
    let (mut from, mut to) = (false, false);
    while at < info.policy {
        if verdict(entries, at, layout) == Some(ACCEPT) {
            from |= is_for_ours(entries, at + layout.links);
            to |= is_for_ours(entries, at + layout.links + LINK);
        }
        match next(entries, at, layout) {
            Some(next) if next > at => at = next,
            _ => break,
        }
    }
    !(from && to)
}

const LINK: usize = 16;

/// Whether the name of a link that a rule wants is the beginning of ours, `weft+`.
fn is_for_ours(entries: &[u8], at: usize) -> bool {
    let prefix = LINK_PREFIX.as_bytes();
    let name = entries.get(at..at + prefix.len());
    let mask = entries.get(at + 2 * LINK..at + 3 * LINK);
    // The mask of a whole name covers its end too.
    let is_prefix =
        mask.is_some_and(|mask| mask.iter().filter(|b| **b != 0).count() == prefix.len());
    name == Some(prefix) && is_prefix
}

/// The verdict of an entry's target, where it is the standard one.
fn verdict(entries: &[u8], at: usize, layout: Entry) -> Option<i32> {
    let target = at.checked_add(u16_at(entries, at.checked_add(layout.target_offset)?)?.into())?;
    // `struct xt_standard_target`: a size, a name that is empty, a revision, the verdict.
    let is_standard = *entries.get(target.checked_add(2)?)? == 0;
    let verdict = u32_at(entries, target.checked_add(32)?)?;
    is_standard.then_some(verdict.cast_signed())
}

fn next(entries: &[u8], at: usize, layout: Entry) -> Option<usize> {
    at.checked_add(u16_at(entries, at + layout.target_offset + 2)?.into())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[allow(unsafe_code)]
fn get(socket: BorrowedFd<'_>, level: i32, option: i32, value: &mut [u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what `value` has.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A rule of IPv4: the links it wants, and its verdict.
    fn entry(from: &str, to: &str, verdict: i32) -> Vec<u8> {
        let mut bytes = vec![0; 112 + 40];
        for (at, name) in [(V4.links, from), (V4.links + LINK, to)] {
            bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
            bytes[at + 2 * LINK..at + 2 * LINK + name.len()].fill(0xff);
        }
        bytes[88..90].copy_from_slice(&112u16.to_ne_bytes());
        bytes[90..92].copy_from_slice(&152u16.to_ne_bytes());
        bytes[112 + 32..112 + 36].copy_from_slice(&verdict.to_ne_bytes());
        bytes
    }

    fn drops_with(rules: &[(&str, &str, i32)]) -> bool {
        let entries: Vec<u8> = rules
            .iter()
            .flat_map(|(from, to, verdict)| entry(from, to, *verdict))
            .collect();
        let info = Info {
            begins: 0,
            policy: entries.len() - 152,
            size: entries.len(),
        };
        drops_pods(&entries, &info, V4)
    }

    #[test]
    fn a_policy_to_drop_is_in_the_way_until_our_links_are_accepted_both_ways() {
        let policy = ("", "", DROP);
        assert!(!drops_with(&[("", "", ACCEPT)]));
        assert!(drops_with(&[policy]));
        assert!(drops_with(&[("weft", "", ACCEPT), policy]));
        assert!(drops_with(&[
            ("weft", "", ACCEPT),
            ("", "weft", DROP),
            policy
        ]));
        assert!(drops_with(&[
            ("weft0", "", ACCEPT),
            ("", "weft0", ACCEPT),
            policy
        ]));
        assert!(!drops_with(&[
            ("weft", "", ACCEPT),
            ("", "weft", ACCEPT),
            policy
        ]));
    }

    proptest! {
        #[test]
        fn any_table_is_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..700),
            begins in 0usize..800,
            policy in 0usize..800,
        ) {
            let info = Info { begins, policy, size: bytes.len() };
            for layout in [V4, V6] {
                let _ = drops_pods(&bytes, &info, layout);
            }
            let _ = Info::read(&bytes);
        }

        #[test]
        fn any_walk_ends(lengths in proptest::collection::vec(0u16..200, 1..20)) {
            let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| {
                let mut one = entry("", "", ACCEPT);
                one[90..92].copy_from_slice(&length.to_ne_bytes());
                one
            }).collect();
            bytes.extend(entry("", "", DROP));
            let info = Info { begins: 0, policy: bytes.len() - 152, size: bytes.len() };
            prop_assert!(drops_pods(&bytes, &info, V4));
        }
    }
}
