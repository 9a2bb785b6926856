//! Can the server do its work right now? And how does it stand, in figures?

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Engine;
use crate::metrics::{Metrics, Sample};
use crate::store::group::Refusal;

/// What keeps a server from doing all its work. Prints as one sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unready {
    /// It does not go on with all open instances yet.
    Recovering,
    /// Its store takes no writes.
    Refused(Refusal),
    /// It is about to stop.
    Stopping,
}

impl Unready {
    /// One word for programs, which never changes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Recovering => "recovering",
            Self::Refused(_) => "read_only",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recovering => f.write_str("the server has been started and still reads which instances are open"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Stopping => f.write_str("the server is shutting down"),
        }
    }
}

impl Engine {
    /// What keeps the server from doing all its work; nothing if it is ready.
    pub fn unready(&self) -> Vec<Unready> {
        let machinery = &self.machinery;
        let stopping = machinery.backlog.is_stopping().then_some(Unready::Stopping);
        let refused = machinery.committer.refusal().map(Unready::Refused);
        let recovering = (!machinery.recovered.load(Ordering::Acquire)).then_some(Unready::Recovering);
        [stopping, refused, recovering].into_iter().flatten().collect()
    }

    /// What is counted here.
    pub fn metrics(&self) -> &Metrics {
        &self.machinery.metrics
    }

    /// How the server stands. Takes each partition's lock for a moment.
    pub fn sample(&self) -> Sample {
        let machinery = &self.machinery;
        let hubs = self.hubs.read().unwrap_or_else(PoisonError::into_inner);
        let (residents, resident_bytes) = machinery.residents.size();
        let beginnings_queued = machinery.turns.beginnings_queued();
        Sample {
            commits_queued: machinery.committer.queued(),
            turns_queued: machinery.turns.queued() + machinery.turns.queued_behind_others() + beginnings_queued,
            beginnings_queued,
            messages_queued: machinery.post.waiting(),
            backlog_bytes: machinery.backlog.bytes(),
            residents,
            resident_bytes,
            open_instances: hubs.values().map(|hub| hub.shell.loaded_instances()).sum(),
            wal_bytes: machinery.store.wal_bytes(),
        }
    }
}
