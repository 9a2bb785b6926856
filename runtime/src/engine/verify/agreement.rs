//! Does the row of an instance say what its history amounts to? Pure, a part of the check of a data directory.

use std::fmt::Display;

use crate::model::{Execution, RuntimeStatus};
use crate::store::{HubRow, InstanceRow};

/// What the row says that its history does not, each as a sentence.
pub(super) fn differences(hub: &HubRow, row: &InstanceRow, execution: &Execution) -> Vec<String> {
    let started = &execution.started;
    let mut found = Vec::new();
    let mut compare = |what: &str, stored: &dyn Display, amounts_to: &dyn Display| {
        let (stored, amounts_to) = (stored.to_string(), amounts_to.to_string());
        if stored != amounts_to {
            found.push(format!("the row has {what} {stored}, and the history amounts to {amounts_to}"));
        }
    };
    compare("ID", &row.id, &started.instance);
    compare("length", &row.length, &execution.length);
    compare("status", &row.status, &status(execution));
    compare("function", &row.function, &started.function);
    compare("module", &row.module, &started.module);
    compare("time of creation", &row.created_ms, &started.at_ms);
    if row.tags != started.tags {
        found.push("the row has other tags than the history".to_owned());
    }
    if (row.key == row.execution.instance()) != (started.continued == 0) {
        found.push(format!(
            "the history says that it continued as new {} times, and its number says otherwise",
            started.continued
        ));
    }
    if row.execution.hub_range() != crate::model::ExecutionKey::range(hub.key) {
        found.push(format!("its number {} is not one of its hub", row.execution.0));
    }
    let at = |ms: Option<u64>| ms.unwrap_or(u64::MAX);
    let (stored, needed) = (row.wake.ms(), execution.wake().ms());
    if execution.end.is_none() && at(stored) > at(needed) {
        let shown = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("at {ms}"));
        found.push(format!("the server looks at it {}, and has to {}", shown(stored), shown(needed)));
    }
    found
}

fn status(execution: &Execution) -> RuntimeStatus {
    match &execution.end {
        Some(end) => end.status(),
        None if execution.is_suspended => RuntimeStatus::Suspended,
        None if execution.turns > 0 || execution.started.continued > 0 => RuntimeStatus::Running,
        None => RuntimeStatus::Pending,
    }
}
