//! May a URL open something by itself? A capability link may: it carries a signature for one operation on one instance, until it expires.
//!
//! Who holds such a link can do that and nothing else, and learns no key. What is signed is the hub, the store, the operation, the
//! instance's ID and the time, so that none of them can be exchanged.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::keys::{self, KeysError};
use super::links::Target;
use super::query::Query;

/// The file in the data directory that holds the key of the signatures, 64 hex digits. Without it, and with a new one, no link that was
/// handed out before opens anything.
pub const FILE: &str = "links.key";

/// What a link can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// To see how the instance stands, in whatever detail.
    Status,
    /// To raise events of any name.
    Raise,
    Terminate,
    Purge,
    Restart,
    Suspend,
    Resume,
    Rewind,
}

impl Verb {
    /// How a signature names it. Never changes, or links that were handed out would end.
    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Raise => "raise",
            Self::Terminate => "terminate",
            Self::Purge => "purge",
            Self::Restart => "restart",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Rewind => "rewind",
        }
    }
}

/// Makes capability links, and knows its own. There is no `Debug` to log the key by accident.
#[derive(Clone)]
pub struct CapabilityLinks {
    key: [u8; 32],
    /// For how long a new link opens, in seconds.
    valid_s: u32,
}

impl CapabilityLinks {
    /// Links that open for `valid_s` seconds each, with the key of a data directory. The key comes into being when it is first asked for.
    ///
    /// # Errors
    /// If its file cannot be read or written, can be read by others, or holds something else.
    pub fn load_or_create(data_dir: &Path, valid_s: u32) -> Result<Self, KeysError> {
        let text = keys::load_or_create(data_dir, FILE, || keys::random().map(|key| hex::encode(key).into_bytes()))?;
        let mut key = [0; 32];
        match hex::decode_to_slice(text.trim_ascii(), &mut key) {
            Ok(()) => Ok(Self { key, valid_s }),
            Err(_) => Err(KeysError::Malformed { path: data_dir.join(FILE), expected: "64 hex digits" }),
        }
    }

    /// The part of a query that makes the URL of `verb` on `instance` a link, from `now_s` on.
    pub(super) fn pass(&self, target: &Target, verb: Verb, instance: &str, now_s: u64) -> String {
        let expires_s = now_s.saturating_add(self.valid_s.into());
        let signature = hex::encode(self.signature(target, verb, instance, expires_s));
        format!("expires={expires_s}&signature={signature}")
    }

    /// When it expires, in seconds since 1970, if `query` has what [`Self::pass`] made of the same, and at `now_s` it has not.
    pub(super) fn opened_until(&self, query: &Query, target: &Target, verb: Verb, instance: &str, now_s: u64) -> Option<u64> {
        let expires_s = query.text("expires")?.parse().ok()?;
        let mut given = [0; 32];
        let is_hex = query.text("signature").is_some_and(|text| hex::decode_to_slice(text, &mut given).is_ok());
        let expected = self.signature(target, verb, instance, expires_s);
        (is_hex && bool::from(given.ct_eq(&expected)) && now_s < expires_s).then_some(expires_s)
    }

    /// Of no two different things the signed texts are the same: none of the parts can hold a line break.
    fn signature(&self, target: &Target, verb: Verb, instance: &str, expires_s: u64) -> [u8; 32] {
        let hub = target.hub.as_str().to_ascii_lowercase();
        let text = format!("dacapo link 1\n{hub}\n{}\n{}\n{expires_s}\n{instance}", target.connection, verb.word());
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key may have any length");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::StoreName;

    pub(in crate::api) const LINKS: CapabilityLinks = CapabilityLinks { key: [7; 32], valid_s: 60 };

    fn target(hub: &str) -> Target {
        Target { hub: hub.parse().unwrap(), connection: StoreName::default_store() }
    }

    fn opens(query: &str, hub: &str, verb: Verb, instance: &str, now_s: u64) -> bool {
        LINKS.opened_until(&Query::parse(query), &target(hub), verb, instance, now_s).is_some()
    }

    #[test]
    fn a_link_opens_what_it_is_for_and_nothing_else() {
        let pass = LINKS.pass(&target("Bakery"), Verb::Status, "loaf-17", 1_000);
        assert!(pass.starts_with("expires=1060&signature="), "{pass}");
        for (query, hub, verb, instance, now_s, expected) in [
            (pass.as_str(), "Bakery", Verb::Status, "loaf-17", 1_000, true),
            (&pass, "BAKERY", Verb::Status, "loaf-17", 1_059, true),
            (&pass.to_uppercase(), "Bakery", Verb::Status, "loaf-17", 0, true),
            (&format!("showHistory=true&{pass}&x=y"), "Bakery", Verb::Status, "loaf-17", 1_000, true),
            (&pass, "Bakery", Verb::Status, "loaf-17", 1_060, false),
            (&pass, "Bakery", Verb::Purge, "loaf-17", 1_000, false),
            (&pass, "Bakery", Verb::Status, "Loaf-17", 1_000, false),
            (&pass, "Bakery2", Verb::Status, "loaf-17", 1_000, false),
            (&pass.replace("1060", "9999"), "Bakery", Verb::Status, "loaf-17", 1_000, false),
            (&pass.replace("1060", ""), "Bakery", Verb::Status, "loaf-17", 1_000, false),
            (&format!("{pass}&expires=1060"), "Bakery", Verb::Status, "loaf-17", 1_000, false),
            (&format!("{pass}&{pass}"), "Bakery", Verb::Status, "loaf-17", 1_000, false),
            (&pass[..pass.len() - 1], "Bakery", Verb::Status, "loaf-17", 1_000, false),
            (&pass[..pass.len() - 2], "Bakery", Verb::Status, "loaf-17", 1_000, false),
            ("expires=1060&signature=", "Bakery", Verb::Status, "loaf-17", 1_000, false),
            ("expires=1060", "Bakery", Verb::Status, "loaf-17", 1_000, false),
            ("", "Bakery", Verb::Status, "loaf-17", 1_000, false),
        ] {
            assert_eq!(opens(query, hub, verb, instance, now_s), expected, "{query} {hub} {verb:?} {instance} {now_s}");
        }
    }

    #[test]
    fn each_operation_and_each_key_signs_differently() {
        use Verb::{Purge, Raise, Restart, Resume, Rewind, Status, Suspend, Terminate};
        let mut passes: Vec<String> = [Status, Raise, Terminate, Purge, Restart, Suspend, Resume, Rewind]
            .map(|verb| LINKS.pass(&target("Bakery"), verb, "loaf-17", 0))
            .to_vec();
        passes.push(CapabilityLinks { key: [8; 32], ..LINKS }.pass(&target("Bakery"), Status, "loaf-17", 0));
        passes.sort();
        passes.dedup();
        assert_eq!(passes.len(), 9);
    }

    #[test]
    fn a_signature_stays_the_same_for_ever() {
        // HMAC-SHA-256 over "dacapo link 1\nbakery\nStorage\nstatus\n1060\nloaf-17", made by another program.
        let expected = "84516dddaefffe7ab781ab2aec20386b3166c2cdf0e3993354342a24cb8d01eb";
        assert_eq!(LINKS.pass(&target("Bakery"), Verb::Status, "loaf-17", 1_000), format!("expires=1060&signature={expected}"));
    }

    #[test]
    fn the_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let make = || CapabilityLinks::load_or_create(dir.path(), 60);
        let first = make().unwrap();
        assert_eq!(make().unwrap().key, first.key);
        let file = dir.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        for text in ["", "ab", &"x".repeat(64), &"ab".repeat(33)] {
            fs::write(&file, text).unwrap();
            assert!(matches!(make(), Err(KeysError::Malformed { .. })), "{text}");
        }
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(make(), Err(KeysError::Open { .. })));
        fs::remove_file(&file).unwrap();
        assert_ne!(make().unwrap().key, first.key);
    }
}
