//! Where is compiled code kept between two lives of the server? In a folder that only its owner may open.
//!
//! A file's name holds the module's digest, which engine it is for, what that engine's settings are, and the hash of the
//! content, which is checked each time before the file is mapped: a damaged file is compiled anew.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::model::Digest;

/// The folder of compiled code.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    /// If that is impossible.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The code of `module` for `engine`, if it is here and undamaged.
    pub(super) fn load(&self, module: Digest, engine: &Engine) -> Option<Component> {
        let prefix = prefix(module, engine);
        let entries = fs::read_dir(&self.folder).ok()?;
        let name =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).find(|name| name.starts_with(&prefix))?;
        let path = self.folder.join(&name);
        let hash = Digest::of(&fs::read(&path).ok()?);
        if name != file_name(&prefix, hash) {
            tracing::warn!(file = %path.display(), "compiled code is damaged; the module is compiled again");
            let _ = fs::remove_file(&path);
            return None;
        }
        // The mapping is of the file whose content was just compared with the hash in its name; only this user may write here.
        #[allow(unsafe_code, reason = "wasmtime cannot check machine code; we wrote this file and compared its hash")]
        let code = unsafe { Component::deserialize_file(engine, &path) };
        code.inspect_err(|error| tracing::warn!(file = %path.display(), "compiled code cannot be mapped: {error:#}")).ok()
    }

    /// Keeps the code of `module` for `engine`, and maps it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn store(&self, module: Digest, engine: &Engine, code: &[u8]) -> io::Result<()> {
        let path = self.folder.join(file_name(&prefix(module, engine), Digest::of(code)));
        let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(code)?;
        drop(file);
        fs::rename(unfinished, path)
    }
}

fn prefix(module: Digest, engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{module}-{:016x}-", hasher.finish())
}

fn file_name(prefix: &str, content: Digest) -> String {
    format!("{prefix}{content}.cwasm")
}
