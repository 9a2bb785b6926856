//! When has a source changed? Folders are watched, not files: many editors write a new file and give it the name of the old one.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::event::EventKind;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

/// How long nothing must change before a change counts as over, in milliseconds: an editor's "save all" is one change.
const QUIET_MS: u64 = 50;

/// What there is to react to.
#[derive(Debug)]
pub(super) enum News {
    /// A file has changed.
    Changed(PathBuf),
    /// It is over.
    Stop,
}

/// Watches the folders of crates.
pub(super) struct Sources {
    watcher: RecommendedWatcher,
    watched: HashSet<PathBuf>,
    news: Receiver<News>,
}

impl Sources {
    /// Watches nothing yet. The sender is for [`News::Stop`].
    ///
    /// # Errors
    /// If the system does not let folders be watched.
    pub(super) fn new() -> Result<(Self, Sender<News>)> {
        let (sender, news) = mpsc::channel();
        let changes = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error is a change that we do not know more of.
            let paths = match event {
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => return, // Cargo reads all sources.
                Ok(event) => event.paths,
                Err(error) => error.paths,
            };
            for path in paths {
                let _ = changes.send(News::Changed(path)); // Nobody listens any more: it is over.
            }
        });
        Ok((Self { watcher: watcher.context("watch the sources")?, watched: HashSet::new(), news }, sender))
    }

    /// Watches these folders of crates too: each with all that is below it, but for what is built or hidden.
    ///
    /// # Errors
    /// If one cannot be watched.
    pub(super) fn follow(&mut self, crates: &[PathBuf]) -> Result<()> {
        for folder in crates {
            self.watch(folder, RecursiveMode::NonRecursive)?;
            for entry in folder.read_dir().with_context(|| format!("list {}", folder.display()))? {
                let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
                if path.is_dir() && is_source(folder, &path) {
                    self.watch(&path, RecursiveMode::Recursive)?;
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, folder: &Path, mode: RecursiveMode) -> Result<()> {
        if self.watched.insert(folder.to_owned()) {
            self.watcher.watch(folder, mode).with_context(|| format!("watch {}", folder.display()))?;
        }
        Ok(())
    }

    /// Waits for the next change, which may have been since the last call, and until it is over. Returns a file that has changed;
    /// `None` if there is nothing more to wait for.
    pub(super) fn changed(&self) -> Option<PathBuf> {
        let mut changed: Option<PathBuf> = None;
        loop {
            let path = match &changed {
                None => match self.news.recv().ok()? {
                    News::Changed(path) => path,
                    News::Stop => return None,
                },
                Some(_) => match self.news.recv_timeout(Duration::from_millis(QUIET_MS)) {
                    Ok(News::Changed(path)) => path,
                    Err(RecvTimeoutError::Timeout) => return changed,
                    Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                },
            };
            // A file that an editor has made for a moment is not what people know.
            if self.is_watched(&path) && changed.as_ref().is_none_or(|known| !known.exists()) {
                changed = Some(path);
            }
        }
    }

    /// Whether `path` is in one of the folders and a source.
    fn is_watched(&self, path: &Path) -> bool {
        self.watched.iter().any(|folder| is_source(folder, path))
    }
}

/// Whether `path` is something below `folder` that people write: neither hidden nor a backup, and not what cargo makes there.
fn is_source(folder: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(folder) else { return false };
    let mut names = below.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    let is_made = |name: &str| matches!(name, "target" | "Cargo.lock") || name.starts_with('.') || name.ends_with('~');
    below != Path::new("") && !names.any(|name| is_made(&name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_cargo_and_editors_make_is_no_source() {
        let is = |path| is_source(Path::new("/g"), Path::new(path));
        for source in ["/g/src/lib.rs", "/g/Cargo.toml", "/g/text/alice.txt", "/g/build.rs", "/g/src"] {
            assert!(is(source), "{source}");
        }
        for other in ["/g/target/guests/x", "/g/Cargo.lock", "/g/src/.lib.rs.swp", "/g/src/lib.rs~", "/g/.git/HEAD", "/h/a", "/g"]
        {
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
        let (mut sources, stop) = Sources::new().unwrap();
        sources.follow(std::slice::from_ref(&crate_folder)).unwrap();
        sources.follow(std::slice::from_ref(&crate_folder)).unwrap();

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
}
