//! Names under `in-addr.arpa` and `ip6.arpa` as networks, and back. Stricter than a parser of
//! addresses must be: one network has one name, so `01.10.in-addr.arpa` is nobody's.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What a reverse name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The longest network that the name spells out.
    pub(crate) net: IpNet,
    /// Whether no label is left below the network.
    pub(crate) whole: bool,
}

/// Reads a reverse name; `None` for any other name.
pub(crate) fn parse(name: &Name) -> Option<Reverse> {
    let mut labels = name.iter().rev();
    if !labels.next()?.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let family = labels.next()?;
    let mut labels = labels.peekable();
    let net = if family.eq_ignore_ascii_case(b"in-addr") {
        let mut octets = [0; 4];
        let mut given = 0;
        while given < 4 {
            let Some(value) = labels.peek().and_then(|label| octet(label)) else {
                break;
            };
            octets[usize::from(given)] = value;
            given += 1;
            labels.next();
        }
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from(octets), given * 8).ok()?)
    } else if family.eq_ignore_ascii_case(b"ip6") {
        let mut bits = 0u128;
        let mut given = 0;
        while given < 32 {
            let Some(value) = labels.peek().and_then(|label| nibble(label)) else {
                break;
            };
            given += 1;
            bits |= value << (128 - 4 * u32::from(given));
            labels.next();
        }
        IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bits), given * 4).ok()?)
    } else {
        return None;
    };
    let whole = labels.next().is_none();
    Some(Reverse { net, whole })
}

/// The top of the reverse zone that holds `name`, when `range` is one of ours and holds its
/// network: the range's name, cut finer to whole labels (a /12 is sixteen zones).
pub(crate) fn apex(name: &Name, range: &IpNet) -> Name {
    let bits = match range {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    name.trim_to(2 + usize::from(range.prefix_len().div_ceil(bits)))
}

fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    if plain && canonical {
        text.parse().ok()
    } else {
        None
    }
}

fn nibble(label: &[u8]) -> Option<u128> {
    match label {
        [digit] => char::from(*digit).to_digit(16).map(u128::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_reverse_name_is_read_as_far_as_it_is_a_network() {
        let cases = [
            ("4.3.2.1.in-addr.arpa.", Some(("1.2.3.4/32", true))),
            ("2.1.IN-ADDR.ARPA.", Some(("1.2.0.0/16", true))),
            ("in-addr.arpa.", Some(("0.0.0.0/0", true))),
            ("x.4.3.2.1.in-addr.arpa.", Some(("1.2.3.4/32", false))),
            ("5.4.3.2.1.in-addr.arpa.", Some(("1.2.3.4/32", false))),
            ("04.3.2.1.in-addr.arpa.", Some(("1.2.3.0/24", false))),
            ("256.10.in-addr.arpa.", Some(("10.0.0.0/8", false))),
            ("d.f.ip6.arpa.", Some(("fd00::/8", true))),
            ("dd.f.ip6.arpa.", Some(("f000::/4", false))),
            ("arpa.", None),
            ("web.weft.local.", None),
        ];
        for (text, want) in cases {
            let want = want.map(|(net, whole)| Reverse {
                net: net.parse().unwrap(),
                whole,
            });
            assert_eq!(parse(&Name::from_ascii(text).unwrap()), want, "{text}");
        }
    }

    #[test]
    fn an_address_survives_its_name() {
        for text in ["10.32.0.1", "255.0.255.0", "fd12:3456::9", "::"] {
            let address: IpAddr = text.parse().unwrap();
            let reverse = parse(&Name::from(address)).unwrap();
            assert!(reverse.whole);
            assert_eq!(reverse.net, IpNet::from(address));
        }
    }

    #[test]
    fn the_apex_is_the_range_cut_to_whole_labels() {
        let cases = [
            ("10.35.1.2", "10.32.0.0/12", "35.10.in-addr.arpa."),
            ("10.35.1.2", "10.35.1.0/24", "1.35.10.in-addr.arpa."),
            ("fd00::1", "fd00::/47", "0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa."),
        ];
        for (address, range, want) in cases {
            let name = Name::from(address.parse::<IpAddr>().unwrap());
            let range: IpNet = range.parse().unwrap();
            assert_eq!(apex(&name, &range).to_ascii(), want);
        }
    }
}
