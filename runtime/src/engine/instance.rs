//! What is one instance doing right now? Its phase, what has arrived for it, and what it asks to be done next.
//!
//! Pure, a part of [`super::partition`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::partition::{ActivityOrder, Answer, CommitOrder, Effect, Start, Token, TurnOrder};
use crate::model::{
    Action, Ask, Digest, End, Event, Execution, ExecutionKey, Failure, Input, InstanceId, InstanceKey, LimitsInForce, LogLine,
    LogRecord, Outcome, Payload, Progress, RuntimeStatus, Started, TaskId,
};
use crate::replay::{Fault, TurnError};
use crate::store::{Change, StoreError};

/// An open instance.
pub(super) struct Instance {
    key: InstanceKey,
    current: ExecutionKey,
    pub(super) id: InstanceId,
    pub(super) phase: Phase,
    /// The fold of what is stored; `None` until it is loaded.
    pub(super) execution: Option<Execution>,
    /// Inputs that are not recorded yet, in the order of their arrival. At most one answer for each task.
    arrived: Vec<Arrival>,
    /// Tasks that were dispatched in this life of the server and have not answered.
    running: BTreeSet<TaskId>,
    /// Who wants it ended, and why.
    termination: Option<Termination>,
    /// How many turns were begun in this life of the server. A result of another turn than the last one is of no use.
    begun: u64,
    /// Which of them was recorded last: a living guest that was not the one to play it has gone astray. 0 if none was.
    played: u64,
    /// How many turns in a row used up their bounds.
    pub(super) tries: u8,
    /// Who waits for the end.
    pub(super) waiters: Vec<Token>,
    /// Who wants the same ID, and came while it was open whether it is free.
    pub(super) contenders: Vec<(Token, Start)>,
}

/// An input with what belongs to it.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The event that records it.
    event: Event,
    /// What an activity said on the way.
    lines: Vec<LogLine>,
    /// Who is told when it is durable.
    caller: Option<Token>,
}

/// A wish from outside that it ends.
#[derive(Debug)]
struct Termination {
    /// Why, as the first one said.
    reason: Option<String>,
    /// All who asked for it.
    callers: Vec<Token>,
}

/// What is in flight for an instance: at most one thing.
#[derive(Debug)]
pub(super) enum Phase {
    /// The commit that creates it.
    Starting { token: Token, started: Box<Started> },
    /// Reading it from the store.
    Loading,
    /// Nothing: it waits for its tasks.
    Idle,
    /// A turn at this time, with `taken` out of `arrived`. Until it has `begun` it stands in line, perhaps for long.
    Turn { at_ms: u64, taken: Vec<Arrival>, begun: bool },
    /// The commit of `events`, which hold what was `taken`; `lines` are shown when it is durable.
    Committing { events: Arc<[Event]>, taken: Vec<Arrival>, lines: Arc<[LogRecord]> },
    /// A timer, after something failed on our side. If that was the store, nobody knows what it holds now.
    Resting { unknown: Option<Arc<StoreError>> },
    /// Nothing, until the server is restarted: the store takes no writes, or cannot be read.
    Halted { why: Arc<StoreError> },
}

impl Instance {
    pub(super) fn new(key: InstanceKey, current: ExecutionKey, id: InstanceId, phase: Phase) -> Self {
        Self {
            key,
            current,
            id,
            phase,
            execution: None,
            arrived: Vec::new(),
            running: BTreeSet::new(),
            termination: None,
            begun: 0,
            played: 0,
            tries: 0,
            waiters: Vec::new(),
            contenders: Vec::new(),
        }
    }

    pub(super) fn status(&self) -> RuntimeStatus {
        match &self.execution {
            Some(execution) if execution.turns > 0 => RuntimeStatus::Running,
            _ => RuntimeStatus::Pending,
        }
    }

    /// Somebody wants to start another instance under this ID: says no, or waits until it turns out whether the ID is free. The store
    /// may show an end before the partition hears of it.
    pub(super) fn contend(&mut self, token: Token, start: Start, effects: &mut Vec<Effect>) {
        let answer = match &self.phase {
            Phase::Starting { .. } | Phase::Loading => return self.contenders.push((token, start)),
            Phase::Committing { events, .. } if matches!(events.last(), Some(Event::Ended { .. })) => {
                return self.contenders.push((token, start));
            }
            Phase::Resting { unknown: Some(why) } | Phase::Halted { why } => Answer::Failed(why.clone()),
            _ => Answer::Exists(self.status()),
        };
        effects.push(Effect::Reply(token, answer));
    }

    /// It has turned out that the ID is not free, or not to be known: tells those who want it.
    pub(super) fn answer_contenders(&mut self, answer: &Answer, effects: &mut Vec<Effect>) {
        effects.extend(self.contenders.drain(..).map(|(token, _)| Effect::Reply(token, answer.clone())));
    }

    /// Takes the answer of a task. Only what runs can answer, and only once: a second answer finds nothing running.
    pub(super) fn answer(&mut self, now_ms: u64, task: TaskId, outcome: Outcome, ran: Option<Digest>, lines: Vec<LogLine>) {
        let Some(execution) = self.execution.as_ref().filter(|_| self.running.remove(&task)) else { return };
        let ran = ran.filter(|digest| *digest != execution.started.module);
        // A clock that was set back does not let a timer fire early.
        let due_ms = if let Some(Action::Timer { due_ms }) = execution.open.get(&task) { *due_ms } else { 0 };
        let event = Event::Resolved { task, at_ms: now_ms.max(due_ms), outcome, ran };
        let mut arrival = Arrival { event, lines, caller: None };
        if !arrival.lines.is_empty() && self.arrived.iter().map(Arrival::lines_bytes).sum::<usize>() > LINES_BYTES_MAX {
            arrival.lines = Vec::new();
        }
        self.arrived.push(arrival);
    }

    /// Takes an event from outside, of which `caller` hears when it is durable.
    pub(super) fn raise(&mut self, now_ms: u64, caller: Token, name: String, payload: Payload, effects: &mut Vec<Effect>) {
        if self.refuses(caller, effects) {
            return;
        }
        self.arrived.push(Arrival {
            event: Event::Raised { at_ms: now_ms, name, payload },
            lines: Vec::new(),
            caller: Some(caller),
        });
        if let Phase::Turn { begun: false, .. } = self.phase {
            // The caller need not stand in line with it. It is asked for again once this is recorded.
            self.take_back();
            self.phase = Phase::Resting { unknown: None };
        }
        self.go_on(now_ms, effects);
        self.append_while_resting(effects);
    }

    /// Ends the instance as soon as nothing of it is being written. A turn that runs is not waited for, and comes to nothing.
    pub(super) fn terminate(&mut self, now_ms: u64, caller: Token, reason: Option<String>, effects: &mut Vec<Effect>) {
        if self.refuses(caller, effects) {
            return;
        }
        let termination = self.termination.get_or_insert_with(|| Termination { reason, callers: Vec::new() });
        termination.callers.push(caller);
        if let Phase::Turn { .. } | Phase::Resting { unknown: None } = self.phase {
            self.take_back();
            self.phase = Phase::Idle;
        }
        self.go_on(now_ms, effects);
    }

    /// Whether nothing can be recorded now; `caller` is told why.
    fn refuses(&self, caller: Token, effects: &mut Vec<Effect>) -> bool {
        let (Phase::Resting { unknown: Some(why) } | Phase::Halted { why }) = &self.phase else { return false };
        effects.push(Effect::Reply(caller, Answer::Failed(why.clone())));
        true
    }

    /// Whether `task` was dispatched and is still wanted.
    pub(super) fn is_running(&self, task: TaskId) -> bool {
        self.running.contains(&task)
    }

    /// A thread has come to turn `number`. Whether that is the one that it waits for.
    pub(super) fn begin_turn(&mut self, number: u64) -> bool {
        match &mut self.phase {
            Phase::Turn { begun, .. } if self.begun == number => *begun = true,
            _ => return false,
        }
        true
    }

    /// Whether this is the turn that it waits for.
    pub(super) fn is_in_turn(&self, number: u64) -> bool {
        matches!(self.phase, Phase::Turn { .. }) && self.begun == number
    }

    /// Does what there is to do, if nothing is in flight: ends the instance if that is wanted, or starts a turn if there is something to
    /// hand to the guest.
    pub(super) fn go_on(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let (Phase::Idle, Some(execution)) = (&self.phase, &self.execution) else { return };
        if let Some(Termination { reason, .. }) = &self.termination {
            // What has arrived and is not recorded has come too late.
            let end = Event::Ended { at_ms: now_ms.max(execution.latest_ms), end: End::Terminated { reason: reason.clone() } };
            return self.commit(Step { turn: vec![end], ..Step::default() }, effects);
        }
        let taken = next(&mut self.arrived, execution);
        if taken.is_empty() && execution.unread.is_empty() && execution.turns > 0 {
            return;
        }
        let mut raised = execution.raised;
        let new_inputs = taken.iter().filter_map(|arrival| Input::of(&arrival.event, &mut raised));
        let at_ms = taken.iter().map(|arrival| arrival.event.at_ms()).fold(now_ms.max(execution.latest_ms), u64::max);
        self.begun += 1;
        effects.push(Effect::RunTurn(Box::new(TurnOrder {
            execution: self.current,
            number: self.begun,
            after: self.played,
            module: execution.started.module,
            turns: execution.turns,
            started: (execution.length == 1).then(|| execution.started.clone()),
            at_ms,
            inputs: execution.unread.iter().cloned().chain(new_inputs).collect(),
            next_task: execution.next_task,
        })));
        self.phase = Phase::Turn { at_ms, taken, begun: false };
    }

    /// Tries the turn again that came to nothing. Who waits for something to be recorded need not wait for that.
    pub(super) fn try_again(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.take_back();
        self.phase = Phase::Resting { unknown: None };
        self.append_while_resting(effects);
        if let Phase::Resting { .. } = self.phase {
            self.phase = Phase::Idle;
            self.go_on(now_ms, effects);
        }
    }

    /// Records what has arrived without a turn, if the turn has to wait and somebody waits for what has arrived.
    pub(super) fn append_while_resting(&mut self, effects: &mut Vec<Effect>) {
        let (Phase::Resting { unknown: None }, Some(execution)) = (&self.phase, &self.execution) else { return };
        if self.arrived.iter().any(|arrival| arrival.caller.is_some()) {
            let taken = next(&mut self.arrived, execution);
            self.commit(Step { before: taken, ..Step::default() }, effects);
        }
    }

    /// Commits what a turn brought about.
    pub(super) fn record(&mut self, now_ms: u64, progress: Progress, lines: Vec<LogLine>, effects: &mut Vec<Effect>) {
        let (Phase::Turn { taken, .. }, Some(execution)) = (&self.phase, &self.execution) else {
            panic!("instance {} got a turn's result in {:?}", self.id, self.phase)
        };
        let scheduled = progress.asks.iter().filter(|ask| matches!(ask, Ask::Schedule(_))).count();
        let tasks = execution.next_task.0 as usize + scheduled;
        let length = execution.length as usize + taken.len() + 2 + progress.asks.len();
        let LimitsInForce { tasks_max, history_events_max, .. } = execution.started.limits;
        let passed = if tasks > tasks_max as usize {
            Some(format!("the orchestrator asked for {tasks} tasks, and may ask for {tasks_max} (limit tasks_max)"))
        } else if length > history_events_max as usize {
            let may = format!("and may have {history_events_max} (limit history_events_max)");
            Some(format!("the history would have {length} events, {may}"))
        } else {
            None
        };
        if let Some(message) = passed {
            let end = End::Faulted(Failure::new("LimitExceeded", message));
            return self.commit_turn(now_ms, Progress { end: Some(end), ..Progress::default() }, lines, effects);
        }
        self.commit_turn(now_ms, progress, lines, effects);
    }

    /// Commits that the guest was at fault, and that this is the end.
    pub(super) fn record_fault(&mut self, now_ms: u64, error: TurnError, lines: Vec<LogLine>, effects: &mut Vec<Effect>) {
        let failure = match error {
            TurnError::Fault(Fault::Certain(failure)) => failure,
            TurnError::Fault(Fault::Exhausted(mut failure)) => {
                failure.message.push_str(&format!("; it was tried {} times", self.tries));
                failure
            }
            TurnError::Diverged(message) => {
                let cause = "a new version of the module does not cause this, since a running instance keeps the one it began with; \
                             a store that was edited, or restored in part, does";
                Failure::new("Diverged", format!("the module does not repeat its history: {message} ({cause})"))
            }
            TurnError::Corrupt(error) => Failure::new("CorruptHistory", error.to_string()),
        };
        let end = Some(End::Faulted(failure));
        self.commit_turn(now_ms, Progress { end, ..Progress::default() }, lines, effects);
    }

    /// Commits a turn: what it took, that it was, and what it brought about.
    fn commit_turn(&mut self, now_ms: u64, progress: Progress, lines: Vec<LogLine>, effects: &mut Vec<Effect>) {
        let (Phase::Turn { at_ms, taken, .. }, Some(execution)) = (&mut self.phase, &self.execution) else {
            panic!("instance {} has no turn to record in {:?}", self.id, self.phase)
        };
        let (at_ms, taken) = (*at_ms, std::mem::take(taken));
        let consumes = u32::try_from(execution.unread.len() + taken.len()).expect("the limit on history is below");
        let mut turn = vec![Event::TurnStarted { at_ms, consumes }];
        let mut next_task = execution.next_task;
        turn.extend(progress.asks.into_iter().map(|ask| match ask {
            Ask::Cancel(task) => Event::Cancelled { task },
            Ask::Schedule(action) => {
                let task = next_task;
                next_task = task.next();
                Event::Scheduled { task, action }
            }
        }));
        let mut after = Vec::new();
        if let Some(end) = progress.end {
            turn.push(Event::Ended { at_ms: now_ms.max(at_ms), end });
        } else if self.arrived.iter().any(|arrival| arrival.caller.is_some()) {
            // Who waits for an event to be recorded need not wait for the next turn.
            let dropped: BTreeSet<TaskId> = turn.iter().filter_map(cancelled_task).collect();
            after = next(&mut self.arrived, execution);
            // Answers to what this turn drops stay where they are: if it cannot be recorded, they count after all.
            let is_dropped = |arrival: &mut Arrival| answered_task(&arrival.event).is_some_and(|task| dropped.contains(&task));
            self.arrived.extend(after.extract_if(.., is_dropped));
        }
        let lines = lines.into_iter().map(|line| LogRecord { at_ms, task: None, line }).collect();
        self.commit(Step { before: taken, turn, after, lines, custom_status: progress.custom_status }, effects);
    }

    /// Commits a step behind what is stored.
    fn commit(&mut self, step: Step, effects: &mut Vec<Effect>) {
        let execution = self.execution.as_ref().expect("only what is loaded goes on");
        let Step { before, turn, after, lines: said, custom_status } = step;
        let arrivals = || before.iter().chain(&after);
        let lines: Vec<LogRecord> = arrivals().flat_map(Arrival::records).chain(said).collect();
        let recorded = |arrivals: &[Arrival]| arrivals.iter().map(|arrival| arrival.event.clone()).collect::<Vec<_>>();
        let events: Arc<[Event]> = [recorded(&before), turn, recorded(&after)].concat().into();
        let has_run = || execution.turns > 0 || events.iter().any(|event| matches!(event, Event::TurnStarted { .. }));
        let status = match events.last() {
            Some(Event::Ended { end, .. }) => end.status(),
            _ if has_run() => RuntimeStatus::Running,
            _ => RuntimeStatus::Pending,
        };
        let lines: Arc<[LogRecord]> = lines.into();
        effects.push(Effect::Commit(Box::new(CommitOrder {
            instance: self.key,
            execution: self.current,
            change: Change::Advance {
                expected_length: execution.length,
                status,
                updated_ms: events.iter().map(Event::at_ms).fold(execution.latest_ms, u64::max),
                custom_status,
                wake: None,
            },
            events: events.clone(),
            lines: lines.clone(),
        })));
        let taken = before.into_iter().chain(after).collect();
        self.phase = Phase::Committing { events, taken, lines };
    }

    /// The step is durable: only now does anything of it show.
    pub(super) fn commit_done(
        &mut self,
        events: &[Event],
        taken: Vec<Arrival>,
        lines: Arc<[LogRecord]>,
        effects: &mut Vec<Effect>,
    ) {
        let execution = self.execution.as_mut().expect("a step needs an execution");
        if events.iter().any(|event| matches!(event, Event::TurnStarted { .. })) {
            self.played = self.begun;
            self.tries = 0;
        }
        for event in events {
            execution.apply(event).expect("we have built these events to follow what is stored");
        }
        effects.extend(taken.iter().filter_map(|arrival| arrival.caller).map(|caller| Effect::Reply(caller, Answer::Recorded)));
        if !lines.is_empty() {
            effects.push(Effect::Log(self.id.clone(), lines));
        }
        // Event by event, not task by task: the cost of a commit must not grow with what is open.
        for event in events {
            match event {
                Event::Scheduled { task, .. } => self.dispatch(*task, effects),
                Event::Cancelled { task } => self.cancel(*task, effects),
                Event::Ended { .. } => self.cancel_all(effects),
                Event::Started(_) | Event::TurnStarted { .. } | Event::Resolved { .. } | Event::Raised { .. } => (),
            }
        }
    }

    /// Makes what runs agree with what the store says is open: dispatches what does not run, stops what nobody waits for.
    pub(super) fn reconcile(&mut self, effects: &mut Vec<Effect>) {
        self.played = 0;
        let execution = self.execution.as_ref().expect("it has just been loaded");
        let answered: BTreeSet<TaskId> = self.arrived.iter().filter_map(|arrival| answered_task(&arrival.event)).collect();
        let unwanted: Vec<TaskId> = self.running.iter().filter(|task| !execution.open.contains_key(task)).copied().collect();
        let idle: Vec<TaskId> = execution.open.keys().filter(|task| !answered.contains(task)).copied().collect();
        for task in unwanted {
            self.cancel(task, effects);
        }
        for task in idle {
            self.dispatch(task, effects);
        }
    }

    /// Has a task run, if it is open and does not run.
    fn dispatch(&mut self, task: TaskId, effects: &mut Vec<Effect>) {
        let execution = self.execution.as_ref().expect("only what is loaded acts");
        let Some(action) = execution.open.get(&task) else { return };
        if !self.running.insert(task) {
            return;
        }
        effects.push(match action {
            Action::Activity(call) => Effect::Dispatch(Box::new(ActivityOrder {
                execution: self.current,
                task,
                call: call.clone(),
                instance: self.id.clone(),
                generation: execution.started.generation,
                module: execution.started.module,
            })),
            Action::Timer { due_ms } => Effect::Sleep(self.current, task, *due_ms),
            Action::SubOrchestration(_) | Action::Http(_) => return,
            Action::StartDetached(_) | Action::SendEvent(_) | Action::WaitEvent { .. } => {
                unreachable!("the guest finds what it waits for, so that this is never open")
            }
        });
    }

    fn cancel(&mut self, task: TaskId, effects: &mut Vec<Effect>) {
        if self.running.remove(&task) {
            effects.push(Effect::Cancel(self.current, task));
        }
    }

    fn cancel_all(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(std::mem::take(&mut self.running).into_iter().map(|task| Effect::Cancel(self.current, task)));
    }

    /// Puts what a turn or commit took back to where it was, in order, before what has arrived since.
    pub(super) fn take_back(&mut self) {
        if let Phase::Turn { taken, .. } | Phase::Committing { taken, .. } = &mut self.phase {
            let mut taken = std::mem::take(taken);
            taken.append(&mut self.arrived);
            self.arrived = taken;
        }
    }

    /// Tells everybody who waits for something to be recorded that it was not, or that nobody knows. What they wanted is forgotten.
    pub(super) fn refuse_callers(&mut self, answer: &Answer, effects: &mut Vec<Effect>) {
        let termination = self.termination.take().map_or_else(Vec::new, |termination| termination.callers);
        let raised = self.arrived.iter().filter_map(|arrival| arrival.caller);
        effects.extend(raised.chain(termination).map(|caller| Effect::Reply(caller, answer.clone())));
        self.arrived.retain(|arrival| arrival.caller.is_none());
    }

    /// The instance has ended, or there is none: everybody who waits for anything of it hears so. Returns who wants its ID.
    pub(super) fn dismiss(mut self, answer: &Answer, effects: &mut Vec<Effect>) -> Vec<(Token, Start)> {
        if let Answer::Ended(End::Terminated { .. }) = answer
            && let Some(termination) = self.termination.take()
        {
            effects.extend(termination.callers.into_iter().map(|caller| Effect::Reply(caller, Answer::Recorded)));
        }
        self.refuse_callers(answer, effects);
        effects.extend(self.waiters.into_iter().map(|waiter| Effect::Reply(waiter, answer.clone())));
        self.contenders
    }
}

/// What one commit appends: inputs, what a turn made of them, and inputs that came meanwhile.
#[derive(Default)]
struct Step {
    before: Vec<Arrival>,
    turn: Vec<Event>,
    after: Vec<Arrival>,
    lines: Vec<LogRecord>,
    custom_status: Option<Payload>,
}

impl Arrival {
    /// How many bytes were said on the way.
    fn lines_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.target.len() + line.message.len()).sum()
    }

    /// What was said on the way, with its place.
    fn records(&self) -> impl Iterator<Item = LogRecord> {
        let (at_ms, task) = (self.event.at_ms(), answered_task(&self.event));
        self.lines.iter().map(move |line| LogRecord { at_ms, task, line: line.clone() })
    }
}

/// The most bytes of inputs that one step takes, if they are several: a row of the store must not grow without bound. What is
/// left goes with the next step.
const STEP_BYTES_MAX: usize = 64 << 20;

/// The most bytes of lines that wait with the inputs of one instance; activities that say more meanwhile are not heard.
const LINES_BYTES_MAX: usize = 1 << 20;

/// Takes the inputs of the next step out of `arrived`. Those of tasks that the guest has dropped since are of no use any more.
fn next(arrived: &mut Vec<Arrival>, execution: &Execution) -> Vec<Arrival> {
    arrived.retain(|arrival| answered_task(&arrival.event).is_none_or(|task| execution.open.contains_key(&task)));
    let mut bytes = 0;
    let fits = |arrival: &&Arrival| {
        bytes += arrival.event.bytes();
        bytes <= STEP_BYTES_MAX
    };
    let count = arrived.iter().take_while(fits).count().max(1).min(arrived.len());
    let rest = arrived.split_off(count);
    std::mem::replace(arrived, rest)
}

fn answered_task(event: &Event) -> Option<TaskId> {
    if let Event::Resolved { task, .. } = event { Some(*task) } else { None }
}

fn cancelled_task(event: &Event) -> Option<TaskId> {
    if let Event::Cancelled { task } = event { Some(*task) } else { None }
}
