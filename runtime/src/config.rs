//! What can an operator set? One TOML file, given to `dacapo serve --config`; what it leaves out has its default.
//!
//! This file has all of it, with the defaults, of which three are lower where there is little memory; `[limits]` takes every field of [`Limits`],
//! whose comments give the reasons:
//!
//! ```toml
//! edition = "2018"                      # or "current": which status codes an ended instance has
//! overridable_existing_instance_states = "NonRunningStates" # or "AnyState": which instances a start with their ID replaces
//! default_hub = "DurableFunctionsHub"   # the task hub of requests that name none; "%NAME%" is what the variable NAME says
//! hosts = []                            # with --no-auth: names, besides localhost, by which the server may be called
//! use_forwarded_host = false            # generated URLs follow X-Forwarded-Host and X-Forwarded-Proto
//! capability_links_s = 0                # for how many seconds an instance's URLs open that one instance without a key; 0 is never
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
//! unread_event_bytes_max = 134_217_728
//! log_bytes_max = 262_144
//! heartbeat_bytes_max = 65_536
//! activity_ms_default = 600_000
//! activity_ms_max = 86_400_000
//! activities_running_max = 256
//! residents_max = 8_000
//! residents_bytes_max = 1_073_741_824
//! idle_instances_max = 8_000
//! event_streams_max = 1_000
//! requests_waiting_max = 5_000
//! status_wait_s_max = 300
//! work_queued_max = 10_000
//! starts_queued_max = 2_500
//! backlog_bytes_max = 536_870_912
//! connections_max = 10_000
//! stop_grace_ms = 15_000
//! ```
//!
//! Further stores, each with task hubs and modules of its own, which requests name with `connection=NAME`. The name counts without regard to
//! case; the store in `--data` is `Storage`. The bounds hold for each store alone, but for `residents_max` and `residents_bytes_max`, which
//! all stores share evenly, and `event_streams_max`. Their metrics are added up:
//!
//! ```toml
//! [stores.Archive]
//! data = "/var/lib/dacapo-archive"      # its data directory, which is made if it is not there; as with --data, from where the server is started
//! ```
//!
//! How long instances are kept after they have ended, which is for ever unless it stands here; a hub may say otherwise, also `"forever"`:
//!
//! ```toml
//! [retention]
//! completed = "30d"                     # 90s, 30m, 12h, 30d; likewise `failed` and `terminated`
//! all = "365d"                          # those of which nothing else is said
//! ```
//!
//! What the activities of a task hub get, which is nothing unless it stands here. The hub's name counts without regard to case, and
//! means the hub of that name in every store:
//!
//! ```toml
//! [hubs.DurableFunctionsHub.network]
//! allow = [                             # what activities and durable HTTP requests may reach; any port where none is given
//!     "api.example.com",                # this name, as long as it leads to public addresses
//!     "*.example.org:443",              # all names below this one
//!     "10.1.0.0/16",                    # these addresses, private or not; a name that leads to them has to be listed too
//!     "127.0.0.1:8080",                 # also when it is called localhost
//! ]                                     # "*" is every name and every public address
//!
//! [hubs.DurableFunctionsHub.environment]
//! REGION = "north"                      # a variable in the environment of activities
//!
//! [hubs.DurableFunctionsHub.secrets]    # variables too, whose values are kept out of histories and logs
//! API_KEY = { env = "BAKERY_API_KEY" }  # from the server's own environment
//! PASSWORD = { file = "/run/secrets/password" }  # from a file, without the line break at its end
//!
//! [hubs.DurableFunctionsHub.limits]
//! activities_running_max = 64           # how many activities and requests of this hub run at once
//!
//! [hubs.DurableFunctionsHub.limits.functions.ChargeCard]
//! running_max = 2                       # how many calls of this function
//!
//! [hubs.DurableFunctionsHub.retention]
//! failed = "forever"
//! ```

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use crate::api::Edition;
use crate::engine::{Existing, StoreSettings};
use crate::host::HubSettings;
use crate::limits::Limits;
use crate::model::{HubName, Retention, StoreName};

/// The settings of a server. An unknown name is an error: a typing mistake must not pass for a setting.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The edition of the wire contract whose status codes hold for requests that name none. Default: `"2018"`.
    pub edition: Edition,
    /// The task hub of requests that name none; `"%NAME%"` is what the environment variable `NAME` says. Default:
    /// `"DurableFunctionsHub"`.
    #[serde(deserialize_with = "hub_name")]
    pub default_hub: HubName,
    /// Which instances a start with their ID replaces. Default: `"NonRunningStates"`.
    pub overridable_existing_instance_states: Overridable,
    /// Names, without scheme and port, under which a server without keys may be called besides those of the loopback interface,
    /// for a proxy in front of it. Without effect on a server that asks for keys. Default: none.
    #[serde(deserialize_with = "host_names")]
    pub hosts: Vec<String>,
    /// Whether generated URLs follow `X-Forwarded-Host` and `X-Forwarded-Proto`. Only behind a proxy that sets both. Default: no.
    pub use_forwarded_host: bool,
    /// For how long a URL in a check-status object opens what it is for, in seconds: it then carries a signature for one operation on one
    /// instance in place of the system key. Without effect on a server that asks for no keys. Default: 0, which is: it carries the key.
    pub capability_links_s: u32,
    /// The bounds, each with unit and reason in [`Limits`].
    #[serde(deserialize_with = "limits")]
    pub limits: Limits,
    /// The stores besides the one in the data directory. Default: none.
    #[serde(deserialize_with = "stores")]
    pub stores: Vec<(StoreName, StoreSettings)>,
    /// How long instances are kept after they have ended, in hubs that do not say so themselves. Default: for ever.
    pub retention: Retention,
    /// What each task hub gives its activities, and what else holds for it. Default: nothing.
    #[serde(deserialize_with = "hubs")]
    pub hubs: HashMap<HubName, HubSettings>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edition: Edition::default(),
            default_hub: HubName::default_hub(),
            overridable_existing_instance_states: Overridable::default(),
            hosts: Vec::new(),
            use_forwarded_host: false,
            capability_links_s: 0,
            limits: Limits::of_this_machine(),
            stores: Vec::new(),
            retention: Retention::default(),
            hubs: HashMap::new(),
        }
    }
}

/// Which instances a start with their ID replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Overridable {
    /// Those that have ended. A start on another one is refused.
    #[default]
    NonRunningStates,
    /// Any. One that has not ended is terminated before: whoever waits for its end hears that it was, and its activities are told to stop.
    AnyState,
}

impl From<Overridable> for Existing {
    fn from(overridable: Overridable) -> Self {
        match overridable {
            Overridable::NonRunningStates => Self::ReplaceEnded,
            Overridable::AnyState => Self::Replace,
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

/// Bounds that let something run: with nothing allowed at all, starts would be taken and wait for ever.
fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
    let limits = Limits::deserialize(deserializer)?;
    match limits.nothing_runs_with() {
        None => Ok(limits),
        Some(name) => {
            Err(de::Error::custom(format!("{name} = 0 would let nothing run; leave it out for the default, or give it a number")))
        }
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

/// The name of a hub, or that of an environment variable, between percent signs, which holds one.
fn hub_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HubName, D::Error> {
    let text = String::deserialize(deserializer)?;
    let name = match text.strip_prefix('%').and_then(|rest| rest.strip_suffix('%')) {
        None => text,
        Some(variable) => env::var(variable)
            .map_err(|_| de::Error::custom(format!("the environment has no text in {variable:?}, which {text:?} asks for")))?,
    };
    name.parse().map_err(de::Error::custom)
}

/// Two hubs whose names differ in case only are one, and it has to be said in one place what that gets.
fn hubs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashMap<HubName, HubSettings>, D::Error> {
    let mut hubs = HashMap::new();
    for (name, settings) in BTreeMap::<String, HubSettings>::deserialize(deserializer)? {
        let hub: HubName = name.parse().map_err(de::Error::custom)?;
        if hubs.insert(hub, settings).is_some() {
            return Err(de::Error::custom(format!("hub {name:?} stands here twice (case does not count)")));
        }
    }
    Ok(hubs)
}

/// Two stores whose names differ in case only would be one to whoever asks for them; nor can one be called as that in the data directory is.
fn stores<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(StoreName, StoreSettings)>, D::Error> {
    let mut stores: Vec<(StoreName, StoreSettings)> = Vec::new();
    for (name, settings) in BTreeMap::<String, StoreSettings>::deserialize(deserializer)? {
        let store: StoreName = name.parse().map_err(de::Error::custom)?;
        if store == StoreName::default_store() {
            return Err(de::Error::custom(format!(
                "{name:?} is the store in the data directory (--data); give this one another name"
            )));
        }
        if stores.iter().any(|(known, _)| *known == store) {
            return Err(de::Error::custom(format!("store {name:?} stands here twice (case does not count)")));
        }
        stores.push((store, settings));
    }
    Ok(stores)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::host::{NetworkSettings, SecretSource};
    use crate::limits::{FunctionLimit, WorkLimits};
    use crate::model::Kept;

    /// The files in this module's own documentation: what holds by default, further stores, what is kept, and what hubs may get.
    fn documented() -> [String; 4] {
        let lines = include_str!("config.rs").lines().map_while(|line| line.strip_prefix("//!"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let files: Vec<String> = text.split(" ```").skip(1).step_by(2).map(|file| file.replacen("toml", "", 1)).collect();
        files.try_into().unwrap()
    }

    fn check_refused(text: &str, line: &str, reason: &str) {
        let error = toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(line) && error.contains(reason), "{text}: {error}");
    }

    #[test]
    fn the_documented_file_says_what_holds_without_one() {
        let [file, ..] = documented();
        assert_eq!(toml::from_str::<Config>(&file).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        // And it leaves nothing out.
        let limits: toml::Table = toml::from_str(&toml::to_string(&Limits::default()).unwrap()).unwrap();
        let file: toml::Table = toml::from_str(&file).unwrap();
        assert_eq!(file["limits"].as_table(), Some(&limits));
        assert_eq!(file.len(), 7);
    }

    #[test]
    fn the_documented_store_is_one_besides_the_default_one() {
        let [_, file, ..] = documented();
        let settings = StoreSettings { data: "/var/lib/dacapo-archive".into() };
        let expected = Config { stores: vec![("archive".parse().unwrap(), settings)], ..Config::default() };
        assert_eq!(toml::from_str::<Config>(&file).unwrap(), expected);
    }

    #[test]
    fn the_documented_hub_gets_what_is_said_there() {
        let [_, _, retention, file] = documented();
        let config: Config = toml::from_str(&retention).unwrap();
        let expected = Retention {
            completed: Some(Kept::Ms(30 * 86_400_000)),
            all: Some(Kept::Ms(365 * 86_400_000)),
            ..Retention::default()
        };
        assert_eq!(config.retention, expected);
        let allow = ["api.example.com", "*.example.org:443", "10.1.0.0/16", "127.0.0.1:8080"];
        let expected = HubSettings {
            network: NetworkSettings { allow: allow.map(|entry| entry.parse().unwrap()).to_vec() },
            environment: BTreeMap::from([("REGION".into(), "north".into())]),
            secrets: BTreeMap::from([
                ("API_KEY".into(), SecretSource::Env("BAKERY_API_KEY".into())),
                ("PASSWORD".into(), SecretSource::File("/run/secrets/password".into())),
            ]),
            limits: WorkLimits {
                activities_running_max: NonZeroU32::new(64),
                functions: [("chargecard".to_owned(), FunctionLimit { running_max: NonZeroU32::new(2) })].into_iter().collect(),
            },
            retention: Retention { failed: Some(Kept::Forever), ..Retention::default() },
        };
        let config: Config = toml::from_str(&file).unwrap();
        assert_eq!(config.hubs, HashMap::from([("durablefunctionsHUB".parse().unwrap(), expected)]));
    }

    #[test]
    fn what_a_file_says_replaces_the_default_and_nothing_else() {
        let config: Config = toml::from_str(
            "edition = 'current'\noverridable_existing_instance_states = 'AnyState'\ndefault_hub = 'Bakery'\nhosts = ['dev.example']\nuse_forwarded_host = true\ncapability_links_s = 60\n\
             [limits]\ntasks_max = 7",
        )
        .unwrap();
        let expected = Config {
            edition: Edition::Current,
            default_hub: "Bakery".parse().unwrap(),
            overridable_existing_instance_states: Overridable::AnyState,
            hosts: vec!["dev.example".into()],
            use_forwarded_host: true,
            capability_links_s: 60,
            limits: Limits { tasks_max: 7, ..Limits::of_this_machine() },
            stores: Vec::new(),
            retention: Retention::default(),
            hubs: HashMap::new(),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_default_hub_may_be_named_by_the_environment() {
        // A variable that cargo sets.
        let config: Config = toml::from_str("default_hub = '%CARGO_PKG_NAME%'").unwrap();
        assert_eq!(config.default_hub, env!("CARGO_PKG_NAME").parse().unwrap());
        check_refused("default_hub = '%DACAPO_NOBODY_SETS_THIS%'", "line 1", "no text in \"DACAPO_NOBODY_SETS_THIS\"");
        check_refused("default_hub = '%CARGO_PKG_VERSION%'", "line 1", "task hub name");
        check_refused("default_hub = '%'", "line 1", "task hub name \"%\" must be");
    }

    #[test]
    fn a_mistake_is_refused_with_its_line_and_name() {
        check_refused("\nhost = []", "line 2", "unknown field `host`");
        check_refused("[limits]\n\ntask_max = 1", "line 3", "unknown field `task_max`");
        check_refused("[limits]\ntasks_max = -1", "line 2", "tasks_max");
        check_refused("[limits]\nactivities_running_max = 0", "line 1", "activities_running_max = 0 would let nothing run");
        check_refused("overridable_existing_instance_states = 'Running'", "line 1", "`NonRunningStates` or `AnyState`");
        check_refused("edition = '2019'", "line 1", "`2018` or `current`");
        check_refused("default_hub = '1'", "line 1", "task hub name \"1\" must be");
        check_refused("[hubs.Bakery.network]\nallow = ['http://dev.example']", "line 2", "without scheme");
        check_refused("[hubs.Bakery.secrets]\nKEY = 'rye-bread'", "line 2", "KEY");
        check_refused("[hubs.Bakery]\nnet.allow = []", "line 2", "unknown field `net`");
        check_refused("[retention]\nall = '2w'", "line 2", "\"2w\" is no time to keep something");
        check_refused("[hubs.Bakery]\n[hubs.BAKERY]", "line", "twice");
        check_refused("[stores.A]\ndata = 'a'\n[stores.a]\ndata = 'b'", "line", "store \"a\" stands here twice");
        check_refused("[stores.STORAGE]\ndata = 'a'", "line 1", "\"STORAGE\" is the store in the data directory");
        check_refused("[stores.'a b']\ndata = 'a'", "line 1", "store name \"a b\" must be");
        check_refused("[stores.A]\nfolder = 'a'", "line", "unknown field `folder`");
        check_refused("[stores.A]", "line 1", "missing field `data`");
        check_refused("hosts = ['http://dev.example:80']", "line 1", "without scheme and port");
    }
}
