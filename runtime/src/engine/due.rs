//! What has to be looked at? After a start, all that was left undone; then, all the time, what comes due next.
//!
//! What sleeps is not in memory. The store knows when each instance has to be looked at, and is asked every second for those whose time
//! comes soon: so a million sleepers cost nothing, and a start costs what was in the middle of something.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::orders::Input;
use super::shell::{Machinery, Shell};
use super::{Engine, Hub};
use crate::model::MessageKey;
use crate::store::StoreError;

/// How often to ask the store what comes due.
const EVERY: Duration = Duration::from_secs(1);

/// How far ahead, in milliseconds: what is due so soon must be in memory by the time, however slow the search is.
const AHEAD_MS: u64 = 3_000;

/// How many rows to read at once, and how many instances may wait to be read before more are looked for.
const PAGE: usize = 256;

/// The same for messages, which may have megabytes each.
const INBOX_PAGE: usize = 32;

/// How long to wait for room at most: what is due must not wait for ever behind new work.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(200);

/// How long to wait for room before looking again, and after an error.
const PAUSE: Duration = Duration::from_millis(2);
const RETRY: Duration = Duration::from_secs(1);

/// By how much the clock may be behind what was searched already, in milliseconds, before that counts as set back.
const SET_BACK_MS: u64 = 60_000;

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
    /// What was sent in earlier lives of the server has been handed over up to this message.
    inbox: Option<MessageKey>,
    /// All of it has been.
    inbox_is_done: bool,
    /// What is due up to this time has been handed in, in milliseconds since 1970.
    until_ms: Option<u64>,
}

impl Shell {
    /// Hands the partitions what an earlier life of the server has left for them, and what comes due. Whether all was read; if not, it is to be
    /// called again.
    pub(super) fn find_due(self: &Arc<Self>) -> bool {
        let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.hand_over_inbox(&mut searched).and_then(|()| self.hand_in_due(&mut searched));
        if let Err(error) = &done {
            tracing::error!("cannot read what is due in hub {}, trying again: {error}", self.row.name);
        }
        done.is_ok()
    }

    /// First, so that what one instance sent another arrives in the order of sending. What is sent meanwhile follows when this is done.
    fn hand_over_inbox(self: &Arc<Self>, searched: &mut Searched) -> Result<(), StoreError> {
        if searched.inbox_is_done {
            return Ok(());
        }
        let mut found = 0;
        loop {
            let messages = self.machinery.store.inbox(self.row.key, searched.inbox, INBOX_PAGE)?;
            let Some(last) = messages.last().map(|message| message.key) else { break };
            for message in messages.into_iter().filter(|message| self.is_of_an_earlier_life(message.key)) {
                found += 1;
                self.machinery.post.send(self, message);
            }
            // Not before: what was handed over must not be handed over once more.
            searched.inbox = Some(last);
            self.wait_for_room(INBOX_PAGE);
        }
        self.open_post(|| {
            let mut rest = self.machinery.store.inbox(self.row.key, None, usize::MAX)?;
            rest.retain(|message| !self.is_of_an_earlier_life(message.key));
            Ok(rest)
        })?;
        searched.inbox_is_done = true;
        if found > 0 {
            tracing::info!("handed over {found} messages between instances of hub {}", self.row.name);
        }
        Ok(())
    }

    fn hand_in_due(self: &Arc<Self>, searched: &mut Searched) -> Result<(), StoreError> {
        let ahead_ms = self.machinery.clock.now_ms() + AHEAD_MS;
        // If the clock was set back, what is due later than this is in memory, but need not stay there.
        let is_set_back = searched.until_ms.is_some_and(|until_ms| ahead_ms + SET_BACK_MS < until_ms);
        let until_ms = if is_set_back { ahead_ms } else { ahead_ms.max(searched.until_ms.unwrap_or(0)) };
        // Before the search, so that nothing leaves memory behind its back.
        for partition in 0..self.row.partitions {
            self.deliver(partition, Input::Horizon(until_ms));
        }
        let (mut after, mut found) = (None, 0);
        loop {
            let rows = self.machinery.store.due(self.row.key, searched.until_ms, until_ms, after.as_ref(), PAGE)?;
            let Some(last) = rows.last().cloned() else { break };
            let is_full = rows.len() >= PAGE;
            found += rows.len();
            for row in rows {
                self.tell(&row.id.clone(), Input::Due(row.id));
            }
            after = Some(last);
            if is_full {
                self.wait_for_room(PAGE);
            }
        }
        if searched.until_ms.is_none() && found > 0 {
            tracing::info!("going on with {found} instances of hub {}", self.row.name);
        }
        searched.until_ms = Some(until_ms);
        Ok(())
    }

    fn wait_for_room(&self, room: usize) {
        let began = Instant::now();
        let Machinery { turns, post, limits, .. } = &*self.machinery;
        // Turns may pile up as far as they may by starts: so all is soon known that was going on when the server ended.
        let is_busy = || {
            turns.others_queued().max(post.waiting()) > room
                || turns.queued() + turns.beginnings_queued() > limits.work_queued_max
        };
        while is_busy() && began.elapsed() < ROOM_WAIT_MAX && !self.machinery.turns.is_closed() {
            thread::sleep(PAUSE);
        }
    }
}
