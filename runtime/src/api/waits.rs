//! How many requests may wait for an instance at once? Each keeps a connection and memory for as long as its client likes.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::metrics::{Held, Metrics};

/// Places for requests that wait.
pub(super) struct Waits(Semaphore);

/// A place, for as long as it lives.
pub(super) struct Place<'a> {
    _permit: SemaphorePermit<'a>,
    _held: Held,
}

impl Waits {
    /// So many.
    pub(super) fn at_most(most: usize) -> Self {
        Self(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
    }

    /// A place, which `metrics` counts. Without one, a request is answered as if its time were up.
    pub(super) fn place(&self, metrics: &Metrics) -> Option<Place<'_>> {
        let permit = self.0.try_acquire().ok()?;
        Some(Place { _permit: permit, _held: metrics.request_waits() })
    }
}
