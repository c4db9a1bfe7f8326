//! Values that serde and clap read from the same text by the same rule.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

pub(super) fn parse<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(Error::custom)
}

/// A whole number in a range; an error says the range.
struct Ranged {
    least: u32,
    most: u32,
}

impl Visitor<'_> for Ranged {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.least, self.most)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
        let inside = |n: &u32| (self.least..=self.most).contains(n);
        let found = u32::try_from(number).ok().filter(inside);
        found.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.visit_i64(number)
    }
}

fn ranged<'de, D: Deserializer<'de>>(d: D, least: u32, most: u32) -> Result<Option<u32>, D::Error> {
    d.deserialize_i64(Ranged { least, most }).map(Some)
}

pub(super) fn port<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    Ok(ranged(d, 1, 65535)?.and_then(|n| u16::try_from(n).ok()))
}

pub(super) fn node_prefix<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u8>, D::Error> {
    Ok(ranged(d, 17, 28)?.and_then(|n| u8::try_from(n).ok()))
}

pub(super) fn mtu<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    ranged(d, 1340, 65535)
}

pub(super) fn mark<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    ranged(d, 1, u32::MAX)
}

pub(super) fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 200 && name.split('.').all(label) {
        return Ok(name);
    }
    Err(format!(
        "{text:?} is no domain: labels of a-z, 0-9 and '-', 200 characters at most"
    ))
}

pub(super) fn domain_setting<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    domain(&String::deserialize(d)?)
        .map(Some)
        .map_err(Error::custom)
}

pub(super) fn upstream(text: &str) -> Result<SocketAddr, String> {
    text.parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, 53))
        .or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is no DNS server: IP or IP:PORT"))
}

pub(super) fn upstreams<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts
        .iter()
        .map(|t| upstream(t))
        .collect::<Result<_, _>>()
        .map(Some)
        .map_err(Error::custom)
}
