//! Does every stored execution still replay to its own history? A check of a data directory, offline.

use std::path::Path;

use super::module;
use crate::host::{Compiler, Host, ModuleError, NoGuest};
use crate::limits::Limits;
use crate::model::InstanceId;
use crate::replay::{self, TurnError};
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// How many instances there are, each replayed to where it stands.
    pub instances: u64,
    /// How many of them have ended.
    pub ended: u64,
    /// How many turns were played.
    pub turns: u64,
}

/// What is wrong with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Guests cannot be run.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// An instance does not replay to its own history.
    #[error("instance {id} does not replay: {cause}")]
    Instance {
        /// Which one.
        id: InstanceId,
        /// Why.
        cause: TurnError,
    },
    /// The row and the history of an instance do not agree.
    #[error("instance {id} has {stored} events in its row, and {found} in its history")]
    Length {
        /// Which one.
        id: InstanceId,
        /// What the row says.
        stored: u32,
        /// What there is.
        found: u32,
    },
    /// There is no guest to replay with.
    #[error("instance {id} cannot be replayed: {cause}")]
    NoGuest {
        /// Which one.
        id: InstanceId,
        /// Why.
        cause: String,
    },
}

/// Replays all instances of all hubs in the data directory `data`, which no server may have open. Changes nothing.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(data: &Path, limits: &Limits) -> Result<Report, VerifyError> {
    const PAGE: usize = 1_000;
    let store = SqliteStore::open(data)?;
    // One guest at a time: no room for residents is needed.
    let limits = Limits { residents_max: 1, ..limits.clone() };
    let host = Host::new(&data.join("compiled"), &limits, 1, 1, Compiler::InProcess, std::sync::Arc::default())?;
    let mut report = Report::default();
    for hub in store.hubs()? {
        let mut after = None;
        loop {
            let rows = store.instances(hub.key, after, PAGE)?;
            let Some(last) = rows.last() else { break };
            after = Some(last.key);
            for row in rows {
                let id = row.id;
                let history = store.history(row.execution)?;
                let code = module(&host, &store, row.module)?;
                let mut guest = code.orchestrator(&limits).map_err(|error| {
                    let cause = match error {
                        NoGuest::NoSlot => "all slots are taken".to_owned(),
                        NoGuest::Guest(fault) => fault.failure().message.clone(),
                        NoGuest::Host(message) => message,
                    };
                    VerifyError::NoGuest { id: id.clone(), cause }
                })?;
                let execution = match replay::replay(&history, &mut guest) {
                    Ok(execution) => execution,
                    Err(cause) => return Err(VerifyError::Instance { id, cause }),
                };
                if execution.length != row.length {
                    return Err(VerifyError::Length { id, stored: row.length, found: execution.length });
                }
                report.instances += 1;
                report.ended += u64::from(execution.end.is_some());
                report.turns += u64::from(execution.turns);
            }
        }
    }
    Ok(report)
}
