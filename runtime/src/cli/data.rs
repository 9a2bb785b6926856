//! Is the data directory one that only its owner can change?

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

/// Makes the directory if it is not there, for its owner alone.
///
/// # Errors
/// If that is impossible, or somebody else could put other files in place of ours. That others can look at names and sizes is only
/// warned about: the files themselves are closed, and where a directory is mounted, its rights are not always ours to choose.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    let shown = folder.display();
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| format!("make {shown}"))?;
    let found = fs::metadata(folder).with_context(|| format!("look at {shown}"))?;
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    let remedy = format!("`chown` it to the user who runs the server and `chmod 700 {shown}`");
    if mode & 0o002 != 0 || (owner != geteuid().as_raw() && owner != 0) {
        bail!(
            "{shown} (mode {mode:03o}, owner {owner}) can be changed by others, who may have put files of theirs there: {remedy}"
        );
    }
    if mode & 0o077 != 0 {
        tracing::warn!("{shown} can be entered by others (mode {mode:03o}), who see how much is kept there: {remedy}");
    }
    Ok(())
}
