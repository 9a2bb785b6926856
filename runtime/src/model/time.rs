//! How is a time written for clients and people? ISO 8601 in UTC with `Z`; inside it is milliseconds since 1970.

use jiff::Timestamp;

/// Whole seconds, the fraction cut and not rounded: the times of a status.
pub fn whole_seconds(ms: u64) -> String {
    timestamp(ms - ms % 1_000).to_string()
}

/// With the fraction, without the zeros at its end: the times of the history.
pub fn exact(ms: u64) -> String {
    timestamp(ms).to_string()
}

/// A time past the year 9999 is shown as the last one that has a name.
fn timestamp(ms: u64) -> Timestamp {
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_or_without_their_fraction() {
        for (ms, seconds, full) in [
            (0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            (1_772_352_000_120, "2026-03-01T08:00:00Z", "2026-03-01T08:00:00.12Z"),
            (1_772_352_002_999, "2026-03-01T08:00:02Z", "2026-03-01T08:00:02.999Z"),
        ] {
            assert_eq!((whole_seconds(ms), exact(ms)), (seconds.into(), full.into()));
        }
        assert!(exact(u64::MAX).starts_with("9999-"));
    }
}
