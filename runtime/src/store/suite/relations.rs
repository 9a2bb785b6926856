//! What instances have to do with time, with each other, and with what they were before.

use super::*;

pub(super) fn an_instance_goes_on_as_another_execution(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Bakery", "bread", b"second", 200);
    let mut create = world.create(1, "loaf");
    new_of(&mut create).tags = tags(&[("shop", "north")]);
    commit(&*store, &[create, world.create(2, "roll")]);
    let mut step = world.advance(1, 1);
    let Change::Advance { custom_status, .. } = &mut step.change else { unreachable!() };
    *custom_status = Some(Payload::of(&"mixing"));
    commit(&*store, &[step]);
    let before = world.row(&*store, "loaf");
    let mut next = waking(world.continued(1, 1, 3, 5), Wake::at(9_000));
    let Change::Continue { module, .. } = &mut next.change else { unreachable!() };
    *module = Digest::of(b"second");
    commit(&*store, &[next, world.advance(2, 1)]);
    let expected = InstanceRow {
        execution: world.execution(5),
        length: 1,
        module: Digest::of(b"second"),
        status: RuntimeStatus::Running,
        created_ms: 4_000,
        updated_ms: 4_000,
        wake: Wake::at(9_000),
        ..before
    };
    assert_eq!(world.row(&*store, "loaf"), expected);
    assert_eq!(expected.custom_status, Some(Payload::of(&"mixing")));
    assert_eq!(store.history(world.execution(5)).unwrap(), [Event::Started(started())]);
    assert_eq!(keys(store.instances(world.hub, None, 9).unwrap()), [1, 2]);
    assert_eq!(listed(&*store, world.hub, &Filter { created_from_ms: Some(4_000), ..Filter::default() }, 9).0, "loaf");
    let at_two = Commit { execution: world.execution(5), ..world.advance(1, 1) };
    commit(&*store, &[at_two]);
    let error = store.commit(&[world.advance(1, 3)]).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "the execution before takes nothing any more: {error}");
    let mut again = world.continued(1, 5, 3, 6);
    let Change::Continue { custom_status, .. } = &mut again.change else { unreachable!() };
    *custom_status = Some(Payload::of(&"again"));
    commit(&*store, &[again]);
    drop(store);
    let store = place.open();
    let row = world.row(&*store, "loaf");
    assert_eq!((row.execution, row.module, row.wake), (world.execution(6), Digest::of(MODULE), Wake::NEVER));
    assert_eq!((row.custom_status, row.tags), (Some(Payload::of(&"again")), tags(&[("shop", "north")])));
    let last = |end| store.last_execution(world.execution(0), world.execution(end)).unwrap();
    assert_eq!([last(99), last(6)], [Some(world.execution(6)), Some(world.execution(5))]);
    assert_eq!([2, 2, 2, 2].map(|rows| store.sweep(rows).unwrap()), [2, 2, 2, 0]);
    assert_eq!([1, 5, 6].map(|n| store.history(world.execution(n)).unwrap().len()), [0, 0, 1]);
    assert_eq!(last(6), Some(world.execution(2)));
    commit(&*store, &[Commit { execution: world.execution(6), ..world.end(1, 1, RuntimeStatus::Completed) }]);
    commit(&*store, &[world.create(7, "loaf")]);
    assert_eq!([9, 9].map(|rows| store.sweep(rows).unwrap()), [3, 0]);
    assert_eq!(world.row(&*store, "loaf").key, world.key(7));
}

pub(super) fn a_continuation_of_what_is_not_there_changes_nothing(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf"), world.create(2, "roll")]);
    commit(&*store, &[world.continued(1, 1, 1, 3)]);
    let before = (world.row(&*store, "loaf"), world.row(&*store, "roll"));
    let orphan = |mut commit: Commit| {
        let Change::Continue { module, .. } = &mut commit.change else { unreachable!() };
        *module = Digest([0xAB; 32]);
        commit
    };
    let at = |n: i64, expected: u32| format!("execution {} is not at {expected} events", world.execution(n).0);
    let wrong = [
        (world.continued(1, 3, 0, 4), at(3, 0)),
        (world.continued(1, 3, 2, 4), at(3, 2)),
        (world.continued(1, 1, 1, 4), at(1, 1)),
        (world.continued(7, 7, 1, 8), at(7, 1)),
        (orphan(world.continued(1, 3, 2, 4)), at(3, 2)),
        (world.continued(1, 3, 1, 2), at(2, 0)), // A number that another execution has.
        (orphan(world.continued(1, 3, 1, 4)), format!("no module of this task hub has the version {}", "ab".repeat(32))),
    ];
    for (wrong, expected) in wrong {
        let error = store.commit(&[world.advance(2, 1), wrong]).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!((world.row(&*store, "loaf"), world.row(&*store, "roll")), before);
    }
    assert_eq!(store.sweep(9).unwrap(), 2, "only the first execution is superseded");
    assert_eq!([2, 3].map(|n| store.history(world.execution(n)).unwrap().len()), [1, 1]);
}

pub(super) fn lines_stay_through_all_executions_and_go_with_the_instance(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let said = |at_ms: u64| {
        let line = LogLine { level: LogLevel::Info, target: "oven".into(), message: "warm".into() };
        EncodedLines::of(&[LogRecord { at_ms, task: None, line }], 1 << 20)
    };
    let log = |n: i64| {
        let page = store.log(world.key(n), 0).unwrap();
        (page.lines.iter().map(|(number, line)| (*number, line.at_ms)).collect::<Vec<_>>(), page.next)
    };
    commit(&*store, &[Commit { lines: said(10), ..world.create(1, "loaf") }]);
    commit(&*store, &[Commit { lines: said(11), ..world.continued(1, 1, 1, 2) }]);
    let on = Commit { execution: world.execution(2), ..world.advance(1, 1) };
    commit(&*store, &[Commit { lines: said(12), ..on }]);
    commit(&*store, &[world.continued(1, 2, 3, 3)]);
    while store.sweep(1).unwrap() > 0 {}
    assert_eq!(log(1), (vec![(0, 10), (1, 11), (2, 12)], 3));
    let end = Commit { execution: world.execution(3), ..world.end(1, 1, RuntimeStatus::Completed) };
    commit(&*store, &[Commit { lines: said(13), ..end }]);
    commit(&*store, &[Commit { lines: said(20), ..world.create(4, "loaf") }]);
    assert_eq!(log(1).1, 4);
    // Two rows of history, four of lines, and the note of them.
    assert_eq!([4, 4, 4].map(|rows| store.sweep(rows).unwrap()), [4, 3, 0]);
    assert_eq!(log(1), (vec![], 0));
    assert_eq!(log(4), (vec![(0, 20)], 1));
}

pub(super) fn an_instance_that_goes_on_for_ever_leaves_nothing_behind(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(0, "loaf")]);
    for n in 0..200 {
        commit(&*store, &[Commit { execution: world.execution(n), ..world.advance(0, 1) }]);
        commit(&*store, &[world.continued(0, n, 3, n + 1)]);
        if n % 4 == 3 {
            // Two rows of history each, and one that they are superseded.
            assert_eq!([5, 20].map(|rows| store.sweep(rows).unwrap()), [5, 7], "after {n}");
        }
    }
    assert_eq!(store.sweep(9).unwrap(), 0);
    let histories = (0..=200).map(|n| store.history(world.execution(n)).unwrap().len());
    assert_eq!(histories.sum::<usize>(), 1);
    assert_eq!(world.row(&*store, "loaf").execution, world.execution(200));
}

pub(super) fn a_message_stays_until_it_is_taken(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let messages = [world.message(1, "roll"), world.message(2, "nobody"), world.message(3, "roll")];
    commit(&*store, &[sending(&messages[..1], world.create(1, "loaf"))]);
    commit(&*store, &[sending(&messages[1..], world.advance(1, 1)), world.create(2, "roll")]);
    drop(store);
    let store = place.open();
    assert_eq!(store.inbox(world.hub, None, 9).unwrap(), messages);
    // What is not there may be taken all the same; and a step may send while it takes.
    let take = Commit { takes: vec![messages[0].key, world.message_key(77)], ..world.advance(2, 1) };
    commit(&*store, &[sending(&[world.message(4, "loaf")], take)]);
    assert_eq!(world.inbox(&*store), [2, 3, 4]);
    commit(&*store, &[Commit { takes: vec![world.message_key(4)], ..world.continued(1, 1, 3, 5) }]);
    assert_eq!(world.inbox(&*store), [2, 3]);
    store.discard_messages(&[]).unwrap();
    store.discard_messages(&[messages[1].key, messages[1].key, world.message_key(99)]).unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(world.inbox(&*store), [3]);
    commit(&*store, &[sending(&[world.message(9, "x")], world.continued(1, 5, 1, 6))]);
    assert_eq!(world.inbox(&*store), [3, 9]);
}

pub(super) fn a_commit_that_is_not_written_sends_and_takes_nothing(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[sending(&[world.message(1, "roll")], world.create(1, "loaf"))]);
    let with_messages = |commit: Commit| {
        let commit = Commit { takes: vec![world.message_key(1)], ..commit };
        sending(&[world.message(2, "roll")], commit)
    };
    let outcomes = store.commit(&[with_messages(world.create(2, "loaf"))]).unwrap();
    assert_eq!(outcomes, [CommitOutcome::Refused(RuntimeStatus::Pending)]);
    assert_eq!(world.inbox(&*store), [1]);
    let batches = [
        vec![with_messages(world.advance(1, 7))],
        vec![with_messages(world.advance(1, 1)), world.advance(7, 7)],
        vec![with_messages(world.create(3, "bun")), world.continued(1, 1, 7, 4)],
    ];
    for batch in batches {
        let error = store.commit(&batch).unwrap_err();
        assert!(matches!(error, StoreError::Conflict { expected: 7, .. }), "{error}");
        assert_eq!(world.inbox(&*store), [1]);
    }
    let error = store.commit(&[sending(&[world.message(1, "bun")], world.advance(1, 1))]).unwrap_err();
    assert_eq!(error.to_string(), format!("message {} is there already", world.message_key(1).0));
    assert_eq!(store.inbox(world.hub, None, 9).unwrap(), [world.message(1, "roll")]);
    assert_eq!(world.row(&*store, "loaf").length, 1);
}

pub(super) fn messages_page_by_number_within_their_hub(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Laundry", "shirts", MODULE, 100);
    let other = World { hub: store.hubs().unwrap()[1].key };
    let last = |first, end| store.last_message(world.message_key(first), world.message_key(end)).unwrap();
    assert_eq!(last(0, 99), None);
    commit(&*store, &[sending(&[world.message(5, "a"), world.message(2, "b")], world.create(1, "loaf"))]);
    commit(&*store, &[sending(&[other.message(1, "a")], other.create(1, "shirt"))]);
    commit(&*store, &[sending(&[world.message(3, "c")], world.create(2, "roll"))]);
    let page = |after: Option<i64>, max| {
        let messages = store.inbox(world.hub, after.map(|n| world.message_key(n)), max).unwrap();
        messages.iter().map(|message| message.key.0 & 0xFF_FFFF).collect::<Vec<_>>()
    };
    assert_eq!([page(None, 2), page(Some(3), 2), page(Some(5), 2), page(None, 0)], [vec![2, 3], vec![5], vec![], vec![]]);
    assert_eq!(other.inbox(&*store), [1]);
    assert_eq!(store.inbox(HubKey(9), None, 9).unwrap(), []);
    let expected = [Some(5), Some(3), None, None].map(|n: Option<i64>| n.map(|n| world.message_key(n)));
    assert_eq!([last(0, 99), last(2, 5), last(6, 99), last(0, 2)], expected);
}

pub(super) fn what_is_due_comes_by_time_and_then_number(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Laundry", "shirts", MODULE, 100);
    let other = World { hub: store.hubs().unwrap()[1].key };
    let wakes = [Wake::at(50), Wake::AT_ONCE, Wake::NEVER, Wake::at(20), Wake::AT_ONCE, Wake::at(50), Wake::at(70), Wake::at(20)];
    let create = |(wake, n): (&Wake, i64)| waking(world.create(n, &format!("loaf-{n}")), *wake);
    commit(&*store, &wakes.iter().zip(1..).map(create).collect::<Vec<_>>());
    commit(&*store, &[waking(other.create(1, "shirt"), Wake::at(30)), world.end(8, 1, RuntimeStatus::Completed)]);
    let due = |from_ms, until_ms, max| {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = store.due(world.hub, from_ms, until_ms, after.as_ref(), max).unwrap();
            assert!(page.len() <= max);
            seen.extend(page.iter().map(|row| (row.wake_ms, row.key.0 & 0xFF_FFFF)));
            assert!(page.iter().all(|row| row.id == id(&format!("loaf-{}", row.key.0 & 0xFF_FFFF))));
            after = page.into_iter().next_back();
            if after.is_none() {
                return seen;
            }
        }
    };
    let all = [(0, 2), (0, 5), (20, 4), (50, 1), (50, 6), (70, 7)];
    for max in 1..=7 {
        assert_eq!(due(None, u64::MAX, max), all);
        assert_eq!(due(None, 50, max), all[..5]);
        assert_eq!(due(None, 49, max), all[..3]);
        assert_eq!(due(None, 0, max), all[..2]);
        assert_eq!(due(Some(0), 50, max), all[2..5]);
        assert_eq!(due(Some(20), 70, max), all[3..]);
        assert_eq!(due(Some(70), u64::MAX, max), []);
        assert_eq!(due(Some(u64::MAX), u64::MAX, max), []);
        assert_eq!(due(Some(60), 40, max), []);
    }
    let first = store.due(other.hub, None, 99, None, 9).unwrap();
    assert_eq!(first.iter().map(|row| row.wake_ms).collect::<Vec<_>>(), [30]);
    // A place before the range does not widen it.
    assert_eq!(store.due(world.hub, Some(50), 99, store.due(world.hub, None, 0, None, 1).unwrap().last(), 9).unwrap().len(), 1);
}

pub(super) fn a_wake_stays_until_the_next(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[waking(world.create(1, "loaf"), Wake::AT_ONCE)]);
    assert_eq!(world.row(&*store, "loaf").wake, Wake::AT_ONCE);
    let (running, pending) = (RuntimeStatus::Running, RuntimeStatus::Pending);
    let at = |ms| Some(Wake::at(ms));
    let steps = [
        (running, None, Wake::AT_ONCE),
        (running, at(50), Wake::at(50)),
        (running, at(50), Wake::at(50)),
        (running, None, Wake::at(50)),
        (pending, Some(Wake::NEVER), Wake::NEVER),
        (pending, Some(Wake::NEVER), Wake::NEVER),
        (running, Some(Wake::AT_ONCE), Wake::AT_ONCE),
        (pending, None, Wake::AT_ONCE),
        (running, at(u64::MAX), Wake::at(i64::MAX as u64)),
    ];
    for ((status, wake, kept), n) in steps.into_iter().zip(1_u32..) {
        let mut step = world.end(1, n, status);
        let Change::Advance { wake: given, .. } = &mut step.change else { unreachable!() };
        *given = wake;
        commit(&*store, &[step]);
        let row = world.row(&*store, "loaf");
        assert_eq!((row.status, row.wake, row.length), (status, kept, n + 1));
        let due = store.due(world.hub, None, u64::MAX, None, 9).unwrap();
        assert_eq!(due.first().map(|row| row.wake_ms), kept.ms());
    }
    let error = store.commit(&[waking(world.advance(1, 3), Wake::at(60))]).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { expected: 3, .. }), "{error}");
    commit(&*store, &[world.end(1, 10, RuntimeStatus::Completed)]);
    assert_eq!(store.due(world.hub, None, u64::MAX, None, 9).unwrap(), []);
}

pub(super) fn a_list_shows_what_has_all_tags(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let of = [&[][..], &[("shop", "north")], &[("kind", "r\"ye"), ("shop", "north")], &[("shop", "south")], &[("kind", "r\"ye")]];
    let create = |(given, n): (&&[_], i64)| {
        let mut create = world.create(n, &format!("loaf-{n}"));
        new_of(&mut create).tags = tags(given);
        create
    };
    commit(&*store, &of.iter().zip(1..).map(create).collect::<Vec<_>>());
    commit(&*store, &[world.advance(2, 1)]);
    drop(store);
    let store = place.open();
    assert_eq!(world.row(&*store, "loaf-3").tags, tags(of[2]));
    let check = |wanted: &[(&str, &str)], rest: Filter, expected: &str| {
        let filter = Filter { tags: tags(wanted), ..rest };
        for max in 1..=3 {
            assert_eq!(listed(&*store, world.hub, &filter, max).0, expected, "{filter:?}");
        }
    };
    check(&[], Filter::default(), "loaf-1 loaf-2 loaf-3 loaf-4 loaf-5");
    check(&[("shop", "north")], Filter::default(), "loaf-2 loaf-3");
    check(&[("shop", "north"), ("kind", "r\"ye")], Filter::default(), "loaf-3");
    check(&[("shop", "North")], Filter::default(), "");
    check(&[("size", "north")], Filter::default(), "");
    let running = Filter { statuses: Some(vec![RuntimeStatus::Running]), ..Filter::default() };
    check(&[("shop", "north")], running, "loaf-2");
    check(&[("kind", "r\"ye")], Filter { id_prefix: "loaf-".into(), ..Filter::default() }, "loaf-3 loaf-5");
}

pub(super) fn progress_stays_until_its_execution_is_over(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[1, 2, 3].map(|n| world.create(n, &format!("loaf-{n}"))));
    commit(&*store, &[world.continued(3, 3, 1, 4)]);
    let said = |n: i64, task: u32, what: &str| Progress {
        execution: world.execution(n),
        task: TaskId(task),
        payload: Payload::of(&what),
    };
    let text = |store: &dyn Store, n: i64, task: u32| {
        store.progress(world.execution(n), TaskId(task)).unwrap().map(|payload| payload.text().to_owned())
    };
    store.save_progress(&[]).unwrap();
    store.save_progress(&[said(1, 0, "kneaded"), said(1, 7, "warm"), said(2, 0, "mixed"), said(4, 0, "sold")]).unwrap();
    store.save_progress(&[said(1, 0, "risen")]).unwrap();
    drop(store);
    let store = place.open();
    let seen = |n, task| text(&*store, n, task);
    assert_eq!([seen(1, 0), seen(1, 7)], [Some("\"risen\"".into()), Some("\"warm\"".into())]);
    assert_eq!([seen(1, 1), seen(3, 0)], [None, None]);
    assert_eq!(store.sweep_progress(9).unwrap(), 0, "all of them go on");
    // One ends, one is superseded, one was never there.
    commit(&*store, &[world.end(1, 1, RuntimeStatus::Failed)]);
    commit(&*store, &[world.continued(3, 4, 1, 5)]);
    store.save_progress(&[said(5, 0, "baked"), said(9, 0, "lost")]).unwrap();
    let last = store.last_execution(world.execution(0), world.execution(99)).unwrap();
    assert_eq!(last, Some(world.execution(9)), "its number must not be given out again while this is kept");
    assert_eq!([3, 3, 3].map(|rows| store.sweep_progress(rows).unwrap()), [3, 1, 0]);
    assert_eq!([seen(1, 0), seen(1, 7), seen(4, 0), seen(9, 0)], [None, None, None, None]);
    assert_eq!([seen(2, 0), seen(5, 0)], [Some("\"mixed\"".into()), Some("\"baked\"".into())]);
    commit(&*store, &[Commit { execution: world.execution(5), ..world.end(3, 1, RuntimeStatus::Completed) }]);
    assert_eq!(store.sweep_progress(9).unwrap(), 1);
}
