//! How does an instance begin? With its first turn, if that may run before the start is recorded: then one commit has both.
//!
//! Nobody has been told that the instance exists before that commit, so nothing is lost if there never is one. A turn that takes long, or whose work others
//! would feel, is left out: then the start is recorded alone.

use super::{Instance, Phase, Step};
use crate::engine::orders::{Effect, Start, TurnResult};
use crate::engine::partition::Moment;
use crate::engine::wants::Starter;
use crate::model::{Action, Ask, Execution, LogLine, Progress};
use crate::replay::TurnError;

/// How long a start may wait for its first turn before it is recorded alone, in milliseconds. A turn takes well below one; whoever starts an
/// instance should not notice one that takes longer.
const WAIT_MS_MAX: u64 = 50;

/// What a guest at fault did, and what it said.
type Fault = (TurnError, Vec<LogLine>);

/// A start that is not durable yet.
pub(in crate::engine) struct Starting {
    pub(in crate::engine) starter: Starter,
    pub(in crate::engine) start: Start,
    /// When it is recorded alone if its first turn is not through by then, in milliseconds since 1970.
    pub(super) until_ms: u64,
    /// What becomes of the first turn while the start is committed alone.
    pub(super) first_turn: FirstTurn,
}

/// A first turn beside the commit of its start.
pub(in crate::engine) enum FirstTurn {
    /// There is none.
    Later,
    /// It runs, or stands in line, with this time of the guest.
    Runs { at_ms: u64, begun: bool },
    /// This came of it, and is to be recorded behind the start.
    Done { at_ms: u64, result: Box<Result<TurnResult, Fault>> },
}

impl Instance {
    /// Begins with its start.
    pub(in crate::engine) fn start(&mut self, starter: Starter, start: Start, moment: &mut Moment<'_>) {
        let execution = Execution::new(start.started.clone());
        self.wake = execution.wake();
        self.execution = Some(execution);
        self.waiters.extend(start.waiter);
        let (runs_at_once, until_ms) = (start.runs_at_once, moment.now_ms + WAIT_MS_MAX);
        self.starting = Some(Box::new(Starting { starter, start, until_ms, first_turn: FirstTurn::Later }));
        if runs_at_once {
            self.go_on(moment);
        }
        if matches!(self.phase, Phase::Idle) {
            self.commit(Step::default(), moment);
        }
    }

    /// Nothing came of the first turn of an instance whose start is not recorded yet: commits the start alone. The turn runs again afterwards.
    pub(in crate::engine) fn start_without_turn(&mut self, moment: &mut Moment<'_>) {
        moment.push(Effect::Evict(self.current));
        self.commit(Step::default(), moment);
    }

    /// Commits the start alone if what came of the first turn has to be recorded behind it, and keeps that for then; else gives it back.
    pub(super) fn start_before(
        &mut self,
        result: Result<TurnResult, Fault>,
        moment: &mut Moment<'_>,
    ) -> Option<Result<TurnResult, Fault>> {
        let (Some(starting), Phase::Turn { at_ms, .. }) = (&mut self.starting, &self.phase) else { return Some(result) };
        if result.as_ref().is_ok_and(|result| !is_felt_by_others(&result.progress)) {
            return Some(result);
        }
        starting.first_turn = FirstTurn::Done { at_ms: *at_ms, result: Box::new(result) };
        self.commit(Step::default(), moment);
        None
    }

    /// The first turn takes long: commits the start alone while it goes on.
    pub(super) fn start_beside_turn(&mut self, moment: &mut Moment<'_>) {
        if let (Some(starting), Phase::Turn { at_ms, begun, .. }) = (&mut self.starting, &self.phase) {
            starting.first_turn = FirstTurn::Runs { at_ms: *at_ms, begun: *begun };
            self.commit(Step::default(), moment);
        }
    }

    /// Whether the first turn runs while its start is being committed.
    pub(in crate::engine) fn runs_beside_start(&self) -> bool {
        self.starting.as_ref().is_some_and(|starting| matches!(starting.first_turn, FirstTurn::Runs { .. }))
    }

    /// Keeps what came of a first turn while its start is being committed; without a result it is run again after that.
    pub(in crate::engine) fn keep_first_turn(&mut self, result: Option<Result<TurnResult, Fault>>) {
        if let Some(starting) = &mut self.starting
            && let FirstTurn::Runs { at_ms, .. } = starting.first_turn
        {
            let done = |result| FirstTurn::Done { at_ms, result: Box::new(result) };
            starting.first_turn = result.map_or(FirstTurn::Later, done);
        }
    }

    /// It is durable that the instance has started: tells who wanted it, and records what came of its first turn, if that was kept.
    pub(super) fn has_started(&mut self, starting: Starting, moment: &mut Moment<'_>) {
        let Starting { starter, first_turn, .. } = starting;
        starter.started(moment.effects);
        let turn = |at_ms, begun| Phase::Turn { at_ms, ready: 0, taken: Vec::new(), begun };
        match first_turn {
            FirstTurn::Later => (),
            FirstTurn::Runs { at_ms, begun } => self.phase = turn(at_ms, begun),
            FirstTurn::Done { at_ms, result } => {
                self.phase = turn(at_ms, true);
                match *result {
                    Ok(result) => self.record(result, moment),
                    Err((error, lines)) => self.record_fault(error, lines, moment),
                }
            }
        }
    }
}

/// Whether what a first turn brought about shows to others as soon as it is durable: the end, and messages. If a commit fails and nobody knows whether it
/// went through, an instance that has ended could not be told from one that never was.
fn is_felt_by_others(progress: &Progress) -> bool {
    let sends =
        |ask: &Ask| matches!(ask, Ask::Schedule(Action::SubOrchestration(_) | Action::StartDetached(_) | Action::SendEvent(_)));
    progress.end.is_some() || progress.continuation.is_some() || progress.asks.iter().any(sends)
}
