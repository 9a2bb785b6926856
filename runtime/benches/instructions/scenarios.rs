//! What is counted? One function for each scenario, which prepares its rounds and runs them on one core, with answers that it checks.

use std::collections::VecDeque;
use std::fs;
use std::future::pending;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::str;
use std::sync::Arc;

use dacapo::api::auth::Access;
use dacapo::api::{self, Api, ApiSettings, Edition};
use dacapo::engine::{EngineSettings, Existing, Stores};
use dacapo::host::{CompiledCode, Compiler, Host, Invocation, Module, OrchestratorGuest, SharedLines, Surroundings};
use dacapo::limits::Limits;
use dacapo::model::{
    Action, ActivityCall, Ask, Digest, End, Event, ExecutionKey, Generation, HubKey, HubName, Input, InstanceKey, Outcome,
    Payload, Progress, RuntimeStatus, Seed, Started, StoreName, Tags, TaskId, Versions, Wake,
};
use dacapo::replay::{self, Fault, Guest};
use dacapo::store::sqlite::SqliteStore;
use dacapo::store::{Change, Commit, CommitOutcome, EncodedEvents, NewInstance, Replaces, Store, Upload};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How many rounds of a scenario are counted. Their mean is what counts: what happens now and then, such as a page that is split, is part of the cost.
pub(crate) const ROUNDS: usize = 7;

/// How many go before them: statements are planned, buffers grow, slots are used for the first time.
pub(crate) const WARM_UP: usize = 2;

/// The functions that are called where a round begins and where it ends.
pub(crate) const BEGINS: &str = "instructions::scenarios::round_begins";
pub(crate) const ENDS: &str = "instructions::scenarios::round_ends";

/// The files in a folder that [`prepare`] has filled.
const MODULE: &str = "module.wasm";
const DATA: &str = "data";

/// `examples/hello-sequence`.
const ORCHESTRATOR: &str = "E1_HelloSequence";
const ACTIVITY: &str = "E1_SayHello";
const CITIES: [&str; 3] = ["Tokyo", "Seattle", "London"];

const NOW_MS: u64 = 1_700_000_000_000;

/// Something whose cost is counted.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What one of the things is that a round does.
    pub(crate) unit: &'static str,
    /// How many of them a round does.
    pub(crate) units: u64,
    /// How far a count may be from its figure: many times what runs of the same program differ by, and no more than what is worth knowing.
    pub(crate) tolerance_percent: f64,
    run: fn(&Folder, u64),
}

/// All of them, from the inside out.
pub(crate) const SCENARIOS: [Scenario; 9] = [
    one("replay", "turn played to a guest that costs nothing", 1_000, replay),
    one("encode", "event printed for the store", 3_000, encode),
    one("history", "event read from the store", 600, history),
    one("commit", "commit of four events, in a batch of 64", 64, commit),
    one("guest", "orchestrator instantiated, with its first turn", 16, guest),
    one("turn", "later turn of an orchestrator", 3 * 16, turn),
    one("activity", "activity instantiated and run", 16, activity),
    many("status", "status request over HTTP", 16, status),
    many("orchestration", "three activities in a row, started and awaited over HTTP", 16, orchestration),
];

/// A scenario on one thread.
const fn one(name: &'static str, unit: &'static str, units: u64, run: fn(&Folder, u64)) -> Scenario {
    Scenario { name, unit, units, tolerance_percent: 3.0, run }
}

/// One that is done by many threads, in an order that chance has a part in.
const fn many(name: &'static str, unit: &'static str, units: u64, run: fn(&Folder, u64)) -> Scenario {
    Scenario { tolerance_percent: 10.0, ..one(name, unit, units, run) }
}

impl Scenario {
    /// Runs its rounds on one core, whatever the machine has: how many threads there are to hand work to follows from that.
    pub(crate) fn run(&self, folder: &Path) {
        let all = sched_getaffinity(None).expect("every thread has cores");
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|&core| all.is_set(core)).expect("at least one"));
        sched_setaffinity(None, &one).expect("it is one of those that it had");
        (self.run)(&Folder(folder), self.units);
    }
}

/// Fills `folder` with what scenarios need: the module's bytes, and a data directory in which it is uploaded and compiled.
pub(crate) fn prepare(folder: &Path, module: &[u8]) {
    fs::write(folder.join(MODULE), module).expect("the folder can be written");
    let stores = Folder(folder).stores();
    let (hub, name) = (HubName::default_hub(), "hello".parse().expect("a name"));
    let engine = stores.engine(&StoreName::default_store()).expect("there is always one");
    let upload = engine.upload(&hub, &name, module.to_vec().into());
    runtime().block_on(upload).expect("the module is fit to run");
    stores.close();
}

/// Calls `work` with what `prepare` gives, once for each round. Only `work` is counted, and not the end of what it returns.
fn rounds<T, R>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(T) -> R) {
    for _ in 0..WARM_UP + ROUNDS {
        let given = black_box(prepare());
        round_begins();
        let made = black_box(work(given));
        round_ends();
        drop(made);
    }
}

/// The two differ, or the compiler would make one of them.
#[inline(never)]
fn round_begins() {
    black_box("begins");
}

#[inline(never)]
fn round_ends() {
    black_box("ends");
}

fn replay(_: &Folder, turns: u64) {
    let history = long_history(turns);
    let script: VecDeque<Progress> = (0..turns).map(|number| progress(number, turns)).collect();
    rounds(
        || Script(script.clone()),
        |mut guest| {
            let execution = replay::replay(&history, &mut guest).expect("it does what the history says");
            assert_eq!((u64::from(execution.turns), execution.end.is_some()), (turns, true));
            (guest, execution)
        },
    );
}

fn encode(_: &Folder, events: u64) {
    let history = long_history(events / 3);
    rounds(|| (), |()| history.chunks(3).map(EncodedEvents::of).collect::<Vec<_>>());
}

fn history(folder: &Folder, events: u64) {
    let (store, hub) = folder.store();
    let history = long_history(events / 3);
    let execution = ExecutionKey::range(hub).0;
    let mut length = 0;
    for events in history.chunks(3) {
        let change = if length == 0 { create(hub, execution) } else { advance(length, RuntimeStatus::Running) };
        let commit = commit_of(execution, EncodedEvents::of(events), change);
        length += commit.events.count;
        assert_eq!(store.commit(&[commit]).expect("it goes through"), [CommitOutcome::Done]);
    }
    rounds(
        || (),
        |()| {
            let read = store.history(execution).expect("the store can be read");
            assert_eq!(read.len(), history.len());
            read
        },
    );
}

/// Each batch has as many commits of each of the eight steps that an instance takes.
fn commit(folder: &Folder, commits: u64) {
    const STEPS: u64 = 8;
    let (store, hub) = folder.store();
    let mut next = ExecutionKey::range(hub).0;
    let mut open: VecDeque<(ExecutionKey, u32)> = VecDeque::new();
    let mut batch = || {
        for _ in 0..commits / STEPS {
            open.push_back((next, 0));
            next = next.next();
        }
        let batch: Vec<_> = open.iter_mut().map(|(execution, steps)| step(hub, *execution, steps, STEPS)).collect();
        while open.front().is_some_and(|(_, steps)| u64::from(*steps) == STEPS) {
            open.pop_front();
        }
        batch
    };
    // Until the first of them end.
    for _ in 1..STEPS {
        store.commit(&batch()).expect("it goes through");
    }
    rounds(&mut batch, |batch| {
        assert_eq!(batch.len() as u64, commits);
        let outcomes = store.commit(&batch).expect("it goes through");
        assert!(outcomes.iter().all(|outcome| *outcome == CommitOutcome::Done));
        batch
    });
}

fn guest(folder: &Folder, guests: u64) {
    let (_host, module, limits) = folder.host();
    let started = started(module.as_ref(), &limits);
    rounds(|| (), |()| (0..guests).for_each(|_| drop(first_turn(&module, &started, &limits))));
}

fn turn(folder: &Folder, turns: u64) {
    let (_host, module, limits) = folder.host();
    let started = started(module.as_ref(), &limits);
    let answers: Vec<_> =
        (0_u32..).zip(CITIES).map(|(task, city)| [Input::Resolved { task: TaskId(task), outcome: greeting(city) }]).collect();
    rounds(
        || (0..turns / 3).map(|_| first_turn(&module, &started, &limits)).collect::<Vec<_>>(),
        |mut guests| {
            for guest in &mut guests {
                let mut end = None;
                for (at_ms, answer) in (NOW_MS..).zip(&answers) {
                    end = guest.advance(at_ms, answer).expect("it is not at fault").end;
                }
                assert!(matches!(end, Some(End::Completed(_))), "{end:?}");
            }
            guests
        },
    );
}

fn activity(folder: &Folder, calls: u64) {
    let (_host, module, limits) = folder.host();
    let (runtime, surroundings) = (runtime(), Arc::<Surroundings>::default());
    let invocation = Invocation {
        function: ACTIVITY.into(),
        input: Payload::of(CITIES[0]),
        instance: "order-1".parse().expect("an ID"),
        generation: Generation([1; 16]),
        task: TaskId(0),
        attempt: 1,
        first_attempt: None,
        progress: None,
        heartbeat: dacapo::host::Heartbeat::default(),
        lines: SharedLines::default(),
    };
    rounds(
        || (),
        |()| {
            for _ in 0..calls {
                let outcome = runtime.block_on(module.invoke(&invocation, &limits, &surroundings)).expect("it has run");
                assert_eq!(outcome, greeting(CITIES[0]));
            }
        },
    );
}

fn status(folder: &Folder, requests: u64) {
    let mut server = Server::start(folder);
    let body = server.ask(&format!("POST /api/orchestrators/{ORCHESTRATOR}/order-1?timeout=60"));
    assert_greeted(&body);
    rounds(
        || (),
        |()| {
            for _ in 0..requests {
                assert!(server.ask("GET /runtime/webhooks/durabletask/instances/order-1").contains(r#""Completed""#));
            }
        },
    );
}

fn orchestration(folder: &Folder, orchestrations: u64) {
    let mut server = Server::start(folder);
    let request = format!("POST /api/orchestrators/{ORCHESTRATOR}?timeout=60");
    rounds(|| (), |()| (0..orchestrations).for_each(|_| assert_greeted(&server.ask(&request))));
}

#[track_caller]
fn assert_greeted(body: &str) {
    assert_eq!(body, r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#);
}

/// A folder that [`prepare`] has filled.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    /// A new store with a hub that has a module.
    fn store(&self) -> (SqliteStore, HubKey) {
        let data = tempfile::tempdir_in(self.0).expect("the folder can be written").keep();
        let store = SqliteStore::open(&data).expect("a new store opens");
        let (hub, name) = (HubName::default_hub(), "hello".parse().expect("a name"));
        let upload = Upload { hub: &hub, name: &name, digest: NO_CODE, bytes: b"wasm", catalog: "{}", at_ms: 0 };
        store.upload(&upload).expect("an upload goes through");
        let hub = store.hubs().expect("hubs are read")[0].key;
        (store, hub)
    }

    /// Where guests run, and one that is compiled already.
    fn host(&self) -> (Host, Arc<Module>, Limits) {
        let (limits, compiled) = (limits(), self.0.join(DATA).join("compiled"));
        let code = CompiledCode::Borrowed(&compiled);
        let host = Host::new(code, &limits, 16, 1, Compiler::InProcess, Arc::default()).expect("there is room for a few guests");
        let digest = Digest::of(&fs::read(self.0.join(MODULE)).expect("the module is there"));
        let module = host.module(digest, || panic!("it is compiled already")).expect("the compiled code is there");
        (host, module, limits)
    }

    /// An engine on the data directory.
    fn stores(&self) -> Stores {
        let (data, limits, compiler) = (self.0.join(DATA), limits(), Compiler::InProcess);
        let settings =
            EngineSettings { data, limits, compiler, surroundings: Default::default(), metrics: Arc::default(), share: 1 };
        Stores::open(settings, &[]).expect("the data directory can be opened")
    }
}

/// A server in this process, and a client with one connection that is kept alive.
struct Server {
    stream: TcpStream,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
    /// Behind the runtime: the last who has it waits for the engine's threads, which no task may.
    _stores: Arc<Stores>,
}

impl Server {
    fn start(folder: &Folder) -> Self {
        let stores = Arc::new(folder.stores());
        let settings = ApiSettings {
            access: Access::Open { hosts: Vec::new() },
            edition: Edition::default(),
            default_hub: HubName::default_hub(),
            existing: Existing::default(),
            workers: None,
            use_forwarded_host: false,
            connections_max: 8,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads start");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it has one");
        listener.set_nonblocking(true).expect("sockets can be told");
        let api = Arc::new(Api::new(stores.clone(), settings));
        runtime.spawn(async { api::serve(tokio::net::TcpListener::from_std(listener)?, api, pending()).await });
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("sockets can be told");
        Self { stream, address, _runtime: runtime, _stores: stores }
    }

    /// Sends a request without a body, and returns the body of its answer, which has to be a 200.
    fn ask(&mut self, request: &str) -> String {
        let request = format!("{request} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", self.address);
        self.stream.write_all(request.as_bytes()).expect("the server is there");
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let count = self.stream.read(&mut chunk).expect("the server is there");
            assert!(count > 0, "the server has hung up");
            bytes.extend_from_slice(&chunk[..count]);
            let answer = str::from_utf8(&bytes).expect("all of it is ASCII");
            if let Some((head, body)) = answer.split_once("\r\n\r\n") {
                assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("it says its length");
                if body.len() == length.parse::<usize>().expect("a number") {
                    return body.to_owned();
                }
            }
        }
    }
}

/// A guest that was told what to do.
struct Script(VecDeque<Progress>);

impl Guest for Script {
    fn begin(&mut self, _: &Started) -> Result<(), Fault> {
        Ok(())
    }

    fn advance(&mut self, _: u64, _: &[Input]) -> Result<Progress, Fault> {
        Ok(self.0.pop_front().expect("no more turns than it was told of"))
    }
}

/// What the turn with this `number` of so many brings about: another call, or the end.
fn progress(number: u64, turns: u64) -> Progress {
    if number + 1 < turns {
        Progress { asks: vec![Ask::Schedule(call(number))], ..Progress::default() }
    } else {
        Progress { end: Some(End::Completed(Payload::null())), ..Progress::default() }
    }
}

/// So many turns, each of which takes the answer to what the one before has asked for: three events each.
fn long_history(turns: u64) -> Vec<Event> {
    let mut history = vec![Event::Started(started_on(NO_CODE, &limits()))];
    for number in 0..turns {
        let task = |number| TaskId(u32::try_from(number).expect("a small number"));
        let at_ms = NOW_MS + number;
        if number > 0 {
            let outcome = Outcome::Completed(Payload::of(&format!("charged card {number}, receipt {}", number * 7_919)));
            history.push(Event::Resolved { task: task(number - 1), at_ms, outcome, ran: None });
        }
        history.push(Event::TurnStarted { at_ms, consumes: u32::from(number > 0) });
        let Progress { asks, end, .. } = progress(number, turns);
        history.extend(asks.into_iter().map(|ask| match ask {
            Ask::Schedule(action) => Event::Scheduled { task: task(number), action },
            Ask::Cancel(task) => Event::Cancelled { task },
        }));
        history.extend(end.map(|end| Event::Ended { at_ms, end }));
    }
    history
}

fn call(number: u64) -> Action {
    let input = Payload::of(&format!("card {number}"));
    Action::Activity(ActivityCall { name: "ChargeCard".into(), input, attempt: 1, first_attempt: None, timeout_ms: None })
}

/// The next commit of an instance that has made so many `steps` of `last`.
fn step(hub: HubKey, execution: ExecutionKey, steps: &mut u32, last: u64) -> Commit {
    let number = u64::from(*steps);
    let receipt = Payload::of(&"receipt ".repeat(75));
    let events = EncodedEvents::of(&[
        Event::Resolved { task: TaskId(*steps), at_ms: NOW_MS, outcome: Outcome::Completed(receipt), ran: None },
        Event::TurnStarted { at_ms: NOW_MS, consumes: 1 },
        Event::Scheduled { task: TaskId(*steps), action: call(number) },
        Event::Scheduled { task: TaskId(*steps + 1), action: call(number) },
    ]);
    let change = match *steps {
        0 => create(hub, execution),
        step => advance(4 * step, if number + 1 == last { RuntimeStatus::Completed } else { RuntimeStatus::Running }),
    };
    *steps += 1;
    commit_of(execution, events, change)
}

fn commit_of(execution: ExecutionKey, events: EncodedEvents, change: Change) -> Commit {
    Commit { instance: InstanceKey(execution.0), execution, events, lines: None, change, sends: Vec::new(), takes: Vec::new() }
}

fn create(hub: HubKey, execution: ExecutionKey) -> Change {
    Change::Create(NewInstance {
        hub,
        id: format!("order-{:016x}", execution.0).parse().expect("an ID"),
        function: "TakeOrder".into(),
        module: NO_CODE,
        created_ms: NOW_MS,
        status: RuntimeStatus::Pending,
        updated_ms: NOW_MS,
        custom_status: None,
        tags: Tags::default(),
        wake: Wake::AT_ONCE,
        replaces: Replaces::Ended,
    })
}

fn advance(expected_length: u32, status: RuntimeStatus) -> Change {
    Change::Advance { expected_length, status, updated_ms: NOW_MS, custom_status: None, wake: None, reason: None }
}

/// A new guest of the real module, behind its first turn.
fn first_turn(module: &Module, started: &Started, limits: &Limits) -> OrchestratorGuest {
    let mut guest = module.orchestrator(limits).unwrap_or_else(|_| panic!("there is a free slot"));
    guest.begin(started).expect("it is not at fault");
    let progress = guest.advance(NOW_MS, &[]).expect("it is not at fault");
    assert_eq!(progress.asks.len(), 1);
    guest
}

fn greeting(city: &str) -> Outcome {
    Outcome::Completed(Payload::of(&format!("Hello {city}!")))
}

/// What stands for code where none runs.
const NO_CODE: Digest = Digest([7; 32]);

fn started(module: &Module, limits: &Limits) -> Started {
    assert_eq!(module.catalog().orchestrator(ORCHESTRATOR), Some(ORCHESTRATOR));
    started_on(NO_CODE, limits)
}

fn started_on(module: Digest, limits: &Limits) -> Started {
    Started {
        at_ms: NOW_MS,
        instance: "order-1".parse().expect("an ID"),
        module,
        function: ORCHESTRATOR.into(),
        input: Payload::null(),
        generation: Generation([1; 16]),
        seed: Seed([2; 16]),
        limits: limits.in_force(),
        made_by: Versions { contract: "0.1".into(), host: "dacapo".into(), generator: "dacapo-guest".into() },
        parent: None,
        tags: Tags::default(),
        not_before_ms: None,
        idempotency: None,
        continued: 0,
    }
}

/// Room for a few guests: valgrind has less address space to give than the kernel. And no bound on CPU, which is slow here.
fn limits() -> Limits {
    Limits { residents_max: 32, activities_running_max: 4, turn_cpu_ms_max: 600_000, ..Limits::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime on this thread needs nothing")
}
