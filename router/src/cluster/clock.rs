//! Times as the API writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// `2026-11-25T02:03:04Z`
pub(super) fn rfc3339(since_1970: Duration) -> String {
    let (date, time) = split(since_1970);
    format!("{date}T{time}Z")
}

/// The same with microseconds, as Events have it.
pub(super) fn micro(since_1970: Duration) -> String {
    let (date, time) = split(since_1970);
    format!("{date}T{time}.{:06}Z", since_1970.subsec_micros())
}

fn split(since_1970: Duration) -> (String, String) {
    let seconds = since_1970.as_secs();
    // Counted from 0000-03-01, so that a leap day is the last of its year, in eras of 400 years.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    (
        format!("{year:04}-{month:02}-{day:02}"),
        format!("{hour:02}:{minute:02}:{second:02}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
        let micros = Duration::from_micros(1_000_007);
        assert_eq!(micro(micros), "1970-01-01T00:00:01.000007Z");
    }
}
