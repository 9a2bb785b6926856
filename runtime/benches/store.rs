//! How many commits a second does the embedded store make durable, and what does one cost?
//!
//! `cargo bench --bench store [-- <directory> <seconds>]`: a closed loop of 1, 16 and 256 committers, each with one commit of four
//! events (about 1.1 KB) in flight, on a random one of 195 instances that it has open; an instance ends after eight
//! commits and another takes its place. CPU is that of the whole process, the load generator included: it is the figure to
//! compare, since others on the machine disturb it least.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use dacapo::model::{
    Action, ActivityCall, Digest, Event, ExecutionKey, HubName, InstanceKey, Outcome, Payload, RuntimeStatus, Tags, TaskId, Wake,
};
use dacapo::store::group::Committer;
use dacapo::store::sqlite::SqliteStore;
use dacapo::store::{Change, Commit, EncodedEvents, NewInstance, Replaces, Store, Upload};
use rustix::time::{ClockId, clock_gettime};

const INSTANCES_EACH: usize = 195;
const STEPS: u32 = 8;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let parent = args.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let seconds = args.next().map_or(5, |text| text.parse().expect("seconds are a number"));
    println!("committers  commits/s  CPU us/commit  p50 ms  p99 ms  log MB  file B/commit");
    for committers in [1, 16, 256] {
        let dir = tempfile::tempdir_in(&parent).expect("the directory can be written");
        measure(dir.path(), committers, Duration::from_secs(seconds));
    }
}

fn measure(dir: &std::path::Path, committers: usize, time: Duration) {
    let store = Arc::new(SqliteStore::open(dir).expect("a new store opens"));
    let hub: HubName = HubName::default_hub();
    let name = "bench".parse().expect("a name");
    let module = Digest([7; 32]);
    store
        .upload(&Upload { hub: &hub, name: &name, digest: module, bytes: b"wasm", catalog: "{}", at_ms: 0 })
        .expect("an upload goes through");
    let hub = store.hubs().expect("hubs are read")[0].key;
    let committer = Committer::new(Arc::clone(&store) as Arc<dyn Store>);

    let (answer, answers) = mpsc::channel();
    let mut load = Load::new(hub, module, committers);
    let submit = |load: &mut Load, number: usize| {
        let (answer, started) = (answer.clone(), Instant::now());
        committer.submit(load.next_commit(number), move |result| {
            result.expect("every commit goes through");
            answer.send((number, started.elapsed())).expect("the loop below listens until all have answered");
        });
    };
    let (cpu, start) = (cpu_time(), Instant::now());
    (0..committers).for_each(|number| submit(&mut load, number));
    let (mut times, mut log_bytes) = (Vec::new(), 0);
    loop {
        let (number, took) = answers.recv().expect("all committers go on");
        times.push(took);
        if times.len() % 4_096 == 0 {
            log_bytes = log_bytes.max(store.wal_bytes());
        }
        if start.elapsed() > time {
            break;
        }
        submit(&mut load, number);
    }
    let (cpu, elapsed) = (cpu_time() - cpu, start.elapsed());
    for _ in 1..committers {
        answers.recv().expect("all committers answer");
    }
    drop(committer);
    drop(store);

    let commits = times.len();
    times.sort();
    let quantile = |q: usize| times[commits * q / 100].as_secs_f64() * 1e3;
    let file = std::fs::metadata(dir.join("dacapo.db")).expect("the file is there").len();
    println!(
        "{committers:10} {:10.0} {:14.1} {:7.2} {:7.2} {:7} {:14}",
        commits as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / commits as f64,
        quantile(50),
        quantile(99),
        log_bytes >> 20,
        file / commits as u64,
    );
}

/// Which commit comes next for whom.
struct Load {
    hub: dacapo::model::HubKey,
    module: Digest,
    /// Number and steps so far of every instance, those of one committer side by side.
    instances: Vec<(ExecutionKey, u32)>,
    next: ExecutionKey,
    random: u64,
    text: String,
}

impl Load {
    fn new(hub: dacapo::model::HubKey, module: Digest, committers: usize) -> Self {
        let mut next = ExecutionKey::range(hub).0;
        let instances = (0..committers * INSTANCES_EACH).map(|_| (take(&mut next), 0)).collect();
        Self { hub, module, instances, next, random: 1, text: "x".repeat(1_000) }
    }

    fn next_commit(&mut self, committer: usize) -> Commit {
        let at = committer * INSTANCES_EACH + self.random(INSTANCES_EACH);
        let (execution, steps) = self.instances[at];
        let length = 400 + self.random(400);
        let text = Payload::of(&self.text[..length]);
        let events = EncodedEvents::of(&[
            Event::TurnStarted { at_ms: 1_700_000_000_000, consumes: 1 },
            Event::Scheduled { task: TaskId(steps), action: charge(Payload::of(&self.text[..150])) },
            Event::Scheduled { task: TaskId(steps + 1), action: charge(Payload::null()) },
            Event::Resolved { task: TaskId(steps), at_ms: 1_700_000_000_001, outcome: Outcome::Completed(text), ran: None },
        ]);
        let change = if steps == 0 {
            let id = format!("order-{:016x}", execution.0).parse().expect("an ID");
            let function = "TakeOrder".to_owned();
            Change::Create(NewInstance {
                hub: self.hub,
                id,
                function,
                module: self.module,
                created_ms: 1_700_000_000_000,
                status: RuntimeStatus::Pending,
                updated_ms: 1_700_000_000_000,
                custom_status: None,
                tags: Tags::default(),
                wake: Wake::AT_ONCE,
                replaces: Replaces::Ended,
            })
        } else {
            let status = if steps + 1 == STEPS { RuntimeStatus::Completed } else { RuntimeStatus::Running };
            let (expected_length, updated_ms) = (4 * steps, 1_700_000_000_002);
            Change::Advance { expected_length, status, updated_ms, custom_status: None, wake: None, reason: None }
        };
        self.instances[at].1 += 1;
        if self.instances[at].1 == STEPS {
            self.instances[at] = (take(&mut self.next), 0);
        }
        Commit {
            instance: InstanceKey(execution.0),
            execution,
            events,
            lines: None,
            change,
            sends: Vec::new(),
            takes: Vec::new(),
        }
    }

    /// Below `bound`: xorshift, the same in every run.
    fn random(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) as usize % bound
    }
}

fn take(next: &mut ExecutionKey) -> ExecutionKey {
    let taken = *next;
    *next = taken.next();
    taken
}

fn charge(input: Payload) -> Action {
    let name = "ChargeCard".into();
    Action::Activity(ActivityCall { name, input, attempt: 1, first_attempt: None, timeout_ms: None })
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("CPU time goes up from 0");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("less than a second"))
}
