//! Where is compiled code kept between two lives of the server? In a folder that only its owner may open.
//!
//! A file's name holds the module's digest, which engine it is for, what that engine's settings are, and the hash of the
//! content, which is checked each time before the file is mapped: a damaged file is compiled anew. What another version of this program
//! has left stays until its module is deleted; whoever wants the room can delete the folder while no server runs.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::model::Digest;

/// Where compiled code is kept, and whether by us.
#[derive(Debug, Clone, Copy)]
pub enum CompiledCode<'a> {
    /// In this folder, which is made if it is not there.
    Kept(&'a Path),
    /// In this folder by somebody else, if it is there: nothing in it is changed.
    Borrowed(&'a Path),
}

impl<'a> CompiledCode<'a> {
    /// The folder.
    pub(super) fn folder(self) -> &'a Path {
        let (Self::Kept(folder) | Self::Borrowed(folder)) = self;
        folder
    }
}

/// The folder of compiled code.
pub(super) struct Cache {
    folder: PathBuf,
    keeps: bool,
}

impl Cache {
    /// Opens the folder.
    ///
    /// # Errors
    /// If that is impossible, or somebody else could write there: what is in it runs as machine code.
    pub(super) fn open(code: CompiledCode<'_>) -> io::Result<Self> {
        let (folder, keeps) = (code.folder(), matches!(code, CompiledCode::Kept(_)));
        if keeps {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        } else if !folder.exists() {
            return Ok(Self { folder: folder.to_owned(), keeps }); // Nothing will be found there.
        }
        let metadata = fs::metadata(folder)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            let message = "compiled code is kept here, so this folder must belong to the user who runs the server and be closed to \
                           all others: delete it, or give it that owner and `chmod 700` it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Self { folder: folder.to_owned(), keeps })
    }

    /// The code of `module` for `engine`, if it is here and undamaged.
    pub(super) fn load(&self, module: Digest, engine: &Engine) -> Option<Component> {
        let prefix = prefix(module, engine);
        let entries = fs::read_dir(&self.folder).ok()?;
        let name = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.starts_with(&prefix) && name.ends_with(SUFFIX))?;
        let path = self.folder.join(&name);
        if name != file_name(&prefix, &fs::read(&path).ok()?) {
            tracing::warn!(file = %path.display(), "compiled code is damaged; the module is compiled again");
            if self.keeps {
                let _ = fs::remove_file(&path);
            }
            return None;
        }
        // The mapping is of the file whose content was just compared with the hash in its name; only this user may write here.
        #[allow(unsafe_code, reason = "wasmtime cannot check machine code; we wrote this file and compared its hash")]
        let code = unsafe { Component::deserialize_file(engine, &path) };
        code.inspect_err(|error| tracing::warn!(file = %path.display(), "compiled code cannot be mapped: {error:#}")).ok()
    }

    /// Keeps the code of `module` for `engine`, if the folder is ours.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn store(&self, module: Digest, engine: &Engine, code: &[u8]) -> io::Result<()> {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        if !self.keeps {
            return Ok(());
        }
        let path = self.folder.join(file_name(&prefix(module, engine), code));
        // No two writers share a draft, in this process or in another.
        let draft = format!("{}-{}.unfinished", process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed));
        let unfinished = path.with_extension(draft);
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(code)?;
            drop(file);
            fs::rename(&unfinished, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(unfinished); // It only takes room, of which there may be none.
        }
        written
    }

    /// Deletes the code of `module` for all engines.
    pub(super) fn forget(&self, module: Digest) {
        if !self.keeps {
            return;
        }
        let prefix = format!("{module}-");
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix))) {
            let _ = fs::remove_file(entry.path()); // It only takes room.
        }
    }
}

/// Code that was compiled just now, and is not kept yet.
///
/// # Errors
/// If it is not for `engine`, or does not fit into a slot of its pool.
pub(super) fn fresh(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    #[allow(unsafe_code, reason = "wasmtime cannot check machine code; our compiler wrote it")]
    unsafe {
        Component::deserialize(engine, code)
    }
}

/// How the names of finished files end.
const SUFFIX: &str = ".cwasm";

fn prefix(module: Digest, engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{module}-{:016x}-blake3-", hasher.finish())
}

/// The hash is computed whenever the code is loaded, so it is a fast one: of the 26 ms that the first orchestration after a start took on a
/// machine without instructions for SHA-256, that one took 10.
fn file_name(prefix: &str, content: &[u8]) -> String {
    format!("{prefix}{}{SUFFIX}", blake3::hash(content))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::thread;

    use super::*;

    /// A place for a folder, and the code of a module for an engine.
    fn code() -> (tempfile::TempDir, Engine, Digest, Vec<u8>) {
        let engine = Engine::default();
        let component = Component::new(&engine, wat::parse_str("(component)").unwrap()).unwrap();
        (tempfile::tempdir().unwrap(), engine, Digest([1; 32]), component.serialize().unwrap())
    }

    #[test]
    fn a_folder_that_others_may_open_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let error = Cache::open(CompiledCode::Kept(folder.path())).err().unwrap().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Cache::open(CompiledCode::Kept(folder.path())).is_ok());
    }

    #[test]
    fn many_who_keep_the_same_code_do_not_disturb_each_other_and_it_can_be_forgotten() {
        let (parent, engine, module, code) = code();
        let folder = parent.path().join("compiled");
        let cache = Cache::open(CompiledCode::Kept(&folder)).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    cache.store(module, &engine, &code).unwrap();
                    assert!(cache.load(module, &engine).is_some());
                });
            }
        });
        cache.forget(Digest([2; 32]));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        cache.forget(module);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn damaged_code_is_not_loaded_and_goes_if_the_folder_is_ours() {
        let (parent, engine, module, code) = code();
        let folder = parent.path().join("compiled");
        let kept = Cache::open(CompiledCode::Kept(&folder)).unwrap();
        let borrowed = Cache::open(CompiledCode::Borrowed(&folder)).unwrap();
        kept.store(module, &engine, &code).unwrap();
        let path = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let mut damaged = code;
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(borrowed.load(module, &engine).is_none() && path.exists());
        assert!(kept.load(module, &engine).is_none() && !path.exists());
    }

    #[test]
    fn a_borrowed_folder_is_read_and_not_written_to() {
        let (parent, engine, module, code) = code();
        let folder = parent.path().join("compiled");
        let kept = Cache::open(CompiledCode::Kept(&folder)).unwrap();
        let borrowed = Cache::open(CompiledCode::Borrowed(&folder)).unwrap();
        borrowed.store(module, &engine, &code).unwrap();
        assert!(borrowed.load(module, &engine).is_none());
        kept.store(module, &engine, &code).unwrap();
        borrowed.forget(module);
        assert!(borrowed.load(module, &engine).is_some());
        assert!(Cache::open(CompiledCode::Borrowed(Path::new("no/such/folder"))).unwrap().load(module, &engine).is_none());
    }
}
