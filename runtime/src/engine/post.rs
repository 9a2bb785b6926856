//! Who carries messages from one instance to another? One thread for all hubs, so that what an instance sends arrives in the order of sending.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread;

use super::shell::Shell;
use crate::model::Message;

/// What is on its way. Each message is durable; here it only saves a look into the store.
pub(super) struct Post {
    queue: Sender<Letter>,
    waiting: Arc<AtomicUsize>,
}

struct Letter {
    shell: Weak<Shell>,
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
        thread::Builder::new().name("dacapo-post".into()).spawn(move || carry(&letters, &counted))?;
        Ok(Self { queue, waiting })
    }

    /// Takes a message between instances of this hub. Never waits.
    pub(super) fn send(&self, shell: &Arc<Shell>, message: Message) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Without the thread messages would stay in the store, and whoever waits for them would wait for ever.
        if self.queue.send(Letter { shell: Arc::downgrade(shell), message }).is_err() {
            tracing::error!("the thread that carries messages has broken down; the server stops");
            std::process::abort();
        }
    }

    /// How many messages are on their way.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

fn carry(letters: &Receiver<Letter>, waiting: &AtomicUsize) {
    for Letter { shell, message } in letters {
        if let Some(shell) = shell.upgrade() {
            shell.hand_over(message);
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
