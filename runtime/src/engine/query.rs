//! How is a question about an instance answered, without touching the instance?
//!
//! On a guest of its own, which is brought to where the stored history ends, asked, and dropped. The guest that goes on with the
//! instance hears nothing of it, nothing is written, and what is said on the way is shown to nobody. An ended instance answers too:
//! as it stood at its end, or, if its guest was at fault, before the turn in which that happened.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::hub::{Hub, blocking};
use super::orders::TurnFailure;
use super::pool::{HubModule, TurnPool};
use super::shell::{Machinery, Shell};
use super::turns::{self, REPLAY_PATIENCE};
use super::views::QueryError;
use crate::host::{OrchestratorGuest, UNKNOWN_QUERY};
use crate::model::{End, Event, Failure, Input, InstanceId, Payload, Progress, Started, rewind};
use crate::replay::{self, Fault, Guest, TurnError};
use crate::store::{InstanceRow, StoreError};

/// How many questions are answered at once, in the whole process. Each holds a whole history and a guest's slot, and keeps a thread
/// busy; turns have more threads than this.
const AT_ONCE_MAX: usize = 8;

/// How many of them about instances of one module: one that answers slowly, or never, leaves places to the others.
const AT_ONCE_EACH_MAX: usize = 2;

static PLACES: LazyLock<Places> = LazyLock::new(Places::default);

/// How long a question waits for its turn before the caller is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How long it may take from then on. A long history takes a while to be repeated; no client waits longer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

impl Hub {
    /// Asks an instance a question, and returns its answer: about where its history stood when it was read. Changes nothing. What a
    /// caller that goes away has asked is given up before it begins, or at the next turn of the replay.
    ///
    /// Each recorded turn may compute as long as when a guest is rebuilt, the answer as long as a turn.
    ///
    /// # Errors
    /// As [`QueryError`] says.
    pub async fn query(&self, id: &InstanceId, name: String, input: Payload) -> Result<Payload, QueryError> {
        let (shell, asked) = (self.shell.clone(), id.clone());
        let row = blocking(move || shell.row_of(&asked)).await.map_err(QueryError::Unreadable)?.ok_or(QueryError::NotFound)?;
        let Ok(place) = timeout(WAIT_MAX, PLACES.take(self.shell.hub_module(row.module))).await else {
            return Err(QueryError::Overloaded);
        };
        timeout(ANSWER_MAX, self.answer(place, id, name, input)).await.unwrap_or(Err(QueryError::TooSlow))
    }

    async fn answer(&self, place: Place, id: &InstanceId, name: String, input: Payload) -> Result<Payload, QueryError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        let found = blocking(move || read(&shell, &id)).await.map_err(QueryError::Unreadable)?;
        let (row, history) = found.ok_or(QueryError::NotFound)?;
        if !has_run(&history) {
            return Err(QueryError::NotRun(row.status));
        }
        let (answer, answered) = oneshot::channel();
        let machinery = self.shell.machinery.clone();
        let module = row.module;
        let question = Arc::new(Question { row, history, name, input, _place: place });
        when_awaited(&self.shell.machinery.turns, self.shell.hub_module(module), &question, move |question| {
            let asked = catch_unwind(AssertUnwindSafe(|| ask(&machinery, question, &answer)));
            // Whoever asked may have gone.
            let _ = answer.send(asked.unwrap_or_else(|_| Err(QueryError::Host("the host panicked".into()))));
        });
        answered.await.unwrap_or(Err(QueryError::ShuttingDown))
    }
}

/// A question that has its place. Whoever waits for the answer holds it; who works on it, too.
struct Question {
    row: InstanceRow,
    history: Vec<Event>,
    name: String,
    input: Payload,
    _place: Place,
}

/// Has `work` done on `held` among the turns of `module`, unless nobody holds that any more when it is its turn: while it waits
/// behind a slow module's turns, the work itself holds nothing.
fn when_awaited<T: Send + Sync + 'static>(
    turns: &TurnPool,
    module: HubModule,
    held: &Arc<T>,
    work: impl FnOnce(&T) + Send + 'static,
) {
    let awaited = Arc::downgrade(held);
    turns.submit(module, move || {
        if let Some(held) = awaited.upgrade() {
            work(&held);
        }
    });
}

/// Who may be answered now.
struct Places {
    all: Arc<Semaphore>,
    /// Of the modules that are asked something, or wait for it.
    each: Arc<Mutex<HashMap<HubModule, Arc<Semaphore>>>>,
}

/// A place of one question. Dropped, it goes to the next.
struct Place {
    module: HubModule,
    each: Arc<Mutex<HashMap<HubModule, Arc<Semaphore>>>>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE_MAX)), each: Arc::default() }
    }
}

impl Places {
    /// Waits for a place for a question about an instance of `module`.
    async fn take(&self, module: HubModule) -> Place {
        let mut place = Place { module, each: self.each.clone(), permits: None };
        let own = lock(&self.each).entry(module).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_EACH_MAX))).clone();
        // First its own: who waits for that keeps nobody else waiting.
        let own = own.acquire_owned().await.expect("it is never closed");
        let all = self.all.clone().acquire_owned().await.expect("it is never closed");
        place.permits = Some((own, all));
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permits = None;
        let mut each = lock(&self.each);
        // Held by the map alone: nobody is asked, and nobody waits.
        if each.get(&self.module).is_some_and(|own| Arc::strong_count(own) == 1) {
            each.remove(&self.module);
        }
    }
}

/// Nothing panics while it holds this lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The row and the history of an instance. Blocks.
pub(super) fn read(shell: &Shell, id: &InstanceId) -> Result<Option<(InstanceRow, Vec<Event>)>, StoreError> {
    // A row may be replaced between two reads; then the history of the old one is gone or going.
    for _ in 0..3 {
        let Some(row) = shell.row_of(id)? else { return Ok(None) };
        let history = shell.machinery.store.history(row.execution)?;
        if history.len() >= row.length as usize {
            return Ok(Some((row, history)));
        }
    }
    Err(StoreError::Corrupt(format!("the history of instance {id} is not whole")))
}

/// Whether a replay of `history` runs any code of the orchestrator. The turn in which a guest was at fault is not repeated.
fn has_run(history: &[Event]) -> bool {
    let history = rewind::standing(history);
    let turns = history.iter().filter(|event| matches!(event, Event::TurnStarted { .. })).count();
    let at_fault = matches!(history.last(), Some(Event::Ended { end: End::Faulted(_), .. }));
    turns > usize::from(at_fault)
}

/// Where an answer goes; it is known there whether anybody waits for it.
type Answer = oneshot::Sender<Result<Payload, QueryError>>;

/// Brings a guest to where the history ends, and asks it.
fn ask(machinery: &Arc<Machinery>, question: &Question, answer: &Answer) -> Result<Payload, QueryError> {
    let Question { row, history, name, input, .. } = question;
    let (context, limits) = (machinery.turn_context(), &machinery.limits);
    let mut guest = turns::new_guest(&context, &*context.module(row.module)?)?;
    guest.set_cpu_ms_max(limits.turn_cpu_ms_max.saturating_mul(REPLAY_PATIENCE));
    replay::replay(history, &mut WhileAwaited { guest: &mut guest, answer })?;
    guest.set_cpu_ms_max(limits.turn_cpu_ms_max);
    match guest.ask(name, input) {
        Ok(Ok(payload)) => Ok(payload),
        Ok(Err(failure)) if failure.kind == UNKNOWN_QUERY => Err(QueryError::Unknown(failure)),
        Ok(Err(failure)) => Err(QueryError::Failed(failure)),
        Err(fault) => Err(fault.into()),
    }
}

/// A guest that plays no further turn when nobody waits for the answer any more: a long history may take minutes.
struct WhileAwaited<'a> {
    guest: &'a mut OrchestratorGuest,
    answer: &'a Answer,
}

impl Guest for WhileAwaited<'_> {
    fn begin(&mut self, started: &Started) -> Result<(), Fault> {
        self.guest.begin(started)
    }

    fn advance(&mut self, at_ms: u64, inputs: &[Input]) -> Result<Progress, Fault> {
        if self.answer.is_closed() {
            return Err(Fault::Exhausted(Failure::new("Cancelled", "nobody waits for the answer any more")));
        }
        let played = self.guest.advance(at_ms, inputs);
        let _said_before = self.guest.take_lines(); // These were shown when they were new.
        played
    }
}

impl From<TurnFailure> for QueryError {
    fn from(failure: TurnFailure) -> Self {
        match failure {
            TurnFailure::Guest { error, .. } => error.into(),
            TurnFailure::Host(message) => Self::Host(message),
        }
    }
}

impl From<TurnError> for QueryError {
    fn from(error: TurnError) -> Self {
        match error {
            TurnError::Fault(fault) => fault.into(),
            TurnError::Diverged(message) => Self::Diverged(message),
            TurnError::Corrupt(error) => Self::Unreadable(StoreError::Corrupt(error.to_string())),
        }
    }
}

impl From<Fault> for QueryError {
    fn from(fault: Fault) -> Self {
        let (Fault::Certain(failure) | Fault::Exhausted(failure)) = fault;
        Self::Faulted(failure)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;

    use super::*;
    use crate::engine::backlog::Backlog;
    use crate::model::execution::tests::{ended, scheduled, started, turn};
    use crate::model::{Digest, HubKey};

    #[test]
    fn there_is_nothing_to_ask_before_a_turn_that_can_be_repeated() {
        let check = |events: &[Event], expected: bool| {
            let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(events.iter().cloned()).collect();
            assert_eq!(has_run(&history), expected, "{events:?}");
        };
        let faulted = Event::Ended { at_ms: 2_000, end: End::Faulted(Failure::new("Panic", "the oven is cold")) };
        let terminated = Event::Ended { at_ms: 2_000, end: End::Terminated { reason: None } };
        check(&[], false);
        check(std::slice::from_ref(&terminated), false);
        check(&[turn(1_500, 0), faulted.clone()], false);
        check(&[turn(1_500, 0), ended()], true);
        check(&[turn(1_500, 0), terminated], true);
        check(&[turn(1_500, 0), scheduled(0, "Mix"), turn(1_600, 0), faulted], true);
    }

    #[tokio::test]
    async fn a_module_has_some_of_the_places_and_never_all() {
        let places = Places::default();
        let module = |number| HubModule { hub: HubKey(1), module: Digest([number; 32]) };
        let mut held = Vec::new();
        for number in 0..AT_ONCE_MAX / AT_ONCE_EACH_MAX {
            for _ in 0..AT_ONCE_EACH_MAX {
                assert_eq!(places.all.available_permits(), AT_ONCE_MAX - held.len());
                held.push(places.take(module(number as u8)).await);
            }
            let mut one_more = pin!(places.take(module(number as u8)));
            assert!(at_once(one_more.as_mut()).is_none(), "module {number} has its share");
        }
        assert!(at_once(pin!(places.take(module(99)))).is_none(), "nothing is left");
        held.pop();
        drop(places.take(module(99)).await);
        held.clear();
        assert_eq!(places.all.available_permits(), AT_ONCE_MAX);
        assert_eq!(lock(&places.each).len(), 0, "nobody is remembered");
    }

    /// What a future gives at once.
    fn at_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn what_nobody_waits_for_any_more_holds_nothing_while_it_stands_in_line() {
        let (turns, module) =
            (TurnPool::new(1, 1, 0, Backlog::new(usize::MAX)), HubModule { hub: HubKey(1), module: Digest([1; 32]) });
        let (go, gate) = mpsc::channel::<()>();
        turns.submit(module, move || gate.recv().unwrap());
        let (worked, done) = mpsc::channel();
        let (given_up, awaited) = (Arc::new("given up"), Arc::new("awaited"));
        for held in [&given_up, &awaited] {
            let worked = worked.clone();
            when_awaited(&turns, module, held, move |held| worked.send(*held).unwrap());
        }
        assert!(Arc::into_inner(given_up).is_some(), "its place is free");
        go.send(()).unwrap();
        drop(worked);
        assert_eq!(done.iter().collect::<Vec<_>>(), ["awaited"]);
    }

    #[test]
    fn what_goes_wrong_in_a_replay_is_told_by_whose_fault_it_is() {
        let faulted = QueryError::from(TurnError::Fault(Fault::Exhausted(Failure::new("LimitExceeded", "too long"))));
        assert!(matches!(&faulted, QueryError::Faulted(failure) if failure.kind == "LimitExceeded"), "{faulted}");
        let diverged = QueryError::from(TurnError::Diverged("task 0: history has activity \"Mix\"".into()));
        assert!(diverged.to_string().starts_with("the module does not repeat its history: task 0"), "{diverged}");
        let host = QueryError::from(TurnFailure::Host("no memory".into()));
        assert_eq!(host.to_string(), "the query could not be run: no memory");
    }
}
