//! Who may do what? Two keys, or, on a loopback listener, no keys and nobody but this machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::links::Origin;
use super::query::Query;
use super::route::Door;

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
    /// Opens everything but `/admin/modules`; generated URLs carry it.
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
    /// The file is there and does not hold two keys.
    #[error("{} must hold two different keys, \"master\" and \"system\"; restore it, or delete it to get new ones", .0.display())]
    Malformed(PathBuf),
}

impl Keys {
    /// The keys of a data directory, which has to exist. They come into being when they are first asked for, in a file that only
    /// its owner may read; of several processes that ask at once all get the same.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds something else.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeysError> {
        let path = data_dir.join(FILE);
        let failed = |error| KeysError::Io { path: path.clone(), error };
        let text = match fs::read(&path) {
            Ok(text) => {
                let mode = fs::metadata(&path).map_err(failed)?.mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(KeysError::Open { path, mode });
                }
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::random().and_then(|keys| keys.create(data_dir, &path)).map_err(failed)?;
                fs::read(&path).map_err(failed)? // Another process may have been faster.
            }
            Err(error) => return Err(failed(error)),
        };
        let keys = serde_json::from_slice::<Self>(&text).ok();
        // An empty key would open to an empty header.
        keys.filter(|keys| !keys.master.is_empty() && !keys.system.is_empty() && keys.master != keys.system)
            .ok_or(KeysError::Malformed(path))
    }

    fn random() -> io::Result<Self> {
        let key = || {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(io::Error::other).map(|()| hex::encode(bytes))
        };
        Ok(Self { master: key()?, system: key()? })
    }

    /// Writes the file whole and then gives it its name, unless there is one of that name by now.
    fn create(&self, data_dir: &Path, path: &Path) -> io::Result<()> {
        let draft = data_dir.join(format!("{FILE}.{}", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            match fs::hard_link(&draft, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => File::open(data_dir)?.sync_all(),
            }
        })();
        let removed = fs::remove_file(&draft);
        written.and(removed)
    }
}

/// What a request has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// The system key or the master key.
    System,
    /// The master key.
    Master,
}

/// How a server decides whom to serve.
#[derive(Clone)]
pub enum Access {
    /// By key.
    Keys(Keys),
    /// Everybody who reaches it. Only for a loopback listener: it then refuses what a browser may have been tricked into, by
    /// asking that the request names this machine or one of `hosts` and does not come from another site's page.
    Open {
        /// Names, without port, under which the server may be called besides those of the loopback interface.
        hosts: Vec<String>,
    },
    /// Workers of this machine, by their prefix alone. Only for a loopback listener beside one that asks for keys; it refuses as
    /// [`Access::Open`] does.
    Workers,
}

impl Access {
    /// The key that generated URLs carry.
    pub(super) fn link_code(&self) -> Option<&str> {
        match self {
            Self::Keys(keys) => Some(&keys.system),
            Self::Open { .. } | Self::Workers => None,
        }
    }

    /// Which prefixes are served: that for workers, whose clients send no key, only where none is asked for.
    pub(super) fn doors(&self) -> &'static [Door] {
        match self {
            Self::Keys(_) => &[Door::Webhooks],
            Self::Open { .. } => &[Door::Webhooks, Door::Rpc],
            Self::Workers => &[Door::Rpc],
        }
    }

    /// Lets a request through or not.
    ///
    /// # Errors
    /// 401 with an empty body if the key is missing or wrong; 403 if no key is needed but the request may not be its user's will.
    pub(super) fn check(&self, need: Need, headers: &HeaderMap, query: &Query, origin: &Origin) -> Result<(), ApiError> {
        match self {
            _ if need == Need::Nothing => Ok(()),
            Self::Keys(keys) => {
                // The header wins even if it is empty.
                let given = match headers.get("x-functions-key") {
                    Some(header) => header.as_bytes(),
                    None => query.text("code").unwrap_or_default().as_bytes(),
                };
                // Both are compared in any case, so that the time taken says nothing of which one was near.
                let master = given.ct_eq(keys.master.as_bytes());
                let system = given.ct_eq(keys.system.as_bytes());
                let enough = if need == Need::Master { master } else { master | system };
                if bool::from(enough) { Ok(()) } else { Err(ApiError::empty(StatusCode::UNAUTHORIZED)) }
            }
            Self::Open { hosts } => not_tricked(hosts, headers, origin),
            // Nothing behind that prefix needs as much, and nobody here could show it.
            Self::Workers if need == Need::Master => Err(ApiError::empty(StatusCode::UNAUTHORIZED)),
            Self::Workers => not_tricked(&[], headers, origin),
        }
    }
}

/// Whether a request is addressed to us by a name of ours and comes from no page of somebody else.
///
/// A name of somebody else's that resolves to 127.0.0.1 makes a page of theirs "same origin" with us, hence the host; a form or
/// an image on their page reaches us too, hence the rest.
fn not_tricked(hosts: &[String], headers: &HeaderMap, origin: &Origin) -> Result<(), ApiError> {
    let foreign = |message| Err(ApiError::ours(StatusCode::FORBIDDEN, "foreign_request", message));
    let ours = |host: &str| is_loopback(host) || hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
    let authority = origin.authority();
    if !ours(authority.host()) {
        let host = authority.host();
        return foreign(format!(
            "the server runs without keys and is not known as {host:?}; call it as localhost, or configure the name"
        ));
    }
    for page in headers.get_all("origin") {
        let site = page.to_str().ok().and_then(|page| page.split_once("://")).map_or("", |(_, site)| site);
        let host = site.rsplit_once(':').map_or(site, |(host, _)| host);
        if !site.eq_ignore_ascii_case(authority.as_str()) && !hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return foreign("the server runs without keys and serves no pages of other origins".into());
        }
    }
    if headers.get_all("sec-fetch-site").iter().any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site")) {
        return foreign("the server runs without keys and serves no pages of other sites".into());
    }
    Ok(())
}

/// Whether a host, as a URL writes it, is this machine and nothing else.
fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address {
        Some(address) => address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::links::tests::{origin, request};
    use super::*;

    fn check(access: &Access, need: Need, text: &str, expected: &str) {
        let parts = request(text);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let seen = match access.check(need, &parts.headers, &query, &origin(text).unwrap()) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.into_reply().shown(),
        };
        let seen = if seen.starts_with("403  {\"error\":{\"code\":\"foreign_request\"") { "403" } else { &seen };
        assert_eq!(seen, expected, "{need:?} {text}");
    }

    #[test]
    fn each_key_opens_its_part_and_the_header_beats_the_query() {
        let access = Access::Keys(Keys { master: "mmm".into(), system: "sss".into() });
        for (need, line, expected) in [
            (Need::Nothing, "/ HTTP/1.1", "ok"),
            (Need::System, "/?code=sss HTTP/1.1", "ok"),
            (Need::System, "/?CODE=mmm HTTP/1.1", "ok"),
            (Need::System, "/ HTTP/1.1\nx-functions-key: sss", "ok"),
            (Need::System, "/?code=wrong HTTP/1.1\nx-functions-key: mmm", "ok"),
            (Need::System, "/?code=sss HTTP/1.1\nx-functions-key:", "401  "),
            (Need::System, "/?code=sss HTTP/1.1\nx-functions-key: wrong", "401  "),
            (Need::System, "/ HTTP/1.1", "401  "),
            (Need::System, "/?code= HTTP/1.1", "401  "),
            (Need::System, "/?code=ss HTTP/1.1", "401  "),
            (Need::System, "/?code=sss&code=sss HTTP/1.1", "401  "),
            (Need::Master, "/?code=mmm HTTP/1.1", "ok"),
            (Need::Master, "/?code=sss HTTP/1.1", "401  "),
        ] {
            let (first, headers) = line.split_once('\n').unwrap_or((line, ""));
            check(&access, need, format!("GET {first}\nHost: anywhere.example\n{headers}").trim_end(), expected);
        }
    }

    #[test]
    fn without_keys_only_requests_of_this_machine_are_served() {
        let access = Access::Open { hosts: vec!["dev.example".into()] };
        for (headers, expected) in [
            ("Host: localhost", "ok"),
            ("Host: LOCALHOST:7071", "ok"),
            ("Host: 127.0.0.1:1", "ok"),
            ("Host: 127.9.8.7", "ok"),
            ("Host: [::1]:7071", "ok"),
            ("Host: dev.example:443", "ok"),
            ("Host: evil.example", "403"),
            ("Host: localhost.evil.example", "403"),
            ("Host: 127.0.0.1.evil.example", "403"),
            ("Host: 128.0.0.1", "403"),
            ("Host: [::2]", "403"),
            ("Host: localhost:7071\nOrigin: http://localhost:7071", "ok"),
            ("Host: localhost:7071\nOrigin: https://dev.example", "ok"),
            ("Host: localhost:7071\nOrigin: http://localhost:3000", "403"),
            ("Host: localhost:7071\nOrigin: http://evil.example", "403"),
            ("Host: localhost:7071\nOrigin: null", "403"),
            ("Host: localhost:7071\nSec-Fetch-Site: same-origin", "ok"),
            ("Host: localhost:7071\nSec-Fetch-Site: none", "ok"),
            ("Host: localhost:7071\nSec-Fetch-Site: Cross-Site", "403"),
        ] {
            check(&access, Need::System, &format!("GET /?code=any HTTP/1.1\n{headers}"), expected);
            check(&access, Need::Master, &format!("GET / HTTP/1.1\n{headers}"), expected);
        }
        check(&Access::Workers, Need::System, "GET / HTTP/1.1\nHost: localhost:17071", "ok");
        check(&Access::Workers, Need::Master, "GET / HTTP/1.1\nHost: localhost:17071", "401  ");
        check(&Access::Workers, Need::System, "GET / HTTP/1.1\nHost: dev.example", "403");
        check(&access, Need::System, "GET http://evil.example/ HTTP/1.1\nHost: localhost", "403");
        check(&access, Need::System, "GET / HTTP/1.0", "ok");
    }

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
            assert!(matches!(Keys::load_or_create(dir.path()), Err(KeysError::Malformed(_))), "{text}");
        }
        assert!(matches!(Keys::load_or_create(&dir.path().join("absent")), Err(KeysError::Io { .. })));
    }
}
