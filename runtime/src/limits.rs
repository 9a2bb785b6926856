//! Every bound of the server: unit, default, reason. Each can be set in the configuration under `[limits]`.

use serde::{Deserialize, Serialize};

use crate::model::LimitsInForce;

/// The bounds in force. What reaches one of them fails with a message that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// How much of what an execution and its activities say is kept, in bytes; the oldest lines go first.
    pub log_bytes_max: usize,
    /// How long an activity may take, in milliseconds, if its call does not say.
    pub activity_ms_max: u64,
    /// How many activities run at once; the others wait in the order in which they were asked for. Each holds a slot of
    /// guest memory.
    pub activities_running_max: u32,
    /// How many guests stay alive in memory between their turns. Each takes four to six memory mappings, of which Linux
    /// allows a process 65,530 by default; the server lowers the bound to what `vm.max_map_count` allows.
    pub residents_max: u32,
    /// How much memory the guests that stay alive may have, in bytes, all together. The first 2 MiB of each do not count: of what
    /// a lean guest comes with it touches a few pages.
    pub residents_bytes_max: u64,
    /// How many instances that only wait (for a time, an event or a child) are kept in memory for each task hub; the others are read again
    /// when something happens to them.
    pub idle_instances_max: usize,
    /// How many commits, or turns, may wait before new starts and events are refused with 503.
    pub starts_queued_max: usize,
}

impl Limits {
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
            log_bytes_max: 256 << 10,
            activity_ms_max: 600_000,
            activities_running_max: 256,
            residents_max: 8_000,
            residents_bytes_max: 1 << 30,
            idle_instances_max: 8_000,
            starts_queued_max: 10_000,
        }
    }
}
