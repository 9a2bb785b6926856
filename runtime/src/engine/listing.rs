//! Which instances does a hub have? A page of them at a time, bounded in number and bytes.

use super::hub::{Hub, blocking};
use super::views::{InstancePage, InstanceView};
use crate::model::{Event, Payload};
use crate::store::{Filter, InstanceRow, Position, Store, StoreError};

/// After how many bytes of inputs and outputs a page ends. A page may be larger by what one instance has.
const PAGE_BYTES_MAX: usize = 8 << 20;

impl Hub {
    /// Instances that `filter` lets through, from behind `after`, at most `max`; fewer if they are large. Without `with_input`, nobody
    /// reads the inputs, and all are `null`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list(
        &self,
        filter: Filter,
        after: Option<Position>,
        max: usize,
        with_input: bool,
    ) -> Result<InstancePage, StoreError> {
        let shell = self.shell.clone();
        blocking(move || {
            let store = &*shell.machinery.store;
            let listed = store.list(shell.row.key, &filter, after.as_ref(), max)?;
            page(store, listed.rows, listed.next, with_input)
        })
        .await
    }
}

/// What is behind `rows`, as far as it fits into one page.
fn page(store: &dyn Store, rows: Vec<InstanceRow>, next: Option<Position>, with_input: bool) -> Result<InstancePage, StoreError> {
    let mut page = InstancePage { instances: Vec::with_capacity(rows.len()), next };
    let mut bytes = 0;
    let mut rows = rows.into_iter().peekable();
    while let Some(row) = rows.next() {
        let position = Position::behind(&row);
        match shown(store, row, with_input) {
            Ok(Some((view, read))) => {
                bytes += read;
                page.instances.push(view);
            }
            Ok(None) => (), // Replaced or gone since the row was read.
            // One damaged history must not keep all others from being listed.
            Err(StoreError::Corrupt(why)) => tracing::error!("instance {} is left out of a list: {why}", position.id),
            Err(error) => return Err(error),
        }
        if bytes >= PAGE_BYTES_MAX && rows.peek().is_some() {
            page.next = Some(position);
            break;
        }
    }
    Ok(page)
}

/// An instance with its end, perhaps with its input, and how many bytes these have. `None` if its history is no longer whole.
fn shown(store: &dyn Store, row: InstanceRow, with_input: bool) -> Result<Option<(InstanceView, usize)>, StoreError> {
    let (mut input, mut end, mut bytes) = (Payload::null(), None, 0);
    if row.status.is_ended() {
        let Some(Event::Ended { end: found, .. }) = store.last_event(row.execution)? else { return Ok(None) };
        bytes += Payload::of(&found).text().len();
        end = Some(found);
    }
    if with_input {
        let Some(Event::Started(started)) = store.first_event(row.execution)? else { return Ok(None) };
        bytes += started.input.text().len();
        input = started.input;
    }
    Ok(Some((InstanceView { row, input, end, history: None }, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RuntimeStatus;
    use crate::model::execution::tests::started;
    use crate::store::memory::MemoryStore;
    use crate::store::suite::World;
    use crate::store::{Commit, EncodedEvents, Listed};

    fn ids(page: &InstancePage) -> Vec<&str> {
        page.instances.iter().map(|view| view.row.id.as_str()).collect()
    }

    #[test]
    fn a_page_ends_early_when_what_it_holds_is_large() {
        let store = MemoryStore::new();
        let world = World::new(&store);
        for (n, id) in [(1, "a"), (2, "b"), (3, "c")] {
            let mut started = started();
            started.input = Payload::of(&"x".repeat(PAGE_BYTES_MAX / 2));
            let events = EncodedEvents::of(&[Event::Started(started)]);
            store.commit(&[Commit { events, ..world.create(n, id) }]).unwrap();
        }
        let Listed { rows, next } = store.list(world.hub, &Filter::default(), None, 9).unwrap();
        let first = page(&store, rows.clone(), next.clone(), true).unwrap();
        assert_eq!((ids(&first), first.next.as_ref().map(|next| next.id.as_str())), (vec!["a", "b"], Some("b")));
        let rest = store.list(world.hub, &Filter::default(), first.next.as_ref(), 9).unwrap();
        let last = page(&store, rest.rows, rest.next, true).unwrap();
        assert_eq!((ids(&last), &last.next), (vec!["c"], &None));
        let without_input = page(&store, rows, next, false).unwrap();
        assert_eq!((ids(&without_input), &without_input.next), (vec!["a", "b", "c"], &None));
    }

    #[test]
    fn an_instance_that_was_replaced_meanwhile_is_left_out() {
        let store = MemoryStore::new();
        let world = World::new(&store);
        store.commit(&[world.create(1, "loaf"), world.create(2, "roll")]).unwrap();
        store.commit(&[world.end(1, 1, RuntimeStatus::Completed)]).unwrap();
        let rows = store.list(world.hub, &Filter::default(), None, 9).unwrap().rows;
        store.commit(&[world.create(3, "loaf")]).unwrap();
        while store.sweep(9).unwrap() > 0 {}
        assert_eq!(ids(&page(&store, rows, None, true).unwrap()), ["roll"]);
    }
}
