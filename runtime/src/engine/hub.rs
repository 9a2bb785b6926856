//! What may a caller do in a task hub? Start instances, wait for them, look at them and at the modules.

use std::sync::{Arc, PoisonError};

use super::catalog_of;
use super::functions::{Code, Functions};
use super::orders::{Answer, Input, Start, Token, Wish};
use super::shell::Shell;
use super::views::{ControlError, InstanceView, ModuleVersion, ModuleView, StartError, StartRequest, UploadError};
use super::watch::Watch;
use crate::host::Catalog;
use crate::model::{Digest, Event, Generation, HubName, InstanceId, ModuleName, Payload, Seed, Started};
use crate::store::{InstanceRow, LogPage, ModuleRow, Replaces, Store, StoreError};

/// How often in a row an instance may be replaced by another one with its ID between two looks before the caller is told to come back.
const REPLACED_MAX: usize = 10;

/// How many versions in a row may be deleted under a start before it counts as one of an unknown orchestrator.
const DELETED_MAX: usize = 3;

/// A task hub: a named space of functions and instances.
#[derive(Clone)]
pub struct Hub {
    pub(super) shell: Arc<Shell>,
}

impl Hub {
    pub(super) fn new(shell: Shell) -> Self {
        Self { shell: Arc::new(shell) }
    }

    /// Its name, as it was first written.
    pub fn name(&self) -> &HubName {
        &self.shell.row.name
    }

    /// Starts an instance. On return the start is durable; the code runs later.
    ///
    /// # Errors
    /// As [`StartError`] says.
    pub async fn start(&self, request: StartRequest) -> Result<InstanceId, StartError> {
        self.start_with(request, |_| None).await.map(|(id, _)| id)
    }

    /// The same, for a caller that waits for the end too: its place in line is taken with the start, so that no end is missed.
    ///
    /// # Errors
    /// As [`StartError`] says.
    pub async fn start_and_watch(&self, request: StartRequest) -> Result<Watch, StartError> {
        let started = self.start_with(request, |id| Some(Watch::reserved(self, id))).await;
        started.map(|(_, watch)| watch.expect("a place was taken"))
    }

    /// Starts an instance on what is current, if it may take its ID.
    pub(super) async fn start_new(
        &self,
        request: &StartRequest,
        replaces: Replaces,
        watch: &impl Fn(&InstanceId) -> Option<Watch>,
    ) -> Result<(InstanceId, Option<Watch>), StartError> {
        for _ in 0..DELETED_MAX {
            match self.start_on_current(request.clone(), replaces, watch).await {
                // The module was deleted between our look and the store's: perhaps there is another version, or another module.
                Err(StartError::Store(error)) if matches!(*error, StoreError::NoModule(_)) => (),
                done => return done,
            }
        }
        Err(StartError::UnknownOrchestrator(request.function.clone()))
    }

    async fn start_on_current(
        &self,
        request: StartRequest,
        replaces: Replaces,
        watch: &impl Fn(&InstanceId) -> Option<Watch>,
    ) -> Result<(InstanceId, Option<Watch>), StartError> {
        let machinery = &self.shell.machinery;
        let StartRequest { function, instance, input, tags, idempotency, existing: _ } = request;
        let Some(Code { module, made_by }) = self.shell.current(&function) else {
            return Err(StartError::UnknownOrchestrator(function));
        };
        if machinery.is_overloaded_for(self.shell.hub_module(module)) {
            return Err(StartError::Overloaded);
        }
        let at_ms = machinery.clock.now_ms();
        let random: [u8; 42] = random(); // One call of the system for all.
        let part = |from: usize| -> [u8; 16] { random[from..from + 16].try_into().expect("16 of 42 bytes") };
        let id = instance.unwrap_or_else(|| InstanceId::draw(at_ms, *random.first_chunk().expect("10 of 42 bytes")));
        let started = Started {
            at_ms,
            instance: id.clone(),
            module,
            function,
            input,
            generation: Generation(part(10)),
            seed: Seed(part(26)),
            limits: machinery.limits.in_force(),
            made_by,
            parent: None,
            tags,
            not_before_ms: None,
            idempotency,
            continued: 0,
        };
        let watch = watch(&id);
        let (waiter, runs_at_once) = (watch.as_ref().map(Watch::token), machinery.runs_at_once(self.shell.hub_module(module)));
        let start = Start { hub: self.shell.row.key, started, waiter, replaces, runs_at_once };
        let (_, answer) = self.shell.ask(&id, |token| Input::Start(token, Box::new(start)));
        match answer.await {
            Ok(Answer::Started) => Ok((id, watch)),
            Ok(Answer::Exists(status)) => Err(StartError::InstanceExists { id, status }),
            Ok(Answer::Failed(error)) => Err(StartError::Store(error)),
            Ok(_) | Err(_) => Err(StartError::ShuttingDown),
        }
    }

    /// Raises an event to an instance. Durable on return; it is there once, whether the instance waits for it or not.
    ///
    /// # Errors
    /// As [`ControlError`] says; [`ControlError::Crowded`] if too much was raised to it that its code has not taken.
    pub async fn raise(&self, id: &InstanceId, name: String, payload: Payload) -> Result<(), ControlError> {
        if self.shell.machinery.is_overloaded() {
            return Err(ControlError::Overloaded);
        }
        let unread_bytes_max = self.shell.machinery.limits.unread_event_bytes_max;
        let raise = |caller| {
            let (instance, name, payload) = (id.clone(), name.clone(), payload.clone());
            Input::Raise { caller, instance, name, payload, unread_bytes_max }
        };
        self.tell(id, raise).await
    }

    /// Ends an instance: none of its code runs any more. Durable on return. Instances that it has started go on, but with `recursive` those that it
    /// waits for end too, and theirs, each as soon as it hears of it.
    ///
    /// # Errors
    /// As [`ControlError`] says.
    pub async fn terminate(&self, id: &InstanceId, reason: Option<String>, recursive: bool) -> Result<(), ControlError> {
        self.control(id, Wish::Terminate { recursive }, reason).await
    }

    /// Has an instance pause: none of its code runs until it is resumed. What it has asked for goes on, and all that comes for it is recorded.
    /// Durable on return.
    ///
    /// # Errors
    /// As [`ControlError`] says; [`ControlError::Unfit`] if it pauses already.
    pub async fn suspend(&self, id: &InstanceId, reason: Option<String>) -> Result<(), ControlError> {
        self.control(id, Wish::Suspend, reason).await
    }

    /// Has an instance go on after a pause. Durable on return.
    ///
    /// # Errors
    /// As [`ControlError`] says; [`ControlError::Unfit`] if it does not pause.
    pub async fn resume(&self, id: &InstanceId, reason: Option<String>) -> Result<(), ControlError> {
        self.control(id, Wish::Resume, reason).await
    }

    /// Has a failed instance go on from before its failure, and its failed children with it. Durable on return; the children hear of it
    /// later.
    ///
    /// # Errors
    /// As [`ControlError`] says; [`ControlError::Ended`] if it has ended in another way, [`ControlError::Unfit`] if it has not ended,
    /// [`ControlError::Refused`] if its code is gone, or none repeats what it has done so far.
    pub async fn rewind(&self, id: &InstanceId, reason: Option<String>) -> Result<(), ControlError> {
        if self.shell.machinery.is_overloaded() {
            return Err(ControlError::Overloaded);
        }
        self.control(id, Wish::Rewind, reason).await
    }

    async fn control(&self, id: &InstanceId, wish: Wish, reason: Option<String>) -> Result<(), ControlError> {
        self.tell(id, |caller| Input::Control { caller, instance: id.clone(), wish, reason: reason.clone() }).await
    }

    /// Whether there is such an instance and it has not ended.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ended`], or that the store cannot be read.
    pub async fn check_open(&self, id: &InstanceId) -> Result<(), ControlError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        match blocking(move || shell.row_of(&id)).await {
            Ok(Some(row)) if !row.status.is_ended() => Ok(()),
            Ok(Some(row)) => Err(ControlError::Ended(row.status)),
            Ok(None) => Err(ControlError::NotFound),
            Err(error) => Err(ControlError::Unreadable(error)),
        }
    }

    /// Hands an instance what is to be recorded, and waits until it is.
    async fn tell(&self, id: &InstanceId, input: impl Fn(Token) -> Input) -> Result<(), ControlError> {
        for _ in 0..REPLACED_MAX {
            let (_, answer) = self.shell.ask(id, &input);
            match answer.await {
                Ok(Answer::Recorded) => return Ok(()),
                Ok(Answer::Ended(end)) => return Err(ControlError::Ended(end.status())),
                Ok(Answer::Unfit(status)) => return Err(ControlError::Unfit(status)),
                Ok(Answer::Refused(why)) => return Err(ControlError::Refused(why)),
                Ok(Answer::Crowded(bytes)) => {
                    let max = self.shell.machinery.limits.unread_event_bytes_max;
                    return Err(ControlError::Crowded { id: id.clone(), bytes, max });
                }
                Ok(Answer::Failed(error)) => return Err(ControlError::Store(error)),
                // It has ended before, or was never there; or another one has just been started in its place.
                Ok(Answer::NotOpen | Answer::Started | Answer::Exists(_)) => self.check_open(id).await?,
                Err(_) => return Err(ControlError::ShuttingDown),
            }
        }
        Err(ControlError::Overloaded)
    }

    /// The lines of an instance from number `from` on. `None` if there is no such instance.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn log(&self, id: &InstanceId, from: u64) -> Result<Option<LogPage>, StoreError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        blocking(move || {
            let Some(row) = shell.row_of(&id)? else { return Ok(None) };
            shell.machinery.store.log(row.key, from).map(Some)
        })
        .await
    }

    /// An instance as it is stored, with its events if `with_history`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn instance(&self, id: &InstanceId, with_history: bool) -> Result<Option<InstanceView>, StoreError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        blocking(move || {
            // A row may be replaced between two reads; then the history of the old one is gone or going.
            for _ in 0..3 {
                let Some(row) = shell.row_of(&id)? else { return Ok(None) };
                if let Some(view) = view(&*shell.machinery.store, row, with_history)? {
                    return Ok(Some(view));
                }
            }
            Err(StoreError::Corrupt(format!("the history of instance {id} is not whole")))
        })
        .await
    }

    /// All modules, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn modules(&self) -> Result<Vec<ModuleView>, StoreError> {
        let shell = self.shell.clone();
        blocking(move || {
            let live = shell.machinery.store.live_instances(shell.row.key)?;
            let mut modules: Vec<ModuleView> = Vec::new();
            for row in shell.machinery.store.modules(shell.row.key)? {
                let name = row.name.as_str();
                if modules.last().is_none_or(|module| module.name != name) {
                    modules.push(ModuleView { name: name.to_owned(), current: row.digest, versions: Vec::new() });
                }
                let module = modules.last_mut().expect("it has just been pushed");
                if row.current {
                    module.current = row.digest;
                }
                module.versions.push(version(&row, &live)?);
            }
            Ok(modules)
        })
        .await
    }

    /// The bytes of a module that this hub has, as they were uploaded.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let shell = self.shell.clone();
        blocking(move || {
            let store = &shell.machinery.store;
            let is_ours = store.modules(shell.row.key)?.iter().any(|row| row.digest == digest);
            if is_ours { store.module_bytes(digest) } else { Ok(None) }
        })
        .await
    }

    pub(super) fn check_owner(&self, module: &ModuleName, catalog: &Catalog) -> Result<(), UploadError> {
        let functions = self.shell.functions.read().unwrap_or_else(PoisonError::into_inner);
        match functions.taken(module, catalog) {
            None => Ok(()),
            Some((function, owner)) => {
                Err(UploadError::FunctionTaken { function: function.to_owned(), owner: owner.to_string() })
            }
        }
    }

    pub(super) fn set_current(&self, module: ModuleName, digest: Digest, catalog: Arc<Catalog>) {
        let mut functions = self.shell.functions.write().unwrap_or_else(PoisonError::into_inner);
        Functions::set(&mut functions, module, digest, catalog);
    }

    /// One version of a module. Blocks.
    pub(super) fn version(&self, name: &ModuleName, digest: Digest) -> Result<ModuleVersion, StoreError> {
        let store = &self.shell.machinery.store;
        let live = store.live_instances(self.shell.row.key)?;
        let rows = store.modules(self.shell.row.key)?;
        let row = rows.iter().find(|row| row.name == *name && row.digest == digest);
        version(row.ok_or_else(|| StoreError::Corrupt(format!("module {name} {digest} is not in the store")))?, &live)
    }
}

/// What is behind `row`. `None` if its history is no longer whole: then the instance was replaced after the row was read.
pub(super) fn view(store: &dyn Store, row: InstanceRow, with_history: bool) -> Result<Option<InstanceView>, StoreError> {
    let ended = row.status.is_ended();
    let (first, last, history) = if with_history {
        let mut events = store.history(row.execution)?;
        if events.len() < row.length as usize {
            return Ok(None);
        }
        // The row was read first, so the history may be ahead of it; what is shown has to fit together.
        events.truncate(row.length as usize);
        (events.first().cloned(), events.last().filter(|_| ended).cloned(), Some(events))
    } else {
        // What came last in an execution that goes on may be megabytes, and says nothing here.
        let last = if ended { store.last_event(row.execution)? } else { None };
        (store.first_event(row.execution)?, last, None)
    };
    let end = match last {
        Some(Event::Ended { end, .. }) => Some(end),
        _ if ended => return Ok(None), // Histories are deleted from their end.
        _ => None,
    };
    match first {
        Some(Event::Started(Started { input, .. })) => Ok(Some(InstanceView { row, input, end, history })),
        Some(_) => Err(StoreError::Corrupt(format!("the history of instance {} does not begin with its start", row.id))),
        None => Ok(None),
    }
}

fn version(row: &ModuleRow, live: &[(Digest, u64)]) -> Result<ModuleVersion, StoreError> {
    let Catalog { generator, orchestrators, activities, .. } = catalog_of(row)?;
    Ok(ModuleVersion {
        digest: row.digest,
        uploaded_ms: row.uploaded_ms,
        bytes: row.bytes,
        generator,
        orchestrators,
        activities,
        live_instances: live.iter().find(|(digest, _)| *digest == row.digest).map_or(0, |(_, count)| *count),
    })
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("a system without randomness cannot name anything");
    bytes
}

/// Runs what reads the store on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::Other(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RuntimeStatus;
    use crate::store::memory::MemoryStore;
    use crate::store::suite::World;

    /// What a caller sees of a row, without and with history: whether it has an end, and how many events.
    fn seen(store: &MemoryStore, row: &InstanceRow) -> [Option<(bool, usize)>; 2] {
        [false, true].map(|with_history| {
            let view = view(store, row.clone(), with_history).unwrap()?;
            Some((view.end.is_some(), view.history.map_or(0, |events| events.len())))
        })
    }

    #[test]
    fn a_row_is_shown_with_what_belongs_to_it_until_its_history_begins_to_go() {
        let store = MemoryStore::new();
        let world = World::new(&store);
        let row = || store.instance(world.hub, &"loaf".parse().unwrap()).unwrap().unwrap();
        store.commit(&[world.create(1, "loaf")]).unwrap();
        store.commit(&[world.advance(1, 1)]).unwrap();
        let running = row();
        store.commit(&[world.end(1, 3, RuntimeStatus::Completed)]).unwrap();
        let ended = row();
        store.commit(&[world.create(2, "loaf")]).unwrap();
        assert_eq!(seen(&store, &running), [Some((false, 0)), Some((false, 3))]);
        assert_eq!(seen(&store, &ended), [Some((true, 0)), Some((true, 4))]);
        for _ in 0..3 {
            store.sweep(1).unwrap();
            assert_eq!(seen(&store, &ended), [None, None]);
        }
        assert_eq!(seen(&store, &running), [None, None]);
    }
}
