//! Do all stores behave alike? Every case here runs against each of them; what is particular to one is tested beside it.

mod deletion;
mod pauses;
mod purge;
mod relations;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

use deletion::{
    a_deleted_module_gets_no_new_instances, a_version_goes_when_no_open_instance_needs_it,
    bytes_go_when_no_hub_and_no_instance_needs_them, the_current_version_goes_only_with_its_module,
};
use pauses::{a_suspended_instance_is_open_and_says_why, only_what_has_failed_is_opened_again};
use purge::{
    a_number_is_not_given_out_again_when_all_of_it_is_gone, a_purged_id_is_free_and_its_history_is_swept,
    an_ended_id_stays_if_the_new_instance_replaces_nothing, only_what_has_ended_and_stands_still_is_purged,
    what_goes_leaves_one_note_for_each_hub,
};
use relations::{
    a_commit_that_is_not_written_sends_and_takes_nothing, a_continuation_of_what_is_not_there_changes_nothing,
    a_list_shows_what_has_all_tags, a_message_stays_until_it_is_taken, a_wake_stays_until_the_next,
    an_instance_goes_on_as_another_execution, an_instance_that_goes_on_for_ever_leaves_nothing_behind,
    lines_stay_through_all_executions_and_go_with_the_instance, messages_page_by_number_within_their_hub,
    progress_stays_until_its_execution_is_over, what_is_due_comes_by_time_and_then_number,
};

use super::memory::MemoryStore;
use super::sqlite::SqliteStore;
use super::{
    Change, Commit, CommitOutcome, Deletion, EncodedEvents, EncodedLines, EncodedMessage, Filter, InstanceRow, NewInstance,
    Position, Progress, Replaces, Store, StoreError, Upload, Uploaded,
};
use crate::model::execution::tests::{ended, resolved, scheduled, started, turn};
use crate::model::{
    Body, Digest, End, Event, ExecutionKey, HubKey, HubName, InstanceId, InstanceKey, LogLevel, LogLine, LogRecord, Message,
    MessageKey, Outcome, Payload, RuntimeStatus, Tags, TaskId, Wake,
};

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $case() { super::$case(&super::MemoryStore::new()); })*
        }
        mod sqlite {
            $(#[test] fn $case() { super::$case(tempfile::tempdir().unwrap().path()); })*
        }
    };
}

cases![
    commits_append_behind_the_expected_length,
    a_commit_for_a_wrong_length_changes_nothing_its_batch_included,
    a_number_is_not_used_twice,
    a_live_id_is_refused_while_the_rest_of_the_batch_goes_through,
    an_ended_id_is_replaced_and_its_old_history_is_swept_in_slices,
    an_ended_id_stays_if_the_new_instance_replaces_nothing,
    a_stale_owner_writes_nothing,
    everything_is_there_after_reopening,
    instances_page_by_key_within_their_hub,
    a_suspended_instance_is_open_and_says_why,
    only_what_has_failed_is_opened_again,
    a_list_goes_by_time_and_then_id_or_with_a_prefix_by_id,
    a_list_shows_what_meets_all_conditions,
    live_instances_are_counted_by_module,
    an_instance_of_an_unknown_module_is_an_error,
    a_version_goes_when_no_open_instance_needs_it,
    the_current_version_goes_only_with_its_module,
    a_deleted_module_gets_no_new_instances,
    bytes_go_when_no_hub_and_no_instance_needs_them,
    an_upload_is_new_then_known_then_current_again,
    modules_are_listed_by_name_the_newest_first,
    hubs_come_with_their_first_upload_and_compare_without_case,
    ids_count_by_case_and_by_hub,
    texts_come_back_byte_for_byte,
    a_custom_status_stays_until_the_next,
    the_first_and_the_last_event_may_be_one,
    a_history_is_read_from_any_event_on_in_pages,
    the_newest_lines_of_a_log_are_kept_under_their_numbers,
    the_last_execution_counts_superseded_ones_too,
    only_what_has_ended_and_stands_still_is_purged,
    a_purged_id_is_free_and_its_history_is_swept,
    a_number_is_not_given_out_again_when_all_of_it_is_gone,
    what_goes_leaves_one_note_for_each_hub,
    an_instance_goes_on_as_another_execution,
    a_continuation_of_what_is_not_there_changes_nothing,
    lines_stay_through_all_executions_and_go_with_the_instance,
    an_instance_that_goes_on_for_ever_leaves_nothing_behind,
    a_message_stays_until_it_is_taken,
    a_commit_that_is_not_written_sends_and_takes_nothing,
    messages_page_by_number_within_their_hub,
    what_is_due_comes_by_time_and_then_number,
    a_wake_stays_until_the_next,
    a_list_shows_what_has_all_tags,
    progress_stays_until_its_execution_is_over,
    an_unknown_execution_has_an_empty_history,
    an_empty_batch_is_done,
];

/// Where a store lies, so that it can be opened again.
trait Place {
    fn open(&self) -> Box<dyn Store>;

    /// Opens it while somebody else has it open.
    fn take_over(&self) -> Box<dyn Store> {
        self.open()
    }
}

impl Place for MemoryStore {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.reopen())
    }
}

impl Place for Path {
    fn open(&self) -> Box<dyn Store> {
        Box::new(SqliteStore::open(self).unwrap())
    }

    fn take_over(&self) -> Box<dyn Store> {
        Box::new(SqliteStore::take_over(self).unwrap())
    }
}

/// A hub with one module, and commits that fit into it.
pub(crate) struct World {
    pub(crate) hub: HubKey,
}

pub(super) const MODULE: &[u8] = b"the bytes of a bakery";

impl World {
    pub(crate) fn new(store: &dyn Store) -> Self {
        upload(store, "Bakery", "bread", MODULE, 100);
        Self { hub: store.hubs().unwrap()[0].key }
    }

    pub(super) fn execution(&self, n: i64) -> ExecutionKey {
        ExecutionKey(ExecutionKey::range(self.hub).0.0 + n)
    }

    pub(super) fn key(&self, n: i64) -> InstanceKey {
        self.execution(n).instance()
    }

    /// Creates instance `n` with one event.
    pub(crate) fn create(&self, n: i64, of: &str) -> Commit {
        let new = NewInstance {
            hub: self.hub,
            id: id(of),
            function: "BakeBread".into(),
            module: Digest::of(MODULE),
            created_ms: 1_000 + n.unsigned_abs(),
            status: RuntimeStatus::Pending,
            updated_ms: 1_000 + n.unsigned_abs(),
            custom_status: None,
            tags: Tags::default(),
            wake: Wake::NEVER,
            replaces: Replaces::Ended,
        };
        let events = EncodedEvents::of(&[Event::Started(started())]);
        Commit {
            instance: self.key(n),
            execution: self.execution(n),
            events,
            lines: None,
            change: Change::Create(new),
            sends: Vec::new(),
            takes: Vec::new(),
        }
    }

    /// Appends two events to instance `n`, which then runs.
    pub(crate) fn advance(&self, n: i64, expected_length: u32) -> Commit {
        let change = Change::Advance {
            expected_length,
            status: RuntimeStatus::Running,
            updated_ms: 2_000,
            custom_status: None,
            wake: None,
            reason: None,
        };
        let events = EncodedEvents::of(&[turn(1_000, 0), scheduled(0, "Mix")]);
        let events = if expected_length == 1 { events } else { EncodedEvents::of(&[resolved(0)]) };
        Commit {
            instance: self.key(n),
            execution: self.execution(n),
            events,
            lines: None,
            change,
            sends: Vec::new(),
            takes: Vec::new(),
        }
    }

    /// Ends instance `n` with one event.
    pub(crate) fn end(&self, n: i64, expected_length: u32, status: RuntimeStatus) -> Commit {
        let (custom_status, wake, reason) = (None, None, None);
        let change = Change::Advance { expected_length, status, updated_ms: 3_000, custom_status, wake, reason };
        Commit { change, events: EncodedEvents::of(&[ended()]), ..self.advance(n, expected_length) }
    }

    /// Instance `n` goes on from one execution as another, with one event.
    pub(crate) fn continued(&self, n: i64, from: i64, expected_length: u32, to: i64) -> Commit {
        let change = Change::Continue {
            from: self.execution(from),
            expected_length,
            module: Digest::of(MODULE),
            created_ms: 4_000,
            custom_status: None,
            wake: Wake::NEVER,
        };
        let events = EncodedEvents::of(&[Event::Started(started())]);
        Commit { execution: self.execution(to), events, change, ..self.advance(n, 1) }
    }

    /// Message `n`, an event for an instance.
    fn message(&self, n: i64, to: &str) -> Message {
        let body = Body::Raise { name: "risen".into(), payload: Payload::of(&n) };
        Message { key: self.message_key(n), to: id(to), body }
    }

    fn message_key(&self, n: i64) -> MessageKey {
        MessageKey(self.execution(n).0)
    }

    fn inbox(&self, store: &dyn Store) -> Vec<i64> {
        store.inbox(self.hub, None, usize::MAX).unwrap().iter().map(|message| message.key.0 & 0xFF_FFFF).collect()
    }

    fn row(&self, store: &dyn Store, of: &str) -> InstanceRow {
        store.instance(self.hub, &id(of)).unwrap().unwrap()
    }
}

pub(super) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

/// One event of about `bytes` bytes.
pub(super) fn filler(bytes: usize) -> EncodedEvents {
    let outcome = Outcome::Completed(Payload::of(&"x".repeat(bytes)));
    EncodedEvents::of(&[Event::Resolved { task: TaskId(0), at_ms: 1_500, outcome, ran: None }])
}

fn tags(tags: &[(&str, &str)]) -> Tags {
    Tags::new(tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
}

/// What a commit says of its new instance.
fn new_of(commit: &mut Commit) -> &mut NewInstance {
    let Change::Create(new) = &mut commit.change else { unreachable!() };
    new
}

/// The same commit, which changes the wake.
fn waking(mut commit: Commit, at: Wake) -> Commit {
    match &mut commit.change {
        Change::Create(new) => new.wake = at,
        Change::Advance { wake, .. } => *wake = Some(at),
        Change::Continue { wake, .. } | Change::Reopen { wake, .. } => *wake = at,
    }
    commit
}

fn sending(messages: &[Message], commit: Commit) -> Commit {
    Commit { sends: messages.iter().map(EncodedMessage::of).collect(), ..commit }
}

fn hub(name: &str) -> HubName {
    name.parse().unwrap()
}

fn upload(store: &dyn Store, of: &str, name: &str, bytes: &[u8], at_ms: u64) -> Uploaded {
    let name = name.parse().unwrap();
    let upload = Upload { hub: &hub(of), name: &name, digest: Digest::of(bytes), bytes, catalog: "{}", at_ms };
    store.upload(&upload).unwrap()
}

fn commit(store: &dyn Store, batch: &[Commit]) {
    assert_eq!(store.commit(batch).unwrap(), vec![CommitOutcome::Done; batch.len()]);
}

const NONE: [i64; 0] = [];

fn keys(rows: Vec<InstanceRow>) -> Vec<i64> {
    rows.iter().map(|row| row.key.0 & 0xFF_FFFF).collect()
}

fn commits_append_behind_the_expected_length(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf")]);
    let created = world.row(&*store, "loaf");
    assert_eq!(
        (created.length, created.status, created.created_ms, created.updated_ms),
        (1, RuntimeStatus::Pending, 1_001, 1_001)
    );
    commit(&*store, &[world.advance(1, 1), world.create(2, "roll")]);
    commit(&*store, &[world.advance(1, 3)]);
    let running = world.row(&*store, "loaf");
    assert_eq!((running.length, running.status, running.updated_ms), (4, RuntimeStatus::Running, 2_000));
    commit(&*store, &[world.end(1, 4, RuntimeStatus::Completed)]);
    let expected = InstanceRow {
        key: world.key(1),
        execution: world.execution(1),
        length: 5,
        id: id("loaf"),
        function: "BakeBread".into(),
        module: Digest::of(MODULE),
        status: RuntimeStatus::Completed,
        created_ms: 1_001,
        updated_ms: 3_000,
        custom_status: None,
        tags: Tags::default(),
        wake: Wake::NEVER,
        reason: None,
    };
    assert_eq!(world.row(&*store, "loaf"), expected);
    let history = [Event::Started(started()), turn(1_000, 0), scheduled(0, "Mix"), resolved(0), ended()];
    assert_eq!(store.history(world.execution(1)).unwrap(), history);
    assert_eq!(store.history(world.execution(2)).unwrap(), history[..1]);
}

fn a_history_is_read_from_any_event_on_in_pages(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf"), world.create(2, "roll")]);
    commit(&*store, &[world.advance(1, 1), Commit { events: filler(100_000), ..world.advance(2, 1) }]);
    commit(&*store, &[world.advance(1, 3)]);
    commit(&*store, &[world.end(1, 4, RuntimeStatus::Completed)]);
    for n in [1, 2] {
        let whole = store.history(world.execution(n)).unwrap();
        let end = u32::try_from(whole.len()).unwrap();
        for from in 0..=end + 1 {
            let rest = &whole[(from as usize).min(whole.len())..];
            assert_eq!(store.history_from(world.execution(n), from, usize::MAX).unwrap(), rest, "from {from}");
            // However small a page is, it has one event.
            for bytes_max in [0, 1] {
                let page = store.history_from(world.execution(n), from, bytes_max).unwrap();
                assert_eq!(page, rest[..rest.len().min(1)], "from {from}, {bytes_max} bytes");
            }
        }
        // What a store needs between events may count too.
        let started = serde_json::to_string(&whole[0]).unwrap().len();
        assert_eq!(store.history_from(world.execution(n), 0, started).unwrap(), whole[..1]);
        assert_eq!(store.history_from(world.execution(n), 0, started + 3).unwrap(), whole[..2]);
    }
    assert_eq!(store.history_from(world.execution(9), 0, 100).unwrap(), []);
}

fn a_commit_for_a_wrong_length_changes_nothing_its_batch_included(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf"), world.create(2, "roll")]);
    let before = (world.row(&*store, "loaf"), world.row(&*store, "roll"));
    let other_execution = Commit { execution: world.execution(9), ..world.advance(1, 1) };
    for wrong in
        [world.advance(1, 0), world.advance(1, 2), world.advance(7, 1), world.end(1, 2, RuntimeStatus::Failed), other_execution]
    {
        let Change::Advance { expected_length, .. } = wrong.change else { unreachable!() };
        let at_fault = wrong.execution;
        let error = store.commit(&[world.advance(2, 1), world.create(3, "bun"), wrong]).unwrap_err();
        assert!(
            matches!(error, StoreError::Conflict { execution, expected } if (execution, expected) == (at_fault, expected_length)),
            "{error}"
        );
        assert_eq!((world.row(&*store, "loaf"), world.row(&*store, "roll")), before);
        assert_eq!(store.instance(world.hub, &id("bun")).unwrap(), None);
        assert_eq!(store.history(world.execution(2)).unwrap().len(), 1);
    }
    commit(&*store, &[world.advance(2, 1), world.create(3, "bun")]); // And no transaction was left open.
}

fn a_number_is_not_used_twice(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf")]);
    for again in [world.create(1, "loaf"), world.create(1, "roll")] {
        let error = store.commit(&[world.create(2, "bun"), again]).unwrap_err();
        assert!(matches!(error, StoreError::Conflict { expected: 0, .. }), "{error}");
    }
    assert_eq!(keys(store.instances(world.hub, None, 9).unwrap()), [1]);
}

fn a_live_id_is_refused_while_the_rest_of_the_batch_goes_through(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf"), world.create(2, "roll")]);
    commit(&*store, &[world.advance(2, 1)]);
    let batch =
        [world.create(3, "loaf"), world.create(4, "bun"), world.create(5, "roll"), world.create(6, "bun"), world.advance(1, 1)];
    let refused = CommitOutcome::Refused;
    let (pending, running) = (refused(RuntimeStatus::Pending), refused(RuntimeStatus::Running));
    let expected = [pending, CommitOutcome::Done, running, pending, CommitOutcome::Done];
    assert_eq!(store.commit(&batch).unwrap(), expected);
    assert_eq!(keys(store.instances(world.hub, None, 9).unwrap()), [1, 2, 4]);
    assert_eq!(store.history(world.execution(3)).unwrap(), []);
    assert_eq!(world.row(&*store, "loaf").length, 3);
}

fn an_ended_id_is_replaced_and_its_old_history_is_swept_in_slices(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    assert_eq!(store.sweep(10).unwrap(), 0);
    commit(&*store, &[world.create(1, "loaf")]);
    commit(&*store, &[world.advance(1, 1)]);
    commit(&*store, &[world.advance(1, 3)]);
    commit(&*store, &[world.end(1, 4, RuntimeStatus::Failed)]);
    commit(&*store, &[world.create(2, "loaf")]);
    assert_eq!((world.row(&*store, "loaf").key, world.row(&*store, "loaf").status), (world.key(2), RuntimeStatus::Pending));
    assert_eq!(keys(store.instances(world.hub, None, 9).unwrap()), [2]);
    commit(&*store, &[world.end(2, 1, RuntimeStatus::Completed)]);
    commit(&*store, &[world.create(3, "loaf")]);
    // Six rows of history, and two that they are superseded.
    assert_eq!([3, 3, 3, 3].map(|rows| store.sweep(rows).unwrap()), [3, 3, 2, 0]);
    assert_eq!([1, 2].map(|n| store.history(world.execution(n)).unwrap().len()), [0, 0]);
    assert_eq!(store.history(world.execution(3)).unwrap().len(), 1);
}

fn a_stale_owner_writes_nothing(place: &(impl Place + ?Sized)) {
    let stale = place.open();
    let world = World::new(&*stale);
    commit(&*stale, &[world.create(1, "loaf")]);
    let owner = place.take_over();
    let name = "bread".parse().unwrap();
    let again = Upload { hub: &hub("Bakery"), name: &name, digest: Digest([9; 32]), bytes: b"", catalog: "", at_ms: 1 };
    for _ in 0..2 {
        assert!(matches!(stale.commit(&[world.advance(1, 1)]), Err(StoreError::Fenced { .. })));
        assert!(matches!(stale.upload(&again), Err(StoreError::Fenced { .. })));
        assert!(matches!(stale.delete_module(world.hub, &name, None), Err(StoreError::Fenced { .. })));
        assert!(matches!(stale.purge(&[world.row(&*stale, "loaf")]), Err(StoreError::Fenced { .. })));
        assert!(matches!(stale.probe(), Err(StoreError::Fenced { .. })));
        assert!(matches!(stale.discard_messages(&[world.message_key(1)]), Err(StoreError::Fenced { .. })));
        let progress = Progress { execution: world.execution(1), task: TaskId(0), payload: Payload::null() };
        assert!(matches!(stale.save_progress(&[progress]), Err(StoreError::Fenced { .. })));
    }
    assert_eq!(world.row(&*stale, "loaf").length, 1);
    owner.probe().unwrap();
    commit(&*owner, &[world.advance(1, 1)]);
    assert_eq!(world.row(&*stale, "loaf").length, 3);
}

fn everything_is_there_after_reopening(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf"), world.create(2, "roll")]);
    commit(&*store, &[world.advance(1, 1)]);
    let seen = |store: &dyn Store| {
        let rows = store.instances(world.hub, None, 9).unwrap();
        let histories = [1, 2].map(|n| store.history(world.execution(n)).unwrap());
        (rows, histories, store.hubs().unwrap(), store.modules(world.hub).unwrap())
    };
    let before = seen(&*store);
    drop(store);
    let store = place.open();
    assert_eq!(seen(&*store), before);
    commit(&*store, &[world.advance(1, 3)]);
}

fn instances_page_by_key_within_their_hub(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Laundry", "shirts", MODULE, 100);
    let other = World { hub: store.hubs().unwrap()[1].key };
    commit(&*store, &[world.create(5, "e"), other.create(1, "a"), world.create(2, "z"), world.create(3, "b")]);
    assert_eq!(keys(store.instances(world.hub, None, 2).unwrap()), [2, 3]);
    assert_eq!(keys(store.instances(world.hub, Some(world.key(3)), 2).unwrap()), [5]);
    assert_eq!(keys(store.instances(world.hub, Some(world.key(5)), 2).unwrap()), NONE);
    assert_eq!(keys(store.instances(other.hub, None, usize::MAX).unwrap()), [1]);
    assert_eq!(keys(store.instances(world.hub, None, 0).unwrap()), NONE);
}

/// The IDs of a list that is read in pages of `max`, and how many pages it took.
fn listed(store: &dyn Store, hub: HubKey, filter: &Filter, max: usize) -> (String, usize) {
    let (mut after, mut ids, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = store.list(hub, filter, after.as_ref(), max).unwrap();
        assert!(page.rows.len() <= max);
        ids.extend(page.rows.iter().map(|row| row.id.to_string()));
        pages += 1;
        after = page.next;
        if after.is_none() {
            return (ids.join(" "), pages);
        }
    }
}

fn a_list_goes_by_time_and_then_id_or_with_a_prefix_by_id(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Laundry", "shirts", MODULE, 100);
    let other = World { hub: store.hubs().unwrap()[1].key };
    // Two of each time, and those of the same time in the wrong order.
    let ids = ["z", "a", "y", "b", "ab", "aa"];
    let mut batch: Vec<_> = ids.iter().zip(1..).map(|(of, n)| world.create(n, of)).collect();
    for (n, commit) in batch.iter_mut().enumerate() {
        let Change::Create(new) = &mut commit.change else { unreachable!() };
        new.created_ms = 1_000 + n as u64 / 2;
    }
    batch.push(other.create(1, "other"));
    commit(&*store, &batch);
    let all = Filter::default();
    let prefix = |text: &str| Filter { id_prefix: text.into(), ..Filter::default() };
    let any = Filter { statuses: Some(vec![RuntimeStatus::Running, RuntimeStatus::Pending]), ..Filter::default() };
    commit(&*store, &[world.advance(2, 1), world.advance(5, 1)]);
    for (filter, expected) in [(&all, "a z b y aa ab"), (&any, "a z b y aa ab"), (&prefix("a"), "a aa ab"), (&prefix("ab"), "ab")]
    {
        let count = expected.split(' ').count();
        for max in 1..=7 {
            assert_eq!(listed(&*store, world.hub, filter, max), (expected.into(), count.div_ceil(max)), "{filter:?} by {max}");
        }
    }
    assert_eq!(listed(&*store, world.hub, &prefix("A"), 9), (String::new(), 1));
    assert_eq!(listed(&*store, HubKey(9), &all, 9), (String::new(), 1));
    // The place in a list does not depend on the instance that it is behind.
    let behind = Position { created_ms: 1_001, id: id("gone") };
    let rest = store.list(world.hub, &all, Some(&behind), 9).unwrap();
    assert_eq!(rest.rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["y", "aa", "ab"]);
}

fn a_list_shows_what_meets_all_conditions(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let ids = ["loaf-1", "loaf-2", "roll-1", "roll-2"]; // Created at 1,001 to 1,004.
    commit(&*store, &ids.iter().zip(1..).map(|(of, n)| world.create(n, of)).collect::<Vec<_>>());
    commit(&*store, &[world.advance(2, 1), world.end(3, 1, RuntimeStatus::Failed), world.end(4, 1, RuntimeStatus::Completed)]);
    let check = |from: Option<i64>, to: Option<i64>, statuses: Option<&[RuntimeStatus]>, prefix: &str, expected: &str| {
        let statuses = statuses.map(<[_]>::to_vec);
        let filter =
            Filter { created_from_ms: from, created_to_ms: to, statuses, id_prefix: prefix.into(), tags: Tags::default() };
        assert_eq!(listed(&*store, world.hub, &filter, 2).0, expected, "{filter:?}");
    };
    let (failed, live) = (&[RuntimeStatus::Failed][..], &[RuntimeStatus::Pending, RuntimeStatus::Running][..]);
    check(Some(1_002), None, None, "", "loaf-2 roll-1 roll-2");
    check(None, Some(1_002), None, "", "loaf-1 loaf-2");
    check(Some(1_002), Some(1_003), None, "", "loaf-2 roll-1");
    check(Some(1_003), Some(1_002), None, "", "");
    check(Some(i64::MIN), Some(i64::MAX), None, "", "loaf-1 loaf-2 roll-1 roll-2");
    check(None, Some(-1), None, "", "");
    check(None, None, Some(failed), "", "roll-1");
    check(None, None, Some(live), "", "loaf-1 loaf-2");
    check(None, None, Some(&[]), "", "");
    check(None, None, Some(live), "roll", "");
    check(None, None, Some(failed), "r", "roll-1");
    check(Some(1_004), None, None, "roll", "roll-2");
    check(Some(1_002), None, Some(live), "loaf", "loaf-2");
}

fn live_instances_are_counted_by_module(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Bakery", "bread", b"second", 200);
    let mut second = world.create(3, "c");
    let Change::Create(new) = &mut second.change else { unreachable!() };
    new.module = Digest::of(b"second");
    commit(&*store, &[world.create(1, "a"), world.create(2, "b"), second, world.create(4, "d")]);
    commit(&*store, &[world.end(4, 1, RuntimeStatus::Completed)]);
    let mut expected = [(Digest::of(MODULE), 2), (Digest::of(b"second"), 1)];
    expected.sort();
    assert_eq!(store.live_instances(world.hub).unwrap(), expected);
    assert_eq!(store.live_instances(HubKey(9)).unwrap(), []);
}

fn an_instance_of_an_unknown_module_is_an_error(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let mut orphan = world.create(1, "a");
    let Change::Create(new) = &mut orphan.change else { unreachable!() };
    new.module = Digest([0xAB; 32]);
    let error = store.commit(&[world.create(2, "b"), orphan]).unwrap_err();
    assert_eq!(error.to_string(), format!("no module of this task hub has the version {}", "ab".repeat(32)));
    assert_eq!(keys(store.instances(world.hub, None, 9).unwrap()), NONE);
}

/// Deletes one version of the bread, or all, and says what came of it.
fn an_upload_is_new_then_known_then_current_again(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let versions = || {
        let rows = store.modules(world.hub).unwrap();
        rows.iter().map(|row| (row.bytes, row.uploaded_ms, row.current)).collect::<Vec<_>>()
    };
    assert_eq!(upload(&*store, "bakery", "bread", b"second", 200), Uploaded::New);
    assert_eq!(versions(), [(6, 200, true), (21, 100, false)]);
    assert_eq!(upload(&*store, "bakery", "bread", MODULE, 300), Uploaded::Known);
    assert_eq!(versions(), [(6, 200, false), (21, 100, true)]);
    assert_eq!(upload(&*store, "bakery", "cake", b"second", 400), Uploaded::New);
    assert_eq!(versions(), [(6, 200, false), (21, 100, true), (6, 400, true)]);
    assert_eq!(store.module_bytes(Digest::of(b"second")).unwrap().unwrap(), b"second");
    assert_eq!(store.module_bytes(Digest([0; 32])).unwrap(), None);
}

fn modules_are_listed_by_name_the_newest_first(place: &(impl Place + ?Sized)) {
    let store = place.open();
    for (name, bytes, at_ms) in [("b", "1", 100), ("a", "2", 100), ("b", "3", 200), ("b", "4", 200), ("B", "5", 100)] {
        upload(&*store, "Bakery", name, bytes.as_bytes(), at_ms);
    }
    upload(&*store, "Laundry", "a", b"6", 100);
    let rows = store.modules(store.hubs().unwrap()[0].key).unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.digest)).collect();
    let expected = [("B", "5"), ("a", "2"), ("b", "4"), ("b", "3"), ("b", "1")];
    assert_eq!(seen, expected.map(|(name, bytes)| (name, Digest::of(bytes.as_bytes()))));
}

fn hubs_come_with_their_first_upload_and_compare_without_case(place: &(impl Place + ?Sized)) {
    let store = place.open();
    assert_eq!(store.hubs().unwrap(), []);
    for name in ["Bakery", "Laundry", "bAKERY"] {
        upload(&*store, name, "m", name.as_bytes(), 100);
    }
    let hubs = store.hubs().unwrap();
    let seen: Vec<_> = hubs.iter().map(|hub| (hub.key.0, hub.name.as_str(), hub.partitions)).collect();
    assert_eq!(seen, [(1, "Bakery", 64), (2, "Laundry", 64)]);
    assert_eq!(store.modules(HubKey(1)).unwrap().len(), 2);
}

fn ids_count_by_case_and_by_hub(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Laundry", "shirts", MODULE, 100);
    let other = World { hub: store.hubs().unwrap()[1].key };
    commit(&*store, &[world.create(1, "loaf"), world.create(2, "LOAF"), other.create(1, "loaf")]);
    assert_eq!(world.row(&*store, "LOAF").key, world.key(2));
    assert_eq!(other.row(&*store, "loaf").key, other.key(1));
    assert_eq!(store.instance(world.hub, &id("loa")).unwrap(), None);
}

fn texts_come_back_byte_for_byte(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let long = format!("\"{}\"", "Brötchen 🥐 ".repeat(200_000));
    let texts = [r#"{"b":1.0e+2, "a":  12345678901234567890123}"#, r#""\u0000\u00e9é🥐'\" --""#, "null", &long];
    for (n, text) in (1..).zip(texts) {
        let of = format!("Brötchen '{n}' 🥐");
        let payload = Payload::parse(text.to_owned()).unwrap();
        let events = [Event::Ended { at_ms: 1, end: End::Completed(payload.clone()) }];
        let mut end = Commit { events: EncodedEvents::of(&events), ..world.end(n, 1, RuntimeStatus::Completed) };
        let Change::Advance { custom_status, .. } = &mut end.change else { unreachable!() };
        *custom_status = Some(payload.clone());
        commit(&*store, &[world.create(n, &of)]);
        commit(&*store, &[end]);
        assert_eq!(world.row(&*store, &of).custom_status.unwrap().text(), text);
        assert_eq!(store.history(world.execution(n)).unwrap()[1..], events);
        assert_eq!(store.last_event(world.execution(n)).unwrap().as_ref(), events.first());
    }
}

fn a_custom_status_stays_until_the_next(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf")]);
    let steps =
        [(None, None), (Some("\"mixing\""), Some("\"mixing\"")), (None, Some("\"mixing\"")), (Some("null"), Some("null"))];
    let mut length = 1;
    for (given, kept) in steps {
        let mut step = world.advance(1, length);
        let Change::Advance { custom_status, .. } = &mut step.change else { unreachable!() };
        *custom_status = given.map(|text| Payload::parse(text.to_owned()).unwrap());
        length += step.events.count;
        commit(&*store, &[step]);
        assert_eq!(world.row(&*store, "loaf").custom_status.as_ref().map(Payload::text), kept);
    }
}

fn the_first_and_the_last_event_may_be_one(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let both = || (store.first_event(world.execution(1)).unwrap(), store.last_event(world.execution(1)).unwrap());
    let first = Some(Event::Started(started()));
    assert_eq!(both(), (None, None));
    commit(&*store, &[world.create(1, "loaf")]);
    assert_eq!(both(), (first.clone(), first.clone()));
    commit(&*store, &[world.advance(1, 1)]);
    assert_eq!(both(), (first.clone(), Some(scheduled(0, "Mix"))));
    commit(&*store, &[world.advance(1, 3)]);
    commit(&*store, &[world.end(1, 4, RuntimeStatus::Completed)]);
    assert_eq!(both(), (first, Some(ended())));
}

fn the_newest_lines_of_a_log_are_kept_under_their_numbers(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let record = |n: u64| LogRecord {
        at_ms: n,
        task: (n % 2 == 1).then_some(TaskId(7)),
        line: LogLine { level: LogLevel::Warn, target: "oven".into(), message: format!("\"{n}\" °C") },
    };
    let rows_kept = 3 * EncodedLines::of(&[record(0), record(1)], usize::MAX).unwrap().json.len();
    let said = |first: u64| EncodedLines::of(&[record(first), record(first + 1)], rows_kept);
    let log = |from: u64| {
        let page = store.log(world.key(1), from).unwrap();
        assert!(page.lines.iter().all(|(number, line)| *line == record(*number)));
        (page.lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), page.next)
    };
    commit(&*store, &[world.create(1, "loaf"), Commit { lines: said(50), ..world.create(2, "roll") }]);
    assert_eq!(log(0), (vec![], 0));
    for (length, first) in (1_u32..).zip([0, 2, 4]) {
        let one_more = Commit { events: EncodedEvents::of(&[ended()]), ..world.advance(1, length) };
        commit(&*store, &[Commit { lines: said(first), ..one_more }]);
    }
    assert_eq!(log(0), (vec![0, 1, 2, 3, 4, 5], 6));
    assert_eq!(log(3), (vec![3, 4, 5], 6));
    assert_eq!(log(6), (vec![], 6));
    commit(&*store, &[Commit { lines: said(6), ..world.end(1, 4, RuntimeStatus::Completed) }]);
    assert_eq!(log(0), (vec![2, 3, 4, 5, 6, 7], 8));
    assert_eq!(log(1), (vec![2, 3, 4, 5, 6, 7], 8));
    // Of more lines than there is room for the newest are kept, under the numbers that they would have.
    let many: Vec<LogRecord> = (8..28).map(record).collect();
    commit(&*store, &[world.create(4, "bun")]);
    commit(&*store, &[Commit { lines: EncodedLines::of(&many, rows_kept), ..world.end(4, 1, RuntimeStatus::Completed) }]);
    let page = store.log(world.key(4), 0).unwrap();
    let (first, last) = (page.lines.first().unwrap().0, page.lines.last().unwrap());
    assert_eq!((page.next, last.0, &last.1.at_ms), (20, 19, &27));
    assert!((10..18).contains(&first), "{first}");
    assert_eq!(EncodedLines::of(&many, 0), None);
    // They go with the execution.
    commit(&*store, &[world.create(3, "loaf")]);
    while store.sweep(100).unwrap() > 0 {}
    assert_eq!(log(0), (vec![], 0));
    assert_eq!(store.log(world.key(2), 0).unwrap().next, 2);
}

fn the_last_execution_counts_superseded_ones_too(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let last = |first, end| store.last_execution(world.execution(first), world.execution(end)).unwrap();
    assert_eq!(last(0, 99), None);
    commit(&*store, &[world.create(7, "loaf"), world.create(3, "roll")]);
    commit(&*store, &[world.end(7, 1, RuntimeStatus::Completed)]);
    commit(&*store, &[world.create(5, "loaf")]);
    assert_eq!(store.sweep(2).unwrap(), 2, "its history, but not what says that it is superseded");
    assert_eq!(store.history(world.execution(7)).unwrap(), []);
    let expected = [Some(7), Some(5), Some(3), None, None].map(|n: Option<i64>| n.map(|n| world.execution(n)));
    assert_eq!([last(0, 99), last(0, 7), last(3, 5), last(8, 99), last(0, 3)], expected);
}

fn an_unknown_execution_has_an_empty_history(place: &(impl Place + ?Sized)) {
    let store = place.open();
    assert_eq!(store.history(ExecutionKey(42)).unwrap(), []);
    assert_eq!(store.instance(HubKey(1), &id("loaf")).unwrap(), None);
}

fn an_empty_batch_is_done(place: &(impl Place + ?Sized)) {
    assert_eq!(place.open().commit(&[]).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever a caller tries, right or wrong, both stores say and keep the same.
    #[test]
    fn both_stores_say_and_keep_the_same(batches in vec(vec((0..6_u8, 0..6_i64, 0..6_i64, 0..6_u32, 0..4_u64), 1..4), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Box<dyn Store>; 2] = [Box::new(SqliteStore::open(dir.path()).unwrap()), Box::new(MemoryStore::new())];
        let worlds = [0, 1].map(|at| World::new(&*stores[at]));
        let mut stale = [None, None];
        for batch in batches {
            let [sqlite, memory] = [0, 1].map(|at| {
                let (store, world) = (&*stores[at], &worlds[at]);
                let make = |&(kind, n, of, length, wake): &(u8, i64, i64, u32, u64)| {
                    let made = match kind {
                        0 | 1 => world.create(n, ["loaf", "roll", "bun"][usize::try_from(of).unwrap() % 3]),
                        2 => Commit { execution: world.execution(if wake == 3 { of } else { n }), ..world.advance(n, length) },
                        3 | 4 => world.continued(n, if wake < 2 { n } else { of }, length, n + 6 * of),
                        _ => world.end(n, length, RuntimeStatus::Failed),
                    };
                    let made = if wake == 1 { made } else { waking(made, Wake::at(wake)) };
                    let sends = if of == n { vec![EncodedMessage::of(&world.message(n, "loaf"))] } else { Vec::new() };
                    Commit { sends, takes: vec![world.message_key(of)], ..made }
                };
                let progress = Progress { execution: world.execution(batch[0].1), task: TaskId(0), payload: Payload::null() };
                store.save_progress(&[progress]).unwrap();
                let said = store.commit(&batch.iter().map(make).collect::<Vec<_>>()).map_err(|error| error.to_string());
                let rows = store.instances(world.hub, None, usize::MAX).unwrap();
                let due = store.due(world.hub, None, u64::MAX, None, usize::MAX).unwrap();
                let histories = (0..36).map(|n| store.history(world.execution(n)).unwrap()).collect::<Vec<_>>();
                let last = store.last_execution(world.execution(0), world.execution(99)).unwrap();
                // Some rows of now, and one that may have got on.
                let seen = rows.iter().take(usize::try_from(batch[0].4).unwrap()).chain(stale[at].as_ref()).cloned();
                let purged = store.purge(&seen.collect::<Vec<_>>()).unwrap();
                stale[at] = rows.last().cloned();
                let swept = (purged, store.sweep(1).unwrap(), store.sweep_progress(1).unwrap());
                (said, rows, due, histories, last, world.inbox(store), store.live_instances(world.hub).unwrap(), swept)
            });
            prop_assert_eq!(sqlite, memory);
        }
    }
}
