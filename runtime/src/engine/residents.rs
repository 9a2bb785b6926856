//! Which guests stay alive between their turns? The ones used last, as many as there is room for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::host::OrchestratorGuest;
use crate::model::ExecutionKey;

/// The guests that are alive between turns. The least recently used ones go first; each can be rebuilt by replay.
pub(super) struct Residents {
    guests: Mutex<Guests>,
    count_max: usize,
    bytes_max: usize,
}

struct Guests {
    by_execution: LruCache<ExecutionKey, Resident>,
    bytes: usize,
}

struct Resident {
    turn: u64,
    bytes: usize,
    guest: OrchestratorGuest,
}

impl Residents {
    /// Room for `count_max` guests that have grown by `bytes_max` in all.
    pub(super) fn new(count_max: usize, bytes_max: u64) -> Self {
        let guests = Guests { by_execution: LruCache::unbounded(), bytes: 0 };
        Self { guests: Mutex::new(guests), count_max, bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) }
    }

    /// The guest of `execution`, if it is alive and turn number `turn` was the last that it played.
    pub(super) fn take(&self, execution: ExecutionKey, turn: u64) -> Option<OrchestratorGuest> {
        let resident = self.lock().pop(execution)?;
        (resident.turn == turn).then_some(resident.guest)
    }

    /// Keeps `guest`, which has played turn number `turn` of `execution`, and drops others if there is no room.
    pub(super) fn put(&self, execution: ExecutionKey, turn: u64, guest: OrchestratorGuest) {
        let mut dropped = Vec::new(); // Outside the lock: it takes a while.
        let mut guests = self.lock();
        let resident = Resident { turn, bytes: guest.memory_bytes(), guest };
        guests.bytes += resident.bytes;
        if let Some(old) = guests.by_execution.put(execution, resident) {
            guests.bytes -= old.bytes;
            dropped.push(old);
        }
        while guests.by_execution.len() > self.count_max || guests.bytes > self.bytes_max {
            dropped.push(guests.pop_oldest().expect("there is at least the one that was put"));
        }
        drop(guests);
    }

    /// How many guests are alive, and by how many bytes they have grown.
    pub(super) fn size(&self) -> (usize, usize) {
        let guests = self.lock();
        (guests.by_execution.len(), guests.bytes)
    }

    /// Drops the guest of `execution`, if it is alive.
    pub(super) fn evict(&self, execution: ExecutionKey) {
        let dropped = self.lock().pop(execution);
        drop(dropped);
    }

    /// Drops the guest that was not used for longest; whether there was one.
    pub(super) fn evict_oldest(&self) -> bool {
        let dropped = self.lock().pop_oldest();
        dropped.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        // The two fields are changed together, without anything between them that can panic.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn pop(&mut self, execution: ExecutionKey) -> Option<Resident> {
        let resident = self.by_execution.pop(&execution)?;
        self.bytes -= resident.bytes;
        Some(resident)
    }

    fn pop_oldest(&mut self) -> Option<Resident> {
        let (_, resident) = self.by_execution.pop_lru()?;
        self.bytes -= resident.bytes;
        Some(resident)
    }
}
