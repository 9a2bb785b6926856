//! What does an instance wait for? A projection of its history, with what the partition and the line of activities know besides.
//!
//! Nothing of it is kept: it is put together when somebody asks. [`Why::of`] is pure, the rest looks up.

use std::collections::HashMap;

use super::hub::{Hub, blocking};
use super::instance::Phase;
use super::query::read;
use super::queue::Bound;
use super::shell::Shell;
use crate::model::waits::{Wait, Waits};
use crate::model::{
    Action, ActivityCall, ChildCall, Event, Execution, ExecutionKey, HttpCall, InstanceId, Outcome, Payload, RuntimeStatus,
    TaskId, rewind,
};
use crate::store::{InstanceRow, StoreError};

/// How many open tasks, names of events and children are told one by one; of the others only how many there are.
pub const TOLD_MAX: usize = 100;

/// The largest progress that is told, in bytes.
const PROGRESS_BYTES_MAX: usize = 4 << 10;

/// What an instance waits for.
#[derive(Debug, Clone)]
pub struct Why {
    /// The instance as it is stored.
    pub row: InstanceRow,
    /// What is in flight for it.
    pub stage: Stage,
    /// Its first turn may not begin before this time, in milliseconds since 1970, and has not begun.
    pub not_before_ms: Option<u64>,
    /// How many inputs (answers and events) are recorded that no turn has taken.
    pub inputs: usize,
    /// How much is open.
    pub open: Open,
    /// When the first of its timers is due, in milliseconds since 1970.
    pub first_due_ms: Option<u64>,
    /// The first open tasks, by their numbers.
    pub tasks: Vec<OpenTask>,
    /// The events that have come and that it has not read, by name.
    pub mailbox: Vec<Unread>,
    /// Sub-orchestrations: those that have failed, the last first, and then those that it waits for.
    pub children: Vec<Child>,
}

/// How many tasks are open, by what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// Activities.
    pub activities: usize,
    /// HTTP requests of the host.
    pub requests: usize,
    /// Timers.
    pub timers: usize,
    /// Waits for events.
    pub events: usize,
    /// Sub-orchestrations.
    pub children: usize,
}

/// What is in flight for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing.
    Nothing,
    /// A turn stands in line for a thread.
    TurnQueued,
    /// A turn runs.
    TurnRunning,
    /// A step is being written.
    Recording,
    /// Something failed on our side, and is tried again.
    Retrying,
    /// It stands still until the server is restarted.
    Halted,
}

/// A task without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTask {
    /// Its number.
    pub number: TaskId,
    /// When it was asked for, in milliseconds since 1970.
    pub since_ms: u64,
    /// What it is.
    pub what: What,
}

/// What a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An activity.
    Activity {
        /// Its name, as the guest spells it.
        name: String,
        /// Which attempt it is, counted from 1.
        attempt: u32,
        /// The task of its first attempt.
        first_attempt: TaskId,
        /// How far it is.
        work: Work,
        /// What it said last of its progress, if that is short.
        progress: Option<Payload>,
    },
    /// An HTTP request of the host.
    Request {
        /// Its method.
        method: String,
        /// Where it goes.
        uri: String,
        /// How far it is.
        work: Work,
    },
    /// A timer.
    Timer {
        /// When it is due, in milliseconds since 1970.
        due_ms: u64,
    },
    /// A wait for an event.
    Event {
        /// The event's name, as the guest spells it.
        name: String,
    },
    /// A sub-orchestration.
    Child {
        /// Its orchestrator, as the guest spells it.
        name: String,
        /// Its ID.
        instance: InstanceId,
        /// Which attempt it is, counted from 1.
        attempt: u32,
    },
}

/// How far the work for a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It runs, or rests before it is tried again.
    Running,
    /// It stands in line, behind this bound if one is reached.
    Queued(Option<Bound>),
    /// It has not been handed out yet, or its answer is on its way.
    Between,
}

/// Events of one name that have not been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The name, as the oldest was raised.
    pub name: String,
    /// How many.
    pub count: usize,
    /// When the oldest came, in milliseconds since 1970.
    pub since_ms: u64,
    /// A name that the instance waits for, and that may have been meant.
    pub meant: Option<String>,
}

/// A sub-orchestration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The task that it is to the instance.
    pub task: TaskId,
    /// Its orchestrator, as the guest spells it.
    pub name: String,
    /// Its ID.
    pub instance: InstanceId,
    /// When it was asked for, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why it has failed, as the instance was told.
    pub failure: Option<String>,
    /// How it stands; `None` if it is not there yet, or not any more.
    pub status: Option<RuntimeStatus>,
}

impl Hub {
    /// What an instance waits for at the moment; `None` if there is none.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn why(&self, id: &InstanceId) -> Result<Option<Why>, StoreError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        blocking(move || {
            let Some((row, mut history)) = read(&shell, &id)? else { return Ok(None) };
            history.truncate(row.length as usize);
            let execution = Execution::fold(&history).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            let mut why = Why::of(row, &rewind::standing(&history), &execution);
            why.look(&shell)?;
            Ok(Some(why))
        })
        .await
    }
}

impl Why {
    /// What the history tells of it. Nobody has looked yet what is in flight, and how children and work stand.
    fn of(row: InstanceRow, history: &[Event], execution: &Execution) -> Self {
        let waits = Waits::fold(history);
        let mut open = Open { events: waits.open().len(), ..Open::default() };
        for action in execution.open.values() {
            *open.count(action) += 1;
        }
        let (asked, failed) = children(history);
        let since = |task: &TaskId| asked.get(task).map_or(0, |(since_ms, _)| *since_ms);
        let answered = execution.open.iter().take(TOLD_MAX).filter_map(|(task, action)| {
            Some(OpenTask { number: *task, since_ms: since(task), what: what(execution, *task, action)? })
        });
        let waited = waits.open().iter().take(TOLD_MAX).map(|(task, wait): (_, &Wait)| OpenTask {
            number: *task,
            since_ms: wait.since_ms,
            what: What::Event { name: wait.name.clone() },
        });
        let mut tasks: Vec<OpenTask> = answered.chain(waited).collect();
        tasks.sort_by_key(|task| task.number);
        tasks.truncate(TOLD_MAX);

        let child = |(task, failure): (TaskId, Option<String>)| {
            let (since_ms, action) = asked.get(&task)?;
            let What::Child { name, instance, .. } = what(execution, task, action)? else { return None };
            Some(Child { task, name, instance, since_ms: *since_ms, failure, status: None })
        };
        let is_child = |(_, action): &(&TaskId, &Action)| matches!(action, Action::SubOrchestration(_));
        let waited_for = execution.open.iter().filter(is_child).map(|(task, _)| (*task, None));
        // One that was asked for again has failed no longer.
        let failed = failed.into_iter().rev().filter(|(task, _)| !execution.open.contains_key(task));
        let failed = failed.map(|(task, message)| (task, Some(message)));
        let children = failed.chain(waited_for).take(TOLD_MAX).filter_map(child).collect();

        let names: Vec<&str> = waits.open().values().map(|wait| wait.name.as_str()).collect();
        let unread = waits.unread().take(TOLD_MAX).map(|letters| Unread {
            name: letters[0].name.clone(),
            count: letters.len(),
            since_ms: letters[0].at_ms,
            meant: crate::host::nearest(&letters[0].name, names.iter().copied()).map(str::to_owned),
        });
        Self {
            stage: Stage::Nothing,
            not_before_ms: execution.started.not_before_ms.filter(|_| execution.turns == 0 && execution.end.is_none()),
            inputs: if execution.end.is_some() { 0 } else { execution.unread.len() },
            open,
            first_due_ms: execution.timers.first().map(|(due_ms, _)| *due_ms),
            tasks,
            mailbox: unread.collect(),
            children,
            row,
        }
    }

    /// Looks what is in flight, and how work and children stand. Blocks.
    fn look(&mut self, shell: &Shell) -> Result<(), StoreError> {
        let execution = self.row.execution;
        self.stage = shell.look(&self.row.id, |partition| partition.phase(execution).map_or(Stage::Nothing, Stage::of));
        let store = &shell.machinery.store;
        for OpenTask { number, what, .. } in &mut self.tasks {
            match what {
                What::Activity { first_attempt, work, progress, .. } => {
                    *work = work_of(shell, execution, *number);
                    let known = shell.machinery.activities.progress((execution, *first_attempt))?;
                    *progress = known.filter(|known| known.text().len() <= PROGRESS_BYTES_MAX);
                }
                What::Request { work, .. } => *work = work_of(shell, execution, *number),
                What::Timer { .. } | What::Event { .. } | What::Child { .. } => (),
            }
        }
        for child in &mut self.children {
            child.status = store.instance(shell.row.key, &child.instance)?.map(|row| row.status);
        }
        Ok(())
    }
}

fn work_of(shell: &Shell, execution: ExecutionKey, task: TaskId) -> Work {
    shell.machinery.activities.work((execution, task)).unwrap_or(Work::Between)
}

impl Stage {
    fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Idle => Self::Nothing,
            Phase::Turn { begun: false, .. } => Self::TurnQueued,
            Phase::Turn { begun: true, .. } => Self::TurnRunning,
            Phase::Reopening(_) | Phase::Committing(_) => Self::Recording,
            Phase::Loading | Phase::Resting { .. } => Self::Retrying,
            Phase::Halted { .. } => Self::Halted,
        }
    }
}

impl Open {
    fn count(&mut self, action: &Action) -> &mut usize {
        match action {
            Action::Activity(_) => &mut self.activities,
            Action::Http(_) => &mut self.requests,
            Action::Timer { .. } => &mut self.timers,
            Action::SubOrchestration(_) => &mut self.children,
            Action::WaitEvent { .. } | Action::StartDetached(_) | Action::SendEvent(_) => &mut self.events, // Never among the open ones.
        }
    }
}

fn what(execution: &Execution, task: TaskId, action: &Action) -> Option<What> {
    Some(match action {
        Action::Activity(ActivityCall { name, attempt, first_attempt, .. }) => What::Activity {
            name: name.clone(),
            attempt: *attempt,
            first_attempt: first_attempt.unwrap_or(task),
            work: Work::Between,
            progress: None,
        },
        Action::Http(HttpCall { method, uri, .. }) => {
            What::Request { method: method.clone(), uri: uri.clone(), work: Work::Between }
        }
        Action::Timer { due_ms } => What::Timer { due_ms: *due_ms },
        Action::SubOrchestration(ChildCall { name, instance, attempt, .. }) => {
            let instance = instance.clone().unwrap_or_else(|| execution.started.child_id(task));
            What::Child { name: name.clone(), instance, attempt: *attempt }
        }
        Action::WaitEvent { .. } | Action::StartDetached(_) | Action::SendEvent(_) => return None,
    })
}

type AskedAt<'a> = HashMap<TaskId, (u64, &'a Action)>;

/// When each task was asked for, and the last children that have failed, with why.
fn children(history: &[Event]) -> (AskedAt<'_>, Vec<(TaskId, String)>) {
    let (mut asked, mut failed, mut turn_at_ms) = (AskedAt::new(), Vec::new(), 0);
    for event in history {
        match event {
            Event::TurnStarted { at_ms, .. } => turn_at_ms = *at_ms,
            Event::Scheduled { task, action } => _ = asked.insert(*task, (turn_at_ms, action)),
            Event::Resolved { task, outcome: Outcome::Failed(failure), .. } => {
                if matches!(asked.get(task), Some((_, Action::SubOrchestration(_)))) {
                    failed.push((*task, failure.message.clone()));
                }
            }
            _ => (),
        }
    }
    (asked, failed.split_off(failed.len().saturating_sub(TOLD_MAX)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use dacapo_guest::Context;
    use dacapo_guest::driver::{self, Driver};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::model::execution::tests::{ended, scheduled, started, turn};
    use crate::model::{Digest, Failure, InstanceKey, Tags, Wake};

    fn why(events: Vec<Event>) -> Why {
        let history: Vec<Event> = std::iter::once(Event::Started(started())).chain(events).collect();
        let row = InstanceRow {
            key: InstanceKey(1),
            execution: ExecutionKey(1),
            length: u32::try_from(history.len()).unwrap(),
            id: started().instance,
            function: started().function,
            module: Digest([1; 32]),
            status: RuntimeStatus::Running,
            created_ms: 1_000,
            updated_ms: 1_000,
            custom_status: None,
            tags: Tags::default(),
            wake: Wake::NEVER,
            reason: None,
        };
        Why::of(row, &history, &Execution::fold(&history).unwrap())
    }

    fn task(number: u32, action: Action) -> Event {
        Event::Scheduled { task: TaskId(number), action }
    }

    fn wait(number: u32, name: &str) -> Event {
        task(number, Action::WaitEvent { name: name.into() })
    }

    fn child(number: u32) -> Event {
        let (name, input, tags) = ("Knead".into(), Payload::null(), Tags::default());
        task(number, Action::SubOrchestration(ChildCall { name, instance: None, input, attempt: 1, first_attempt: None, tags }))
    }

    fn raised(name: &str) -> Event {
        Event::Raised { at_ms: 1_700, name: name.into(), payload: Payload::null() }
    }

    fn failed(number: u32, message: &str) -> Event {
        let outcome = Outcome::Failed(Failure::new("Oven", message));
        Event::Resolved { task: TaskId(number), at_ms: 1_700, outcome, ran: None }
    }

    #[test]
    fn every_kind_of_open_task_is_told_with_when_it_was_asked_for() {
        let why = why(vec![
            turn(1_500, 0),
            scheduled(0, "Mix"),
            task(1, Action::Timer { due_ms: 9_000 }),
            wait(2, "go"),
            raised("Stop"),
            turn(1_800, 1),
            child(3),
            task(4, Action::Timer { due_ms: 8_000 }),
        ]);
        assert_eq!(why.open, Open { activities: 1, requests: 0, timers: 2, events: 1, children: 1 });
        let since: Vec<_> = why.tasks.iter().map(|task| (task.number.0, task.since_ms)).collect();
        assert_eq!(since, [(0, 1_500), (1, 1_500), (2, 1_500), (3, 1_800), (4, 1_800)]);
        assert_eq!((why.first_due_ms, why.inputs), (Some(8_000), 0));
        let unread = Unread { name: "Stop".into(), count: 1, since_ms: 1_700, meant: None };
        assert_eq!(why.mailbox, [unread]);
        assert_eq!(why.children[0].instance, started().child_id(TaskId(3)));
    }

    #[test]
    fn an_event_may_be_meant_for_a_wait_with_nearly_its_name() {
        let meant = |wanted: &str, came: &str| {
            why(vec![turn(1_500, 0), wait(0, wanted), raised(came), turn(1_800, 1)]).mailbox.pop().and_then(|unread| unread.meant)
        };
        assert_eq!(meant("OrderApproved", "order-approved").as_deref(), Some("OrderApproved"));
        assert_eq!(meant("approve", "aprove").as_deref(), Some("approve"));
        assert_eq!(meant("approve", "deny"), None);
        assert_eq!(meant("approve", "APPROVE"), None, "it was read");
    }

    #[test]
    fn of_ten_thousand_tasks_the_first_are_told_and_all_are_counted() {
        let tasks = (0..10_000).map(|number| scheduled(number, "Mix"));
        let waits = (10_000..20_000).map(|number| wait(number, "go"));
        let why = why(std::iter::once(turn(1_500, 0)).chain(tasks).chain(waits).collect());
        assert_eq!((why.open.activities, why.open.events, why.tasks.len()), (10_000, 10_000, TOLD_MAX));
        let letters = (0..10_000).map(|number| raised(&format!("event {number}")));
        let history = std::iter::once(turn(1_500, 0)).chain(letters).chain([turn(1_800, 10_000)]);
        assert_eq!(super::tests::why(history.collect()).mailbox.len(), TOLD_MAX);
    }

    #[test]
    fn children_that_have_failed_come_first_and_the_last_of_them_before_the_others() {
        let history = vec![turn(1_500, 0), child(0), child(1), child(2), failed(0, "cold"), failed(2, "wet"), turn(1_800, 2)];
        let told = |why: Why| why.children.into_iter().map(|child| (child.task.0, child.failure)).collect::<Vec<_>>();
        let failures = [(2, Some("wet".to_owned())), (0, Some("cold".to_owned()))];
        assert_eq!(told(why(history.clone())), [&failures[..], &[(1, None)]].concat());
        let why = why([history, vec![ended()]].concat());
        assert_eq!((why.open, why.tasks.len(), told(why)), (Open::default(), 0, failures.to_vec()));
    }

    /// What a random orchestrator does next. Names are from `a` to `c`.
    #[derive(Debug, Clone)]
    enum Does {
        Waits(u8),
        WaitsForFirst(u8, u8),
        WaitsForBoth(u8, u8),
        Calls,
    }

    fn name(letter: u8, upper: bool) -> String {
        char::from(letter + if upper { b'A' } else { b'a' }).to_string()
    }

    async fn run(ctx: Context, steps: Vec<Does>) -> dacapo_guest::Result<String> {
        for step in steps {
            match step {
                Does::Waits(one) => drop(ctx.event::<Value>(&name(one, false)).await?),
                Does::WaitsForFirst(one, other) | Does::WaitsForBoth(one, other) => {
                    let needed = if matches!(step, Does::WaitsForBoth(..)) { 2 } else { 1 };
                    let mut waits: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
                    for letter in [one, other] {
                        waits.push(Box::pin(ctx.event::<Value>(&name(letter, true))));
                    }
                    poll_fn(|context| {
                        waits.retain_mut(|wait| wait.as_mut().poll(context).is_pending());
                        if waits.len() + needed <= 2 { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
                Does::Calls => drop(ctx.call_named::<Value>("Mix", &1).await?),
            }
        }
        std::future::pending().await
    }

    /// The open waits after these batches of inputs, by the history and by the SDK. A letter is an event, `None` the answer to the open call.
    fn waits(steps: Vec<Does>, batches: &[Vec<Option<u8>>]) -> [BTreeMap<u32, String>; 2] {
        let start = driver::Start {
            function: "Bake".into(),
            instance_id: "loaf".into(),
            generation: "02".repeat(16),
            input: "null".into(),
            parent: None,
            tags: Vec::new(),
            extensions: Vec::new(),
        };
        let mut driver = Driver::begin(start, |ctx, _| run(ctx, steps));
        let (mut history, mut names, mut calls) = (vec![Event::Started(started())], BTreeMap::new(), Vec::new());
        let (mut tasks, mut events) = (0, 0);
        for batch in std::iter::once(&Vec::new()).chain(batches) {
            let mut given = vec![driver::Event::TurnStarted(2_000)];
            for input in batch {
                match input {
                    Some(letter) => {
                        history.push(raised(&name(*letter, true)));
                        let (number, name) = (events, name(*letter, true));
                        events += 1;
                        given.push(driver::Event::Raised(driver::RaisedEvent { number, name, data: "1".into() }));
                    }
                    None => {
                        let Some(task) = calls.pop() else { continue };
                        let outcome = Outcome::Completed(Payload::null());
                        history.push(Event::Resolved { task: TaskId(task), at_ms: 2_000, outcome, ran: None });
                        let outcome = driver::Outcome::Completed("null".into());
                        given.push(driver::Event::Resolved(driver::Answer { task, outcome }));
                    }
                }
            }
            history.push(turn(2_000, u32::try_from(given.len() - 1).unwrap()));
            for action in driver.advance(given).actions {
                match action {
                    driver::Action::Cancel(task) => history.push(Event::Cancelled { task: TaskId(task) }),
                    driver::Action::WaitEvent(name) => {
                        history.push(wait(tasks, &name));
                        names.insert(tasks, name.to_lowercase());
                        tasks += 1;
                    }
                    _ => {
                        history.push(scheduled(tasks, "Mix"));
                        calls.push(tasks);
                        tasks += 1;
                    }
                }
            }
        }
        let open = driver.open_tasks().into_iter().filter_map(|task| Some((task, names.get(&task)?.clone())));
        let derived = Waits::fold(&history);
        [derived.open().iter().map(|(task, wait)| (task.0, wait.name.to_lowercase())).collect(), open.collect()]
    }

    fn sorted(waits: &BTreeMap<u32, String>) -> Vec<&String> {
        let mut names: Vec<_> = waits.values().collect();
        names.sort();
        names
    }

    fn does() -> impl Strategy<Value = Does> {
        prop_oneof![
            (0..3_u8).prop_map(Does::Waits),
            (0..3_u8, 0..3_u8).prop_map(|(one, other)| Does::WaitsForFirst(one, other)),
            (0..3_u8, 0..3_u8).prop_map(|(one, other)| Does::WaitsForBoth(one, other)),
            Just(Does::Calls),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_open_waits_are_those_of_the_sdk(
            steps in vec(does(), 0..8),
            inputs in vec(prop_oneof![3 => (0..3_u8).prop_map(Some), 1 => Just(None)], 0..12),
            size in 1..4_usize,
        ) {
            let singly: Vec<_> = inputs.iter().map(|input| vec![*input]).collect();
            let [derived, real] = waits(steps.clone(), &singly);
            prop_assert_eq!(derived, real, "one by one");
            // Given together, it may be another wait of the same name.
            let together: Vec<_> = inputs.chunks(size).map(<[_]>::to_vec).collect();
            let [derived, real] = waits(steps, &together);
            prop_assert_eq!(sorted(&derived), sorted(&real), "in batches of {}", size);
        }
    }
}
