//! Does a guest still do what its history says? One turn, and all recorded turns, played to a guest.
//!
//! Pure but for the guest: no clock, store, randomness or logging. Called by the engine for each new turn, and to bring a
//! fresh guest to where its execution stands.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::model::{
    Action, ActivityCall, Again, Ask, ChildCall, ChildStart, Continuation, CorruptHistory, Digest, End, Event, Execution,
    Failure, HttpCall, Input, InstanceId, Progress, SentEvent, Started, TaskId, rewind, time,
};

/// A guest that runs one execution: a component instance, or what a test puts in its place.
pub trait Guest {
    /// Prepares the execution. Called once, before anything else.
    ///
    /// # Errors
    /// The guest is then not to be used any more.
    fn begin(&mut self, started: &Started) -> Result<(), Fault>;

    /// Runs one turn: at `at_ms` the guest gets `inputs`, one at a time in this order, and runs until all of it waits.
    ///
    /// # Errors
    /// The guest is then not to be used any more.
    fn advance(&mut self, at_ms: u64, inputs: &[Input]) -> Result<Progress, Fault>;
}

/// What a guest did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It would do the same again: a panic, a trap, an answer that makes no sense. Recorded at once.
    Certain(Failure),
    /// It used up its time, its memory or its stack, which another try may not: nothing is recorded at first.
    Exhausted(Failure),
}

impl Fault {
    /// What to tell people.
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Certain(failure) | Self::Exhausted(failure) => failure,
        }
    }
}

/// Why a turn has no result. Nothing has been written in any case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// The guest asked for something else than its history says. The text shows both sides.
    #[error("{0}")]
    Diverged(String),
    /// The guest was at fault.
    #[error("{}", .0.failure().message)]
    Fault(Fault),
    /// The history cannot be.
    #[error(transparent)]
    Corrupt(#[from] CorruptHistory),
}

/// Plays one turn to `guest` and returns what it brings about that is new.
///
/// `next_task` is the number that the turn's first task gets. `recorded` is what history has of this turn; `None` for a
/// turn that is new.
///
/// # Errors
/// As [`TurnError`] says. Nothing has been written, and the guest is not to be used any more.
pub fn turn(
    guest: &mut dyn Guest,
    at_ms: u64,
    inputs: &[Input],
    next_task: TaskId,
    recorded: Option<&Recorded>,
) -> Result<Progress, TurnError> {
    let mut progress = guest.advance(at_ms, inputs).map_err(TurnError::Fault)?;
    check(&progress, next_task, recorded)?;
    if let Some(recorded) = recorded {
        progress.asks.drain(..recorded.asks.len());
    }
    Ok(progress)
}

/// Whether a guest may do what it has just done in a turn, and has done what is recorded of it. As [`turn`], which checks so.
///
/// # Errors
/// As [`TurnError`] says.
pub fn check(progress: &Progress, next_task: TaskId, recorded: Option<&Recorded>) -> Result<(), TurnError> {
    check_numbers(next_task, &progress.asks).map_err(|failure| TurnError::Fault(Fault::Certain(failure)))?;
    recorded.map_or(Ok(()), |recorded| recorded.compare(next_task, progress).map_err(TurnError::Diverged))
}

/// Brings a fresh `guest` to where `history` ends, checking every recorded turn on the way. Its code is the one that runs the execution by
/// now; turns of other code, which ran before a rewind, are held to less.
///
/// The last turn of an execution that ended with the guest at fault is not played: it has no result to compare with. Nor is the last turn before a
/// rewind, which the next turn repeats.
///
/// # Errors
/// As [`TurnError`] says; the guest is not to be used any more.
pub fn replay(history: &[Event], guest: &mut dyn Guest) -> Result<Execution, TurnError> {
    let mut replay = Replay::of(history)?;
    guest.begin(replay.started()).map_err(TurnError::Fault)?;
    while let Some(step) = replay.next_step()? {
        if let Step::Turn(RecordedTurn { at_ms, inputs, next_task, recorded }) = step
            && !recorded.is_at_fault()
        {
            turn(guest, at_ms, &inputs, next_task, Some(&recorded))?;
        }
    }
    Ok(replay.into_execution())
}

/// A history that is gone through step by step, by whoever plays it to a guest.
#[derive(Debug)]
pub struct Replay<'h> {
    standing: Cow<'h, [Event]>,
    /// Which of the standing events comes next.
    position: usize,
    length: usize,
    /// What the guest runs.
    code: Digest,
    /// The guest runs code that the history knows nothing of.
    is_stranger: bool,
    execution: Execution,
}

/// What comes next in a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A turn of the guest.
    Turn(RecordedTurn),
    /// What somebody from outside has done: suspended, resumed, rewound or terminated it.
    Control(Event),
}

/// A turn as history has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedTurn {
    /// The guest's time in it, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it takes.
    pub inputs: Vec<Input>,
    /// The number of the first task that it asks for.
    pub next_task: TaskId,
    /// What it brought about.
    pub recorded: Recorded,
}

impl<'h> Replay<'h> {
    /// From the beginning, for a guest with the code that runs the execution by now.
    ///
    /// # Errors
    /// If the history does not begin as one does.
    pub fn of(history: &'h [Event]) -> Result<Self, CorruptHistory> {
        let standing = rewind::standing(history);
        let Some(Event::Started(started)) = standing.first() else {
            return Err(Execution::fold(history).expect_err("an execution starts with `started`"));
        };
        let moved = |event: &Event| if let Event::Rewound { module, .. } = event { *module } else { None };
        let code = standing.iter().rev().find_map(moved).unwrap_or(started.module);
        let execution = Execution::new(started.clone());
        Ok(Self { standing, position: 1, length: history.len(), code, is_stranger: false, execution })
    }

    /// The same for a guest with any other code, which is held to what two versions of an orchestrator have to agree on; and not to how
    /// it failed, since a mended one would not.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn of_other_code(history: &'h [Event], code: Digest) -> Result<Self, CorruptHistory> {
        let replay = Self::of(history)?;
        Ok(Self { is_stranger: code != replay.code, code, ..replay })
    }

    /// With what a guest begins.
    pub fn started(&self) -> &Started {
        &self.execution.started
    }

    /// The code that the guest is to run.
    pub fn code(&self) -> Digest {
        self.code
    }

    /// Takes in what comes next. `None` at the end.
    ///
    /// # Errors
    /// If an event cannot stand where it does.
    pub fn next_step(&mut self) -> Result<Option<Step>, CorruptHistory> {
        while let Some(event) = self.standing.get(self.position) {
            self.position += 1;
            let step = match event {
                Event::TurnStarted { at_ms, consumes } => {
                    let execution = &self.execution;
                    let next_task = execution.again.as_ref().map_or(execution.next_task, |again| again.next_task);
                    let mut recorded = Recorded::of(execution, self.code, &self.standing[self.position..]);
                    recorded.is_beginning = self.is_stranger && recorded.has_failed();
                    let inputs = execution.unread.iter().take(*consumes as usize).cloned().collect();
                    Some(Step::Turn(RecordedTurn { at_ms: *at_ms, inputs, next_task, recorded }))
                }
                Event::Suspended { .. }
                | Event::Resumed { .. }
                | Event::Rewound { .. }
                | Event::Ended { end: End::Terminated { .. }, .. } => Some(Step::Control(event.clone())),
                _ => None,
            };
            self.execution.apply(event)?;
            if step.is_some() {
                return Ok(step);
            }
        }
        Ok(None)
    }

    /// Where the execution stands at the end.
    pub fn into_execution(self) -> Execution {
        let length = u32::try_from(self.length).expect("the limit on history is far below");
        Execution { length, ..self.execution }
    }
}

/// What history has of one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    asks: Vec<Ask>,
    end: Option<End>,
    /// That is only how the turn began: what else it brings about is new.
    is_beginning: bool,
    /// How many of the asks other code made. The guest must ask for the same things by name, but may have something else to say to them.
    of_other_code: usize,
}

impl Recorded {
    /// What a turn has to begin with that is played again after a rewind.
    pub fn beginning(again: &Again) -> Self {
        Self { asks: again.asks.clone(), end: None, is_beginning: true, of_other_code: of_other_code(again) }
    }

    /// What the turn asked for, in this order.
    pub fn asks(&self) -> &[Ask] {
        &self.asks
    }

    /// How the execution ended in it, if it did.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The guest was at fault in it, so that it has no result to compare with.
    pub fn is_at_fault(&self) -> bool {
        matches!(self.end, Some(End::Faulted(_)))
    }

    /// What it asked for is only how the turn begins: what else it brings about is new.
    pub fn is_beginning(&self) -> bool {
        self.is_beginning
    }

    fn has_failed(&self) -> bool {
        matches!(self.end, Some(End::Failed(_) | End::Faulted(_)))
    }

    /// What `execution` has of the turn that it is about to take in, which `events` follow. The guest runs `code`.
    fn of(execution: &Execution, code: Digest, events: &[Event]) -> Self {
        let again = execution.again.as_ref();
        let mut recorded = Self {
            asks: again.map_or_else(Vec::new, |again| again.asks.clone()),
            end: None,
            is_beginning: false,
            of_other_code: if execution.started.module == code { again.map_or(0, of_other_code) } else { usize::MAX },
        };
        for event in events {
            match event {
                Event::Scheduled { action, .. } => recorded.asks.push(Ask::Schedule(action.clone())),
                Event::Cancelled { task } => recorded.asks.push(Ask::Cancel(*task)),
                // Not of the guest's making.
                Event::Ended { end: End::Terminated { .. }, .. } => break,
                Event::Ended { end, .. } => {
                    recorded.end = Some(end.clone());
                    break;
                }
                _ => break,
            }
        }
        recorded
    }

    /// Whether what the guest asks for in this place, counted from 0, is what it may ask for there.
    pub fn takes(&self, position: usize, now: Option<&Ask>) -> bool {
        match (self.asks.get(position), now) {
            (Some(then), Some(now)) if position < self.of_other_code => outline(then) == outline(now),
            (None, _) if self.is_beginning => true,
            (then, now) => then == now,
        }
    }

    /// Whether the execution may end, or go on, as `progress` has it.
    pub fn takes_end(&self, progress: &Progress) -> bool {
        let ends_alike = match (&self.end, &progress.end) {
            // What was asked with may differ, and so may what comes of it.
            (Some(End::Completed(_)), Some(End::Completed(_))) if self.of_other_code == usize::MAX => true,
            (then, now) => then == now,
        };
        // An execution that continued as new has no history any more, so that no turn of one can have been the last of such.
        self.is_beginning || ends_alike && progress.continuation.is_none()
    }

    fn compare(&self, next_task: TaskId, progress: &Progress) -> Result<(), String> {
        let mut task = next_task;
        for position in 0..self.asks.len().max(progress.asks.len()) {
            let (then, now) = (self.asks.get(position), progress.asks.get(position));
            if !self.takes(position, now) {
                return Err(difference(task, then, now));
            }
            if let Some(Ask::Schedule(_)) = then {
                task = task.next();
            }
        }
        if self.takes_end(progress) {
            return Ok(());
        }
        let side = |end: &Option<End>| end.as_ref().map_or_else(|| "goes on".to_owned(), describe_end);
        let then = side(&self.end);
        let now = progress.continuation.as_ref().map_or_else(|| side(&progress.end), describe_continuation);
        Err(format!("after task {next_task}: in history the orchestrator {then}, the guest now {now}"))
    }
}

fn of_other_code(again: &Again) -> usize {
    if again.is_of_other_code { again.asks.len() } else { 0 }
}

/// What two versions of an orchestrator have to agree on: what is asked for, by its name, and of which instance.
fn outline(ask: &Ask) -> (&'static str, Option<&str>, Option<&InstanceId>, Option<TaskId>) {
    match ask {
        Ask::Cancel(task) => ("cancel", None, None, Some(*task)),
        Ask::Schedule(action) => match action {
            Action::Activity(ActivityCall { name, .. }) => ("activity", Some(name), None, None),
            Action::Timer { .. } => ("timer", None, None, None),
            Action::WaitEvent { name } => ("wait", Some(name), None, None),
            Action::SubOrchestration(ChildCall { name, instance, .. }) => ("child", Some(name), instance.as_ref(), None),
            Action::StartDetached(ChildStart { name, instance, .. }) => ("start", Some(name), instance.as_ref(), None),
            Action::SendEvent(SentEvent { instance, name, .. }) => ("event", Some(name), Some(instance), None),
            Action::Http(_) => ("request", None, None, None),
        },
    }
}

/// The guest may only name tasks that it has asked for before.
fn check_numbers(mut next_task: TaskId, asks: &[Ask]) -> Result<(), Failure> {
    let lie = |what: String| Err(Failure::new("InvalidAction", format!("the module {what}; its SDK is at fault")));
    for ask in asks {
        match ask {
            Ask::Schedule(action) => {
                let attempts = match action {
                    Action::Activity(ActivityCall { attempt, first_attempt, .. })
                    | Action::SubOrchestration(ChildCall { attempt, first_attempt, .. }) => Some((*attempt, *first_attempt)),
                    _ => None,
                };
                if let Some((attempt, first_attempt)) = attempts
                    && (attempt == 0
                        || (attempt == 1) != first_attempt.is_none()
                        || first_attempt.is_some_and(|first| first >= next_task))
                {
                    let first = first_attempt.map_or_else(|| "none".to_owned(), |task| task.to_string());
                    let what = describe(ask);
                    return lie(format!("calls {what} as attempt {attempt}, with task {first} as the first one"));
                }
                next_task = next_task.next();
            }
            Ask::Cancel(task) if *task < next_task => (),
            Ask::Cancel(task) => return lie(format!("cancels task {task}, but has only asked for {next_task} tasks")),
        }
    }
    Ok(())
}

fn difference(task: TaskId, then: Option<&Ask>, now: Option<&Ask>) -> String {
    let mut text = format!("task {task}: ");
    match (then, now) {
        (Some(Ask::Schedule(then)), Some(Ask::Schedule(now))) if name(then) == name(now) => {
            let (old, new) = (shortened(&rest(then)), shortened(&rest(now)));
            let _ = write!(text, "history has {} with {old}, the guest now asks for it with {new}", name(then));
        }
        (then, now) => {
            let then = then.map_or_else(|| "nothing".to_owned(), describe);
            let now = now.map_or_else(|| "for nothing".to_owned(), |ask| format!("for {}", describe(ask)));
            let _ = write!(text, "history has {then}, the guest now asks {now}");
        }
    }
    text
}

fn describe(ask: &Ask) -> String {
    match ask {
        Ask::Schedule(action) => name(action),
        Ask::Cancel(task) => format!("the cancellation of task {task}"),
    }
}

/// What people know it by.
pub fn name(action: &Action) -> String {
    match action {
        Action::Activity(ActivityCall { name, .. }) => format!("activity {name:?}"),
        Action::Timer { due_ms } => format!("a timer at {}", time::exact(*due_ms)),
        Action::WaitEvent { name } => format!("a wait for event {name:?}"),
        Action::SubOrchestration(ChildCall { name, .. }) => format!("sub-orchestration {name:?}"),
        Action::StartDetached(ChildStart { name, .. }) => format!("a start of {name:?}"),
        Action::SendEvent(SentEvent { instance, name, .. }) => format!("event {name:?} for instance {:?}", instance.as_str()),
        Action::Http(HttpCall { method, uri, .. }) => format!("request {method} {uri}"),
    }
}

/// What may differ although the name is the same: the input alone, or all of it if there is more to it.
fn rest(action: &Action) -> String {
    match action {
        Action::Activity(ActivityCall { input, attempt: 1, timeout_ms: None, .. }) => input.text().to_owned(),
        Action::SendEvent(SentEvent { payload, .. }) => payload.text().to_owned(),
        _ => serde_json::to_string(action).expect("actions have string keys and print without errors"),
    }
}

/// The same for one that goes on as a new execution.
pub fn describe_continuation(next: &Continuation) -> String {
    format!("continues as new with {}", shortened(next.input.text()))
}

/// How the orchestrator ended, as the predicate of a sentence.
pub fn describe_end(end: &End) -> String {
    match end {
        End::Completed(output) => format!("returns {}", shortened(output.text())),
        End::Failed(failure) => format!("fails with {:?}", failure.message),
        End::Faulted(failure) => format!("is at fault: {}", failure.message),
        End::Terminated { .. } => "is terminated from outside".into(),
    }
}

/// Enough of a payload to recognise it by, cut at a character.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((cut, _)) => format!("{}… ({} bytes)", &text[..cut], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::{activity, ended, resolved, scheduled, started, turn as turn_started};
    use crate::model::rewind::tests::{failed, failed_end, rewound};
    use crate::model::{Outcome, Payload};

    /// A guest that has its turns written down, and notes what it is given.
    struct Scripted {
        turns: Vec<Result<Progress, Fault>>,
        given: Vec<String>,
    }

    impl Guest for Scripted {
        fn begin(&mut self, started: &Started) -> Result<(), Fault> {
            self.given.push(format!("begin {}", started.function));
            Ok(())
        }

        fn advance(&mut self, at_ms: u64, inputs: &[Input]) -> Result<Progress, Fault> {
            let input = |input: &Input| match input {
                Input::Resolved { task, .. } => task.to_string(),
                Input::Raised { number, name, .. } => format!("{name} {number}"),
            };
            self.given.push(format!("{at_ms} [{}]", inputs.iter().map(input).collect::<Vec<_>>().join(", ")));
            self.turns.remove(0)
        }
    }

    fn asks(asks: impl IntoIterator<Item = Ask>) -> Result<Progress, Fault> {
        Ok(Progress { asks: asks.into_iter().collect(), ..Progress::default() })
    }

    fn call(name: &str) -> Ask {
        Ask::Schedule(activity(name))
    }

    fn end() -> Result<Progress, Fault> {
        Ok(Progress { end: Some(End::Completed(Payload::null())), ..Progress::default() })
    }

    fn check(history: &[Event], turns: impl IntoIterator<Item = Result<Progress, Fault>>, expected: &str) {
        let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(history.iter().cloned()).collect();
        let mut guest = Scripted { turns: turns.into_iter().collect(), given: Vec::new() };
        let seen = match replay(&history, &mut guest) {
            Ok(execution) => {
                assert_eq!(Ok(execution), Execution::fold(&history), "a replay ends where the fold ends");
                guest.given.join("; ")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(seen, expected);
    }

    fn sequence() -> Vec<Event> {
        vec![turn_started(1_000, 0), scheduled(0, "Mix"), resolved(0), turn_started(1_500, 1), scheduled(1, "Bake")]
    }

    #[test]
    fn a_replay_hands_every_recorded_turn_its_own_inputs() {
        check(&sequence(), [asks([call("Mix")]), asks([call("Bake")])], "begin BakeBread; 1000 []; 1500 [0]");
        let both = [turn_started(1_000, 0), scheduled(0, "Mix"), scheduled(1, "Heat"), resolved(1), resolved(0)];
        let in_one = [&both[..], &[turn_started(1_500, 2), ended()]].concat();
        check(&in_one, [asks([call("Mix"), call("Heat")]), end()], "begin BakeBread; 1000 []; 1500 [1, 0]");
        let in_two = [&both[..], &[turn_started(1_500, 1), turn_started(1_501, 1), ended()]].concat();
        let turns = [asks([call("Mix"), call("Heat")]), asks([]), end()];
        check(&in_two, turns, "begin BakeBread; 1000 []; 1500 [1]; 1501 [0]");
    }

    #[test]
    fn a_divergence_shows_both_sides() {
        let mix = || asks([call("Mix")]);
        check(&sequence(), [asks([])], r#"task 0: history has activity "Mix", the guest now asks for nothing"#);
        check(
            &sequence(),
            [mix(), asks([call("Fry")])],
            r#"task 1: history has activity "Bake", the guest now asks for activity "Fry""#,
        );
        check(
            &sequence(),
            [asks([call("Mix"), call("Heat")])],
            r#"task 1: history has nothing, the guest now asks for activity "Heat""#,
        );
        check(
            &sequence(),
            [mix(), asks([Ask::Cancel(TaskId(0))])],
            r#"task 1: history has activity "Bake", the guest now asks for the cancellation of task 0"#,
        );
        let other_input = Action::Activity(ActivityCall {
            name: "Mix".into(),
            input: Payload::of(&"x".repeat(80)),
            attempt: 1,
            first_attempt: None,
            timeout_ms: None,
        });
        let long = format!("\"{}… (82 bytes)", "x".repeat(59));
        check(
            &sequence(),
            [asks([Ask::Schedule(other_input)])],
            &format!(r#"task 0: history has activity "Mix" with null, the guest now asks for it with {long}"#),
        );
    }

    #[test]
    fn an_end_at_another_place_is_a_divergence() {
        check(
            &[turn_started(1_000, 0), scheduled(0, "Mix")],
            [Ok(Progress { asks: vec![call("Mix")], end: Some(End::Completed(Payload::null())), ..Progress::default() })],
            "after task 0: in history the orchestrator goes on, the guest now returns null",
        );
        check(
            &[turn_started(1_000, 0), ended()],
            [asks([])],
            "after task 0: in history the orchestrator returns null, the guest now goes on",
        );
    }

    #[test]
    fn a_guest_at_fault_in_its_last_turn_replays_up_to_it() {
        let fault = End::Faulted(Failure::new("Panic", "the oven is cold"));
        let history = [&sequence()[..4], &[Event::Ended { at_ms: 1_501, end: fault }]].concat();
        check(&history, [asks([call("Mix")])], "begin BakeBread; 1000 []");
    }

    #[test]
    fn events_come_in_their_order_and_an_end_from_outside_is_no_turn_of_the_guest() {
        let raised = |name: &str| Event::Raised { at_ms: 1_200, name: name.into(), payload: Payload::null() };
        let wait = Action::WaitEvent { name: "Risen".into() };
        let history = [
            turn_started(1_000, 0),
            Event::Scheduled { task: TaskId(0), action: wait.clone() },
            raised("Oven"),
            raised("risen"),
            turn_started(1_500, 2),
            Event::Scheduled { task: TaskId(1), action: Action::Timer { due_ms: 60_000 } },
            raised("late"),
            Event::Ended { at_ms: 2_000, end: End::Terminated { reason: None } },
        ];
        let timer = || asks([Ask::Schedule(Action::Timer { due_ms: 60_000 })]);
        let turns = [asks([Ask::Schedule(wait.clone())]), timer()];
        check(&history, turns, "begin BakeBread; 1000 []; 1500 [Oven 0, risen 1]");
        let expected = r#"task 0: history has a wait for event "Risen", the guest now asks for a timer at 1970-01-01T00:01:00Z"#;
        check(&history, [timer()], expected);
    }

    #[test]
    fn a_guest_that_lies_about_task_numbers_is_at_fault() {
        let message = "the module cancels task 1, but has only asked for 1 tasks; its SDK is at fault";
        check(&sequence(), [asks([call("Mix"), Ask::Cancel(TaskId(1))])], message);
        let attempt = |attempt, first_attempt| {
            let (name, input) = ("Mix".into(), Payload::null());
            Ask::Schedule(Action::Activity(ActivityCall { name, input, attempt, first_attempt, timeout_ms: None }))
        };
        let message = r#"the module calls activity "Mix" as attempt 2, with task 0 as the first one; its SDK is at fault"#;
        check(&sequence(), [asks([attempt(2, Some(TaskId(0)))])], message);
        let message = r#"the module calls activity "Mix" as attempt 0, with task none as the first one; its SDK is at fault"#;
        check(&sequence(), [asks([attempt(0, None)])], message);
    }

    #[test]
    fn a_rewound_turn_is_played_by_the_next_one_with_what_still_stands() {
        let first = [turn_started(1_000, 0), scheduled(0, "Mix"), failed(0), turn_started(1_500, 1), failed_end()];
        let history = |events: &[Event]| -> Vec<Event> {
            std::iter::once(Event::Started(started())).chain(events.iter().cloned()).collect()
        };
        let rewind = rewound(&history(&first));
        let mix = || asks([call("Mix")]);
        check(&[&first[..], std::slice::from_ref(&rewind)].concat(), [mix()], "begin BakeBread; 1000 []");
        let again = [&first[..], &[rewind, turn_started(3_000, 0), resolved(0), turn_started(3_500, 1), ended()]].concat();
        check(&again, [mix(), asks([]), end()], "begin BakeBread; 1000 []; 3000 []; 3500 [0]");
        // A turn that asked for something has to ask for it again, and may then ask for more.
        let asking = [turn_started(1_000, 0), scheduled(0, "Mix"), failed_end()];
        let rewind = rewound(&history(&asking));
        let more = [&asking[..], &[rewind, turn_started(1_000, 0), scheduled(1, "Bake")]].concat();
        check(&more, [asks([call("Mix"), call("Bake")])], "begin BakeBread; 1000 []");
        let expected = r#"task 0: history has activity "Mix", the guest now asks for activity "Bake""#;
        check(&more, [asks([call("Bake"), call("Mix")])], expected);
    }

    #[test]
    fn other_code_is_held_to_names_and_the_code_of_a_turn_to_all_of_it() {
        let bake = |grams: u32| {
            Ask::Schedule(Action::Activity(ActivityCall {
                name: "Bake".into(),
                input: Payload::of(&grams),
                attempt: 1,
                first_attempt: None,
                timeout_ms: None,
            }))
        };
        let moved =
            Event::Rewound { at_ms: 3_000, reason: None, reopened: vec![], turn_at_ms: None, module: Some(Digest([7; 32])) };
        let history =
            [&sequence()[..], &[resolved(1), turn_started(1_700, 1), failed_end(), moved, turn_started(3_000, 1)]].concat();
        let turns = |second: Ask| [asks([call("Mix")]), asks([second]), asks([])];
        check(&history, turns(bake(750)), "begin BakeBread; 1000 []; 1500 [0]; 3000 [1]");
        let expected = r#"task 1: history has activity "Bake", the guest now asks for activity "Fry""#;
        check(&history, turns(call("Fry")), expected);
        let later = [&history[..], &[scheduled(2, "Bake")]].concat();
        let turns = |third: Ask| [asks([call("Mix")]), asks([bake(1)]), asks([third])];
        check(&later, turns(call("Bake")), "begin BakeBread; 1000 []; 1500 [0]; 3000 [1]");
        let expected = r#"task 2: history has activity "Bake" with null, the guest now asks for it with 2"#;
        check(&later, turns(bake(2)), expected);
    }

    #[test]
    fn code_that_history_knows_nothing_of_is_held_to_names_and_not_to_how_it_failed() {
        let history = |events: &[Event]| -> Vec<Event> {
            std::iter::once(Event::Started(started())).chain(events.iter().cloned()).collect()
        };
        let last = |history: &[Event], now: Progress| {
            let mut replay = Replay::of_other_code(history, Digest([7; 32])).unwrap();
            let mut turn = None;
            while let Some(step) = replay.next_step().unwrap() {
                turn = Some(step);
            }
            let Some(Step::Turn(turn)) = turn else { panic!("it ends with a turn") };
            super::check(&now, turn.next_task, Some(&turn.recorded)).map_err(|error| error.to_string())
        };
        let returns = |output: u32| Progress { end: Some(End::Completed(Payload::of(&output))), ..Progress::default() };
        let completed = history(&[&sequence()[..4], &[ended()]].concat());
        assert_eq!(last(&completed, returns(2)), Ok(()));
        let expected = "after task 1: in history the orchestrator returns null, the guest now goes on";
        assert_eq!(last(&completed, Progress::default()), Err(expected.into()));
        // It failed behind a task that it had asked for in the same turn: a mended one must ask for that, and then does as it likes.
        let failed = history(&[&sequence()[..], &[failed_end()]].concat());
        let bakes = |end| Progress { asks: vec![call("Bake"), call("Sell")], end, ..Progress::default() };
        assert_eq!(last(&failed, bakes(None)), Ok(()));
        assert_eq!(last(&failed, bakes(returns(2).end)), Ok(()));
        let expected = r#"task 1: history has activity "Bake", the guest now asks for nothing"#;
        assert_eq!(last(&failed, returns(2)), Err(expected.into()));
    }

    #[test]
    fn how_a_turn_begins_is_checked_and_only_the_rest_is_new() {
        let again =
            Again { asks: vec![call("Mix")], next_task: TaskId(0), at_ms: Some(1_000), inputs: 0, is_of_other_code: false };
        let play = |asked: Vec<Ask>| {
            let mut guest = Scripted { turns: vec![asks(asked)], given: Vec::new() };
            turn(&mut guest, 1_000, &[], TaskId(0), Some(&Recorded::beginning(&again)))
        };
        assert_eq!(play(vec![call("Mix"), call("Bake")]).unwrap().asks, [call("Bake")]);
        assert!(matches!(play(vec![call("Bake")]), Err(TurnError::Diverged(_))));
        assert!(matches!(play(vec![]), Err(TurnError::Diverged(_))));
    }

    #[test]
    fn a_fault_during_replay_is_reported_as_it_is() {
        check(&sequence(), [Err(Fault::Exhausted(Failure::new("Time", "no time left")))], "no time left");
        let unasked = [turn_started(1_000, 0), resolved(0)];
        check(&unasked, [asks([])], "event 2 of the history cannot be: it answers task 0, which is not open");
        let failed = Outcome::Failed(Failure::new("Cold", "the oven is cold"));
        let answer = Event::Resolved { task: TaskId(0), at_ms: 1, outcome: failed, ran: None };
        let history = [turn_started(1_000, 0), scheduled(0, "Mix"), answer, turn_started(1_500, 1)];
        check(&history, [asks([call("Mix")]), asks([])], "begin BakeBread; 1000 []; 1500 [0]");
    }
}
