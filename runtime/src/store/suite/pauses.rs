//! What do instances look like that operators had pause, or go on after a failure?

use super::*;

pub(super) fn a_suspended_instance_is_open_and_says_why(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    let suspend = |length, new: RuntimeStatus, why: Option<&str>| {
        let mut commit = world.end(1, length, new);
        let Change::Advance { reason, .. } = &mut commit.change else { unreachable!() };
        *reason = why.map(str::to_owned);
        commit
    };
    let seen = || {
        let row = world.row(&*store, "loaf");
        (row.status, row.reason, store.due(world.hub, None, 0, None, 9).unwrap().len())
    };
    let (suspended, running) = (RuntimeStatus::Suspended, RuntimeStatus::Running);
    store.commit(&[waking(suspend(1, suspended, Some("lunch")), Wake::AT_ONCE)]).unwrap();
    assert_eq!(seen(), (suspended, Some("lunch".into()), 1));
    // What comes meanwhile need not know why.
    store.commit(&[suspend(2, suspended, None)]).unwrap();
    assert_eq!(seen(), (suspended, Some("lunch".into()), 1));
    store.commit(&[suspend(3, running, None)]).unwrap();
    assert_eq!(seen(), (running, None, 1));
}

pub(super) fn only_what_has_failed_is_opened_again(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    store.commit(&[world.create(1, "loaf")]).unwrap();
    let reopen = |length, digest| {
        let (status, wake) = (RuntimeStatus::Running, Wake::AT_ONCE);
        let change = Change::Reopen { expected_length: length, status, module: digest, updated_ms: 5_000, wake };
        Commit { change, ..world.end(1, length, status) }
    };
    let module = Digest::of(MODULE);
    let is_conflict = |commit| matches!(store.commit(&[commit]), Err(StoreError::Conflict { .. }));
    assert!(is_conflict(reopen(1, module)));
    store.commit(&[world.end(1, 1, RuntimeStatus::Failed)]).unwrap();
    assert!(is_conflict(reopen(1, module)));
    let other = Digest::of(b"other");
    assert!(matches!(store.commit(&[reopen(2, other)]), Err(StoreError::NoModule(digest)) if digest == other));
    store.commit(&[reopen(2, module)]).unwrap();
    let row = world.row(&*store, "loaf");
    assert_eq!((row.status, row.length, row.updated_ms), (RuntimeStatus::Running, 3, 5_000));
    assert_eq!(store.due(world.hub, None, 0, None, 9).unwrap().len(), 1);
    store.commit(&[world.end(1, 3, RuntimeStatus::Completed)]).unwrap();
    assert!(is_conflict(reopen(4, module)));
}
