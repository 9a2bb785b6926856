//! What does a hub give its activities beside their input? Network, variables and secrets, as the configuration says; and what else it
//! says of a hub.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use serde::Deserialize;

use super::network::{Entry, Policy};
use super::secrets::{CHARACTERS_MIN, Secrets};
use crate::limits::WorkLimits;
use crate::model::{HubName, Retention};

/// What the configuration says of one hub. Where secrets are to be found, not what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubSettings {
    /// What may be reached. Default: nothing.
    pub network: NetworkSettings,
    /// Variables in the environment of activities. Default: none.
    pub environment: BTreeMap<String, String>,
    /// Variables whose values are kept from histories and logs. Read once, when the server starts. Default: none.
    pub secrets: BTreeMap<String, SecretSource>,
    /// How much of its work runs at once. Default: as much as the server's bound allows.
    pub limits: WorkLimits,
    /// How long its instances are kept after they have ended. Default: as the configuration says for all hubs.
    pub retention: Retention,
}

/// What the configuration says of one hub's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Names, addresses and ranges that may be reached; the rules stand at the top of `host/network.rs`. Default: none.
    pub allow: Vec<Entry>,
}

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// In this variable of the server's own environment.
    Env(String),
    /// In this file: all of it, but for one line break at its end.
    File(PathBuf),
}

/// Why what a hub gives cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("section [hubs.{hub}.{section}], {name}: {why}")]
pub struct SurroundingsError {
    hub: HubName,
    section: &'static str,
    name: String,
    why: String,
}

/// What one hub gives its activities. Printing it shows no secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Surroundings {
    pub(super) network: Policy,
    pub(super) environment: Vec<(String, String)>,
    pub(super) secrets: Secrets,
    /// How many of them run at once.
    pub(crate) limits: WorkLimits,
    /// How long instances are kept after they have ended.
    pub(crate) retention: Retention,
}

/// What each hub gives, found without regard to case.
#[derive(Debug, Clone, Default)]
pub struct SurroundingsByHub {
    hubs: HashMap<HubName, Arc<Surroundings>>,
    /// How long instances are kept where the hub does not say.
    retention: Retention,
}

impl Default for Surroundings {
    /// Nothing, to the default hub.
    fn default() -> Self {
        Self::nothing(HubName::default_hub(), Retention::default())
    }
}

impl Surroundings {
    /// What a hub gives of which the configuration says nothing.
    fn nothing(hub: HubName, retention: Retention) -> Self {
        Self {
            network: Policy::new(hub, Vec::new()),
            environment: Vec::new(),
            secrets: Secrets::default(),
            limits: WorkLimits::default(),
            retention,
        }
    }

    /// Reads the secrets, from files and from `variable`.
    fn read(
        hub: &HubName,
        settings: &HubSettings,
        variable: &impl Fn(&str) -> Result<String, env::VarError>,
    ) -> Result<Self, SurroundingsError> {
        let error = |section: &'static str, name: &str, why: String| SurroundingsError {
            hub: hub.clone(),
            section,
            name: name.to_owned(),
            why,
        };
        for (name, value) in &settings.environment {
            check_variable(name, value).map_err(|why| error("environment", name, why))?;
        }
        let mut secrets = Vec::new();
        for (name, source) in &settings.secrets {
            let failed = |why: String| error("secrets", name, why);
            if settings.environment.contains_key(name) {
                return Err(failed(format!("section [hubs.{hub}.environment] has this name too")));
            }
            let value = source.read(variable).map_err(failed)?;
            check_variable(name, &value).map_err(failed)?;
            if value.is_empty() {
                return Err(failed(format!("{source} is empty")));
            }
            if value.chars().count() < CHARACTERS_MIN {
                tracing::warn!(
                    "secret {name} of hub {hub} has fewer than {CHARACTERS_MIN} characters: it is not looked for in what activities say"
                );
            }
            secrets.push((name.clone(), value));
        }
        Ok(Self {
            network: Policy::new(hub.clone(), settings.network.allow.clone()),
            environment: settings.environment.clone().into_iter().collect(),
            secrets: Secrets::new(secrets),
            limits: settings.limits.clone(),
            retention: settings.retention,
        })
    }

    /// All variables of an activity's environment.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let environment = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        environment.chain(self.secrets.variables())
    }
}

impl SurroundingsByHub {
    /// Reads all secrets that `settings` name. Where they do not say how long instances are kept, `retention` does.
    ///
    /// # Errors
    /// If one cannot be had, or what is given cannot be in an environment.
    pub fn read(settings: &HashMap<HubName, HubSettings>, retention: Retention) -> Result<Self, SurroundingsError> {
        let read = |(hub, settings): (&HubName, &HubSettings)| {
            let surroundings = Surroundings::read(hub, settings, &|name| env::var(name))?;
            let retention = surroundings.retention.or(retention);
            Ok((hub.clone(), Arc::new(Surroundings { retention, ..surroundings })))
        };
        Ok(Self { hubs: settings.iter().map(read).collect::<Result<_, _>>()?, retention })
    }

    /// What this hub gives: nothing, if the configuration does not say.
    pub fn of(&self, hub: &HubName) -> Arc<Surroundings> {
        self.hubs.get(hub).cloned().unwrap_or_else(|| Arc::new(Surroundings::nothing(hub.clone(), self.retention)))
    }
}

impl std::fmt::Display for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the server's environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

impl SecretSource {
    fn read(&self, variable: &impl Fn(&str) -> Result<String, env::VarError>) -> Result<String, String> {
        match self {
            Self::Env(name) => variable(name).map_err(|error| match error {
                env::VarError::NotPresent => format!("{self} is not set"),
                env::VarError::NotUnicode(_) => format!("{self} is not UTF-8 text"), // The error would show it.
            }),
            Self::File(path) => {
                let mut text = fs::read_to_string(path).map_err(|error| format!("cannot read {self}: {error}"))?;
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                Ok(text)
            }
        }
    }
}

fn check_variable(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("the name of a variable must not be empty, and must not have '=' in it".into());
    }
    if value.contains('\0') {
        return Err("the value of a variable must not have a zero byte in it".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kept, RuntimeStatus};

    fn settings(text: &str) -> HubSettings {
        toml::from_str(text).unwrap()
    }

    fn read(text: &str) -> Result<Surroundings, String> {
        let variable = |name: &str| match name {
            "BAKERY_API_KEY" => Ok("rye-bread".to_owned()),
            "EMPTY" => Ok(String::new()),
            "BINARY" => Err(env::VarError::NotUnicode("rye-bread".into())),
            _ => Err(env::VarError::NotPresent),
        };
        Surroundings::read(&"Bakery".parse().unwrap(), &settings(text), &variable).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_are_read_from_variables_and_files_and_are_part_of_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "two\nlines\r\n").unwrap();
        let text =
            format!("environment.REGION = 'north'\nsecrets.KEY.env = 'BAKERY_API_KEY'\nsecrets.PEM.file = '{}'", file.display());
        let surroundings = read(&text).unwrap();
        let mut variables: Vec<_> = surroundings.variables().collect();
        variables.sort_unstable();
        assert_eq!(variables, [("KEY", "rye-bread"), ("PEM", "two\nlines"), ("REGION", "north")]);
        let shown = format!("{surroundings:?}");
        assert!(shown.contains("KEY") && !shown.contains("rye-bread") && !shown.contains("lines"), "{shown}");
    }

    #[test]
    fn what_cannot_be_had_is_an_error_that_names_it_and_shows_no_value() {
        for (text, expected) in [
            ("secrets.KEY.env = 'NONE'", "[hubs.Bakery.secrets], KEY: the server's environment variable NONE is not set"),
            ("secrets.KEY.env = 'EMPTY'", "EMPTY is empty"),
            ("secrets.KEY.env = 'BINARY'", "BINARY is not UTF-8 text"),
            ("secrets.KEY.file = '/nowhere/key'", "cannot read the file /nowhere/key"),
            ("secrets.KEY.env = 'BAKERY_API_KEY'\nenvironment.KEY = '1'", "has this name too"),
            ("environment.'A=B' = '1'", "[hubs.Bakery.environment], A=B: the name"),
            ("environment.A = \"\\u0000\"", "zero byte"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("rye-bread"), "{error}");
        }
    }

    #[test]
    fn a_hub_is_found_in_any_case_and_one_that_is_not_configured_gets_nothing() {
        let text = "environment.REGION = 'north'\nretention.failed = '1d'";
        let hubs = HashMap::from([("Bakery".parse().unwrap(), settings(text))]);
        let retention = Retention { all: Some(Kept::Ms(1)), ..Retention::default() };
        let surroundings = SurroundingsByHub::read(&hubs, retention).unwrap();
        let bakery = surroundings.of(&"BAKERY".parse().unwrap());
        assert_eq!(bakery.variables().count(), 1);
        let kept_ms = [RuntimeStatus::Failed, RuntimeStatus::Completed].map(|status| bakery.retention.ms(status));
        assert_eq!(kept_ms, [Some(86_400_000), Some(1)]);
        assert_eq!(*surroundings.of(&"Mill".parse().unwrap()), Surroundings::nothing("Mill".parse().unwrap(), retention));
    }
}
