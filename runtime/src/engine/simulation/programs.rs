//! Orchestrations that are written by hand, each for a promise or two.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;

use super::checks::Ended;
use super::history::raised;
use super::world::World;
use super::{Programs, below};
use crate::engine::orders::ActivityOrder;
use crate::model::{
    Action, ActivityCall, Ask, ChildCall, ChildStart, Continuation, End, Event, Execution, Failure, Input as Given, InstanceId,
    Outcome, Payload, Progress, SentEvent, Started, Tags, TaskId,
};
use crate::replay::{Fault, Guest};
use crate::store::{InstanceRow, Store as _};

/// See [`PROGRAMS`].
pub(super) struct Handwritten;

impl Programs for Handwritten {
    type Guest = SimGuest;
    const SEEDS: u64 = 600;
    const STEPS: u64 = 280;
    const EVENTS: &[&str] = &["go"];
    const MEDDLING: bool = false;

    fn draw(random: &mut ChaCha8Rng) -> (&'static str, Payload) {
        let function = PROGRAMS[below(random, PROGRAMS.len() as u64) as usize];
        (function, Payload::of(&(2 + below(random, 5))))
    }

    fn work(order: &ActivityOrder) -> Outcome {
        SimGuest::work(order.task)
    }

    /// One of them looks whether it has slept long enough.
    fn reads_clock(started: &Started) -> bool {
        started.function == "sleeps"
    }

    fn may_continue(started: &Started) -> bool {
        started.function == "relay"
    }

    fn check(world: &mut World<Self>, ended: &Ended) {
        let Ended { row, execution, end, history } = ended;
        check_end(execution, end, history);
        world.check_relations(row, execution, end);
    }
}

/// What clients can start.
const PROGRAMS: [&str; 11] =
    ["sequence", "fan-out", "race", "fails", "panics", "sleeps", "collects", "parent", "rivals", "relay", "sends"];

/// How long `sleeps` sleeps, in milliseconds.
const SLEEP_MS: u64 = 20;

/// A guest without wasm. Its function is one of [`PROGRAMS`], its input how often.
#[derive(Default)]
pub(super) struct SimGuest {
    function: String,
    count: u32,
    now_ms: u64,
    due_ms: u64,
    collected: Vec<Payload>,
    unread: Vec<(u32, Payload)>,
    collector: Option<InstanceId>,
    asked: u32,
    answers: BTreeMap<TaskId, Outcome>,
    order: Vec<TaskId>,
}

impl SimGuest {
    fn call(&mut self, progress: &mut Progress) {
        let input = Payload::of(&(self.count, self.asked));
        let name = "work".into();
        let action = Action::Activity(ActivityCall { name, input, attempt: 1, first_attempt: None, timeout_ms: None });
        progress.asks.push(Ask::Schedule(action));
        self.asked += 1;
    }

    fn sleep(&mut self, progress: &mut Progress) {
        self.due_ms = self.now_ms + SLEEP_MS;
        progress.asks.push(Ask::Schedule(Action::Timer { due_ms: self.due_ms }));
        self.asked += 1;
    }

    fn wait(&mut self, progress: &mut Progress) {
        progress.asks.push(Ask::Schedule(Action::WaitEvent { name: "go".into() }));
        self.asked += 1;
    }

    /// What a run of activity `work` gives: a failure now and then, always the same for the same task.
    fn work(task: TaskId) -> Outcome {
        if task.0 % 7 == 6 {
            Outcome::Failed(Failure::new("Tired", format!("task {task} is one too many")))
        } else {
            Outcome::Completed(Payload::of(&(task.0 * 10)))
        }
    }

    /// Asks for a child, which works in sequence if its number is even and fails otherwise.
    fn child(&mut self, instance: Option<InstanceId>, progress: &mut Progress) {
        let name = if self.asked.is_multiple_of(2) { "sequence" } else { "fails" }.into();
        let (input, attempt, first_attempt, tags) = (Payload::of(&2), 1, None, Tags::default());
        let call = ChildCall { name, instance, input, attempt, first_attempt, tags };
        progress.asks.push(Ask::Schedule(Action::SubOrchestration(call)));
        self.asked += 1;
    }

    /// Starts an instance that collects events, and sends it the first of them.
    fn start_collector(&mut self, progress: &mut Progress) {
        let (name, input, at_ms, tags) = ("collects".into(), Payload::of(&self.count), None, Tags::default());
        progress.asks.push(Ask::Schedule(Action::StartDetached(ChildStart { name, instance: None, input, at_ms, tags })));
        self.asked += 1;
    }

    fn send(&mut self, number: u32, progress: &mut Progress) {
        let (instance, name, payload) = (self.collector.clone().unwrap(), "go".into(), Payload::of(&number));
        progress.asks.push(Ask::Schedule(Action::SendEvent(SentEvent { instance, name, payload })));
        self.asked += 1;
    }

    fn all(&self) -> End {
        End::Completed(Payload::of(&self.answers.values().map(Payload::of).collect::<Vec<_>>()))
    }

    fn take(&mut self, progress: &mut Progress) -> Result<(), Fault> {
        let answered = self.answers.len();
        match self.function.as_str() {
            "fan-out" if answered == self.count as usize => progress.end = Some(self.all()),
            "fan-out" => (),
            "race" if answered == 1 && self.asked == self.count => {
                for task in (0..self.count).map(TaskId).filter(|task| *task != self.order[0]) {
                    progress.asks.push(Ask::Cancel(task));
                }
                self.call(progress);
            }
            // Answers to what it has dropped may still come in the same turn; it does not look at them.
            "race" if self.answers.contains_key(&TaskId(self.count)) => {
                progress.end = Some(End::Completed(Payload::of(&"raced")))
            }
            "race" => (),
            "parent" | "rivals" if answered == self.count as usize => progress.end = Some(self.all()),
            "parent" | "rivals" => (),
            "relay" if self.count == 0 => {
                let all: Vec<Payload> = self.unread.drain(..).map(|(_, payload)| payload).collect();
                progress.end = Some(End::Completed(Payload::of(&all)));
            }
            "relay" => {
                let keep = self.unread.drain(..).map(|(number, _)| number).collect();
                let input = Payload::of(&(self.count - 1));
                progress.continuation = Some(Continuation { input, keep, keep_version: false });
            }
            // One event with the start, and one after each answer.
            "sends" => {
                self.send(u32::try_from(answered).unwrap(), progress);
                match answered {
                    answered if answered + 1 == self.count as usize => {
                        progress.end = Some(End::Completed(Payload::of(&self.collector)));
                    }
                    _ => self.call(progress),
                }
            }
            "sleeps" => {
                assert!(self.now_ms >= self.due_ms, "it woke at {} and was to sleep until {}", self.now_ms, self.due_ms);
                match answered {
                    answered if answered == self.count as usize => progress.end = Some(End::Completed(Payload::of(&"slept"))),
                    _ => self.sleep(progress),
                }
            }
            "panics" if answered == self.count as usize => return Err(Fault::Certain(Failure::new("Panic", "on purpose"))),
            "fails" if answered == self.count as usize => progress.end = Some(End::Failed(Failure::new("Fails", "on purpose"))),
            _ if answered == self.count as usize => progress.end = Some(self.all()),
            _ => self.call(progress),
        }
        Ok(())
    }
}

impl Guest for SimGuest {
    fn begin(&mut self, started: &Started) -> Result<(), Fault> {
        self.function.clone_from(&started.function);
        self.collector = Some(started.child_id(TaskId(0)));
        self.count = serde_json::from_str(started.input.text()).unwrap();
        Ok(())
    }

    fn advance(&mut self, at_ms: u64, inputs: &[Given]) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        assert!(at_ms >= self.now_ms, "time goes back from {} to {at_ms}", self.now_ms);
        self.now_ms = at_ms;
        if self.asked == 0 {
            match self.function.as_str() {
                "fan-out" | "race" => (0..self.count).for_each(|_| self.call(&mut progress)),
                "sleeps" => self.sleep(&mut progress),
                "collects" => self.wait(&mut progress),
                "parent" => (0..self.count).for_each(|_| self.child(None, &mut progress)),
                // Those who take part in a race for the same few IDs.
                "rivals" => {
                    (0..self.count).for_each(|n| self.child(Some(format!("rival-{n}").parse().unwrap()), &mut progress));
                }
                "sends" => {
                    self.start_collector(&mut progress);
                    self.send(0, &mut progress);
                    self.call(&mut progress);
                }
                _ => self.call(&mut progress),
            }
        }
        for input in inputs {
            if progress.end.is_some() {
                break;
            }
            if let Some(next) = &mut progress.continuation {
                // What comes with the same turn is handed on, as what comes later is.
                next.keep.extend(if let Given::Raised { number, .. } = input { Some(*number) } else { None });
                continue;
            }
            match input {
                Given::Resolved { task, outcome } => {
                    assert!(self.answers.insert(*task, outcome.clone()).is_none(), "task {task} was answered twice");
                    self.order.push(*task);
                    self.take(&mut progress)?;
                }
                Given::Raised { payload, .. } if self.function == "collects" => {
                    self.collected.push(payload.clone());
                    match self.collected.len() {
                        all if all == self.count as usize => progress.end = Some(End::Completed(Payload::of(&self.collected))),
                        _ => self.wait(&mut progress),
                    }
                }
                Given::Raised { number, payload, .. } => self.unread.push((*number, payload.clone())),
            }
        }
        Ok(progress)
    }
}

impl World<Handwritten> {
    /// What an instance has to do with others is as they say, too.
    fn check_relations(&mut self, row: &InstanceRow, execution: &Execution, end: &End) {
        let End::Completed(output) = end else { return };
        match execution.started.function.as_str() {
            "parent" | "rivals" => {
                let outcomes: Vec<Outcome> = serde_json::from_str(output.text()).unwrap();
                for (number, outcome) in outcomes.into_iter().enumerate() {
                    match outcome {
                        Outcome::Failed(failure)
                            if failure.kind == "InstanceExists" && execution.started.function == "rivals" =>
                        {
                            self.coverage.note("child refused");
                        }
                        Outcome::Failed(failure) if failure.kind == "LimitExceeded" => (), // Three times in a row.
                        Outcome::Completed(output) if number % 2 == 0 => {
                            self.coverage.note("child answered");
                            assert_eq!(End::Completed(output), sequence(2));
                        }
                        Outcome::Failed(failure) if number % 2 == 1 => {
                            self.coverage.note("child answered");
                            assert_eq!(failure, Failure::new("Fails", "on purpose"));
                        }
                        other => panic!("child {number} gave {other:?}"),
                    }
                }
            }
            "relay" => {
                let kept: Vec<u64> = serde_json::from_str(output.text()).unwrap();
                assert!(kept.is_sorted_by(|a, b| a < b), "events are handed on once each, in order: {kept:?}");
                // What came with the turn in which it ended stands in its history, and was not read.
                let here = raised(self.histories.of(&self.store, row.execution));
                let is_lost = |number: &&u64| !kept.contains(number) && !here.contains(number);
                let lost = self.acknowledged_events.get(&row.key).into_iter().flatten().find(is_lost);
                assert_eq!(lost, None, "an event was lost on the way; kept {kept:?}");
            }
            "sends" => {
                let collector: InstanceId = serde_json::from_str(output.text()).unwrap();
                let row = self.store.instance(self.hub, &collector).unwrap().expect("it was started");
                let events = raised(self.histories.of(&self.store, row.execution));
                let count: u64 = serde_json::from_str(execution.started.input.text()).unwrap();
                assert_eq!(events, (0..count).collect::<Vec<_>>(), "events come in the order of sending");
            }
            _ => (),
        }
    }
}

/// The end of a program that works `count` times.
fn sequence(count: u32) -> End {
    End::Completed(Payload::of(&(0..count).map(|n| Payload::of(&SimGuest::work(TaskId(n)))).collect::<Vec<_>>()))
}

/// The result is the one that the program gives without failures, restarts and evictions.
fn check_end(execution: &Execution, end: &End, history: &[Event]) {
    let count: u32 = serde_json::from_str(execution.started.input.text()).unwrap();
    let all = || sequence(count);
    match execution.started.function.as_str() {
        _ if matches!(end, End::Faulted(failure) if failure.kind == "LimitExceeded") => (), // Three times in a row.
        _ if matches!(end, End::Terminated { .. }) => (),
        "sequence" | "fan-out" => assert_eq!(*end, all()),
        "race" => {
            assert_eq!(*end, End::Completed(Payload::of(&"raced")));
            let cancelled: BTreeSet<TaskId> = history
                .iter()
                .filter_map(|event| if let Event::Cancelled { task } = event { Some(*task) } else { None })
                .collect();
            assert_eq!(cancelled.len() as u32, count - 1);
        }
        "sleeps" => assert_eq!(*end, End::Completed(Payload::of(&"slept"))),
        "collects" => assert_eq!(*end, End::Completed(Payload::of(&raised(history)[..count as usize]))),
        "fails" => assert_eq!(*end, End::Failed(Failure::new("Fails", "on purpose"))),
        "panics" => assert_eq!(*end, End::Faulted(Failure::new("Panic", "on purpose"))),
        "parent" | "rivals" | "relay" | "sends" => assert!(matches!(end, End::Completed(_)), "{end:?}"),
        other => panic!("no program is named {other}"),
    }
}
