//! Which of the possible states is it? Chance decides, from a seed that brings the same states back.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context, Result};

/// What a disk writes whole, or not at all, in bytes; most of them.
const SECTOR: usize = 512;

/// A state in which a power loss may leave a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The folders below it, each before what is in it.
    pub folders: Vec<String>,
    /// What is in its files.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl State {
    /// Makes the folder `at`, which is not there yet, for its owner only, and all that is in it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn make(&self, at: &Path) -> Result<()> {
        self.make_only(at, |_| true)
    }

    /// The same with the files only that `is_wanted` says, by their paths.
    pub fn make_only(&self, at: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        let folders = std::iter::once(at.to_owned()).chain(self.folders.iter().map(|path| at.join(path)));
        for folder in folders {
            DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        for (path, bytes) in self.files.iter().filter(|(path, _)| is_wanted(path)) {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(at.join(path));
            file.and_then(|mut file| file.write_all(bytes)).with_context(|| format!("write {path}"))?;
        }
        Ok(())
    }

    /// Takes the folder away again.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn remove(at: &Path) -> Result<()> {
        fs::remove_dir_all(at).with_context(|| format!("remove {}", at.display()))
    }
}

/// How much of what was not synced a state has.
#[derive(Debug)]
pub(crate) struct Keep {
    /// Each change with this probability, in eighths.
    eighths: u64,
    /// All writes may be torn, not only the last one.
    tears_any: bool,
}

impl Keep {
    pub(crate) fn one(&self, dice: &mut Dice) -> bool {
        dice.below(8) < self.eighths
    }

    pub(crate) fn tears(&self, is_last: bool, dice: &mut Dice) -> bool {
        if is_last { dice.below(2) == 0 } else { self.tears_any && dice.below(4) == 0 }
    }
}

/// A source of chance: the generator SplitMix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0; all are about as probable.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % end
    }

    /// How much the next state has: nothing, little, half, most, or all that was written, as after a kill.
    pub(crate) fn keep(&mut self) -> Keep {
        let eighths = [0, 1, 4, 7, 8][usize::try_from(self.below(5)).unwrap_or(0)];
        Keep { eighths, tears_any: self.below(2) == 0 }
    }

    /// Which parts of a write come through: some of its sectors, or all up to some byte, or all from some byte on.
    pub(crate) fn tear(&mut self, offset: usize, length: usize) -> Vec<(usize, usize)> {
        let cut = usize::try_from(self.below(length as u64 + 1)).unwrap_or(length);
        match self.below(3) {
            0 => vec![(0, cut)],
            1 => vec![(cut, length)],
            _ => {
                // The first one may begin in the middle of a sector.
                let ends = (1..).map(|n| (offset / SECTOR + n) * SECTOR - offset);
                let mut parts = Vec::new();
                let mut from = 0;
                for end in ends {
                    let to = end.min(length);
                    if from < to && self.below(2) == 0 {
                        parts.push((from, to));
                    }
                    from = to;
                    if to == length {
                        break;
                    }
                }
                parts
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_whole_and_those_of_the_file() {
        let mut dice = Dice::new(3);
        for _ in 0..1_000 {
            let (offset, length) = (500, 1_100);
            let parts = dice.tear(offset, length);
            assert!(parts.iter().all(|(from, to)| from <= to && *to <= length));
            if let [(from, to), _, ..] = parts[..] {
                assert!([0, 12, 524, 1_036].contains(&from) && [12, 524, 1_036].contains(&to), "{parts:?}");
            }
        }
        assert_eq!(dice.tear(7, 0).iter().map(|(from, to)| to - from).sum::<usize>(), 0);
    }

    #[test]
    fn a_state_becomes_a_folder() {
        let parent = tempfile::tempdir().unwrap();
        let files = [("a".to_owned(), b"x".to_vec()), ("c/d".to_owned(), Vec::new())].into();
        let state = State { folders: vec!["c".to_owned()], files };
        let at = parent.path().join("state");
        state.make(&at).unwrap();
        assert_eq!((fs::read(at.join("a")).unwrap(), fs::read(at.join("c/d")).unwrap()), (b"x".to_vec(), Vec::new()));
        State::remove(&at).unwrap();
    }
}
