//! How much memory does this machine have for us, and how is it taken? What the kernel says, or less if the process is in a container that
//! may have less; in small pages.

use std::fs;
use std::path::Path;

use rustix::thread::disable_transparent_huge_pages;

/// How much memory this process may use, in bytes. `None` if the system does not say.
pub fn of_this_machine() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    // Of the second version of control groups, ours and all above it; of the first, as containers see it.
    let ours = read(Path::new("/proc/self/cgroup"));
    let ours = ours.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::/"))).unwrap_or_default();
    let groups = Path::new("/sys/fs/cgroup").join(ours);
    let second = groups.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup")).map(|group| group.join("memory.max"));
    let first = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").to_owned();
    let bounds = second.chain([first]).filter_map(|path| bound(&read(&path)?));
    machine.into_iter().chain(bounds).min()
}

/// From now on this process and those that it starts get their memory in small pages, also where the kernel gives huge ones to whoever does
/// not object: what is resident of the server grew by 400 KB there for each guest that stays alive, instead of by 84.
pub fn use_small_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::warn!("memory may come in huge pages, of which guests use little: {error}");
    }
}

/// What `/proc/meminfo` says of the whole machine.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// The bound of a control group, if it has one: `max` stands for none, as does a number of the first version that no machine has.
fn bound(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(total("MemTotal:       24689764 kB\nMemFree: 1 kB\n"), Some(24_689_764 * 1_024));
        assert_eq!((total(""), total("MemTotal: many kB")), (None, None));
        assert_eq!((bound("536870912\n"), bound("max\n")), (Some(512 << 20), None));
        assert!(of_this_machine().is_some_and(|bytes| bytes > 64 << 20), "tests run on more than this");
    }
}
