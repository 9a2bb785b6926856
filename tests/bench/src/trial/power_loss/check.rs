//! What does a store have? Read from its file, past the server, once SQLite has put right what a power loss left.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection as File;
use serde_json::Value;

/// Statuses of instances, as they are stored.
pub(super) const RUNNING: i64 = 0;
pub(super) const COMPLETED: i64 = 1;
pub(super) const TERMINATED: i64 = 5;
pub(super) const PENDING: i64 = 6;

/// All that is in a store, as far as clients were told of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By ID.
    pub(super) instances: HashMap<String, Instance>,
    /// By hub, the bytes of the modules that it has.
    pub(super) modules: HashMap<String, Vec<Vec<u8>>>,
}

/// An instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) status: i64,
    /// The numbers that were raised to it, in their order.
    pub(super) raised: Vec<u64>,
}

impl Found {
    /// What is in the data directory `data`.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn in_store(data: &Path) -> Result<Self> {
        let file = File::open(data.join("dacapo.db")).context("open the store")?;
        let whole: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).context("check the store")?;
        ensure!(whole == "ok", "the store is damaged: {whole}");
        let mut found = Self::default();

        let mut instances = file.prepare("SELECT id, status, execution, length FROM instance")?;
        let mut rows = instances.query([])?;
        while let Some(row) = rows.next()? {
            let (id, status, execution, length): (String, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            let events = events(&file, execution).with_context(|| format!("read the history of {id}"))?;
            ensure!(
                i64::try_from(events.len()) == Ok(length),
                "instance {id} has {length} events in its row, and {} in its history",
                events.len()
            );
            let raised = events.iter().filter_map(|event| event["raised"]["payload"].as_u64()).collect();
            found.instances.insert(id, Instance { status, raised });
        }

        let mut modules = file.prepare(
            "SELECT hub.name, blob.bytes FROM version JOIN hub ON hub.id = version.hub JOIN blob ON blob.id = version.module",
        )?;
        let mut rows = modules.query([])?;
        while let Some(row) = rows.next()? {
            found.modules.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
        Ok(found)
    }
}

fn events(file: &File, execution: i64) -> Result<Vec<Value>> {
    let mut statement = file.prepare_cached("SELECT events FROM history WHERE execution = ?1 ORDER BY seq")?;
    let mut rows = statement.query([execution])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.extend(serde_json::from_str::<Vec<Value>>(&row.get::<_, String>(0)?).context("read events")?);
    }
    Ok(events)
}
