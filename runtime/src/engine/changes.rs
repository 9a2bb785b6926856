//! How does somebody hear that an instance has got on? By a subscription, which every durable step of the instance wakes.
//!
//! It says that there is something to read and not what: whoever hears of it asks the store. So a slow listener costs nothing, and many
//! steps may be one call. While nobody listens, a step costs a look at one number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::InstanceKey;

/// Who listens to which instances, in all hubs.
#[derive(Default)]
pub(super) struct Changes {
    /// How many subscriptions there are.
    subscribed: AtomicUsize,
    instances: Mutex<HashMap<InstanceKey, watch::Sender<()>>>,
}

/// A subscription to the steps of one instance. Given up when it is dropped.
pub(super) struct Subscription {
    changes: Arc<Changes>,
    instance: InstanceKey,
    receiver: Option<watch::Receiver<()>>,
}

impl Changes {
    /// Hears of all steps from now on. What is read of the instance after this call and what is heard of leave no gap between them.
    pub(super) fn of(self: &Arc<Self>, instance: InstanceKey) -> Subscription {
        // Raised before anything is read: a step that this does not see yet is in the store before the reading begins.
        self.subscribed.fetch_add(1, Ordering::SeqCst);
        let receiver = self.lock().entry(instance).or_insert_with(|| watch::Sender::new(())).subscribe();
        Subscription { changes: self.clone(), instance, receiver: Some(receiver) }
    }

    /// A step of this instance has become durable.
    pub(super) fn note(&self, instance: InstanceKey) {
        if self.subscribed.load(Ordering::SeqCst) > 0
            && let Some(sender) = self.lock().get(&instance)
        {
            sender.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceKey, watch::Sender<()>>> {
        // Nothing panics while it holds the lock.
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The instance.
    pub(super) fn instance(&self) -> InstanceKey {
        self.instance
    }

    /// Returns when there was a step since the last call, or since the subscription.
    pub(super) async fn changed(&mut self) {
        let receiver = self.receiver.as_mut().expect("it is there until this is dropped");
        receiver.changed().await.expect("the sender stays as long as somebody listens");
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut instances = self.changes.lock();
        drop(self.receiver.take());
        if instances.get(&self.instance).is_some_and(|sender| sender.receiver_count() == 0) {
            instances.remove(&self.instance);
        }
        drop(instances);
        self.changes.subscribed.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LOAF: InstanceKey = InstanceKey(1);
    const ROLL: InstanceKey = InstanceKey(2);

    /// Whether something has happened since somebody asked last.
    fn has_changed(subscription: &mut Subscription) -> bool {
        matches!(pin!(subscription.changed()).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
    }

    #[test]
    fn every_listener_hears_of_its_own_instance_and_of_many_steps_once() {
        let changes = Arc::<Changes>::default();
        let (mut first, mut second, mut other) = (changes.of(LOAF), changes.of(LOAF), changes.of(ROLL));
        assert!(![&mut first, &mut second, &mut other].into_iter().any(has_changed), "nothing has happened");
        changes.note(LOAF);
        changes.note(LOAF);
        assert!(has_changed(&mut first) && !has_changed(&mut first));
        changes.note(LOAF);
        assert!(has_changed(&mut first) && has_changed(&mut second) && !has_changed(&mut second));
        assert!(!has_changed(&mut other));
    }

    #[test]
    fn what_nobody_listens_to_any_more_is_forgotten() {
        let changes = Arc::<Changes>::default();
        let (first, mut second) = (changes.of(LOAF), changes.of(LOAF));
        drop(first);
        changes.note(LOAF);
        assert!(has_changed(&mut second), "it still listens");
        drop(second);
        changes.note(LOAF);
        assert!(changes.lock().is_empty());
        assert_eq!(changes.subscribed.load(Ordering::SeqCst), 0);
        assert!(!has_changed(&mut changes.of(LOAF)), "nothing since then");
    }
}
