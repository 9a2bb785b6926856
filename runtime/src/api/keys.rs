//! Where do a server's secrets lie? In files of its data directory that only their owner can open, made when they are first asked for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file in the data directory that holds the keys.
pub const FILE: &str = "keys.json";

/// The keys of a server: 32 random bytes each, as hex digits.
///
/// Neither is ever logged, and there is no `Debug` to log them by accident.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Opens everything.
    pub master: String,
    /// Opens everything but `/admin/modules` and `/admin/instances`; generated URLs carry it, unless they are capability links.
    pub system: String,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file system refused.
    #[error("keys in {}: {error}", path.display())]
    Io {
        /// The file in question.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Others than its owner may read the file, or write to it, and may have done so.
    #[error(
        "{} can be opened by others than its owner (mode {mode:03o}); `chmod 600` it, or delete it to get new keys if somebody may have \
         read them",
        path.display()
    )]
    Open {
        /// The file in question.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is there and does not hold what it should.
    #[error("{} must hold {expected}; restore it, or delete it to get new ones", path.display())]
    Malformed {
        /// The file in question.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
}

impl Keys {
    /// The keys of a data directory, which has to exist. They come into being when they are first asked for, in a file that only
    /// its owner may read; of several processes that ask at once all get the same.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeysError> {
        let text = load_or_create(data_dir, FILE, || {
            let keys = Self { master: hex::encode(random()?), system: hex::encode(random()?) };
            Ok(serde_json::to_vec_pretty(&keys)?)
        })?;
        let keys = serde_json::from_slice::<Self>(&text).ok();
        // An empty key would open to an empty header.
        keys.filter(|keys| !keys.master.is_empty() && !keys.system.is_empty() && keys.master != keys.system).ok_or_else(|| {
            let expected = "two different keys, \"master\" and \"system\"";
            KeysError::Malformed { path: data_dir.join(FILE), expected }
        })
    }
}

/// What the file `name` of a data directory holds, or, if there is none, what `make` makes for it. Of several processes that ask at
/// once all get the same.
pub(super) fn load_or_create(
    data_dir: &Path,
    name: &str,
    make: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, KeysError> {
    let path = data_dir.join(name);
    let failed = |error| KeysError::Io { path: path.clone(), error };
    match fs::read(&path) {
        Ok(held) => {
            let mode = fs::metadata(&path).map_err(failed)?.mode() & 0o777;
            if mode & 0o077 == 0 { Ok(held) } else { Err(KeysError::Open { path, mode }) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make().and_then(|bytes| create(data_dir, name, &bytes)).map_err(failed)?;
            fs::read(&path).map_err(failed) // Another process may have been faster.
        }
        Err(error) => Err(failed(error)),
    }
}

/// Key material from the system's randomness.
pub(super) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other).map(|()| bytes)
}

/// Writes a file whole and then gives it its name, unless there is one of that name by now.
fn create(data_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = data_dir.join(format!("{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match fs::hard_link(&draft, data_dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(data_dir)?.sync_all(),
        }
    })();
    let removed = fs::remove_file(&draft);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_only_their_owner_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::load_or_create(dir.path()).unwrap();
        let again = Keys::load_or_create(dir.path()).unwrap();
        assert_eq!((&first.master, &first.system), (&again.master, &again.system));
        assert_ne!(first.master, first.system);
        assert!([first.master, first.system].iter().all(|key| key.len() == 64));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_that_others_can_open_are_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        Keys::load_or_create(dir.path()).unwrap();
        let file = dir.path().join(FILE);
        for mode in [0o640, 0o604, 0o620, 0o777] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let Err(error) = Keys::load_or_create(dir.path()) else { panic!("{mode:o} is taken") };
            let told = error.to_string();
            assert!(told.contains(&format!("(mode {mode:03o}); `chmod 600` it")), "{told}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
        Keys::load_or_create(dir.path()).unwrap();
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "").unwrap();
        fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "{}", r#"{"master":"","system":"s"}"#, r#"{"master":"s","system":"s"}"#] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(matches!(Keys::load_or_create(dir.path()), Err(KeysError::Malformed { .. })), "{text}");
        }
        assert!(matches!(Keys::load_or_create(&dir.path().join("absent")), Err(KeysError::Io { .. })));
    }
}
