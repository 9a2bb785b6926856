//! What the server keeps is for its owner's eyes only, and nothing that comes in by a name or an upload lands anywhere else.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::server::{HUB, PROGRAM, run_to_end};
use crate::support::{P3, Server, Setup, eventually, guests};

/// All files and folders at and below `folder`, with their permissions.
fn modes(folder: &Path) -> BTreeMap<PathBuf, u32> {
    let mode = |path: &Path| path.metadata().expect("look at a file").permissions().mode() & 0o777;
    let mut found = BTreeMap::from([(folder.to_owned(), mode(folder))]);
    for entry in fs::read_dir(folder).expect("list a folder") {
        let path = entry.expect("list a folder").path();
        if path.is_dir() {
            found.append(&mut modes(&path));
        } else {
            found.insert(path.clone(), mode(&path));
        }
    }
    found
}

/// The umask is what others would rely on: here it forbids nothing.
#[test]
fn all_that_is_kept_is_for_its_owner_alone_whatever_the_umask() {
    let mut server = Setup { empty: true, keys: true, shell: "umask 0", ..Setup::default() }.start();
    server.upload(HUB, "hello", guests::hello_sequence());
    server.output("E1_HelloSequence", "");
    let check = |server: &Server| {
        let found = modes(&server.data());
        for (path, mode) in &found {
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode & !expected, 0, "{} has mode {mode:o}", path.display());
        }
        let is_there = |name: &str| found.keys().any(|path| path.to_string_lossy().contains(name));
        assert!(["keys.json", "dacapo.db", ".cwasm"].into_iter().all(is_there), "{found:?}");
    };
    check(&server);
    server.kill();
    server.restart();
    check(&server);
}

#[test]
fn a_data_directory_that_others_may_change_is_refused_and_one_that_they_may_read_is_warned_about() {
    let mut server = Server::empty();
    server.stop();
    let data = server.data();
    let set = |mode: u32| fs::set_permissions(&data, Permissions::from_mode(mode)).expect("set permissions");
    for mode in [0o777, 0o702, 0o1777] {
        set(mode);
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        let output = run_to_end(&mut command);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{mode:o}: {told}");
        assert!(told.contains("chmod 700") && told.contains(&data.display().to_string()), "{mode:o}: {told}");
    }
    for (mode, warns) in [(0o755, true), (0o770, true), (0o700, false)] {
        set(mode);
        server.restart();
        eventually("its first words", || server.log().contains("listens on").then_some(()));
        assert_eq!(server.log().contains("chmod 700"), warns, "{mode:o}: {}", server.log());
        server.stop();
    }
}

/// Names that would be paths. None of them is one here, since nothing is kept under a name that came from outside.
#[test]
fn no_name_and_no_upload_leads_out_of_the_data_directory() {
    let mut server = Server::empty();
    server.upload(HUB, "hello", guests::hello_sequence());
    let folder = server.data().parent().expect("it lies in a folder").to_owned();
    let before: Vec<PathBuf> = modes(&folder).into_keys().collect();
    let long = "x".repeat(5_000);
    let names = [
        "../x",
        "..%2Fx",
        "%2e%2e%2fx",
        "%2e%2e/x",
        "..",
        "%2e%2e",
        ".",
        "%2Fetc%2Fx",
        "/etc/x",
        "x%00",
        "%00",
        "..%5Cx",
        "~%2Fx",
        "%252e%252e%252fx",
        "dacapo.db%2F..",
        "-x",
        "x%0Ay",
        &long,
    ];
    for name in names {
        for (method, path) in [
            ("PUT", format!("/admin/modules/{name}")),
            ("GET", format!("/admin/modules/{name}")),
            ("GET", format!("/admin/modules/hello/versions/{name}")),
            ("DELETE", format!("/admin/modules/{name}")),
            ("PUT", format!("/admin/modules/x?taskHub={name}")),
            ("POST", format!("{P3}/orchestrators/{name}")),
            ("GET", format!("{P3}/instances/{name}?taskHub={name}")),
            ("GET", format!("{P3}/instances/{name}/logs")),
        ] {
            let body = if method == "PUT" { guests::hello_sequence() } else { b"" };
            let length = body.len();
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let reply = server.raw_bytes(&[head.as_bytes(), body].concat());
            // An instance may be called `..`: that is no path here.
            let is_fine = path.contains("/instances/") && reply.status < 400;
            assert!((400..500).contains(&reply.status) || is_fine, "{method} {path}: {reply}");
        }
        // An instance may have a name that only looks like a path; with a slash it is none.
        let reply = server.post(&format!("{P3}/orchestrators/E1_HelloSequence/{}?timeout=60", name.replace('/', "%2F")), "");
        assert!(matches!(reply.status, 200 | 400 | 404), "{name}: {reply}");
    }
    assert!(server.is_alive());
    let after: Vec<PathBuf> = modes(&folder).into_keys().collect();
    assert_eq!(before, after, "files have come or gone");
}
