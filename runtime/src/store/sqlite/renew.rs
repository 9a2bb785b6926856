//! Does the disk have what the write-ahead log seems to hold? After a failed sync the system may take for written what never reached the
//! disk, shows it to everybody who reads, and no later sync changes that.
//!
//! What a new life of the server commits stands behind it in the log and would be lost with it. So the log is written anew, byte for byte,
//! before anybody builds on it: then a sync that works says what it should. The database file needs no such care: what a failed sync of it
//! left in doubt is in the log still, all of which goes to the file again.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// How much is read and written at once, in bytes.
const PIECE: usize = 1 << 20;

/// Writes the file anew and syncs it; nothing is done if it is not there. Safe to be killed at any point, and quick: the log is empty after a
/// stop in order, and some 64 MB at most after a kill.
///
/// # Errors
/// If the disk is not in order.
pub(super) fn renew(log: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at).map_or(PIECE, |left| left.min(PIECE));
        file.read_exact_at(&mut piece[..count], at)?;
        file.write_all_at(&piece[..count], at)?;
        at += count as u64;
    }
    if length == 0 { Ok(()) } else { file.sync_all() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_log_is_what_it_was_and_none_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        renew(&log).unwrap();
        assert!(!log.exists());
        for length in [0, 1, PIECE, 2 * PIECE + 77] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            fs::write(&log, &bytes).unwrap();
            renew(&log).unwrap();
            assert!(fs::read(&log).unwrap() == bytes, "{length}");
        }
    }
}
