//! How is an orchestrator tested? Natively, in a plain `cargo test`, without a host and without waiting.
//!
//! ```
//! # use std::time::Duration;
//! # use dacapo_guest::prelude::*;
//! # use serde::{Deserialize, Serialize};
//! #[derive(Debug, Serialize, Deserialize)]
//! struct Order {
//!     cents: u64,
//! }
//!
//! #[activity]
//! async fn charge_card(cents: u64) -> Result<String> {
//! #   let _ = cents;
//!     // …
//! #   bail!("no test gets here")
//! }
//!
//! #[orchestrator]
//! async fn order(ctx: Context, order: Order) -> Result<String> {
//!     let week = Duration::from_hours(7 * 24);
//!     if order.cents > 100_000 && !ctx.timeout(week, ctx.event("approve")).await?? {
//!         return Ok("refused".to_owned());
//!     }
//!     ctx.call(charge_card, order.cents).await
//! }
//!
//! use dacapo_guest::testing;
//!
//! # /*
//! #[test]
//! # */
//! fn a_large_order_waits_for_approval() {
//!     let hour = Duration::from_hours(1);
//!     let run = testing::scenario(order, Order { cents: 500_000 })
//!         .activity(charge_card, |cents| Ok(format!("receipt over {cents}")))
//!         .event_at(hour, "approve", &true)
//!         .run();
//!     assert_eq!(run.output().unwrap(), "receipt over 500000");
//!     assert_eq!(run.calls(), ["charge_card(500000)"]);
//!     assert_eq!(run.elapsed(), hour);
//! }
//! # a_large_order_waits_for_approval();
//! ```
//!
//! A [`Scenario`] says what the world outside does: how activities answer and which events come when. [`Scenario::run`]
//! plays it on a virtual clock that jumps to whatever comes next, so a test over a year takes no time. Then it replays the
//! recorded turns to fresh executions, also with each event on its own, and panics if one of them asks for anything else.
//!
//! Natively nothing makes an orchestrator deterministic but its author: `SystemTime::now()`, randomness, the order of a
//! `HashMap` and `static`s are those of the test's process. On a host they are the same in every replay. Orchestrators that
//! use [`Context::now`] and [`Context::new_uuid`] do the same in both places. Lines of [`log`](crate::log) go to stderr, once
//! for each replay.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(doc)]
use crate::Context;
use crate::bindings::exports::dacapo::guest::orchestrator::{
    Action, ActivityCall, Answer, End, Event, Outcome, Progress, RaisedEvent, Start,
};
use crate::context::ceil_to_ms;
use crate::executor::Executor;
use crate::function::{Entry, decode_input, encode_output};
use crate::{Activity, ActivityContext, Error, Orchestrator, Result};

/// A test of `orchestrator` with this input. Nothing runs before [`Scenario::run`].
///
/// # Panics
/// If `input` has no form in JSON.
#[track_caller]
pub fn scenario<'a, O: Orchestrator>(orchestrator: fn() -> O, input: impl Into<O::Input>) -> Scenario<'a, O>
where
    O::Input: Serialize,
{
    let start = Start {
        function: O::NAME.to_owned(),
        instance_id: "test".to_owned(),
        generation: "0123456789abcdef0123456789abcdef".to_owned(),
        input: to_json("the input", &input.into()),
        parent: None,
        tags: Vec::new(),
        extensions: Vec::new(),
    };
    let _ = orchestrator; // Said all it has to say by its type.
    Scenario { orchestrator: PhantomData, start, start_ms: NEW_YEAR_2030_MS, world: World::default(), named_last: None }
}

/// What happens around one orchestrator while it runs. Mocks may borrow for `'a`, such as a list of what they have seen.
#[must_use = "nothing happens before `.run()`"]
pub struct Scenario<'a, O> {
    orchestrator: PhantomData<fn() -> O>,
    start: Start,
    start_ms: u64,
    world: World<'a>,
    /// The activity that [`Scenario::takes`] is about.
    named_last: Option<String>,
}

/// 2030-01-01T00:00:00Z.
const NEW_YEAR_2030_MS: u64 = 1_893_456_000_000;

/// Far more turns than any honest test takes, and over in about a second.
const TURNS_MAX: usize = 100_000;

impl<'a, O: Orchestrator> Scenario<'a, O> {
    /// Answers each call of `activity` by `mock`, in the order of the calls.
    ///
    /// A mock may count and remember:
    ///
    /// ```
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[activity] async fn charge(cents: u32) -> Result<u32> { Ok(cents) }
    /// # #[orchestrator] async fn order(ctx: Context) -> Result<u32> {
    /// #     while ctx.call(charge, 250_u32).await.is_err() {}
    /// #     ctx.call(charge, 250_u32).await
    /// # }
    /// let mut failures = 2;
    /// # let run =
    /// testing::scenario(order, ()).activity(charge, move |cents| {
    ///     if failures > 0 {
    ///         failures -= 1;
    ///         bail!("the bank is closed");
    ///     }
    ///     Ok(cents)
    /// })
    /// # .run();
    /// # assert_eq!(run.calls().len(), 4);
    /// ```
    pub fn activity<A: Activity>(self, activity: fn() -> A, mut mock: impl FnMut(A::Input) -> Result<A::Output> + 'a) -> Self {
        let _ = activity;
        self.answer(A::NAME, move |_, json| encode_output("activity", A::NAME, &mock(decode_input("activity", A::NAME, &json)?)?))
    }

    /// Answers each call of the activity `name` by `mock`, as for an activity that another module has.
    ///
    /// # Panics
    /// In [`Self::run`], if a call's input cannot be read as what `mock` takes.
    pub fn activity_named<I: DeserializeOwned, T: Serialize>(
        self,
        name: &str,
        mut mock: impl FnMut(I) -> Result<T> + 'a,
    ) -> Self {
        let owned = name.to_owned();
        self.answer(name, move |_, json| {
            let input = serde_json::from_str(&json).unwrap_or_else(|error| {
                panic!("activity {owned} is called with {json}, which its mock cannot read as {}: {error}", type_name::<I>())
            });
            encode_output("activity", &owned, &mock(input)?)
        })
    }

    /// Answers each call of `activity` by running the function itself, with all that it touches.
    pub fn real<A: Activity>(self, activity: fn() -> A) -> Self {
        let _ = activity;
        let Entry::Activity(run) = A::ENTRY else { unreachable!("the attribute gives an activity the entry of one") };
        self.answer(A::NAME, run)
    }

    /// Says how long each run of the activity that was named last takes. Without this it takes no time.
    ///
    /// # Panics
    /// If no activity was named.
    #[track_caller]
    pub fn takes(mut self, duration: Duration) -> Self {
        let mock = self.named_last.as_ref().and_then(|name| self.world.mocks.get_mut(name));
        mock.expect("`takes` follows the activity that it is about: `.activity(…).takes(…)`").takes = duration;
        self
    }

    /// Raises the event `name` so long after the start. Events of the same time come in the order of these calls.
    ///
    /// # Panics
    /// If `data` has no form in JSON.
    #[track_caller]
    pub fn event_at(mut self, after: Duration, name: &str, data: &(impl Serialize + ?Sized)) -> Self {
        let data = to_json(&format!("the event {name}"), data);
        self.world.events.push((after, RaisedEvent { number: 0, name: name.to_owned(), data }));
        self
    }

    /// Sets what [`Context::instance_id`] says; otherwise `test`.
    pub fn instance_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.start.instance_id);
        self
    }

    /// Sets what [`Context::parent`] says; otherwise there is none.
    pub fn parent(mut self, instance_id: &str) -> Self {
        self.start.parent = Some(instance_id.to_owned());
        self
    }

    /// Adds a label for [`Context::tags`].
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.start.tags.push((name.to_owned(), value.to_owned()));
        self.start.tags.sort();
        self
    }

    /// Sets the time at the start; otherwise it is the first of January 2030.
    pub fn starts_at(mut self, time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.start_ms = ceil_to_ms(since_epoch);
        self
    }

    /// Stops the run so long after the start, if it has not ended by then: for orchestrators that are to run for ever.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dacapo_guest::{prelude::*, testing};
    /// # #[activity] async fn sweep() -> Result<()> { Ok(()) }
    /// # const DAY: Duration = Duration::from_hours(24);
    /// #[orchestrator]
    /// async fn sweep_daily(ctx: Context) -> Result<()> {
    ///     loop {
    ///         ctx.sleep(DAY).await?;
    ///         ctx.call(sweep, ()).await?;
    ///     }
    /// }
    /// let run = testing::scenario(sweep_daily, ()).real(sweep).until(7 * DAY).run();
    /// assert_eq!(run.calls().len(), 7);
    /// ```
    pub fn until(mut self, after: Duration) -> Self {
        self.world.until = Some(after);
        self
    }

    /// Runs the orchestrator to its end or as long as [`Self::until`] says, and replays what happened.
    ///
    /// # Panics
    /// If it calls an activity that nothing here answers, if it waits for what never comes, if it does not end, or if a
    /// replay asks for something else than the first run.
    #[track_caller]
    pub fn run(mut self) -> Run<O::Output> {
        let output = Rc::default();
        let mut first = executor::<O>(&self.start, &output);
        let turns = self.world.play(&self.start, self.start_ms, &mut first);
        self.check_replay(&turns, "", |executor, events| executor.advance(events));
        self.check_replay(&turns, ", with each event in a call of its own", |executor, events| {
            merge(events.into_iter().map(|event| executor.advance(vec![event])))
        });

        let Turn { now_ms, progress: last, .. } = turns.last().expect("a run has at least one turn");
        let output = match (output.take(), &last.outcome) {
            (Some(output), _) => Some(Ok(output)),
            (None, Some(End::Failed(failure))) => Some(Err(Error::from_failure(failure.clone()))),
            (None, None) => None,
            (None, other) => unreachable!("an execution without an output has failed, but this one: {other:?}"),
        };
        let World { calls, asked, until, .. } = self.world;
        let elapsed = match until {
            Some(until) if output.is_none() => until,
            _ => Duration::from_millis(now_ms - self.start_ms),
        };
        let custom_status = turns.iter().rev().find_map(|turn| turn.progress.custom_status.clone());
        Run { output, calls, asked, elapsed, custom_status }
    }

    fn answer(mut self, name: &str, run: impl FnMut(ActivityContext, String) -> Result<String> + 'a) -> Self {
        let name = name.to_lowercase();
        self.world.mocks.insert(name.clone(), Mock { run: Box::new(run), takes: Duration::ZERO });
        self.named_last = Some(name);
        self
    }

    /// Plays `turns` to a fresh execution by means of `advance`.
    #[track_caller]
    fn check_replay(&self, turns: &[Turn], how: &str, advance: impl Fn(&mut Executor, Vec<Event>) -> Progress) {
        let mut executor = executor::<O>(&self.start, &Rc::default());
        let mut tasks = Tasks { start_ms: self.start_ms, names: Vec::new() };
        for (number, turn) in turns.iter().enumerate() {
            let progress = advance(&mut executor, turn.events.clone());
            if progress == turn.progress {
                tasks.describe_all(&progress.actions);
                continue;
            }
            let known = tasks.names.len();
            let first = tasks.describe(&turn.progress);
            tasks.names.truncate(known);
            let again = tasks.describe(&progress);
            panic!(
                "orchestrator {name} is not deterministic: the replay of turn {number}{how} differs\n  first:  {first}\n  \
                 replay: {again}\nNatively the usual cause is the real time, randomness, the order of a HashMap, or a \
                 `static` or other state that outlives the run. Use ctx.now() and ctx.new_uuid(), or let an activity do it.",
                name = O::NAME,
            );
        }
    }
}

/// What came of a [`Scenario`].
#[derive(Debug)]
pub struct Run<T> {
    /// `None` if [`Scenario::until`] stopped it.
    output: Option<Result<T>>,
    calls: Vec<String>,
    asked: Vec<String>,
    elapsed: Duration,
    custom_status: Option<String>,
}

impl<T> Run<T> {
    /// What the orchestrator returned.
    ///
    /// # Errors
    /// The error that it returned.
    ///
    /// # Panics
    /// If it had not ended when [`Scenario::until`] stopped it.
    #[track_caller]
    pub fn output(&self) -> Result<&T, &Error> {
        let Some(output) = &self.output else {
            panic!(
                "the orchestrator had not ended {:?} after its start, where `.until(…)` stopped it: let it run longer",
                self.elapsed
            )
        };
        output.as_ref()
    }

    /// Whether it ended before [`Scenario::until`] stopped it.
    pub fn ended(&self) -> bool {
        self.output.is_some()
    }

    /// The activities it called, in order, each as its name and input: `charge_card(5000)`. Without those that it cancelled
    /// in the turn that asked for them: they never run.
    pub fn calls(&self) -> &[String] {
        &self.calls
    }

    /// All that it asked for, in order: `charge_card(5000)`, `event approve`, `timer 3600s` (due so long after the start),
    /// `cancel timer 3600s`.
    pub fn asked(&self) -> &[String] {
        &self.asked
    }

    /// The virtual time from the start to the end, or to where [`Scenario::until`] stopped it.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The custom status at the end, if there is one.
    ///
    /// # Panics
    /// If it cannot be read as an `S`.
    #[track_caller]
    pub fn custom_status<S: DeserializeOwned>(&self) -> Option<S> {
        let json = self.custom_status.as_deref().filter(|json| *json != "null")?;
        match serde_json::from_str(json) {
            Ok(status) => Some(status),
            Err(error) => panic!("the custom status is {json}, which cannot be read as {}: {error}", type_name::<S>()),
        }
    }
}

/// One call of the executor, as a history would have it.
struct Turn {
    now_ms: u64,
    events: Vec<Event>,
    progress: Progress,
}

/// How an activity answers.
struct Mock<'a> {
    run: Box<dyn FnMut(ActivityContext, String) -> Result<String> + 'a>,
    takes: Duration,
}

/// Plays the host: knows what is going to happen, and what was asked for.
#[derive(Default)]
struct World<'a> {
    /// By the activities' name in lower case.
    mocks: BTreeMap<String, Mock<'a>>,
    /// From the script, with the time since the start.
    events: Vec<(Duration, RaisedEvent)>,
    /// How long after the start to stop, if it is said.
    until: Option<Duration>,
    /// What is going to happen, by its time, and by the order in which it became known.
    agenda: BTreeMap<(u64, usize), Event>,
    known: usize,
    calls: Vec<String>,
    asked: Vec<String>,
}

impl World<'_> {
    #[track_caller]
    fn play(&mut self, start: &Start, start_ms: u64, executor: &mut Executor) -> Vec<Turn> {
        self.events.sort_by_key(|(after, _)| *after);
        // They are numbered as they come.
        for (number, (after, event)) in (0..).zip(std::mem::take(&mut self.events)) {
            self.schedule(start_ms.saturating_add(ceil_to_ms(after)), Event::Raised(RaisedEvent { number, ..event }));
        }
        let mut tasks = Tasks { start_ms, names: Vec::new() };
        let mut turns = Vec::new();
        let mut now_ms = start_ms;
        let stop_ms = self.until.map_or(u64::MAX, |until| start_ms.saturating_add(ceil_to_ms(until)));
        loop {
            let mut events = vec![Event::TurnStarted(now_ms)];
            let later = self.agenda.split_off(&(now_ms, usize::MAX));
            events.extend(std::mem::replace(&mut self.agenda, later).into_values());
            let progress = executor.advance(events.clone());

            let first_task = tasks.names.len();
            self.asked.extend(tasks.describe_all(&progress.actions));
            let ended = progress.outcome.is_some();
            self.act(start, now_ms, first_task, &progress.actions, ended);
            turns.push(Turn { now_ms, events, progress });
            if ended {
                return turns;
            }
            assert!(
                turns.len() < TURNS_MAX,
                "orchestrator {} has not ended after {TURNS_MAX} turns, at {:?} after its start. Last it asked for: {}. If it is to \
                 run for ever, stop the test by `.until(duration)`",
                start.function,
                Duration::from_millis(now_ms - start_ms),
                self.asked.last().map_or("nothing", String::as_str)
            );
            match self.agenda.first_key_value() {
                Some((&(due_ms, _), _)) if due_ms > stop_ms => return turns,
                Some((&(due_ms, _), _)) => now_ms = now_ms.max(due_ms),
                None => match executor.open_tasks() {
                    open if self.until.is_some() && !open.is_empty() => return turns,
                    open => panic_stuck(start, &tasks, &open),
                },
            }
        }
    }

    /// Does what was asked for, unless the same turn cancels it or ends: then no host does it either. The first task among
    /// `actions` is `first_task`.
    #[track_caller]
    fn act(&mut self, start: &Start, now_ms: u64, first_task: usize, actions: &[Action], ended: bool) {
        let cancelled = |action: &Action| if let Action::Cancel(task) = action { Some(*task) } else { None };
        let cancels: BTreeSet<u32> = actions.iter().filter_map(cancelled).collect();
        self.agenda.retain(|_, event| !matches!(event, Event::Resolved(answer) if cancels.contains(&answer.task)));

        let first_task = u32::try_from(first_task).expect("memory ends before the task numbers do");
        let asks = actions.iter().filter(|action| cancelled(action).is_none());
        for (task, action) in (first_task..).zip(asks).filter(|(task, _)| !cancels.contains(task)) {
            if let Action::Activity(call) = action {
                self.calls.push(format!("{}({})", call.name, call.input));
            }
            if ended {
                continue;
            }
            match action {
                Action::Activity(call) => {
                    let (takes, outcome) = self.invoke(start, task, call);
                    self.schedule(now_ms.saturating_add(ceil_to_ms(takes)), Event::Resolved(Answer { task, outcome }));
                }
                Action::Timer(due_ms) => self.schedule(*due_ms, Event::Resolved(Answer { task, outcome: Outcome::Fired })),
                // The orchestrator's own side answers it.
                Action::WaitEvent(_) => {}
                other => unreachable!("nothing in a `Context` asks for {other:?}"),
            }
        }
    }

    #[track_caller]
    fn invoke(&mut self, start: &Start, task: u32, call: &ActivityCall) -> (Duration, Outcome) {
        let Some(mock) = self.mocks.get_mut(&call.name.to_lowercase()) else {
            panic!(
                "orchestrator {} calls activity {name}({}), which this test does not answer. Mock it by \
                 `.activity(function, |input| …)`, or by `.activity_named({name:?}, |input| …)` if another module has it, or \
                 run the function itself by `.real(function)`",
                start.function,
                call.input,
                name = call.name,
            );
        };
        let context = ActivityContext {
            instance_id: start.instance_id.clone(),
            task,
            attempt: call.attempt,
            idempotency_key: format!("{}:{task}", start.generation),
            ..ActivityContext::default()
        };
        let outcome = match (mock.run)(context, call.input.clone()) {
            Ok(json) => Outcome::Completed(json),
            Err(error) => Outcome::Failed(error.into_failure()),
        };
        (mock.takes, outcome)
    }

    fn schedule(&mut self, due_ms: u64, event: Event) {
        self.agenda.insert((due_ms, self.known), event);
        self.known += 1;
    }
}

/// Nothing is going to happen, so all that is `open` are events from outside.
#[track_caller]
fn panic_stuck(start: &Start, tasks: &Tasks, open: &[u32]) -> ! {
    let name = &start.function;
    if open.is_empty() {
        panic!(
            "orchestrator {name} waits, but for nothing that it asked its context for: whatever it awaits, such as a channel \
             whose sender is gone or waits itself, can never wake it"
        );
    }
    let waits: Vec<_> = open.iter().map(|task| tasks.names[*task as usize].as_str()).collect();
    panic!(
        "orchestrator {name} waits for what never comes: {}. Raise events by `.event_at(after, name, &data)`",
        waits.join(", ")
    );
}

/// Puts actions into words: keeps what the tasks so far were, by their numbers.
struct Tasks {
    start_ms: u64,
    names: Vec<String>,
}

impl Tasks {
    fn describe_all(&mut self, actions: &[Action]) -> Vec<String> {
        actions.iter().map(|action| self.describe_action(action)).collect()
    }

    fn describe_action(&mut self, action: &Action) -> String {
        let name = match action {
            Action::Cancel(task) => return format!("cancel {}", self.names[*task as usize]),
            Action::Activity(call) => format!("{}({})", call.name, call.input),
            Action::Timer(due_ms) => format!("timer {:?}", Duration::from_millis(due_ms.saturating_sub(self.start_ms))),
            Action::WaitEvent(name) => format!("event {name}"),
            other => unreachable!("nothing in a `Context` asks for {other:?}"),
        };
        self.names.push(name.clone());
        name
    }

    /// All that a turn brought about.
    fn describe(&mut self, progress: &Progress) -> String {
        let status = progress.custom_status.as_ref().map(|status| format!("custom status {status}"));
        let end = progress.outcome.as_ref().map(|end| match end {
            End::Completed(output) => format!("returned {output}"),
            End::Failed(failure) => format!("failed with {}: {}", failure.kind, failure.message),
            other => unreachable!("nothing in a `Context` ends with {other:?}"),
        });
        let words: Vec<_> = self.describe_all(&progress.actions).into_iter().chain(status).chain(end).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }
}

/// Prepares an execution that leaves in `output` what it returns.
fn executor<O: Orchestrator>(start: &Start, output: &Rc<RefCell<Option<O::Output>>>) -> Executor {
    let output = output.clone();
    Executor::new(start.clone(), move |context, input| {
        Box::pin(async move {
            let input = decode_input("orchestrator", O::NAME, &input)?;
            let returned = O::run(context, input).await?;
            let json = encode_output("orchestrator", O::NAME, &returned)?;
            output.replace(Some(returned));
            Ok(json)
        })
    })
}

/// What several calls brought about, as if they had been one.
fn merge(calls: impl Iterator<Item = Progress>) -> Progress {
    let mut merged = Progress { actions: Vec::new(), custom_status: None, outcome: None };
    for call in calls {
        merged.actions.extend(call.actions);
        merged.custom_status = call.custom_status.or(merged.custom_status);
        merged.outcome = merged.outcome.or(call.outcome);
    }
    merged
}

#[track_caller]
fn to_json(what: &str, value: &(impl Serialize + ?Sized)) -> String {
    match serde_json::to_string(value) {
        Ok(json) => json,
        Err(error) => panic!("{what} has no form in JSON: {error}"),
    }
}

#[cfg(test)]
mod tests;
