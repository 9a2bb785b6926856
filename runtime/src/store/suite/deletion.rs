//! When do modules go, and their bytes?

use super::*;

fn delete(store: &dyn Store, hub: HubKey, bytes: Option<&[u8]>) -> Deletion {
    store.delete_module(hub, &"bread".parse().unwrap(), bytes.map(Digest::of)).unwrap()
}

fn digests(store: &dyn Store, hub: HubKey) -> Vec<Digest> {
    store.modules(hub).unwrap().iter().map(|row| row.digest).collect()
}

pub(super) fn a_version_goes_when_no_open_instance_needs_it(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    let ids = ["a", "b", "c", "d", "e"];
    commit(&*store, &ids.iter().zip(1..).map(|(of, n)| world.create(n, of)).collect::<Vec<_>>());
    commit(&*store, &[world.end(1, 1, RuntimeStatus::Completed), world.advance(2, 1)]);
    upload(&*store, "Bakery", "bread", b"second", 200);
    let in_use = Deletion::InUse { digest: Digest::of(MODULE), count: 4, some: vec![id("b"), id("c"), id("d")] };
    assert_eq!([delete(&*store, world.hub, Some(MODULE)), delete(&*store, world.hub, None)], [in_use.clone(), in_use]);
    assert_eq!(digests(&*store, world.hub), [Digest::of(b"second"), Digest::of(MODULE)]);
    commit(&*store, &[world.end(2, 3, RuntimeStatus::Failed)]);
    commit(&*store, &[3, 4, 5].map(|n| world.end(n, 1, RuntimeStatus::Completed)));
    assert_eq!(delete(&*store, world.hub, Some(MODULE)), Deletion::Done(vec![Digest::of(MODULE)]));
    assert_eq!(delete(&*store, world.hub, Some(MODULE)), Deletion::Unknown);
    drop(store);
    let store = place.open();
    assert_eq!(digests(&*store, world.hub), [Digest::of(b"second")], "it is durable");
}

pub(super) fn the_current_version_goes_only_with_its_module(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Bakery", "bread", b"second", 200);
    upload(&*store, "Bakery", "rolls", b"third", 300);
    upload(&*store, "Laundry", "bread", MODULE, 400);
    assert_eq!(delete(&*store, world.hub, Some(b"second")), Deletion::Current);
    assert_eq!(delete(&*store, world.hub, Some(b"third")), Deletion::Unknown, "it is another module's");
    assert_eq!(delete(&*store, world.hub, None), Deletion::Done(vec![Digest::of(b"second"), Digest::of(MODULE)]));
    assert_eq!(delete(&*store, world.hub, None), Deletion::Unknown);
    assert_eq!(digests(&*store, world.hub), [Digest::of(b"third")]);
    let laundry = store.hubs().unwrap()[1].key;
    assert_eq!(delete(&*store, laundry, Some(MODULE)), Deletion::Done(vec![Digest::of(MODULE)]), "the last one is the module");
    assert_eq!(upload(&*store, "Laundry", "bread", MODULE, 500), Uploaded::New);
}

pub(super) fn a_deleted_module_gets_no_new_instances(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Laundry", "shirts", MODULE, 100);
    commit(&*store, &[world.create(1, "a")]);
    commit(&*store, &[world.end(1, 1, RuntimeStatus::Completed)]);
    assert_eq!(delete(&*store, world.hub, None), Deletion::Done(vec![Digest::of(MODULE)]));
    let error = store.commit(&[world.create(2, "b")]).unwrap_err();
    assert!(matches!(error, StoreError::NoModule(digest) if digest == Digest::of(MODULE)), "{error}");
    let other = World { hub: store.hubs().unwrap()[1].key };
    commit(&*store, &[other.create(1, "b")]);
    upload(&*store, "Bakery", "bread", MODULE, 200);
    commit(&*store, &[world.create(2, "b")]);
}

pub(super) fn bytes_go_when_no_hub_and_no_instance_needs_them(place: &(impl Place + ?Sized)) {
    let store = place.open();
    let world = World::new(&*store);
    upload(&*store, "Bakery", "bread", b"second", 200);
    upload(&*store, "Laundry", "shirts", b"second", 200);
    let is_there = |bytes: &[u8]| store.module_bytes(Digest::of(bytes)).unwrap().is_some();
    commit(&*store, &[world.create(1, "loaf")]);
    commit(&*store, &[world.end(1, 1, RuntimeStatus::Completed)]);
    assert_eq!(store.discard_modules().unwrap(), []);
    assert!(matches!(delete(&*store, world.hub, None), Deletion::Done(_)));
    assert_eq!(store.discard_modules().unwrap(), []);
    assert!(is_there(MODULE) && is_there(b"second"), "a history can be replayed, and another hub has it");
    assert_eq!(world.row(&*store, "loaf").module, Digest::of(MODULE));
    let laundry = store.hubs().unwrap()[1].key;
    store.delete_module(laundry, &"shirts".parse().unwrap(), None).unwrap();
    assert_eq!(store.discard_modules().unwrap(), [Digest::of(b"second")]);
    // The instance's ID is used again, on other code.
    upload(&*store, "Bakery", "bread", b"third", 300);
    let mut again = world.create(2, "loaf");
    let Change::Create(new) = &mut again.change else { unreachable!() };
    new.module = Digest::of(b"third");
    commit(&*store, &[again]);
    assert_eq!(store.discard_modules().unwrap(), [Digest::of(MODULE)]);
    assert!(!is_there(MODULE) && !is_there(b"second") && is_there(b"third"));
}
