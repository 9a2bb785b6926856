//! What may be on a disk, and what must be? The fold of a trace.
//!
//! The model is stricter than any file system: what was not synced may be missing or torn, write by write, in any combination; a name is
//! only as durable as a sync of its folder made it; and what a failed sync should have made durable may be missing for ever, however
//! often the file is synced later, since the system takes it for written.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::crash::{Dice, Keep, State};
use crate::trace::Record;

/// Nothing of a file whose name ends like that is ever durable: SQLite's shared memory and the page of turns in flight, which are written past
/// all functions, and mean nothing after a power loss.
const MEMORY_ONLY: [&str; 2] = ["-shm", "turns-in-flight"];

/// A folder on a disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// By the number of the inode, which file that is now.
    inodes: HashMap<u64, usize>,
    files: Vec<File>,
    names: Names,
    /// Names given and taken since, in their order.
    namings: Vec<Change<Naming>>,
}

type Names = BTreeMap<String, Node>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

/// The content of a file.
#[derive(Debug, Clone, Default)]
struct File {
    /// Durable for sure.
    bytes: Vec<u8>,
    /// What was done to it since, in its order.
    changes: Vec<Change<Edit>>,
}

/// Something that was done.
#[derive(Debug, Clone)]
struct Change<T> {
    /// Where the trace was when it was done.
    at: u64,
    what: T,
    fate: Fate,
}

/// Whether something survives a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It may; after a sync it does.
    Open,
    /// It may, and no later sync changes that: one has failed.
    Doubtful,
    /// It does, but something before it is not settled yet.
    Durable,
}

#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

#[derive(Debug, Clone)]
enum Naming {
    Give { path: String, node: Node },
    Move { from: String, to: String },
    Take { path: String },
}

impl Disk {
    /// A folder as it lies there, all of it durable.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let mut disk = Self::default();
        disk.read(folder, "")?;
        Ok(disk)
    }

    fn read(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let entry = entry.context("list a folder")?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let found = entry.metadata().with_context(|| format!("look at {name}"))?;
            if found.is_dir() {
                self.names.insert(name.clone(), Node::Folder);
                self.read(&entry.path(), &format!("{name}/"))?;
            } else {
                let bytes = fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
                let file = self.add(found.ino(), bytes);
                self.names.insert(name, Node::File(file));
            }
        }
        Ok(())
    }

    fn add(&mut self, inode: u64, bytes: Vec<u8>) -> usize {
        self.files.push(File { bytes, changes: Vec::new() });
        self.inodes.insert(inode, self.files.len() - 1);
        self.files.len() - 1
    }

    /// The next record of the trace; `at` is the position behind it.
    ///
    /// # Errors
    /// If it is about something that was never there: then the trace is not whole.
    pub fn take(&mut self, at: u64, record: Record<'_>) -> Result<()> {
        let open = |what| Change { at, what, fate: Fate::Open };
        match record {
            Record::Written { file, offset, bytes } => {
                let write = Edit::Write { offset: usize::try_from(offset)?, bytes: bytes.to_vec() };
                self.file(file)?.changes.push(Change { at, what: write, fate: Fate::Open });
            }
            Record::Truncated { file, length } => {
                let truncate = Edit::Truncate { length: usize::try_from(length)? };
                self.file(file)?.changes.push(Change { at, what: truncate, fate: Fate::Open });
            }
            Record::Synced { file, began, worked } => {
                let File { bytes, changes } = self.file(file)?;
                settle(changes, began, worked, |_| true);
                for edit in settled(changes) {
                    edit.apply(bytes);
                }
            }
            Record::FolderSynced { path, began, worked } => {
                settle(&mut self.namings, began, worked, |naming| naming.folder() == path);
                for naming in settled(&mut self.namings) {
                    naming.apply(&mut self.names);
                }
            }
            Record::Named { path, file, is_new } => {
                let node = if is_new { self.add(file, Vec::new()) } else { self.number(file)? };
                self.namings.push(open(Naming::Give { path: path.to_owned(), node: Node::File(node) }));
            }
            Record::Renamed { from, to } => {
                self.namings.push(open(Naming::Move { from: from.to_owned(), to: to.to_owned() }));
            }
            Record::Removed { path } => self.namings.push(open(Naming::Take { path: path.to_owned() })),
            Record::FolderMade { path } => {
                self.namings.push(open(Naming::Give { path: path.to_owned(), node: Node::Folder }));
            }
        }
        Ok(())
    }

    fn number(&self, inode: u64) -> Result<usize> {
        self.inodes.get(&inode).copied().with_context(|| format!("the trace knows no file {inode}"))
    }

    fn file(&mut self, inode: u64) -> Result<&mut File> {
        let number = self.number(inode)?;
        Ok(&mut self.files[number])
    }

    /// One of the states in which a power loss might leave the folder now.
    pub fn crash(&self, dice: &mut Dice) -> State {
        let keep = dice.keep();
        let mut names = self.names.clone();
        for Change { what, fate, .. } in &self.namings {
            if *fate == Fate::Durable || keep.one(dice) {
                what.apply(&mut names);
            }
        }
        self.state(&names, |file| file.crash(&keep, dice))
    }

    /// The folder as programs see it as long as the power is on.
    fn seen(&self) -> State {
        let mut names = self.names.clone();
        self.namings.iter().for_each(|change| change.what.apply(&mut names));
        let content = |file: &File| {
            let mut bytes = file.bytes.clone();
            file.changes.iter().for_each(|change| change.what.apply(&mut bytes));
            bytes
        };
        self.state(&names, content)
    }

    fn state(&self, names: &Names, mut content: impl FnMut(&File) -> Vec<u8>) -> State {
        let mut state = State::default();
        for (path, node) in names {
            let is_there = folder_of(path).is_empty() || names.get(folder_of(path)) == Some(&Node::Folder);
            match node {
                _ if !is_there || MEMORY_ONLY.iter().any(|end| path.ends_with(end)) => (),
                Node::Folder => state.folders.push(path.clone()),
                Node::File(number) => _ = state.files.insert(path.clone(), content(&self.files[*number])),
            }
        }
        state
    }

    /// Compares the folder with what the trace says of it. Nobody may be at work there.
    ///
    /// # Errors
    /// If something was done to it that is not in the trace: then the states are not to be trusted.
    pub fn check(&self, folder: &Path) -> Result<()> {
        let (expected, mut there) = (self.seen(), Self::of(folder)?.seen());
        for (path, bytes) in &expected.files {
            let found = there.files.remove(path).with_context(|| format!("{path} is in the trace, and not in the folder"))?;
            let differs = bytes.iter().zip(&found).position(|(a, b)| a != b);
            ensure!(
                differs.is_none() && bytes.len() == found.len(),
                "{path} has {} bytes by the trace and {} in the folder; the first that differs: {differs:?}",
                bytes.len(),
                found.len()
            );
        }
        if let Some(path) = there.files.keys().next() {
            bail!("{path} is in the folder, and not in the trace");
        }
        Ok(())
    }
}

impl File {
    fn crash(&self, keep: &Keep, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (index, Change { what, fate, .. }) in self.changes.iter().enumerate() {
            if *fate == Fate::Durable {
                what.apply(&mut bytes);
            } else if keep.one(dice) {
                let is_last = index + 1 == self.changes.len();
                if keep.tears(is_last, dice) { what.apply_torn(&mut bytes, dice) } else { what.apply(&mut bytes) }
            }
        }
        bytes
    }
}

/// What a sync that began there means for what was done before.
fn settle<T>(changes: &mut [Change<T>], began: u64, worked: bool, concerns: impl Fn(&T) -> bool) {
    for change in changes.iter_mut().filter(|change| change.at <= began && change.fate == Fate::Open) {
        if concerns(&change.what) {
            change.fate = if worked { Fate::Durable } else { Fate::Doubtful };
        }
    }
}

/// Takes out what is durable and has nothing before it that is not.
fn settled<T>(changes: &mut Vec<Change<T>>) -> impl Iterator<Item = T> {
    let count = changes.iter().position(|change| change.fate != Fate::Durable).unwrap_or(changes.len());
    changes.drain(..count).map(|change| change.what)
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Edit {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(file, *offset, bytes),
            Self::Truncate { length } => file.resize(*length, 0),
        }
    }

    /// The same, as a disk does it that loses its power meanwhile.
    fn apply_torn(&self, file: &mut Vec<u8>, dice: &mut Dice) {
        match self {
            Self::Write { offset, bytes } => {
                for (from, to) in dice.tear(*offset, bytes.len()) {
                    put(file, offset + from, &bytes[from..to]);
                }
            }
            Self::Truncate { .. } => self.apply(file),
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

impl Naming {
    /// Whose sync makes it durable.
    fn folder(&self) -> &str {
        match self {
            Self::Give { path, .. } | Self::Take { path } | Self::Move { to: path, .. } => folder_of(path),
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Give { path, node } => _ = names.insert(path.clone(), *node),
            Self::Move { from, to } => {
                // If the name before never came to the disk, neither does the one after.
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Take { path } => _ = names.remove(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn write(offset: u64, bytes: &[u8]) -> Record<'_> {
        Record::Written { file: 1, offset, bytes }
    }

    const NEW: Record<'_> = Record::Named { path: "a", file: 1, is_new: true };

    fn synced(began: u64, worked: bool) -> Record<'static> {
        Record::Synced { file: 1, began, worked }
    }

    fn folder_synced(began: u64) -> Record<'static> {
        Record::FolderSynced { path: "", began, worked: true }
    }

    /// The contents that file `a` has in many crashes after these records, which end at positions 1, 2, …
    fn check(records: &[Record<'_>], expected: &[Option<&str>]) {
        let mut disk = Disk::default();
        for (at, record) in (1..).zip(records) {
            disk.take(at, *record).unwrap();
        }
        let mut dice = Dice::new(17);
        let seen: BTreeSet<Option<String>> = (0..2_000)
            .map(|_| disk.crash(&mut dice).files.get("a").map(|bytes| String::from_utf8(bytes.clone()).unwrap()))
            .collect();
        let expected: BTreeSet<_> = expected.iter().map(|content| content.map(str::to_owned)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_name_is_durable_after_a_sync_of_its_folder_only() {
        check(&[NEW], &[None, Some("")]);
        check(&[NEW, synced(1, true)], &[None, Some("")]);
        check(&[NEW, folder_synced(1)], &[Some("")]);
        check(&[NEW, folder_synced(0)], &[None, Some("")]);
        let renamed = Record::Renamed { from: "b", to: "a" };
        let draft = Record::Named { path: "b", file: 1, is_new: true };
        check(&[draft, folder_synced(1), renamed], &[None, Some("")]);
        check(&[NEW, folder_synced(1), Record::Removed { path: "a" }], &[None, Some("")]);
        check(&[NEW, folder_synced(1), Record::Removed { path: "a" }, folder_synced(3)], &[None]);
    }

    #[test]
    fn what_was_written_is_there_for_sure_when_a_sync_began_behind_it() {
        let base = [NEW, folder_synced(1), write(0, b"x")];
        check(&base, &[Some(""), Some("x"), Some("\0")]);
        check(&[&base[..], &[synced(3, true)]].concat(), &[Some("x")]);
        check(&[&base[..], &[synced(2, true)]].concat(), &[Some(""), Some("x"), Some("\0")]);
        check(&[&base[..], &[synced(3, true), write(0, b"y")]].concat(), &[Some("x"), Some("y")]);
        check(&[&base[..], &[synced(3, true), Record::Truncated { file: 1, length: 0 }]].concat(), &[Some("x"), Some("")]);
    }

    #[test]
    fn what_a_failed_sync_left_stays_in_doubt_until_it_is_written_again() {
        let failed = [NEW, folder_synced(1), write(0, b"x"), synced(3, true), write(0, b"y"), synced(5, false), synced(6, true)];
        check(&failed, &[Some("x"), Some("y")]);
        check(&[&failed[..], &[write(1, b"z"), synced(8, true)]].concat(), &[Some("xz"), Some("yz")]);
        check(&[&failed[..], &[write(0, b"y"), synced(8, true)]].concat(), &[Some("y")]);
    }

    #[test]
    fn a_write_may_be_torn_at_any_byte() {
        let torn = [NEW, folder_synced(1), write(0, b"--"), synced(3, true), write(0, b"ab")];
        check(&torn, &[Some("--"), Some("a-"), Some("-b"), Some("ab")]);
    }

    #[test]
    fn a_file_in_a_folder_that_is_lost_is_lost() {
        let made = [Record::FolderMade { path: "c" }, Record::Named { path: "c/a", file: 1, is_new: true }];
        let mut disk = Disk::default();
        for (at, record) in (1..).zip(made) {
            disk.take(at, record).unwrap();
        }
        disk.take(3, Record::FolderSynced { path: "c", began: 2, worked: true }).unwrap();
        let mut dice = Dice::new(17);
        let states: Vec<_> = (0..200).map(|_| disk.crash(&mut dice)).collect();
        assert!(states.iter().all(|state| state.folders.is_empty() == state.files.is_empty()));
        assert!(states.iter().any(|state| state.files.is_empty()) && states.iter().any(|state| !state.files.is_empty()));
    }

    #[test]
    fn what_is_not_in_the_trace_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "x").unwrap();
        let disk = Disk::of(folder.path()).unwrap();
        disk.check(folder.path()).unwrap();
        fs::write(folder.path().join("a"), "y").unwrap();
        assert!(disk.check(folder.path()).is_err());
    }
}
