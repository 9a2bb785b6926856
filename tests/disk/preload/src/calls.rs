//! The functions. Each asks the kernel itself, so that none of them comes by here a second time.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};

use dacapo_disk::trace::Record;
use libc::{iovec, mode_t, off_t, size_t, ssize_t};

use crate::layer::{Layer, Watched, layer, refuse, status};

// These two have a third argument only if they make a file. On the machines that Linux runs on it is where it would be anyway.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { openat64(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { openat64(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { openat64(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let really = || unsafe { libc::syscall(libc::SYS_openat, at, path, flags, mode) as c_int };
    let Some((layer, name)) = (unsafe { named(at, path) }) else { return really() };
    let mut watched = layer.lock();
    let is_new = flags & libc::O_CREAT != 0 && unsafe { libc::faccessat(at, path, libc::F_OK, 0) } != 0;
    if is_new && layer.is_full() {
        return refuse(libc::ENOSPC);
    }
    let descriptor = really();
    if let Some(found) = (descriptor >= 0).then(|| status(descriptor)).flatten() {
        let file = found.st_ino;
        match found.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                if is_new {
                    layer.record(Record::Named { path: &name, file, is_new });
                } else if flags & libc::O_TRUNC != 0 {
                    layer.record(Record::Truncated { file, length: 0 });
                }
                watched.files.insert(file, name);
            }
            libc::S_IFDIR => _ = watched.folders.insert(file, name),
            _ => (),
        }
    }
    descriptor
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(descriptor: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    match opened(descriptor) {
        None => unsafe { libc::syscall(libc::SYS_write, descriptor, bytes, count) as ssize_t },
        Some(opened) => opened.append(unsafe { slice(bytes, count) }),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(descriptor: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    match opened(descriptor) {
        None => unsafe { libc::syscall(libc::SYS_writev, descriptor, parts, count) as ssize_t },
        Some(opened) => {
            let parts = unsafe { std::slice::from_raw_parts(parts, count.unsigned_abs() as usize) };
            let bytes: Vec<u8> = parts.iter().flat_map(|part| unsafe { slice(part.iov_base, part.iov_len) }).copied().collect();
            opened.append(&bytes)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(descriptor: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    unsafe { pwrite64(descriptor, bytes, count, offset) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(descriptor: c_int, bytes: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    match opened(descriptor) {
        None => unsafe { libc::syscall(libc::SYS_pwrite64, descriptor, bytes, count, offset) as ssize_t },
        Some(opened) => opened.write_at(offset.unsigned_abs(), unsafe { slice(bytes, count) }),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(descriptor: c_int, length: off_t) -> c_int {
    unsafe { ftruncate64(descriptor, length) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(descriptor: c_int, length: off_t) -> c_int {
    let opened = opened(descriptor);
    let done = unsafe { libc::syscall(libc::SYS_ftruncate, descriptor, length) as c_int };
    if let Some(opened) = opened.filter(|_| done == 0) {
        opened.layer.record(Record::Truncated { file: opened.file, length: length.unsigned_abs() });
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(descriptor: c_int) -> c_int {
    sync(libc::SYS_fsync, descriptor)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    sync(libc::SYS_fdatasync, descriptor)
}

fn sync(call: c_long, descriptor: c_int) -> c_int {
    let really = || unsafe { libc::syscall(call, descriptor) as c_int };
    let (Some(layer), Some(found)) = (layer(), status(descriptor)) else { return really() };
    let (file, began) = (found.st_ino, layer.position());
    let (is_file, folder) = {
        let watched = layer.lock();
        (watched.files.contains_key(&file), watched.folders.get(&file).cloned())
    };
    if !is_file && folder.is_none() {
        return really();
    }
    // Not under the lock: what is written meanwhile may or may not be on the disk then.
    let done = if layer.sync_fails() { refuse(libc::EIO) } else { really() };
    let worked = done == 0;
    let _watched = layer.lock();
    match folder {
        Some(path) => layer.record(Record::FolderSynced { path: &path, began, worked }),
        None => layer.record(Record::Synced { file, began, worked }),
    }
    if worked { done } else { refuse(libc::EIO) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let names = unsafe { (named(libc::AT_FDCWD, from), named(libc::AT_FDCWD, to)) };
    let watched = names.1.as_ref().map(|(layer, _)| layer.lock());
    let done = unsafe { libc::syscall(libc::SYS_renameat, libc::AT_FDCWD, from, libc::AT_FDCWD, to) as c_int };
    if done == 0
        && let (Some((layer, from)), Some((_, to)), Some(mut watched)) = (names.0, names.1, watched)
    {
        layer.record(Record::Renamed { from: &from, to: &to });
        watched.files.values_mut().filter(|path| **path == from).for_each(|path| to.clone_into(path));
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_int) -> c_int {
    let really = || unsafe { libc::syscall(libc::SYS_linkat, from_at, from, to_at, to, flags) as c_int };
    let Some((layer, name)) = (unsafe { named(to_at, to) }) else { return really() };
    let _watched = layer.lock();
    let done = really();
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    if done == 0 && unsafe { libc::syscall(libc::SYS_newfstatat, to_at, to, found.as_mut_ptr(), 0) } == 0 {
        let file = unsafe { found.assume_init() }.st_ino;
        layer.record(Record::Named { path: &name, file, is_new: false });
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    let really = || unsafe { libc::syscall(libc::SYS_unlinkat, at, path, flags) as c_int };
    let Some((layer, name)) = (unsafe { named(at, path) }) else { return really() };
    let _watched = layer.lock();
    let done = really();
    if done == 0 {
        layer.record(Record::Removed { path: &name });
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    let really = || unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) as c_int };
    let Some((layer, name)) = (unsafe { named(libc::AT_FDCWD, path) }) else { return really() };
    let _watched = layer.lock();
    if layer.is_full() && unsafe { libc::faccessat(libc::AT_FDCWD, path, libc::F_OK, 0) } != 0 {
        return refuse(libc::ENOSPC);
    }
    let done = really();
    if done == 0 {
        layer.record(Record::FolderMade { path: &name });
    }
    done
}

/// A file of the folder, with the lock on all changes.
struct Opened {
    layer: &'static Layer,
    descriptor: c_int,
    file: u64,
    bytes: u64,
    _watched: std::sync::MutexGuard<'static, Watched>,
}

/// What `descriptor` stands for, if it is a file of the folder.
fn opened(descriptor: c_int) -> Option<Opened> {
    let layer = layer()?;
    // Others are not held up, of which most are sockets.
    let is_file = |found: &libc::stat| found.st_mode & libc::S_IFMT == libc::S_IFREG;
    status(descriptor).filter(is_file)?;
    let watched = layer.lock();
    let found = status(descriptor)?;
    let is_watched = watched.files.contains_key(&found.st_ino);
    is_watched.then(|| Opened { layer, descriptor, file: found.st_ino, bytes: found.st_size.unsigned_abs(), _watched: watched })
}

impl Opened {
    /// Writes where the descriptor is.
    fn append(self, bytes: &[u8]) -> ssize_t {
        let flags = unsafe { libc::fcntl(self.descriptor, libc::F_GETFL) };
        if flags & libc::O_APPEND != 0 {
            let end = self.bytes;
            return self.write_at(end, bytes);
        }
        let descriptor = self.descriptor;
        let offset = unsafe { libc::lseek(descriptor, 0, libc::SEEK_CUR) };
        let written = self.write_at(offset.unsigned_abs(), bytes);
        if written > 0 {
            unsafe { libc::lseek(descriptor, offset + written as off_t, libc::SEEK_SET) };
        }
        written
    }

    fn write_at(self, offset: u64, bytes: &[u8]) -> ssize_t {
        let end = offset + bytes.len() as u64;
        let growth = end.saturating_sub(self.bytes);
        let refused = growth - self.layer.grow(growth);
        // As a disk does it: what there is room for is written.
        let count = (bytes.len() as u64).saturating_sub(refused) as usize;
        if count == 0 && !bytes.is_empty() {
            return refuse(libc::ENOSPC) as ssize_t;
        }
        let written = unsafe { libc::syscall(libc::SYS_pwrite64, self.descriptor, bytes.as_ptr(), count, offset) };
        if let Ok(written) = usize::try_from(written) {
            self.layer.record(Record::Written { file: self.file, offset, bytes: &bytes[..written] });
        }
        written as ssize_t
    }
}

/// The path from the layer's folder, if `path` lies there.
unsafe fn named(at: c_int, path: *const c_char) -> Option<(&'static Layer, String)> {
    let layer = layer()?;
    let name = layer.within(at, unsafe { CStr::from_ptr(path) })?;
    Some((layer, name))
}

unsafe fn slice<'a>(bytes: *const c_void, count: usize) -> &'a [u8] {
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(bytes.cast(), count) } }
}
