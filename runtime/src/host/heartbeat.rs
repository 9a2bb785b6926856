//! How does an activity say how far it is? It reports progress, which a later run of the same work gets.

use std::fmt;
use std::sync::Arc;

use crate::model::Payload;

/// Takes what an activity reports. By default nobody does.
#[derive(Clone, Default)]
pub struct Heartbeat(Option<Arc<dyn Fn(Payload) + Send + Sync>>);

impl Heartbeat {
    /// Hands each report to `take`, on the activity's thread: it has to return at once. A report is JSON, no larger than
    /// `heartbeat_bytes_max`, and without a secret in it.
    pub fn new(take: impl Fn(Payload) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(take)))
    }

    pub(super) fn report(&self, progress: Payload) {
        if let Some(take) = &self.0 {
            take(progress);
        }
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Heartbeat(taken)" } else { "Heartbeat(ignored)" })
    }
}
