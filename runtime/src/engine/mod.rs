//! Who joins guest, store and time? [`Engine`] holds the hubs of a server; a [`Hub`] is what callers talk to.
//!
//! Inside, each hub is split into partitions, pure state machines (`partition.rs`); the shell (`shell.rs`) moves their inputs and
//! effects between threads. Called by `api`; calls `host` and `store`.

mod activities;
mod alarm;
pub mod archive;
mod backlog;
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
mod in_flight;
mod instance;
mod listing;
mod orders;
mod partition;
pub mod playback;
mod pool;
mod post;
mod purge;
mod query;
mod queue;
mod readiness;
mod residents;
mod retention;
mod rewind;
mod shell;
#[cfg(test)]
mod simulation;
mod step;
mod stores;
mod suspects;
mod turns;
mod verify;
mod views;
mod wants;
mod watch;
mod why;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub use follow::{Asked, Fingerprint, Followed, FollowedEvent, Follower, Place};
pub use hub::Hub;
pub use queue::Bound;
pub use readiness::Unready;
pub use stores::{StoreSettings, Stores};
pub use verify::{Check, Finding, Progress, Report, VerifyError, examine, verify};
pub use views::{
    ControlError, DeleteError, Existing, InstancePage, InstanceView, ModuleVersion, ModuleView, PurgeError, Purged, QueryError,
    StartError, StartRequest, UploadError, UploadedModule,
};
pub use watch::Watch;
pub use why::{Child, Open, OpenTask, Stage, TOLD_MAX, Unread, What, Why, Work};

use crate::clock::Clock;
use crate::host::{Catalog, CompiledCode, Compiler, Host, Module, ModuleError, SurroundingsByHub};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::{Digest, HubName, ModuleName, StoreName};
use crate::store::group::{Committer, Refusal};
use crate::store::sqlite::SqliteStore;
use crate::store::{HubRow, ModuleRow, Store, StoreError, Upload, Uploaded};
use activities::Activities;
use alarm::Alarms;
use backlog::Backlog;
use crew::Crew;
use deletion::discard_modules;
use functions::Functions;
use guest_log::GuestLog;
use in_flight::InFlight;
use pool::TurnPool;
use post::Post;
use residents::Residents;
use rewind::Plans;
use shell::{Machinery, Shell};
use suspects::Suspects;

/// Where compiled code is, in the data directory.
const COMPILED: &str = "compiled";

/// How many uploads are taken or wait for the compiler at once; a program that deploys many modules sends a few at a time.
const UPLOADS_MAX: usize = 32;
static UPLOADS: Semaphore = Semaphore::const_new(UPLOADS_MAX);

/// How many rows of superseded histories are deleted at once: little enough that live work does not notice.
const SWEEP_ROWS: usize = 500;

/// How long to wait after a slice when there is more to delete, and when there is not.
const SWEEP_PAUSE_BUSY: Duration = Duration::from_millis(20);
const SWEEP_PAUSE_IDLE: Duration = Duration::from_secs(1);

/// How often to look for progress of activities whose execution has ended.
const SWEEP_PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// How often to look for modules that were deleted, and that no instance refers to any more.
const DISCARD_EVERY: Duration = Duration::from_secs(3_600);

/// How long the turns that finished activities bring about may take at the end, and how long what is then in hand.
const SETTLE_MAX: Duration = Duration::from_secs(2);
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// How often to look meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What an engine needs to know before it starts.
#[derive(Clone)]
pub struct EngineSettings {
    /// The data directory: the store, and compiled code.
    pub data: PathBuf,
    /// The bounds in force.
    pub limits: Limits,
    /// Where modules are compiled.
    pub compiler: Compiler,
    /// What each hub gives its activities.
    pub surroundings: SurroundingsByHub,
    /// Where it counts, perhaps with others.
    pub metrics: Arc<Metrics>,
    /// How many engines this process has. What the kernel gives to a process, and the memory of guests that stay alive, they share evenly.
    pub share: u32,
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
    /// Two stores cannot have the same files.
    #[error("store {name:?} cannot have the directory {}, which store {other:?} has: give it one of its own", data.display())]
    SameDirectory {
        /// The data directory.
        data: PathBuf,
        /// The store that was to be opened.
        name: StoreName,
        /// The one that has it.
        other: StoreName,
    },
    /// Guests cannot be run.
    #[error("cannot run guests: {0}")]
    Host(#[from] ModuleError),
    /// The machine refuses threads, or a small file in the data directory.
    #[error("cannot start threads, or write to the data directory: {0}")]
    System(#[from] std::io::Error),
}

/// The engine of a server: all its hubs.
pub struct Engine {
    machinery: Arc<Machinery>,
    hubs: RwLock<HashMap<HubName, Arc<Hub>>>,
    /// Runs activities; taken out when the engine is closed.
    runtime: Mutex<Option<Runtime>>,
    /// Since when it is about to stop.
    draining: OnceLock<Instant>,
}

impl Engine {
    /// Opens the store in `settings.data` and goes on with everything that is open there, in the background.
    ///
    /// # Errors
    /// If the store, the room for guests or threads cannot be had.
    pub fn open(settings: EngineSettings) -> Result<Arc<Self>, OpenError> {
        let EngineSettings { data, limits, compiler, surroundings, metrics, share } = settings;
        let store_error = |cause| OpenError::Store { data: data.clone(), cause };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data).map_err(store_error)?);
        let cores = thread::available_parallelism().map_or(2, usize::from);
        // So many guests that compute for long do not hold up the others.
        let turns_max = 16 * cores;
        // Turns run on the threads, too, on which activities begin.
        let threads_max = turns_max + cores;
        let at_once = u32::try_from(threads_max).unwrap_or(u32::MAX);
        let compiled = data.join(COMPILED);
        let host = Host::new(CompiledCode::Kept(&compiled), &limits, at_once, share, compiler, metrics.clone())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores)
            .thread_name("dacapo-activity")
            .enable_time()
            .enable_io()
            .build()?;
        let backlog = Backlog::new(limits.backlog_bytes_max);
        let turns = TurnPool::new(cores, turns_max, cores, backlog.clone());
        let crew = Crew::new(
            runtime.handle().clone(),
            turns.for_activities(),
            limits.activities_running_max,
            metrics.clone(),
            backlog.clone(),
        );
        // First it is durable who ran when the server died, then that is forgotten.
        let page = data.join(in_flight::FILE);
        let suspects = Suspects::open(&data, &in_flight::left_behind(&page)?, store.as_ref())?;
        let machinery = Arc::new(Machinery {
            suspects,
            in_flight: InFlight::open(&page, threads_max)?,
            committer: Committer::with_metrics(store.clone(), metrics.clone()),
            residents: Residents::new(host.residents_max() as usize, limits.residents_bytes_max / u64::from(share)),
            host: Arc::new(host),
            turns,
            activities: Activities::new(crew, runtime.handle().clone(), store.clone()),
            backlog,
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
        let engine =
            Arc::new(Self { machinery, hubs: RwLock::default(), runtime: Mutex::new(Some(runtime)), draining: OnceLock::new() });
        engine.open_hubs().map_err(store_error)?;
        due::watch(&engine)?;
        engine.sweep();
        retention::watch(&engine);
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
                let was_refused = machinery.committer.refusal().is_some();
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
                    if matches!(machinery.committer.refusal(), Some(Refusal::Full | Refusal::Gone)) {
                        machinery.committer.note(machinery.store.probe().as_ref().copied());
                    }
                    swept
                };
                let swept = tokio::task::spawn_blocking(work).await;
                if let Ok(Err(error)) = &swept
                    && !was_refused
                {
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
        // Each takes a thread while it waits for the compiler, of which other requests need some too.
        let place = UPLOADS.try_acquire().map_err(|_| UploadError::Crowded)?;
        let work = move || {
            let uploaded = engine.upload_blocking(&hub, &name, &bytes);
            drop(place);
            uploaded
        };
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
        let Machinery { store, clock, .. } = &*self.machinery;
        let catalog = module.catalog();
        if let Some(hub) = self.hub(hub_name) {
            hub.check_owner(name, catalog)?;
        }
        let catalog_json = serde_json::to_string(&**catalog).expect("a catalog is texts");
        let upload = Upload { hub: hub_name, name, digest, bytes, catalog: &catalog_json, at_ms: clock.now_ms() };
        let uploaded = store.upload(&upload)?;
        let hub = match self.hub(hub_name) {
            Some(hub) => hub,
            None => self.add_hub(hub_name)?,
        };
        hub.set_current(name.clone(), digest, catalog.clone());
        let version = hub.version(name, digest)?;
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

    /// From now on no activity and no new instance begins, and the time runs that [`Engine::close`] leaves to those that do. Returns at once.
    pub fn drain(&self) {
        self.draining.get_or_init(Instant::now);
        self.machinery.backlog.stop();
    }

    /// Stops: activities may end until the limit `stop_grace_ms` has passed since [`Engine::drain`], and what comes of them is recorded;
    /// running turns end and are recorded; the rest is dropped. What was acknowledged is in the store and goes on at the next start. Blocks
    /// for that limit and a few seconds at most; not to be called on a thread of an asynchronous runtime.
    pub fn close(&self) {
        self.drain();
        let Machinery { activities, turns, committer, limits, .. } = &*self.machinery;
        let began = *self.draining.get_or_init(Instant::now);
        let is_over = await_until(began + Duration::from_millis(limits.stop_grace_ms), || activities.busy() == 0);
        if !is_over {
            tracing::warn!("{} activities did not end within stop_grace_ms and run again at the next start", activities.busy());
        }
        await_until(Instant::now() + SETTLE_MAX, || !turns.has_begun_work() && committer.queued() == 0);
        let deadline = Instant::now() + CLOSE_MAX;
        self.machinery.in_flight.stop();
        self.machinery.turns.close();
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(CLOSE_MAX / 2);
            self.machinery.host.close(CLOSE_MAX / 2);
            self.machinery.activities.close();
        }
        await_until(deadline, || !turns.is_busy() && committer.queued() == 0);
        // Guests that cannot be stopped in time may hold on to the store until the process ends.
        self.machinery.store.close();
    }
}

/// Waits until `condition` holds, until `deadline` at most. Whether it holds.
fn await_until(deadline: Instant, condition: impl Fn() -> bool) -> bool {
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
    true
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
