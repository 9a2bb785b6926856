//! What did a program do to the files of a folder? One record after the other, in the order in which it was done.
//!
//! Written by the library that stands between the program and the C library, read by [`super::Disk`]. A position is a number of
//! bytes from the beginning of the trace. Files have the numbers of their inodes; paths are relative to the folder, whose own is empty.

/// The variable that names the folder.
pub const FOLDER: &str = "DACAPO_DISK_FOLDER";

/// The variable that names the file to write the records to.
pub const TRACE: &str = "DACAPO_DISK_TRACE";

/// The variable that names the file of [`control`].
pub const CONTROL: &str = "DACAPO_DISK_CONTROL";

/// What lies where in the file by which the library is told what to do. All numbers are 64 bits wide, as the machine writes them.
pub mod control {
    /// By how many bytes files may still grow; [`UNLIMITED`] for a disk that never fills up.
    pub const ROOM: usize = 0;
    /// How many syncs are to fail; counts down.
    pub const FAILING_SYNCS: usize = 8;
    /// Not 0: the program is killed before it changes a file again.
    pub const KILL: usize = 16;
    /// How long the file is.
    pub const BYTES: usize = 24;
    /// See [`ROOM`].
    pub const UNLIMITED: u64 = u64::MAX;
}

/// One thing that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// Bytes were written.
    Written {
        /// To which file.
        file: u64,
        /// From where in it on.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// A file was cut, or grew by zeros.
    Truncated {
        /// Which one.
        file: u64,
        /// How long it is now.
        length: u64,
    },
    /// A file was synced, with all that was done to it up to `began`.
    Synced {
        /// Which one.
        file: u64,
        /// Where the trace was when the sync began.
        began: u64,
        /// Whether it worked.
        worked: bool,
    },
    /// A folder was synced, with all names that were given and taken in it up to `began`.
    FolderSynced {
        /// Which one.
        path: &'a str,
        /// Where the trace was when the sync began.
        began: u64,
        /// Whether it worked.
        worked: bool,
    },
    /// A file got a name.
    Named {
        /// Which name.
        path: &'a str,
        /// Which file.
        file: u64,
        /// It was not there before, and is empty.
        is_new: bool,
    },
    /// A file got another name, and what had that before is gone.
    Renamed {
        /// The name before.
        from: &'a str,
        /// The name now.
        to: &'a str,
    },
    /// A file lost this name, or an empty folder is gone.
    Removed {
        /// Which name.
        path: &'a str,
    },
    /// A folder was made.
    FolderMade {
        /// Its name.
        path: &'a str,
    },
}

/// Length, kind and two numbers.
const HEAD: usize = 4 + 1 + 8 + 8;

impl<'a> Record<'a> {
    /// The record as bytes of a trace.
    ///
    /// # Panics
    /// If it has 4 GB or more.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, a, b, parts): (u8, u64, u64, [&[u8]; 3]) = match *self {
            Self::Written { file, offset, bytes } => (1, file, offset, [bytes, b"", b""]),
            Self::Truncated { file, length } => (2, file, length, [b"", b"", b""]),
            Self::Synced { file, began, worked } => (if worked { 3 } else { 4 }, file, began, [b"", b"", b""]),
            Self::FolderSynced { path, began, worked } => (if worked { 5 } else { 6 }, 0, began, [path.as_bytes(), b"", b""]),
            Self::Named { path, file, is_new } => (7, file, u64::from(is_new), [path.as_bytes(), b"", b""]),
            Self::Renamed { from, to } => (8, from.len() as u64, 0, [from.as_bytes(), to.as_bytes(), b""]),
            Self::Removed { path } => (9, 0, 0, [path.as_bytes(), b"", b""]),
            Self::FolderMade { path } => (10, 0, 0, [path.as_bytes(), b"", b""]),
        };
        let length = HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(u32::try_from(length).expect("no program writes 4 GB at once").to_le_bytes());
        bytes.push(kind);
        bytes.extend(a.to_le_bytes());
        bytes.extend(b.to_le_bytes());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// The record at the beginning of `bytes`, and how long it is. `None` if it is not there, or not whole.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let (kind, a, b, rest) = (*bytes.get(4)?, number(5)?, number(13)?, bytes.get(HEAD..length)?);
        let text = || std::str::from_utf8(rest).ok();
        let record = match kind {
            1 => Self::Written { file: a, offset: b, bytes: rest },
            2 => Self::Truncated { file: a, length: b },
            3 | 4 => Self::Synced { file: a, began: b, worked: kind == 3 },
            5 | 6 => Self::FolderSynced { path: text()?, began: b, worked: kind == 5 },
            7 => Self::Named { path: text()?, file: a, is_new: b == 1 },
            8 => {
                let (from, to) = text()?.split_at_checked(usize::try_from(a).ok()?)?;
                Self::Renamed { from, to }
            }
            9 => Self::Removed { path: text()? },
            10 => Self::FolderMade { path: text()? },
            _ => return None,
        };
        Some((record, length))
    }
}

/// The records of a trace, each with the position behind it.
pub fn records(trace: &[u8]) -> impl Iterator<Item = (u64, Record<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (record, length) = Record::decode(&trace[at..])?;
        at += length;
        Some((at as u64, record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_written_with_the_positions_behind_them() {
        let all = [
            Record::Written { file: 7, offset: 4_096, bytes: b"bread" },
            Record::Truncated { file: 7, length: 3 },
            Record::Synced { file: 7, began: 26, worked: true },
            Record::Synced { file: 7, began: 26, worked: false },
            Record::FolderSynced { path: "", began: 99, worked: true },
            Record::FolderSynced { path: "a", began: 99, worked: false },
            Record::Named { path: "a/é", file: 8, is_new: true },
            Record::Named { path: "a/b", file: 8, is_new: false },
            Record::Renamed { from: "a/é", to: "b" },
            Record::Removed { path: "b" },
            Record::FolderMade { path: "c" },
        ];
        let trace: Vec<u8> = all.iter().flat_map(Record::encode).collect();
        let read: Vec<_> = records(&trace).collect();
        assert_eq!(read.iter().map(|(_, record)| *record).collect::<Vec<_>>(), all);
        assert_eq!((read[0].0, read.last().unwrap().0), (26, trace.len() as u64));
        assert_eq!(records(&trace[..trace.len() - 1]).count(), all.len() - 1);
    }
}
