//! What is one instance doing right now? Its phase, what has arrived for it, and what it asks to be done next.
//!
//! Pure, a part of [`super::partition`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::partition::{ActivityOrder, Answer, CommitOrder, Effect, Start, Token, TurnOrder};
use crate::model::{
    Ask, Digest, End, Event, Execution, ExecutionKey, Failure, Input, InstanceId, InstanceKey, LimitsInForce, LogLine, Outcome,
    Payload, Progress, RuntimeStatus, Started, TaskId,
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
    /// Answers that are not recorded yet, in the order of their arrival. At most one for each task.
    arrived: Vec<Event>,
    /// Activities that were dispatched in this life of the server and have not answered.
    running: BTreeSet<TaskId>,
    /// How many turns in a row used up their bounds.
    pub(super) tries: u8,
    /// Who waits for the end.
    pub(super) waiters: Vec<Token>,
    /// Who wants the same ID, and came while it was open whether it is free.
    pub(super) contenders: Vec<(Token, Start)>,
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
    /// A turn at this time, with `answers` out of `arrived`.
    Turn { at_ms: u64, answers: Vec<Event> },
    /// The commit of what a turn brought about.
    Committing { events: Arc<[Event]>, lines: Vec<LogLine> },
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

    /// Takes an activity's answer. Only what runs can answer, and only once: a second answer finds nothing running.
    pub(super) fn answer(&mut self, now_ms: u64, task: TaskId, outcome: Outcome, ran: Option<Digest>) {
        let Some(execution) = self.execution.as_ref().filter(|_| self.running.remove(&task)) else { return };
        let ran = ran.filter(|digest| *digest != execution.started.module);
        self.arrived.push(Event::Resolved { task, at_ms: now_ms, outcome, ran });
    }

    /// Whether `task` was dispatched and is still wanted.
    pub(super) fn is_running(&self, task: TaskId) -> bool {
        self.running.contains(&task)
    }

    /// Starts a turn, if nothing is in flight and there is something to hand to the guest.
    pub(super) fn go_on(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let (Phase::Idle, Some(execution)) = (&self.phase, &self.execution) else { return };
        let mut answers = std::mem::take(&mut self.arrived);
        // What was dropped by the guest after the answer came in.
        answers.retain(|event| matches!(event, Event::Resolved { task, .. } if execution.open.contains_key(task)));
        if answers.is_empty() && execution.unread.is_empty() && execution.turns > 0 {
            return;
        }
        let new_inputs = answers.iter().filter_map(|event| match event {
            Event::Resolved { task, outcome, .. } => Some(Input::Resolved { task: *task, outcome: outcome.clone() }),
            _ => None,
        });
        let at_ms = now_ms.max(execution.turn_at_ms);
        effects.push(Effect::RunTurn(Box::new(TurnOrder {
            execution: self.current,
            module: execution.started.module,
            turns: execution.turns,
            started: (execution.length == 1).then(|| execution.started.clone()),
            at_ms,
            inputs: execution.unread.iter().cloned().chain(new_inputs).collect(),
            next_task: execution.next_task,
        })));
        self.phase = Phase::Turn { at_ms, answers };
    }

    /// Commits what a turn brought about.
    pub(super) fn record(&mut self, now_ms: u64, progress: Progress, lines: Vec<LogLine>, effects: &mut Vec<Effect>) {
        let (Phase::Turn { answers, .. }, Some(execution)) = (&self.phase, &self.execution) else {
            panic!("instance {} got a turn's result in {:?}", self.id, self.phase)
        };
        let scheduled = progress.asks.iter().filter(|ask| matches!(ask, Ask::Schedule(_))).count();
        let tasks = execution.next_task.0 as usize + scheduled;
        let length = execution.length as usize + answers.len() + 2 + progress.asks.len();
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
            return self.commit(now_ms, Vec::new(), Some(end), None, lines, effects);
        }
        let mut next_task = execution.next_task;
        let asks = progress.asks.into_iter().map(|ask| match ask {
            Ask::Cancel(task) => Event::Cancelled { task },
            Ask::Schedule(action) => {
                let task = next_task;
                next_task = task.next();
                Event::Scheduled { task, action }
            }
        });
        self.commit(now_ms, asks.collect(), progress.end, progress.custom_status, lines, effects);
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
        self.commit(now_ms, Vec::new(), Some(End::Faulted(failure)), None, lines, effects);
    }

    fn commit(
        &mut self,
        now_ms: u64,
        asks: Vec<Event>,
        end: Option<End>,
        custom_status: Option<Payload>,
        lines: Vec<LogLine>,
        effects: &mut Vec<Effect>,
    ) {
        let (Phase::Turn { at_ms, answers }, Some(execution)) = (&mut self.phase, &self.execution) else {
            panic!("instance {} has no turn to record in {:?}", self.id, self.phase)
        };
        let mut events = std::mem::take(answers);
        let consumes = execution.unread.len() + events.len();
        let consumes = u32::try_from(consumes).expect("the limit on tasks is below");
        events.push(Event::TurnStarted { at_ms: *at_ms, consumes });
        events.extend(asks);
        let status = match &end {
            None => RuntimeStatus::Running,
            Some(End::Completed(_)) => RuntimeStatus::Completed,
            Some(End::Failed(_) | End::Faulted(_)) => RuntimeStatus::Failed,
        };
        events.extend(end.map(|end| Event::Ended { at_ms: now_ms.max(*at_ms), end }));
        let events: Arc<[Event]> = events.into();
        effects.push(Effect::Commit(Box::new(CommitOrder {
            instance: self.key,
            execution: self.current,
            events: events.clone(),
            change: Change::Advance { expected_length: execution.length, status, updated_ms: now_ms.max(*at_ms), custom_status },
        })));
        self.phase = Phase::Committing { events, lines };
    }

    /// The turn is durable: only now does anything of it show.
    pub(super) fn commit_done(&mut self, events: &[Event], lines: Vec<LogLine>, effects: &mut Vec<Effect>) {
        let execution = self.execution.as_mut().expect("a turn needs an execution");
        for event in events {
            execution.apply(event).expect("we have built these events to follow what is stored");
        }
        self.tries = 0;
        if !lines.is_empty() {
            effects.push(Effect::Log(self.id.clone(), lines));
        }
        // Event by event, not task by task: the cost of a commit must not grow with what is open.
        for event in events {
            match event {
                Event::Scheduled { task, .. } => self.dispatch(*task, effects),
                Event::Cancelled { task } => self.cancel(*task, effects),
                Event::Ended { .. } => self.cancel_all(effects),
                Event::Started(_) | Event::TurnStarted { .. } | Event::Resolved { .. } => (),
            }
        }
    }

    /// Makes what runs agree with what the store says is open: dispatches what does not run, stops what nobody waits for.
    pub(super) fn reconcile(&mut self, effects: &mut Vec<Effect>) {
        let execution = self.execution.as_ref().expect("it has just been loaded");
        let answered: BTreeSet<TaskId> = self.arrived.iter().filter_map(answered_task).collect();
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
        if self.running.insert(task) {
            effects.push(Effect::Dispatch(Box::new(ActivityOrder {
                execution: self.current,
                task,
                action: action.clone(),
                instance: self.id.clone(),
                generation: execution.started.generation,
                module: execution.started.module,
            })));
        }
    }

    fn cancel(&mut self, task: TaskId, effects: &mut Vec<Effect>) {
        if self.running.remove(&task) {
            effects.push(Effect::Cancel(self.current, task));
        }
    }

    fn cancel_all(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(std::mem::take(&mut self.running).into_iter().map(|task| Effect::Cancel(self.current, task)));
    }

    /// Puts the answers that a turn took back to where they were, in order, before those that arrived since.
    pub(super) fn take_back(&mut self) {
        let mut answers = match &mut self.phase {
            Phase::Turn { answers, .. } => std::mem::take(answers),
            Phase::Committing { events, .. } => events.iter().filter(|event| answered_task(event).is_some()).cloned().collect(),
            _ => return,
        };
        answers.append(&mut self.arrived);
        self.arrived = answers;
    }
}

fn answered_task(event: &Event) -> Option<TaskId> {
    match event {
        Event::Resolved { task, .. } => Some(*task),
        _ => None,
    }
}
