//! When are two starts one and the same? When their caller gives them the same key, and they ask for the same.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use super::id::NameError;
use super::{Digest, HubName, InstanceId, Payload};

/// What a caller repeats with a start that may have gone through: 1 to 255 printable ASCII characters. Case counts.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(Arc<str>);

/// What is kept of a start with a key, so that it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The caller's key.
    pub key: IdempotencyKey,
    /// Of the function and the input that were asked for. An execution that continues another one has another input.
    pub request: Digest,
}

impl IdempotencyKey {
    /// The ID of the instance that a start with this key and no ID makes: the same for ever, so that starts with one key meet.
    pub fn instance(&self, hub: &HubName) -> InstanceId {
        let hash: [u8; 32] = Sha256::new()
            .chain_update("idempotency key\0")
            .chain_update(hub.as_str().to_ascii_lowercase())
            .chain_update("\0")
            .chain_update(&*self.0)
            .finalize()
            .into();
        InstanceId::from_bytes(*hash.first_chunk().expect("16 of 32 bytes"))
    }
}

impl Idempotency {
    /// That of a start of `function` with `input`. Functions are found without regard to case; the input counts byte for byte.
    pub fn of(key: IdempotencyKey, function: &str, input: &Payload) -> Self {
        let text = format!("{}\0{}", function.to_lowercase(), input.text());
        Self { key, request: Digest::of(text.as_bytes()) }
    }
}

impl FromStr for IdempotencyKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(NameError::new("an idempotency key must be 1 to 255 printable ASCII characters"))
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for IdempotencyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> IdempotencyKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_short_and_printable() {
        for good in ["a", "order 17", "\"8e03978e-40d5\"", "~", &"x".repeat(255)] {
            assert_eq!(key(good).to_string(), good);
        }
        for bad in ["", "a\tb", "é", "\u{7f}", &"x".repeat(256)] {
            assert!(bad.parse::<IdempotencyKey>().is_err(), "{bad:?}");
        }
    }

    /// A repeated start must be found by every later version, so these never change.
    #[test]
    fn a_key_leads_to_the_same_instance_for_ever() {
        let instance = |of: &str, hub: &str| key(of).instance(&hub.parse().unwrap()).to_string();
        assert_eq!(instance("order 17", "Bakery"), "a49fd9f84f505bb0791bf92592367019");
        assert_eq!(instance("order 17", "bakery"), instance("order 17", "Bakery"));
        assert_ne!(instance("order 18", "Bakery"), instance("order 17", "Bakery"));
        assert_ne!(instance("order 17", "Laundry"), instance("order 17", "Bakery"));
    }

    #[test]
    fn a_request_is_its_function_without_case_and_its_input_to_the_byte() {
        let request = |function: &str, input: &str| Idempotency::of(key("a"), function, &Payload::parse(input.into()).unwrap());
        assert_eq!(request("Bake", "[1]"), request("BAKE", "[1]"));
        assert_ne!(request("Bake", "[1]"), request("Bake", "[ 1]"));
        assert_ne!(request("Bake", "1"), request("Bake1", "1"));
    }
}
