//! What is promised of generated orchestrations, whatever they are.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::Programs;
use super::checks::Ended;
use super::history::raised;
use super::random::{EVENTS, FUNCTION, Output, Program, Tired, Work};
use super::sdk::SdkGuest;
use super::world::World;
use crate::engine::orders::ActivityOrder;
use crate::model::{Action, ActivityCall, ChildCall, ChildStart, End, Event, ExecutionKey, Failure, Outcome, Payload, Started};
use crate::store::Store as _;

/// See `random.rs`.
pub(super) struct Generated;

impl Programs for Generated {
    type Guest = SdkGuest;
    const SEEDS: u64 = 1_000;
    const STEPS: u64 = 100;
    const EVENTS: &[&str] = &EVENTS;
    const MEDDLING: bool = true;

    fn draw(random: &mut ChaCha8Rng) -> (&'static str, Payload) {
        (FUNCTION, Payload::of(&Program::draw(random)))
    }

    fn work(order: &ActivityOrder) -> Outcome {
        let work: Work = serde_json::from_str(order.call.input.text()).unwrap();
        match work.attempt(order.call.attempt) {
            Ok(value) => Outcome::Completed(Payload::of(&value)),
            Err(Tired) => {
                let failure = Failure::new(Tired::KIND, Tired::message(&work));
                Outcome::Failed(if work.hopeless { failure.non_retriable() } else { failure })
            }
        }
    }

    fn reads_clock(started: &Started) -> bool {
        program(started).reads_clock()
    }

    fn may_continue(started: &Started) -> bool {
        started.continued > 0 || program(started).again > 0
    }

    fn check(world: &mut World<Self>, ended: &Ended) {
        let program = program(&ended.execution.started);
        world.check_events(&program, ended);
        world.check_others(ended);
        world.check_value(&program, ended);
        world.note(&program, ended);
    }
}

fn program(started: &Started) -> Program {
    serde_json::from_str(started.input.text()).unwrap()
}

/// Why an instance ends otherwise than its program says: three turns in a row used up their bounds, somebody ended it, or
/// another one has its ID.
const FROM_OUTSIDE: [&str; 3] = ["LimitExceeded", "Terminated", "InstanceExists"];

impl World<Generated> {
    /// Each event was handed to the instance once, and none was lost on the way that somebody was told is durable.
    fn check_events(&mut self, program: &Program, ended: &Ended) {
        let Ended { row, execution, end, history } = ended;
        let payload = |event: &Event| match event {
            Event::Raised { payload, .. } => Some(serde_json::from_str::<Value>(payload.text()).unwrap()),
            _ => None,
        };
        let here: Vec<Value> = history.iter().filter_map(payload).collect();
        let all: Vec<&Value> = program.read.iter().chain(&here).collect();
        assert!(all.iter().collect::<HashSet<_>>().len() == all.len(), "an event came twice to {}: {all:?}", row.id);
        let read: Vec<Value> = match end {
            End::Completed(output) => serde_json::from_str::<Output>(output.text()).unwrap().read,
            End::Failed(failure) => {
                serde_json::from_str(failure.details.as_ref().expect("every failure has what was read").text()).unwrap()
            }
            End::Faulted(_) | End::Terminated { .. } => program.read.clone(),
        };
        assert!(read.starts_with(&program.read), "what was read before is handed on");
        assert!(read.iter().collect::<HashSet<_>>().len() == read.len(), "{} has read an event twice: {read:?}", row.id);
        assert!(read.iter().all(|event| all.contains(&event)), "{} has read what nobody raised: {read:?}", row.id);
        if !(program.drops && execution.started.continued > 0) {
            let mut lost = self.acknowledged_events.get(&row.key).cloned().unwrap_or_default();
            lost.retain(|number| !all.contains(&&Value::from(*number)));
            // The answer may have come when the ID had gone over to another instance already.
            for key in self.histories.keys_of(&self.store, self.hub, &row.id) {
                if key < ExecutionKey(row.key.0) {
                    let others = raised(self.histories.of(&self.store, key));
                    lost.retain(|number| !others.contains(number));
                }
            }
            assert!(lost.is_empty(), "events {lost:?} of {} were lost on the way; it has {all:?}", row.id);
        }
        let read_here = read.len() - program.read.len();
        self.coverage.note_times("event read", read_here as u64);
        self.coverage.note_times("event kept unread", (here.len() - read_here) as u64);
        let is_handed_on = execution.started.continued > 0 && matches!(history.get(1), Some(Event::Raised { .. }));
        self.coverage.note_times("event handed on", u64::from(is_handed_on));
    }

    /// What it was told of its children is what these have come to, and what it started is there.
    fn check_others(&mut self, ended: &Ended) {
        let Ended { execution, history, .. } = ended;
        let mut children = HashSet::new();
        for event in history {
            match event {
                Event::Scheduled { task, action: Action::SubOrchestration(ChildCall { instance: None, .. }) } => {
                    children.insert(*task);
                }
                Event::Scheduled { task, action: Action::StartDetached(ChildStart { instance, .. }) } => {
                    let id = instance.clone().unwrap_or_else(|| execution.started.child_id(*task));
                    assert!(self.store.instance(self.hub, &id).unwrap().is_some(), "{id} was not started");
                    self.coverage.note("detached start");
                }
                Event::Resolved { task, outcome, .. } if children.contains(task) => {
                    let id = execution.started.child_id(*task);
                    let row = self.store.instance(self.hub, &id).unwrap().unwrap_or_else(|| panic!("{id} was not started"));
                    let Some(Event::Ended { end, .. }) = self.histories.of(&self.store, row.execution).last() else {
                        panic!("{id} has not ended")
                    };
                    match (outcome, end) {
                        (Outcome::Completed(output), End::Completed(stored)) if output == stored => (),
                        (Outcome::Failed(failure), End::Failed(stored) | End::Faulted(stored)) if failure == stored => (),
                        (Outcome::Failed(failure), End::Terminated { .. }) if failure.kind == "Terminated" => (),
                        // It has come to another end since.
                        _ if self.rewound.contains(&id) => (),
                        (outcome, end) => panic!("{id} has come to {end:?}, and its parent was told {outcome:?}"),
                    }
                    self.coverage.note("child answered");
                }
                _ => (),
            }
        }
    }

    /// The value is the one that can be told beforehand, if it can.
    fn check_value(&mut self, program: &Program, ended: &Ended) {
        let actual = match &ended.end {
            End::Completed(output) => Ok(serde_json::from_str::<Output>(output.text()).unwrap().value),
            End::Failed(failure) => Err((failure.kind.clone(), failure.message.clone())),
            End::Faulted(failure) => {
                assert_eq!(failure.kind, "LimitExceeded", "{failure:?}");
                return;
            }
            End::Terminated { .. } => return,
        };
        let Some(expected) = program.body.value() else { return };
        let told = ended.history.iter().filter(|event| matches!(event, Event::Resolved { .. }));
        let told = serde_json::to_string(&told.collect::<Vec<_>>()).unwrap();
        if !FROM_OUTSIDE.iter().any(|kind| told.contains(kind)) {
            assert_eq!(actual, expected, "{} is to give what its program says: {program:?}", ended.row.id);
            self.coverage.note("value computed");
        }
    }

    /// What it has met.
    fn note(&mut self, program: &Program, ended: &Ended) {
        match ended.end {
            End::Completed(_) => self.coverage.note("ended completed"),
            End::Failed(_) => self.coverage.note("ended failed"),
            End::Faulted(_) | End::Terminated { .. } => (),
        }
        self.coverage.note_times("custom status", u64::from(ended.row.custom_status.is_some()));
        self.coverage.note_times("clock read", u64::from(program.reads_clock()));
        for event in &ended.history {
            match event {
                Event::Resolved { outcome: Outcome::Fired, .. } => self.coverage.note("timer fired"),
                Event::Resolved { outcome: Outcome::Failed(failure), .. } if failure.kind == "InstanceExists" => {
                    self.coverage.note("child refused");
                }
                Event::Scheduled { action: Action::Activity(ActivityCall { attempt: 2.., .. }), .. } => {
                    self.coverage.note("attempt after a failure");
                }
                Event::Scheduled { action: Action::SendEvent(_), .. } => self.coverage.note("event sent"),
                _ => (),
            }
        }
    }
}
