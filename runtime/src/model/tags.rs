//! How is an instance labelled? Names with values, given at its start.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Labels of an instance: at most 16 names with a value each, by name. A name has 1 to 64 letters, digits, `-`, `_` and `.`; a
/// value at most 256 bytes. Case counts. So they stay a small part of an instance's row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<String, String>);

/// Labels that break the rules; one sentence that tells the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TagError(String);

const COUNT_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 256;

impl Tags {
    /// These labels.
    ///
    /// # Errors
    /// If one breaks the rules, if a name comes twice, or if they are too many.
    pub fn new(tags: impl IntoIterator<Item = (String, String)>) -> Result<Self, TagError> {
        let refuse = |message: String| Err(TagError(message));
        let mut taken = BTreeMap::new();
        for (name, value) in tags {
            let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !is_name {
                return refuse(format!(
                    "the name of tag {name:?} must be 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'"
                ));
            }
            if value.len() > VALUE_BYTES_MAX {
                return refuse(format!("the value of tag {name:?} has {} bytes, and may have {VALUE_BYTES_MAX}", value.len()));
            }
            if taken.contains_key(&name) {
                return refuse(format!("tag {name:?} is given twice"));
            }
            if taken.len() == COUNT_MAX {
                return refuse(format!("an instance may have {COUNT_MAX} tags, and no more"));
            }
            taken.insert(name, value);
        }
        Ok(Self(taken))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether all of `wanted` are among these.
    pub fn contain(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::<String, String>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tags: impl IntoIterator<Item = (String, String)>, expected: Result<usize, &str>) {
        let taken = Tags::new(tags).map(|tags| tags.iter().count()).map_err(|error| error.to_string());
        assert_eq!(taken.as_ref().map(|count| *count).map_err(String::as_str), expected);
    }

    #[test]
    fn labels_are_few_and_short() {
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        check([tag("shop", "north"), tag("a-b_c.9", "")], Ok(2));
        check([tag("", "x")], Err("the name of tag \"\" must be 1 to 64 letters, digits, '-', '_' or '.'"));
        check([tag("a b", "x")], Err("the name of tag \"a b\" must be 1 to 64 letters, digits, '-', '_' or '.'"));
        check([tag("a", &"x".repeat(256))], Ok(1));
        check([tag("a", &"x".repeat(257))], Err("the value of tag \"a\" has 257 bytes, and may have 256"));
        check([tag("a", "1"), tag("a", "2")], Err("tag \"a\" is given twice"));
        check((0..16).map(|n| tag(&n.to_string(), "")), Ok(16));
        check((0..17).map(|n| tag(&n.to_string(), "")), Err("an instance may have 16 tags, and no more"));
    }

    #[test]
    fn labels_are_found_among_others() {
        let tags = |tags: &[(&str, &str)]| Tags::new(tags.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))).unwrap();
        let all = tags(&[("shop", "north"), ("kind", "rye")]);
        assert!(all.contain(&tags(&[])) && all.contain(&tags(&[("kind", "rye")])) && all.contain(&all));
        assert!(!all.contain(&tags(&[("kind", "Rye")])) && !all.contain(&tags(&[("size", "rye")])));
    }
}
