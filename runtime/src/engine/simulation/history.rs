//! What is stored, as the checks read it: each row of the store is parsed once.

use std::collections::HashMap;

use crate::model::{Event, ExecutionKey, HubKey, InstanceId};
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

/// The histories of a store, as far as somebody has looked. Rows are only ever added to a history, and none of these is swept.
#[derive(Default)]
pub(super) struct Histories(HashMap<ExecutionKey, Known>);

#[derive(Default)]
struct Known {
    rows: usize,
    events: Vec<Event>,
}

impl Histories {
    /// The history of `key`, as it is stored now.
    pub(super) fn of(&mut self, store: &MemoryStore, key: ExecutionKey) -> &[Event] {
        let known = self.0.entry(key).or_default();
        for row in store.history_rows(key, known.rows) {
            known.rows += 1;
            known.events.append(&mut serde_json::from_str(&row).expect("it is printed as it is parsed"));
        }
        &known.events
    }

    /// All executions that were ever begun.
    pub(super) fn keys(store: &MemoryStore, hub: HubKey) -> Vec<ExecutionKey> {
        let (first, end) = ExecutionKey::range(hub);
        let last = store.last_execution(first, end).unwrap();
        std::iter::successors(Some(first), |key| Some(key.next())).take_while(|key| Some(*key) <= last).collect()
    }

    /// Those of the instances with this ID. An ended one may have been replaced before its end was told.
    pub(super) fn keys_of(&mut self, store: &MemoryStore, hub: HubKey, id: &InstanceId) -> Vec<ExecutionKey> {
        let mut keys = Self::keys(store, hub);
        keys.retain(|key| matches!(self.of(store, *key), [Event::Started(started), ..] if started.instance == *id));
        keys
    }
}

/// The numbers that the events from clients carry.
pub(super) fn raised(history: &[Event]) -> Vec<u64> {
    let number = |event: &Event| match event {
        Event::Raised { payload, .. } => payload.text().parse().ok(),
        _ => None,
    };
    history.iter().filter_map(number).collect()
}
