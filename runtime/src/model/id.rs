//! How are things named? Newtypes that parse, check and print.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A text that breaks the rules of what it should name. Prints as one sentence that tells the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

impl NameError {
    /// One that tells `rule`.
    pub(super) fn new(rule: &str) -> Self {
        Self(rule.into())
    }
}

/// The ID of an instance, which its callers know.
///
/// 1 to 256 UTF-16 units, not starting with `@` (entities), without `/ \ # ?` and control characters; case counts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new ID: the 32 hex digits of a UUID of version 7 (RFC 9562), which begins with `now_ms`, in milliseconds since 1970; 74 bits are
    /// random. What starts together lies together in the index of IDs; with IDs that are random throughout, each start would change a
    /// page that no other start changes.
    pub fn draw(now_ms: u64, random: [u8; 10]) -> Self {
        Self::from_bytes(*uuid::Builder::from_unix_timestamp_millis(now_ms, &random).as_uuid().as_bytes())
    }

    /// The ID of 32 hex digits that these bytes are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes).into())
    }

    /// Which of `count` partitions owns the instance: the same for ever, on every machine.
    ///
    /// FNV-1a over the bytes, then the high half folded in, since the low bits alone of FNV are weak.
    pub fn partition(&self, count: u32) -> u32 {
        let hash =
            self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let folded = hash ^ (hash >> 32);
        u32::try_from(folded % u64::from(count)).expect("less than a u32")
    }
}

impl FromStr for InstanceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError("an instance ID must not be empty".into()));
        }
        if text.encode_utf16().count() > 256 {
            return Err(NameError("an instance ID may have at most 256 characters".into()));
        }
        if matches!(text, "." | "..") {
            return Err(NameError(format!("instance ID {text:?} stands for a folder in URLs, so it names no instance")));
        }
        if text.starts_with('@') {
            return Err(NameError(format!("instance ID {text:?} must not start with '@', which is reserved for entities")));
        }
        if let Some(bad) = text.chars().find(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
            return Err(NameError(format!("instance ID {text:?} must not contain the character {bad:?}")));
        }
        Ok(Self(text.into()))
    }
}

/// A task hub's name: 3 to 45 letters and digits, first a letter. Case does not count.
#[derive(Clone)]
pub struct HubName(Arc<str>);

impl HubName {
    /// The hub that is meant when a request names none.
    pub fn default_hub() -> Self {
        Self("DurableFunctionsHub".into())
    }

    /// The name as it was first written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HubName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (3..=45).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(NameError(format!("task hub name {text:?} must be 3 to 45 letters and digits and start with a letter")))
        }
    }
}

/// The name of a store, as the configuration gives it and requests do as `connection`: 1 to 100 letters, digits, `-`, `_` and `.`, first a
/// letter or digit. Case does not count.
#[derive(Clone)]
pub struct StoreName(Arc<str>);

impl StoreName {
    /// The store that is meant when a request names none.
    pub fn default_store() -> Self {
        Self("Storage".into())
    }

    /// The name as it is configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StoreName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_plain_name(text) {
            Ok(Self(text.into()))
        } else {
            Err(NameError(format!(
                "store name {text:?} must be 1 to 100 letters, digits, '-', '_' or '.', and start with a letter or digit"
            )))
        }
    }
}

macro_rules! caseless_name {
    ($($name:ident),*) => {$(
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }

        impl Eq for $name {}

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                for byte in self.0.bytes() {
                    state.write_u8(byte.to_ascii_lowercase());
                }
            }
        }
    )*};
}

caseless_name!(HubName, StoreName);

/// A module's name within its hub: 1 to 100 letters, digits, `-`, `_` and `.`, first a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleName(Arc<str>);

impl ModuleName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModuleName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_plain_name(text) {
            Ok(Self(text.into()))
        } else {
            Err(NameError(format!(
                "module name {text:?} must be 1 to 100 letters, digits, '-', '_' or '.', and start with a letter or digit"
            )))
        }
    }
}

/// Whether a text is 1 to 100 letters, digits, `-`, `_` and `.`, first a letter or digit.
fn is_plain_name(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

macro_rules! text_name {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

text_name!(InstanceId, HubName, StoreName, ModuleName);

/// The SHA-256 of a module's bytes, as they were uploaded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// 16 random bytes, unique to an execution, which everything that names something to the outside derives from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(pub [u8; 16]);

/// 16 random bytes that all randomness of an execution derives from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed(pub [u8; 16]);

macro_rules! hex_bytes {
    ($($name:ident),*) => {$(
        impl $name {
            /// As hex digits, for which there has to be room.
            fn digits<'a>(&self, room: &'a mut [u8]) -> &'a str {
                hex::encode_to_slice(self.0, room).expect("two digits for each byte");
                std::str::from_utf8(room).expect("hex digits are ASCII")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 2 * size_of::<Self>()];
                f.write_str(self.digits(&mut digits))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let mut bytes = Self([0; _]);
                hex::decode_to_slice(text, &mut bytes.0)
                    .map_err(|_| NameError(format!("{text:?} must be {} hex digits", 2 * bytes.0.len())))?;
                Ok(bytes)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut digits = [0; 2 * size_of::<Self>()];
                serializer.serialize_str(self.digits(&mut digits))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

hex_bytes!(Digest, Generation, Seed);

/// The number of a task within its execution, counted from 0 in the order of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The store's number for a hub, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubKey(pub u32);

/// The store's number for an instance: that of its first execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceKey(pub i64);

/// Where the number of the hub begins in the numbers of what belongs to it.
const HUB_SHIFT: u32 = 46;

fn hub_bits(hub: HubKey) -> i64 {
    // One hub less than 17 bits have: the end of the last one's range would not be a positive number.
    assert!(hub.0 < (1 << 17) - 1, "hub {}", hub.0);
    i64::from(hub.0) << HUB_SHIFT
}

/// The store's number for an execution: 17 bits of hub, 46 of a counter that only goes up.
///
/// All partitions of a hub share the counter, so that what starts at the same time lies side by side in the store: a batch of commits then touches a few
/// pages instead of some for each of its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecutionKey(pub i64);

impl ExecutionKey {
    /// Which numbers belong to a hub: from the first, below the second.
    ///
    /// # Panics
    /// If `hub` is not below 131,071: hubs are given out by us.
    pub fn range(hub: HubKey) -> (Self, Self) {
        let first = hub_bits(hub);
        (Self(first), Self(first + (1 << HUB_SHIFT)))
    }

    /// The range of the hub that this number belongs to, as [`Self::range`].
    pub fn hub_range(self) -> (Self, Self) {
        let first = self.0 >> HUB_SHIFT << HUB_SHIFT;
        (Self(first), Self(first + (1 << HUB_SHIFT)))
    }

    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The key of an instance whose first execution this is.
    pub fn instance(self) -> InstanceKey {
        InstanceKey(self.0)
    }
}

/// The store's number for a message from one instance to another: 17 bits of hub, 6 of the sender's partition, 40 of a counter that only goes up.
///
/// Given out by the partition of the sender, so that what one instance sends is read in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKey(pub i64);

impl MessageKey {
    const PARTITION_SHIFT: u32 = 40;

    /// The partitions that a key has room for.
    pub const PARTITIONS_MAX: u32 = 1 << (HUB_SHIFT - Self::PARTITION_SHIFT);

    /// Which numbers belong to a partition: from the first, below the second.
    ///
    /// # Panics
    /// If `partition` is not below [`Self::PARTITIONS_MAX`] or `hub` not below 131,071: both are given out by us.
    pub fn range(hub: HubKey, partition: u32) -> (Self, Self) {
        assert!(partition < Self::PARTITIONS_MAX, "hub {} partition {partition}", hub.0);
        let first = hub_bits(hub) | (i64::from(partition) << Self::PARTITION_SHIFT);
        (Self(first), Self(first + (1 << Self::PARTITION_SHIFT)))
    }

    /// The number after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_ids_follow_the_wire_contract() {
        for good in ["a", "a b", "Ünïcode:x.y", &"x".repeat(256), "mid@dle"] {
            assert_eq!(good.parse::<InstanceId>().unwrap().as_str(), good);
        }
        for bad in ["", "@x", "a/b", "a\\b", "a#b", "a?b", "a\nb", "a\u{85}b", &"x".repeat(257)] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn drawn_ids_begin_with_the_time_and_are_random_behind_it() {
        let draw = |now_ms, byte| InstanceId::draw(now_ms, [byte; 10]);
        assert_eq!(draw(0x0192_3456_789a, 0xcd).as_str(), "01923456789a7dcd8dcdcdcdcdcdcdcd");
        assert!(draw(1, 0) < draw(1, 1) && draw(1, 0xff) < draw(2, 0));
    }

    #[test]
    fn hub_names_are_short_words_without_case() {
        for bad in ["", "ab", "1ab", "a-b-c", &"x".repeat(46)] {
            assert!(bad.parse::<HubName>().is_err(), "{bad:?}");
        }
        assert_eq!("Bakery".parse::<HubName>(), "bAKERY".parse::<HubName>());
    }

    #[test]
    fn store_names_are_one_word_without_case() {
        for bad in ["", "-a", "a b", "a\nb", "a/b", "ü", &"x".repeat(101)] {
            assert!(bad.parse::<StoreName>().is_err(), "{bad:?}");
        }
        assert_eq!("STORAGE".parse(), Ok(StoreName::default_store()));
        assert_eq!("Archive_2.old".parse::<StoreName>().unwrap().as_str(), "Archive_2.old");
    }

    /// An instance must be found by every later version, so these numbers never change.
    #[test]
    fn an_instance_stays_in_its_partition_for_ever() {
        let partition = |id: &str| id.parse::<InstanceId>().unwrap().partition(64);
        assert_eq!(["a", "loaf-17", "0123456789abcdef0123456789abcdef"].map(partition), [0, 5, 2]);
        let mut counts = [0; 64];
        for n in 0..6400 {
            counts[partition(&format!("order-{n}")) as usize] += 1;
        }
        assert!(counts.iter().all(|n| (50..200).contains(n)), "{counts:?}");
    }

    #[test]
    fn the_keys_of_two_hubs_and_of_two_partitions_never_meet() {
        let (first, end) = ExecutionKey::range(HubKey(1));
        assert!(first < end && end <= ExecutionKey::range(HubKey(2)).0);
        assert_eq!([first, ExecutionKey(end.0 - 1)].map(ExecutionKey::hub_range), [(first, end); 2]);
        let (first, end) = MessageKey::range(HubKey(1), 63);
        assert!(first < end && end <= MessageKey::range(HubKey(2), 0).0);
    }
}
