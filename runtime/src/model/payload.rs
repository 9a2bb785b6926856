//! How does a user's JSON pass through without being touched? As the text it came in.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

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

    /// Takes a text that has to be exactly one JSON value (RFC 8259); blanks around it are dropped.
    ///
    /// # Errors
    /// Says where the text stops being JSON.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(|raw| Self(raw.into()))
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
    fn what_is_not_one_json_value_is_refused() {
        for text in ["", "{", "1 2", "{'a':1}", "nul", "// x\n1"] {
            assert!(Payload::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
