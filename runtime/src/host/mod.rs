//! How do guests run? The only code that names wasmtime.
//!
//! [`Host`] turns uploaded bytes into a [`Module`], once for each digest; a module makes guests. Called by the engine.

mod activity;
mod cache;
mod compiler;
mod contract;
mod engines;
mod fault;
mod module;
mod orchestrator;
mod state;
mod wasi;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::Engine;
use wasmtime::component::Component;

pub use activity::Invocation;
pub use compiler::{COMMAND as COMPILER_COMMAND, Compiler, child_main as compiler_child_main};
pub use module::{Catalog, Module, ModuleError, NoGuest};
pub use orchestrator::OrchestratorGuest;

use crate::limits::Limits;
use crate::model::Digest;
use cache::Cache;
use engines::Engines;

/// The version of the guest contract that new modules have to speak.
pub const CONTRACT_VERSION: &str = contract::VERSION;

/// Runs guests.
pub struct Host {
    engines: Engines,
    limits: Limits,
    residents_max: u32,
    compiler: Compiler,
    cache: Cache,
    ready: Mutex<HashMap<Digest, Arc<Module>>>,
    /// Held while a module is made ready, so that many who want it do the work once.
    making_ready: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

impl Host {
    /// A host that keeps compiled code in `cache`. `turns_max` is how many turns may run at once.
    ///
    /// # Errors
    /// If the folder or the address space for guests cannot be had.
    pub fn new(cache: &Path, limits: &Limits, turns_max: u32, compiler: Compiler) -> Result<Self, ModuleError> {
        let residents_max = engines::residents_max(limits);
        let internal = |error: String| ModuleError::Internal(error);
        Ok(Self {
            // Describing a module at upload takes a slot too.
            engines: Engines::new(limits, residents_max, 2 * turns_max + 8)
                .map_err(|error| internal(format!("cannot reserve room for guests: {error:#}")))?,
            limits: limits.clone(),
            residents_max,
            compiler,
            cache: Cache::open(cache).map_err(|error| internal(format!("cannot open {}: {error}", cache.display())))?,
            ready: Mutex::default(),
            making_ready: Mutex::default(),
        })
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
    /// [`ModuleError::Invalid`] if the bytes are not fit to run here.
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
        if let Some(module) = self.ready_module(digest) {
            return Ok(module); // Somebody else has done it meanwhile.
        }
        let made = self.make_ready(digest, bytes);
        lock(&self.making_ready).remove(&digest);
        made
    }

    fn make_ready(
        &self,
        digest: Digest,
        bytes: impl FnOnce() -> Result<Vec<u8>, ModuleError>,
    ) -> Result<Arc<Module>, ModuleError> {
        let (deterministic, activities) = match self.cached(digest) {
            Some(code) => code,
            None => self.compile(digest, &bytes()?)?,
        };
        let module = Arc::new(Module::new(digest, &self.engines, &self.limits, &deterministic, activities.as_ref())?);
        lock(&self.ready).insert(digest, module.clone());
        Ok(module)
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

    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<(Component, Option<Component>), ModuleError> {
        let compiled = self.compiler.compile(bytes, &self.limits)?;
        let keep = |engine: &Engine, code: &[u8]| {
            self.cache
                .store(digest, engine, code)
                .map_err(|error| ModuleError::Internal(format!("compiled code cannot be kept: {error}")))?;
            self.cache.load(digest, engine).ok_or_else(|| {
                // What the compiler made is refused by the same wasmtime: the pool has no slot that is large enough.
                ModuleError::Invalid(format!(
                    "the module does not fit into a guest's slot: it may have {} bytes of memory from the start (limit \
                     guest_memory_bytes_max), one memory, two tables and four core instances",
                    self.limits.guest_memory_bytes_max
                ))
            })
        };
        let deterministic = keep(&self.engines.deterministic, &compiled.deterministic)?;
        let activities = compiled.activities.map(|code| keep(&self.engines.activities, &code)).transpose()?;
        Ok((deterministic, activities))
    }
}

/// Nothing panics while it holds one of these locks, and what they guard is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
