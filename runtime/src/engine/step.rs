//! What does one step of an instance append, and what does it have for others? Pure, a part of `instance.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::orders::{Effect, Token};
use super::partition::Moment;
use crate::model::{
    Action, Ask, Body, ChildCall, ChildStart, End, Event, Execution, ExecutionKey, Failure, Input as Given, InstanceId, LogLine,
    LogRecord, Message, MessageKey, Outcome, Parent, Payload, SentEvent, Started, TaskId,
};

/// An input with what belongs to it.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The event that records it.
    pub(super) event: Event,
    /// What an activity said on the way.
    pub(super) lines: Vec<LogLine>,
    /// Who is told when it is durable.
    pub(super) caller: Option<Token>,
    /// The message that brought it, which leaves the store when it is recorded.
    pub(super) message: Option<MessageKey>,
}

/// What one commit appends: inputs, what a turn made of them, and inputs that came meanwhile.
#[derive(Default)]
pub(super) struct Step {
    pub(super) before: Vec<Arrival>,
    pub(super) turn: Vec<Event>,
    pub(super) after: Vec<Arrival>,
    pub(super) lines: Vec<LogRecord>,
    pub(super) custom_status: Option<Payload>,
}

impl Arrival {
    /// How many bytes were said on the way.
    pub(super) fn lines_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.target.len() + line.message.len()).sum()
    }

    /// What was said on the way, with its place.
    pub(super) fn records(&self) -> impl Iterator<Item = LogRecord> {
        let (at_ms, task) = (self.event.at_ms(), answered_task(&self.event));
        self.lines.iter().map(move |line| LogRecord { at_ms, task, line: line.clone() })
    }
}

/// The most bytes of inputs that one step takes, if they are several: a row of the store must not grow without bound. What is
/// left goes with the next step.
pub(super) const STEP_BYTES_MAX: usize = 64 << 20;

/// The most bytes of inputs that one turn takes, if they are several: a guest has to hold them all at once. What is left goes with the next turn.
pub(super) const TURN_BYTES_MAX: usize = 8 << 20;

/// How many of the inputs that no turn has taken yet the next one takes.
pub(super) fn ready(execution: &Execution) -> usize {
    let mut bytes = 0;
    let fits = |input: &&Given| {
        bytes += input.bytes();
        bytes <= TURN_BYTES_MAX
    };
    let count = execution.unread.iter().take_while(fits).count().max(1).min(execution.unread.len());
    execution.again.as_ref().filter(|again| again.at_ms.is_some()).map_or(count, |again| again.inputs.min(count))
}

/// The most bytes of lines that wait with the inputs of one instance; activities that say more meanwhile are not heard.
pub(super) const LINES_BYTES_MAX: usize = 1 << 20;

/// Takes the inputs of the next step out of `arrived`, of `bytes_max` bytes if they are several. Those of tasks that the guest has dropped since
/// are of no use any more.
pub(super) fn next(arrived: &mut Vec<Arrival>, execution: &Execution, bytes_max: usize, moment: &mut Moment<'_>) -> Vec<Arrival> {
    let is_useless =
        |arrival: &mut Arrival| answered_task(&arrival.event).is_some_and(|task| !execution.open.contains_key(&task));
    let useless = arrived.extract_if(.., is_useless);
    moment.effects.extend(useless.filter_map(|arrival| arrival.message).map(Effect::Discard));
    let rest = arrived.split_off(fitting(arrived, bytes_max));
    std::mem::replace(arrived, rest)
}

/// How many of them one step takes.
pub(super) fn fitting(arrived: &[Arrival], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fits = |arrival: &&Arrival| {
        bytes += arrival.event.bytes();
        bytes <= bytes_max
    };
    arrived.iter().take_while(fits).count().max(1).min(arrived.len())
}

pub(super) fn answered_task(event: &Event) -> Option<TaskId> {
    if let Event::Resolved { task, .. } = event { Some(*task) } else { None }
}

pub(super) fn cancelled_task(event: &Event) -> Option<TaskId> {
    if let Event::Cancelled { task } = event { Some(*task) } else { None }
}

/// What a turn asked for, as events.
pub(super) fn asked(asks: Vec<Ask>, mut next_task: TaskId) -> impl Iterator<Item = Event> {
    asks.into_iter().map(move |ask| match ask {
        Ask::Cancel(task) => Event::Cancelled { task },
        Ask::Schedule(action) => {
            let task = next_task;
            next_task = task.next();
            Event::Scheduled { task, action }
        }
    })
}

/// What the events of a turn have for other instances. A child that nobody waits for is not even started: it was dropped in the same turn, or that
/// was the last one.
pub(super) fn messages(
    turn: &[Event],
    is_last: bool,
    execution: &Execution,
    current: ExecutionKey,
    moment: &mut Moment<'_>,
) -> Arc<[Message]> {
    let Started { module, parent: waiting, .. } = &execution.started;
    let is_last = is_last || matches!(turn.last(), Some(Event::Ended { .. }));
    let dropped: BTreeSet<TaskId> = turn.iter().filter_map(cancelled_task).collect();
    let start = |task: TaskId, function: &str, input: &Payload| {
        let (generation, seed) = execution.started.child(task);
        (function.to_owned(), input.clone(), generation, seed)
    };
    let mut messages = Vec::new();
    let mut send = |to: InstanceId, body: Body| messages.push(Message { key: moment.next_message(), to, body });
    for event in turn {
        match event {
            Event::Scheduled { task, action: Action::SubOrchestration(ChildCall { name, instance, input, tags, .. }) }
                if !is_last && !dropped.contains(task) =>
            {
                let (function, input, generation, seed) = start(*task, name, input);
                let parent = Some(parent(execution, current, *task));
                let (module, tags, not_before_ms) = (Some(*module), tags.clone(), None);
                let id = instance.clone().unwrap_or_else(|| execution.started.child_id(*task));
                send(id, Body::Start { function, input, generation, seed, module, parent, tags, not_before_ms });
            }
            Event::Scheduled { task, action: Action::StartDetached(ChildStart { name, instance, input, at_ms, tags }) } => {
                let (function, input, generation, seed) = start(*task, name, input);
                let (module, tags, not_before_ms) = (Some(*module), tags.clone(), *at_ms);
                let id = instance.clone().unwrap_or_else(|| execution.started.child_id(*task));
                send(id, Body::Start { function, input, generation, seed, module, parent: None, tags, not_before_ms });
            }
            Event::Scheduled { action: Action::SendEvent(SentEvent { instance, name, payload }), .. } => {
                send(instance.clone(), Body::Raise { name: name.clone(), payload: payload.clone() });
            }
            Event::Ended { end, .. } => {
                if let Some(Parent { instance, execution, task }) = waiting {
                    send(instance.clone(), Body::Answer { execution: *execution, task: *task, outcome: outcome(end) });
                }
            }
            _ => (),
        }
    }
    messages.into()
}

/// What a rewound execution has for the children that it waits for again. Those that its last turn had asked for were `unstarted`, as it was the
/// last one.
pub(super) fn adoptions(
    execution: &Execution,
    current: ExecutionKey,
    reason: Option<&String>,
    unstarted: &BTreeSet<TaskId>,
    moment: &mut Moment<'_>,
) -> Arc<[Message]> {
    let mut sends = Vec::new();
    for (task, to) in children(execution) {
        if unstarted.contains(&task) {
            let asked = Event::Scheduled { task, action: execution.open[&task].clone() };
            sends.extend(messages(&[asked], false, execution, current, moment).iter().cloned());
        } else {
            let (parent, reason) = (parent(execution, current, task), reason.cloned());
            sends.push(Message { key: moment.next_message(), to, body: Body::Adopt { parent, reason } });
        }
    }
    sends.into()
}

/// What an execution that is ended with all its children has for them.
pub(super) fn terminations(
    execution: &Execution,
    current: ExecutionKey,
    reason: Option<&String>,
    moment: &mut Moment<'_>,
) -> Vec<Message> {
    let terminate = |(task, to)| {
        let (parent, reason) = (parent(execution, current, task), reason.cloned());
        Message { key: moment.next_message(), to, body: Body::Terminate { parent, reason } }
    };
    children(execution).map(terminate).collect()
}

/// The children that an execution waits for, with their tasks.
pub(super) fn children(execution: &Execution) -> impl Iterator<Item = (TaskId, InstanceId)> {
    execution.open.iter().filter_map(|(task, action)| match action {
        Action::SubOrchestration(ChildCall { instance, .. }) => {
            Some((*task, instance.clone().unwrap_or_else(|| execution.started.child_id(*task))))
        }
        _ => None,
    })
}

fn parent(execution: &Execution, current: ExecutionKey, task: TaskId) -> Parent {
    Parent { instance: execution.started.instance.clone(), execution: current, task }
}

/// Answers the task of a parent under the number of its own message: that leaves the store with the step that records the answer.
pub(super) fn answer(key: MessageKey, parent: Parent, outcome: Outcome) -> Effect {
    let body = Body::Answer { execution: parent.execution, task: parent.task, outcome };
    Effect::Send(Box::new(Message { key, to: parent.instance, body }))
}

/// What a parent hears of a child that is not there any more.
pub(super) fn gone(child: &InstanceId) -> Outcome {
    let message = format!("sub-orchestration {child} is not there any more: it was purged, or another instance has its ID");
    Outcome::Failed(Failure::new("ChildGone", message))
}

/// What the end of a child is to its parent.
pub(super) fn outcome(end: &End) -> Outcome {
    match end {
        End::Completed(output) => Outcome::Completed(output.clone()),
        End::Failed(failure) | End::Faulted(failure) => Outcome::Failed(failure.clone()),
        End::Terminated { reason } => {
            let message = reason.clone().unwrap_or_else(|| "the sub-orchestration was terminated".into());
            Outcome::Failed(Failure::new("Terminated", message))
        }
    }
}
