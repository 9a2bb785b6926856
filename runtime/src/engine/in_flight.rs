//! Which turns run right now? A page of a file, mapped into memory, where each turn is noted while its guest runs.
//!
//! The page belongs to the kernel, so it is there still when the process has died, however it died, and tells the next life of the server what
//! ran then. To note a turn is to store two numbers in memory: nothing is written to the disk for it, and after a power cut the page may be
//! wrong. Who reads it must not rely on it, see `suspects.rs`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use memmap2::MmapRaw;

use crate::model::ExecutionKey;

/// The file in the data directory.
pub(super) const FILE: &str = "turns-in-flight";

/// What the file begins with: our mark, and the version of what follows.
const MARK: u64 = u64::from_le_bytes(*b"dacapo\0\x01");

/// The words of 8 bytes of a slot, and of what stands before the first: a cache line, so that no two threads write to the same.
const SLOT_WORDS: usize = 8;

/// In the first slot, where it is said that the process was asked to stop: what runs then is not to blame for its end.
const STOPPED: usize = 1;

/// What the system maps at once, in bytes.
const PAGE_BYTES: usize = 4096;

/// A turn that runs, or ran when the process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    /// Of which execution.
    pub execution: ExecutionKey,
    /// How many turns of it were recorded before.
    pub turns: u32,
}

/// The page, open.
pub(super) struct InFlight {
    map: MmapRaw,
    words: usize,
}

/// A turn that is noted until this is dropped.
pub(super) struct Noted<'a>(&'a AtomicU64);

/// The turns that ran when the process died that wrote the file `path` last. None if it was asked to stop, or if there is no such file.
///
/// # Errors
/// If the file is there and cannot be read.
pub(super) fn left_behind(path: &Path) -> io::Result<Vec<Flight>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    if words.first() != Some(&MARK) || words.get(STOPPED) != Some(&0) {
        return Ok(Vec::new());
    }
    let flight = |slot: &[u64]| {
        let (execution, turns) = (i64::try_from(slot[0]).ok()?, u32::try_from(slot[1]).ok()?);
        (execution > 0).then_some(Flight { execution: ExecutionKey(execution), turns })
    };
    Ok(words.chunks_exact(SLOT_WORDS).skip(1).filter_map(flight).collect())
}

impl InFlight {
    /// Opens the file `path` anew, with room for `turns_max` turns at once. What it said is gone.
    ///
    /// # Errors
    /// If it cannot be made or mapped.
    pub(super) fn open(path: &Path, turns_max: usize) -> io::Result<Self> {
        let bytes = ((turns_max + 1) * SLOT_WORDS * 8).next_multiple_of(PAGE_BYTES);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // All of it is written and synced, so that there is a place for it on the disk: without one, a store to the memory would be an error
        // that ends the process.
        file.set_len(bytes as u64)?;
        file.write_all_at(&vec![0; bytes], 0)?;
        file.sync_all()?;
        let map = memmap2::MmapOptions::new().len(bytes).map_raw(&file)?;
        let page = Self { map, words: bytes / 8 };
        page.words()[0].store(MARK, Ordering::Release);
        Ok(page)
    }

    /// Notes a turn of `execution`, of which `turns` turns are recorded. `None` if there is no room, as when more turns run than it was opened
    /// for.
    pub(super) fn note(&self, Flight { execution, turns }: Flight) -> Option<Noted<'_>> {
        let mut slots = self.words().chunks_exact(SLOT_WORDS).skip(1);
        let number = execution.0.cast_unsigned();
        let free = |slot: &&[AtomicU64]| slot[0].compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let slot = slots.find(free)?;
        slot[1].store(u64::from(turns), Ordering::Release);
        Some(Noted(&slot[0]))
    }

    /// The process was asked to stop: whatever ends it from now on, no turn is to blame.
    pub(super) fn stop(&self) {
        self.words()[STOPPED].store(1, Ordering::Release);
    }

    fn words(&self) -> &[AtomicU64] {
        // The mapping is `words` times 8 bytes long, begins at a page, and stays for as long as `self`. All that reaches it in this process are
        // atomic stores and loads. The file is ours alone: the directory is closed to others and locked.
        #[allow(unsafe_code, reason = "the compiler does not know what a mapping is")]
        unsafe {
            slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.words)
        }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        // A panic here is about to end the process, and this turn is what it came of.
        if !thread::panicking() {
            self.0.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn flight(execution: i64, turns: u32) -> Flight {
        Flight { execution: ExecutionKey(execution), turns }
    }

    #[test]
    fn what_runs_is_in_the_file_without_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(left_behind(&path).unwrap(), []);
        let page = InFlight::open(&path, 3).unwrap();
        assert_eq!(left_behind(&path).unwrap(), []);
        let (first, second) = (page.note(flight(7, 0)).unwrap(), page.note(flight(9, 4)));
        assert_eq!(left_behind(&path).unwrap(), [flight(7, 0), flight(9, 4)]);
        drop(first);
        assert_eq!(left_behind(&path).unwrap(), [flight(9, 4)]);
        let third = page.note(flight(8, 1));
        assert_eq!(left_behind(&path).unwrap(), [flight(8, 1), flight(9, 4)]);
        page.stop();
        assert_eq!(left_behind(&path).unwrap(), [], "nobody is to blame for a stop");
        drop((second, third));
        let page = InFlight::open(&path, 3).unwrap();
        let _fourth = page.note(flight(5, 2));
        assert_eq!(left_behind(&path).unwrap(), [flight(5, 2)]);
    }

    #[test]
    fn what_panics_stays_noted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let page = InFlight::open(&path, 2).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _noted = page.note(flight(7, 3));
            panic!("a rule is broken");
        }));
        assert!(panicked.is_err());
        assert_eq!(left_behind(&path).unwrap(), [flight(7, 3)]);
    }

    #[test]
    fn a_file_of_something_else_blames_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        for bytes in [&b""[..], b"short", &[0xFF; 4096]] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(left_behind(&path).unwrap(), []);
        }
    }
}
