//! `dacapo backup` and `dacapo restore`: how is a data directory copied, while a server works on it, so that a server can work on the copy?
//!
//! The copy is made under another name and gets its own at the end: what bears the name is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::Exit;
use super::output::say;
use crate::api::{capability, keys};
use crate::clock::Clock;
use crate::model::time;
use crate::store::sqlite::backup::{self, StoreCopy};

/// What a data directory has beside its store, if it is there. Compiled code is not copied: a server makes it anew.
const KEY_FILES: [&str; 2] = [keys::FILE, capability::FILE];

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
            Ok(mut entries) => entries.next().is_none(),
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

/// A directory with a name that nobody takes for a whole copy. It goes with this, unless it gets its own name.
struct Unfinished {
    path: PathBuf,
    is_finished: bool,
}

/// Copies the data directory `from` to `to`, which is empty or not there. On return the copy is durable and was looked through.
fn copy(from: &Path, to: &Path, doing: &'static str) -> Result<Copied> {
    let copy = Unfinished::beside(to)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()); // Shows nothing unless that is a terminal.
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left").context("draw a bar")?;
    bar.set_style(style);
    bar.set_message(doing);
    let mut at_ms = 0;
    let store = backup::copy(from, &copy.path, |copying| {
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
        copy_key(&from.join(name), &copy.path.join(name)).with_context(|| format!("copy {name}"))?;
    }
    sync(&copy.path)?;
    copy.finish(to)?;
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

impl Unfinished {
    fn beside(to: &Path) -> Result<Self> {
        let name = to.file_name().with_context(|| format!("{} ends with no name", to.display()))?;
        let mut unfinished = name.to_owned();
        unfinished.push(format!(".unfinished-{}", process::id()));
        let path = to.with_file_name(unfinished);
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path, is_finished: false })
    }

    /// Gives it its name. What has that already, other than an empty directory, is an error.
    fn finish(mut self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).with_context(|| format!("rename {} to {}", self.path.display(), to.display()))?;
        self.is_finished = true;
        let above = to.parent().filter(|above| !above.as_os_str().is_empty());
        sync(above.unwrap_or(Path::new(".")))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_dir_all(&self.path); // Its name says that it is of no use.
        }
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("sync {}", folder.display()))
}
