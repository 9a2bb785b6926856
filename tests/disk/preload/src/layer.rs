//! Which files are watched, what may be done to them, and where is it written down?

use std::collections::HashMap;
use std::env;
use std::ffi::{CStr, CString, OsStr, c_int};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dacapo_disk::trace::{self, Record, control};

/// What the environment asks for.
pub(crate) struct Layer {
    /// The folder, without a slash at the end.
    folder: Vec<u8>,
    trace: c_int,
    control: &'static [AtomicU64; control::BYTES / 8],
    watched: Mutex<Watched>,
}

/// By the number of the inode, which path below the folder something has that was opened.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) files: HashMap<u64, String>,
    pub(crate) folders: HashMap<u64, String>,
}

/// The layer that this program runs on; `None` if it runs on none.
pub(crate) fn layer() -> Option<&'static Layer> {
    static LAYER: OnceLock<Option<Layer>> = OnceLock::new();
    LAYER.get_or_init(Layer::of_environment).as_ref()
}

impl Layer {
    fn of_environment() -> Option<Self> {
        let path = |variable: &str| CString::new(env::var_os(variable)?.into_vec()).ok();
        let (folder, trace, control) = (path(trace::FOLDER)?, path(trace::TRACE)?, path(trace::CONTROL)?);
        let open = |path: &CStr, flags: c_int| unsafe {
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0) as c_int
        };
        let trace = open(&trace, libc::O_WRONLY | libc::O_APPEND);
        let file = open(&control, libc::O_RDWR);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let page = unsafe { libc::mmap(std::ptr::null_mut(), control::BYTES, protection, flags, file, 0) };
        if trace < 0 || page == libc::MAP_FAILED {
            die("the trace or the controls of the disk cannot be opened");
        }
        // Mapped for good, aligned to a page, and as long as the file.
        let control = unsafe { &*page.cast() };
        Some(Self { folder: folder.into_bytes(), trace, control, watched: Mutex::default() })
    }

    /// Holds back everybody else who wants to change a file. Ends the program if that is what it was told.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Watched> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if self.control(control::KILL).load(Ordering::SeqCst) != 0 {
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            loop {
                unsafe { libc::pause() };
            }
        }
        watched
    }

    fn control(&self, at: usize) -> &AtomicU64 {
        &self.control[at / 8]
    }

    /// The path from the folder to what is meant by `path` in the folder that is open as `at`; `None` if it lies elsewhere.
    pub(crate) fn within(&self, at: c_int, path: &CStr) -> Option<String> {
        let path = path.to_bytes();
        let whole = if path.starts_with(b"/") {
            path.to_vec()
        } else {
            let link = if at == libc::AT_FDCWD { "/proc/self/cwd".to_owned() } else { format!("/proc/self/fd/{at}") };
            [std::fs::read_link(link).ok()?.as_os_str().as_bytes(), b"/", path.strip_prefix(b"./").unwrap_or(path)].concat()
        };
        let rest = whole.strip_prefix(&*self.folder)?;
        let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b"/")? };
        Some(OsStr::from_bytes(rest).to_str()?.trim_end_matches('/').to_owned())
    }

    /// How long the trace is.
    pub(crate) fn position(&self) -> u64 {
        unsafe { libc::lseek(self.trace, 0, libc::SEEK_END) }.unsigned_abs()
    }

    /// Writes something down. To be called under the lock, if it changes a file.
    pub(crate) fn record(&self, record: Record<'_>) {
        let bytes = record.encode();
        let written = unsafe { libc::syscall(libc::SYS_write, self.trace, bytes.as_ptr(), bytes.len()) };
        if usize::try_from(written) != Ok(bytes.len()) {
            die("the trace of the disk cannot be written");
        }
    }

    /// Takes so many of these bytes from the room that is left: as many as there is room for.
    pub(crate) fn grow(&self, bytes: u64) -> u64 {
        let room = self.control(control::ROOM);
        let mut granted = bytes;
        // Whoever makes room meanwhile must not be overruled.
        let _ = room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            granted = bytes.min(left);
            (left != control::UNLIMITED).then(|| left - granted)
        });
        granted
    }

    /// Whether there is no room at all.
    pub(crate) fn is_full(&self) -> bool {
        self.control(control::ROOM).load(Ordering::SeqCst) == 0
    }

    /// Whether the sync at hand is to fail.
    pub(crate) fn sync_fails(&self) -> bool {
        let failing = self.control(control::FAILING_SYNCS);
        failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// What lies behind a descriptor.
pub(crate) fn status(descriptor: c_int) -> Option<libc::stat> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    let flags = libc::AT_EMPTY_PATH;
    let found = unsafe { libc::syscall(libc::SYS_newfstatat, descriptor, c"".as_ptr(), status.as_mut_ptr(), flags) };
    (found == 0).then(|| unsafe { status.assume_init() })
}

/// Sets `errno` and returns what a function of the C library then does.
pub(crate) fn refuse(error: c_int) -> c_int {
    unsafe { *libc::__errno_location() = error };
    -1
}

fn die(what: &str) -> ! {
    let line = format!("{what}: {}\n", io::Error::last_os_error());
    unsafe {
        libc::syscall(libc::SYS_write, 2, line.as_ptr(), line.len());
        libc::abort()
    }
}
