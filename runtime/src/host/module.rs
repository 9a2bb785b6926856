//! What does a module offer, and is it fit to run here? Validation, and code that is ready to be instantiated.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::Component;

use super::activity::{ActivityCode, Invocation};
use super::contract::{self, catalog as bindings};
use super::engines::Engines;
use super::fault;
use super::orchestrator::{self, OrchestratorCode, OrchestratorGuest};
use super::state::{self, GuestState};
use crate::limits::Limits;
use crate::model::{Digest, LogLine, Outcome};

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

    /// All names, of all roles.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.orchestrators.iter().chain(&self.activities).map(String::as_str)
    }

    fn of(description: bindings::Description) -> Result<Self, ModuleError> {
        let invalid = |message: String| Err(ModuleError::Invalid(message));
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
                    "the catalog has the function name {name:?}: it must have 1 to 256 characters, without '/', '\\', '#', '?' and \
                     control characters"
                ));
            }
            if find_in(catalog.functions(), &name).is_some() {
                return invalid(format!("the catalog has the function {name:?} twice (case does not count)"));
            }
            match function.role {
                bindings::Role::Orchestrator => catalog.orchestrators.push(name),
                bindings::Role::Activity => catalog.activities.push(name),
                bindings::Role::Entity => {
                    return invalid(format!("{name:?} is an entity, which this version of Dacapo does not offer"));
                }
                bindings::Role::Query => {
                    return invalid(format!("{name:?} is a query, which this version of Dacapo does not offer"));
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

fn find<'a>(names: &'a [String], name: &str) -> Option<&'a str> {
    find_in(names.iter().map(String::as_str), name)
}

fn find_in<'a>(mut names: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    let lower = name.to_lowercase();
    names.find(|known| *known == name || known.to_lowercase() == lower)
}

fn is_function_name(name: &str) -> bool {
    (1..=256).contains(&name.chars().count()) && !name.contains(|c: char| matches!(c, '/' | '\\' | '#' | '?') || c.is_control())
}

/// One version of a module, compiled, linked and checked.
pub struct Module {
    digest: Digest,
    catalog: Arc<Catalog>,
    orchestrator: Option<OrchestratorCode>,
    activity: Option<ActivityCode>,
}

impl Module {
    /// Links and checks a module, and asks it for its catalog, which runs code of it.
    ///
    /// # Errors
    /// [`ModuleError::Invalid`] with what is wrong.
    pub(super) fn new(
        digest: Digest,
        engines: &Engines,
        limits: &Limits,
        deterministic: &Component,
        activities: Option<&Component>,
    ) -> Result<Self, ModuleError> {
        let invalid = |error: wasmtime::Error| ModuleError::Invalid(format!("the module cannot be linked: {error:#}"));
        let has = check_interfaces(engines, deterministic)?;
        let pre = orchestrator::link(&engines.deterministic, deterministic).map_err(invalid)?;
        let indices = bindings::GuestIndices::new(&pre).map_err(invalid)?;

        let mut store =
            Store::new(&engines.deterministic, GuestState::new(limits.guest_memory_bytes_max, limits.turn_cpu_ms_max));
        state::bind(&mut store);
        store.set_epoch_deadline(1);
        let described = pre
            .instantiate(&mut store)
            .and_then(|instance| indices.load(&mut store, &instance)?.call_describe(&mut store))
            .map_err(|error| {
                let fault = fault::of(&error, store.data_mut().panic.take());
                ModuleError::Invalid(format!("the module failed when it was asked for its catalog: {}", fault.failure().message))
            });
        let catalog = Catalog::of(described?)?;

        if !has.orchestrator && !catalog.orchestrators.is_empty() {
            return Err(lacks(&catalog.orchestrators, contract::ORCHESTRATOR));
        }
        if activities.is_none() && !catalog.activities.is_empty() {
            return Err(lacks(&catalog.activities, contract::ACTIVITY));
        }
        let orchestrator = if has.orchestrator { Some(OrchestratorCode::new(pre).map_err(invalid)?) } else { None };
        let activity = activities.map(|code| ActivityCode::new(&engines.activities, code)).transpose().map_err(invalid)?;
        Ok(Self { digest, catalog: Arc::new(catalog), orchestrator, activity })
    }

    /// Which module this is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it says of itself.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// A fresh guest for one execution.
    ///
    /// # Errors
    /// [`NoGuest::NoSlot`] if as many guests are alive as the pool can hold.
    pub fn orchestrator(&self, limits: &Limits) -> Result<OrchestratorGuest, NoGuest> {
        let Some(code) = &self.orchestrator else {
            return Err(NoGuest::Failed(format!("module {} runs no orchestrations", self.digest)));
        };
        OrchestratorGuest::new(code, self.catalog.clone(), limits).map_err(NoGuest::of)
    }

    /// Runs one activity to its end. Dropping the future stops it where it is.
    ///
    /// # Errors
    /// If it has not run: there was no slot, or the module does not have it.
    pub async fn invoke(&self, invocation: &Invocation, limits: &Limits) -> Result<(Outcome, Vec<LogLine>), NoGuest> {
        let Some((code, function)) = self.activity.as_ref().zip(self.catalog.activity(&invocation.function)) else {
            return Err(NoGuest::Failed(format!("module {} has no activity named {:?}", self.digest, invocation.function)));
        };
        code.invoke(invocation, function, limits).await.map_err(NoGuest::of)
    }
}

/// Why there is no guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoGuest {
    /// All slots are taken. Drop a guest that waits, and try again.
    NoSlot,
    /// Anything else.
    Failed(String),
}

impl NoGuest {
    fn of(error: wasmtime::Error) -> Self {
        if error.is::<wasmtime::PoolConcurrencyLimitError>() { Self::NoSlot } else { Self::Failed(format!("{error:#}")) }
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
        if !is_wasi && import != contract::LOG && import != contract::TYPES {
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
