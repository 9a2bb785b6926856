//! Which settings make a guest deterministic, dense and contained? The two wasmtime engines.
//!
//! The settings were measured; what changes the compiled code (everything but the pool) is shared with the compiler's child process.

use std::fs;
use std::thread;
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::limits::Limits;

/// How often guests are looked at, and how finely their CPU time is counted.
const TICK: Duration = Duration::from_millis(10);

/// How much of what a guest has written stays with its slot for the next one, in bytes, if the kernel can tell which pages that were. A lean
/// guest writes to some 15 pages; a quarter of this is enough for it.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// What a component may consist of, all its core modules together: more would take more than one guest's share of the slots.
pub(super) const MEMORIES_MAX: u32 = 1;
/// Its own, one for the shims between it and its imports, and two to spare.
pub(super) const TABLES_MAX: u32 = 4;
/// A Rust guest has four. One that is linked from shared libraries, as Python's is, has some twenty.
pub(super) const CORE_INSTANCES_MAX: u32 = 32;

/// The two engines of a server, and the thread that wakes them.
pub(super) struct Engines {
    /// Runs orchestrators and catalogs: synchronously, in many small slots.
    pub deterministic: Engine,
    /// Runs activities: on fibers, in a few large slots.
    pub activities: Engine,
}

impl Engines {
    /// Reserves the slots: `residents` guests and `turns` more in turns; address space only.
    ///
    /// # Errors
    /// If the machine does not have the address space, or wasmtime refuses the settings.
    pub(super) fn new(limits: &Limits, residents: u32, turns: u32) -> wasmtime::Result<Self> {
        let mut config = deterministic_config(limits);
        let guest_memory = memory_bytes(limits);
        // One fiber stack, which no orchestrator uses: each takes two mappings from the start.
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(residents + turns, 1, guest_memory)));
        let deterministic = Engine::new(&config)?;

        let mut config = activities_config();
        let running = limits.activities_running_max;
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(running, running, guest_memory)));
        let activities = Engine::new(&config)?;

        tick(&deterministic, &activities);
        Ok(Self { deterministic, activities })
    }
}

/// How many guests may stay alive, as `limits` and the kernel's bound on memory mappings allow it.
pub(super) fn residents_max(limits: &Limits) -> u32 {
    // Six mappings for each, and 8,000 for everything else, measured.
    const MAPS_EACH: u32 = 6;
    const MAPS_OTHER: u32 = 8_000;
    let maps = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse::<u32>().ok());
    let allowed = maps.map_or(u32::MAX, |maps| maps.saturating_sub(MAPS_OTHER) / MAPS_EACH);
    limits.residents_max.min(allowed).max(1)
}

/// Settings of the deterministic engine, without its pool.
pub(super) fn deterministic_config(limits: &Limits) -> Config {
    let mut config = common_config();
    config
        .cranelift_nan_canonicalization(true)
        // Small slots: 64 MiB of address space and few page tables each, for explicit bounds checks.
        .memory_reservation(memory_bytes(limits) as u64)
        .memory_guard_size(64 << 10)
        .guard_before_linear_memory(false);
    config
}

/// Settings of the engine of activities, without its pool: wasmtime's own reservation, so no bounds checks.
pub(super) fn activities_config() -> Config {
    common_config()
}

fn common_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .memory_init_cow(true);
    config
}

/// A guest's memory bound, as whole wasm pages.
fn memory_bytes(limits: &Limits) -> usize {
    const PAGE: u64 = 64 << 10;
    usize::try_from(limits.guest_memory_bytes_max.next_multiple_of(PAGE).clamp(PAGE, 4 << 30)).expect("at most 4 GiB")
}

fn pool(guests: u32, stacks: u32, memory_bytes: usize) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // So that every guest finds all that a component may have. Core instances are only counted, and the room for tables (160 KB
    // each) is address space until it is used; memories are dear, in address space and page tables.
    pool.total_component_instances(guests)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .total_core_instances(guests.saturating_mul(CORE_INSTANCES_MAX))
        .max_memories_per_component(MEMORIES_MAX)
        .total_memories(guests.saturating_mul(MEMORIES_MAX))
        .max_tables_per_component(TABLES_MAX)
        .total_tables(guests.saturating_mul(TABLES_MAX))
        .total_stacks(stacks)
        .max_memory_size(memory_bytes)
        .table_elements(20_000)
        .max_unused_warm_slots(256);
    // Without PAGEMAP_SCAN (Linux 6.7) keeping pages makes every instance slower: all of them would be zeroed by hand.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(KEEP_RESIDENT_BYTES).table_keep_resident(64 << 10);
    }
    pool
}

/// Wakes both engines every [`TICK`] until they are gone.
fn tick(deterministic: &Engine, activities: &Engine) {
    let (deterministic, activities) = (deterministic.weak(), activities.weak());
    thread::Builder::new()
        .name("dacapo-epoch".into())
        .spawn(move || {
            while let (Some(deterministic), Some(activities)) = (deterministic.upgrade(), activities.upgrade()) {
                deterministic.increment_epoch();
                activities.increment_epoch();
                drop((deterministic, activities));
                thread::sleep(TICK);
            }
        })
        .expect("a process that cannot start one thread cannot start at all");
}
