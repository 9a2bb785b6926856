//! What if there is an instance already? A start meets one with its ID, or shall repeat one.

use std::sync::Arc;

use super::Watch;
use super::hub::{Hub, blocking};
use super::views::{ControlError, Existing, StartError, StartRequest};
use crate::model::{Event, Idempotency, InstanceId, Started};
use crate::store::{Replaces, StoreError};

/// What an instance leaves as its output that had to give way.
const REPLACED: &str = "replaced by a new start";

impl Hub {
    /// Starts an instance, dealing with one that is there already as the request says.
    pub(super) async fn start_with(
        &self,
        request: StartRequest,
        watch: impl Fn(&InstanceId) -> Option<Watch>,
    ) -> Result<(InstanceId, Option<Watch>), StartError> {
        match request.existing {
            Existing::ReplaceEnded => self.start_new(&request, Replaces::Ended, &watch).await,
            Existing::Replace => self.start_over(&request, &watch).await,
            Existing::Keep => self.start_once(request, &watch).await,
        }
    }

    /// Starts an instance; one that is in the way is ended first, so that whoever waits for it hears of that.
    async fn start_over(
        &self,
        request: &StartRequest,
        watch: &impl Fn(&InstanceId) -> Option<Watch>,
    ) -> Result<(InstanceId, Option<Watch>), StartError> {
        loop {
            let id = match self.start_new(request, Replaces::Ended, watch).await {
                Err(StartError::InstanceExists { id, .. }) => id,
                done => return done,
            };
            match self.terminate(&id, Some(REPLACED.into()), false).await {
                Ok(()) | Err(ControlError::NotFound | ControlError::Ended(_)) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts an instance, or finds the one that the same start has made before, however it stands.
    async fn start_once(
        &self,
        request: StartRequest,
        watch: &impl Fn(&InstanceId) -> Option<Watch>,
    ) -> Result<(InstanceId, Option<Watch>), StartError> {
        let of_key = || request.idempotency.as_ref().map(|idempotency| idempotency.key.instance(self.name()));
        let Some(id) = request.instance.clone().or_else(of_key) else {
            return self.start_new(&request, Replaces::Nothing, watch).await;
        };
        let request = StartRequest { instance: Some(id.clone()), ..request };
        loop {
            let found = self.started(&id).await.map_err(|error| StartError::Store(Arc::new(error)))?;
            if let Some(started) = found {
                is_repeated(&id, &started, request.idempotency.as_ref())?;
                let watch = watch(&id).map(Watch::take_place);
                return Ok((id, watch));
            }
            match self.start_new(&request, Replaces::Nothing, watch).await {
                Err(StartError::InstanceExists { .. }) => (), // Somebody was faster, and it can be seen now.
                done => return done,
            }
        }
    }

    /// What starts the same as an instance under the same ID once more: its function, input and tags. `None` if there is no such instance.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn again(&self, id: &InstanceId) -> Result<Option<StartRequest>, StoreError> {
        let started = self.started(id).await?;
        Ok(started.map(|started| StartRequest {
            function: started.function,
            instance: Some(started.instance),
            input: started.input,
            tags: started.tags,
            idempotency: started.idempotency,
            existing: Existing::ReplaceEnded,
        }))
    }

    /// How the current execution of an instance began.
    async fn started(&self, id: &InstanceId) -> Result<Option<Started>, StoreError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        blocking(move || {
            // A row may be replaced between two reads; then the history of the old one is gone or going.
            for _ in 0..3 {
                let Some(row) = shell.row_of(&id)? else { return Ok(None) };
                if let Some(Event::Started(started)) = shell.machinery.store.first_event(row.execution)? {
                    return Ok(Some(started));
                }
            }
            Err(StoreError::Corrupt(format!("the history of instance {id} does not begin with its start")))
        })
        .await
    }
}

/// Whether the instance that has begun like this is what the same start has made.
fn is_repeated(id: &InstanceId, started: &Started, wanted: Option<&Idempotency>) -> Result<(), StartError> {
    let why = match (&started.idempotency, wanted) {
        (Some(had), Some(wanted)) if had == wanted => return Ok(()),
        (Some(had), Some(wanted)) if had.key == wanted.key => "this key, for another function or input; use a new key for it",
        (Some(_), _) => "another key; choose another ID, or none",
        (None, _) => "no key; choose another ID, or none",
    };
    Err(StartError::StartedOtherwise { id: id.clone(), why })
}

impl From<ControlError> for StartError {
    /// Why the instance that is in the way could not be ended.
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Store(cause) => Self::Store(cause),
            ControlError::Unreadable(cause) => Self::Store(Arc::new(cause)),
            ControlError::ShuttingDown => Self::ShuttingDown,
            ControlError::Overloaded
            | ControlError::NotFound
            | ControlError::Ended(_)
            | ControlError::Unfit(_)
            | ControlError::Refused(_)
            | ControlError::Crowded { .. } => Self::Overloaded,
        }
    }
}
