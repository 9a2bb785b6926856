//! How does a module go for good? First its versions, then, when nothing refers to them, its bytes and its compiled code.

use std::sync::{Arc, PoisonError};

use super::Engine;
use super::shell::Machinery;
use super::views::DeleteError;
use crate::model::{Digest, HubName, ModuleName};
use crate::store::{Deletion, StoreError};

impl Engine {
    /// Takes a version of a module away, or the whole module and with it its functions; which digests these were. Durable on return. What
    /// runs on it goes on: activities in hand keep their code, and a start that has the digest already is in the store before the
    /// deletion, which is refused then, or finds the orchestrator unknown.
    ///
    /// # Errors
    /// As [`DeleteError`] says; nothing has changed then.
    pub async fn delete_module(
        self: &Arc<Self>,
        hub: &HubName,
        name: &ModuleName,
        digest: Option<Digest>,
    ) -> Result<Vec<Digest>, DeleteError> {
        let (engine, hub, name) = (self.clone(), hub.clone(), name.clone());
        let work = move || engine.delete_module_blocking(&hub, &name, digest);
        tokio::task::spawn_blocking(work).await.map_err(|error| DeleteError::Internal(error.to_string()))?
    }

    fn delete_module_blocking(
        &self,
        hub: &HubName,
        name: &ModuleName,
        digest: Option<Digest>,
    ) -> Result<Vec<Digest>, DeleteError> {
        let hub = self.hub(hub).ok_or(DeleteError::Unknown)?;
        let _no_upload = self.machinery.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let deletion = self.machinery.store.delete_module(hub.shell.row.key, name, digest);
        match deletion? {
            Deletion::Unknown => Err(DeleteError::Unknown),
            Deletion::Current => Err(DeleteError::Current),
            Deletion::InUse { digest, count, some } => Err(DeleteError::InUse { digest, count, some }),
            Deletion::Done(digests) => {
                // Only now: while a deletion may still be refused, the functions are there.
                hub.shell.functions.write().unwrap_or_else(PoisonError::into_inner).remove(name, &digests);
                if let Err(error) = discard(&self.machinery) {
                    tracing::warn!("the bytes of deleted modules cannot be discarded now: {error}");
                }
                Ok(digests)
            }
        }
    }
}

/// Discards what has no use any more: instances that kept a deleted module may have gone since. Blocks.
pub(super) fn discard_modules(machinery: &Machinery) -> Result<(), StoreError> {
    let _no_upload = machinery.uploads.lock().unwrap_or_else(PoisonError::into_inner);
    discard(machinery)
}

/// Under the lock on uploads.
fn discard(machinery: &Machinery) -> Result<(), StoreError> {
    for digest in machinery.store.discard_modules()? {
        machinery.host.forget(digest);
    }
    Ok(())
}
