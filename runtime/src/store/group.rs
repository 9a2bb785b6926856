//! How do hundreds of instances share one sync? A thread that writes whatever has come in while it wrote the last batch.
//!
//! Group commit stands here, once, above [`Store`]. Called by the engine's shell; calls a store.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::{Change, Commit, CommitOutcome, Store, StoreError};
use crate::metrics::Metrics;

/// The most commits in a batch. More of them gain little and make the first one wait.
const BATCH_COMMITS_MAX: usize = 512;

/// The most bytes of events, lines and messages in a batch, in bytes; a single larger commit is a batch of its own.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a commit has come to. One error may be shared by a whole batch.
pub type CommitResult = Result<CommitOutcome, Arc<StoreError>>;

/// Why the store takes no commits at all, whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no space. Writing goes on as soon as there is.
    Full,
    /// A sync has failed. Nothing is written until the server is restarted.
    Poisoned,
    /// Another server has taken over the store.
    Fenced,
    /// The files of the store are not where they were. Writing goes on as soon as they are.
    Gone,
}

impl fmt::Display for Refusal {
    /// What an operator has to know and to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the disk of the store is full: make room, and writing goes on by itself",
            Self::Poisoned => {
                "a sync of the store has failed: nothing is written until the disk is in order and the server is restarted"
            }
            Self::Fenced => "another server has taken over the store: stop this one",
            Self::Gone => {
                "the files of the store have been moved or deleted: put them back, and writing goes on by itself; or stop the server and start it where \
                 they are"
            }
        })
    }
}

impl Refusal {
    /// What `error` says of all commits; `None` if others may go through.
    pub fn of(error: &StoreError) -> Option<Self> {
        match error {
            StoreError::Full => Some(Self::Full),
            StoreError::Poisoned(_) => Some(Self::Poisoned),
            StoreError::Fenced { .. } => Some(Self::Fenced),
            StoreError::Gone => Some(Self::Gone),
            _ => None,
        }
    }
}

/// Gathers commits into batches and writes them, on a thread of its own.
///
/// No commit waits so that others may join it: a batch is what has come in while the one before was written.
/// Dropping it writes everything that was submitted, and answers it, before it returns.
pub struct Committer {
    jobs: Option<Sender<Job>>,
    queued: Arc<AtomicUsize>,
    refusal: Arc<Mutex<Option<Refusal>>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    commit: Commit,
    done: Box<dyn FnOnce(CommitResult) + Send>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_metrics(store, Arc::default())
    }

    /// The same, counting in `metrics`.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn with_metrics(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        let (jobs, inbox) = mpsc::channel();
        let (queued, refusal) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let writing = Writing { store, metrics, inbox, queued: Arc::clone(&queued), refusal: Arc::clone(&refusal) };
        let thread = thread::Builder::new().name("commit".into()).spawn(move || writing.run());
        let thread = thread.expect("a server that cannot start this one thread cannot run");
        Self { jobs: Some(jobs), queued, refusal, thread: Some(thread) }
    }

    /// Hands over a commit and returns at once. `done` hears what it has come to: `Ok` means that it is durable.
    ///
    /// `done` runs on the thread that commits, so it must be short, must not wait for another commit and must not panic. Commits
    /// of one instance go through in the order of submission, each in a batch of its own. If a batch fails, its commits are
    /// tried one by one, so that only the offender hears of it.
    pub fn submit(&self, commit: Commit, done: impl FnOnce(CommitResult) + Send + 'static) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        let jobs = self.jobs.as_ref().expect("only a drop takes the sender away");
        if let Err(mpsc::SendError(job)) = jobs.send(Job { commit, done: Box::new(done) }) {
            // Only after a panic on the other side.
            self.queued.fetch_sub(1, Ordering::Relaxed);
            (job.done)(Err(Arc::new(StoreError::Other("the thread that commits is gone".into()))));
        }
    }

    /// How many commits have been submitted and not been answered. There is no bound here: whoever lets work in looks at
    /// this.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Why the store took nothing when it was last written to; `None` if it took something.
    pub fn refusal(&self) -> Option<Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a write past this committer has come to.
    pub fn note(&self, written: Result<(), &StoreError>) {
        note(&self.refusal, written);
    }
}

/// An error that is about one write only says nothing of the next.
fn note(refusal: &Mutex<Option<Refusal>>, written: Result<(), &StoreError>) {
    let now = match written {
        Ok(()) => None,
        Err(error) => match Refusal::of(error) {
            None => return,
            some => some,
        },
    };
    let before = std::mem::replace(&mut *refusal.lock().unwrap_or_else(PoisonError::into_inner), now);
    // Said once, however many commits hear of it.
    match now {
        Some(refusal) if before != now => tracing::error!("{refusal}"),
        None if before.is_some() => tracing::info!("the store takes writes again"),
        _ => (),
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.jobs = None;
        let Some(thread) = self.thread.take() else { return };
        // An answer may hold the last reference to us; then the thread ends by itself, as soon as it has nothing left to do.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the thread that commits has panicked");
        }
    }
}

/// The thread's side.
struct Writing {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    inbox: Receiver<Job>,
    queued: Arc<AtomicUsize>,
    refusal: Arc<Mutex<Option<Refusal>>>,
}

impl Writing {
    fn run(self) {
        let mut held = None;
        let mut instances = HashSet::new();
        while let Some(first) = held.take().or_else(|| self.inbox.recv().ok()) {
            let (mut commits, mut dones) = (Vec::new(), Vec::new());
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(job) = next {
                let more = job.commit.bytes();
                let over = !commits.is_empty() && bytes + more > BATCH_BYTES_MAX;
                if over || !instances.insert(job.commit.instance) {
                    held = Some(job); // It opens the next batch, so that commits of one instance keep their order.
                    break;
                }
                bytes += more;
                commits.push(job.commit);
                dones.push(job.done);
                next = if commits.len() < BATCH_COMMITS_MAX { self.inbox.try_recv().ok() } else { None };
            }
            instances.clear();
            self.write(&commits, dones);
        }
    }

    fn write(&self, commits: &[Commit], dones: Vec<Box<dyn FnOnce(CommitResult) + Send>>) {
        let began = Instant::now();
        let written = self.store.commit(commits);
        note(&self.refusal, written.as_ref().map(drop));
        match written {
            Ok(outcomes) => {
                assert_eq!(outcomes.len(), commits.len(), "a store answers every commit");
                self.metrics.batch_committed(commits.len(), began.elapsed());
                commits.iter().zip(&outcomes).for_each(|(commit, outcome)| self.count(commit, *outcome));
                for (done, outcome) in dones.into_iter().zip(outcomes) {
                    self.answer(done, Ok(outcome));
                }
            }
            Err(error) if commits.len() == 1 || Refusal::of(&error).is_some() => {
                let error = Arc::new(error);
                for done in dones {
                    self.answer(done, Err(Arc::clone(&error)));
                }
            }
            Err(error) => {
                tracing::warn!("a batch of {} commits is tried one by one: {error}", commits.len());
                for (commit, done) in commits.iter().zip(dones) {
                    self.write(std::slice::from_ref(commit), vec![done]);
                }
            }
        }
    }

    fn count(&self, commit: &Commit, outcome: CommitOutcome) {
        match (&commit.change, outcome) {
            (Change::Create(new), CommitOutcome::Done) => {
                self.metrics.instance_started();
                if new.status.is_ended() {
                    self.metrics.instance_ended(new.status.name());
                }
            }
            (Change::Advance { status, .. }, CommitOutcome::Done) if status.is_ended() => {
                self.metrics.instance_ended(status.name());
            }
            _ => (),
        }
    }

    fn answer(&self, done: Box<dyn FnOnce(CommitResult) + Send>, result: CommitResult) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        done(result);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, Mutex};

    use super::*;
    use crate::model::MessageKey;
    use crate::store::EncodedMessage;
    use crate::store::memory::{Fault, MemoryStore};
    use crate::store::suite::{self, World};

    /// Submits `commits` so that they queue up behind a first one, and tells how each went and how many batches they took.
    fn check(world: &World, store: &Arc<MemoryStore>, faults: &[Fault], commits: Vec<Commit>, batches: u64, expected: &[&str]) {
        let committer = Committer::new(Arc::clone(store) as Arc<dyn Store>);
        let busy = Arc::new(Barrier::new(2));
        let free = Arc::new(Barrier::new(2));
        let (arrived, go_on) = (Arc::clone(&busy), Arc::clone(&free));
        committer.submit(world.create(9_999, "first"), move |_| {
            arrived.wait();
            go_on.wait();
        });
        busy.wait();
        let writes = store.writes();
        faults.iter().for_each(|fault| store.fail_next(*fault));
        let seen = Arc::new(Mutex::new(vec![String::new(); commits.len()]));
        for (n, commit) in commits.into_iter().enumerate() {
            let seen = Arc::clone(&seen);
            committer.submit(commit, move |result| {
                seen.lock().unwrap()[n] = match result {
                    Ok(CommitOutcome::Done) => "done".into(),
                    Ok(CommitOutcome::Refused(status)) => format!("refused, {status}"),
                    Err(error) => error.to_string(),
                }
            });
        }
        assert_eq!(committer.queued(), expected.len());
        free.wait();
        drop(committer);
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(store.writes() - writes, batches);
    }

    fn world() -> (World, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::new());
        (World::new(&*store), store)
    }

    #[test]
    fn what_queues_up_becomes_one_batch() {
        let (world, store) = world();
        let commits = vec![world.create(1, "a"), world.create(2, "b"), world.create(3, "a")];
        check(&world, &store, &[], commits, 1, &["done", "done", "refused, Pending"]);
    }

    #[test]
    fn only_the_commit_at_fault_fails() {
        let (world, store) = world();
        let commits = vec![world.create(1, "a"), world.advance(7, 3), world.create(2, "b")];
        let at_fault = format!("execution {} is not at 3 events", world.execution(7).0);
        check(&world, &store, &[], commits, 4, &["done", &at_fault, "done"]);
    }

    #[test]
    fn a_batch_that_fails_once_goes_through_one_by_one() {
        let (world, store) = world();
        check(&world, &store, &[Fault::Refuse], vec![world.create(1, "a"), world.create(2, "b")], 3, &["done", "done"]);
    }

    #[test]
    fn a_failed_sync_fails_the_batch_and_all_that_follow() {
        for (fault, written) in [(Fault::Poison, false), (Fault::RefuseAfterWriting, true)] {
            let (world, store) = world();
            let poisoned = StoreError::Poisoned("a sync that failed on demand".into()).to_string();
            check(&world, &store, &[fault], vec![world.create(1, "a"), world.create(2, "b")], 1, &[&poisoned, &poisoned]);
            assert!(matches!(store.commit(&[world.create(3, "c")]), Err(StoreError::Poisoned(_))));
            let id = suite::id("b");
            assert_eq!(store.reopen().instance(world.hub, &id).unwrap().is_some(), written);
        }
    }

    #[test]
    fn a_stale_owner_fails_as_a_whole() {
        let (world, store) = world();
        let committer = Committer::new(Arc::clone(&store) as Arc<dyn Store>);
        drop(store.reopen());
        let (tell, told) = mpsc::channel();
        committer.submit(world.create(1, "a"), move |result| tell.send(result).unwrap());
        let error = told.recv().unwrap().unwrap_err();
        assert!(matches!(*error, StoreError::Fenced { .. }), "{error}");
    }

    #[test]
    fn commits_of_one_instance_go_in_order_and_apart() {
        let (world, store) = world();
        let commits = vec![
            world.create(1, "a"),
            world.advance(1, 1),
            world.continued(1, 1, 3, 3),
            Commit { instance: world.key(1), execution: world.execution(3), ..world.advance(1, 1) },
            world.create(2, "b"),
        ];
        check(&world, &store, &[], commits, 4, &["done"; 5]);
    }

    #[test]
    fn a_batch_ends_at_a_megabyte_and_at_512_commits() {
        let (world, store) = world();
        let large = |n: i64| Commit { events: suite::filler(600_000), ..world.create(n, &format!("large-{n}")) };
        check(&world, &store, &[], (1..=3).map(large).collect(), 3, &["done"; 3]);
        let message = EncodedMessage { key: MessageKey(0), to: suite::id("roll"), json: "x".repeat(600_000) };
        let sender = |n: i64| {
            let sends = vec![EncodedMessage { key: MessageKey(n), ..message.clone() }];
            Commit { sends, ..world.create(n, &format!("sender-{n}")) }
        };
        check(&world, &store, &[], (4..=6).map(sender).collect(), 3, &["done"; 3]);
        let small = (10..1_034).map(|n| world.create(n, &format!("small-{n}"))).collect();
        check(&world, &store, &[], small, 2, &["done"; 1_024]);
    }

    #[test]
    fn a_drop_writes_everything_that_was_submitted() {
        let (world, store) = world();
        let committer = Committer::new(Arc::clone(&store) as Arc<dyn Store>);
        for n in 0..2_000 {
            committer.submit(world.create(n, &format!("loaf-{n}")), |result| assert!(result.is_ok()));
        }
        drop(committer);
        assert_eq!(store.instances(world.hub, None, usize::MAX).unwrap().len(), 2_000);
    }

    #[test]
    fn the_last_answer_may_drop_the_committer() {
        let (world, store) = world();
        let committer = Arc::new(Mutex::new(Some(Committer::new(store))));
        let (tell, told) = mpsc::channel();
        let last = Arc::clone(&committer);
        let guard = committer.lock().unwrap();
        guard.as_ref().unwrap().submit(world.create(1, "a"), move |_| {
            drop(last.lock().unwrap().take());
            tell.send(()).unwrap();
        });
        drop(guard);
        told.recv().unwrap();
    }
    #[test]
    fn a_store_that_takes_nothing_is_remembered_until_it_takes_something() {
        let (world, store) = world();
        let committer = Committer::new(Arc::clone(&store) as Arc<dyn Store>);
        let commit = |n: i64| {
            let (tell, told) = mpsc::channel();
            committer.submit(world.create(n, &format!("loaf-{n}")), move |result| tell.send(result.is_ok()).unwrap());
            (told.recv().unwrap(), committer.refusal())
        };
        assert_eq!(commit(1), (true, None));
        store.fail_next(Fault::Refuse);
        assert_eq!(commit(2), (false, None), "the next one may go through");
        store.fail_next(Fault::Full);
        assert_eq!(commit(3), (false, Some(Refusal::Full)));
        store.fail_next(Fault::Refuse);
        assert_eq!(commit(4), (false, Some(Refusal::Full)), "this one says nothing of the others");
        assert_eq!(commit(5), (true, None));
        store.fail_next(Fault::Full);
        assert_eq!(commit(6), (false, Some(Refusal::Full)));
        committer.note(store.probe().as_ref().copied());
        assert_eq!(committer.refusal(), None, "there is space again");
        store.fail_next(Fault::Poison);
        assert_eq!(commit(7), (false, Some(Refusal::Poisoned)));
        committer.note(store.probe().as_ref().copied());
        assert_eq!(committer.refusal(), Some(Refusal::Poisoned));
    }
}
