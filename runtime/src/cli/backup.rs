//! `dacapo backup` and `dacapo restore`: how is a data directory copied, while a server works on it, so that a server can work on the copy?
//!
//! The copy is made under another name and gets its own at the end: what bears the name is whole. In a directory that is there already, the store
//! gets its name last: without it there is no data directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::TempDir;

use super::exit::Exit;
use super::output::say;
use crate::api::{capability, keys};
use crate::clock::Clock;
use crate::model::time;
use crate::store::sqlite::FILE as STORE_FILE;
use crate::store::sqlite::backup::{self, StoreCopy};

/// What a data directory has beside its store, if it is there. Compiled code is not copied: a server makes it anew.
const KEY_FILES: [&str; 2] = [keys::FILE, capability::FILE];

/// What a disk of its own has in it from the start.
const LOST_AND_FOUND: &str = "lost+found";

const BACKUP_ABOUT: &str = "\
The copy shows everything as it stood at one moment; the server goes on meanwhile. What is written
while it is made stays in the server's write-ahead log until it is done. The copy is a data
directory: `dacapo serve --data TO` goes on from it, `dacapo verify TO` looks through all of it. It
holds the keys, so keep it as safe as the server's own.

Example:
  dacapo backup /backups/dacapo-$(date +%F) --data ./dacapo-data";

const RESTORE_ABOUT: &str = "\
Stop the server whose place this takes: two servers on copies of the same data would both do the
work. What began after the backup is gone. What ran at that moment goes on from there, so that
activities which have run since run again, with the same idempotency keys.

Example:
  dacapo restore /backups/dacapo-2026-03-01 --data ./dacapo-data";

/// Copy a data directory while a server runs on it
#[derive(Debug, clap::Args)]
#[command(after_help = BACKUP_ABOUT)]
pub(super) struct Backup {
    /// Where the copy goes; nothing may be there
    to: PathBuf,

    /// The data directory
    #[arg(long, value_name = "DIR", env = "DACAPO_DATA", hide_env_values = true, default_value = "./dacapo-data")]
    data: PathBuf,
}

/// Make a data directory out of a backup, which stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_ABOUT)]
pub(super) struct Restore {
    /// The backup
    from: PathBuf,

    /// The data directory to make
    #[arg(long, value_name = "DIR", env = "DACAPO_DATA", hide_env_values = true, default_value = "./dacapo-data")]
    data: PathBuf,
}

impl Backup {
    pub(super) fn run(self) -> Result<()> {
        let (from, to) = (self.data.display(), self.to.display());
        if fs::symlink_metadata(&self.to).is_ok() {
            bail!("{to} is there already; a backup needs a name of its own");
        }
        let copied = copy(&self.data, &self.to, "Backing up").with_context(|| format!("back up {from} to {to}"))?;
        let Copied { store: StoreCopy { bytes, instances }, at_ms } = copied;
        say(format_args!("{instances} instances, {}, as of {}, are in {to}", HumanBytes(bytes), time::exact(at_ms)))
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<()> {
        let (from, data) = (self.from.display(), self.data.display());
        let is_empty = match fs::read_dir(&self.data) {
            Ok(entries) => entries.flatten().all(|entry| entry.file_name() == LOST_AND_FOUND),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_empty {
            return Err(Exit::Failed.because(format_args!(
                "{data} is not empty, and what is in it is not replaced: name another directory, or move this one away"
            )));
        }
        let copied = copy(&self.from, &self.data, "Restoring").with_context(|| format!("restore {from} to {data}"))?;
        let StoreCopy { bytes, instances } = copied.store;
        say(format_args!("{instances} instances, {}, are in {data}", HumanBytes(bytes)))
    }
}

/// What a copy has come to.
struct Copied {
    store: StoreCopy,
    /// The moment that it shows, in milliseconds since 1970.
    at_ms: u64,
}

/// Copies the data directory `from` to `to`, which is empty or not there. On return the copy is durable and was looked through.
fn copy(from: &Path, to: &Path, doing: &'static str) -> Result<Copied> {
    let is_there = to.is_dir();
    let copy = unfinished(to, is_there)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()); // Shows nothing unless that is a terminal.
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left").context("draw a bar")?;
    bar.set_style(style);
    bar.set_message(doing);
    let mut at_ms = 0;
    let store = backup::copy(from, copy.path(), |copying| {
        if copying.bytes == 0 {
            at_ms = Clock.now_ms();
            bar.set_length(copying.of);
        }
        bar.set_position(copying.bytes);
        if copying.bytes == copying.of {
            bar.set_message("Checking");
        }
    })?;
    bar.finish_and_clear();
    for name in KEY_FILES {
        copy_key(&from.join(name), &copy.path().join(name)).with_context(|| format!("copy {name}"))?;
    }
    sync(copy.path())?;
    if is_there {
        move_into(copy, to)?
    } else {
        rename(copy, to)?
    }
    Ok(Copied { store, at_ms })
}

fn copy_key(from: &Path, to: &Path) -> io::Result<()> {
    let held = match fs::read(from) {
        Ok(held) => held,
        // A server without keys has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(to)?;
    file.write_all(&held)?;
    file.sync_all()
}

/// A directory with a name that nobody takes for a whole copy, beside `to` or in it if it is there. It goes with this.
fn unfinished(to: &Path, is_there: bool) -> Result<TempDir> {
    let (folder, prefix) = if is_there {
        (to, OsString::from(".unfinished-"))
    } else {
        let name = to.file_name().with_context(|| format!("{} ends with no name", to.display()))?;
        let mut prefix = name.to_owned();
        prefix.push(".unfinished-");
        (above(to), prefix)
    };
    let ours = Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix::<OsStr>(&prefix).permissions(ours).tempdir_in(folder);
    made.with_context(|| format!("make a folder in {}", folder.display()))
}

/// Gives a copy its name. What has that already, other than an empty directory, is an error.
fn rename(copy: TempDir, to: &Path) -> Result<()> {
    fs::rename(copy.path(), to).with_context(|| format!("rename {} to {}", copy.path().display(), to.display()))?;
    let _ = copy.keep(); // There is nothing under the old name any more.
    sync(above(to))
}

/// Moves what is in a copy to the directory above it, `to`, and gives it to whom that belongs.
fn move_into(copy: TempDir, to: &Path) -> Result<()> {
    let owner = fs::metadata(to).with_context(|| format!("look at {}", to.display()))?;
    for name in KEY_FILES.into_iter().chain([STORE_FILE]) {
        let (from, into) = (copy.path().join(name), to.join(name));
        let Ok(file) = fs::metadata(&from) else { continue };
        if file.uid() != owner.uid() {
            let given = chown(&from, Some(owner.uid()), Some(owner.gid()));
            given.with_context(|| format!("give {} to the owner of {}", from.display(), to.display()))?;
        }
        if name == STORE_FILE {
            sync(to)?;
        }
        fs::rename(&from, &into).with_context(|| format!("move {} to {}", from.display(), into.display()))?;
    }
    sync(to)?;
    copy.close().with_context(|| format!("remove a folder in {}", to.display()))
}

fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("sync {}", folder.display()))
}
