//! What leaves the server, and what goes by itself: backups, exports that replay anywhere, and old instances.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dacapo::engine::archive::{Archive, decode};
use dacapo::engine::playback::{Played, Stage, Verdict};
use dacapo::host::Compiler;
use dacapo::limits::Limits;
use dacapo::model::Failure;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::orchestration::versions::second_edition;
use crate::support::server::{HUB, PROGRAM, run_to_end};
use crate::support::{P3, Server, Setup, eventually, guests};

/// A folder where commands of the program are run.
struct Desk(TempDir);

/// What a command has said, and its status.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new() -> Self {
        Self(TempDir::with_prefix("dacapo-desk-").expect("make a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, line: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(PROGRAM);
        command.args(line).env_clear().env("HOME", self.0.path()).current_dir(self.0.path());
        command.envs(variables.iter().copied());
        let output = run_to_end(&mut command);
        let text = |bytes| String::from_utf8(bytes).expect("a command writes text");
        Ran { code: output.status.code().expect("it ends by itself"), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs a command that has to go well; what it printed.
    #[track_caller]
    fn done(&self, line: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.run(line, &[]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{line:?}: {stdout}");
        stdout
    }

    /// Exports an instance of a server; the file and what it holds.
    #[track_caller]
    fn export(&self, server: &Server, id: &str) -> (String, Archive) {
        let _ = fs::remove_file(self.path(&format!("{id}.tar"))); // It may be that of an earlier moment.
        let Ran { code, stdout, stderr } = self.run(&["export", id], &[("DACAPO_SERVER", &server.origin)]);
        assert_eq!((code, stderr.as_str()), (0, ""), "export {id}");
        let file = stdout.trim_end().to_owned();
        assert_eq!(file, format!("{id}.tar"));
        let path = self.path(&file);
        assert_eq!(fs::metadata(&path).expect("the file is there").permissions().mode() & 0o777, 0o600);
        let archive = decode(&fs::read(&path).expect("read the file")).expect("it is an export");
        (file, archive)
    }

    /// The files of an export, as tar unpacks them, into a folder of this name.
    fn unpacked(&self, file: &str, folder: &str) -> PathBuf {
        let path = self.path(folder);
        fs::create_dir(&path).expect("make a folder");
        self.tar(&["-xf", file, "-C", folder]);
        path
    }

    fn tar(&self, arguments: &[&str]) {
        let output = run_to_end(Command::new("tar").args(arguments).current_dir(self.0.path()));
        assert!(output.status.success(), "tar {arguments:?}: {output:?}");
    }
}

fn ends_as(server: &Server, id: &str, status: &str) {
    eventually(status, || (server.status(id, "").json()["runtimeStatus"] == status).then_some(()));
}

/// What a module of the server makes of a history: how many turns there were, how the last one compares, and whether it is at fault. The first
/// turn that diverges is an error.
fn played(server: &Server, archive: &Archive, module: Option<&[u8]>) -> Result<(u32, Verdict, Option<Failure>), String> {
    // The server has compiled it already.
    let cache = server.data().join("compiled");
    let stage = Stage::set(archive, module, &cache, Compiler::InProcess).map_err(|error| error.to_string())?;
    let mut playback = stage.play().map_err(|error| error.to_string())?;
    let mut last = (0, Verdict::Same, None);
    while let Some(step) = playback.next_step().map_err(|error| error.to_string())? {
        let Played::Turn(turn) = step else { continue };
        assert_eq!((turn.number, &last.1), (last.0 + 1, &Verdict::Same), "nothing comes after a turn that is not the same");
        if let Verdict::Diverged(message) = turn.verdict {
            return Err(format!("turn {}, {message}", turn.number));
        }
        last = (turn.number, turn.verdict, turn.failure);
    }
    assert_eq!(playback.into_execution().length as usize, archive.history.len());
    Ok(last)
}

/// Completed, failed by its code, at fault, running, terminated, continued as new, rewound on its code and on mended code.
#[test]
fn an_export_of_an_instance_in_any_state_replays() {
    let (server, desk) = (Server::start(), Desk::new());
    let instances = [
        ("completed", "Sequence", r#"{"count":3}"#, "Completed", 4),
        ("failed", "FailActivity", "1", "Failed", 2),
        ("faulted", "Panic", "1", "Failed", 1),
        ("running", "Listen", "1", "Running", 1),
        ("terminated", "Listen", "1", "Running", 1),
        ("continued", "CountDown", "[5, 0]", "Completed", 1),
        ("rewound", "AllMended", "2", "Failed", 2),
    ];
    for (id, function, input, ..) in instances {
        server.start_as(id, function, input);
    }
    for (id, _, _, status, _) in instances {
        ends_as(&server, id, status);
    }
    assert_eq!(server.post(&format!("{P3}/instances/terminated/terminate?reason=power+cut"), "").status, 202);
    ends_as(&server, "terminated", "Terminated");
    for (id, _, _, _, turns) in instances {
        let (_, archive) = desk.export(&server, id);
        let (count, verdict, failure) = played(&server, &archive, None).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert!(count >= turns, "{id} has {count} turns");
        let at_fault = id == "faulted";
        assert_eq!((verdict == Verdict::Free, failure.is_some()), (at_fault, at_fault), "{id}: {failure:?}");
        let status = server.status(id, "").json();
        assert_eq!(archive.manifest.status, status["runtimeStatus"].as_str().expect("text"), "{id}");
        assert_eq!(archive.manifest.events as usize, archive.history.len(), "{id}");
    }

    let (_, before) = desk.export(&server, "rewound");
    server.upload(HUB, "guests", &second_edition());
    assert_eq!(server.post(&format!("{P3}/instances/rewound/rewind?reason=mended"), "").status, 202);
    ends_as(&server, "rewound", "Completed");
    let (_, after) = desk.export(&server, "rewound");
    assert!(after.history.len() > before.history.len() && after.history.starts_with(&before.history));
    assert_eq!(after.manifest.modules, [before.manifest.module], "the code before the rewind is there too");
    assert_eq!(after.modules[&after.manifest.module], second_edition());
    let (count, verdict, _) = played(&server, &after, None).expect("it replays on the mended code");
    assert!(count > 2 && verdict == Verdict::Same, "{count} turns");
}

#[test]
fn a_changed_history_diverges_and_both_sides_are_shown() {
    let (server, desk) = (Server::empty(), Desk::new());
    server.upload(HUB, "hello", guests::hello_sequence());
    server.start_as("a", "E1_HelloSequence", "");
    ends_as(&server, "a", "Completed");
    let (file, archive) = desk.export(&server, "a");
    let shown = desk.done(&["replay", &file]);
    assert!(shown.ends_with("\nIt replays to the same history: 4 turns, 12 events.\n"), "{shown}");
    let folder = desk.unpacked(&file, "opened");
    let history = fs::read_to_string(folder.join("history.jsonl")).expect("it is text");
    assert_eq!(history.lines().count(), archive.history.len(), "an event a line");
    let changed = |then: &str, now: &str| {
        let changed = history.replace(then, now);
        assert_ne!(changed, history);
        fs::write(folder.join("history.jsonl"), changed).expect("write the history");
        desk.tar(&["-cf", "changed.tar", "-C", "opened", "."]);
        decode(&fs::read(desk.path("changed.tar")).expect("read the file")).expect("it is an export")
    };
    // An end that no code would come to.
    let other_end = played(&server, &changed("\"Hello London!\"]", "\"Hello Paris!\"]"), None).unwrap_err();
    assert!(other_end.contains("\"Hello Paris!\"], the guest now returns "), "{other_end}");
    let call = history.lines().find(|line| line.contains(r#""scheduled":{"task":1,"#)).expect("it has a second task");
    let event: Value = serde_json::from_str(call).expect("a line is JSON");
    let name = event["scheduled"]["action"]["activity"]["name"].as_str().expect("it calls an activity");
    changed(call, &call.replace(&format!("{name:?}"), "\"BurnBread\""));
    let Ran { code, stdout, stderr } = desk.run(&["replay", "changed.tar"], &[]);
    assert_eq!(code, 1, "{stderr}");
    let row = stdout.lines().find(|line| line.starts_with('≠')).unwrap_or_else(|| panic!("{stdout}"));
    assert!(row.contains("BurnBread") && row.contains(name), "{row}");
    let expected = format!("turn 2, task 1: history has activity \"BurnBread\", the guest now asks for activity {name:?}");
    assert!(stderr.contains(&expected), "{stderr}");
}

#[test]
fn another_module_plays_a_history_by_the_rules_for_versions() {
    let (server, desk) = (Server::start(), Desk::new());
    server.start_as("broken", "MendedItself", "true");
    server.start_as("edition", "ChildEdition", "");
    ends_as(&server, "broken", "Failed");
    ends_as(&server, "edition", "Completed");
    server.upload("Elsewhere", "mended", &second_edition());
    server.upload("Elsewhere2", "hello", guests::hello_sequence());
    let (file, broken) = desk.export(&server, "broken");
    let (_, edition) = desk.export(&server, "edition");
    let (_, verdict, failure) = played(&server, &broken, Some(&second_edition())).expect("it agrees up to the failure");
    assert_eq!((verdict, failure), (Verdict::Free, None));
    // What it says otherwise is not held against it.
    assert_eq!(played(&server, &edition, Some(&second_edition())), Ok((1, Verdict::Same, None)));
    let unknown = played(&server, &broken, Some(guests::hello_sequence())).unwrap_err();
    assert!(unknown.contains("has no orchestrator named \"MendedItself\""), "{unknown}");
    fs::write(desk.path("mended.wasm"), second_edition()).expect("write a module");
    let shown = desk.done(&["replay", &file, "--module", "mended.wasm"]);
    assert!(shown.contains("another than its own") && shown.contains("a rewind can go on with it"), "{shown}");
}

#[test]
fn an_export_is_for_the_master_key_and_a_file_that_is_none_is_refused() {
    let server = Setup { keys: true, ..Setup::default() }.start();
    let desk = Desk::new();
    server.start_as("a", "Sequence", r#"{"count":1}"#);
    ends_as(&server, "a", "Completed");
    let (master, system) = (server.key("master"), server.key("system"));
    let export = |key: &str| desk.run(&["export", "a", "-o", "-"], &[("DACAPO_SERVER", &server.origin), ("DACAPO_KEY", key)]);
    let refused = export(&system);
    assert!(refused.code == 1 && refused.stderr.contains("wants the master key"), "{}", refused.stderr);
    let reply = server.get("/admin/instances/a/export");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/x-tar")));
    decode(&reply.body).expect("it is an export");
    assert_eq!(server.get("/admin/instances/b/export").status, 404);
    assert_eq!(server.get("/admin/instances/a/export?taskHub=Elsewhere").status, 404);
    assert_eq!(server.post("/admin/instances/a/export", "").status, 405);
    let absent = desk.run(&["export", "b"], &[("DACAPO_SERVER", &server.origin), ("DACAPO_KEY", &master)]);
    assert!(absent.code == 4 && absent.stderr.contains("has no instance \"b\""), "{}", absent.stderr);
    assert_eq!(fs::read_dir(desk.0.path()).expect("list").count(), 0, "nothing is left of a file that was not to be had");

    fs::write(desk.path("junk"), "what is this?").expect("write");
    for (file, expected) in [("junk", "read junk: it is no tar archive"), ("none", "read none: No such file")] {
        let Ran { code, stderr, .. } = desk.run(&["replay", file], &[]);
        assert!(code == 1 && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn an_export_can_be_had_of_a_data_directory_that_nobody_serves() {
    let (mut server, desk) = (Server::start(), Desk::new());
    server.start_as("a", "Sequence", r#"{"count":2}"#);
    ends_as(&server, "a", "Completed");
    let (_, online) = desk.export(&server, "a");
    let data = server.data();
    let data = data.to_str().expect("text");
    let Ran { code, stderr, .. } = desk.run(&["export", "a", "--data", data, "-o", "locked.tar"], &[]);
    assert!(code == 1 && stderr.contains("another process has"), "{stderr}");
    server.stop();
    desk.done(&["export", "a", "--data", data, "-o", "offline.tar"]);
    let offline = decode(&fs::read(desk.path("offline.tar")).expect("read")).expect("it is an export");
    assert_eq!((offline.history, offline.modules), (online.history, online.modules));
    let Ran { code, stderr, .. } = desk.run(&["export", "b", "--data", data], &[]);
    assert!(code == 4 && stderr.contains("has no instance \"b\""), "{stderr}");
    let Ran { code, .. } = desk.run(&["export", "a", "--data", "nowhere"], &[]);
    assert!(code == 1 && !desk.path("nowhere").exists());
    fs::create_dir(desk.path("folder")).expect("make a folder");
    let Ran { code, stderr, .. } = desk.run(&["export", "a", "--data", "folder", "-o", "none.tar"], &[]);
    assert!(code == 1 && stderr.contains("folder is no data directory"), "{stderr}");
    assert_eq!(listed(&desk.path("folder")), [], "none is made of it");
}

#[test]
fn an_export_replaces_a_file_only_if_it_is_named_and_writes_to_what_is_none() {
    let (server, desk) = (Server::start(), Desk::new());
    let export = |line: &[&str]| desk.run(line, &[("DACAPO_SERVER", &server.origin)]);
    server.start_as("a", "Sequence", r#"{"count":2}"#);
    ends_as(&server, "a", "Completed");
    let (_, first) = desk.export(&server, "a");
    let Ran { code, stderr, .. } = export(&["export", "a"]);
    assert!(code == 1 && stderr.contains("a.tar is there already"), "{stderr}");

    fs::write(desk.path("old"), "an export of last week").expect("write");
    symlink("old", desk.path("link")).expect("make a link");
    assert_eq!(export(&["export", "a", "-o", "link"]).code, 0);
    let linked = decode(&fs::read(desk.path("old")).expect("read")).expect("it is an export");
    assert_eq!(linked.history, first.history);
    assert!(fs::symlink_metadata(desk.path("link")).expect("it is there").is_symlink());

    let pipe = desk.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo").success());
    let read = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).expect("read the pipe")
    });
    assert_eq!(export(&["export", "a", "-o", "pipe"]).code, 0);
    let piped = decode(&read.join().expect("it is read")).expect("it is an export");
    assert_eq!(piped.history, first.history);
    let mut left: Vec<_> = listed(desk.0.path()).into_iter().map(|(name, _)| name).collect();
    left.sort();
    assert_eq!(left, ["a.tar", "link", "old", "pipe"], "no draft is left");
}

/// What a directory has, with the rights of each.
fn listed(folder: &Path) -> Vec<(String, u32)> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("list");
        (entry.file_name().into_string().expect("text"), entry.metadata().expect("look").permissions().mode() & 0o777)
    };
    let mut entries: Vec<_> = fs::read_dir(folder).expect("list").map(entry).collect();
    entries.sort();
    entries
}

#[test]
fn a_backup_that_is_taken_under_load_is_whole_and_a_server_goes_on_from_it() {
    let server = Setup { keys: true, arguments: &["--capability-links", "60"], ..Setup::default() }.start();
    let desk = Desk::new();
    let data = server.data();
    let data = data.to_str().expect("text");
    server.start_as("waiting", "Collect", "1");
    for number in 0..40 {
        server.start_as(&format!("early-{number}"), "Sequence", r#"{"count":2}"#);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..2 {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                for number in (0..).take_while(|_| !done.load(Ordering::Relaxed)) {
                    server.start_as(&format!("late-{client}-{number}"), "Sequence", r#"{"count":4}"#);
                }
            });
        }
        eventually("some load", || (server.status("late-1-10", "").status != 404).then_some(()));
        let shown = desk.run(&["backup", "copy", "--data", data], &[]);
        done.store(true, Ordering::Relaxed);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{}", shown.stdout);
        assert!(shown.stdout.contains(" instances, ") && shown.stdout.contains(", as of 20"), "{}", shown.stdout);
    });
    let copy = desk.path("copy");
    assert_eq!(fs::metadata(&copy).expect("it is there").permissions().mode() & 0o777, 0o700);
    let expected = ["dacapo.db", "keys.json", "links.key"].map(|name| (name.to_owned(), 0o600));
    assert_eq!(listed(&copy), expected);
    assert_eq!(listed(desk.0.path()).len(), 1, "nothing is left beside it");

    let again = desk.run(&["backup", "copy", "--data", data], &[]);
    assert!(again.code == 1 && again.stderr.contains("copy is there already"), "{}", again.stderr);
    let nowhere = desk.run(&["backup", "other", "--data", "nowhere"], &[]);
    assert!(nowhere.code == 1 && nowhere.stderr.contains("there is no nowhere/dacapo.db"), "{}", nowhere.stderr);
    fs::create_dir(desk.path("full")).expect("make a folder");
    fs::write(desk.path("full/loaf"), "").expect("write");
    let full = desk.run(&["restore", "copy", "--data", "full"], &[]);
    assert!(full.code == 1 && full.stderr.contains("full is not empty"), "{}", full.stderr);
    fs::create_dir(desk.path("empty")).expect("make a folder");
    fs::create_dir(desk.path("volume")).expect("make a folder");
    symlink("volume", desk.path("mounted")).expect("make a link");
    for restored in ["restored", "empty", "mounted"] {
        assert!(desk.done(&["restore", "copy", "--data", restored]).contains(" instances, "));
        assert_eq!(listed(&desk.path(restored)), expected);
    }
    assert!(fs::symlink_metadata(desk.path("mounted")).expect("it is there").is_symlink());
    assert_eq!(listed(&copy), expected, "a backup stays as it is");

    let report = dacapo::engine::verify(&copy, &Limits::default()).expect("every instance replays");
    assert!(report.instances > 40, "{report:?}");
    let copied = Setup { keys: true, data: Some(desk.path("restored")), ..Setup::default() }.start();
    assert_eq!(copied.key("master"), server.key("master"));
    copied.raise("waiting", "item", "7");
    assert_eq!(copied.finished("waiting")["runtimeStatus"], "Completed");
    for number in 0..40 {
        assert_eq!(copied.finished(&format!("early-{number}"))["output"], json!([0, 1]));
    }
    assert_eq!(server.status("waiting", "").json()["runtimeStatus"], "Running", "the first one knows nothing of that");
}

#[test]
fn what_is_older_than_it_is_kept_goes_by_itself() {
    let configuration = "[retention]\ncompleted = '1s'\nall = '1d'\n[hubs.Bakery.retention]\ncompleted = 'forever'\n".to_owned();
    let server = Setup { configuration, ..Setup::default() }.start();
    server.upload("Bakery", "guests", guests::test_guests());
    server.start_as("old", "Sequence", r#"{"count":1}"#);
    server.start_as("failed", "FailActivity", "1");
    server.start_as("open", "Listen", "1");
    assert_eq!(server.post(&format!("{P3}/orchestrators/Race/kept?taskHub=Bakery"), "1").status, 202);
    eventually("the end of an old instance", || (server.status("old", "").status == 404).then_some(()));
    ends_as(&server, "failed", "Failed");
    ends_as(&server, "open", "Running");
    let kept = server.get(&format!("{P3}/instances/kept?taskHub=Bakery&edition=current")).json();
    assert_eq!(kept["runtimeStatus"], "Completed", "{kept}");
    let line = "purged what is older than it is kept: 1 Completed";
    eventually("a line in the log", || server.log().contains(line).then_some(()));
    let metrics = server.get("/metrics");
    assert!(metrics.text().contains("dacapo_instances_purged_by_age_total{status=\"Completed\"} 1"), "{metrics}");
}

/// People look into the file with what they have.
#[test]
fn the_file_opens_with_tar() {
    let (server, desk) = (Server::start(), Desk::new());
    server.start_as("a", "Sequence", r#"{"count":1}"#);
    ends_as(&server, "a", "Completed");
    let (file, archive) = desk.export(&server, "a");
    let folder = desk.unpacked(&file, "opened");
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json")).expect("read")).expect("it is JSON");
    assert_eq!(
        (&manifest["format"], &manifest["version"], &manifest["instance"]),
        (&json!("dacapo-export"), &json!(1), &json!("a"))
    );
    let mut bytes = Vec::new();
    fs::File::open(folder.join("module.wasm")).expect("it is there").read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes, archive.modules[&archive.manifest.module]);
    assert_eq!(bytes, guests::test_guests());
}
