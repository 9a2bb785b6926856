//! How can a failed instance go on? What to take back of its history, and which code agrees with the rest.
//!
//! A rewind that the code does not agree with would only fail again. So what is to stand is played first, on a guest that nobody sees: on the
//! current version of the module, so that a mended orchestrator goes on where the broken one failed, and on the one that the instance
//! has. If neither agrees when the failed tasks are opened again, since the code has reacted to their failures, they stay as they are, and only
//! the last turn is played again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::orders::{LoadError, NoRewind, RewindOrder, RewindPlan, Rewinder, TurnFailure};
use super::shell::Shell;
use super::step::children;
use super::turns::{self, REPLAY_PATIENCE};
use crate::model::{
    CorruptHistory, Digest, Event, Execution, Input, InstanceId, Parent, Progress, RuntimeStatus, TaskId, rewind,
};
use crate::replay::{self, Recorded, TurnError};
use crate::store::{InstanceRow, StoreError};

/// How many rewinds are planned at once. Each holds a whole history a few times, and may keep a thread busy for long.
const AT_ONCE_MAX: usize = 2;

/// Plans that run, and those that wait for one of these to end.
#[derive(Default)]
pub(super) struct Plans(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    running: usize,
    plans: VecDeque<Plan>,
}

type Plan = Box<dyn FnOnce() + Send>;

impl Plans {
    /// Hands `plan` to `run` as soon as it may run. Whoever runs it calls [`Self::done`] at its end.
    pub(super) fn submit(&self, plan: Plan, run: impl FnOnce(Plan)) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.running >= AT_ONCE_MAX {
            return waiting.plans.push_back(plan);
        }
        waiting.running += 1;
        drop(waiting);
        run(plan);
    }

    /// A plan has come to its end: `run` gets the next one, if one waits.
    pub(super) fn done(&self, run: impl FnOnce(Plan)) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = waiting.plans.pop_front();
        waiting.running -= usize::from(next.is_none());
        drop(waiting);
        if let Some(next) = next {
            run(next);
        }
    }
}

/// Finds out how the instance that `order` names can go on. Changes nothing. Takes as long as playing its history a few times.
pub(super) fn plan(shell: &Shell, order: &RewindOrder) -> Result<Box<RewindPlan>, NoRewind> {
    let (row, history) = read(shell, order)?;
    let modules = shell.machinery.store.modules(shell.row.key)?;
    let has = |digest: &Digest| modules.iter().any(|module| module.digest == *digest);
    let current = shell.current(&row.function).map(|code| code.module).filter(|current| *current != row.module);
    let codes: Vec<Digest> = current.into_iter().chain([row.module]).filter(has).collect();
    let now_ms = shell.machinery.clock.now_ms();
    let plan = choose(row, &history, &codes, now_ms, order.reason.clone(), |history, code| agrees(shell, history, now_ms, code));
    with_unstarted(plan?, &history, |child, parent| Ok(start_of(shell, child)?.is_some_and(|of| of.as_ref() == Some(parent))))
}

/// Of which instance the one with this ID is a child, if it is there.
fn start_of(shell: &Shell, id: &InstanceId) -> Result<Option<Option<Parent>>, StoreError> {
    let Some(row) = shell.row_of(id)? else { return Ok(None) };
    let first = shell.machinery.store.first_event(row.execution)?;
    Ok(Some(if let Some(Event::Started(started)) = first { started.parent } else { None }))
}

/// The plan with what could never be started among what is to be: the children whose start was refused. `is_child` looks whether there is an
/// instance of that ID which is the child of this parent.
pub(super) fn with_unstarted(
    mut plan: Box<RewindPlan>,
    history: &[Event],
    is_child: impl Fn(&InstanceId, &Parent) -> Result<bool, NoRewind>,
) -> Result<Box<RewindPlan>, NoRewind> {
    let refused = rewind::refused(history);
    for (task, child) in children(&plan.execution).filter(|(task, _)| refused.contains(task)) {
        let parent = Parent { instance: plan.row.id.clone(), execution: plan.row.execution, task };
        if !is_child(&child, &parent)? {
            plan.unstarted.insert(task);
        }
    }
    Ok(plan)
}

/// The first way to go on that some of the `codes` agrees with, those to be preferred first. `agrees` plays a history that ends with a rewind.
pub(super) fn choose(
    row: InstanceRow,
    history: &[Event],
    codes: &[Digest],
    at_ms: u64,
    reason: Option<String>,
    mut agrees: impl FnMut(&[Event], Digest) -> Result<bool, NoRewind>,
) -> Result<Box<RewindPlan>, NoRewind> {
    if codes.is_empty() {
        let why = format!(
            "the version of its module that instance {} runs on was deleted, and no other has orchestrator {:?}; upload one that has",
            row.id, row.function
        );
        return Err(NoRewind::Refused(why));
    }
    let turn_at_ms = rewind::last_turn_ms(history);
    let rewound = |reopened: &[TaskId], code: Digest| {
        let module = (code != row.module).then_some(code);
        let rewound = Event::Rewound { at_ms, reason: reason.clone(), reopened: reopened.to_vec(), turn_at_ms, module };
        [history, &[rewound]].concat()
    };
    let reopened = rewind::to_reopen(history);
    let ways: &[&[TaskId]] = if reopened.is_empty() { &[&[]] } else { &[&reopened, &[]] };
    let mut chosen = None;
    for (reopened, code) in ways.iter().flat_map(|reopened| codes.iter().map(move |code| (reopened, *code))) {
        let history = rewound(reopened, code);
        if agrees(&history, code)? {
            chosen = Some(history);
            break;
        }
    }
    // What nothing agrees with must not be recorded: nothing would ever go on from there.
    let Some(mut chosen) = chosen else {
        let why = format!(
            "no version of its module repeats what instance {} has done so far; upload one that does, and rewind it then",
            row.id
        );
        return Err(NoRewind::Refused(why));
    };
    let execution = Execution::fold(&chosen)?;
    let rewound = chosen.pop().expect("a rewind was appended");
    Ok(Box::new(RewindPlan { row, rewound, execution, unstarted: rewind::asked_last(history) }))
}

/// The row and the history of an instance that has failed, and is the child of who asks if that is its parent.
fn read(shell: &Shell, order: &RewindOrder) -> Result<(InstanceRow, Vec<Event>), NoRewind> {
    let store = &shell.machinery.store;
    let row = shell.row_of(&order.instance)?.ok_or(NoRewind::NotFound)?;
    let history = store.history(row.execution)?;
    if history.len() != row.length as usize {
        // It was purged or replaced between the two.
        return Err(NoRewind::NotFound);
    }
    if let Rewinder::Parent(_, parent) = &order.by
        && !matches!(history.first(), Some(Event::Started(started)) if started.parent.as_ref() == Some(parent))
    {
        return Err(NoRewind::NotFound);
    }
    match history.last() {
        Some(Event::Ended { .. }) if row.status == RuntimeStatus::Failed => Ok((row, history)),
        Some(Event::Ended { end, .. }) => Err(NoRewind::Ended(end.clone())),
        _ => Err(NoRewind::NotFound),
    }
}

/// Whether `code` does again what still stands of `history`, which ends with a rewind.
fn agrees(shell: &Shell, history: &[Event], now_ms: u64, code: Digest) -> Result<bool, NoRewind> {
    match play(shell, history, now_ms, code) {
        // That it fails again in the turn that is new is its own affair.
        Ok(Ok(_) | Err(TurnError::Fault(_))) => Ok(true),
        Ok(Err(error)) | Err(TurnFailure::Guest { error, .. }) => {
            tracing::debug!("module {code} does not agree with what a rewind would leave: {error}");
            Ok(false)
        }
        Err(TurnFailure::Host(message)) => {
            tracing::warn!("an instance to rewind cannot be played now: {message}");
            Err(NoRewind::Unreadable(LoadError::Passing))
        }
    }
}

/// Plays all of a rewound history, and what came of the turn that is to be played again.
fn play(shell: &Shell, history: &[Event], now_ms: u64, code: Digest) -> Result<Result<Progress, TurnError>, TurnFailure> {
    let context = shell.machinery.turn_context();
    let mut guest = turns::new_guest(&context, &*context.module(code)?)?;
    guest.set_cpu_ms_max(context.limits.turn_cpu_ms_max.saturating_mul(REPLAY_PATIENCE));
    let replayed = replay::replay(history, &mut guest);
    let execution = replayed.map_err(|error| TurnFailure::Guest { error, lines: Vec::new() })?;
    let again = execution.again.as_ref().expect("it has just been rewound");
    let at_ms = again.at_ms.unwrap_or_else(|| now_ms.max(execution.latest_ms));
    let inputs: Vec<Input> = execution.unread.iter().take(again.inputs).cloned().collect();
    guest.set_cpu_ms_max(context.limits.turn_cpu_ms_max);
    Ok(replay::turn(&mut guest, at_ms, &inputs, again.next_task, Some(&Recorded::beginning(again))))
}

impl From<StoreError> for NoRewind {
    fn from(error: StoreError) -> Self {
        tracing::warn!("an instance to rewind cannot be read: {error}");
        Self::Unreadable(if matches!(error, StoreError::Corrupt(_)) { LoadError::Damaged } else { LoadError::Passing })
    }
}

impl From<CorruptHistory> for NoRewind {
    fn from(error: CorruptHistory) -> Self {
        StoreError::Corrupt(error.to_string()).into()
    }
}
