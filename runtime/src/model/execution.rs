//! What does a history amount to? The state that the engine needs to go on, folded from the events.
//!
//! The engine keeps no other state of an execution: what it holds in memory is this fold of what is stored, so
//! an execution can be dropped from memory and folded again at any time.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::{Action, Ask, End, Event, Outcome, Payload, Started, TaskId, Wake, rewind};

/// Something from outside that a turn hands to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The answer to a task.
    Resolved {
        /// Which one.
        task: TaskId,
        /// What it is.
        outcome: Outcome,
    },
    /// An event from outside.
    Raised {
        /// Its position among those that were raised to this execution, counted from 0.
        number: u32,
        /// Its name as it was raised.
        name: String,
        /// Its value.
        payload: Payload,
    },
}

impl Input {
    /// The input that `event` records, if it records one. `raised` counts the events from outside, this one included afterwards.
    pub fn of(event: &Event, raised: &mut u32) -> Option<Self> {
        match event {
            Event::Resolved { task, outcome, .. } => Some(Self::Resolved { task: *task, outcome: outcome.clone() }),
            Event::Raised { name, payload, .. } => {
                *raised += 1;
                Some(Self::Raised { number: *raised - 1, name: name.clone(), payload: payload.clone() })
            }
            _ => None,
        }
    }
}

impl Input {
    /// How many bytes of values it holds, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Resolved { outcome, .. } => outcome.bytes(),
            Self::Raised { payload, .. } => payload.text().len(),
        }
    }

    /// How much memory it takes if it is an event from outside, in bytes, about.
    fn event_bytes(&self) -> usize {
        match self {
            Self::Resolved { .. } => 0,
            Self::Raised { name, payload, .. } => EVENT_BYTES + name.len() + payload.text().len(),
        }
    }
}

/// What an event from outside takes in memory beside its name and value, in bytes, about.
const EVENT_BYTES: usize = 256;

/// An execution as its history so far describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The first event, with the code that runs by now.
    pub started: Started,
    /// How many events there are, whether they still stand or not.
    pub length: u32,
    /// How many turns have begun.
    pub turns: u32,
    /// The guest's time in the last of them; before the first, when the start was asked for.
    pub turn_at_ms: u64,
    /// The latest time in the history, which no later turn may go behind.
    pub latest_ms: u64,
    /// How many events were raised to it.
    pub raised: u32,
    /// The number that the next task gets.
    pub next_task: TaskId,
    /// The tasks that the host has to answer, and that have neither been answered nor dropped, with what they are.
    pub open: BTreeMap<TaskId, Action>,
    /// Which of them are timers, by their due time in milliseconds since 1970.
    pub timers: BTreeSet<(u64, TaskId)>,
    /// How many of them this server has to work on.
    pub work: usize,
    /// How many bytes of values it holds: the input, what open tasks were asked with, and what no turn has taken yet.
    pub bytes: usize,
    /// What is recorded, but no turn has taken yet; the oldest first.
    pub unread: VecDeque<Input>,
    /// How much memory the events from outside take among that, in bytes, about.
    pub unread_event_bytes: usize,
    /// None of its code may run for now.
    pub is_suspended: bool,
    /// It was rewound, and its last turn is to be played again.
    pub again: Option<Again>,
    /// How it ended, if it did.
    pub end: Option<End>,
}

/// What a turn has to ask for before anything else: what it asked for before it was rewound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// In this order.
    pub asks: Vec<Ask>,
    /// The number of the first task among it.
    pub next_task: TaskId,
    /// The time of that turn, in milliseconds since 1970, if it has to be the same.
    pub at_ms: Option<u64>,
    /// How many inputs it had that still stand.
    pub inputs: usize,
    /// Other code asked for it.
    pub is_of_other_code: bool,
}

/// A history that no engine of ours can have written: the store is damaged or was changed from outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {position} of the history cannot be: {why}")]
pub struct CorruptHistory {
    /// Which event, counted from 0.
    pub position: u32,
    /// What is wrong with it.
    pub why: String,
}

impl Execution {
    /// The execution after its first event.
    pub fn new(started: Started) -> Self {
        Self {
            bytes: started.input.text().len(),
            turn_at_ms: started.at_ms,
            latest_ms: started.at_ms,
            raised: 0,
            started,
            length: 1,
            turns: 0,
            next_task: TaskId::default(),
            open: BTreeMap::new(),
            timers: BTreeSet::new(),
            work: 0,
            unread: VecDeque::new(),
            unread_event_bytes: 0,
            is_suspended: false,
            again: None,
            end: None,
        }
    }

    /// Folds a whole history.
    ///
    /// # Errors
    /// If an event cannot stand where it does.
    pub fn fold(history: &[Event]) -> Result<Self, CorruptHistory> {
        let standing = rewind::standing(history);
        let Some((Event::Started(started), rest)) = standing.split_first() else {
            return Err(CorruptHistory { position: 0, why: "it has to be `started`".into() });
        };
        let mut execution = Self::new(started.clone());
        for event in rest {
            execution.apply(event)?;
        }
        execution.length = u32::try_from(history.len()).expect("the limit on history is far below");
        Ok(execution)
    }

    /// Takes in the event that follows. A rewind changes what came before it, so that only [`Self::fold`] can take it in.
    ///
    /// # Errors
    /// If it cannot stand here; the execution is then not to be used any more.
    pub fn apply(&mut self, event: &Event) -> Result<(), CorruptHistory> {
        let position = self.length;
        let corrupt = |why: String| Err(CorruptHistory { position, why });
        if self.end.is_some() {
            return corrupt("the execution has ended".into());
        }
        match event {
            Event::Started(_) => return corrupt("the execution has started".into()),
            Event::TurnStarted { at_ms, consumes } => {
                if *at_ms < self.turn_at_ms {
                    return corrupt(format!("its time {at_ms} is before {}", self.turn_at_ms));
                }
                let consumes = *consumes as usize;
                if consumes > self.unread.len() {
                    return corrupt(format!("it takes {consumes} inputs of {}", self.unread.len()));
                }
                for input in self.unread.drain(..consumes) {
                    self.bytes -= input.bytes();
                    self.unread_event_bytes -= input.event_bytes();
                }
                self.turns += 1;
                self.turn_at_ms = *at_ms;
                self.again = None;
            }
            Event::Scheduled { task, action } => {
                if *task != self.next_task {
                    return corrupt(format!("it schedules task {task} where {} is next", self.next_task));
                }
                if let Some(again) = &mut self.again {
                    again.asks.push(Ask::Schedule(action.clone()));
                }
                if action.is_answered() {
                    self.open.insert(*task, action.clone());
                    self.work += usize::from(action.is_work());
                    self.bytes += action.bytes();
                    self.timers.extend(due(*task, action));
                }
                self.next_task = task.next();
            }
            Event::Cancelled { task } => {
                if *task >= self.next_task {
                    return corrupt(format!("it cancels task {task}, which was never scheduled"));
                }
                if let Some(again) = &mut self.again {
                    again.asks.push(Ask::Cancel(*task));
                }
                self.close(*task);
            }
            Event::Resolved { task, .. } => {
                if !self.close(*task) {
                    return corrupt(format!("it answers task {task}, which is not open"));
                }
            }
            Event::Raised { .. } => (),
            Event::Suspended { .. } | Event::Resumed { .. } => {
                let suspends = matches!(event, Event::Suspended { .. });
                if self.is_suspended == suspends {
                    return corrupt(format!("the execution {} suspended", if suspends { "is" } else { "is not" }));
                }
                self.is_suspended = suspends;
            }
            Event::Rewound { turn_at_ms, module, .. } => {
                let next_task = self.next_task;
                let none = Again { asks: Vec::new(), next_task, at_ms: None, inputs: usize::MAX, is_of_other_code: false };
                let again = self.again.get_or_insert(none);
                again.inputs = again.inputs.min(self.unread.len());
                again.at_ms = *turn_at_ms;
                if let Some(module) = module {
                    again.is_of_other_code = true;
                    self.started.module = *module;
                }
            }
            Event::Ended { end, .. } => {
                self.is_suspended = false;
                self.end = Some(end.clone());
                self.open.clear();
                self.timers.clear();
                self.work = 0;
                self.bytes = self.started.input.text().len() + self.unread.iter().map(Input::bytes).sum::<usize>();
            }
        }
        if let Some(input) = Input::of(event, &mut self.raised) {
            self.bytes += input.bytes();
            self.unread_event_bytes += input.event_bytes();
            self.unread.push_back(input);
        }
        self.latest_ms = self.latest_ms.max(event.at_ms());
        self.length += 1;
        Ok(())
    }

    fn close(&mut self, task: TaskId) -> bool {
        let Some(action) = self.open.remove(&task) else { return false };
        self.work -= usize::from(action.is_work());
        self.bytes -= action.bytes();
        if let Some(timer) = due(task, &action) {
            self.timers.remove(&timer);
        }
        true
    }

    /// When it has to be looked at, if nothing else happens.
    pub fn wake(&self) -> Wake {
        self.standing().wake(&self.started, self.timers.first().map(|(due_ms, _)| *due_ms))
    }

    /// When it has to be looked at once `events` have followed, none of which is a rewind. What this costs depends on `events` alone, however
    /// much is open.
    pub fn wake_after(&self, events: &[Event]) -> Wake {
        let mut then = self.standing();
        let mut added: BTreeMap<TaskId, &Action> = BTreeMap::new();
        let mut closed: HashSet<TaskId> = HashSet::new();
        for event in events {
            match event {
                Event::Started(_) | Event::Rewound { .. } => (),
                Event::TurnStarted { consumes, .. } => {
                    then.has_run = true;
                    then.plays_again = false;
                    then.unread -= *consumes as usize;
                }
                Event::Scheduled { task, action } if action.is_answered() => {
                    added.insert(*task, action);
                    then.work += usize::from(action.is_work());
                }
                Event::Scheduled { .. } => (),
                Event::Cancelled { task } | Event::Resolved { task, .. } => {
                    then.unread += usize::from(matches!(event, Event::Resolved { .. }));
                    let open = added.remove(task).or_else(|| self.open.get(task).filter(|_| closed.insert(*task)));
                    then.work -= usize::from(open.is_some_and(Action::is_work));
                }
                Event::Raised { .. } => then.unread += 1,
                Event::Suspended { .. } => then.is_suspended = true,
                Event::Resumed { .. } => then.is_suspended = false,
                Event::Ended { .. } => then.is_ended = true,
            }
        }
        let old = self.timers.iter().find(|(_, task)| !closed.contains(task)).map(|(due_ms, _)| *due_ms);
        let new = added.into_iter().filter_map(|(task, action)| due(task, action)).map(|(due_ms, _)| due_ms).min();
        then.wake(&self.started, [old, new].into_iter().flatten().min())
    }

    fn standing(&self) -> Standing {
        Standing {
            is_ended: self.end.is_some(),
            is_suspended: self.is_suspended,
            has_run: self.turns > 0,
            plays_again: self.again.is_some(),
            unread: self.unread.len(),
            work: self.work,
        }
    }
}

/// Where an execution stands, as far as that decides when it has to be looked at.
struct Standing {
    is_ended: bool,
    is_suspended: bool,
    has_run: bool,
    plays_again: bool,
    unread: usize,
    work: usize,
}

impl Standing {
    /// When it has to be looked at, if its next timer is due at `earliest_ms`.
    fn wake(&self, started: &Started, earliest_ms: Option<u64>) -> Wake {
        let has_input = self.unread > 0 || self.plays_again;
        if self.is_ended {
            Wake::NEVER
        } else if !self.has_run && !self.is_suspended && !self.plays_again {
            started.not_before_ms.map_or(Wake::AT_ONCE, Wake::at)
        } else if self.work > 0 || (has_input && !self.is_suspended) {
            // What it asked for goes on while it is suspended; but nothing that has come makes it run.
            Wake::AT_ONCE
        } else {
            earliest_ms.map_or(Wake::NEVER, Wake::at)
        }
    }
}

fn due(task: TaskId, action: &Action) -> Option<(u64, TaskId)> {
    if let Action::Timer { due_ms } = action { Some((*due_ms, task)) } else { None }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{ActivityCall, Digest, Generation, Payload, Seed, Tags, Versions};

    pub(crate) fn started() -> Started {
        Started {
            at_ms: 1_000,
            instance: "loaf-17".parse().unwrap(),
            module: Digest([1; 32]),
            function: "BakeBread".into(),
            input: Payload::null(),
            generation: Generation([2; 16]),
            seed: Seed([3; 16]),
            limits: crate::limits::Limits::default().in_force(),
            made_by: Versions { contract: "0.1.0".into(), host: "0.1.0".into(), generator: "by hand".into() },
            parent: None,
            tags: Tags::default(),
            not_before_ms: None,
            idempotency: None,
            continued: 0,
        }
    }

    pub(crate) fn turn(at_ms: u64, consumes: u32) -> Event {
        Event::TurnStarted { at_ms, consumes }
    }

    pub(crate) fn scheduled(task: u32, name: &str) -> Event {
        Event::Scheduled { task: TaskId(task), action: activity(name) }
    }

    pub(crate) fn activity(name: &str) -> Action {
        let (name, input) = (name.into(), Payload::null());
        Action::Activity(ActivityCall { name, input, attempt: 1, first_attempt: None, timeout_ms: None })
    }

    pub(crate) fn resolved(task: u32) -> Event {
        let outcome = Outcome::Completed(Payload::of(&task));
        Event::Resolved { task: TaskId(task), at_ms: 1_500, outcome, ran: None }
    }

    pub(crate) fn ended() -> Event {
        Event::Ended { at_ms: 2_000, end: End::Completed(Payload::null()) }
    }

    fn check(events: &[Event], expected: &str) {
        let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(events.iter().cloned()).collect();
        // However the events are split into steps, what is told before a step is what holds after it.
        for cut in 1..=history.len() {
            let (before, after) = history.split_at(cut);
            if let (Ok(before), Ok(whole)) = (Execution::fold(before), Execution::fold(&history)) {
                assert_eq!(before.wake_after(after), whole.wake());
            }
        }
        let seen = match Execution::fold(&history) {
            Err(error) => error.to_string(),
            Ok(it) => {
                let open: Vec<u32> = it.open.keys().map(|task| task.0).collect();
                let ended = if it.end.is_some() { ", ended" } else { "" };
                format!("{} turns, open {open:?}, unread {}, next {}{ended}", it.turns, it.unread.len(), it.next_task)
            }
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_history_folds_to_what_is_open_and_unread() {
        check(&[], "0 turns, open [], unread 0, next 0");
        check(&[turn(1_000, 0), scheduled(0, "Mix"), scheduled(1, "Heat")], "1 turns, open [0, 1], unread 0, next 2");
        let both = [turn(1_000, 0), scheduled(0, "Mix"), scheduled(1, "Heat"), resolved(1), resolved(0)];
        check(&both, "1 turns, open [], unread 2, next 2");
        check(&[&both[..], &[turn(1_600, 1)]].concat(), "2 turns, open [], unread 1, next 2");
        check(&[&both[..3], &[Event::Cancelled { task: TaskId(0) }]].concat(), "1 turns, open [1], unread 0, next 2");
        check(&[&both[..3], &[ended()]].concat(), "1 turns, open [], unread 0, next 2, ended");
    }

    fn check_wake(events: &[Event], expected: Wake) {
        check_wake_of(started(), events, expected);
    }

    fn check_wake_of(started: Started, events: &[Event], expected: Wake) {
        let history: Vec<Event> = std::iter::once(Event::Started(started)).chain(events.iter().cloned()).collect();
        assert_eq!(Execution::fold(&history).unwrap().wake(), expected);
        for cut in 1..=history.len() {
            let (before, after) = history.split_at(cut);
            assert_eq!(Execution::fold(before).unwrap().wake_after(after), expected, "from event {cut} on");
        }
    }

    #[test]
    fn an_execution_has_to_be_looked_at_when_there_is_something_to_do() {
        let timer = |task, due_ms| Event::Scheduled { task: TaskId(task), action: Action::Timer { due_ms } };
        let wait = |task| Event::Scheduled { task: TaskId(task), action: Action::WaitEvent { name: "go".into() } };
        let raised = || Event::Raised { at_ms: 1_100, name: "go".into(), payload: Payload::null() };
        let fired = |task| Event::Resolved { task: TaskId(task), at_ms: 1_500, outcome: Outcome::Fired, ran: None };
        let cancelled = |task| Event::Cancelled { task: TaskId(task) };
        check_wake(&[], Wake::AT_ONCE);
        check_wake_of(Started { not_before_ms: Some(9_000), ..started() }, &[raised()], Wake::at(9_000));
        check_wake(&[turn(1_000, 0), scheduled(0, "Mix")], Wake::AT_ONCE);
        check_wake(&[turn(1_000, 0), scheduled(0, "Mix"), resolved(0)], Wake::AT_ONCE);
        check_wake(&[turn(1_000, 0), wait(0)], Wake::NEVER);
        check_wake(&[turn(1_000, 0), wait(0), raised()], Wake::AT_ONCE);
        check_wake(&[turn(1_000, 0), wait(0), raised(), turn(1_100, 1), wait(1)], Wake::NEVER);
        let both = [turn(1_000, 0), timer(0, 5_000), timer(1, 3_000), wait(2)];
        check_wake(&both, Wake::at(3_000));
        check_wake(&[&both[..], &[raised(), turn(1_100, 1), cancelled(1)]].concat(), Wake::at(5_000));
        check_wake(&[&both[..], &[fired(1), turn(3_000, 1)]].concat(), Wake::at(5_000));
        check_wake(&[&both[..], &[fired(1), turn(3_000, 1), cancelled(0)]].concat(), Wake::NEVER);
        check_wake(&[turn(1_000, 0), timer(0, 5_000), scheduled(1, "Mix")], Wake::AT_ONCE);
        check_wake(&[turn(1_000, 0), timer(0, 5_000), scheduled(1, "Mix"), resolved(1), turn(1_600, 1)], Wake::at(5_000));
        check_wake(&[turn(1_000, 0), scheduled(0, "Mix"), ended()], Wake::NEVER);
    }

    #[test]
    fn a_history_that_cannot_be_is_refused_with_the_event_at_fault() {
        let first = [turn(1_000, 0), scheduled(0, "Mix")];
        let after = |event: Event| [&first[..], &[event]].concat();
        check(&after(Event::Started(started())), "event 3 of the history cannot be: the execution has started");
        check(&after(turn(999, 0)), "event 3 of the history cannot be: its time 999 is before 1000");
        check(&after(turn(1_000, 1)), "event 3 of the history cannot be: it takes 1 inputs of 0");
        check(&after(scheduled(0, "Mix")), "event 3 of the history cannot be: it schedules task 0 where 1 is next");
        check(&after(resolved(1)), "event 3 of the history cannot be: it answers task 1, which is not open");
        check(
            &after(Event::Cancelled { task: TaskId(1) }),
            "event 3 of the history cannot be: it cancels task 1, which was never scheduled",
        );
        check(&[ended(), turn(3_000, 0)], "event 2 of the history cannot be: the execution has ended");
        assert!(Execution::fold(&[ended()]).is_err());
    }
}
