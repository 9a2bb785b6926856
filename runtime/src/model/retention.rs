//! How long is what has ended kept? As the configuration says it: an age for each status, in each task hub.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::RuntimeStatus;

/// For how long instances are kept after they have ended. What is absent is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Those that have completed.
    pub completed: Option<Kept>,
    /// Those that have failed.
    pub failed: Option<Kept>,
    /// Those that were terminated.
    pub terminated: Option<Kept>,
    /// Those of which nothing else is said.
    pub all: Option<Kept>,
}

/// How long something is kept: `"forever"`, or a number with a unit, as in `"90s"`, `"30m"`, `"12h"` or `"30d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Until somebody takes it away.
    Forever,
    /// For so many milliseconds.
    Ms(u64),
}

impl Retention {
    /// How long an instance is kept that has ended like this, in milliseconds. `None` for ever, which also holds if nothing is said.
    pub fn ms(&self, status: RuntimeStatus) -> Option<u64> {
        let said = match status {
            RuntimeStatus::Completed => self.completed,
            RuntimeStatus::Failed => self.failed,
            RuntimeStatus::Terminated => self.terminated,
            RuntimeStatus::Running | RuntimeStatus::Pending | RuntimeStatus::Suspended => return None,
        };
        match said.or(self.all) {
            Some(Kept::Ms(ms)) => Some(ms),
            Some(Kept::Forever) | None => None,
        }
    }

    /// The same, and what `others` says where this one says nothing.
    pub fn or(self, others: Self) -> Self {
        // What a hub says of all its instances stands above what is said of one status for all hubs.
        let either = |own: Option<Kept>, other: Option<Kept>| own.or(self.all).or(other);
        Self {
            completed: either(self.completed, others.completed),
            failed: either(self.failed, others.failed),
            terminated: either(self.terminated, others.terminated),
            all: self.all.or(others.all),
        }
    }

    /// The shortest that anything is kept, in milliseconds. `None` if everything is kept for ever.
    pub fn shortest_ms(&self) -> Option<u64> {
        RuntimeStatus::ALL.into_iter().filter_map(|status| self.ms(status)).min()
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let parsed = text.char_indices().last().and_then(|(at, unit)| {
            let unit_ms: u64 = match unit {
                's' => 1_000,
                'm' => 60_000,
                'h' => 3_600_000,
                'd' => 86_400_000,
                _ => return None,
            };
            text[..at].parse::<u64>().ok()?.checked_mul(unit_ms)
        });
        let ms = parsed.filter(|_| !text.starts_with('+'));
        ms.map(Self::Ms)
            .ok_or_else(|| format!("{text:?} is no time to keep something: write \"forever\", or 90s, 30m, 12h or 30d"))
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Retention {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_time_to_keep_something_has_a_unit() {
        let ms = |text: &str| text.parse::<Kept>().map(|kept| if let Kept::Ms(ms) = kept { ms } else { u64::MAX });
        for (text, expected) in
            [("0s", 0), ("90s", 90_000), ("30m", 1_800_000), ("12h", 43_200_000), ("30d", 2_592_000_000), ("forever", u64::MAX)]
        {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for text in
            ["", "d", "30", "30 d", "-1d", "+1d", "1.5h", "2w", "ü", "99999999999999999999d", "9999999999999999d", "Forever"]
        {
            assert!(ms(text).unwrap_err().contains("forever"), "{text}");
        }
        assert!(toml::from_str::<Retention>("complete = '1d'").unwrap_err().to_string().contains("unknown field `complete`"));
    }

    #[test]
    fn a_hub_stands_above_the_default_and_a_status_above_all() {
        let check = |hub: &str, all: &str, expected: [Option<u64>; 3]| {
            let retention = read(hub).or(read(all));
            let ended = [RuntimeStatus::Completed, RuntimeStatus::Failed, RuntimeStatus::Terminated];
            assert_eq!(ended.map(|status| retention.ms(status)), expected, "{hub:?} or {all:?}");
        };
        check("", "", [None; 3]);
        check("all = '1s'", "", [Some(1_000); 3]);
        check("all = '1s'\ncompleted = '2s'", "failed = '3s'", [Some(2_000), Some(1_000), Some(1_000)]);
        check("completed = 'forever'", "all = '4s'", [None, Some(4_000), Some(4_000)]);
        check("", "all = '4s'\nterminated = '5s'", [Some(4_000), Some(4_000), Some(5_000)]);
        assert_eq!(read("all = '4s'\nfailed = '1s'").ms(RuntimeStatus::Running), None);
        assert_eq!(read("all = '4s'\nfailed = '1s'").shortest_ms(), Some(1_000));
        assert_eq!(read("all = 'forever'").shortest_ms(), None);
    }
}
