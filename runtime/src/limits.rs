//! Every bound of the server: unit, default, reason. Three of the defaults are lower where there is little memory. The fields of [`Limits`] can be set in the configuration under `[limits]`; the
//! constants behind it cannot, since they decide what a replay does, or fit what wasmtime does.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::memory;
use crate::model::LimitsInForce;

/// What a lean guest that stays alive takes in memory, in bytes: 54 to 62 KB measured (`dacapo-trial memory`).
const RESIDENT_BYTES: u64 = 64 << 10;

/// The bounds in force. What reaches one of them fails with a message that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "Limits::of_this_machine", deny_unknown_fields)]
pub struct Limits {
    /// The largest module that can be uploaded, in bytes. A Rust guest has some 100 KB, one with an embedded interpreter 20 MB.
    pub module_bytes_max: usize,
    /// How many functions one module may have. An upload compares all names, and every call finds its function among them; a
    /// module written by people has a few dozen.
    pub functions_max: u32,
    /// How long compiling a module may take, in seconds of CPU. A Python interpreter takes 8.
    pub compile_cpu_s_max: u64,
    /// The most memory that the compiler may map, in bytes.
    pub compile_memory_bytes_max: u64,
    /// The largest single JSON value, in bytes: a request body, an input, a result.
    pub payload_bytes_max: usize,
    /// The most memory that one guest may have, in bytes. It decides how wide a fan-out can be: 10,000 results of 2 KB need
    /// more than 16 MiB. Part of what an execution does, so each keeps the value that it started with, up to this one.
    pub guest_memory_bytes_max: u64,
    /// How long a guest may compute within one turn, in milliseconds of CPU. Far above any honest turn.
    pub turn_cpu_ms_max: u64,
    /// How many tasks one execution may ask for. The figure of Durable Functions.
    pub tasks_max: u32,
    /// How many events one history may have. A turn of one activity has three.
    pub history_events_max: u32,
    /// How much may be raised to an instance that none of its code has taken, in bytes, since it is suspended or has not begun; each event counts
    /// with its name, its value and 256 bytes. More is refused with 503. All of it is in memory while the instance is.
    pub unread_event_bytes_max: usize,
    /// How much of what an execution and its activities say is kept, in bytes; the oldest lines go first.
    pub log_bytes_max: usize,
    /// The largest report that an activity may make of its progress, in bytes. Each is kept in memory until it is saved, and copied.
    pub heartbeat_bytes_max: usize,
    /// How long an activity or an HTTP request of an orchestration may take, in milliseconds, if its call does not say.
    pub activity_ms_default: u64,
    /// How long it may take at most, in milliseconds, whatever its call says. It holds a slot of guest memory all the while.
    pub activity_ms_max: u64,
    /// How many activities and HTTP requests of orchestrations run at once; the others wait, and hubs, functions and instances
    /// take turns. Each activity that runs holds a slot of guest memory.
    pub activities_running_max: u32,
    /// How many guests stay alive in memory between their turns, in all stores. Each takes four to six memory mappings, of which Linux
    /// allows a process 65,530 by default; the server lowers the bound to what `vm.max_map_count` allows. By default less where there is less than
    /// 4 GiB of memory.
    pub residents_max: u32,
    /// How much memory the guests that stay alive may have, in bytes, all together. The first 2 MiB of each do not count: of what
    /// a lean guest comes with it touches a few pages. By default less where there is less than 8 GiB of memory, as is `backlog_bytes_max`.
    pub residents_bytes_max: u64,
    /// How many instances that only wait (for a time, an event or a child) are kept in memory for each task hub; the others are read again
    /// when something happens to them. It is divided among the 64 partitions of a hub and rounded up, so that any number from 1 to 64 is
    /// one for each, and an uneven spread keeps fewer.
    pub idle_instances_max: usize,
    /// How many event streams of instances are open at once, over all hubs; more are refused with 503. Each holds up to a page of events, some
    /// 100 KB, while its client is slow.
    pub event_streams_max: u32,
    /// How many requests wait at once for an instance to end or to change, over all hubs; further ones are answered at once with how it stands.
    /// Each holds a connection and some 100 KB.
    pub requests_waiting_max: u32,
    /// How long a status request may wait for a change, in seconds; one that asks for more gets this much. Longer than what lies between
    /// client and server lets a connection be silent, as a rule.
    pub status_wait_s_max: u64,
    /// How many commits, turns or messages between instances may wait before new starts and events are refused with 503. A machine that does
    /// two thousand in a second is through with them in five.
    pub work_queued_max: usize,
    /// How many instances of one module in a hub may wait for their first turn before further starts of it from outside are refused with 503.
    /// What has begun and other modules go past them, so that a machine that does a few hundred in a second, each with a hundred activities, is
    /// through with them in ten seconds.
    pub starts_queued_max: usize,
    /// How much may wait in memory before new starts are refused with 503, in bytes, about: instances that have something to do, their activities
    /// in line and their commits. That is four executions that ask for as many activities as they may. From then on no new instance begins,
    /// and from twice as much no turn is run, until activities and commits are done.
    pub backlog_bytes_max: usize,
    /// How many clients are connected at once. Each connection takes some 10 KB. Beyond that, the one whose client has kept the server waiting
    /// for longest is closed to make room, be it idle or slow; if none does, new ones wait. The server lowers the bound to what its bound on
    /// file descriptors (`ulimit -n`) allows.
    pub connections_max: usize,
    /// How long activities may go on once the server is asked to stop, in milliseconds; then they are stopped and run again at the next start.
    /// With what else there is to do it has to fit into the 30 seconds that Kubernetes gives.
    pub stop_grace_ms: u64,
}

/// How many things of the host a guest may hold at once: streams, pollables, requests and the like. Each takes memory of the host, which
/// its own bound does not count; an honest guest holds a few dozen. Fixed, since it decides in which turn an orchestrator is at fault.
pub const GUEST_HANDLES_MAX: usize = 1_000;

/// The largest set of header fields that an activity may make for a request, and the largest method and authority, in bytes. Each of the
/// things above may hold so much. Services refuse more than 8 to 16 KiB.
pub const REQUEST_HEAD_BYTES_MAX: usize = 16 << 10;

/// The largest head of an answer to a guest's request, in bytes; one that is read in larger pieces may have twice as many. An activity may hold one in each of the things above.
pub const ANSWER_HEAD_BYTES_MAX: usize = 64 << 10;

/// How much of a request's body the host holds between the activity that writes it and the connection, in bytes, twice.
pub const REQUEST_BODY_CHUNK_BYTES: usize = 64 << 10;

impl Limits {
    /// How long what a call asks for may take, in milliseconds, and whose bound that is, in words for a message.
    pub fn activity_ms(&self, asked_ms: Option<u64>) -> (u64, &'static str) {
        const DEFAULT: &str = "limit activity_ms_default, section [limits] of the server's configuration";
        const MAX: &str = "limit activity_ms_max, section [limits] of the server's configuration";
        let (ms, whose) = match asked_ms {
            Some(ms) => (ms, "the timeout of its call"),
            None => (self.activity_ms_default, DEFAULT),
        };
        if ms < self.activity_ms_max { (ms, whose) } else { (self.activity_ms_max, MAX) }
    }

    /// The bounds that an execution which starts now keeps for its life.
    pub fn in_force(&self) -> LimitsInForce {
        LimitsInForce {
            memory_bytes_max: self.guest_memory_bytes_max,
            payload_bytes_max: self.payload_bytes_max as u64,
            tasks_max: self.tasks_max,
            history_events_max: self.history_events_max,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            module_bytes_max: 64 << 20,
            functions_max: 1_000,
            compile_cpu_s_max: 120,
            compile_memory_bytes_max: 8 << 30,
            payload_bytes_max: 4 << 20,
            guest_memory_bytes_max: 64 << 20,
            turn_cpu_ms_max: 1_000,
            tasks_max: 100_000,
            history_events_max: 1_000_000,
            unread_event_bytes_max: 128 << 20,
            log_bytes_max: 256 << 10,
            heartbeat_bytes_max: 64 << 10,
            activity_ms_default: 600_000,
            activity_ms_max: 86_400_000,
            activities_running_max: 256,
            residents_max: 8_000,
            residents_bytes_max: 1 << 30,
            idle_instances_max: 8_000,
            event_streams_max: 1_000,
            requests_waiting_max: 5_000,
            status_wait_s_max: 300,
            work_queued_max: 10_000,
            starts_queued_max: 2_500,
            backlog_bytes_max: 512 << 20,
            connections_max: 10_000,
            stop_grace_ms: 15_000,
        }
    }
}

impl Limits {
    /// The defaults on this machine.
    pub fn of_this_machine() -> Self {
        memory::of_this_machine().map_or_else(Self::default, Self::with_memory)
    }

    /// The defaults where there are `bytes` of memory: guests that stay alive may take an eighth for what each touches and an eighth for what they grow by, and
    /// what waits a sixteenth. From 8 GiB on they are those of [`Limits::default`].
    fn with_memory(bytes: u64) -> Self {
        let all = Self::default();
        let residents = u32::try_from(bytes / 8 / RESIDENT_BYTES).unwrap_or(u32::MAX);
        let backlog = usize::try_from(bytes / 16).unwrap_or(usize::MAX);
        Self {
            residents_max: all.residents_max.min(residents.max(1)),
            residents_bytes_max: all.residents_bytes_max.min(bytes / 8),
            backlog_bytes_max: all.backlog_bytes_max.min(backlog.max(1)),
            ..all
        }
    }

    /// The name of a bound that is zero and without which nothing runs, if there is one.
    pub fn nothing_runs_with(&self) -> Option<&'static str> {
        let needed = [
            ("functions_max", self.functions_max == 0),
            ("compile_cpu_s_max", self.compile_cpu_s_max == 0),
            ("compile_memory_bytes_max", self.compile_memory_bytes_max == 0),
            ("guest_memory_bytes_max", self.guest_memory_bytes_max == 0),
            ("turn_cpu_ms_max", self.turn_cpu_ms_max == 0),
            ("activity_ms_max", self.activity_ms_max == 0),
            ("activities_running_max", self.activities_running_max == 0),
            ("work_queued_max", self.work_queued_max == 0),
            ("starts_queued_max", self.starts_queued_max == 0),
            ("backlog_bytes_max", self.backlog_bytes_max == 0),
            ("connections_max", self.connections_max == 0),
        ];
        needed.into_iter().find_map(|(name, is_zero)| is_zero.then_some(name))
    }
}

/// How much of a task hub's work runs at once, beside the server's own [`Limits::activities_running_max`]. What is absent is not
/// bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkLimits {
    /// How many activities and HTTP requests of the hub run at once.
    pub activities_running_max: Option<NonZeroU32>,
    /// Bounds on single functions.
    pub functions: FunctionLimits,
}

impl WorkLimits {
    /// How many of `function` run at once; its name is compared without case.
    pub fn running_max(&self, function: &str) -> Option<NonZeroU32> {
        self.functions.0.get(&function.to_lowercase())?.running_max
    }
}

/// Bounds on single functions, by name, which is compared without case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunctionLimits(BTreeMap<String, FunctionLimit>);

/// The bounds on one function.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FunctionLimit {
    /// How many of its calls run at once.
    pub running_max: Option<NonZeroU32>,
}

impl FromIterator<(String, FunctionLimit)> for FunctionLimits {
    fn from_iter<I: IntoIterator<Item = (String, FunctionLimit)>>(limits: I) -> Self {
        Self(limits.into_iter().map(|(name, limit)| (name.to_lowercase(), limit)).collect())
    }
}

impl<'de> Deserialize<'de> for FunctionLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = BTreeMap::<String, FunctionLimit>::deserialize(deserializer)?;
        let count = written.len();
        let names: Vec<String> = written.keys().cloned().collect();
        let limits: Self = written.into_iter().collect();
        if limits.0.len() == count {
            return Ok(limits);
        }
        let is_again = |name: &&String| names.iter().filter(|other| other.to_lowercase() == name.to_lowercase()).count() > 1;
        let twice = names.iter().find(is_again).expect("two names have become one");
        Err(de::Error::custom(format!("function {twice:?} is there twice: case does not count in names of functions")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_little_memory_less_is_kept_in_it() {
        let check = |memory: u64, residents: u32, grown: u64, backlog: usize| {
            let limits = Limits::with_memory(memory);
            let bounds = (limits.residents_max, limits.residents_bytes_max, limits.backlog_bytes_max);
            assert_eq!(bounds, (residents, grown, backlog), "{memory}");
        };
        check(256 << 20, 512, 32 << 20, 16 << 20);
        check(2 << 30, 4_096, 256 << 20, 128 << 20);
        check(8 << 30, 8_000, 1 << 30, 512 << 20);
        assert_eq!(Limits::with_memory(64 << 30), Limits::default());
    }

    #[test]
    fn a_function_has_its_bound_whatever_the_case_of_its_name() {
        let text = "activities_running_max = 64\n[functions.ChargeCard]\nrunning_max = 2\n[functions.\"BuiltIn::HttpActivity\"]";
        let limits: WorkLimits = toml::from_str(text).unwrap();
        assert_eq!(limits.activities_running_max, NonZeroU32::new(64));
        for (name, max) in [("ChargeCard", 2), ("CHARGECARD", 2), ("charge", 0), ("builtin::httpactivity", 0)] {
            assert_eq!(limits.running_max(name), NonZeroU32::new(max), "{name}");
        }
        assert_eq!(toml::from_str::<WorkLimits>("").unwrap(), WorkLimits::default());
    }

    #[test]
    fn a_mistake_in_the_bounds_on_work_is_refused() {
        let check = |text: &str, reason: &str| {
            let error = toml::from_str::<WorkLimits>(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        };
        check("activities_running_max = 0", "nonzero");
        check("functions.Charge.running_max = 0", "nonzero");
        check("functions.Charge.max = 1", "unknown field `max`");
        check("activity_running_max = 1", "unknown field `activity_running_max`");
        check("functions = { charge = {}, Mix = {}, Charge = {} }", "\"Charge\" is there twice");
    }
}
