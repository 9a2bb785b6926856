//! What can an operator measure? Counters and gauges of a server, in the text format that Prometheus reads.
//!
//! Whoever does something counts it here; nobody decides by what is counted. No label holds what comes from outside (no instance,
//! function or module), so that the number of series is bounded. Held by the engine, and given to those below it; calls nothing.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Up to which durations are counted apart, in seconds: from a turn of a resident guest to a request that waits for an end.
const SECONDS: [f64; 13] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0];

/// Up to which sizes of a batch are counted apart.
const COMMITS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// What is counted. Raising a counter is an atomic addition or a short lock.
pub struct Metrics {
    /// Under a lock, so that one reader at a time brings the gauges up to date.
    registry: Mutex<Registry>,
    requests: Counters<2>,
    request_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    requests_waiting: Gauge,
    streams_open: Gauge,
    started: Counter,
    ended: Counters<1>,
    purged_by_age: Counters<1>,
    turn_seconds: Histogram,
    replays: Counter,
    guest_faults: Counters<1>,
    activities: Counters<1>,
    activities_running: Gauge,
    activities_waiting: Gauge,
    commits: Counter,
    batch_commits: Histogram,
    batch_seconds: Histogram,
    compile_seconds: Histogram,
    sampled: Sampled,
}

/// What is asked for only when somebody reads.
#[derive(Default)]
struct Sampled {
    commits_queued: Gauge,
    turns_queued: Gauge,
    residents: Gauge,
    resident_bytes: Gauge,
    open_instances: Gauge,
    wal_bytes: Gauge,
    process_bytes: Gauge,
    cpu_seconds: Counter<f64, AtomicU64>,
}

/// How a server stands at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Commits that have not been answered.
    pub commits_queued: usize,
    /// Jobs that wait for a turn thread.
    pub turns_queued: usize,
    /// Guests that are alive between turns.
    pub residents: usize,
    /// The memory that counts against their bound, in bytes.
    pub resident_bytes: usize,
    /// Instances that have not ended, as far as they are loaded.
    pub open_instances: usize,
    /// The store's write-ahead log, in bytes.
    pub wal_bytes: u64,
}

/// Why a guest's turn came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFault {
    /// It asked for something else than its history says.
    Diverged,
    /// It panicked, trapped, or answered what makes no sense.
    Certain,
    /// It used up its time, its memory or its stack.
    Exhausted,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            requests_waiting: Gauge::default(),
            streams_open: Gauge::default(),
            started: Counter::default(),
            ended: Family::default(),
            purged_by_age: Family::default(),
            turn_seconds: histogram(),
            replays: Counter::default(),
            guest_faults: Family::default(),
            activities: Family::default(),
            activities_running: Gauge::default(),
            activities_waiting: Gauge::default(),
            commits: Counter::default(),
            batch_commits: Histogram::new(COMMITS),
            batch_seconds: histogram(),
            compile_seconds: histogram(),
            sampled: Sampled::default(),
        };
        *metrics.registry.lock().unwrap_or_else(PoisonError::into_inner) = metrics.registry();
        metrics
    }
}

impl Metrics {
    /// A request to `endpoint` was answered with this status.
    pub fn request(&self, endpoint: &'static str, status: u16, took: Duration) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let class = CLASSES[usize::from(status / 100).clamp(1, 5) - 1];
        self.requests.get_or_create(&[("endpoint", endpoint), ("status", class)]).inc();
        self.request_seconds.get_or_create(&[("endpoint", endpoint)]).observe(took.as_secs_f64());
    }

    /// A request waits for an instance until the result is dropped.
    pub fn request_waits(&self) -> Held {
        Held::of(&self.requests_waiting)
    }

    /// A client follows an instance until the result is dropped.
    pub fn stream_is_open(&self) -> Held {
        Held::of(&self.streams_open)
    }

    /// It is durable that an instance has started.
    pub fn instance_started(&self) {
        self.started.inc();
    }

    /// It is durable that an instance has ended in this status.
    pub fn instance_ended(&self, status: &'static str) {
        self.ended.get_or_create(&[("status", status)]).inc();
    }

    /// So many instances have gone that had ended in this status, since they were older than they are kept.
    pub fn purged_by_age(&self, status: &'static str, count: usize) {
        self.purged_by_age.get_or_create(&[("status", status)]).inc_by(count as u64);
    }

    /// A turn was run, or tried, in this time.
    pub fn turn(&self, took: Duration, fault: Option<GuestFault>) {
        self.turn_seconds.observe(took.as_secs_f64());
        if let Some(fault) = fault {
            let kind = match fault {
                GuestFault::Diverged => "diverged",
                GuestFault::Certain => "certain",
                GuestFault::Exhausted => "exhausted",
            };
            self.guest_faults.get_or_create(&[("kind", kind)]).inc();
        }
    }

    /// A guest was rebuilt from a history that has turns.
    pub fn replay(&self) {
        self.replays.inc();
    }

    /// An activity is in hand from now on.
    pub fn activity(self: &Arc<Self>) -> ActivityInHand {
        ActivityInHand { metrics: self.clone(), outcome: "cancelled" }
    }

    /// An activity waits in line until the result is dropped.
    pub fn activity_waits(&self) -> Held {
        Held::of(&self.activities_waiting)
    }

    /// An activity runs until the result is dropped.
    pub fn activity_runs(&self) -> Held {
        Held::of(&self.activities_running)
    }

    /// So many commits have become durable at once.
    pub fn batch_committed(&self, commits: usize, took: Duration) {
        self.commits.inc_by(commits as u64);
        self.batch_commits.observe(commits as f64);
        self.batch_seconds.observe(took.as_secs_f64());
    }

    /// A module was compiled, or its compiling failed.
    pub fn compiled(&self, took: Duration) {
        self.compile_seconds.observe(took.as_secs_f64());
    }

    /// All of it as text of the type [`CONTENT_TYPE`]. Asks the system for memory and CPU time of this process.
    pub fn text(&self, sample: &Sample) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let Sampled { cpu_seconds, process_bytes, .. } = &self.sampled;
        let Sample { commits_queued, turns_queued, residents, resident_bytes, open_instances, wal_bytes } = *sample;
        for (gauge, value) in [
            (&self.sampled.commits_queued, commits_queued as u64),
            (&self.sampled.turns_queued, turns_queued as u64),
            (&self.sampled.residents, residents as u64),
            (&self.sampled.resident_bytes, resident_bytes as u64),
            (&self.sampled.open_instances, open_instances as u64),
            (&self.sampled.wal_bytes, wal_bytes),
            (process_bytes, process_memory_bytes().unwrap_or(0)),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        cpu_seconds.inc_by((process_cpu_seconds() - cpu_seconds.get()).max(0.0));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a text takes everything");
        text
    }

    fn registry(&self) -> Registry {
        let mut root = Registry::default();
        let s = &self.sampled;
        root.register_with_unit(
            "process_resident_memory",
            "Memory of this process that is in RAM",
            Unit::Bytes,
            s.process_bytes.clone(),
        );
        root.register_with_unit(
            "process_cpu",
            "CPU time of this process, without the compilers",
            Unit::Seconds,
            s.cpu_seconds.clone(),
        );

        let ours = root.sub_registry_with_prefix("dacapo");
        ours.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        ours.register("http_requests", "Requests that were answered", self.requests.clone());
        ours.register_with_unit(
            "http_request",
            "Time from the head of a request to its answer",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        ours.register("http_requests_waiting", "Requests that wait for an instance to change", self.requests_waiting.clone());
        ours.register("http_streams_open", "Event streams that follow an instance", self.streams_open.clone());
        ours.register("instances_started", "Starts that are durable", self.started.clone());
        ours.register("instances_ended", "Ends that are durable", self.ended.clone());
        ours.register(
            "instances_purged_by_age",
            "Ended instances that were older than they are kept",
            self.purged_by_age.clone(),
        );
        ours.register("instances_open", "Instances that have not ended, as far as they are loaded", s.open_instances.clone());
        ours.register_with_unit("turn", "Time of a turn, its replay included", Unit::Seconds, self.turn_seconds.clone());
        ours.register("turns_replayed", "Turns whose guest had to be rebuilt by replay", self.replays.clone());
        ours.register("turns_queued", "Turns and other jobs that wait for a thread", s.turns_queued.clone());
        ours.register(
            "guest_faults",
            "Turns that came to nothing through the orchestrator's own doing",
            self.guest_faults.clone(),
        );
        ours.register("residents", "Guests that are alive between turns", s.residents.clone());
        ours.register_with_unit("resident", "Memory that living guests have grown by", Unit::Bytes, s.resident_bytes.clone());
        ours.register("activities_finished", "Activities by how they came out", self.activities.clone());
        ours.register("activities_running", "Activities that run", self.activities_running.clone());
        ours.register("activities_waiting", "Activities that wait for a place", self.activities_waiting.clone());
        ours.register("commits", "Commits that are durable", self.commits.clone());
        ours.register("commits_queued", "Commits that have not been answered", s.commits_queued.clone());
        ours.register("commit_batch_size", "Commits that share one sync", self.batch_commits.clone());
        ours.register_with_unit("commit_batch", "Time to make a batch durable", Unit::Seconds, self.batch_seconds.clone());
        ours.register_with_unit("store_wal", "The store's write-ahead log", Unit::Bytes, s.wal_bytes.clone());
        ours.register_with_unit("compile", "Time to compile a module", Unit::Seconds, self.compile_seconds.clone());
        root
    }
}

/// Counts how an activity comes out; as cancelled, if it is dropped before that is known.
pub struct ActivityInHand {
    metrics: Arc<Metrics>,
    outcome: &'static str,
}

impl ActivityInHand {
    /// It has completed.
    pub fn completed(mut self) {
        self.outcome = "completed";
    }

    /// It has failed.
    pub fn failed(mut self) {
        self.outcome = "failed";
    }
}

impl Drop for ActivityInHand {
    fn drop(&mut self) {
        self.metrics.activities.get_or_create(&[("outcome", self.outcome)]).inc();
    }
}

/// One more on a gauge, for as long as this lives.
pub struct Held(Gauge);

impl Held {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `None` where the system does not say it as Linux does.
fn process_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn process_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Arc::new(Metrics::default());
        metrics.request("status", 202, Duration::from_millis(2));
        metrics.request("status", 999, Duration::from_millis(2));
        metrics.instance_started();
        metrics.instance_ended("Completed");
        metrics.purged_by_age("Completed", 200);
        metrics.turn(Duration::from_micros(50), Some(GuestFault::Exhausted));
        metrics.replay();
        metrics.activity().completed();
        metrics.activity().failed();
        drop(metrics.activity());
        let _runs = metrics.activity_runs();
        drop(metrics.activity_waits());
        metrics.batch_committed(7, Duration::from_millis(1));
        metrics.compiled(Duration::from_secs(2));
        let text = metrics.text(&Sample { residents: 3, wal_bytes: 4096, ..Sample::default() });
        for line in [
            concat!("dacapo_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "dacapo_http_requests_total{endpoint=\"status\",status=\"2xx\"} 1",
            "dacapo_http_requests_total{endpoint=\"status\",status=\"5xx\"} 1",
            "dacapo_http_request_seconds_bucket{le=\"0.003\",endpoint=\"status\"} 2",
            "dacapo_instances_started_total 1",
            "dacapo_instances_ended_total{status=\"Completed\"} 1",
            "dacapo_instances_purged_by_age_total{status=\"Completed\"} 200",
            "dacapo_turn_seconds_count 1",
            "dacapo_turn_seconds_bucket{le=\"0.0001\"} 1",
            "dacapo_turns_replayed_total 1",
            "dacapo_guest_faults_total{kind=\"exhausted\"} 1",
            "dacapo_activities_finished_total{outcome=\"completed\"} 1",
            "dacapo_activities_finished_total{outcome=\"failed\"} 1",
            "dacapo_activities_finished_total{outcome=\"cancelled\"} 1",
            "dacapo_activities_running 1",
            "dacapo_activities_waiting 0",
            "dacapo_commits_total 7",
            "dacapo_commit_batch_size_sum 7.0",
            "dacapo_residents 3",
            "dacapo_store_wal_bytes 4096",
            "dacapo_compile_seconds_sum 2.0",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn memory_and_cpu_time_of_the_process_are_those_of_now() {
        let metrics = Metrics::default();
        let cpu = || {
            metrics.text(&Sample::default());
            metrics.sampled.cpu_seconds.get()
        };
        let first = cpu();
        assert!(first > 0.0 && metrics.sampled.process_bytes.get() > 1 << 20);
        while cpu() <= first {}
    }
}
