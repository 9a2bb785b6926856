//! How does a user's JSON pass through without being touched? As the text it came in.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// How deep a value may be nested: as deep as guests in Rust can read it (the bound of serde_json). Clients of other languages have bounds of the
/// same kind, and one instance must not spoil a list for them.
pub const DEPTH_MAX: usize = 127;

/// One JSON value as the text it arrived in: numbers, key order and blanks inside stay as they are.
///
/// Cheap to clone. Two payloads are equal if their texts are.
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// The JSON value `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// Takes a text that has to be exactly one JSON value (RFC 8259), nested at most [`DEPTH_MAX`] deep; blanks around it are dropped.
    ///
    /// # Errors
    /// Says where the text stops being JSON, or how deep it may be.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        let raw = RawValue::from_string(text)?;
        if depth(raw.get()) > DEPTH_MAX {
            let message = format!("a JSON value may have lists and objects at most {DEPTH_MAX} deep in one another");
            return Err(serde::de::Error::custom(message));
        }
        Ok(Self(raw.into()))
    }

    /// Prints `value` as JSON.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        let raw = serde_json::value::to_raw_value(value).expect("our own types have string keys and print without errors");
        Self(raw.into())
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

/// How deep lists and objects are nested in a text that is JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut is_escaped) = (0, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true, // JSON has it in texts only.
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth -= 1,
            _ => (),
        }
    }
    deepest
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_keeps_big_numbers_key_order_and_blanks() {
        for text in ["12345678901234567890123", r#"{"b":1, "a":  2}"#, "1.0e+2", "\"\\u00e9\"", "null"] {
            let payload = Payload::parse(format!(" \n{text} ")).unwrap();
            assert_eq!(payload.text(), text);
            let inside = serde_json::to_string(&[&payload]).unwrap();
            assert_eq!(inside, format!("[{text}]"));
            let [back]: [Payload; 1] = serde_json::from_str(&inside).unwrap();
            assert_eq!(back, payload);
        }
    }

    #[test]
    fn a_value_is_as_deep_as_others_can_read_it() {
        let nested = |depth: usize| format!("{}\"]{{\\\"[\"{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2));
        for (depth, expected) in [(0, true), (126, true), (128, false), (200_000, false)] {
            assert_eq!(Payload::parse(nested(depth)).is_ok(), expected, "{depth}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&nested(depth)).is_ok(), expected, "{depth}");
        }
        assert!(Payload::parse("[{}, [[]], {}]".into()).is_ok());
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for text in ["", "{", "1 2", "{'a':1}", "nul", "// x\n1"] {
            assert!(Payload::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
