//! How do ended instances go for good?

use super::*;

/// Instances `1..=count`, called `loaf-1` and so on, each with three events and ended.
fn bake(store: &dyn Store, world: &World, count: i64) {
    commit(store, &(1..=count).map(|n| world.create(n, &format!("loaf-{n}"))).collect::<Vec<_>>());
    commit(store, &(1..=count).map(|n| world.end(n, 1, RuntimeStatus::Completed)).collect::<Vec<_>>());
}

fn sweep_all(store: &dyn Store) -> usize {
    std::iter::repeat_with(|| store.sweep(3).unwrap()).take_while(|rows| *rows > 0).sum()
}

/// What would be the last number of the world's partition after a restart.
fn last(store: &dyn Store, world: &World) -> Option<i64> {
    let (first, end) = world.execution(0).hub_range();
    store.last_execution(first, end).unwrap().map(|key| key.0 - first.0)
}

pub(super) fn only_what_has_ended_and_stands_still_is_purged(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    bake(&*store, &world, 3);
    commit(&*store, &[world.create(4, "open"), world.create(5, "running")]);
    commit(&*store, &[world.advance(5, 1)]);
    let [one, two, three] = [1, 2, 3].map(|n| world.row(&*store, &format!("loaf-{n}")));
    assert_eq!(store.purge(&[world.row(&*store, "open"), world.row(&*store, "running")]).unwrap(), 0);
    assert_eq!(store.purge(&[]).unwrap(), 0);
    // Its ID was used again meanwhile, and another one has got on.
    commit(&*store, &[world.create(6, "loaf-1")]);
    commit(&*store, &[world.end(2, 2, RuntimeStatus::Failed)]);
    assert_eq!(store.purge(&[one, two.clone(), three.clone()]).unwrap(), 1);
    assert_eq!(keys(store.instances(world.hub, None, 9).unwrap()), [2, 4, 5, 6]);
    assert_eq!(store.purge(&[three, two]).unwrap(), 0, "it is gone, and nothing has changed");
    assert_eq!(world.row(&*store, "loaf-2").status, RuntimeStatus::Failed);
    drop(store);
    assert_eq!(keys(place.open().instances(world.hub, None, 9).unwrap()), [2, 4, 5, 6], "it is durable");
}

pub(super) fn an_ended_id_stays_if_the_new_instance_replaces_nothing(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    bake(&*store, &world, 1);
    let row = world.row(&*store, "loaf-1");
    let mut careful = world.create(2, "loaf-1");
    new_of(&mut careful).replaces = Replaces::Nothing;
    let said = store.commit(&[careful.clone(), world.create(3, "loaf-2")]).unwrap();
    assert_eq!(said, [CommitOutcome::Refused(RuntimeStatus::Completed), CommitOutcome::Done]);
    assert_eq!(world.row(&*store, "loaf-1"), row);
    store.purge(&[row]).unwrap();
    commit(&*store, &[careful]);
    commit(&*store, &[world.end(2, 1, RuntimeStatus::Failed)]);
    commit(&*store, &[world.create(4, "loaf-1")]);
}

pub(super) fn a_purged_id_is_free_and_its_history_is_swept(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    commit(&*store, &[world.create(1, "loaf")]);
    let lines = EncodedLines { json: "[]".into(), count: 1, skipped: 0, kept_bytes_max: 99 };
    commit(&*store, &[Commit { lines: Some(lines), ..world.end(1, 1, RuntimeStatus::Completed) }]);
    let row = world.row(&*store, "loaf");
    assert_eq!(store.purge(std::slice::from_ref(&row)).unwrap(), 1);
    assert_eq!(store.instance(world.hub, &row.id).unwrap(), None);
    assert_eq!(store.list(world.hub, &Filter::default(), None, 9).unwrap().rows, []);
    commit(&*store, &[world.create(2, "loaf")]);
    // Two rows of history, one of lines, and the note.
    assert_eq!(sweep_all(&*store), 4);
    assert_eq!(store.history(row.execution).unwrap(), []);
    assert_eq!(store.log(row.key, 0).unwrap().next, 0);
    assert_eq!(store.history(world.execution(2)).unwrap().len(), 1);
}

/// A message may still name an execution when all of that is gone: whoever got its number would get its answers.
pub(super) fn a_number_is_not_given_out_again_when_all_of_it_is_gone(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    bake(&*store, &world, 3);
    let rows: Vec<_> = [1, 2, 3].map(|n| world.row(&*store, &format!("loaf-{n}"))).into();
    assert_eq!(store.purge(&rows).unwrap(), 3);
    assert_eq!(sweep_all(&*store), 9);
    drop(store);
    let store = place.open();
    assert_eq!((last(&*store, &world), sweep_all(&*store)), (Some(3), 0));
    let (first, end) = ExecutionKey::range(HubKey(world.hub.0 + 1));
    assert_eq!(store.last_execution(first, end).unwrap(), None, "other hubs have numbers of their own");
}

pub(super) fn what_goes_leaves_one_note_for_each_hub(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    for n in 1..=5 {
        commit(&*store, &[world.create(n, "loaf")]);
        commit(&*store, &[world.end(n, 1, RuntimeStatus::Completed)]);
        assert_eq!(store.purge(&[world.row(&*store, "loaf")]).unwrap(), 1);
        assert_eq!((sweep_all(&*store), last(&*store, &world)), (3, Some(n)));
        // The notes of the earlier ones have gone.
        assert_eq!(store.last_execution(world.execution(0), world.execution(n)).unwrap(), None);
    }
}
