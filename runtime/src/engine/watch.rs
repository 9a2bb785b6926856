//! How does a caller hear of an instance's end? By a place in line that it takes before, or while, the instance runs.

use std::time::{Duration, Instant};

use tokio::sync::oneshot::Receiver;

use super::Hub;
use super::orders::{Answer, Input, Token};
use super::views::InstanceView;
use crate::model::{End, InstanceId};
use crate::store::StoreError;

/// A place in line for the end of an instance. Given up when it is dropped.
pub struct Watch {
    hub: Hub,
    id: InstanceId,
    token: Token,
    answer: Receiver<Answer>,
}

impl Watch {
    /// A place whose token the caller hands to the partition, with the start of the instance.
    pub(super) fn reserved(hub: &Hub, id: &InstanceId) -> Self {
        let (token, answer) = hub.shell.caller(id);
        Self { hub: hub.clone(), id: id.clone(), token, answer }
    }

    /// A place in line for the end of an instance that is there already.
    pub(super) fn of(hub: &Hub, id: &InstanceId) -> Self {
        Self::reserved(hub, id).take_place()
    }

    /// Tells the partition of a place that was reserved for nothing: the instance is there already.
    pub(super) fn take_place(self) -> Self {
        self.hub.shell.tell(&self.id, Input::Wait(self.token, self.id.clone()));
        self
    }

    /// The caller's token.
    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// The instance.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Waits for the end, at most for `timeout`. `None` when the time is up, or if there is no such instance.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn end(mut self, timeout: Duration) -> Result<Option<End>, StoreError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, &mut self.answer).await {
                Ok(Ok(Answer::Ended(end))) => return Ok(Some(end)),
                Err(_) => return Ok(None),
                Ok(Ok(Answer::Failed(error))) => return Err(StoreError::Other(error.to_string())),
                // It has ended before, or was never there; or another one has just been started in its place.
                Ok(_) => match self.hub.instance(&self.id, false).await? {
                    None => return Ok(None),
                    Some(InstanceView { end: Some(end), .. }) => return Ok(Some(end)),
                    Some(_) => (),
                },
            }
            self = Self::of(&self.hub, &self.id);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.shell.forget(&self.id, self.token);
    }
}
