//! How do people write times on a command line, and what does the server's text say in milliseconds?

use std::time::{Duration, Instant};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// What a moment may look like, for help texts.
pub(super) const FORMS: &str = "\
Times are dates (2026-03-01), times (2026-03-01T08:00, in UTC unless there is +02:00 or the like
behind it), or how long ago: 90s, 30m, 2h, 7d.";

/// A point in time: a date, a time, or how long before now.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text.trim(), Timestamp::now())
}

fn moment_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(timestamp) = text.parse() {
        return Ok(timestamp);
    }
    // A date alone is its midnight.
    if let Ok(zoned) = text.parse::<DateTime>().and_then(|local| local.to_zoned(TimeZone::UTC)) {
        return Ok(zoned.timestamp());
    }
    let ago = text.char_indices().last().and_then(|(at, unit)| {
        let unit_s = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let count: u32 = text[..at].parse().ok()?;
        now.checked_sub(SignedDuration::from_secs(i64::from(count) * unit_s)).ok()
    });
    ago.ok_or_else(|| "write a date such as 2026-03-01, a time such as 2026-03-01T08:00:00Z, or how long ago, such as 2h".into())
}

/// A time to wait: seconds, with a fraction or without.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "write a number of seconds, such as 30 or 0.5".into())
}

/// When `wait` is over; `None` if that is never.
pub(super) fn deadline(wait: Duration) -> Option<Instant> {
    Instant::now().checked_add(wait)
}

/// A time as the server writes it, in milliseconds since 1970.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let timestamp: Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-03-10T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            ("2026-03-01T08:00", "2026-03-01T08:00:00Z"),
            ("2026-03-01 08:00:30.5", "2026-03-01T08:00:30.5Z"),
            ("2026-03-01T08:00:00+02:00", "2026-03-01T06:00:00Z"),
            ("2026-03-01T08:00:00Z", "2026-03-01T08:00:00Z"),
            ("90s", "2026-03-10T11:58:30Z"),
            ("2h", "2026-03-10T10:00:00Z"),
            ("7d", "2026-03-03T12:00:00Z"),
        ] {
            assert_eq!(moment_at(text, now).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "h", "yesterday", "-2h", "2w", "99999999999d", "4294967295d", "2026-13-01"] {
            assert!(moment_at(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wait_is_a_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(["", "-1", "inf", "NaN", "1e300", "2m"].iter().all(|text| seconds(text).is_err()));
        assert_eq!(deadline(Duration::MAX), None);
    }

    #[test]
    fn the_servers_times_have_a_fraction_or_none() {
        assert_eq!(milliseconds("1970-01-01T00:00:01Z"), Some(1_000));
        assert_eq!(milliseconds("1970-01-01T00:00:01.2345678Z"), Some(1_234));
        assert_eq!(milliseconds("soon"), None);
    }
}
