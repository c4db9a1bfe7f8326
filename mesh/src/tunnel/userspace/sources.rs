//! How many handshakes each source is granted under load. The cookie proves an address (section 5.3
//! of the WireGuard paper), and what it costs us is bounded for each that is proven, as the kernel's
//! WireGuard does it: 20 initiations a second and 5 at once, of an IPv4 address or an IPv6 /64.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::identity::HANDSHAKES;

const SECOND: Duration = Duration::from_millis(1_100);
/// The time for which one initiation counts.
const INTERVAL: Duration = Duration::from_millis(50);
/// How far ahead of that a source may be.
const BURST: Duration = INTERVAL.saturating_mul(4);
/// Sources that are remembered at a time. Who finds no place is refused until one is free.
const MOST: usize = 8_192;

/// The sources of the last moments, and the handshakes of this second.
#[derive(Default)]
pub(super) struct Sources {
    second: Option<Instant>,
    seen: u64,
    /// When each will have used up what it took.
    until: HashMap<IpAddr, Instant>,
}

impl Sources {
    /// Whether a second is over, and another begins. To be asked with each tick; boringtun's own count
    /// begins anew with this one, which is a little longer than its second.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        if self.second.is_some_and(|began| now < began + SECOND) {
            return false;
        }
        self.second = Some(now);
        self.seen = 0;
        self.until.retain(|_, until| *until > now);
        true
    }

    /// Counts a handshake message with a right first MAC; whether cookies are demanded.
    pub(super) fn count(&mut self) -> bool {
        self.seen += 1;
        self.seen > HANDSHAKES
    }

    /// Whether an initiation from there, whose address is proven, is to be looked at.
    pub(super) fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = network(source);
        let until = self.until.get(&source).copied();
        if until.is_none() && self.until.len() >= MOST {
            return false;
        }
        let until = until.map_or(now, |until| until.max(now));
        if until > now + BURST {
            return false;
        }
        self.until.insert(source, until + INTERVAL);
        true
    }
}

/// What one customer of a provider has: an IPv4 address, an IPv6 /64.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(
        sources: &mut Sources,
        source: &str,
        tries: u32,
        over: Duration,
        from: Instant,
    ) -> u32 {
        let source = source.parse().expect("an address");
        let tried = (0..tries).map(|number| from + over * number / tries);
        tried
            .map(|now| u32::from(sources.admits(source, now)))
            .sum()
    }

    #[test]
    fn a_source_has_five_at_once_and_twenty_a_second() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        assert_eq!(
            admitted(&mut sources, "192.0.2.1", 1000, Duration::ZERO, now),
            5
        );
        assert_eq!(
            admitted(&mut sources, "192.0.2.2", 1000, Duration::ZERO, now),
            5
        );
        let later = now + Duration::from_secs(10);
        let seen = admitted(
            &mut sources,
            "192.0.2.1",
            10_000,
            Duration::from_secs(10),
            later,
        );
        assert!((200..=205).contains(&seen), "{seen}");
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let seen: u32 = (1..=100)
            .map(|host| {
                admitted(
                    &mut sources,
                    &format!("2001:db8::{host:x}"),
                    1,
                    Duration::ZERO,
                    now,
                )
            })
            .sum();
        assert_eq!(seen, 5);
        assert_eq!(
            admitted(&mut sources, "2001:db8:0:1::1", 1, Duration::ZERO, now),
            1
        );
        // A socket of both families sees IPv4 so.
        assert_eq!(
            admitted(&mut sources, "192.0.2.1", 9, Duration::ZERO, now),
            5
        );
        assert_eq!(
            admitted(&mut sources, "::ffff:192.0.2.1", 9, Duration::ZERO, now),
            0
        );
    }

    #[test]
    fn many_sources_take_bounded_room_and_make_place_again() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        for number in 0..2 * MOST as u32 {
            sources.admits(IpAddr::V4(number.into()), now);
        }
        assert_eq!(sources.until.len(), MOST);
        assert!(!sources.admits(IpAddr::V4(u32::MAX.into()), now));
        let later = now + Duration::from_secs(2);
        assert!(sources.turn(later));
        assert!(sources.admits(IpAddr::V4(u32::MAX.into()), later));
    }

    #[test]
    fn load_is_counted_by_the_second() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        assert!(sources.turn(now));
        assert!((0..HANDSHAKES).all(|_| !sources.count()));
        assert!(!sources.turn(now + Duration::from_millis(900)));
        assert!(sources.count());
        assert!(sources.turn(now + SECOND));
        assert!(!sources.count());
    }
}
