//! Which instances may have taken the server down? Those whose turn ran when it died, until a turn of theirs is recorded.
//!
//! How often that happened to the same turn is kept in a small file, written at a start only. A suspect's turns run one at a time, so that
//! the next death tells it apart from those that were bystanders; at the third death the instance is failed. Whatever gets on is no
//! suspect any more: its turns have another number.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::in_flight::Flight;
use crate::model::{Execution, ExecutionKey, Failure, InstanceId};
use crate::store::{Store, StoreError};

/// The file in the data directory.
const FILE: &str = "suspects.json";

/// How long every start is recorded before its first turn, after the server died while one ran that was not.
const CAREFUL_FOR: Duration = Duration::from_secs(60);

/// At the how manieth death of the server in the same turn the instance is failed.
const DEATHS_MAX: u32 = 3;

/// An instance under suspicion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    execution: ExecutionKey,
    /// How many turns of it are recorded: the next one is the one that it is about.
    turns: u32,
    /// How often the server died while that ran.
    deaths: u32,
}

/// What there is to be done about a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Run it.
    Innocent,
    /// Run it, and no other suspect's beside it.
    Alone,
    /// Do not run it: the instance has failed.
    SetAside(Failure),
}

/// All that are under suspicion.
pub(super) struct Suspects {
    path: PathBuf,
    /// Nearly always so, and then nobody has to look any further.
    is_empty: AtomicBool,
    by_execution: Mutex<HashMap<ExecutionKey, Suspect>>,
    /// Until then every turn runs behind a recorded start.
    careful_until: Option<Instant>,
}

impl Suspects {
    /// Adds the turns that were `left` behind to what the file in the directory `data` says, and keeps that. Durable on return.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn open(data: &Path, left: &[Flight], store: &dyn Store) -> io::Result<Self> {
        let path = data.join(FILE);
        let known = read(&path);
        let mut suspects = HashMap::new();
        let mut died_unrecorded = false;
        for Flight { execution, turns } in left {
            died_unrecorded |= *turns == 0 && store.history(*execution).is_ok_and(|history| history.is_empty());
            let before = known.iter().find(|known| (known.execution, known.turns) == (*execution, *turns));
            let deaths = before.map_or(0, |before| before.deaths) + 1;
            suspects.insert(*execution, Suspect { execution: *execution, turns: *turns, deaths });
        }
        // Those that stood in line when the server died have not been cleared by that.
        for known in &known {
            suspects.entry(known.execution).or_insert_with(|| known.clone());
        }
        suspects.retain(|_, suspect| match is_open_at(store, suspect) {
            Ok(Some(id)) => {
                let Suspect { turns, deaths, .. } = suspect;
                tracing::warn!(
                    "the server died while turn {} of instance {id} ran, for the time number {deaths}; such turns run one at a time until they \
                     are recorded, and at {DEATHS_MAX} the instance is failed",
                    *turns + 1
                );
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!("whether execution {} has got on cannot be read: {error}", suspect.execution.0);
                true
            }
        });
        let careful_until = died_unrecorded.then(|| Instant::now() + CAREFUL_FOR);
        let suspects =
            Self { path, is_empty: AtomicBool::new(suspects.is_empty()), by_execution: Mutex::new(suspects), careful_until };
        if !(known.is_empty() && suspects.lock().is_empty()) {
            suspects.save(&suspects.lock())?;
        }
        Ok(suspects)
    }

    /// Whether a first turn may run before its start is recorded. Not soon after the server has died while such a turn ran: if that start is sent
    /// again, it is recorded first, and its deaths are counted.
    pub(super) fn may_run_unrecorded(&self) -> bool {
        self.careful_until.is_none_or(|until| until <= Instant::now())
    }

    /// What to do about the turn of this execution behind `turns` others.
    pub(super) fn judge(&self, Flight { execution, turns }: Flight) -> Verdict {
        if self.is_empty.load(Ordering::Relaxed) {
            return Verdict::Innocent;
        }
        let mut suspects = self.lock();
        match suspects.get(&execution) {
            None => Verdict::Innocent,
            Some(suspect) if suspect.turns != turns => {
                suspects.remove(&execution);
                self.is_empty.store(suspects.is_empty(), Ordering::Relaxed);
                Verdict::Innocent
            }
            Some(suspect) if suspect.deaths < DEATHS_MAX => Verdict::Alone,
            Some(suspect) => {
                let message = format!(
                    "the server died {} times while it ran turn {} of this instance, which was never recorded; the instance is set aside, so \
                     that it does not take the server down again. The server's log of those times may say more; a rewind has the instance \
                     go on",
                    suspect.deaths,
                    turns + 1
                );
                Verdict::SetAside(Failure::new("ServerDied", message))
            }
        }
    }

    /// The instance is being failed. Should it be rewound, it is as good as any other.
    pub(super) fn forget(&self, execution: ExecutionKey) {
        let mut suspects = self.lock();
        suspects.remove(&execution);
        self.is_empty.store(suspects.is_empty(), Ordering::Relaxed);
        if let Err(error) = self.save(&suspects) {
            tracing::warn!("{} cannot be written: {error}", self.path.display());
        }
    }

    fn save(&self, suspects: &HashMap<ExecutionKey, Suspect>) -> io::Result<()> {
        let list: Vec<&Suspect> = suspects.values().collect();
        let unfinished = self.path.with_extension("unfinished");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(&list).expect("numbers print without errors"))?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecutionKey, Suspect>> {
        // Nothing panics while it holds this, and what it guards is whole at any time.
        self.by_execution.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an earlier life has written. What cannot be read is forgotten: that costs a poisoned instance some more deaths, and harms nobody else.
fn read(path: &Path) -> Vec<Suspect> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("{} cannot be read: {error}", path.display());
            return Vec::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{} cannot be read: {error}", path.display());
        Vec::new()
    })
}

/// The instance, if its execution is open and has recorded no turn since.
fn is_open_at(store: &dyn Store, suspect: &Suspect) -> Result<Option<InstanceId>, StoreError> {
    let history = store.history(suspect.execution)?;
    if history.is_empty() {
        return Ok(None);
    }
    let execution = Execution::fold(&history).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let is_open = execution.end.is_none() && execution.turns == suspect.turns;
    Ok(is_open.then_some(execution.started.instance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RuntimeStatus;
    use crate::store::memory::MemoryStore;
    use crate::store::suite::World;

    const NEVER_RAN: u32 = 0;

    fn death(world: &World, store: &MemoryStore, folder: &Path, ids: &[&str]) -> Suspects {
        let key = |id: &&str| store.instance(world.hub, &id.parse().unwrap()).unwrap().unwrap().execution;
        let left: Vec<Flight> = ids.iter().map(|id| Flight { execution: key(id), turns: NEVER_RAN }).collect();
        Suspects::open(folder, &left, store).unwrap()
    }

    /// Two instances that have started and not run yet.
    fn check(then: impl FnOnce(&World, &MemoryStore, &Path, [Flight; 2])) {
        let (store, folder) = (MemoryStore::new(), tempfile::tempdir().unwrap());
        let world = World::new(&store);
        store.commit(&[world.create(1, "guilty"), world.create(2, "bystander")]).unwrap();
        let flight = |id: &str| {
            let row = store.instance(world.hub, &id.parse().unwrap()).unwrap().unwrap();
            Flight { execution: row.execution, turns: NEVER_RAN }
        };
        then(&world, &store, folder.path(), [flight("guilty"), flight("bystander")]);
    }

    #[test]
    fn the_third_death_in_the_same_turn_sets_an_instance_aside_and_no_bystander() {
        check(|world, store, folder, [guilty, bystander]| {
            let suspects = death(world, store, folder, &["guilty", "bystander"]);
            assert_eq!([suspects.judge(guilty), suspects.judge(bystander)], [Verdict::Alone, Verdict::Alone]);
            let suspects = death(world, store, folder, &["guilty"]);
            assert_eq!([suspects.judge(guilty), suspects.judge(bystander)], [Verdict::Alone, Verdict::Alone]);
            let suspects = death(world, store, folder, &["guilty"]);
            let Verdict::SetAside(failure) = suspects.judge(guilty) else { panic!("it is run again") };
            assert!(failure.message.contains("died 3 times while it ran turn 1 of this instance"), "{failure:?}");
            assert_eq!(suspects.judge(bystander), Verdict::Alone);
            suspects.forget(guilty.execution);
            assert_eq!(suspects.judge(guilty), Verdict::Innocent);
            let suspects = death(world, store, folder, &["guilty"]);
            assert_eq!(suspects.judge(guilty), Verdict::Alone, "after a rewind it has three tries again");
        });
    }

    #[test]
    fn a_start_without_a_death_clears_nobody_and_blames_nobody() {
        check(|world, store, folder, [guilty, bystander]| {
            death(world, store, folder, &["guilty"]);
            let suspects = death(world, store, folder, &[]);
            assert_eq!([suspects.judge(guilty), suspects.judge(bystander)], [Verdict::Alone, Verdict::Innocent]);
            death(world, store, folder, &["guilty"]);
            let suspects = death(world, store, folder, &["guilty"]);
            assert!(matches!(suspects.judge(guilty), Verdict::SetAside(_)));
        });
    }

    #[test]
    fn after_a_death_in_a_turn_whose_start_was_not_recorded_starts_are_recorded_first() {
        check(|_, store, folder, [guilty, _]| {
            let unrecorded = Flight { execution: ExecutionKey(guilty.execution.0 + 7), turns: NEVER_RAN };
            let after = |left: &[Flight]| Suspects::open(folder, left, store).unwrap();
            let suspects = after(&[unrecorded]);
            assert!(!suspects.may_run_unrecorded());
            assert_eq!(suspects.judge(unrecorded), Verdict::Innocent, "another instance has that number by now");
            assert!(after(&[guilty]).may_run_unrecorded());
        });
    }

    #[test]
    fn what_gets_on_is_cleared() {
        check(|world, store, folder, [guilty, bystander]| {
            death(world, store, folder, &["guilty", "bystander"]);
            let suspects = death(world, store, folder, &["guilty", "bystander"]);
            let next = Flight { turns: 1, ..bystander };
            assert_eq!([suspects.judge(next), suspects.judge(bystander)], [Verdict::Innocent, Verdict::Innocent]);
            store.commit(&[world.end(1, 1, RuntimeStatus::Completed)]).unwrap();
            let suspects = death(world, store, folder, &[]);
            assert_eq!(suspects.judge(guilty), Verdict::Innocent, "it has ended");
        });
    }
}
