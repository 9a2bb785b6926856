//! How is JSON shown to people? As it was written, its keys in their order, lines no longer than a terminal's, and, where
//! somebody asks for it, with long texts and lists cut short.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What fits on a line is not broken, in characters.
const LINE_CHARS_MAX: usize = 100;

/// A text longer than this is cut short, to about this, in characters.
const TEXT_CHARS_MAX: usize = 100;

/// A list or object with more parts than this is cut short, to this many.
const PARTS_MAX: usize = 4;

/// JSON for people.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    /// A text, number, `true`, `false`, `null`, or what stands for something that was cut out.
    Leaf(String),
    /// A list.
    List(Vec<Json>),
    /// An object. Each key is a JSON text with a colon behind it; empty before what stands for something that was cut out.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads JSON text.
    pub(super) fn parse(text: &str) -> serde_json::Result<Self> {
        let text = text.trim();
        Ok(match text.bytes().next() {
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                Self::List(items.into_iter().map(|item| Self::parse(item.get())).collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let Entries(entries) = serde_json::from_str(text)?;
                let entry = |(key, value): (String, &RawValue)| {
                    Ok((format!("{}: ", serde_json::to_string(&key)?), Self::parse(value.get())?))
                };
                Self::Object(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
            }
            _ => Self::Leaf(serde_json::from_str::<&RawValue>(text)?.get().to_owned()),
        })
    }

    /// The same with long texts, lists and objects cut short; each cut says how much is missing.
    pub(super) fn shortened(self) -> Self {
        match self {
            Self::Leaf(text) => match text.char_indices().nth(TEXT_CHARS_MAX) {
                Some((end, _)) if text.starts_with('"') => Self::Leaf(cut(&text, end)),
                _ => Self::Leaf(text),
            },
            Self::List(items) => {
                let items = items.into_iter().map(Self::shortened).collect();
                Self::List(without_middle(items, |missing| Self::Leaf(format!("… {missing} more …"))))
            }
            Self::Object(entries) => {
                let entries = entries.into_iter().map(|(key, value)| (key, value.shortened()));
                // The few keys of an event are what is to be seen; those of a map are data.
                let many = entries.len() > 3 * PARTS_MAX;
                let stands_for = |missing| (String::new(), Self::Leaf(format!("… {missing} more …")));
                let entries: Vec<_> = entries.collect();
                Self::Object(if many { without_middle(entries, stands_for) } else { entries })
            }
        }
    }

    /// Writes it, the first line behind `used` characters and the others indented by `indent`.
    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize, used: usize) -> fmt::Result {
        let flat = self.flat();
        // One for the comma.
        if used + flat.chars().count() < LINE_CHARS_MAX {
            return f.write_str(&flat);
        }
        let inner = indent + 2;
        match self {
            Self::Leaf(text) => f.write_str(text),
            Self::List(items) => {
                let parts = items.iter().map(|item| ("", item));
                write_parts(f, '[', parts, ']', inner)
            }
            Self::Object(entries) => {
                let parts = entries.iter().map(|(key, value)| (key.as_str(), value));
                write_parts(f, '{', parts, '}', inner)
            }
        }
    }

    /// All on one line.
    fn flat(&self) -> String {
        match self {
            Self::Leaf(text) => text.clone(),
            Self::List(items) => format!("[{}]", items.iter().map(Self::flat).collect::<Vec<_>>().join(", ")),
            Self::Object(entries) if entries.is_empty() => "{}".into(),
            Self::Object(entries) => {
                let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{key}{}", value.flat())).collect();
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0, 0)
    }
}

fn write_parts<'a>(
    f: &mut fmt::Formatter<'_>,
    open: char,
    parts: impl Iterator<Item = (&'a str, &'a Json)>,
    close: char,
    indent: usize,
) -> fmt::Result {
    write!(f, "{open}")?;
    for (number, (key, value)) in parts.enumerate() {
        write!(f, "{}\n{:indent$}{key}", if number == 0 { "" } else { "," }, "")?;
        value.write(f, indent, indent + key.chars().count())?;
    }
    write!(f, "\n{:outer$}{close}", "", outer = indent - 2)
}

/// The beginning of a JSON text, up to its byte `end`, and how much is missing.
fn cut(text: &str, end: usize) -> String {
    // Not between a backslash and what it escapes.
    let kept = text[..end].trim_end_matches('\\');
    let missing = text[kept.len()..].chars().count() - 1; // The quotation mark is written again.
    format!("{kept}\" … {missing} more characters …")
}

/// The first and the last parts, if there are many, with what `stands_for` so many others between them.
fn without_middle<T>(mut parts: Vec<T>, stands_for: impl Fn(usize) -> T) -> Vec<T> {
    // What stands for a single one is no shorter than it.
    if parts.len() > PARTS_MAX + 1 {
        let missing = parts.len() - PARTS_MAX;
        let middle = PARTS_MAX - 1..parts.len() - 1;
        parts.splice(middle, [stands_for(missing)]);
    }
    parts
}

/// The entries of an object in their order.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_shown(text: &str, expected: &str) {
        assert_eq!(Json::parse(text).unwrap().to_string(), expected);
    }

    fn check_shortened(text: &str, expected: &str) {
        assert_eq!(Json::parse(text).unwrap().shortened().to_string(), expected);
    }

    #[test]
    fn what_fits_stays_on_a_line_with_its_keys_in_order_and_its_numbers_as_written() {
        check_shown(
            r#" {"b":1.50,"a":[ 1e3,"x\n",null ],"":{}, "c":[]} "#,
            r#"{ "b": 1.50, "a": [1e3, "x\n", null], "": {}, "c": [] }"#,
        );
        assert!(Json::parse("{\"a\":}").is_err() && Json::parse("").is_err() && Json::parse("1 2").is_err());
    }

    #[test]
    fn what_does_not_fit_is_broken_at_the_outside_first() {
        let (a, b) = ("a".repeat(60), "b".repeat(60));
        check_shown(
            &format!(r#"{{"list":["{a}","{b}",{{"c":1}}],"d":2}}"#),
            &format!("{{\n  \"list\": [\n    \"{a}\",\n    \"{b}\",\n    {{ \"c\": 1 }}\n  ],\n  \"d\": 2\n}}"),
        );
    }

    #[test]
    fn what_is_long_is_cut_short_and_says_by_how_much() {
        check_shortened("[1,2,3,4]", "[1, 2, 3, 4]");
        check_shortened("[1,2,3,4,5,6]", "[1, 2, 3, … 2 more …, 6]");
        let long = |chars: usize| format!("\"{}\"", "ü".repeat(chars));
        check_shortened(&long(98), &long(98));
        check_shortened(&long(150), &format!("{} … 51 more characters …", long(99)));
        let escaped = format!("\"{}\\n\"", "x".repeat(98));
        check_shortened(&escaped, &format!("\"{}\" … 2 more characters …", "x".repeat(98)));
        let map: Vec<_> = (0..13).map(|n| format!("\"k{n}\":{n}")).collect();
        check_shortened(&format!("{{{}}}", map.join(",")), r#"{ "k0": 0, "k1": 1, "k2": 2, … 9 more …, "k12": 12 }"#);
    }
}
