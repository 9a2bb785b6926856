//! Do the engine's promises hold in every order of things? The partition under a seeded scheduler.
//!
//! Clients, turns, commits, activities, timers and crashes of the server are steps that a seed puts in order; the store fails
//! where the seed says so. Then all is let run out, and every promise is checked. A failing seed runs alone with
//! `DACAPO_SEED=17 cargo test -p dacapo simulation`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::partition::{
    ActivityOrder, Answer, CommitOrder, Effect, Input, LoadError, Next, Numbers, Partition, Start, Token, TurnFailure, TurnOrder,
    TurnResult,
};
use crate::limits::Limits;
use crate::model::{
    Action, ActivityCall, Ask, Body, ChildCall, ChildStart, Continuation, Digest, End, Event, Execution, ExecutionKey, Failure,
    Generation, HubKey, Input as Given, InstanceId, InstanceKey, Message, MessageKey, Outcome, Payload, Progress, Seed,
    SentEvent, Started, Tags, TaskId, Versions,
};
use crate::replay::{Fault, Guest, TurnError, replay, turn};
use crate::store::memory::{Fault as StoreFault, MemoryStore};
use crate::store::{Commit, CommitOutcome, DueRow, InstanceRow, Store, StoreError, Upload};

/// How many interleavings the test runs.
const SEEDS: u64 = 30_000;

#[test]
fn every_promise_holds_in_every_interleaving() {
    let seeds = match std::env::var("DACAPO_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let mut total = Coverage::default();
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| World::new(seed).run());
        match result {
            Ok(coverage) => total.add(&coverage),
            Err(panic) => {
                eprintln!("the interleaving of seed {seed} failed; run it alone with DACAPO_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // A simulation that never meets what it is there for proves nothing.
    if seeds.end - seeds.start == SEEDS {
        let Coverage { ended, commits_failed, restarts, rebuilds, exhausted, .. } = total;
        let Coverage { cancelled, refused, duplicates, raised, terminated, .. } = total;
        let Coverage { unloaded, continued, children, refused_children, .. } = total;
        let met = [ended, commits_failed, restarts, rebuilds, exhausted, cancelled, refused, duplicates, raised, terminated];
        assert!(met.iter().all(|times| *times > 100), "{met:?}");
        let met = [unloaded, continued, children, refused_children];
        assert!(met.iter().all(|times| *times > 100), "{met:?}");
    }
}

/// What the interleavings met.
#[derive(Default)]
struct Coverage {
    ended: u64,
    commits_failed: u64,
    restarts: u64,
    rebuilds: u64,
    exhausted: u64,
    cancelled: u64,
    refused: u64,
    duplicates: u64,
    raised: u64,
    terminated: u64,
    unloaded: u64,
    continued: u64,
    children: u64,
    refused_children: u64,
}

impl Coverage {
    fn add(&mut self, other: &Self) {
        self.ended += other.ended;
        self.commits_failed += other.commits_failed;
        self.restarts += other.restarts;
        self.rebuilds += other.rebuilds;
        self.exhausted += other.exhausted;
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        self.duplicates += other.duplicates;
        self.raised += other.raised;
        self.terminated += other.terminated;
        self.unloaded += other.unloaded;
        self.continued += other.continued;
        self.children += other.children;
        self.refused_children += other.refused_children;
    }
}

/// What clients can start.
const PROGRAMS: [&str; 11] =
    ["sequence", "fan-out", "race", "fails", "panics", "sleeps", "collects", "parent", "rivals", "relay", "sends"];

/// How many instances that only wait are kept in memory: so few that others are read again all the time.
const IDLE_MAX: usize = 1;

/// How far ahead the store is searched for what is due, in milliseconds.
const AHEAD_MS: u64 = 10;

/// How long `sleeps` sleeps, in milliseconds.
const SLEEP_MS: u64 = 20;

/// A guest without wasm. Its function is one of [`PROGRAMS`], its input how often.
#[derive(Default)]
struct SimGuest {
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
            if let Some(continuation) = &mut progress.continuation {
                // What comes behind the end of the last turn is not read either.
                continuation.keep.extend(if let Given::Raised { number, .. } = input { Some(*number) } else { None });
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

/// Something that can happen next.
enum Step {
    Turn(Box<TurnOrder>),
    /// A turn was run.
    Report(ExecutionKey, u64, Result<TurnResult, TurnFailure>),
    Commit(Box<CommitOrder>),
    /// The committer tells what is durable; clients may have seen it before.
    Tell(ExecutionKey, CommitOutcome),
    /// The search for what is due comes to this instance.
    Due(InstanceId),
    /// The store is asked for an instance.
    Find(InstanceId, Vec<MessageKey>),
    Activity(Box<ActivityOrder>),
    /// The post carries the oldest message.
    Post,
}

struct World {
    random: ChaCha8Rng,
    now_ms: u64,
    store: MemoryStore,
    hub: HubKey,
    partition: Partition,
    post: VecDeque<Message>,
    /// When the partition wants to be called.
    alarm_ms: Option<u64>,
    /// Up to when the store was searched for what is due.
    searched_ms: Option<u64>,
    /// With the number of the turn that each played last.
    guests: HashMap<ExecutionKey, (u64, SimGuest)>,
    steps: Vec<Step>,
    /// What was dispatched in this life of the server: nothing is, twice.
    dispatched: HashSet<(ExecutionKey, TaskId)>,
    /// The store takes no writes until a restart.
    poisoned: bool,
    tokens: Token,
    starting: HashMap<Token, Started>,
    /// Who waits for the end of what is starting.
    starting_waiters: HashMap<Token, Token>,
    waiting: HashMap<Token, InstanceId>,
    /// Events on their way, with what they carry.
    raising: HashMap<Token, (InstanceId, u64)>,
    terminating: HashMap<Token, InstanceId>,
    /// How many events were raised; each carries its own number.
    events: u64,
    /// What a caller has been told is durable, by ID: how each instance must end.
    acknowledged: BTreeMap<InstanceId, Vec<Started>>,
    /// Which events a caller has been told are durable.
    acknowledged_events: BTreeMap<InstanceKey, Vec<u64>>,
    /// The answer that is being given comes from the store.
    refused_by_store: bool,
    /// No failures any more.
    calm: bool,
    coverage: Coverage,
}

impl World {
    fn new(seed: u64) -> Self {
        let store = MemoryStore::new();
        let upload = Upload {
            hub: &"Simulation".parse().unwrap(),
            name: &"sim".parse().unwrap(),
            digest: Digest([1; 32]),
            bytes: b"sim",
            catalog: "{}",
            at_ms: 0,
        };
        store.upload(&upload).unwrap();
        let hub = store.hubs().unwrap()[0].key;
        Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            now_ms: 1_000,
            hub,
            partition: Partition::new(
                Numbers { execution: ExecutionKey::range(hub, 0).0, message: MessageKey::range(hub, 0).0, turns: 0 },
                IDLE_MAX,
            ),
            post: VecDeque::new(),
            alarm_ms: None,
            searched_ms: None,
            store,
            guests: HashMap::new(),
            steps: Vec::new(),
            dispatched: HashSet::new(),
            poisoned: false,
            tokens: 0,
            starting: HashMap::new(),
            starting_waiters: HashMap::new(),
            waiting: HashMap::new(),
            raising: HashMap::new(),
            terminating: HashMap::new(),
            events: 0,
            acknowledged: BTreeMap::new(),
            acknowledged_events: BTreeMap::new(),
            refused_by_store: false,
            calm: false,
            coverage: Coverage::default(),
        }
    }

    fn run(mut self) -> Coverage {
        let steps = 50 + self.below(250);
        for _ in 0..steps {
            self.now_ms += self.below(5);
            match self.below(100) {
                0..9 => self.client_starts(),
                9..12 => self.client_raises(),
                12..13 => self.client_terminates(),
                13..18 => self.client_waits(),
                18..20 => self.restart(),
                20..22 => self.drop_a_guest(),
                24..28 => self.search(),
                28..30 => self.ring(),
                22..24 => {
                    let fault = [StoreFault::Refuse, StoreFault::Full, StoreFault::Poison, StoreFault::RefuseAfterWriting];
                    let fault = fault[self.below(4) as usize];
                    self.store.fail_next(fault);
                }
                _ => self.step(),
            }
        }
        self.calm = true;
        // A restart mends much; what was not poisoned has to come to its end without one.
        if self.poisoned || self.below(2) == 0 {
            self.restart();
        }
        self.run_out();
        // What waits for events gets them.
        while let Some(row) = self.store.open_instances(self.hub, None, 1).unwrap().pop() {
            self.raise(row.id);
            self.run_out();
        }
        self.check();
        self.coverage
    }

    /// Lets everything happen that is to happen, however late.
    fn run_out(&mut self) {
        loop {
            while !self.steps.is_empty() {
                self.now_ms += 1;
                self.step();
            }
            let due = self.store.due(self.hub, self.searched_ms, u64::MAX >> 1, None, 1).unwrap();
            let next_ms = due.first().map(|row| row.wake_ms).into_iter().chain(self.alarm_ms).min();
            let Some(next_ms) = next_ms else { break };
            self.now_ms = self.now_ms.max(next_ms);
            self.search();
            self.ring();
        }
    }

    /// The alarm rings if it is time.
    fn ring(&mut self) {
        if self.alarm_ms.is_some_and(|alarm_ms| alarm_ms <= self.now_ms) {
            self.alarm_ms = None;
            self.deliver(Input::Alarm);
        }
    }

    /// Asks the store what comes due, as the server does every second.
    fn search(&mut self) {
        let until_ms = (self.now_ms + AHEAD_MS).max(self.searched_ms.unwrap_or(0));
        self.deliver(Input::Horizon(until_ms));
        let rows = self.store.due(self.hub, self.searched_ms, until_ms, None, usize::MAX).unwrap();
        self.searched_ms = Some(until_ms);
        self.steps.extend(rows.into_iter().map(|DueRow { id, .. }| Step::Due(id)));
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn chance(&mut self, one_in: u64) -> bool {
        !self.calm && self.below(one_in) == 0
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    fn client_starts(&mut self) {
        let function = PROGRAMS[self.below(PROGRAMS.len() as u64) as usize];
        // Few IDs, so that starts meet live and ended instances of the same name.
        let id = format!("instance-{}", self.below(12));
        let mut started = self.started(function, &id);
        self.random.fill_bytes(&mut started.generation.0);
        started.input = Payload::of(&(2 + self.below(5)));
        started.not_before_ms = self.chance(8).then_some(self.now_ms + 15);
        let token = self.token();
        self.starting.insert(token, started.clone());
        let waiter = (self.below(2) == 0).then(|| self.token());
        self.starting_waiters.extend(waiter.map(|waiter| (token, waiter)));
        self.waiting.extend(waiter.map(|waiter| (waiter, started.instance.clone())));
        self.deliver(Input::Start(token, Box::new(Start { hub: self.hub, started, waiter })));
    }

    fn started(&self, function: &str, id: &str) -> Started {
        Started {
            at_ms: self.now_ms,
            instance: id.parse().unwrap(),
            module: Digest([1; 32]),
            function: function.into(),
            input: Payload::null(),
            generation: Generation([0; 16]),
            seed: Seed([0; 16]),
            limits: Limits::default().in_force(),
            made_by: Versions { contract: "0".into(), host: "0".into(), generator: "0".into() },
            parent: None,
            tags: Tags::default(),
            not_before_ms: None,
            continued: 0,
        }
    }

    fn client_waits(&mut self) {
        let id: InstanceId = format!("instance-{}", self.below(12)).parse().unwrap();
        let token = self.token();
        self.waiting.insert(token, id.clone());
        self.deliver(Input::Wait(token, id.clone()));
        if self.chance(4) && self.waiting.remove(&token).is_some() {
            self.deliver(Input::Forget(token, id));
        }
    }

    fn client_raises(&mut self) {
        let id: InstanceId = format!("instance-{}", self.below(12)).parse().unwrap();
        self.raise(id);
    }

    fn raise(&mut self, id: InstanceId) {
        let caller = self.token();
        self.events += 1;
        self.raising.insert(caller, (id.clone(), self.events));
        let payload = Payload::of(&self.events);
        self.deliver(Input::Raise { caller, instance: id, name: "go".into(), payload });
    }

    fn client_terminates(&mut self) {
        let id: InstanceId = format!("instance-{}", self.below(12)).parse().unwrap();
        let caller = self.token();
        self.terminating.insert(caller, id.clone());
        let reason = caller.is_multiple_of(2).then(|| "enough".to_owned());
        self.deliver(Input::Terminate { caller, instance: id, reason });
    }

    /// The process dies: what is not in the store is gone, callers included.
    fn restart(&mut self) {
        self.coverage.restarts += 1;
        self.store = self.store.reopen();
        self.steps.clear();
        self.guests.clear();
        self.dispatched.clear();
        self.poisoned = false;
        self.starting.clear();
        self.starting_waiters.clear();
        self.waiting.clear();
        self.raising.clear();
        self.terminating.clear();
        let (first, end) = ExecutionKey::range(self.hub, 0);
        let execution = self.store.last_execution(first, end).unwrap().map_or(first, ExecutionKey::next);
        let (first, end) = MessageKey::range(self.hub, 0);
        let message = self.store.last_message(first, end).unwrap().map_or(first, MessageKey::next);
        self.partition = Partition::new(Numbers { execution, message, turns: 0 }, IDLE_MAX);
        self.alarm_ms = None;
        self.searched_ms = None;
        self.post = self.store.inbox(self.hub, None, usize::MAX).unwrap().into();
        self.steps.extend(self.post.iter().map(|_| Step::Post));
        self.search();
    }

    fn drop_a_guest(&mut self) {
        if let Some(key) = self.guests.keys().min().copied() {
            self.guests.remove(&key);
        }
    }

    fn deliver(&mut self, input: Input) {
        for effect in self.partition.on(self.now_ms, input) {
            match effect {
                Effect::RunTurn(order) => self.steps.push(Step::Turn(order)),
                Effect::Commit(commit) => self.steps.push(Step::Commit(commit)),
                Effect::Find(id, messages) => self.steps.push(Step::Find(id, messages)),
                Effect::Arm(at_ms) => self.alarm_ms = Some(at_ms),
                Effect::Dispatch(order) => {
                    self.check_dispatch(order.execution, order.task, Action::Activity(order.call.clone()));
                    self.steps.push(Step::Activity(order));
                }
                Effect::Request(order) => panic!("no program makes requests: {order:?}"),
                Effect::Send(message) => {
                    let stored = self.store.inbox(self.hub, Some(MessageKey(message.key.0 - 1)), 1).unwrap();
                    assert_eq!(stored.first().map(|stored| stored.key), Some(message.key), "it is sent before it is durable");
                    self.post.push_back(*message);
                    self.steps.push(Step::Post);
                }
                Effect::Discard(key) => self.store.discard_messages(&[key]).unwrap_or(()),
                Effect::Cancel(..) => self.coverage.cancelled += 1, // Its result may still come.
                Effect::Evict(key) => {
                    self.guests.remove(&key);
                }
                Effect::Log(..) | Effect::Ended(..) => (),
                Effect::Reply(token, answer) => self.answered(token, answer),
            }
        }
    }

    fn check_dispatch(&mut self, key: ExecutionKey, task: TaskId, action: Action) {
        let durable = self.store.history(key).unwrap();
        assert!(durable.contains(&Event::Scheduled { task, action }), "task {task} runs before it is durable");
        assert!(self.dispatched.insert((key, task)), "task {task} runs again, without a crash");
    }

    fn answered(&mut self, token: Token, answer: Answer) {
        if let Some(started) = self.starting.remove(&token) {
            let waiter = self.starting_waiters.remove(&token);
            if !matches!(answer, Answer::Started) {
                self.waiting.retain(|waiting, _| Some(*waiting) != waiter); // Gone with the start.
            }
            match answer {
                Answer::Started => self.acknowledged.entry(started.instance.clone()).or_default().push(started),
                Answer::Exists(_) => {
                    self.coverage.refused += 1;
                    let row = self.store.instance(self.hub, &started.instance).unwrap();
                    let is_ended = row.is_none_or(|row| row.status.is_ended());
                    // What the store refused was open when the start came to it.
                    assert!(
                        self.refused_by_store || !is_ended,
                        "{} was refused, though everybody can see that it has ended",
                        started.instance
                    );
                }
                Answer::Failed(_) => (),
                Answer::Recorded | Answer::Ended(_) | Answer::NotOpen => panic!("a start was answered with {answer:?}"),
            }
        } else if let Some((id, number)) = self.raising.remove(&token) {
            if matches!(answer, Answer::Recorded) {
                self.coverage.raised += 1;
                // What continues as new has given up the turn that took it, or has it in two executions.
                let histories = self.histories(&id);
                let is_relay =
                    |history: &&Vec<Event>| matches!(&history[0], Event::Started(started) if started.function == "relay");
                if !histories.iter().any(|history| is_relay(&history)) {
                    let recorded = histories.iter().flat_map(|history| raised(history)).filter(|recorded| *recorded == number);
                    assert_eq!(recorded.count(), 1, "event {number} of {id} was acknowledged");
                }
                let row = self.store.instance(self.hub, &id).unwrap().unwrap();
                self.acknowledged_events.entry(row.key).or_default().push(number);
            }
        } else if let Some(id) = self.terminating.remove(&token) {
            if matches!(answer, Answer::Recorded) {
                self.coverage.terminated += 1;
                let is_terminated =
                    |history: &Vec<Event>| matches!(history.last(), Some(Event::Ended { end: End::Terminated { .. }, .. }));
                assert!(self.histories(&id).iter().any(is_terminated), "{id} is to have been terminated");
            }
        } else if let Some(id) = self.waiting.remove(&token)
            && let Answer::Ended(end) = answer
        {
            let row = self.store.instance(self.hub, &id).unwrap().unwrap();
            let last = self.store.history(row.execution).unwrap().pop();
            assert!(
                matches!(last, Some(Event::Ended { end: stored, .. }) if stored == end),
                "a waiter was told what is not stored"
            );
        }
    }

    /// The histories of all executions under this ID. An ended one may have been replaced before its end was told.
    fn histories(&self, id: &InstanceId) -> Vec<Vec<Event>> {
        let (first, end) = ExecutionKey::range(self.hub, 0);
        let last = self.store.last_execution(first, end).unwrap();
        let keys = std::iter::successors(Some(first), |key| Some(key.next())).take_while(|key| Some(*key) <= last);
        let histories = keys.map(|key| self.store.history(key).unwrap());
        histories.filter(|history| matches!(&history[..], [Event::Started(started), ..] if started.instance == *id)).collect()
    }

    fn step(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        let chosen = usize::try_from(self.below(self.steps.len() as u64)).unwrap();
        match self.steps.swap_remove(chosen) {
            Step::Turn(order) => {
                if self.partition.begin_turn(order.execution, order.number) {
                    let result = self.run_turn(&order);
                    self.steps.push(Step::Report(order.execution, order.number, result));
                }
            }
            Step::Report(key, number, result) => self.deliver(Input::TurnDone(key, number, result)),
            Step::Commit(order) => self.commit(*order),
            Step::Tell(key, outcome) => {
                self.refused_by_store = matches!(outcome, CommitOutcome::Refused(_));
                self.deliver(Input::Committed(key, outcome));
                self.refused_by_store = false;
            }
            Step::Due(id) => self.deliver(Input::Due(id)),
            Step::Find(id, messages) => {
                let (found, unrecorded) = if self.chance(20) {
                    (Err(LoadError::Passing), Vec::new())
                } else {
                    (Ok(self.read(&id)), self.unrecorded(&messages))
                };
                self.coverage.unloaded += u64::from(matches!(found, Ok(Some(_))));
                self.deliver(Input::Found { instance: id, found, unrecorded });
            }
            Step::Post => {
                let message = self.post.pop_front().expect("there is a step for each");
                self.carry(message);
            }
            Step::Activity(order) => {
                let times = if self.chance(10) { 2 } else { 1 };
                self.coverage.duplicates += times - 1;
                for _ in 0..times {
                    let (execution, task) = (order.execution, order.task);
                    let (outcome, ran, lines) = (SimGuest::work(task), Some(order.module), Vec::new());
                    self.deliver(Input::TaskDone { execution, task, outcome, ran, lines });
                }
            }
        }
    }

    fn read(&self, id: &InstanceId) -> Option<Box<(InstanceRow, Execution)>> {
        let row = self.store.instance(self.hub, id).unwrap().filter(|row| !row.status.is_ended())?;
        let execution = Execution::fold(&self.store.history(row.execution).unwrap()).unwrap();
        Some(Box::new((row, execution)))
    }

    fn unrecorded(&self, keys: &[MessageKey]) -> Vec<MessageKey> {
        let stored: HashSet<MessageKey> =
            self.store.inbox(self.hub, None, usize::MAX).unwrap().into_iter().map(|message| message.key).collect();
        keys.iter().copied().filter(|key| stored.contains(key)).collect()
    }

    fn carry(&mut self, message: Message) {
        if let Body::Start { function, input, generation, seed, parent, tags, not_before_ms, .. } = &message.body {
            let started = Started {
                instance: message.to.clone(),
                function: function.clone(),
                input: input.clone(),
                generation: *generation,
                seed: *seed,
                parent: parent.clone(),
                tags: tags.clone(),
                not_before_ms: *not_before_ms,
                ..self.started("", "instance-0")
            };
            let start = Ok(Box::new(Start { hub: self.hub, started, waiter: None }));
            self.deliver(Input::StartChild(Box::new(message), start));
        } else {
            self.deliver(Input::Message(Box::new(message)));
        }
    }

    fn run_turn(&mut self, order: &TurnOrder) -> Result<TurnResult, TurnFailure> {
        if self.chance(30) {
            return Err(TurnFailure::Host("the module is not at hand".into()));
        }
        let resident = self.guests.remove(&order.execution).filter(|(turn, _)| *turn == order.after);
        let mut guest = match resident {
            Some((_, guest)) => guest,
            None => {
                self.coverage.rebuilds += 1;
                let history = match &order.started {
                    Some(started) => vec![Event::Started(started.clone())],
                    None => self.store.history(order.execution).unwrap(),
                };
                let mut guest = SimGuest::default();
                replay(&history, &mut guest).map_err(guest_failure)?;
                guest
            }
        };
        if self.chance(25) {
            self.coverage.exhausted += 1;
            let fault = Fault::Exhausted(Failure::new("LimitExceeded", "no time left"));
            return Err(guest_failure(TurnError::Fault(fault)));
        }
        let progress = turn(&mut guest, order.at_ms, &order.inputs, order.next_task, None).map_err(guest_failure)?;
        let next = progress.continuation.as_ref().map(|continuation| {
            self.coverage.continued += 1;
            let history = self.store.history(order.execution).unwrap();
            let mut raised = 0;
            let stored = history.iter().filter_map(|event| Given::of(event, &mut raised));
            let mut events = BTreeMap::new();
            for input in stored.chain(order.inputs.iter().cloned()) {
                if let Given::Raised { number, name, payload } = input {
                    events.insert(number, (name, payload));
                }
            }
            let Started { module, made_by, limits, .. } = self.started("", "instance-0");
            let kept = continuation.keep.iter().map(|number| events[number].clone()).collect();
            Box::new(Next { module, made_by, limits, kept })
        });
        if progress.end.is_none() && next.is_none() {
            self.guests.insert(order.execution, (order.number, guest));
        }
        Ok(TurnResult { progress, lines: Vec::new(), next })
    }

    /// Commits it together with some of the others that are waiting, as the group committer would.
    fn commit(&mut self, first: CommitOrder) {
        let mut orders = vec![first];
        for position in (0..self.steps.len()).rev() {
            if matches!(self.steps[position], Step::Commit(_)) && self.below(2) == 0 {
                let Step::Commit(order) = self.steps.swap_remove(position) else { unreachable!("it was just looked at") };
                orders.push(*order);
            }
        }
        let owners: Vec<ExecutionKey> = orders.iter().map(CommitOrder::answers_to).collect();
        let batch: Vec<Commit> = orders.into_iter().map(|order| order.encoded(usize::MAX)).collect();
        match self.store.commit(&batch) {
            Ok(outcomes) => {
                self.steps.extend(owners.into_iter().zip(outcomes).map(|(owner, outcome)| Step::Tell(owner, outcome)));
            }
            Err(error) => {
                self.coverage.commits_failed += 1;
                self.poisoned |= matches!(error, StoreError::Poisoned(_));
                let error = std::sync::Arc::new(error);
                for owner in owners {
                    self.deliver(Input::CommitFailed(owner, error.clone()));
                }
                if self.poisoned && (self.calm || self.below(2) == 0) {
                    self.restart(); // What an operator has to do, sooner or later.
                }
            }
        }
    }

    fn check(&mut self) {
        assert_eq!(self.partition.loaded_instances(), 0, "everything comes to its end");
        assert_eq!(self.store.inbox(self.hub, None, usize::MAX).unwrap(), [], "every message was taken or given up");
        assert!(self.waiting.is_empty() && self.starting.is_empty(), "everybody is answered");
        assert!(self.raising.is_empty() && self.terminating.is_empty(), "everybody is answered");
        let rows = self.store.instances(self.hub, None, usize::MAX).unwrap();
        let mut generations = HashSet::new();
        for row in &rows {
            let history = self.store.history(row.execution).unwrap();
            let execution = Execution::fold(&history).unwrap();
            assert_eq!(execution.length, row.length);
            assert!(generations.insert(execution.started.generation));
            self.coverage.ended += 1;
            let end = execution.end.clone().expect("it has ended");
            assert_eq!(row.status, end.status());
            assert!(raised(&history).is_sorted_by(|a, b| a < b), "events stand once each, in the order in which they came");
            check_end(&execution, &end, &history);
            self.check_relations(row.key, &execution, &end);
            let replayed = replay(&history, &mut SimGuest::default()).expect("a stored history replays");
            assert_eq!(replayed, execution);
        }
        for (id, starts) in &self.acknowledged {
            let row = rows.iter().find(|row| row.id == *id).unwrap_or_else(|| panic!("{id} was acknowledged and is gone"));
            let newest = starts.last().expect("an entry has at least one");
            let Some(Event::Started(stored)) = self.store.history(row.execution).unwrap().into_iter().next() else {
                panic!("the history of {id} has no start");
            };
            // A start whose commit was reported as failed may be there after all, in the place of an ended instance.
            let is_newest = stored.generation == newest.generation;
            let is_unacknowledged = starts.iter().all(|start| start.generation != stored.generation);
            assert!(is_newest || is_unacknowledged, "{id} is an older one than the one acknowledged last");
        }
    }
}

impl World {
    /// What an instance has to do with others is as they say, too.
    fn check_relations(&mut self, key: InstanceKey, execution: &Execution, end: &End) {
        let End::Completed(output) = end else { return };
        match execution.started.function.as_str() {
            "parent" | "rivals" => {
                let outcomes: Vec<Outcome> = serde_json::from_str(output.text()).unwrap();
                for (number, outcome) in outcomes.into_iter().enumerate() {
                    match outcome {
                        Outcome::Failed(failure)
                            if failure.kind == "InstanceExists" && execution.started.function == "rivals" =>
                        {
                            self.coverage.refused_children += 1;
                        }
                        Outcome::Failed(failure) if failure.kind == "LimitExceeded" => (), // Three times in a row.
                        Outcome::Completed(output) if number % 2 == 0 => {
                            self.coverage.children += 1;
                            assert_eq!(End::Completed(output), sequence(2));
                        }
                        Outcome::Failed(failure) if number % 2 == 1 => {
                            self.coverage.children += 1;
                            assert_eq!(failure, Failure::new("Fails", "on purpose"));
                        }
                        other => panic!("child {number} gave {other:?}"),
                    }
                }
            }
            "relay" => {
                let kept: Vec<u64> = serde_json::from_str(output.text()).unwrap();
                assert!(kept.is_sorted_by(|a, b| a < b), "events are handed on once each, in order: {kept:?}");
                let lost = self.acknowledged_events.get(&key).into_iter().flatten().find(|number| !kept.contains(number));
                assert_eq!(lost, None, "an event was lost on the way; kept {kept:?}");
            }
            "sends" => {
                let collector: InstanceId = serde_json::from_str(output.text()).unwrap();
                let row = self.store.instance(self.hub, &collector).unwrap().expect("it was started");
                let events = raised(&self.store.history(row.execution).unwrap());
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

/// The numbers that the events from outside carry.
fn raised(history: &[Event]) -> Vec<u64> {
    let number = |event: &Event| match event {
        Event::Raised { payload, .. } => Some(serde_json::from_str(payload.text()).unwrap()),
        _ => None,
    };
    history.iter().filter_map(number).collect()
}

fn guest_failure(error: TurnError) -> TurnFailure {
    TurnFailure::Guest { error, lines: Vec::new() }
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
    assert!(!matches!(end, End::Faulted(failure) if failure.kind == "Diverged"));
}
