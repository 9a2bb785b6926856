//! How do ended instances go for good? One at once, many in slices, so that live work never waits for them.
//!
//! Only the store decides who may go: an end counts from the moment at which it can be seen there, and a start that uses the ID again comes
//! before a purge or after it. What an instance leaves behind goes with everything that nobody needs any more.

use super::SWEEP_PAUSE_BUSY;
use super::hub::{Hub, blocking};
use super::views::{PurgeError, Purged};
use crate::model::{InstanceId, RuntimeStatus};
use crate::store::{Filter, Position, StoreError};

/// How many instances go at once. Each is taken out of five indexes, so they are fewer than the rows that a sweep deletes.
pub(super) const PURGE_ROWS: usize = 200;

impl Hub {
    /// Takes an instance away that has ended; from then on it is not there, and its ID is free. Durable on return. Instances that it has
    /// started stay.
    ///
    /// # Errors
    /// As [`PurgeError`] says; nothing has changed then.
    pub async fn purge(&self, id: &InstanceId) -> Result<(), PurgeError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        let purged = blocking(move || {
            loop {
                let Some(row) = shell.row_of(&id)? else { return Ok(Err(PurgeError::NotFound)) };
                if !row.status.is_ended() {
                    return Ok(Err(PurgeError::Open { id, status: row.status }));
                }
                // Unless it has been replaced, rewound or purged since.
                if shell.purge(&[row])? == 1 {
                    return Ok(Ok(()));
                }
            }
        });
        purged.await?
    }

    /// Takes all instances away that `filter` lets through, have ended, and were created before this was asked for. Goes on as long as
    /// `goes_on` says so, which is asked between two slices; each is durable, and there is no other trace of a purge that has not come to
    /// its end.
    ///
    /// # Errors
    /// [`PurgeError::Store`]; some may be gone then.
    pub async fn purge_all(&self, filter: Filter, goes_on: impl Fn() -> bool) -> Result<Purged, PurgeError> {
        let now_ms = self.shell.machinery.clock.now_ms().cast_signed();
        let mut statuses = filter.statuses.unwrap_or_else(|| RuntimeStatus::ALL.into());
        statuses.retain(|status| status.is_ended());
        let created_to_ms = filter.created_to_ms.map_or(now_ms, |to_ms| to_ms.min(now_ms));
        let filter = Filter { statuses: Some(statuses), created_to_ms: Some(created_to_ms), ..filter };

        let mut purged = Purged { count: 0, is_all: false };
        let mut after = None;
        while goes_on() {
            let (count, next) = self.purge_slice(filter.clone(), after).await?;
            purged.count += count;
            if next.is_none() {
                return Ok(Purged { is_all: true, ..purged });
            }
            after = next;
            if count > 0 {
                tokio::time::sleep(SWEEP_PAUSE_BUSY).await;
            }
        }
        Ok(purged)
    }

    /// Purges some from behind `after`: how many, and where to go on.
    async fn purge_slice(&self, filter: Filter, after: Option<Position>) -> Result<(usize, Option<Position>), StoreError> {
        let shell = self.shell.clone();
        blocking(move || {
            // They are looked for without keeping writes waiting. Who has got on meanwhile stays.
            let listed = shell.machinery.store.list(shell.row.key, &filter, after.as_ref(), PURGE_ROWS)?;
            Ok((shell.purge(&listed.rows)?, listed.next))
        })
        .await
    }
}
