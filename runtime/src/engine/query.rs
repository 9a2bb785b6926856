//! How is a question about an instance answered, without touching the instance?
//!
//! On a guest of its own, which is brought to where the stored history ends, asked, and dropped. The guest that goes on with the
//! instance hears nothing of it, nothing is written, and what is said on the way is shown to nobody. An ended instance answers too:
//! as it stood at its end, or, if its guest was at fault, before the turn in which that happened.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::hub::{Hub, blocking};
use super::orders::TurnFailure;
use super::shell::{Machinery, Shell};
use super::turns::{self, REPLAY_PATIENCE, TurnContext};
use super::views::QueryError;
use crate::host::{OrchestratorGuest, UNKNOWN_QUERY};
use crate::model::{End, Event, Failure, Input, InstanceId, Payload, Progress, Started};
use crate::replay::{self, Fault, Guest, TurnError};
use crate::store::{InstanceRow, StoreError};

/// How many questions are answered at once, in the whole process. Each holds a whole history and a guest's slot, and keeps a thread
/// busy; turns have more threads than this.
const AT_ONCE_MAX: usize = 4;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE_MAX);

/// How long a question waits for its turn before the caller is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);

impl Hub {
    /// Asks an instance a question, and returns its answer: about where its history stood when it was read. Changes nothing. What a
    /// caller that goes away has asked is given up at the next turn of the replay.
    ///
    /// Each recorded turn may compute as long as when a guest is rebuilt, the answer as long as a turn.
    ///
    /// # Errors
    /// As [`QueryError`] says.
    pub async fn query(&self, id: &InstanceId, name: String, input: Payload) -> Result<Payload, QueryError> {
        let Ok(place) = timeout(WAIT_MAX, PLACES.acquire()).await else { return Err(QueryError::Overloaded) };
        let place = place.expect("it is never closed");
        let (shell, id) = (self.shell.clone(), id.clone());
        let read = blocking(move || Ok((read(&shell, &id)?, shell))).await;
        let (found, shell) = read.map_err(QueryError::Unreadable)?;
        let (row, history) = found.ok_or(QueryError::NotFound)?;
        if !has_run(&history) {
            return Err(QueryError::NotRun(row.status));
        }
        let (answer, answered) = oneshot::channel();
        let machinery = shell.machinery.clone();
        shell.machinery.turns.submit(row.module, move || {
            let _place = place;
            let asked = catch_unwind(AssertUnwindSafe(|| ask(&machinery, &row, &history, &name, &input, &answer)));
            // Whoever asked may have gone.
            let _ = answer.send(asked.unwrap_or_else(|_| Err(QueryError::Host("the host panicked".into()))));
        });
        answered.await.unwrap_or(Err(QueryError::ShuttingDown))
    }
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
    let turns = history.iter().filter(|event| matches!(event, Event::TurnStarted { .. })).count();
    let at_fault = matches!(history.last(), Some(Event::Ended { end: End::Faulted(_), .. }));
    turns > usize::from(at_fault)
}

/// Where an answer goes; it is known there whether anybody waits for it.
type Answer = oneshot::Sender<Result<Payload, QueryError>>;

/// Brings a guest to where `history` ends, and asks it.
fn ask(
    machinery: &Arc<Machinery>,
    row: &InstanceRow,
    history: &[Event],
    name: &str,
    input: &Payload,
    answer: &Answer,
) -> Result<Payload, QueryError> {
    let Machinery { store, host, residents, limits, metrics, .. } = &**machinery;
    let context = TurnContext { store: store.as_ref(), host, residents, limits, metrics };
    let mut guest = turns::new_guest(&context, row.module)?;
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
    use super::*;
    use crate::model::execution::tests::{ended, scheduled, started, turn};

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
