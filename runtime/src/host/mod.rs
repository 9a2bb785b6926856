//! How do guests run? The only code that names wasmtime.
//!
//! [`Host`] turns uploaded bytes into a [`Module`], once for each digest; a module makes guests. Called by the engine.

mod activity;
mod background;
mod cache;
mod client;
mod compiler;
mod contract;
mod engines;
mod fault;
#[cfg(test)]
mod fuzz;
mod heartbeat;
mod http;
mod module;
mod network;
mod orchestrator;
mod outgoing;
mod secrets;
mod state;
mod surroundings;
mod text;
mod trace;
mod wasi;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Engine;
use wasmtime::component::Component;

pub use activity::Invocation;
pub use cache::CompiledCode;
pub use compiler::{COMMAND as COMPILER_COMMAND, Compiler, child_main as compiler_child_main};
pub use fault::NoGuest;
pub use heartbeat::Heartbeat;
pub use module::{Catalog, Module, ModuleError};
pub use orchestrator::{OrchestratorGuest, UNKNOWN_QUERY};
pub use state::SharedLines;
pub use surroundings::{HubSettings, NetworkSettings, SecretSource, Surroundings, SurroundingsByHub, SurroundingsError};
pub(crate) use text::nearest;

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::{Digest, HttpCall, Outcome};
use background::Background;
use cache::Cache;
use client::Client;
use compiler::{Compiled, Places};
use engines::{CORE_INSTANCES_MAX, Engines, MEMORIES_MAX, TABLES_MAX};

/// How long a module that could not be made ready is not tried again.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// Runs guests.
pub struct Host {
    engines: Engines,
    limits: Limits,
    residents_max: u32,
    compiler: Compiler,
    metrics: Arc<Metrics>,
    compiling: Places,
    cache: Cache,
    client: Client,
    background: Arc<Background>,
    ready: Mutex<HashMap<Digest, Arc<Module>>>,
    /// Held while a module is made ready, so that many who want it do the work once.
    making_ready: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    /// What could not be made ready lately, and when: those who waited for it, and come again each second, need not try.
    failed: Mutex<HashMap<Digest, (Instant, ModuleError)>>,
}

impl Host {
    /// A host whose compiled code is where `code` says. `turns_max` is how many turns may run at once, and `share` how many hosts this process has.
    ///
    /// # Errors
    /// If the folder or the address space for guests cannot be had.
    pub fn new(
        code: CompiledCode<'_>,
        limits: &Limits,
        turns_max: u32,
        share: u32,
        compiler: Compiler,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ModuleError> {
        let residents_max = (engines::residents_max(limits) / share).max(1);
        let internal = |error: String| ModuleError::Internal(error);
        Ok(Self {
            // Describing a module at upload takes a slot too.
            engines: Engines::new(limits, residents_max, 2 * turns_max + 8)
                .map_err(|error| internal(format!("cannot reserve room for guests: {error:#}")))?,
            limits: limits.clone(),
            residents_max,
            compiler,
            metrics,
            compiling: Places::new(),
            cache: Cache::open(code).map_err(|error| internal(format!("cannot open {}: {error}", code.folder().display())))?,
            ready: Mutex::default(),
            making_ready: Mutex::default(),
            failed: Mutex::default(),
            client: Client::new((crate::descriptors::for_guests() / share as usize).max(1)),
            background: Arc::default(),
        })
    }

    /// Makes an HTTP request, and says what came of it: an answer, or why there is none. Takes as long as the call says, and
    /// `activity_ms_max` at most. Dropping the future gives the request up. Needs a tokio runtime with I/O and time.
    pub async fn request(&self, call: &HttpCall, surroundings: &Surroundings, limits: &Limits) -> Outcome {
        http::request(&self.client, call, surroundings, limits).await
    }

    /// Stops activities that still compute, and waits so long until they have let go of what they hold. When no others come any more; not to be
    /// called on a thread of an asynchronous runtime.
    pub fn close(&self, wait_max: Duration) {
        self.background.close(wait_max);
    }

    /// How many guests may stay alive between their turns.
    pub fn residents_max(&self) -> u32 {
        self.residents_max
    }

    /// The module with this digest, if it is in memory. Never blocks for long.
    pub fn ready_module(&self, digest: Digest) -> Option<Arc<Module>> {
        lock(&self.ready).get(&digest).cloned()
    }

    /// The module with this digest, ready to run: from memory, from the cache, or compiled from what `bytes` gives.
    ///
    /// Blocks: for microseconds if it is in memory, milliseconds if it is in the cache, else for as long as compiling takes.
    ///
    /// # Errors
    /// [`ModuleError::Invalid`] if the bytes are not fit to run here. Nothing is kept of them then.
    pub fn module(
        &self,
        digest: Digest,
        bytes: impl FnOnce() -> Result<Vec<u8>, ModuleError>,
    ) -> Result<Arc<Module>, ModuleError> {
        if let Some(module) = self.ready_module(digest) {
            return Ok(module);
        }
        let one_at_a_time = lock(&self.making_ready).entry(digest).or_default().clone();
        let _only_me = lock(&one_at_a_time);
        let made = self.ready_or_made(digest, bytes);
        lock(&self.making_ready).remove(&digest);
        made
    }

    /// What somebody else has come to meanwhile, or else what comes of it now.
    fn ready_or_made(
        &self,
        digest: Digest,
        bytes: impl FnOnce() -> Result<Vec<u8>, ModuleError>,
    ) -> Result<Arc<Module>, ModuleError> {
        if let Some(module) = self.ready_module(digest) {
            return Ok(module);
        }
        let mut failed = lock(&self.failed);
        failed.retain(|_, (at, _)| at.elapsed() < FAILED_FOR);
        if let Some((_, error)) = failed.get(&digest) {
            return Err(error.clone());
        }
        drop(failed); // Making it ready takes long, and others have modules of their own.
        let made = self.make_ready(digest, bytes);
        if let Err(error) = &made {
            lock(&self.failed).insert(digest, (Instant::now(), error.clone()));
        }
        made
    }

    /// Keeps no longer what [`Host::module`] made ready, in memory and in the cache: for an upload that was refused by others.
    /// A module that is in use after all is made ready again when it is next wanted.
    pub fn forget(&self, digest: Digest) {
        lock(&self.ready).remove(&digest);
        lock(&self.failed).remove(&digest);
        self.cache.forget(digest);
    }

    fn make_ready(
        &self,
        digest: Digest,
        bytes: impl FnOnce() -> Result<Vec<u8>, ModuleError>,
    ) -> Result<Arc<Module>, ModuleError> {
        let module = match self.cached(digest) {
            Some((deterministic, activities)) => self.link(digest, &deterministic, activities.as_ref()),
            None => bytes().and_then(|bytes| self.compile(digest, &bytes)),
        };
        let module = Arc::new(module.map_err(|error| match error {
            ModuleError::Invalid(reason) => ModuleError::Invalid(text::cut(reason, text::REASON_BYTES_MAX)),
            ModuleError::Internal(_) => error,
        })?);
        lock(&self.ready).insert(digest, module.clone());
        Ok(module)
    }

    fn link(&self, digest: Digest, deterministic: &Component, activities: Option<&Component>) -> Result<Module, ModuleError> {
        Module::new(digest, &self.engines, &self.client, &self.background, &self.limits, deterministic, activities)
    }

    fn cached(&self, digest: Digest) -> Option<(Component, Option<Component>)> {
        let deterministic = self.cache.load(digest, &self.engines.deterministic)?;
        let has_activities = deterministic.component_type().get_export(&self.engines.deterministic, contract::ACTIVITY).is_some();
        if !has_activities {
            return Some((deterministic, None));
        }
        let activities = self.cache.load(digest, &self.engines.activities)?;
        Some((deterministic, Some(activities)))
    }

    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<Module, ModuleError> {
        let place = self.compiling.take();
        let began = Instant::now();
        let compiled = self.compiler.compile(bytes, &self.limits);
        self.metrics.compiled(began.elapsed());
        drop(place);
        let Compiled { deterministic, activities } = compiled?;
        let fresh = |engine: &Engine, code: &[u8]| {
            // What the compiler made is refused by the same wasmtime: the pool has no slot that is large enough.
            cache::fresh(engine, code).map_err(|error| {
                ModuleError::Invalid(format!(
                    "the module does not fit into a guest's slot, which has {} bytes of memory (limit guest_memory_bytes_max), \
                     {MEMORIES_MAX} memory, {TABLES_MAX} tables and {CORE_INSTANCES_MAX} core instances: {error:#}",
                    self.limits.guest_memory_bytes_max
                ))
            })
        };
        let code = fresh(&self.engines.deterministic, &deterministic)?;
        let activity_code = activities.as_deref().map(|code| fresh(&self.engines.activities, code)).transpose()?;
        let module = self.link(digest, &code, activity_code.as_ref())?;

        // Only now that the module has passed all checks. Without the files it runs too, and is compiled again next time.
        let both = [(&self.engines.deterministic, Some(deterministic)), (&self.engines.activities, activities)];
        for (engine, code) in both {
            if let Some(Err(error)) = code.map(|code| self.cache.store(digest, engine, &code)) {
                tracing::warn!("the compiled code of module {digest} cannot be kept: {error}");
            }
        }
        Ok(module)
    }
}

/// Nothing panics while it holds one of these locks, and what they guard is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uploads a component that must be refused, and returns the reason.
    fn refused(component: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { residents_max: 1, activities_running_max: 1, ..Limits::default() };
        let compiled = folder.path().join("compiled");
        let host = Host::new(CompiledCode::Kept(&compiled), &limits, 1, 1, Compiler::InProcess, Arc::default()).unwrap();
        let bytes = wat::parse_str(component).unwrap();
        let digest = Digest::of(&bytes);
        let Err(ModuleError::Invalid(reason)) = host.module(digest, || Ok(bytes)) else { panic!("it is not refused") };
        assert!(host.ready_module(digest).is_none());
        assert_eq!(std::fs::read_dir(folder.path().join("compiled")).unwrap().count(), 0, "a refused module leaves nothing");
        reason
    }

    #[test]
    fn a_module_that_is_refused_leaves_nothing_behind() {
        assert!(refused("(component)").contains("does not export dacapo:guest/catalog"));
        let reason = refused(&format!(r#"(component (import "{}" (func)))"#, "a".repeat(9_000)));
        assert!(reason.len() < 5_000 && reason.ends_with('…'), "{reason}");
    }

    #[test]
    fn a_component_gets_no_more_than_one_guests_share_of_the_slots() {
        let many = |parts: &str, count: usize| {
            let instances = "(core instance (instantiate $m))".repeat(count);
            refused(&format!("(component (core module $m {parts}) {instances})"))
        };
        assert!(many("(memory 1)", 1).contains("does not export"), "one memory is fine");
        assert!(many("(memory 1)", 2).contains("1 memory, 4 tables and 32 core instances"));
        assert!(many("(table 1 funcref)", 4).contains("does not export"), "four tables are fine");
        assert!(many("(table 1 funcref)", 5).contains("does not fit"));
        assert!(many("", 32).contains("does not export"), "32 core instances are fine");
        assert!(many("", 33).contains("does not fit"));
    }
}
