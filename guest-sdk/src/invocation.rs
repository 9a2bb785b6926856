//! What does an activity know of its call? And what may it tell while it runs?

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Which call of an activity this is.
///
/// An activity runs at least once: after a crash, or if it is retried, it runs again. Services that recognise a repeated
/// request by a key should be given [`idempotency_key`](Self::idempotency_key).
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ActivityContext {
    /// The orchestration that asked.
    pub instance_id: String,
    /// The number of its task there.
    pub task: u32,
    /// Which attempt of the orchestrator's retry policy this is, counted from 1.
    pub attempt: u32,
    /// The same in every run and retry of this call, different for every other call.
    pub idempotency_key: String,
    /// What an earlier run reported last, as JSON.
    pub(crate) progress: Option<String>,
    /// Outside a host: all that this run reports, as JSON.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) heartbeats: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl ActivityContext {
    /// Tells the host how far this run has come. It keeps the last word of each second, and hands it to the next run of the same call,
    /// whether that is after a crash or the next attempt of a retry policy. Nobody watches for it: a run without heartbeats goes on
    /// until its timeout. A report of more than 64 KiB, unless the server sets another bound, fails the run.
    ///
    /// ```
    /// # use dacapo_guest::prelude::*;
    /// # fn send(_letter: u32) -> Result<()> { Ok(()) }
    /// #[activity]
    /// async fn send_all(letters: Vec<u32>, run: ActivityContext) -> Result<()> {
    ///     let sent = run.progress().unwrap_or(0); // 0 in the first run.
    ///     for (index, letter) in letters.into_iter().enumerate().skip(sent) {
    ///         send(letter)?;
    ///         run.heartbeat(&(index + 1))?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// If `progress` has no form in JSON.
    pub fn heartbeat(&self, progress: &(impl Serialize + ?Sized)) -> Result<()> {
        let json = serde_json::to_string(progress).map_err(|error| {
            Error::new("InvalidProgress", format!("a heartbeat has no form in JSON: {error}")).non_retriable()
        })?;
        #[cfg(target_family = "wasm")]
        crate::bindings::dacapo::guest::heartbeat::report(&json);
        #[cfg(not(target_family = "wasm"))]
        self.heartbeats.lock().expect("nothing panics while it holds this").push(json);
        Ok(())
    }

    /// What an earlier run of this call reported last by [`heartbeat`](Self::heartbeat). `None` in the first run, and if what was
    /// reported cannot be read as a `T`, as after an update: then it is best to begin anew.
    pub fn progress<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.progress.as_deref()?).ok()
    }
}

impl fmt::Debug for ActivityContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivityContext")
            .field("instance_id", &self.instance_id)
            .field("task", &self.task)
            .field("attempt", &self.attempt)
            .field("idempotency_key", &self.idempotency_key)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_an_earlier_run_told_last() {
        let first = ActivityContext::default();
        assert_eq!(first.progress::<u32>(), None);
        first.heartbeat(&3).unwrap();
        first.heartbeat(&4).unwrap();
        let last = first.heartbeats.lock().unwrap().last().cloned();
        let second = ActivityContext { progress: last, ..ActivityContext::default() };
        assert_eq!((second.progress::<u32>(), second.progress::<String>()), (Some(4), None));
    }

    #[test]
    fn progress_without_a_form_in_json_is_an_error() {
        let error = ActivityContext::default().heartbeat(&std::collections::HashMap::from([((), 1)])).unwrap_err();
        assert_eq!(error.to_string(), "InvalidProgress: a heartbeat has no form in JSON: key must be a string");
    }
}
