//! What can an operator set? One TOML file, given to `dacapo serve --config`; what it leaves out has its default.
//!
//! This file has all of it, with the defaults; `[limits]` takes every field of [`Limits`], whose comments give the reasons:
//!
//! ```toml
//! edition = "2018"                      # or "current": which status codes an ended instance has
//! default_hub = "DurableFunctionsHub"   # the task hub of requests that name none
//! hosts = []                            # with --no-auth: names, besides localhost, by which the server may be called
//! use_forwarded_host = false            # generated URLs follow X-Forwarded-Host and X-Forwarded-Proto
//!
//! [limits]
//! module_bytes_max = 67_108_864
//! functions_max = 1_000
//! compile_cpu_s_max = 120
//! compile_memory_bytes_max = 8_589_934_592
//! payload_bytes_max = 4_194_304
//! guest_memory_bytes_max = 67_108_864
//! turn_cpu_ms_max = 1_000
//! tasks_max = 100_000
//! history_events_max = 1_000_000
//! log_bytes_max = 262_144
//! activity_ms_max = 600_000
//! activities_running_max = 256
//! residents_max = 8_000
//! residents_bytes_max = 1_073_741_824
//! starts_queued_max = 10_000
//! idle_instances_max = 8_000
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use crate::api::Edition;
use crate::limits::Limits;
use crate::model::HubName;

/// The settings of a server. An unknown name is an error: a typing mistake must not pass for a setting.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The edition of the wire contract whose status codes hold for requests that name none. Default: `"2018"`.
    pub edition: Edition,
    /// The task hub of requests that name none. Default: `"DurableFunctionsHub"`.
    pub default_hub: HubName,
    /// Names, without scheme and port, under which a server without keys may be called besides those of the loopback interface,
    /// for a proxy in front of it. Without effect on a server that asks for keys. Default: none.
    #[serde(deserialize_with = "host_names")]
    pub hosts: Vec<String>,
    /// Whether generated URLs follow `X-Forwarded-Host` and `X-Forwarded-Proto`. Only behind a proxy that sets both. Default: no.
    pub use_forwarded_host: bool,
    /// The bounds, each with unit and reason in [`Limits`].
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edition: Edition::default(),
            default_hub: HubName::default_hub(),
            hosts: Vec::new(),
            use_forwarded_host: false,
            limits: Limits::default(),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file in question.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file says something that is no setting.
    #[error("{}: {error}", path.display())]
    Malformed {
        /// The file in question.
        path: PathBuf,
        /// The line and what is wrong with it.
        error: String,
    },
}

impl Config {
    /// The settings in the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is not a file of settings.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Io { path: path.to_owned(), error })?;
        let malformed = |error: toml::de::Error| ConfigError::Malformed {
            path: path.to_owned(),
            error: error.to_string().trim_end().to_owned(),
        };
        toml::from_str(&text).map_err(malformed)
    }
}

/// Names that a `Host` header can match: one with a port never would.
fn host_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let hosts = Vec::<String>::deserialize(deserializer)?;
    let is_name = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    match hosts.iter().find(|host| !is_name(host)) {
        None => Ok(hosts),
        Some(host) => Err(de::Error::custom(format!("host {host:?} must be a name, without scheme and port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file in this module's own documentation.
    fn documented() -> String {
        let lines = include_str!("config.rs").lines().map_while(|line| line.strip_prefix("//!"));
        let file = lines.skip_while(|line| *line != " ```toml").skip(1).take_while(|line| *line != " ```");
        file.map(|line| format!("{line}\n")).collect()
    }

    fn check_refused(text: &str, line: &str, reason: &str) {
        let error = toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(line) && error.contains(reason), "{text}: {error}");
    }

    #[test]
    fn the_documented_file_says_what_holds_without_one() {
        let file = documented();
        assert_eq!(toml::from_str::<Config>(&file).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        // And it leaves nothing out.
        let limits: toml::Table = toml::from_str(&toml::to_string(&Limits::default()).unwrap()).unwrap();
        let file: toml::Table = toml::from_str(&file).unwrap();
        assert_eq!(file["limits"].as_table(), Some(&limits));
        assert_eq!(file.len(), 5);
    }

    #[test]
    fn what_a_file_says_replaces_the_default_and_nothing_else() {
        let config: Config = toml::from_str(
            "edition = 'current'\ndefault_hub = 'Bakery'\nhosts = ['dev.example']\nuse_forwarded_host = true\n[limits]\ntasks_max = 7",
        )
        .unwrap();
        let expected = Config {
            edition: Edition::Current,
            default_hub: "Bakery".parse().unwrap(),
            hosts: vec!["dev.example".into()],
            use_forwarded_host: true,
            limits: Limits { tasks_max: 7, ..Limits::default() },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_mistake_is_refused_with_its_line_and_name() {
        check_refused("\nhost = []", "line 2", "unknown field `host`");
        check_refused("[limits]\n\ntask_max = 1", "line 3", "unknown field `task_max`");
        check_refused("[limits]\ntasks_max = -1", "line 2", "tasks_max");
        check_refused("edition = '2019'", "line 1", "`2018` or `current`");
        check_refused("default_hub = '1'", "line 1", "task hub name \"1\" must be");
        check_refused("hosts = ['http://dev.example:80']", "line 1", "without scheme and port");
    }
}
