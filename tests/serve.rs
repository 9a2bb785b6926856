//! How does the server start, and when does it refuse to?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::Server;
use crate::support::server::{PROGRAM, run_to_end};

/// Runs a server that must not start, and returns what it says.
#[track_caller]
fn refused(data: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(arguments);
    let Output { status, stdout, stderr } = run_to_end(&mut command);
    let told = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success() && stdout.is_empty(), "{status}: {told}");
    told
}

#[test]
fn a_data_directory_has_one_server_at_a_time() {
    let mut server = Server::start();
    let told = refused(&server.data(), &[]);
    assert!(told.contains("another process has"), "{told}");
    assert!(server.is_alive());
    // A lock that the kernel holds is free as soon as its owner is dead, however it died.
    server.kill();
    server.restart();
}

#[test]
fn a_mistake_in_the_settings_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("dacapo.toml");
    fs::write(&file, "[limits]\ntask_max = 1\n").expect("write the settings");
    let told = refused(&folder.path().join("data"), &["--config", file.to_str().expect("text")]);
    assert!(told.contains("task_max") && told.contains("line 2"), "{told}");
    let told = refused(&folder.path().join("data"), &["--config", "/nowhere/dacapo.toml"]);
    assert!(told.contains("/nowhere/dacapo.toml"), "{told}");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let mut server = Server::start();
    server.start_as("a", "Race", "");
    server.finished("a");
    server.stop();
    let folder = tempfile::tempdir().expect("make a folder");
    let mut files = fs::read_dir(server.data()).expect("list").map(|entry| entry.expect("list").path());
    let is_store = |path: &PathBuf| path.is_file() && fs::read(path).expect("read").starts_with(b"SQLite format 3");
    let store = files.find(is_store).expect("a store");
    let (copy, junk) =
        (folder.path().join(store.file_name().expect("a name")), b"no database at all, but a text of some length".repeat(100));
    fs::write(&copy, &junk).expect("write junk");
    refused(folder.path(), &[]);
    assert!(fs::read(&copy).expect("read") == junk, "what we cannot read is not ours to change");
}
