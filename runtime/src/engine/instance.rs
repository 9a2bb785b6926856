//! What is one instance doing right now? Its phase, what has arrived for it, and what it asks to be done next.
//!
//! Pure, a part of [`super::partition`].

mod operators;
mod parking;
mod starting;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) use self::operators::{Asker, Reopening};
use self::operators::{Termination, suspends};
use self::starting::{FirstTurn, Starting};
use super::orders::{
    ActivityOrder, Answer, CommitOrder, Effect, HttpOrder, Input as PartitionInput, Next, Start, Token, TurnOrder, TurnResult,
};
use super::partition::Moment;
use super::step::{
    Arrival, LINES_BYTES_MAX, STEP_BYTES_MAX, Step, TURN_BYTES_MAX, answer, answered_task, asked, cancelled_task, fitting, gone,
    messages, next, ready, terminations,
};
use super::wants::Starter;
use crate::model::{
    Action, Ask, Body, Continuation, Digest, End, Event, Execution, ExecutionKey, Failure, Input, InstanceId, InstanceKey,
    LimitsInForce, LogLine, LogRecord, Message, MessageKey, Outcome, Parent, Payload, Progress, RuntimeStatus, Started, TaskId,
    Wake,
};
use crate::replay::{Fault, TurnError};
use crate::store::{Change, NewInstance, StoreError};

/// An open instance.
pub(super) struct Instance {
    key: InstanceKey,
    current: ExecutionKey,
    pub(super) id: InstanceId,
    pub(super) phase: Phase,
    /// Who wants it to start, until it is durable that it has.
    pub(super) starting: Option<Box<Starting>>,
    /// The fold of what is stored, or of its start; `None` until it is loaded.
    pub(super) execution: Option<Execution>,
    /// Inputs that are not recorded yet, in the order of their arrival. At most one answer for each task.
    arrived: Vec<Arrival>,
    /// How many bytes of lines have come with inputs since the last turn began.
    lines_bytes: usize,
    /// Tasks that are to be answered and have not been: what was handed out, timers that are not due, children.
    running: BTreeSet<TaskId>,
    /// Who wants it ended, and why.
    termination: Option<Termination>,
    /// When it has to be looked at, as its row says.
    wake: Wake,
    /// The number of the turn that was begun last. A result of another turn is of no use.
    begun: u64,
    /// A turn was taken back while it stood in line, and none has begun since.
    taken_back: bool,
    /// Which of them was recorded last: a living guest that was not the one to play it has gone astray. 0 if none was.
    played: u64,
    /// How many turns in a row used up their bounds.
    pub(super) tries: u8,
    /// What it had for other instances in a commit of which nobody knows whether it went through.
    unsent: Arc<[Message]>,
    /// Who waits for the end.
    pub(super) waiters: Vec<Token>,
    /// What came for its ID before it was known whether it is the one that has it.
    pub(super) parked: Vec<PartitionInput>,
    /// Who wants the same ID, and came while it was open whether it is free.
    contenders: Vec<(Starter, Start)>,
    /// When the partition will look at it, in milliseconds since 1970; the partition's own note.
    pub(super) alarm_ms: Option<u64>,
    /// How much it counts for among those that do not only wait, in bytes.
    pub(super) busy_weight: usize,
}

/// What is in flight for an instance: at most one thing.
#[derive(Debug)]
pub(super) enum Phase {
    /// The commit that has it go on although it had failed.
    Reopening(Box<Reopening>),
    /// Reading it from the store.
    Loading,
    /// Nothing: it waits for its tasks.
    Idle,
    /// A turn at this time, with the first `ready` of what is recorded and unread, and `taken` out of `arrived`. Until it has `begun` it stands in
    /// line, perhaps for long.
    Turn { at_ms: u64, ready: usize, taken: Vec<Arrival>, begun: bool },
    /// A commit.
    Committing(Box<Committing>),
    /// A rest until this time, in milliseconds since 1970, after something failed on our side. If that was the store, nobody knows what it
    /// holds now.
    Resting { until_ms: u64, unknown: Option<Arc<StoreError>> },
    /// Nothing, until the server is restarted: the store takes no writes, or cannot be read.
    Halted { why: Arc<StoreError> },
}

/// What is being written, and what follows from it.
#[derive(Debug)]
pub(super) struct Committing {
    /// What is appended.
    events: Arc<[Event]>,
    /// What came from outside among it.
    taken: Vec<Arrival>,
    /// Shown when it is durable.
    lines: Arc<[LogRecord]>,
    /// Handed over when it is durable.
    sends: Arc<[Message]>,
    /// When it has to be looked at from then on.
    wake: Wake,
    /// The execution that these are the first events of, if they are.
    pub(super) next: Option<ExecutionKey>,
}

/// What an instance takes in memory beside its values, in bytes, and each of its open tasks; about.
const INSTANCE_BYTES: usize = 1_024;
const TASK_BYTES: usize = 256;

impl Instance {
    pub(super) fn new(key: InstanceKey, current: ExecutionKey, id: InstanceId, phase: Phase) -> Self {
        Self {
            key,
            current,
            id,
            phase,
            starting: None,
            execution: None,
            arrived: Vec::new(),
            lines_bytes: 0,
            running: BTreeSet::new(),
            termination: None,
            wake: Wake::AT_ONCE,
            begun: 0,
            taken_back: false,
            played: 0,
            tries: 0,
            unsent: Arc::default(),
            waiters: Vec::new(),
            parked: Vec::new(),
            contenders: Vec::new(),
            alarm_ms: None,
            busy_weight: 0,
        }
    }

    pub(super) fn status(&self) -> RuntimeStatus {
        match &self.execution {
            Some(execution) if execution.is_suspended => RuntimeStatus::Suspended,
            Some(execution) if has_run(execution) => RuntimeStatus::Running,
            _ => RuntimeStatus::Pending,
        }
    }

    /// Whether it could be read again when something happens to it: it has nothing to do up to `horizon_ms`, and nobody waits for it.
    pub(super) fn only_waits(&self, horizon_ms: u64) -> bool {
        let Some(execution) = &self.execution else { return false };
        matches!(self.phase, Phase::Idle)
            && execution.end.is_none()
            && self.arrived.is_empty()
            && self.termination.is_none()
            && self.waiters.is_empty()
            && self.contenders.is_empty()
            && self.parked.is_empty()
            && self.wake.ms().is_none_or(|wake_ms| wake_ms > horizon_ms)
    }

    /// How much memory it takes, in bytes, about.
    pub(super) fn weight(&self) -> usize {
        self.execution.as_ref().map_or(0, |execution| INSTANCE_BYTES + execution.bytes + TASK_BYTES * execution.open.len())
    }

    /// How much memory the events take that are recorded and that no turn has taken, in bytes, about.
    pub(super) fn unread_event_bytes(&self) -> usize {
        self.execution.as_ref().map_or(0, |execution| execution.unread_event_bytes)
    }

    /// The one who waited has gone.
    pub(super) fn forget(&mut self, token: Token) {
        self.waiters.retain(|waiter| *waiter != token);
        self.parked.retain(|input| !matches!(input, PartitionInput::Wait(waiter, _) if *waiter == token));
        self.contenders.iter_mut().for_each(|(_, start)| start.forget(token));
    }

    /// When it has to be looked at, if nothing else happens.
    pub(super) fn next_alarm_ms(&self) -> Option<u64> {
        match (&self.phase, &self.starting) {
            (Phase::Turn { .. }, Some(starting)) => return Some(starting.until_ms),
            (Phase::Resting { until_ms, .. }, _) => return Some(*until_ms),
            (Phase::Reopening(_) | Phase::Loading | Phase::Halted { .. }, _) => return None,
            (Phase::Idle | Phase::Turn { .. } | Phase::Committing(_), _) => (),
        }
        let execution = self.execution.as_ref()?;
        if matches!(self.phase, Phase::Idle) && execution.turns == 0 && !execution.is_suspended {
            return execution.started.not_before_ms;
        }
        // Those that are due already and wait to be recorded are passed over.
        execution.timers.iter().find(|(_, task)| self.running.contains(task)).map(|(due_ms, _)| *due_ms)
    }

    /// A time has come that [`Self::next_alarm_ms`] named, or the clock was set back.
    pub(super) fn alarm(&mut self, moment: &mut Moment<'_>) {
        match &self.phase {
            Phase::Turn { .. } if self.starting.is_some() => return self.start_beside_turn(moment),
            Phase::Resting { until_ms, .. } if *until_ms > moment.now_ms => return,
            Phase::Resting { unknown: Some(_), .. } => {
                self.phase = Phase::Loading;
                let arrived = self.arrived.iter().filter_map(|arrival| arrival.message);
                let parents = self.termination.iter().flat_map(|termination| &termination.messages).copied();
                let messages = arrived.chain(parents).chain(self.unsent.iter().map(|message| message.key)).collect();
                return moment.push(Effect::Find(self.id.clone(), messages));
            }
            Phase::Resting { unknown: None, .. } => self.phase = Phase::Idle,
            _ => (),
        }
        let timers = self.execution.as_ref().map(|execution| &execution.timers);
        for (due_ms, task) in timers.into_iter().flatten().take_while(|(due_ms, _)| *due_ms <= moment.now_ms) {
            if self.running.remove(task) {
                let event =
                    Event::Resolved { task: *task, at_ms: moment.now_ms.max(*due_ms), outcome: Outcome::Fired, ran: None };
                self.arrived.push(Arrival { event, lines: Vec::new(), caller: None, message: None });
            }
        }
        self.go_on(moment);
    }

    /// Takes the answer of a task. Only what runs can answer, and only once: a second answer finds nothing running.
    pub(super) fn answer(&mut self, now_ms: u64, task: TaskId, outcome: Outcome, ran: Option<Digest>, lines: Vec<LogLine>) {
        let Some(execution) = self.execution.as_ref().filter(|_| self.running.remove(&task)) else { return };
        let ran = ran.filter(|digest| *digest != execution.started.module);
        let event = Event::Resolved { task, at_ms: now_ms, outcome, ran };
        let mut arrival = Arrival { event, lines, caller: None, message: None };
        if self.lines_bytes > LINES_BYTES_MAX {
            arrival.lines = Vec::new();
        }
        self.lines_bytes += arrival.lines_bytes();
        self.arrived.push(arrival);
    }

    /// Takes what another instance has for it.
    pub(super) fn receive(&mut self, message: Message, moment: &mut Moment<'_>) {
        match message.body {
            Body::Raise { name, payload } => self.raise(None, Some(message.key), name, payload, moment),
            Body::Answer { execution, task, outcome } if execution == self.current && self.running.remove(&task) => {
                let event = Event::Resolved { task, at_ms: moment.now_ms, outcome, ran: None };
                self.arrived.push(Arrival { event, lines: Vec::new(), caller: None, message: Some(message.key) });
                self.go_on(moment);
            }
            Body::Terminate { ref parent, ref reason } if self.is_child_of(parent) => {
                self.terminate(Asker::Parent(message.key), true, reason.clone(), moment);
            }
            Body::Adopt { parent, .. } if !self.is_child_of(&parent) => {
                moment.push(answer(message.key, parent, gone(&message.to)))
            }
            // To an execution that has given way to another one, to a task that was dropped, or to a child that will answer anyway.
            Body::Answer { .. } | Body::Start { .. } | Body::Terminate { .. } | Body::Adopt { .. } => {
                moment.push(Effect::Discard(message.key));
            }
        }
    }

    fn is_child_of(&self, parent: &Parent) -> bool {
        self.execution.as_ref().is_some_and(|execution| execution.started.parent.as_ref() == Some(parent))
    }

    /// Takes an event from outside, of which `caller` hears when it is durable.
    pub(super) fn raise(
        &mut self,
        caller: Option<Token>,
        message: Option<MessageKey>,
        name: String,
        payload: Payload,
        moment: &mut Moment<'_>,
    ) {
        if let Some(caller) = caller
            && self.refuses(caller, moment)
        {
            return;
        }
        let event = Event::Raised { at_ms: moment.now_ms, name, payload };
        self.arrived.push(Arrival { event, lines: Vec::new(), caller, message });
        if let Phase::Turn { begun: false, .. } = self.phase
            && caller.is_some()
            && !self.taken_back
        {
            // The caller need not stand in line with it. It is asked for again once this is recorded; but not over and over, or it would never
            // begin.
            self.taken_back = true;
            self.take_back();
            self.phase = Phase::Resting { until_ms: moment.now_ms, unknown: None };
        }
        self.go_on(moment);
        self.append_while_waiting(moment);
    }

    /// Whether nothing can be recorded now; `caller` is told why.
    pub(super) fn refuses(&self, caller: Token, moment: &mut Moment<'_>) -> bool {
        let (Phase::Resting { unknown: Some(why), .. } | Phase::Halted { why }) = &self.phase else { return false };
        moment.reply(caller, Answer::Failed(why.clone()));
        true
    }

    /// Whether `task` was dispatched and is still wanted.
    pub(super) fn is_running(&self, task: TaskId) -> bool {
        self.running.contains(&task)
    }

    /// A thread has come to turn `number`. Whether that is the one that it waits for.
    pub(super) fn begin_turn(&mut self, number: u64) -> bool {
        match (&mut self.phase, self.starting.as_mut().map(|starting| &mut starting.first_turn)) {
            (Phase::Turn { begun, .. }, _) | (_, Some(FirstTurn::Runs { begun, .. })) if self.begun == number => *begun = true,
            _ => return false,
        }
        self.taken_back = false;
        true
    }

    /// Whether this is the turn that it waits for.
    pub(super) fn is_in_turn(&self, number: u64) -> bool {
        (matches!(self.phase, Phase::Turn { .. }) || self.runs_beside_start()) && self.begun == number
    }

    /// Does what there is to do, if nothing is in flight: ends the instance if that is wanted, or starts a turn if there is something to
    /// hand to the guest.
    pub(super) fn go_on(&mut self, moment: &mut Moment<'_>) {
        let (Phase::Idle, Some(execution)) = (&self.phase, &self.execution) else { return };
        if let Some(Termination { reason, .. }) = &self.termination {
            // What has arrived and is not recorded has come too late.
            let at_ms = moment.now_ms.max(execution.latest_ms);
            let end = Event::Ended { at_ms, end: End::Terminated { reason: reason.clone() } };
            return self.commit(Step { turn: vec![end], ..Step::default() }, moment);
        }
        if execution.is_suspended || suspends(self.arrived.iter().map(|arrival| &arrival.event)).is_some() {
            return self.append_while_suspended(moment);
        }
        if self.is_early(moment.now_ms) {
            return;
        }
        let again = execution.again.clone();
        let is_at_its_own_time = again.as_ref().is_some_and(|again| again.at_ms.is_some());
        let ready = ready(execution);
        let taken = if is_at_its_own_time || ready < execution.unread.len() {
            Vec::new()
        } else {
            next(&mut self.arrived, execution, TURN_BYTES_MAX, moment)
        };
        if taken.is_empty() && execution.unread.is_empty() && execution.turns > 0 && again.is_none() {
            return;
        }
        let mut raised = execution.raised;
        let new_inputs = taken.iter().filter_map(|arrival| Input::of(&arrival.event, &mut raised));
        let now_ms = moment.now_ms.max(execution.latest_ms);
        let at_ms = taken.iter().map(|arrival| arrival.event.at_ms()).fold(now_ms, u64::max);
        let at_ms = again.as_ref().and_then(|again| again.at_ms).unwrap_or(at_ms);
        self.begun = moment.next_turn();
        self.lines_bytes = 0;
        moment.push(Effect::RunTurn(Box::new(TurnOrder {
            execution: self.current,
            number: self.begun,
            after: self.played,
            module: execution.started.module,
            function: execution.started.function.clone(),
            turns: execution.turns,
            started: (execution.length == 1).then(|| execution.started.clone()),
            is_recorded: self.starting.is_none(),
            at_ms,
            inputs: execution.unread.iter().take(ready).cloned().chain(new_inputs).collect(),
            next_task: again.as_ref().map_or(execution.next_task, |again| again.next_task),
            again,
        })));
        self.phase = Phase::Turn { at_ms, ready, taken, begun: false };
    }

    /// Whether its first turn may not begin yet.
    fn is_early(&self, now_ms: u64) -> bool {
        let Some(execution) = &self.execution else { return false };
        execution.turns == 0 && execution.started.not_before_ms.is_some_and(|not_before_ms| now_ms < not_before_ms)
    }

    /// Tries the turn again that came to nothing. Who waits for something to be recorded need not wait for that.
    pub(super) fn try_again(&mut self, moment: &mut Moment<'_>) {
        self.take_back();
        self.phase = Phase::Resting { until_ms: moment.now_ms, unknown: None };
        self.append_while_waiting(moment);
        if let Phase::Resting { .. } = self.phase {
            self.phase = Phase::Idle;
            self.go_on(moment);
        }
    }

    /// Records what has arrived without a turn, if the turn has to wait and somebody waits for what has arrived.
    pub(super) fn append_while_waiting(&mut self, moment: &mut Moment<'_>) {
        let turn_waits = match self.phase {
            Phase::Resting { unknown: None, .. } => true,
            Phase::Idle => self.is_early(moment.now_ms),
            _ => false,
        };
        let Some(execution) = &self.execution else { return };
        if turn_waits && self.arrived.iter().any(|arrival| arrival.caller.is_some()) {
            let taken = next(&mut self.arrived, execution, STEP_BYTES_MAX, moment);
            self.commit(Step { before: taken, ..Step::default() }, moment);
        }
    }

    /// Commits what a turn brought about.
    pub(super) fn record(&mut self, result: TurnResult, moment: &mut Moment<'_>) {
        let Some(Ok(result)) = self.start_before(Ok(result), moment) else { return };
        let (Phase::Turn { taken, .. }, Some(execution)) = (&self.phase, &self.execution) else {
            panic!("instance {} got a turn's result in {:?}", self.id, self.phase)
        };
        let TurnResult { progress, lines, next } = result;
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
        if passed.is_some() && self.starting.is_some() {
            return self.start_without_turn(moment);
        }
        match (passed, progress.continuation.clone().zip(next)) {
            (Some(message), _) => {
                let end = Some(End::Faulted(Failure::new("LimitExceeded", message)));
                self.commit_turn(Progress { end, ..Progress::default() }, lines, moment);
            }
            (None, Some((_, next))) if next.bytes() > STEP_BYTES_MAX => {
                let kept = format!("the events that it keeps have {} bytes, and may have {STEP_BYTES_MAX}", next.bytes());
                let end = Some(End::Faulted(Failure::new("LimitExceeded", kept)));
                self.commit_turn(Progress { end, ..Progress::default() }, lines, moment);
            }
            (None, Some((continuation, next))) => self.continue_as_new(progress, continuation, *next, lines, moment),
            (None, None) => self.commit_turn(progress, lines, moment),
        }
    }

    /// Commits that the guest was at fault, and that this is the end.
    pub(super) fn record_fault(&mut self, error: TurnError, lines: Vec<LogLine>, moment: &mut Moment<'_>) {
        let Some(Err((error, lines))) = self.start_before(Err((error, lines)), moment) else { return };
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
        self.commit_turn(Progress { end, ..Progress::default() }, lines, moment);
    }

    /// Commits a turn: what it took, that it was, and what it brought about.
    fn commit_turn(&mut self, progress: Progress, lines: Vec<LogLine>, moment: &mut Moment<'_>) {
        let (at_ms, ready, taken) = self.turn_to_record();
        let execution = self.execution.as_ref().expect("only what is loaded has turns");
        let consumes = u32::try_from(ready + taken.len()).expect("the limit on history is below");
        let mut turn = vec![Event::TurnStarted { at_ms, consumes }];
        turn.extend(asked(progress.asks, execution.next_task));
        let mut after = Vec::new();
        if let Some(end) = progress.end {
            turn.push(Event::Ended { at_ms: moment.now_ms.max(at_ms), end });
        } else if self.arrived.iter().any(|arrival| arrival.caller.is_some()) {
            // Who waits for an event to be recorded need not wait for the next turn.
            let dropped: BTreeSet<TaskId> = turn.iter().filter_map(cancelled_task).collect();
            after = next(&mut self.arrived, execution, STEP_BYTES_MAX, moment);
            // Answers to what this turn drops stay where they are: if it cannot be recorded, they count after all.
            let is_dropped = |arrival: &mut Arrival| answered_task(&arrival.event).is_some_and(|task| dropped.contains(&task));
            self.arrived.extend(after.extract_if(.., is_dropped));
        }
        let lines = lines.into_iter().map(|line| LogRecord { at_ms, task: None, line }).collect();
        self.commit(Step { before: taken, turn, after, lines, custom_status: progress.custom_status }, moment);
    }

    /// The turn that has been played: its time, how many of the recorded inputs it took, and what it took besides.
    fn turn_to_record(&mut self) -> (u64, usize, Vec<Arrival>) {
        let Phase::Turn { at_ms, ready, taken, .. } = &mut self.phase else {
            panic!("instance {} has no turn to record in {:?}", self.id, self.phase)
        };
        (*at_ms, *ready, std::mem::take(taken))
    }

    /// Commits that the instance goes on as a new execution. Of the turn that said so nothing is written: with the old execution it is given
    /// up in the same step.
    fn continue_as_new(
        &mut self,
        progress: Progress,
        continuation: Continuation,
        next: Next,
        lines: Vec<LogLine>,
        moment: &mut Moment<'_>,
    ) {
        let (turn_at_ms, ready, mut taken) = self.turn_to_record();
        let execution = self.execution.as_ref().expect("only what is loaded has turns");
        let at_ms = moment.now_ms.max(turn_at_ms);
        let (generation, seed) = execution.started.successor();
        let started = Started {
            at_ms,
            module: next.module,
            input: continuation.input,
            generation,
            seed,
            limits: next.limits,
            made_by: next.made_by,
            not_before_ms: None,
            continued: execution.started.continued + 1,
            ..execution.started.clone()
        };
        let mut events = vec![Event::Started(started)];
        events.extend(next.kept.into_iter().map(|(name, payload)| Event::Raised { at_ms, name, payload }));
        let raised = |input: &Input| match input {
            Input::Raised { name, payload, .. } => Some(Event::Raised { at_ms, name: name.clone(), payload: payload.clone() }),
            Input::Resolved { .. } => None,
        };
        events.extend(execution.unread.iter().skip(ready).filter_map(raised));
        // Events that have come since are handed on; answers are of no use any more. What is too much comes with a later step.
        let mut late = std::mem::take(&mut self.arrived);
        self.arrived = late.split_off(fitting(&late, STEP_BYTES_MAX));
        events.extend(late.iter().filter_map(|arrival| match &arrival.event {
            Event::Raised { name, payload, .. } => Some(Event::Raised { at_ms, name: name.clone(), payload: payload.clone() }),
            _ => None,
        }));
        let lines = lines.into_iter().map(|line| LogRecord { at_ms: turn_at_ms, task: None, line });
        let lines: Arc<[LogRecord]> = taken.iter().flat_map(Arrival::records).chain(lines).collect();
        let asked = asked(progress.asks, execution.next_task).collect::<Vec<_>>();
        let sends = messages(&asked, true, execution, self.current, moment);
        taken.extend(late);
        let (key, events): (_, Arc<[Event]>) = (moment.next_execution(), events.into());
        let new = Execution::fold(&events).expect("a start and events are a history");
        moment.push(Effect::Commit(Box::new(CommitOrder {
            instance: self.key,
            execution: key,
            change: Change::Continue {
                from: self.current,
                expected_length: execution.length,
                module: new.started.module,
                created_ms: at_ms,
                custom_status: progress.custom_status,
                wake: new.wake(),
            },
            events: events.clone(),
            lines: lines.clone(),
            sends: sends.clone(),
            takes: taken.iter().filter_map(|arrival| arrival.message).collect(),
        })));
        let (wake, next) = (new.wake(), Some(key));
        self.phase = Phase::Committing(Box::new(Committing { events, taken, lines, sends, wake, next }));
    }

    /// Commits a step behind what is stored.
    fn commit(&mut self, step: Step, moment: &mut Moment<'_>) {
        let execution = self.execution.as_ref().expect("only what is loaded goes on");
        let Step { before, turn, after, lines: said, custom_status } = step;
        let arrivals = || before.iter().chain(&after);
        let lines: Arc<[LogRecord]> = arrivals().flat_map(Arrival::records).chain(said).collect();
        let mut sends = messages(&turn, false, execution, self.current, moment);
        let mut takes: Vec<MessageKey> = arrivals().filter_map(|arrival| arrival.message).collect();
        if let (Some(termination), Some(Event::Ended { end: End::Terminated { .. }, .. })) = (&self.termination, turn.last()) {
            takes.extend(&termination.messages);
            if termination.recursive {
                let reason = termination.reason.as_ref();
                sends = terminations(execution, self.current, reason, moment).into_iter().chain(sends.iter().cloned()).collect();
            }
        }
        let recorded = |arrivals: &[Arrival]| arrivals.iter().map(|arrival| arrival.event.clone()).collect::<Vec<_>>();
        let (mut events, last) = (recorded(&before), recorded(&after));
        events.extend(turn);
        events.extend(last);
        let has_run = || has_run(execution) || events.iter().any(|event| matches!(event, Event::TurnStarted { .. }));
        let status = match events.last() {
            Some(Event::Ended { end, .. }) => end.status(),
            _ if suspends(&*events).unwrap_or(execution.is_suspended) => RuntimeStatus::Suspended,
            _ if has_run() => RuntimeStatus::Running,
            _ => RuntimeStatus::Pending,
        };
        let why = |event: &Event| if let Event::Suspended { reason, .. } = event { reason.clone() } else { None };
        let wake = execution.wake_after(&events);
        let updated_ms = events.iter().map(Event::at_ms).fold(execution.latest_ms, u64::max);
        let (change, events) = match &self.starting {
            Some(starting) => {
                let Starting { starter, start: Start { hub, started, replaces, .. }, .. } = &**starting;
                takes.extend(starter.message());
                let new = NewInstance {
                    hub: *hub,
                    id: self.id.clone(),
                    function: started.function.clone(),
                    module: started.module,
                    created_ms: started.at_ms,
                    status,
                    updated_ms,
                    custom_status,
                    tags: started.tags.clone(),
                    wake,
                    replaces: *replaces,
                };
                (Change::Create(new), std::iter::once(Event::Started(started.clone())).chain(events).collect())
            }
            None => {
                let change = Change::Advance {
                    expected_length: execution.length,
                    status,
                    updated_ms,
                    custom_status,
                    wake: (wake != self.wake).then_some(wake),
                    reason: if status == RuntimeStatus::Suspended { events.iter().rev().find_map(why) } else { None },
                };
                (change, Arc::from(events))
            }
        };
        moment.push(Effect::Commit(Box::new(CommitOrder {
            instance: self.key,
            execution: self.current,
            change,
            events: Arc::clone(&events),
            lines: lines.clone(),
            sends: sends.clone(),
            takes,
        })));
        let taken = before.into_iter().chain(after).collect();
        self.phase = Phase::Committing(Box::new(Committing { events, taken, lines, sends, wake, next: None }));
    }

    /// The step is durable: only now does anything of it show.
    pub(super) fn commit_done(&mut self, step: Committing, moment: &mut Moment<'_>) {
        let Committing { events, taken, lines, sends, wake, next } = step;
        self.wake = wake;
        let starting = self.starting.take();
        if next.is_some() {
            self.execution = Some(Execution::fold(&events).expect("it was folded before it was written"));
            self.tries = 0;
        } else {
            let execution = self.execution.as_mut().expect("a step needs an execution");
            if events.iter().any(|event| matches!(event, Event::TurnStarted { .. })) {
                self.played = self.begun;
                self.tries = 0;
            }
            for event in events.iter().skip(usize::from(starting.is_some())) {
                execution.apply(event).expect("we have built these events to follow what is stored");
            }
        }
        if let Some(starting) = starting {
            self.has_started(*starting, moment);
        }
        for caller in taken.iter().filter_map(|arrival| arrival.caller) {
            moment.reply(caller, Answer::Recorded);
        }
        if !lines.is_empty() {
            moment.push(Effect::Log(self.id.clone(), lines));
        }
        for message in sends.iter() {
            moment.push(Effect::Send(Box::new(message.clone())));
        }
        // Event by event, not task by task: the cost of a commit must not grow with what is open.
        for event in events.iter() {
            match event {
                Event::Scheduled { task, .. } => self.dispatch(*task, false, moment),
                Event::Cancelled { task } => self.cancel(*task, moment),
                Event::Ended { .. } => self.cancel_all(moment),
                _ => (),
            }
        }
    }

    /// Hands over what it has for others, if the commit that nobody knew about went through: then it is among the `unrecorded`.
    pub(super) fn send_unsent(&mut self, unrecorded: &[MessageKey], moment: &mut Moment<'_>) {
        for message in std::mem::take(&mut self.unsent).iter().filter(|message| unrecorded.contains(&message.key)) {
            moment.push(Effect::Send(Box::new(message.clone())));
        }
    }

    /// Takes the store's word for where the execution stands, and makes what runs agree with it: dispatches what does not run, stops what nobody
    /// waits for, and forgets what other instances said if it is recorded, which it is unless their message is among the `unrecorded`.
    pub(super) fn loaded(&mut self, wake: Wake, execution: Execution, unrecorded: &[MessageKey], moment: &mut Moment<'_>) {
        self.phase = Phase::Idle;
        self.wake = wake;
        self.played = 0;
        self.send_unsent(unrecorded, moment);
        self.arrived.retain(|arrival| arrival.message.is_none_or(|key| unrecorded.contains(&key)));
        if let Some(termination) = &mut self.termination {
            termination.messages.retain(|key| unrecorded.contains(key));
        }
        self.termination.take_if(|termination| termination.callers.is_empty() && termination.messages.is_empty());
        let answered: BTreeSet<TaskId> = self.arrived.iter().filter_map(|arrival| answered_task(&arrival.event)).collect();
        let unwanted: Vec<TaskId> = self.running.iter().filter(|task| !execution.open.contains_key(task)).copied().collect();
        let idle: Vec<TaskId> = execution.open.keys().filter(|task| !answered.contains(task)).copied().collect();
        self.execution = Some(execution);
        for task in unwanted {
            self.cancel(task, moment);
        }
        for task in idle {
            self.dispatch(task, true, moment);
        }
    }

    /// Goes on as another execution: what runs for the one before is told to stop, and what has come for it is given up.
    pub(super) fn become_execution(&mut self, key: ExecutionKey, moment: &mut Moment<'_>) {
        self.cancel_all(moment);
        let is_answer = |arrival: &mut Arrival| answered_task(&arrival.event).is_some();
        for arrival in self.arrived.extract_if(.., is_answer) {
            moment.effects.extend(arrival.message.map(Effect::Discard));
        }
        self.current = key;
        self.played = 0;
    }

    /// Has a task run, if it is open and does not run.
    fn dispatch(&mut self, task: TaskId, recovered: bool, moment: &mut Moment<'_>) {
        let execution = self.execution.as_ref().expect("only what is loaded acts");
        let Some(action) = execution.open.get(&task) else { return };
        if !self.running.insert(task) {
            return;
        }
        match action {
            Action::Activity(call) => moment.push(Effect::Dispatch(Box::new(ActivityOrder {
                execution: self.current,
                task,
                call: call.clone(),
                instance: self.id.clone(),
                generation: execution.started.generation,
                module: execution.started.module,
                recovered,
            }))),
            Action::Http(call) => {
                let (execution, instance) = (self.current, self.id.clone());
                moment.push(Effect::Request(Box::new(HttpOrder { execution, task, call: call.clone(), instance })));
            }
            // The partition looks when a timer is due. A child was asked for by a message, and answers by one.
            Action::Timer { .. } | Action::SubOrchestration(_) => (),
            Action::WaitEvent { .. } | Action::StartDetached(_) | Action::SendEvent(_) => {
                unreachable!("nobody answers these, so that they are never open")
            }
        }
    }

    fn cancel(&mut self, task: TaskId, moment: &mut Moment<'_>) {
        if self.running.remove(&task) {
            moment.push(Effect::Cancel(self.current, task));
        }
    }

    fn cancel_all(&mut self, moment: &mut Moment<'_>) {
        moment.effects.extend(std::mem::take(&mut self.running).into_iter().map(|task| Effect::Cancel(self.current, task)));
    }

    /// Puts what a turn or commit took back to where it was, in order, before what has arrived since.
    pub(super) fn take_back(&mut self) {
        let taken = match &mut self.phase {
            Phase::Turn { taken, .. } => taken,
            Phase::Committing(step) => {
                self.unsent = step.sends.clone();
                &mut step.taken
            }
            _ => return,
        };
        let mut taken = std::mem::take(taken);
        taken.append(&mut self.arrived);
        self.arrived = taken;
    }

    /// Tells everybody who waits for something to be recorded that it was not, or that nobody knows. What they wanted is forgotten.
    pub(super) fn refuse_callers(&mut self, answer: &Answer, moment: &mut Moment<'_>) {
        let termination = self.termination.as_mut().map_or_else(Vec::new, |termination| std::mem::take(&mut termination.callers));
        // What a parent wants is in the store, and stands until it is recorded.
        self.termination.take_if(|termination| termination.messages.is_empty());
        let raised = self.arrived.iter().filter_map(|arrival| arrival.caller);
        moment.effects.extend(raised.chain(termination).map(|caller| Effect::Reply(caller, answer.clone())));
        self.arrived.retain(|arrival| arrival.caller.is_none());
    }

    /// The instance has ended, or there is none: everybody who waits for anything of it hears so. Returns who wants its ID.
    pub(super) fn dismiss(mut self, answer: &Answer, moment: &mut Moment<'_>) -> Vec<(Starter, Start)> {
        if let Answer::Ended(End::Terminated { .. }) = answer
            && let Some(termination) = self.termination.take()
        {
            // The parent's messages went with the step.
            moment.effects.extend(termination.callers.into_iter().map(|caller| Effect::Reply(caller, Answer::Recorded)));
        }
        self.refuse_callers(answer, moment);
        moment.effects.extend(self.waiters.into_iter().map(|waiter| Effect::Reply(waiter, answer.clone())));
        // It has not taken them, and whoever has the ID next is somebody else.
        let parents = self.termination.iter().flat_map(|termination| &termination.messages);
        moment.effects.extend(parents.copied().map(Effect::Discard));
        moment.effects.extend(self.arrived.iter().filter_map(|arrival| arrival.message).map(Effect::Discard));
        self.contenders
    }
}

/// Whether any of its code has run, in this execution or one before.
fn has_run(execution: &Execution) -> bool {
    execution.turns > 0 || execution.started.continued > 0
}
