//! Which server does a command talk to, and with which key? Flags come first, then the environment, then a file of the user's.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use etcetera::BaseStrategy as _;

use super::client::Client;
use super::exit::Exit;
use crate::api::keys::Keys;

/// Where a server listens that was told nothing.
const SERVER: &str = "http://127.0.0.1:7071";

/// The environment variables for the key, and for the file that holds it.
pub(super) const KEY_VARIABLE: &str = "DACAPO_KEY";
const KEY_FILE_VARIABLE: &str = "DACAPO_KEY_FILE";

/// The largest file of keys or settings, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What `--help` says of it.
pub(super) const HELP: &str = "\
Connection: flags come first, then the environment, then $XDG_CONFIG_HOME/dacapo/config.toml (as a
rule ~/.config/dacapo/config.toml) with `server`, `hub` and `key_file`, all optional. A key comes
from DACAPO_KEY or from a file, which may be the server's keys.json; there is no flag for it, since
every user of a machine can see the arguments of its processes.";

/// The flags of every command that talks to a server.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// The server [default: http://127.0.0.1:7071]
    #[arg(long, value_name = "URL", env = "DACAPO_SERVER", global = true, hide_env_values = true)]
    server: Option<String>,

    /// The task hub; without it, the server's default
    #[arg(long, value_name = "NAME", env = "DACAPO_HUB", global = true, hide_env_values = true)]
    hub: Option<String>,

    /// A file with the key [env: DACAPO_KEY_FILE; the key itself: DACAPO_KEY]
    #[arg(long, value_name = "FILE", global = true)]
    key_file: Option<PathBuf>,
}

impl Connection {
    /// The task hub, if the flags or the environment name one.
    pub(super) fn hub(&self) -> Option<&str> {
        self.hub.as_deref().filter(|name| !name.trim().is_empty())
    }

    /// A client of the server that the flags, the environment and the user's file name.
    pub(super) fn client(&self) -> Result<Client> {
        let settings = match settings_path() {
            Some(path) => Settings::load(&path)?,
            None => Settings::default(),
        };
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let key = match variable(KEY_VARIABLE) {
            Some(key) => Some(key.into_string().ok().context("the key in DACAPO_KEY is no text")?),
            None => None,
        };
        self.resolve(settings, key, variable(KEY_FILE_VARIABLE).map(PathBuf::from))
    }

    /// The same with what was found in the user's file and in the environment.
    fn resolve(&self, settings: Settings, key: Option<String>, key_file: Option<PathBuf>) -> Result<Client> {
        let given = |flag: &Option<String>| flag.clone().filter(|value| !value.trim().is_empty());
        let usual = checked(settings.server.as_deref().unwrap_or(SERVER))?;
        let server = given(&self.server).map_or_else(|| Ok(usual.clone()), |server| checked(&server))?;
        let key = match (&self.key_file, key) {
            (Some(file), _) => Some(read_key(file)?),
            (None, Some(key)) => Some(key),
            // The key of the user's usual server is not shown to another one.
            (None, None) => {
                let usual_file = settings.key_file.filter(|_| server == usual);
                key_file.or(usual_file).map(|file| read_key(&file)).transpose()?
            }
        };
        let key = key.map(|key| key.trim().to_owned());
        let is_key = |key: &String| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(key.as_ref().is_none_or(is_key), "a key is one word of ASCII characters; what was given as one is not");
        Ok(Client::to(server).with(given(&self.hub).or(settings.hub), key))
    }
}

/// What a user's file says.
#[derive(Debug, Default, PartialEq)]
struct Settings {
    server: Option<String>,
    hub: Option<String>,
    key_file: Option<PathBuf>,
}

impl Settings {
    /// Reads the file; nothing is set if there is none.
    fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = read(path)?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(""))).with_context(|| format!("settings in {}", path.display()))
    }

    /// `folder` is where relative paths start. No error shows a line of the file: somebody may have put a key into it.
    fn parse(text: &str, folder: &Path) -> Result<Self> {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
                bail!("line {line} is no TOML: {}", error.message().trim());
            }
        };
        let mut settings = Self::default();
        for (name, value) in table {
            let toml::Value::String(value) = value else { bail!("{name} has to be a text, in quotes") };
            match name.as_str() {
                "server" => settings.server = Some(value),
                "hub" => settings.hub = Some(value),
                "key_file" => settings.key_file = Some(folder.join(value)),
                "key" => bail!(
                    "a key does not stand here: put it into a file of its own that only you may read, and its path into key_file"
                ),
                _ => bail!("there is no setting {name}; those that are: server, hub, key_file"),
            }
        }
        Ok(settings)
    }
}

fn settings_path() -> Option<PathBuf> {
    etcetera::choose_base_strategy().ok().map(|home| home.config_dir().join("dacapo/config.toml"))
}

/// The URL of a server without slashes at its end.
fn checked(url: &str) -> Result<String> {
    check(url).map_err(|error| Exit::Usage.because(error))
}

/// What is refused is not shown: it may hold a password.
fn check(url: &str) -> Result<String> {
    let url = url.trim().trim_end_matches('/');
    let Some((scheme, rest)) = url.split_once("://") else {
        bail!("the server has to be a URL, such as {SERVER}");
    };
    let is_known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    ensure!(is_known, "the server's URL has to begin with http:// or https://");
    let plain = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#".contains(&byte));
    ensure!(plain, "the server's URL is to name a host and a port, without a user, a password or a key: {SERVER}");
    Ok(url.to_owned())
}

/// The key in a file: the file as it is, or the master key of a server's file of keys.
fn read_key(path: &Path) -> Result<String> {
    let text = read(path)?;
    if !text.trim_start().starts_with('{') {
        return Ok(text);
    }
    // Without the cause, which would show what is in the file.
    let keys: Option<Keys> = serde_json::from_str(&text).ok();
    keys.map(|keys| keys.master).with_context(|| format!("{} is neither a key nor a server's keys.json", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.with_context(|| format!("read {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings> {
        Settings::parse(text, Path::new("/home/ada/.config/dacapo"))
    }

    fn refused(settings: Result<Settings>) -> String {
        format!("{:#}", settings.unwrap_err())
    }

    #[test]
    fn a_file_of_settings_has_three_and_relative_paths_start_beside_it() {
        let found = settings("server = \"http://oven:7071\"\nhub = \"Bakery\"\nkey_file = \"oven.key\"\n").unwrap();
        let key_file = Some(PathBuf::from("/home/ada/.config/dacapo/oven.key"));
        assert_eq!(found, Settings { server: Some("http://oven:7071".into()), hub: Some("Bakery".into()), key_file });
        assert_eq!(settings("").unwrap(), Settings::default());
    }

    #[test]
    fn a_mistake_in_the_settings_is_told_without_what_may_be_a_key() {
        assert!(refused(settings("hubs = \"x\"")).contains("no setting hubs; those that are: server, hub, key_file"));
        assert!(refused(settings("hub = 1")).contains("hub has to be a text"));
        for text in ["key = \"s3cret\"", "\nkey = s3cret", "key_file = [\"s3cret\"]"] {
            assert!(!refused(settings(text)).contains("s3cret"), "{}", refused(settings(text)));
        }
        assert!(refused(settings("\nkey = s3cret")).contains("line 2"));
    }

    #[test]
    fn a_server_is_a_url_without_secrets() {
        for (good, expected) in [
            ("http://oven:7071/", "http://oven:7071"),
            (" HTTP://[::1]:1/base ", "HTTP://[::1]:1/base"),
            ("https://oven", "https://oven"),
        ] {
            assert_eq!(checked(good).unwrap(), expected);
        }
        for bad in ["", "oven", "ftp://oven", "http://", "http://a:s3cret@oven", "http://oven?code=s3cret", "http://a b"] {
            let error = checked(bad).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn flags_beat_the_environment_and_that_beats_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let flag = file("flag", " of-flag\n");
        let variable = file("variable", "of-variable");
        let usual = file("keys.json", r#"{"master":"of-master","system":"of-system"}"#);
        let usual = || Settings { server: Some("http://oven".into()), hub: Some("Bakery".into()), key_file: Some(usual.clone()) };
        let seen = |connection: &Connection, settings, key: Option<&str>, key_file: Option<&PathBuf>| {
            let client = connection.resolve(settings, key.map(str::to_owned), key_file.cloned()).unwrap();
            client.target()
        };
        let target =
            |base: &str, hub: Option<&str>, key: Option<&str>| (base.to_owned(), hub.map(str::to_owned), key.map(str::to_owned));
        let none = Connection::default();
        let shop = Connection { server: Some("http://shop".into()), hub: Some("Shop".into()), key_file: None };
        let with_file = Connection { key_file: Some(flag), ..Connection::default() };

        assert_eq!(seen(&none, Settings::default(), None, None), target(SERVER, None, None));
        assert_eq!(seen(&none, usual(), None, None), target("http://oven", Some("Bakery"), Some("of-master")));
        assert_eq!(seen(&none, usual(), None, Some(&variable)), target("http://oven", Some("Bakery"), Some("of-variable")));
        assert_eq!(seen(&none, usual(), Some("of-key"), Some(&variable)), target("http://oven", Some("Bakery"), Some("of-key")));
        assert_eq!(seen(&with_file, usual(), Some("of-key"), None), target("http://oven", Some("Bakery"), Some("of-flag")));
        // The key of one server is not for another.
        assert_eq!(seen(&shop, usual(), None, None), target("http://shop", Some("Shop"), None));
        assert_eq!(seen(&shop, usual(), Some("of-key"), None), target("http://shop", Some("Shop"), Some("of-key")));
    }

    #[test]
    fn a_key_that_is_none_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in ["", "s3cret and more", r#"{"master":"s3cret"}"#, "s3crét"] {
            std::fs::write(&path, text).unwrap();
            let connection = Connection { key_file: Some(path.clone()), ..Connection::default() };
            let error = format!("{:#}", connection.resolve(Settings::default(), None, None).err().unwrap());
            assert!(error.contains("key") && !error.contains("s3"), "{error}");
        }
    }
}
