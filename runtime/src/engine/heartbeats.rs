//! What did an activity say of its progress? Kept for a later run of it: at once in memory, within a second in the store.
//!
//! What many activities report is saved together, once a second at most. What is saved leaves memory, so only the reports of the
//! last second are here. While the store fails nobody can ask for new activities, so no more gathers than those in hand report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::crew::Key;
use crate::model::Payload;
use crate::store::{Progress, Store, StoreError};

/// How long after one save the next may come.
const PAUSE: Duration = Duration::from_secs(1);

/// What activities have reported and what was kept of it. The key is the execution with the task of the first attempt.
#[derive(Clone)]
pub(super) struct Heartbeats {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    store: Arc<dyn Store>,
    state: Mutex<State>,
    /// Held while something is saved, so that nothing older is written over it.
    saving: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The newest report of each, and its number, as far as they are not saved.
    unsaved: HashMap<Key, (u64, Payload)>,
    reports: u64,
    /// A task saves what there is, until nothing is left.
    is_saved_in_background: bool,
}

impl Heartbeats {
    /// Nothing is reported; saves to `store`, from threads of `runtime`.
    pub(super) fn new(runtime: Handle, store: Arc<dyn Store>) -> Self {
        Self { shared: Arc::new(Shared { runtime, store, state: Mutex::default(), saving: Mutex::default() }) }
    }

    /// Takes a report. Returns at once; the report is durable within a second if nothing fails.
    pub(super) fn report(&self, key: Key, progress: Payload) {
        let mut state = self.shared.lock();
        state.reports += 1;
        let number = state.reports;
        state.unsaved.insert(key, (number, progress));
        if !std::mem::replace(&mut state.is_saved_in_background, true) {
            drop(state);
            self.shared.runtime.spawn(self.shared.clone().save_in_background());
        }
    }

    /// The last report that is known: in memory, or else in the store.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) async fn last(&self, key: Key) -> Result<Option<Payload>, String> {
        let known = self.shared.lock().unsaved.get(&key).map(|(_, progress)| progress.clone());
        if known.is_some() {
            return Ok(known);
        }
        let store = self.shared.store.clone();
        let read = tokio::task::spawn_blocking(move || store.progress(key.0, key.1)).await;
        read.map_err(|error| error.to_string())?.map_err(|error| format!("the progress of an activity cannot be read: {error}"))
    }

    /// The same for who may block.
    ///
    /// # Errors
    /// As [`Heartbeats::last`].
    pub(super) fn known(&self, key: Key) -> Result<Option<Payload>, StoreError> {
        let known = self.shared.lock().unsaved.get(&key).map(|(_, progress)| progress.clone());
        if known.is_some() { Ok(known) } else { self.shared.store.progress(key.0, key.1) }
    }

    /// The activity has completed: nobody will ask for its progress, so it need not be saved any more.
    pub(super) fn forget(&self, key: Key) {
        self.shared.lock().unsaved.remove(&key);
    }

    /// Saves what is left, at the end of the server. Blocks.
    pub(super) fn close(&self) {
        if let Err(error) = self.shared.save() {
            tracing::warn!("the last progress of activities could not be saved: {error}");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save_in_background(self: Arc<Self>) {
        loop {
            let shared = self.clone();
            match tokio::task::spawn_blocking(move || shared.save()).await {
                Ok(Ok(())) => (),
                Ok(Err(error)) => {
                    tracing::warn!("the progress of activities could not be saved, trying again in a second: {error}")
                }
                Err(error) => tracing::error!("the progress of activities could not be saved, trying again in a second: {error}"),
            }
            // Also when nothing is left: who reports in this second waits for its end.
            tokio::time::sleep(PAUSE).await;
            let mut state = self.lock();
            if state.unsaved.is_empty() {
                state.is_saved_in_background = false;
                return;
            }
        }
    }

    /// Saves what is not saved. Blocks.
    fn save(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved: Vec<(Key, u64, Payload)> =
            self.lock().unsaved.iter().map(|(key, (number, progress))| (*key, *number, progress.clone())).collect();
        if unsaved.is_empty() {
            return Ok(());
        }
        let row = |((execution, task), _, payload): &(Key, u64, Payload)| Progress {
            execution: *execution,
            task: *task,
            payload: payload.clone(),
        };
        self.store.save_progress(&unsaved.iter().map(row).collect::<Vec<_>>())?;
        let mut state = self.lock();
        for (key, saved, _) in unsaved {
            // What was reported meanwhile is saved next time.
            if state.unsaved.get(&key).is_some_and(|(number, _)| *number == saved) {
                state.unsaved.remove(&key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::runtime::Runtime;

    use super::*;
    use crate::model::{ExecutionKey, TaskId};
    use crate::store::memory::{Fault, MemoryStore};

    /// How long a test waits for what should happen within a second or two.
    const PATIENCE: Duration = Duration::from_secs(20);

    const BAKE: Key = (ExecutionKey(7), TaskId(1));

    struct World {
        runtime: Runtime,
        store: Arc<MemoryStore>,
        heartbeats: Heartbeats,
    }

    impl World {
        fn new() -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
            let store = Arc::new(MemoryStore::new());
            let heartbeats = Heartbeats::new(runtime.handle().clone(), store.clone());
            Self { runtime, store, heartbeats }
        }

        fn last(&self, key: Key) -> Option<Payload> {
            self.runtime.block_on(self.heartbeats.last(key)).unwrap()
        }

        fn stored(&self, key: Key) -> Option<Payload> {
            self.store.progress(key.0, key.1).unwrap()
        }

        fn until(&self, what: &str, condition: impl Fn() -> bool) {
            let deadline = Instant::now() + PATIENCE;
            while !condition() {
                assert!(Instant::now() < deadline, "not in time: {what}");
                std::thread::yield_now();
            }
        }

        fn is_all_saved(&self) -> bool {
            self.heartbeats.shared.lock().unsaved.is_empty()
        }
    }

    #[test]
    fn a_report_is_known_at_once_and_saved_soon() {
        let world = World::new();
        assert_eq!(world.last(BAKE), None);
        world.heartbeats.report(BAKE, Payload::of(&1));
        assert_eq!(world.last(BAKE), Some(Payload::of(&1)));
        world.until("it is saved", || world.is_all_saved());
        assert_eq!(world.stored(BAKE), Some(Payload::of(&1)));
        assert_eq!(world.last(BAKE), Some(Payload::of(&1)), "from the store now");
        assert_eq!(world.last((BAKE.0, TaskId(2))), None);
    }

    #[test]
    fn many_reports_of_many_activities_are_few_saves() {
        let world = World::new();
        let began = Instant::now();
        for report in 0..1_000 {
            for execution in 0..100 {
                world.heartbeats.report((ExecutionKey(execution), TaskId(0)), Payload::of(&report));
            }
        }
        world.until("all is saved", || world.is_all_saved());
        for execution in 0..100 {
            assert_eq!(world.stored((ExecutionKey(execution), TaskId(0))), Some(Payload::of(&999)));
        }
        let seconds = began.elapsed().as_secs();
        assert!(world.store.writes() <= seconds + 1, "{} saves in {seconds} s", world.store.writes());
    }

    #[test]
    fn what_could_not_be_saved_is_known_and_tried_again() {
        let world = World::new();
        world.store.fail_next(Fault::Refuse);
        world.heartbeats.report(BAKE, Payload::of(&1));
        world.until("a save has failed", || world.store.writes() == 1);
        assert_eq!((world.last(BAKE), world.stored(BAKE)), (Some(Payload::of(&1)), None));
        world.heartbeats.report(BAKE, Payload::of(&2));
        world.until("it is saved after all", || world.is_all_saved());
        assert_eq!((world.stored(BAKE), world.store.writes()), (Some(Payload::of(&2)), 2));
    }

    #[test]
    fn a_report_that_comes_when_all_was_saved_is_saved_too() {
        let world = World::new();
        for report in 0..3 {
            world.heartbeats.report(BAKE, Payload::of(&report));
            world.until("nobody saves any more", || !world.heartbeats.shared.lock().is_saved_in_background);
            assert_eq!(world.stored(BAKE), Some(Payload::of(&report)));
        }
        assert_eq!(world.store.writes(), 3);
    }

    #[test]
    fn the_progress_of_what_has_completed_is_not_saved_any_more() {
        let world = World::new();
        world.heartbeats.report((ExecutionKey(1), TaskId(0)), Payload::of(&0));
        world.until("the first is saved", || world.is_all_saved());
        world.heartbeats.report(BAKE, Payload::of(&1));
        world.heartbeats.forget(BAKE);
        world.until("nobody saves any more", || !world.heartbeats.shared.lock().is_saved_in_background);
        assert_eq!((world.last(BAKE), world.store.writes()), (None, 1));
    }

    #[test]
    fn at_the_end_of_the_server_what_is_left_is_saved() {
        let world = World::new();
        world.heartbeats.report((ExecutionKey(1), TaskId(0)), Payload::of(&0));
        world.until("the first is saved", || world.is_all_saved());
        world.heartbeats.report(BAKE, Payload::of(&1));
        let World { runtime, store, heartbeats } = world;
        runtime.shutdown_timeout(PATIENCE);
        heartbeats.report(BAKE, Payload::of(&2));
        heartbeats.close();
        assert_eq!(store.progress(BAKE.0, BAKE.1).unwrap(), Some(Payload::of(&2)));
    }
}
