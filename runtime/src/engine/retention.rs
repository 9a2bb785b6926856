//! When do ended instances go by themselves? When they are older than the configuration keeps them, in slices, so that live work never waits.
//!
//! Who is old enough is looked for by the index of status and time of creation: nobody has ended before that. How it goes from there is that of
//! every purge (`purge.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::hub::Hub;
use super::purge::PURGE_ROWS;
use super::{Engine, SWEEP_PAUSE_BUSY};
use crate::model::{HubKey, Retention, RuntimeStatus};
use crate::store::{Filter, InstanceRow, Position, Store, StoreError};

/// How long to wait between two sweeps: a tenth of the shortest time that anything is kept, within these bounds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Takes away what is older than it is kept, in all hubs, for as long as the engine lives.
pub(super) fn watch(engine: &Arc<Engine>) {
    let weak = Arc::downgrade(engine);
    engine.machinery.handle.spawn(async move {
        while let Some(engine) = weak.upgrade() {
            let hubs: Vec<Arc<Hub>> = engine.hubs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
            drop(engine);
            let mut pause = PAUSE_MAX;
            for hub in hubs {
                let retention = hub.shell.retention();
                let Some(shortest_ms) = retention.shortest_ms() else { continue };
                pause = pause.min(Duration::from_millis(shortest_ms / 10)).max(PAUSE_MIN);
                if weak.strong_count() > 0 {
                    hub.sweep_old(retention).await;
                }
            }
            tokio::time::sleep(pause).await;
        }
    });
}

impl Hub {
    /// One sweep. What cannot be taken away now is found again by the next one.
    async fn sweep_old(&self, retention: Retention) {
        let now_ms = self.shell.machinery.clock.now_ms();
        let mut sweep = Sweep::of(self.shell.row.key, retention, now_ms);
        loop {
            let shell = self.shell.clone();
            let slice = tokio::task::spawn_blocking(move || {
                let purged = sweep.slice(&*shell.machinery.store, |rows| shell.purge(rows));
                (sweep, purged)
            });
            let Ok((after, purged)) = slice.await else { return };
            sweep = after;
            match purged {
                Ok(Some(0)) => (),
                Ok(Some(_)) => tokio::time::sleep(SWEEP_PAUSE_BUSY).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!("what is older than it is kept cannot be purged now: {error}");
                    break;
                }
            }
        }
        for (status, count) in &sweep.purged {
            self.shell.machinery.metrics.purged_by_age(status, *count);
        }
        if !sweep.purged.is_empty() {
            let counts: Vec<_> = sweep.purged.iter().map(|(status, count)| format!("{count} {status}")).collect();
            tracing::info!("hub {}: purged what is older than it is kept: {}", self.name(), counts.join(", "));
        }
    }
}

/// A sweep through one hub: where it is, and what it has come to.
struct Sweep {
    hub: HubKey,
    /// The statuses that are left, each with the latest time at which an instance may have ended that goes.
    left: Vec<(RuntimeStatus, u64)>,
    after: Option<Position>,
    purged: BTreeMap<&'static str, usize>,
}

impl Sweep {
    fn of(hub: HubKey, retention: Retention, now_ms: u64) -> Self {
        let ended_to_ms = |status| Some((status, now_ms.checked_sub(retention.ms(status)?)?));
        let left = RuntimeStatus::ALL.into_iter().filter_map(ended_to_ms).collect();
        Self { hub, left, after: None, purged: BTreeMap::new() }
    }

    /// Looks at some instances and has `purge` take away those that are old enough; how many these were. `None` if there are none left to be
    /// looked at.
    fn slice(
        &mut self,
        store: &dyn Store,
        purge: impl FnOnce(&[InstanceRow]) -> Result<usize, StoreError>,
    ) -> Result<Option<usize>, StoreError> {
        let Some(&(status, ended_to_ms)) = self.left.last() else { return Ok(None) };
        let created_to_ms = Some(i64::try_from(ended_to_ms).unwrap_or(i64::MAX));
        let filter = Filter { statuses: Some(vec![status]), created_to_ms, ..Filter::default() };
        let mut listed = store.list(self.hub, &filter, self.after.as_ref(), PURGE_ROWS)?;
        // It may have run for long: what has ended is not touched any more, so that its last step was its end.
        listed.rows.retain(|row| row.updated_ms <= ended_to_ms);
        let purged = if listed.rows.is_empty() { 0 } else { purge(&listed.rows)? };
        if purged > 0 {
            *self.purged.entry(status.name()).or_default() += purged;
        }
        self.after = listed.next;
        if self.after.is_none() {
            self.left.pop();
        }
        Ok(Some(purged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;
    use crate::store::memory::MemoryStore;
    use crate::store::suite::World;

    /// Three instances that have ended in each way, at 3,000, 4,000 and 500,000 ms, and one that runs; then sweeps at these times.
    fn check(retention: &str, sweeps: &[(u64, &str)]) {
        let store = MemoryStore::new();
        let world = World::new(&store);
        let ways = [RuntimeStatus::Completed, RuntimeStatus::Failed, RuntimeStatus::Terminated];
        let mut number = 0;
        for status in ways {
            for at_ms in [3_000, 4_000, 500_000] {
                number += 1;
                store.commit(&[world.create(number, &format!("{status}-{at_ms}"))]).unwrap();
                let mut end = world.end(number, 1, status);
                let Change::Advance { updated_ms, .. } = &mut end.change else { unreachable!("an end is a step") };
                *updated_ms = at_ms;
                store.commit(&[end]).unwrap();
            }
        }
        store.commit(&[world.create(99, "open")]).unwrap();
        for (now_ms, expected) in sweeps {
            let mut sweep = Sweep::of(world.hub, toml::from_str(retention).unwrap(), *now_ms);
            while sweep.slice(&store, |rows| store.purge(rows)).unwrap().is_some() {}
            let rows = store.instances(world.hub, None, 99).unwrap();
            let left = |way: RuntimeStatus| rows.iter().filter(|row| row.status == way).count().to_string();
            assert_eq!(ways.map(left).join(" "), *expected, "{retention} at {now_ms}: {:?}", sweep.purged);
            assert!(rows.iter().any(|row| row.id.as_str() == "open"), "what has not ended stays");
        }
    }

    #[test]
    fn what_has_ended_long_enough_ago_goes_by_its_status() {
        check("", &[(u64::MAX, "3 3 3")]);
        check("all = 'forever'", &[(u64::MAX, "3 3 3")]);
        check("completed = '10s'", &[(12_999, "3 3 3"), (13_000, "2 3 3"), (14_000, "1 3 3"), (510_000, "0 3 3")]);
        check(
            "all = '10s'\nfailed = 'forever'\nterminated = '5m'",
            &[(13_000, "2 3 3"), (304_000, "1 3 1"), (u64::MAX, "0 3 0")],
        );
        check("all = '1d'", &[(0, "3 3 3"), (1_000, "3 3 3")]);
        check("all = '0s'", &[(3_999, "2 2 2"), (4_000, "1 1 1")]);
    }

    #[test]
    fn a_sweep_goes_in_slices_and_passes_over_what_ended_late() {
        let store = MemoryStore::new();
        let world = World::new(&store);
        let count = 2 * PURGE_ROWS as i64 + 10;
        for number in 1..=count {
            store.commit(&[world.create(number, &format!("loaf-{number}"))]).unwrap();
            let mut end = world.end(number, 1, RuntimeStatus::Completed);
            let Change::Advance { updated_ms, .. } = &mut end.change else { unreachable!("an end is a step") };
            *updated_ms = if number % 2 == 0 { 5_000 } else { 50_000 };
            store.commit(&[end]).unwrap();
        }
        let mut sweep = Sweep::of(world.hub, toml::from_str("all = '10s'").unwrap(), 15_000);
        let slices: Vec<usize> = std::iter::from_fn(|| {
            sweep
                .slice(&store, |rows| {
                    assert!(rows.len() <= PURGE_ROWS);
                    store.purge(rows)
                })
                .unwrap()
        })
        .collect();
        assert_eq!(slices.iter().sum::<usize>() as i64, count / 2);
        assert!(slices.iter().filter(|purged| **purged > 0).count() >= 3, "{slices:?}");
        assert_eq!(sweep.purged, BTreeMap::from([("Completed", count as usize / 2)]));
        assert!(store.instances(world.hub, None, 999).unwrap().iter().all(|row| row.updated_ms == 50_000));
    }
}
