//! What does a module offer, and is it fit to run here? Validation, and code that is ready to be instantiated.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, InstancePre};

use super::activity::{ActivityCode, Invocation};
use super::background::Background;
use super::client::Client;
use super::contract::{self, catalog as bindings};
use super::engines::Engines;
use super::fault::{self, NoGuest};
use super::orchestrator::{self, OrchestratorCode, OrchestratorGuest};
use super::state::{self, GuestState};
use super::surroundings::Surroundings;
use super::text::{FUNCTION_CHARACTERS_MAX, GENERATOR_CHARACTERS_MAX, nearest};
use crate::limits::Limits;
use crate::model::{Digest, Failure, Outcome};
use crate::priority;
use crate::replay::Fault;

/// Why a module cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModuleError {
    /// The module is not fit to run here; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// The host could not do its part.
    #[error("{0}")]
    Internal(String),
}

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The version of the guest contract that it speaks.
    pub contract: String,
    /// What made it, in its own words.
    pub generator: String,
    /// Its orchestrators, as it spells them.
    pub orchestrators: Vec<String>,
    /// Its activities, as it spells them.
    pub activities: Vec<String>,
}

impl Catalog {
    /// How the module spells the orchestrator `name`, if it has it. Case does not count.
    pub fn orchestrator(&self, name: &str) -> Option<&str> {
        find(&self.orchestrators, name)
    }

    /// How the module spells the activity `name`, if it has it. Case does not count.
    pub fn activity(&self, name: &str) -> Option<&str> {
        find(&self.activities, name)
    }

    /// Says that nobody has the activity `name`, and which one of this module may have been meant.
    pub fn no_activity(&self, name: &str) -> String {
        const NAMES_SHOWN_MAX: usize = 10;
        let names = || self.activities.iter().map(String::as_str);
        let advice = if self.orchestrator(name).is_some() {
            "it is an orchestrator".to_owned()
        } else if let Some(nearest) = nearest(name, names()) {
            format!("did you mean {nearest:?}?")
        } else if self.activities.is_empty() {
            "the orchestrator's own module has none".to_owned()
        } else {
            let shown: Vec<String> = names().take(NAMES_SHOWN_MAX).map(|name| format!("{name:?}")).collect();
            let more = if self.activities.len() > NAMES_SHOWN_MAX { " and more" } else { "" };
            format!("the orchestrator's own module has {}{more}", shown.join(", "))
        };
        format!("no module in this task hub has an activity named {name:?}: {advice}")
    }

    /// All names, of all roles.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.orchestrators.iter().chain(&self.activities).map(String::as_str)
    }

    fn of(description: bindings::Description, functions_max: u32) -> Result<Self, ModuleError> {
        let invalid = |message: String| Err(ModuleError::Invalid(message));
        let characters = description.generator.chars().count();
        if characters > GENERATOR_CHARACTERS_MAX {
            return invalid(format!(
                "the catalog's generator has {characters} characters, and may have {GENERATOR_CHARACTERS_MAX}"
            ));
        }
        let functions = description.functions.len();
        if functions > functions_max as usize {
            return invalid(format!("the catalog has {functions} functions, and may have {functions_max} (limit functions_max)"));
        }
        let mut names = HashSet::new();
        let mut catalog = Self {
            contract: contract::VERSION.into(),
            generator: description.generator,
            orchestrators: Vec::new(),
            activities: Vec::new(),
        };
        for function in description.functions {
            let name = function.name;
            if !is_function_name(&name) {
                return invalid(format!(
                    "the catalog has the function name {name:?}: it must have 1 to {FUNCTION_CHARACTERS_MAX} characters, without '/', '\\', '#', '?' and \
                     control characters"
                ));
            }
            if !names.insert(name.to_lowercase()) {
                return invalid(format!("the catalog has the function {name:?} twice (case does not count)"));
            }
            match function.role {
                bindings::Role::Orchestrator => catalog.orchestrators.push(name),
                bindings::Role::Activity => catalog.activities.push(name),
                bindings::Role::Entity => {
                    return invalid(format!("{name:?} is an entity, which this version of Dacapo does not offer"));
                }
                bindings::Role::Extension((role, _)) => {
                    return invalid(format!("{name:?} has the role {role:?}, which this version of Dacapo does not offer"));
                }
            }
        }
        if catalog.functions().next().is_none() {
            return invalid("the catalog is empty: list the module's functions in `dacapo_guest::module!`".into());
        }
        Ok(catalog)
    }
}

/// Nearly always somebody who knows the name asks, so that the spelling is the same.
fn find<'a>(names: &'a [String], name: &str) -> Option<&'a str> {
    let in_other_case = || {
        let lower = name.to_lowercase();
        names.iter().find(|known| known.to_lowercase() == lower)
    };
    names.iter().find(|known| *known == name).or_else(in_other_case).map(String::as_str)
}

fn is_function_name(name: &str) -> bool {
    (1..=FUNCTION_CHARACTERS_MAX).contains(&name.chars().count())
        && !name.contains(|c: char| matches!(c, '/' | '\\' | '#' | '?') || c.is_control())
}

/// One version of a module, compiled, linked and checked.
pub struct Module {
    digest: Digest,
    catalog: Arc<Catalog>,
    orchestrator: Option<OrchestratorCode>,
    activity: Option<Arc<ActivityCode>>,
}

impl Module {
    /// Links and checks a module, and asks it for its catalog, which runs code of it.
    ///
    /// # Errors
    /// [`ModuleError::Invalid`] with what is wrong.
    pub(super) fn new(
        digest: Digest,
        engines: &Engines,
        client: &Client,
        background: &Arc<Background>,
        limits: &Limits,
        deterministic: &Component,
        activities: Option<&Component>,
    ) -> Result<Self, ModuleError> {
        let invalid = |error: wasmtime::Error| ModuleError::Invalid(format!("the module cannot be linked: {error:#}"));
        let has = check_interfaces(engines, deterministic)?;
        let pre = orchestrator::link(&engines.deterministic, deterministic).map_err(invalid)?;
        let indices = bindings::GuestIndices::new(&pre).map_err(invalid)?;
        // On a thread of its own, since that gets a lower priority if the guest computes for long.
        let described = thread::scope(|scope| {
            let describe = || {
                priority::may_be_lowered(|| ());
                describe(&pre, &indices, limits)
            };
            scope.spawn(describe).join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        let catalog = Catalog::of(described?, limits.functions_max)?;

        if !has.orchestrator && !catalog.orchestrators.is_empty() {
            return Err(lacks(&catalog.orchestrators, contract::ORCHESTRATOR));
        }
        if activities.is_none() && !catalog.activities.is_empty() {
            return Err(lacks(&catalog.activities, contract::ACTIVITY));
        }
        let orchestrator = if has.orchestrator { Some(OrchestratorCode::new(pre).map_err(invalid)?) } else { None };
        let activity = activities.map(|code| ActivityCode::new(&engines.activities, code, client.clone(), background.clone()));
        let activity = activity.transpose().map_err(invalid)?.map(Arc::new);
        Ok(Self { digest, catalog: Arc::new(catalog), orchestrator, activity })
    }

    /// What it says of itself.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// A fresh guest for one execution.
    ///
    /// # Errors
    /// As [`NoGuest`] says.
    pub fn orchestrator(&self, limits: &Limits) -> Result<OrchestratorGuest, NoGuest> {
        let Some(code) = &self.orchestrator else {
            return Err(unknown_function(format!("module {} runs no orchestrations", self.digest)));
        };
        OrchestratorGuest::new(code, self.catalog.clone(), limits)
    }

    /// Runs one activity to its end, with what its hub gives. Dropping the future stops it where it is.
    ///
    /// # Errors
    /// If it has not run, as [`NoGuest`] says.
    pub async fn invoke(
        &self,
        invocation: &Invocation,
        limits: &Limits,
        surroundings: &Arc<Surroundings>,
    ) -> Result<Outcome, NoGuest> {
        let Some((code, function)) = self.activity.as_ref().zip(self.catalog.activity(&invocation.function)) else {
            return Err(unknown_function(format!("module {} has no activity named {:?}", self.digest, invocation.function)));
        };
        code.invoke(invocation, function, limits, surroundings).await
    }
}

fn unknown_function(message: String) -> NoGuest {
    NoGuest::Guest(Fault::Certain(Failure::new("UnknownFunction", message)))
}

/// Asks a module for its catalog, in an instance of its own. Waits for a slot: there are more of them than guests that stay alive.
fn describe(
    pre: &InstancePre<GuestState>,
    indices: &bindings::GuestIndices,
    limits: &Limits,
) -> Result<bindings::Description, ModuleError> {
    const WAIT_MAX: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(1);
    let failed = |fault: Fault| {
        ModuleError::Invalid(format!("the module failed when it was asked for its catalog: {}", fault.failure().message))
    };
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let mut store = state::store(pre.engine(), limits);
        let instance = match pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) => match fault::at_instantiation(&error, store.data_mut().panic.take()) {
                NoGuest::NoSlot if Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                    continue;
                }
                NoGuest::NoSlot => {
                    return Err(ModuleError::Internal("all slots for guests are taken; try again".into()));
                }
                NoGuest::Guest(fault) => return Err(failed(fault)),
                NoGuest::Host(message) => return Err(ModuleError::Internal(message)),
            },
        };
        let described = indices.load(&mut store, &instance).and_then(|guest| guest.call_describe(&mut store));
        return described.map_err(|error| failed(fault::of(&error, store.data_mut().panic.take())));
    }
}

fn lacks(functions: &[String], interface: &str) -> ModuleError {
    ModuleError::Invalid(format!("the catalog has {:?}, but the module does not export {interface}", functions[0]))
}

struct Interfaces {
    orchestrator: bool,
}

/// A module has a catalog, and imports nothing but what the contract and WASI 0.2 name.
fn check_interfaces(engines: &Engines, component: &Component) -> Result<Interfaces, ModuleError> {
    let ty = component.component_type();
    let engine = &engines.deterministic;
    for (import, _) in ty.imports(engine) {
        let is_wasi =
            import.starts_with("wasi:") && import.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."));
        if !is_wasi && ![contract::LOG, contract::HEARTBEAT, contract::TYPES].contains(&import) {
            return Err(ModuleError::Invalid(format!(
                "the module imports {import:?}, which is neither part of dacapo:guest@{} nor of WASI 0.2",
                contract::VERSION
            )));
        }
    }
    if ty.get_export(engine, contract::CATALOG).is_none() {
        return Err(ModuleError::Invalid(format!(
            "the module does not export {}: build it with the guest SDK, and list its functions in `dacapo_guest::module!`",
            contract::CATALOG
        )));
    }
    Ok(Interfaces { orchestrator: ty.get_export(engine, contract::ORCHESTRATOR).is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(generator: &str, names: impl IntoIterator<Item = String>) -> Result<Catalog, String> {
        let function = |name| bindings::Function { name, role: bindings::Role::Activity, properties: Vec::new() };
        let functions = names.into_iter().map(function).collect();
        Catalog::of(bindings::Description { generator: generator.into(), functions }, 1_000).map_err(|error| error.to_string())
    }

    fn check_refused(generator: &str, names: impl IntoIterator<Item = String>, reason: &str) {
        let error = catalog(generator, names).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn a_catalog_out_of_bounds_is_refused_with_the_bound() {
        let names = |count: u32| (0..count).map(|number| format!("bake-{number}"));
        assert_eq!(catalog(&"ø".repeat(200), names(1_000)).unwrap().activities.len(), 1_000);
        check_refused(&"ø".repeat(201), names(1), "generator has 201 characters, and may have 200");
        check_refused("by hand", names(1_001), "1001 functions, and may have 1000 (limit functions_max)");
        check_refused("by hand", ["x".repeat(257)], "1 to 256 characters");
        check_refused("by hand", ["Bake".into(), "BAKE".into()], "\"BAKE\" twice");
        check_refused("by hand", names(0), "empty");
    }

    #[test]
    fn a_name_that_nobody_has_is_answered_with_the_one_that_was_meant() {
        let mut catalog = catalog("by hand", ["Bake".into(), "Mix".into()]).unwrap();
        catalog.orchestrators.push("Deliver".into());
        let advice = |name: &str| catalog.no_activity(name).split_once(": ").unwrap().1.to_owned();
        assert_eq!(advice("Back"), r#"did you mean "Bake"?"#);
        assert_eq!(advice("deliver"), "it is an orchestrator");
        assert_eq!(advice("Advertise"), r#"the orchestrator's own module has "Bake", "Mix""#);
    }

    #[test]
    fn a_function_is_found_as_it_is_spelt_or_in_any_case() {
        let catalog = catalog("by hand", ["Bake".into(), "Brød".into()]).unwrap();
        assert_eq!(catalog.activity("Bake"), Some("Bake"));
        assert_eq!(catalog.activity("BRØD"), Some("Brød"));
        assert_eq!(catalog.activity("Fry"), None);
        assert_eq!(catalog.orchestrator("Bake"), None);
    }
}
