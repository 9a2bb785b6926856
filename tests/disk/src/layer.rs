//! How does the library get under a program, and how is it told what to do? By two variables of its environment and a small file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::trace::{self, control};

/// What stands between programs and one folder.
#[derive(Debug)]
pub struct Layer {
    library: PathBuf,
    folder: PathBuf,
    trace: PathBuf,
    control: PathBuf,
    controls: File,
}

impl Layer {
    /// For the folder `data`, which is made if it is not there. Trace and controls come to lie in the folder `beside`. Builds the library
    /// if nobody has.
    ///
    /// # Errors
    /// If the library cannot be built, or the file system refuses.
    pub fn new(data: &Path, beside: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(data).with_context(|| format!("make {}", data.display()))?;
        let folder = data.canonicalize().with_context(|| format!("find {}", data.display()))?;
        let beside = beside.canonicalize().with_context(|| format!("find {}", beside.display()))?;
        let (trace, control) = (beside.join("disk.trace"), beside.join("disk.control"));
        File::create(&trace).with_context(|| format!("make {}", trace.display()))?;
        let controls = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&control);
        let controls = controls.with_context(|| format!("make {}", control.display()))?;
        controls.set_len(control::BYTES as u64).context("make room for the controls")?;
        let layer = Self { library: library()?, folder, trace, control, controls };
        layer.set_room(None)?;
        Ok(layer)
    }

    /// Has `command` run on this layer, and all that it starts.
    pub fn put_under(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env(trace::FOLDER, &self.folder).env(trace::TRACE, &self.trace).env(trace::CONTROL, &self.control);
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How long the trace is: what was done up to now stands before this position.
    ///
    /// # Errors
    /// If the file system refuses, also below.
    pub fn position(&self) -> Result<u64> {
        Ok(fs::metadata(&self.trace).context("look at the trace")?.len())
    }

    /// The trace up to now.
    pub fn trace(&self) -> Result<Vec<u8>> {
        fs::read(&self.trace).context("read the trace")
    }

    /// By how many bytes files may grow from now on; `None` for as many as they like.
    pub fn set_room(&self, bytes: Option<u64>) -> Result<()> {
        self.set(control::ROOM, bytes.unwrap_or(control::UNLIMITED))
    }

    /// Has so many syncs fail from now on.
    pub fn fail_syncs(&self, count: u64) -> Result<()> {
        self.set(control::FAILING_SYNCS, count)
    }

    /// How many of these have not failed yet.
    pub fn syncs_to_fail(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.controls.read_exact_at(&mut bytes, control::FAILING_SYNCS as u64).context("read the controls")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Whether whoever changes a file is killed before it does. Unlike a kill from outside this leaves nothing that is not in the trace.
    pub fn set_kill(&self, kill: bool) -> Result<()> {
        self.set(control::KILL, u64::from(kill))
    }

    fn set(&self, control: usize, value: u64) -> Result<()> {
        self.controls.write_all_at(&value.to_ne_bytes(), control as u64).context("set a control")
    }
}

/// Builds the library and says where it is.
fn library() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Where the tests build their guests: a cargo around this program may hold a lock on the workspace's own target directory.
    let target = root.join("target/guests");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&root).args(["build", "--quiet", "--package", "dacapo-disk-preload", "--target-dir"]).arg(&target);
    let status = cargo.status().context("run cargo, which comes with Rust")?;
    ensure!(status.success(), "cargo could not build the library that stands under the server; what it said is above");
    let library = target.join("debug/libdacapo_disk_preload.so");
    library.canonicalize().with_context(|| format!("find {}", library.display()))
}
