//! What has to be looked at? After a start, all that was left undone; then, all the time, what comes due next.
//!
//! What sleeps is not in memory. The store knows when each instance has to be looked at, and is asked every second for those whose time
//! comes soon: so a million sleepers cost nothing, and a start costs what was in the middle of something.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::partition::Input;
use super::shell::Shell;
use super::{Engine, Hub};
use crate::model::MessageKey;
use crate::store::StoreError;

/// How often to ask the store what comes due.
const EVERY: Duration = Duration::from_secs(1);

/// How far ahead, in milliseconds: what is due so soon must be in memory by the time, however slow the search is.
const AHEAD_MS: u64 = 3_000;

/// How many rows to read at once, and how many turns may wait before more are read: so new work waits for a page at most.
const PAGE: usize = 256;

/// How long to wait for room, and after an error.
const PAUSE: Duration = Duration::from_millis(2);
const RETRY: Duration = Duration::from_secs(1);

/// Goes on with what the hubs have open, and finds what comes due, for as long as the engine lives.
///
/// # Errors
/// If the system cannot start a thread.
pub(super) fn watch(engine: &Arc<Engine>) -> std::io::Result<()> {
    let engine = Arc::downgrade(engine);
    thread::Builder::new().name("dacapo-due".into()).spawn(move || {
        while let Some(hubs) = hubs(&engine) {
            let is_whole = hubs.iter().all(|hub| hub.shell.find_due());
            drop(hubs);
            if is_whole && let Some(engine) = engine.upgrade() {
                engine.machinery.recovered.store(true, Ordering::Release);
            }
            thread::sleep(if is_whole { EVERY } else { RETRY });
        }
    })?;
    Ok(())
}

/// All hubs, unless the engine is closed or gone.
fn hubs(engine: &Weak<Engine>) -> Option<Vec<Arc<Hub>>> {
    let engine = engine.upgrade().filter(|engine| !engine.machinery.turns.is_closed())?;
    let hubs = engine.hubs.read().unwrap_or_else(PoisonError::into_inner);
    Some(hubs.values().cloned().collect())
}

/// How far the search of a hub has come.
#[derive(Debug, Default)]
pub(super) struct Searched {
    /// What was sent in earlier lives of the server has been handed over.
    inbox: bool,
    /// What is due up to this time has been handed in, in milliseconds since 1970.
    until_ms: Option<u64>,
}

impl Shell {
    /// Hands the partitions what an earlier life of the server has left for them, and what comes due. Whether all was read; if not, it is to be
    /// called again.
    fn find_due(self: &Arc<Self>) -> bool {
        let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.hand_over_inbox(&mut searched).and_then(|()| self.hand_in_due(&mut searched));
        if let Err(error) = &done {
            tracing::error!("cannot read what is due in hub {}, trying again: {error}", self.row.name);
        }
        done.is_ok()
    }

    /// First, so that what one instance sent another arrives in the order of sending.
    fn hand_over_inbox(self: &Arc<Self>, searched: &mut Searched) -> Result<(), StoreError> {
        if searched.inbox {
            return Ok(());
        }
        let (mut after, mut found) = (None::<MessageKey>, 0);
        loop {
            let messages = self.machinery.store.inbox(self.row.key, after, PAGE)?;
            let Some(last) = messages.last() else { break };
            after = Some(last.key);
            // Later ones are from this life, and have been handed over already.
            for message in messages.into_iter().filter(|message| self.is_of_an_earlier_life(message.key)) {
                found += 1;
                self.machinery.post.send(self, message);
            }
            self.wait_for_room();
        }
        searched.inbox = true;
        if found > 0 {
            tracing::info!("handed over {found} messages between instances of hub {}", self.row.name);
        }
        Ok(())
    }

    fn hand_in_due(self: &Arc<Self>, searched: &mut Searched) -> Result<(), StoreError> {
        let until_ms = (self.machinery.clock.now_ms() + AHEAD_MS).max(searched.until_ms.unwrap_or(0));
        // Before the search, so that nothing leaves memory behind its back.
        for partition in 0..self.row.partitions {
            self.deliver(partition, Input::Horizon(until_ms));
        }
        let (mut after, mut found) = (None, 0);
        loop {
            let rows = self.machinery.store.due(self.row.key, searched.until_ms, until_ms, after.as_ref(), PAGE)?;
            let Some(last) = rows.last().cloned() else { break };
            found += rows.len();
            for row in rows {
                self.tell(&row.id.clone(), Input::Due(row.id));
            }
            after = Some(last);
            self.wait_for_room();
        }
        if searched.until_ms.is_none() && found > 0 {
            tracing::info!("going on with {found} instances of hub {}", self.row.name);
        }
        searched.until_ms = Some(until_ms);
        Ok(())
    }

    fn wait_for_room(&self) {
        let waiting = || self.machinery.turns.queued().max(self.machinery.post.waiting());
        while waiting() > PAGE && !self.machinery.turns.is_closed() {
            thread::sleep(PAUSE);
        }
    }
}
