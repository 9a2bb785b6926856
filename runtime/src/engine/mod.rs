//! Who joins guest, store and time? [`Engine`] holds the hubs of a server; a [`Hub`] is what callers talk to.
//!
//! Inside, each hub is split into partitions, pure state machines (`partition.rs`); the shell (`shell.rs`) moves their inputs and
//! effects between threads. Called by `api`; calls `host` and `store`.

mod activities;
mod alarm;
mod changes;
mod crew;
mod deletion;
mod due;
mod existing;
mod follow;
mod functions;
mod guest_log;
mod heartbeats;
mod hub;
mod instance;
mod listing;
mod orders;
mod partition;
mod pool;
mod post;
mod purge;
mod query;
mod queue;
mod readiness;
mod residents;
mod rewind;
mod shell;
#[cfg(test)]
mod simulation;
mod step;
mod turns;
mod verify;
mod views;
mod wants;
mod watch;
mod why;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;

pub use follow::{Asked, Fingerprint, Followed, FollowedEvent, Follower, Place};
pub use hub::Hub;
pub use queue::Bound;
pub use readiness::Unready;
pub use verify::{Report, VerifyError, verify};
pub use views::{
    ControlError, DeleteError, Existing, InstancePage, InstanceView, ModuleVersion, ModuleView, PurgeError, Purged, QueryError,
    StartError, StartRequest, UploadError, UploadedModule,
};
pub use watch::Watch;
pub use why::{Child, Open, OpenTask, Stage, TOLD_MAX, Unread, What, Why, Work};

use crate::clock::Clock;
use crate::host::{Catalog, Compiler, Host, Module, ModuleError, SurroundingsByHub};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::{Digest, HubName, ModuleName};
use crate::store::group::{Committer, Refusal};
use crate::store::sqlite::SqliteStore;
use crate::store::{HubRow, ModuleRow, Store, StoreError, Upload, Uploaded};
use activities::Activities;
use alarm::Alarms;
use deletion::discard_modules;
use functions::Functions;
use guest_log::GuestLog;
use pool::TurnPool;
use post::Post;
use residents::Residents;
use rewind::Plans;
use shell::{Machinery, Shell};

/// How many rows of superseded histories are deleted at once: little enough that live work does not notice.
const SWEEP_ROWS: usize = 500;

/// How long to wait after a slice when there is more to delete, and when there is not.
const SWEEP_PAUSE_BUSY: Duration = Duration::from_millis(20);
const SWEEP_PAUSE_IDLE: Duration = Duration::from_secs(1);

/// How often to look for progress of activities whose execution has ended.
const SWEEP_PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// How often to look for modules that were deleted, and that no instance refers to any more.
const DISCARD_EVERY: Duration = Duration::from_secs(3_600);

/// How long to wait at the end for what is in hand.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// What an engine needs to know before it starts.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// The data directory: the store, and compiled code.
    pub data: PathBuf,
    /// The bounds in force.
    pub limits: Limits,
    /// Where modules are compiled.
    pub compiler: Compiler,
    /// What each hub gives its activities.
    pub surroundings: SurroundingsByHub,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be opened.
    #[error("cannot open the store in {}: {cause}", data.display())]
    Store {
        /// The data directory.
        data: PathBuf,
        /// Why.
        cause: StoreError,
    },
    /// Guests cannot be run.
    #[error("cannot run guests: {0}")]
    Host(#[from] ModuleError),
    /// The machine refuses threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// The engine of a server: all its hubs.
pub struct Engine {
    machinery: Arc<Machinery>,
    hubs: RwLock<HashMap<HubName, Arc<Hub>>>,
    /// Runs activities; taken out when the engine is closed.
    runtime: Mutex<Option<Runtime>>,
}

impl Engine {
    /// Opens the store in `settings.data` and goes on with everything that is open there, in the background.
    ///
    /// # Errors
    /// If the store, the room for guests or threads cannot be had.
    pub fn open(settings: EngineSettings) -> Result<Arc<Self>, OpenError> {
        let EngineSettings { data, limits, compiler, surroundings } = settings;
        let store_error = |cause| OpenError::Store { data: data.clone(), cause };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data).map_err(store_error)?);
        let cores = thread::available_parallelism().map_or(2, usize::from);
        // So many guests that compute for long do not hold up the others.
        let turns_max = 16 * cores;
        let metrics = Arc::<Metrics>::default();
        let host =
            Host::new(&data.join("compiled"), &limits, u32::try_from(turns_max).unwrap_or(u32::MAX), compiler, metrics.clone())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores)
            .thread_name("dacapo-activity")
            .enable_time()
            .enable_io()
            .build()?;
        let machinery = Arc::new(Machinery {
            committer: Committer::with_metrics(store.clone(), metrics.clone()),
            residents: Residents::new(host.residents_max() as usize, limits.residents_bytes_max),
            host: Arc::new(host),
            turns: TurnPool::new(cores, turns_max),
            activities: Activities::new(runtime.handle().clone(), limits.activities_running_max, store.clone(), metrics.clone()),
            alarms: Alarms::new(Clock)?,
            post: Post::new()?,
            plans: Plans::default(),
            changes: Arc::default(),
            discarded: Mutex::default(),
            handle: runtime.handle().clone(),
            clock: Clock,
            guest_log: GuestLog::new()?,
            store,
            limits: Arc::new(limits),
            surroundings,
            metrics,
            recovered: AtomicBool::new(false),
            uploads: Mutex::default(),
        });
        let engine = Arc::new(Self { machinery, hubs: RwLock::default(), runtime: Mutex::new(Some(runtime)) });
        engine.open_hubs().map_err(store_error)?;
        due::watch(&engine)?;
        engine.sweep();
        Ok(engine)
    }

    fn open_hubs(&self) -> Result<(), StoreError> {
        let mut hubs = self.hubs.write().unwrap_or_else(PoisonError::into_inner);
        for row in self.machinery.store.hubs()? {
            hubs.insert(row.name.clone(), self.open_hub(row)?);
        }
        Ok(())
    }

    fn open_hub(&self, row: HubRow) -> Result<Arc<Hub>, StoreError> {
        let mut functions = Functions::default();
        for module in self.machinery.store.modules(row.key)?.into_iter().filter(|module| module.current) {
            let catalog = Arc::new(catalog_of(&module)?);
            functions.set(module.name, module.digest, catalog);
        }
        self.machinery.activities.add_hub(row.key, self.machinery.surroundings.of(&row.name).limits.clone());
        Ok(Arc::new(Hub::new(Shell::new(row, functions, self.machinery.clone())?)))
    }

    /// Deletes superseded histories, slice by slice, and now and then the progress of activities and modules that nobody needs
    /// any more, for as long as the engine lives.
    fn sweep(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        self.machinery.handle.spawn(async move {
            let (mut discard_at, mut sweep_progress_at) = (Instant::now(), Instant::now());
            while let Some(machinery) = engine.upgrade().map(|engine| engine.machinery.clone()) {
                let is_time = discard_at <= Instant::now();
                if is_time {
                    discard_at = Instant::now() + DISCARD_EVERY;
                }
                let is_time_for_progress = sweep_progress_at <= Instant::now();
                let work = move || {
                    if is_time && let Err(error) = discard_modules(&machinery) {
                        tracing::warn!("the bytes of deleted modules cannot be discarded now: {error}");
                    }
                    discard_messages(&machinery);
                    let progress = if is_time_for_progress { machinery.store.sweep_progress(SWEEP_ROWS) } else { Ok(0) };
                    let swept = machinery.store.sweep(SWEEP_ROWS).and_then(|rows| Ok(rows.max(progress?)));
                    if let Err(error) = &swept {
                        machinery.committer.note(Err(error));
                    }
                    // Nobody may have anything to write just now, and yet it should be known when there is space again.
                    if machinery.committer.refusal() == Some(Refusal::Full) {
                        machinery.committer.note(machinery.store.probe().as_ref().copied());
                    }
                    swept
                };
                let swept = tokio::task::spawn_blocking(work).await;
                if let Ok(Err(error)) = &swept {
                    tracing::warn!("what nobody needs any more cannot be deleted now: {error}");
                }
                let is_full = matches!(swept, Ok(Ok(rows)) if rows >= SWEEP_ROWS);
                if is_time_for_progress && !is_full {
                    sweep_progress_at = Instant::now() + SWEEP_PROGRESS_EVERY;
                }
                tokio::time::sleep(if is_full { SWEEP_PAUSE_BUSY } else { SWEEP_PAUSE_IDLE }).await;
            }
        });
    }

    /// The hub with this name, if it has come into being with its first upload.
    pub fn hub(&self, name: &HubName) -> Option<Arc<Hub>> {
        self.hubs.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.machinery.limits
    }

    /// Takes a module: checks and compiles it, keeps it, and makes it the current version under its name. Durable on return.
    /// Goes on to its end even if the caller does not wait.
    ///
    /// # Errors
    /// As [`UploadError`] says; nothing has changed then.
    pub async fn upload(self: &Arc<Self>, hub: &HubName, name: &ModuleName, bytes: Bytes) -> Result<UploadedModule, UploadError> {
        let (engine, hub, name) = (self.clone(), hub.clone(), name.clone());
        let work = move || engine.upload_blocking(&hub, &name, &bytes);
        tokio::task::spawn_blocking(work).await.map_err(|error| UploadError::Internal(error.to_string()))?
    }

    fn upload_blocking(&self, hub_name: &HubName, name: &ModuleName, bytes: &[u8]) -> Result<UploadedModule, UploadError> {
        let Machinery { host, store, .. } = &*self.machinery;
        let digest = Digest::of(bytes);
        let module = host.module(digest, || Ok(bytes.to_vec())).map_err(|error| match error {
            ModuleError::Invalid(message) => UploadError::Invalid(message),
            ModuleError::Internal(message) => UploadError::Internal(message),
        })?;
        let _one_at_a_time = self.machinery.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.take_module(hub_name, name, digest, bytes, &module);
        // Of an upload that was refused nothing stays behind, unless it is there from before.
        if taken.is_err() && matches!(store.module_bytes(digest), Ok(None)) {
            host.forget(digest);
        }
        taken
    }

    /// Stores a module that is fit to run, and has it found. Under the lock on uploads.
    fn take_module(
        &self,
        hub_name: &HubName,
        name: &ModuleName,
        digest: Digest,
        bytes: &[u8],
        module: &Module,
    ) -> Result<UploadedModule, UploadError> {
        let internal = |error: StoreError| UploadError::Internal(error.to_string());
        let Machinery { store, clock, .. } = &*self.machinery;
        let catalog = module.catalog();
        if let Some(hub) = self.hub(hub_name) {
            hub.check_owner(name, catalog)?;
        }
        let catalog_json = serde_json::to_string(&**catalog).expect("a catalog is texts");
        let upload = Upload { hub: hub_name, name, digest, bytes, catalog: &catalog_json, at_ms: clock.now_ms() };
        let uploaded = store.upload(&upload).map_err(internal)?;
        let hub = match self.hub(hub_name) {
            Some(hub) => hub,
            None => self.add_hub(hub_name).map_err(internal)?,
        };
        hub.set_current(name.clone(), digest, catalog.clone());
        let version = hub.version(name, digest).map_err(internal)?;
        Ok(UploadedModule { new: uploaded == Uploaded::New, version })
    }

    fn add_hub(&self, name: &HubName) -> Result<Arc<Hub>, StoreError> {
        let rows = self.machinery.store.hubs()?;
        let row = rows.into_iter().find(|row| row.name == *name).expect("an upload brings its hub into being");
        let hub = self.open_hub(row)?;
        // It has nothing from earlier lives, so this only opens its post.
        hub.shell.find_due();
        self.hubs.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), hub.clone());
        Ok(hub)
    }

    /// Stops: running turns end and are recorded, activities are stopped where they are, the rest is dropped. What was acknowledged
    /// is in the store and goes on at the next start. Blocks for a few seconds at most; not to be called on a thread of an
    /// asynchronous runtime.
    pub fn close(&self) {
        let deadline = Instant::now() + CLOSE_MAX;
        self.machinery.turns.close();
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(CLOSE_MAX / 2);
            self.machinery.host.close(CLOSE_MAX / 2);
            self.machinery.activities.close();
        }
        while (self.machinery.turns.is_busy() || self.machinery.committer.queued() > 0) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Gives up the messages that nobody takes any more. If that does not work now, it is tried again.
fn discard_messages(machinery: &Machinery) {
    let keys = std::mem::take(&mut *machinery.discarded.lock().unwrap_or_else(PoisonError::into_inner));
    if !keys.is_empty()
        && let Err(error) = machinery.store.discard_messages(&keys)
    {
        tracing::warn!("messages that nobody takes cannot be deleted now: {error}");
        machinery.discarded.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
    }
}

fn catalog_of(module: &ModuleRow) -> Result<Catalog, StoreError> {
    serde_json::from_str(&module.catalog)
        .map_err(|error| StoreError::Corrupt(format!("the catalog of module {} cannot be read: {error}", module.digest)))
}

/// The module with this digest, ready to run. Blocks, for as long as compiling takes if its compiled code is gone.
fn module(host: &Host, store: &dyn Store, digest: Digest) -> Result<Arc<Module>, ModuleError> {
    host.module(digest, || match store.module_bytes(digest) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(ModuleError::Internal(format!("module {digest} is not in the store"))),
        Err(error) => Err(ModuleError::Internal(error.to_string())),
    })
}
