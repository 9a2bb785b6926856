//! What can happen to a server, in an order that a seed decides.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::history::{Histories, raised};
use super::{Coverage, Programs, below};
use crate::engine::orders::{
    ActivityOrder, Answer, CommitOrder, Effect, Input, LoadError, Next, NoRewind, RewindOrder, RewindPlan, Rewinder, Start,
    Token, TurnFailure, TurnOrder, TurnResult, Wish,
};
use crate::engine::partition::{ExecutionNumbers, Numbers, Partition};
use crate::engine::rewind;
use crate::limits::Limits;
use crate::model::{
    Action, Body, Digest, End, Event, Execution, ExecutionKey, Failure, Generation, HubKey, Idempotency, Input as Given,
    InstanceId, InstanceKey, Message, MessageKey, Payload, RuntimeStatus, Seed, Started, Tags, TaskId, Versions,
};
use crate::replay::{Fault, Recorded, TurnError, replay, turn};
use crate::store::memory::{Fault as StoreFault, MemoryStore};
use crate::store::{Change, Commit, CommitOutcome, DueRow, InstanceRow, Replaces, Store, StoreError, Upload};

/// How many instances that only wait are kept in memory, by seed: so few that others are read again all the time.
const IDLE_MAX: [usize; 3] = [0, 1, 4];

/// How far ahead the store is searched for what is due, in milliseconds.
const AHEAD_MS: u64 = 10;

/// More steps than any interleaving takes that comes to an end.
const STEPS_MAX: u64 = 20_000;

/// Something that can happen next.
enum Step {
    Turn(Box<TurnOrder>),
    /// A turn was run.
    Report(ExecutionKey, u64, Box<Result<TurnResult, TurnFailure>>),
    Commit(Box<CommitOrder>),
    /// The committer tells what is durable; clients may have seen it before.
    Tell(ExecutionKey, CommitOutcome),
    /// The search for what is due comes to this instance.
    Due(InstanceId),
    /// The store is asked for an instance.
    Find(InstanceId, Vec<MessageKey>),
    Activity(Box<ActivityOrder>),
    /// The way is looked for in which a failed instance can go on.
    Plan(Box<RewindOrder>),
    /// The post carries the oldest message.
    Post,
}

/// How often what is open in the end gets what it may wait for before it counts as lost.
const ROUNDS_MAX: usize = 500;

pub(super) struct World<P: Programs> {
    pub(super) random: ChaCha8Rng,
    now_ms: u64,
    pub(super) store: MemoryStore,
    pub(super) hub: HubKey,
    pub(super) partition: Partition,
    idle_max: usize,
    post: VecDeque<Message>,
    /// Nobody takes these any more; they are to leave the store.
    discarded: Vec<MessageKey>,
    /// When the partition wants to be called.
    alarm_ms: Option<u64>,
    /// Up to when the store was searched for what is due.
    searched_ms: Option<u64>,
    /// With the number of the turn that each played last.
    guests: HashMap<ExecutionKey, (u64, P::Guest)>,
    steps: Vec<Step>,
    /// What was dispatched in this life of the server: nothing is, twice.
    dispatched: HashSet<(ExecutionKey, TaskId)>,
    /// The store takes no writes until a restart.
    poisoned: bool,
    tokens: Token,
    pub(super) starting: HashMap<Token, Started>,
    /// Who waits for the end of what is starting.
    starting_waiters: HashMap<Token, Token>,
    pub(super) waiting: HashMap<Token, InstanceId>,
    /// Events on their way, with what they carry.
    pub(super) raising: HashMap<Token, (InstanceId, u64)>,
    /// What clients want of instances, by the token, which is also the reason that they give.
    pub(super) controlling: HashMap<Token, (InstanceId, Wish)>,
    /// Somebody else than their parents wanted these rewound.
    pub(super) rewound: HashSet<InstanceId>,
    /// How many events were raised; each carries its own number.
    events: u64,
    /// What a caller has been told is durable, by ID: how each instance must end.
    pub(super) acknowledged: BTreeMap<InstanceId, Vec<Started>>,
    /// Which events a caller has been told are durable.
    pub(super) acknowledged_events: BTreeMap<InstanceKey, Vec<u64>>,
    /// The answer that is being given comes from the store.
    refused_by_store: bool,
    /// No failures any more.
    calm: bool,
    /// How many steps were taken.
    taken: u64,
    pub(super) histories: Histories,
    pub(super) coverage: Coverage,
}

impl<P: Programs> World<P> {
    pub(super) fn new(seed: u64) -> Self {
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
                numbers(ExecutionKey::range(hub).0, MessageKey::range(hub, 0).0),
                IDLE_MAX[usize::try_from(seed % 3).unwrap()],
            ),
            idle_max: IDLE_MAX[usize::try_from(seed % 3).unwrap()],
            post: VecDeque::new(),
            discarded: Vec::new(),
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
            controlling: HashMap::new(),
            rewound: HashSet::new(),
            // Programs send each other events with low numbers.
            events: 1_000,
            acknowledged: BTreeMap::new(),
            acknowledged_events: BTreeMap::new(),
            refused_by_store: false,
            calm: false,
            taken: 0,
            histories: Histories::default(),
            coverage: Coverage::default(),
        }
    }

    pub(super) fn run(mut self) -> Coverage {
        let steps = 20 + self.below(P::STEPS);
        for _ in 0..steps {
            self.now_ms += self.below(5);
            match self.below(100) {
                0..9 => self.client_starts(),
                9..12 => self.client_raises(),
                12..13 => self.client_terminates(),
                30..32 => self.client_controls(Wish::Suspend),
                32..34 => self.client_controls(Wish::Resume),
                34..36 => self.client_rewinds(),
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
        self.come_to_an_end();
        // What has failed by then goes on once more, in the same weather.
        for row in self.store.instances(self.hub, None, usize::MAX).unwrap() {
            if row.status == RuntimeStatus::Failed && self.below(2) == 0 {
                self.rewind(row.id);
            }
        }
        self.calm = false;
        for _ in 0..self.below(80) {
            self.step();
        }
        self.come_to_an_end();
        while !self.discarded.is_empty() {
            if self.poisoned {
                self.restart();
            }
            self.search();
            self.run_out();
        }
        self.check();
        self.coverage
    }

    /// All failures are over: what is open comes to its end.
    fn come_to_an_end(&mut self) {
        self.calm = true;
        // A restart mends much; what was not poisoned has to come to its end without one.
        if self.poisoned || self.below(2) == 0 {
            self.restart();
        }
        self.run_out();
        // What waits for events gets them.
        for (round, name) in P::EVENTS.iter().cycle().enumerate() {
            let open = self.open();
            if open.is_empty() {
                break;
            }
            if round >= ROUNDS_MAX {
                let open: Vec<_> = open
                    .iter()
                    .map(|row| (row.id.as_str(), row.status, self.histories.of(&self.store, row.execution).to_vec()))
                    .collect();
                panic!("these never come to an end: {open:?}");
            }
            let is_suspended = |row: &InstanceRow| row.status == RuntimeStatus::Suspended;
            let some_are = open.iter().any(is_suspended);
            for row in open {
                if is_suspended(&row) {
                    self.control(row.id, Wish::Resume);
                } else if !some_are {
                    self.raise(row.id, name);
                }
            }
            self.run_out();
        }
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

    /// What goes round in circles is not to look like a slow machine.
    fn count(&mut self) {
        self.taken += 1;
        assert!(self.taken < STEPS_MAX, "it never comes to an end");
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
        self.count();
        let until_ms = (self.now_ms + AHEAD_MS).max(self.searched_ms.unwrap_or(0));
        self.deliver(Input::Horizon(until_ms));
        let rows = self.store.due(self.hub, self.searched_ms, until_ms, None, usize::MAX).unwrap();
        self.searched_ms = Some(until_ms);
        match self.store.discard_messages(&self.discarded) {
            Ok(()) => self.discarded.clear(),
            Err(error) => self.poisoned |= matches!(error, StoreError::Poisoned(_)),
        }
        self.steps.extend(rows.into_iter().map(|DueRow { id, .. }| Step::Due(id)));
    }

    fn below(&mut self, bound: u64) -> u64 {
        below(&mut self.random, bound)
    }

    fn chance(&mut self, one_in: u64) -> bool {
        !self.calm && self.below(one_in) == 0
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    fn client_starts(&mut self) {
        let (function, input) = P::draw(&mut self.random);
        // Few IDs, so that starts meet live and ended instances of the same name.
        let id = format!("instance-{}", self.below(12));
        let mut started = self.started(function, &id);
        self.random.fill_bytes(&mut started.generation.0);
        started.input = input;
        started.not_before_ms = self.chance(8).then_some(self.now_ms + 15);
        let replaces = if self.chance(3) { Replaces::Nothing } else { Replaces::Ended };
        if replaces == Replaces::Nothing {
            started.idempotency = Some(Idempotency::of("once".parse().unwrap(), function, &started.input));
        }
        let token = self.token();
        self.starting.insert(token, started.clone());
        let waiter = (self.below(2) == 0).then(|| self.token());
        self.starting_waiters.extend(waiter.map(|waiter| (token, waiter)));
        self.waiting.extend(waiter.map(|waiter| (waiter, started.instance.clone())));
        let runs_at_once = self.below(2) == 0;
        self.deliver(Input::Start(token, Box::new(Start { hub: self.hub, started, waiter, replaces, runs_at_once })));
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
            idempotency: None,
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
        let id = self.somebody();
        let name = P::EVENTS[self.below(P::EVENTS.len() as u64) as usize];
        self.raise(id, name);
    }

    /// What has not ended.
    fn open(&self) -> Vec<InstanceRow> {
        let mut rows = self.store.instances(self.hub, None, usize::MAX).unwrap();
        rows.retain(|row| !row.status.is_ended());
        rows
    }

    /// An instance that clients may know of.
    fn somebody(&mut self) -> InstanceId {
        if P::MEDDLING && self.chance(3) {
            let open = self.open();
            if !open.is_empty() {
                return open[self.below(open.len() as u64) as usize].id.clone();
            }
        }
        format!("instance-{}", self.below(12)).parse().unwrap()
    }

    fn raise(&mut self, id: InstanceId, name: &str) {
        let caller = self.token();
        self.events += 1;
        self.raising.insert(caller, (id.clone(), self.events));
        let payload = Payload::of(&self.events);
        self.deliver(Input::Raise { caller, instance: id, name: name.into(), payload, unread_bytes_max: usize::MAX });
    }

    fn client_terminates(&mut self) {
        let recursive = self.below(2) == 0;
        self.client_controls(Wish::Terminate { recursive });
    }

    fn client_controls(&mut self, wish: Wish) {
        let id = self.somebody();
        self.control(id, wish);
    }

    fn client_rewinds(&mut self) {
        let mut failed = self.store.instances(self.hub, None, usize::MAX).unwrap();
        failed.retain(|row| row.status == RuntimeStatus::Failed && (P::MEDDLING || row.id.as_str().starts_with("instance-")));
        let id = match failed.len() as u64 {
            0 => self.somebody(),
            count => failed[self.below(count) as usize].id.clone(),
        };
        self.rewind(id);
    }

    fn rewind(&mut self, id: InstanceId) {
        self.rewound.insert(id.clone());
        self.control(id, Wish::Rewind);
    }

    fn control(&mut self, id: InstanceId, wish: Wish) {
        let caller = self.token();
        self.controlling.insert(caller, (id.clone(), wish));
        self.deliver(Input::Control { caller, instance: id, wish, reason: Some(caller.to_string()) });
    }

    /// The process dies: what is not in the store is gone, callers included.
    fn restart(&mut self) {
        self.coverage.note("restart");
        self.store = self.store.reopen();
        self.steps.clear();
        self.guests.clear();
        self.dispatched.clear();
        self.poisoned = false;
        self.starting.clear();
        self.starting_waiters.clear();
        self.discarded.clear();
        self.waiting.clear();
        self.raising.clear();
        self.controlling.clear();
        let (first, end) = ExecutionKey::range(self.hub);
        let execution = self.store.last_execution(first, end).unwrap().map_or(first, ExecutionKey::next);
        let (first, end) = MessageKey::range(self.hub, 0);
        let message = self.store.last_message(first, end).unwrap().map_or(first, MessageKey::next);
        self.partition = Partition::new(numbers(execution, message), self.idle_max);
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
                Effect::Commit(commit) => {
                    if let Change::Reopen { .. } = &commit.change {
                        // What is open runs once more.
                        self.dispatched.retain(|(key, _)| *key != commit.execution);
                    }
                    self.steps.push(Step::Commit(commit));
                }
                Effect::PlanRewind(order) => self.steps.push(Step::Plan(order)),
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
                Effect::Discard(key) => self.discarded.push(key),
                Effect::Cancel(..) => self.coverage.note("task cancelled"), // Its result may still come.
                Effect::Evict(key) => {
                    self.guests.remove(&key);
                }
                Effect::Log(..) | Effect::Ended(..) => (),
                Effect::Reply(token, answer) => self.answered(token, answer),
            }
        }
    }

    fn check_dispatch(&mut self, key: ExecutionKey, task: TaskId, action: Action) {
        let durable = self.histories.of(&self.store, key);
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
                Answer::Exists(status) if status.is_ended() => {
                    assert!(started.idempotency.is_some(), "{} was refused for an ended one", started.instance);
                    self.coverage.note("start left an ended instance");
                }
                Answer::Exists(_) => {
                    self.coverage.note("start refused");
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
                answer => panic!("a start was answered with {answer:?}"),
            }
        } else if let Some((id, number)) = self.raising.remove(&token) {
            if matches!(answer, Answer::Recorded) {
                self.coverage.note("event raised");
                // What continues as new has given up the turn that took it, or has it in two executions.
                let histories = self.histories(&id);
                let may_continue =
                    |history: &Vec<Event>| matches!(&history[0], Event::Started(started) if P::may_continue(started));
                if !histories.iter().any(may_continue) {
                    let recorded = histories.iter().flat_map(|history| raised(history)).filter(|recorded| *recorded == number);
                    assert_eq!(recorded.count(), 1, "event {number} of {id} was acknowledged");
                }
                let row = self.store.instance(self.hub, &id).unwrap().unwrap();
                self.acknowledged_events.entry(row.key).or_default().push(number);
            }
        } else if let Some((id, wish)) = self.controlling.remove(&token) {
            if matches!(answer, Answer::Recorded) {
                self.check_control(token, &id, wish);
            }
        } else if let Some(id) = self.waiting.remove(&token)
            && let Answer::Ended(end) = answer
        {
            let row = self.store.instance(self.hub, &id).unwrap().unwrap();
            let last = self.histories.of(&self.store, row.execution).last();
            assert!(
                matches!(last, Some(Event::Ended { end: stored, .. }) if *stored == end),
                "a waiter was told what is not stored"
            );
        }
    }

    /// What somebody wanted of an instance is recorded, once; the end of one that was asked for several times has the first one's reason.
    fn check_control(&mut self, token: Token, id: &InstanceId, wish: Wish) {
        let is_it = |event: &Event| match (wish, event) {
            (Wish::Terminate { .. }, Event::Ended { end: End::Terminated { .. }, .. }) => true,
            (Wish::Suspend, Event::Suspended { reason, .. })
            | (Wish::Resume, Event::Resumed { reason, .. })
            | (Wish::Rewind, Event::Rewound { reason, .. }) => *reason == Some(token.to_string()),
            _ => false,
        };
        self.coverage.note(match wish {
            Wish::Terminate { .. } => "terminated",
            Wish::Suspend => "suspended",
            Wish::Resume => "resumed",
            Wish::Rewind => "rewound",
        });
        let count = self.histories(id).concat().iter().filter(|event| is_it(event)).count();
        let is_right = if let Wish::Terminate { .. } = wish { count >= 1 } else { count == 1 };
        assert!(is_right, "{id} was told {wish:?}, which is recorded {count} times");
    }

    /// The histories of all executions under this ID. An ended one may have been replaced before its end was told.
    fn histories(&mut self, id: &InstanceId) -> Vec<Vec<Event>> {
        let keys = self.histories.keys_of(&self.store, self.hub, id);
        keys.into_iter().map(|key| self.histories.of(&self.store, key).to_vec()).collect()
    }

    fn step(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        self.count();
        let chosen = usize::try_from(self.below(self.steps.len() as u64)).unwrap();
        match self.steps.swap_remove(chosen) {
            Step::Turn(order) => {
                if self.partition.begin_turn(order.execution, order.number) {
                    let result = self.run_turn(&order);
                    self.steps.push(Step::Report(order.execution, order.number, Box::new(result)));
                }
            }
            Step::Report(key, number, result) => self.deliver(Input::TurnDone(key, number, *result)),
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
                self.coverage.note_times("found", u64::from(matches!(found, Ok(Some(_)))));
                self.deliver(Input::Found { instance: id, found, unrecorded });
            }
            Step::Plan(order) => {
                let plan = if self.chance(20) { Err(NoRewind::Unreadable(LoadError::Passing)) } else { self.plan(&order) };
                self.deliver(Input::Planned(order, plan));
            }
            Step::Post => {
                let message = self.post.pop_front().expect("there is a step for each");
                self.carry(message);
            }
            Step::Activity(order) => {
                let times = if self.chance(10) { 2 } else { 1 };
                self.coverage.note_times("answer twice", times - 1);
                for _ in 0..times {
                    let (execution, task) = (order.execution, order.task);
                    let (outcome, ran, lines) = (P::work(&order), Some(order.module), Vec::new());
                    self.deliver(Input::TaskDone { execution, task, outcome, ran, lines });
                }
            }
        }
    }

    /// How the instance can go on, as the shell would find it out.
    fn plan(&mut self, order: &RewindOrder) -> Result<Box<RewindPlan>, NoRewind> {
        let row = self.store.instance(self.hub, &order.instance).unwrap().ok_or(NoRewind::NotFound)?;
        let history = self.histories.of(&self.store, row.execution);
        let Event::Started(started) = &history[0] else { panic!("it begins with its start") };
        if matches!(&order.by, Rewinder::Parent(_, parent) if started.parent.as_ref() != Some(parent)) {
            return Err(NoRewind::NotFound);
        }
        let end = match history.last() {
            Some(Event::Ended { end, .. }) => end,
            last => panic!("{} is to be rewound at {last:?}", row.id),
        };
        if row.status != RuntimeStatus::Failed {
            return Err(NoRewind::Ended(end.clone()));
        }
        let (module, now_ms) = (row.module, self.now_ms);
        let plan = rewind::choose(row, history, &[module], now_ms, order.reason.clone(), |history, _| {
            let mut guest = P::Guest::default();
            let Ok(execution) = replay(history, &mut guest) else { return Ok(false) };
            let again = execution.again.as_ref().expect("it has just been rewound");
            let inputs: Vec<_> = execution.unread.iter().take(again.inputs).cloned().collect();
            let at_ms = again.at_ms.unwrap_or(now_ms.max(execution.latest_ms));
            let played = turn(&mut guest, at_ms, &inputs, again.next_task, Some(&Recorded::beginning(again)));
            Ok(!matches!(played, Err(TurnError::Diverged(_))))
        });
        rewind::with_unstarted(plan?, history, |child, parent| {
            let Some(row) = self.store.instance(self.hub, child).unwrap() else { return Ok(false) };
            let first = self.store.first_event(row.execution).unwrap();
            Ok(matches!(first, Some(Event::Started(started)) if started.parent.as_ref() == Some(parent)))
        })
    }

    fn read(&mut self, id: &InstanceId) -> Option<Box<(InstanceRow, Execution)>> {
        let row = self.store.instance(self.hub, id).unwrap().filter(|row| !row.status.is_ended())?;
        let execution = Execution::fold(self.histories.of(&self.store, row.execution)).unwrap();
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
            let (replaces, runs_at_once) = (Replaces::Ended, self.below(2) == 0);
            let start = Ok(Box::new(Start { hub: self.hub, started, waiter: None, replaces, runs_at_once }));
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
                self.coverage.note("guest rebuilt");
                let history = match &order.started {
                    Some(started) => &[Event::Started(started.clone())][..],
                    None => self.histories.of(&self.store, order.execution),
                };
                let mut guest = P::Guest::default();
                replay(history, &mut guest).map_err(guest_failure)?;
                guest
            }
        };
        if self.chance(25) {
            self.coverage.note("turn exhausted");
            let fault = Fault::Exhausted(Failure::new("LimitExceeded", "no time left"));
            return Err(guest_failure(TurnError::Fault(fault)));
        }
        let recorded = order.again.as_ref().map(Recorded::beginning);
        let played = turn(&mut guest, order.at_ms, &order.inputs, order.next_task, recorded.as_ref());
        let progress = played.map_err(guest_failure)?;
        let next = progress.continuation.as_ref().map(|continuation| {
            self.coverage.note("continued");
            let history = self.histories.of(&self.store, order.execution);
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
                self.coverage.note("commit failed");
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
}

fn guest_failure(error: TurnError) -> TurnFailure {
    TurnFailure::Guest { error, lines: Vec::new() }
}

fn numbers(execution: ExecutionKey, message: MessageKey) -> Numbers {
    Numbers { executions: ExecutionNumbers::from(execution), message, turns: 0 }
}
