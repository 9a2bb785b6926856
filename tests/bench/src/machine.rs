//! Where were the figures measured? Without that they say nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What of a machine bears on the figures.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Those that this program may use, and with it the server.
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
}

impl Machine {
    /// The one that this program runs on. What it does not tell is `unknown`.
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: available_parallelism().map_or(0, usize::from),
            cpu: known(cpu_model(&read("/proc/cpuinfo"))),
            kernel: known(Some(read("/proc/sys/kernel/osrelease").trim()).filter(|release| !release.is_empty())),
        }
    }
}

/// The commit of the checkout that this program was built in, with a mark if there are changes beside it.
pub(crate) fn checkout() -> String {
    let mut git = Command::new("git");
    let output = git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"]).output();
    let said = output.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    known(said.as_deref().map(str::trim))
}

/// The kind of file system that a folder is on.
pub(crate) fn file_system(folder: &Path) -> Result<String> {
    let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read what is mounted")?;
    Ok(known(kind_of_mount(&mounts, &folder)))
}

/// The CPU time that this process has taken.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

fn known(found: Option<&str>) -> String {
    found.unwrap_or("unknown").to_owned()
}

/// The model of the first processor, from `/proc/cpuinfo`.
fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let (_, model) = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(model.trim())
}

/// The file system of the mount that `folder` is in, from `/proc/self/mountinfo`.
fn kind_of_mount<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        // Spaces are written in octal.
        let point = PathBuf::from(mount.split(' ').nth(4)?.replace(r"\040", " "));
        Some((point, file_system.split(' ').next()?))
    });
    // Of several on the same point, the last one hides the others, and `max_by_key` returns it.
    let mount = mounts.filter(|(point, _)| folder.starts_with(point)).max_by_key(|(point, _)| point.components().count());
    mount.map(|(_, file_system)| file_system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_innermost_mount() {
        let mounts = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /tmp rw,nosuid shared:12 - tmpfs tmpfs rw
31 22 0:27 / /home ro - nfs server:/home ro
32 22 8:1 / /home rw master:1 - xfs /dev/sda1 rw
33 22 8:2 / /media/my\\040disk rw - btrfs /dev/sda2 rw";
        let kind = |folder| kind_of_mount(mounts, Path::new(folder));
        assert_eq!(kind("/var/lib"), Some("ext4"));
        assert_eq!(kind("/tmp/x"), Some("tmpfs"));
        assert_eq!(kind("/tmpfiles"), Some("ext4"));
        assert_eq!(kind("/home/me"), Some("xfs"));
        assert_eq!(kind("/media/my disk/data"), Some("btrfs"));
        assert_eq!(kind_of_mount("", Path::new("/")), None);
    }

    #[test]
    fn a_processor_without_a_model_is_unknown() {
        assert_eq!(known(cpu_model("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: other")), "Fast CPU @ 3 GHz");
        assert_eq!(known(cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n")), "unknown");
    }
}
