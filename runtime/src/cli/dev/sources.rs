//! When has a source changed? Folders are watched, not files: many editors write a new file and give it the name of the old one.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

/// How long nothing must change before a change counts as over, in milliseconds: an editor's "save all" is one change.
const QUIET_MS: u64 = 50;

/// What there is to react to.
#[derive(Debug)]
pub(super) enum News {
    /// A file has changed.
    Changed(PathBuf),
    /// A file or folder has come, gone or got another name: what is watched under this name may be another one now.
    Moved(PathBuf),
    /// It is over.
    Stop,
}

/// Watches the folders of crates.
pub(super) struct Sources {
    watcher: RecommendedWatcher,
    crates: Vec<PathBuf>,
    /// What is watched now: the folders of the crates, and those in them.
    watched: HashSet<PathBuf>,
    /// What is written while a crate is built and served, wherever that lies.
    made: Vec<PathBuf>,
    news: Receiver<News>,
}

impl Sources {
    /// Watches nothing yet, and never what is below the folders `made`. The sender is for [`News::Stop`].
    ///
    /// # Errors
    /// If the system does not let folders be watched.
    pub(super) fn new(made: Vec<PathBuf>) -> Result<(Self, Sender<News>)> {
        let (sender, news) = mpsc::channel();
        let changes = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error is a change that we do not know more of.
            let (news, paths): (fn(PathBuf) -> News, _) = match event {
                Ok(event) => match event.kind {
                    EventKind::Access(_) => return, // Cargo reads all sources.
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => (News::Moved, event.paths),
                    _ => (News::Changed, event.paths),
                },
                Err(error) => (News::Changed, error.paths),
            };
            for path in paths {
                let _ = changes.send(news(path)); // Nobody listens any more: it is over.
            }
        });
        let made = made.into_iter().map(|folder| folder.canonicalize().unwrap_or(folder)).collect();
        let watcher = watcher.context("watch the sources")?;
        Ok((Self { watcher, crates: Vec::new(), watched: HashSet::new(), made, news }, sender))
    }

    /// Watches these folders of crates from here on: each with all that is below it, but for what is built or hidden.
    ///
    /// # Errors
    /// If one cannot be watched.
    pub(super) fn follow(&mut self, crates: Vec<PathBuf>) -> Result<()> {
        self.crates = crates;
        self.watch_all()
    }

    /// Watches what is there by now and not yet watched.
    fn watch_all(&mut self) -> Result<()> {
        for folder in self.crates.clone() {
            self.watch(&folder, RecursiveMode::NonRecursive)?;
            for entry in folder.read_dir().with_context(|| format!("list {}", folder.display()))? {
                let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
                if path.is_dir() && is_source(&folder, &path, &self.made) {
                    self.watch(&path, RecursiveMode::Recursive)?;
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, folder: &Path, mode: RecursiveMode) -> Result<()> {
        if !self.watched.contains(folder) {
            self.watcher.watch(folder, mode).with_context(|| format!("watch {}", folder.display()))?;
            self.watched.insert(folder.to_owned());
        }
        Ok(())
    }

    /// No longer watches the folder that had this name, so that the one that has it next can be watched.
    fn forget(&mut self, folder: &Path) {
        if self.watched.remove(folder) {
            let _ = self.watcher.unwatch(folder); // Fails if the folder is gone, and its watch with it.
        }
    }

    /// Waits for the next change, which may have been since the last call, and until it is over. Returns a file that has changed;
    /// `None` if there is nothing more to wait for.
    pub(super) fn changed(&mut self) -> Option<PathBuf> {
        let mut changed: Option<PathBuf> = None;
        loop {
            let news = match &changed {
                None => self.news.recv().ok()?,
                Some(_) => match self.news.recv_timeout(Duration::from_millis(QUIET_MS)) {
                    Ok(news) => news,
                    Err(RecvTimeoutError::Timeout) => {
                        // Before anybody reads the sources, so that no later change of a folder that is new is missed.
                        if let Err(error) = self.watch_all() {
                            tracing::debug!("not all sources are watched: {error:#}");
                        }
                        return changed;
                    }
                    Err(RecvTimeoutError::Disconnected) => return None,
                },
            };
            let path = match news {
                News::Changed(path) => path,
                News::Moved(path) => {
                    self.forget(&path);
                    path
                }
                News::Stop => return None,
            };
            // A file that an editor has made for a moment is not what people know.
            if self.is_watched(&path) && changed.as_ref().is_none_or(|known| !known.exists()) {
                changed = Some(path);
            }
        }
    }

    /// Whether `path` is in one of the folders and a source.
    fn is_watched(&self, path: &Path) -> bool {
        self.crates.iter().any(|folder| is_source(folder, path, &self.made))
    }
}

/// Whether `path` is something below `folder` that people write: neither hidden nor a backup, and not what cargo makes there or
/// what is in one of the folders `made`.
fn is_source(folder: &Path, path: &Path, made: &[PathBuf]) -> bool {
    let Ok(below) = path.strip_prefix(folder) else { return false };
    let mut names = below.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    let is_made = |name: &str| matches!(name, "target" | "Cargo.lock") || name.starts_with('.') || name.ends_with('~');
    // A crate may itself lie in such a folder.
    let is_in_made = made.iter().any(|made| path.starts_with(made) && !folder.starts_with(made));
    below != Path::new("") && !is_in_made && !names.any(|name| is_made(&name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_cargo_and_editors_make_is_no_source() {
        let made = ["/g/build-out", "/g/var/data", "/"].map(PathBuf::from);
        let is = |path| is_source(Path::new("/g"), Path::new(path), &made);
        for source in ["/g/src/lib.rs", "/g/Cargo.toml", "/g/text/alice.txt", "/g/build.rs", "/g/src", "/g/var/table.csv"] {
            assert!(is(source), "{source}");
        }
        for other in ["/g/target/guests/x", "/g/Cargo.lock", "/g/src/.lib.rs.swp", "/g/src/lib.rs~", "/g/.git/HEAD", "/h/a", "/g"]
        {
            assert!(!is(other), "{other}");
        }
        for other in ["/g/build-out", "/g/build-out/guests/x", "/g/var/data/store.db"] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn a_change_is_seen_once_and_reading_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let crate_folder = folder.path().canonicalize().unwrap();
        let (source, manifest) = (crate_folder.join("src/lib.rs"), crate_folder.join("Cargo.toml"));
        fs::create_dir(crate_folder.join("src")).unwrap();
        fs::create_dir(crate_folder.join("target")).unwrap();
        let (mut sources, stop) = Sources::new(Vec::new()).unwrap();
        sources.follow(vec![crate_folder.clone()]).unwrap();
        sources.follow(vec![crate_folder.clone()]).unwrap();

        fs::write(crate_folder.join("target/made"), "").unwrap();
        fs::write(&source, "one").unwrap();
        fs::write(&source, "two").unwrap();
        assert_eq!(sources.changed(), Some(source.clone()));

        // As many editors do it.
        fs::read(&source).unwrap();
        fs::write(crate_folder.join(".new"), "").unwrap();
        fs::rename(crate_folder.join(".new"), &manifest).unwrap();
        assert_eq!(sources.changed(), Some(manifest));

        let begin = Instant::now();
        stop.send(News::Stop).unwrap();
        assert_eq!(sources.changed(), None);
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    #[test]
    fn a_folder_that_was_replaced_is_watched_on() {
        let folder = tempfile::tempdir().unwrap();
        let crate_folder = folder.path().canonicalize().unwrap();
        let (src, other) = (crate_folder.join("src"), crate_folder.join(".other"));
        let source = src.join("lib.rs");
        for folder in [&src, &other] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("lib.rs"), "").unwrap();
        }
        let (mut sources, _stop) = Sources::new(Vec::new()).unwrap();
        sources.follow(vec![crate_folder.clone()]).unwrap();

        fs::rename(&src, crate_folder.join(".old")).unwrap();
        fs::rename(&other, &src).unwrap();
        assert_eq!(sources.changed(), Some(src.clone()));
        fs::write(&source, "of the other one").unwrap();
        assert_eq!(sources.changed(), Some(source.clone()));

        fs::remove_dir_all(&src).unwrap();
        sources.changed().unwrap();
        fs::create_dir(&src).unwrap();
        assert_eq!(sources.changed(), Some(src));
        fs::write(&source, "of the third one").unwrap();
        assert_eq!(sources.changed(), Some(source));
    }
}
