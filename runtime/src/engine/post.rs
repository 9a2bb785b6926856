//! Who carries messages from one instance to another? One thread for all hubs, so that what an instance sends arrives in the order of sending.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::shell::Shell;
use crate::model::{HubKey, InstanceId, Message};

/// How long to wait before a message is tried again that could not be handed over.
const RETRY: Duration = Duration::from_secs(1);

/// What is on its way. Each message is durable; here it only saves a look into the store.
pub(super) struct Post {
    queue: Sender<Letter>,
    waiting: Arc<AtomicUsize>,
}

struct Letter {
    shell: Weak<Shell>,
    hub: HubKey,
    message: Message,
}

impl Post {
    /// Starts the thread; it ends when this is dropped.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn new() -> std::io::Result<Self> {
        let (queue, letters) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = waiting.clone();
        thread::Builder::new().name("dacapo-post".into()).spawn(move || carry(&letters, RETRY, &counted, hand_over))?;
        Ok(Self { queue, waiting })
    }

    /// Takes a message between instances of this hub. Never waits.
    pub(super) fn send(&self, shell: &Arc<Shell>, message: Message) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Without the thread messages would stay in the store, and whoever waits for them would wait for ever.
        if self.queue.send(Letter { shell: Arc::downgrade(shell), hub: shell.row.key, message }).is_err() {
            tracing::error!("the thread that carries messages has broken down; the server stops");
            std::process::abort();
        }
    }

    /// How many messages are on their way.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Gives it back if it cannot be handed over now.
fn hand_over(mut letter: Letter) -> Option<Letter> {
    letter.message = letter.shell.upgrade()?.hand_over(letter.message)?;
    Some(letter)
}

/// Hands over what comes in, in its order. What cannot be handed over is tried again every `retry`, and holds up what comes behind it for the
/// same instance: the end of a child must not come before its start.
fn carry(
    letters: &Receiver<Letter>,
    retry: Duration,
    waiting: &AtomicUsize,
    mut hand_over: impl FnMut(Letter) -> Option<Letter>,
) {
    let mut held: HashMap<(HubKey, InstanceId), VecDeque<Letter>> = HashMap::new();
    let mut retry_at = Instant::now();
    let mut is_kept = |letter: Letter| {
        let kept = hand_over(letter);
        waiting.fetch_sub(usize::from(kept.is_none()), Ordering::Relaxed);
        kept
    };
    loop {
        let letter = if held.is_empty() {
            letters.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            letters.recv_timeout(retry_at.saturating_duration_since(Instant::now()))
        };
        match letter {
            Ok(letter) => {
                let receiver = (letter.hub, letter.message.to.clone());
                if let Some(behind) = held.get_mut(&receiver) {
                    behind.push_back(letter);
                } else if let Some(kept) = is_kept(letter) {
                    if held.is_empty() {
                        retry_at = Instant::now() + retry;
                    }
                    held.insert(receiver, VecDeque::from([kept]));
                }
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if !held.is_empty() && retry_at <= Instant::now() {
            held.retain(|_, letters| {
                while let Some(letter) = letters.pop_front() {
                    if let Some(kept) = is_kept(letter) {
                        letters.push_front(kept);
                        return true;
                    }
                }
                false
            });
            retry_at = Instant::now() + retry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Body, MessageKey, Payload};

    #[test]
    fn what_cannot_be_handed_over_holds_up_what_comes_behind_it_and_nothing_else() {
        let (queue, letters) = mpsc::channel();
        for (key, to) in (1..).zip(["a", "a", "b", "a", "b"]) {
            let body = Body::Raise { name: "go".into(), payload: Payload::null() };
            let message = Message { key: MessageKey(key), to: to.parse().unwrap(), body };
            queue.send(Letter { shell: Weak::new(), hub: HubKey(1), message }).unwrap();
        }
        drop(queue);
        let waiting = AtomicUsize::new(5);
        let (mut seen, mut refused) = (Vec::new(), 0);
        // The first to `a` is tried again behind each of the others, and comes through behind the fourth.
        carry(&letters, Duration::ZERO, &waiting, |letter| {
            if letter.message.key == MessageKey(1) && refused < 4 {
                refused += 1;
                return Some(letter);
            }
            seen.push(letter.message.key.0);
            None
        });
        assert_eq!((seen, waiting.into_inner()), (vec![3, 1, 2, 4, 5], 0));
    }
}
