//! How does the server start and stop, when does it refuse to, and what does it do when more comes than it can bear?

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use dacapo::limits::Limits;
use serde_json::json;

use crate::support::server::{PROGRAM, run_to_end};
use crate::support::{Client, DEADLINE_S, P3, Server, Service, Setup, eventually};

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

/// Where the kernel gives huge pages to all who do not object, each guest that stays alive would take five times the memory.
#[test]
fn a_server_takes_its_memory_in_small_pages() {
    let server = Server::start();
    let status = fs::read_to_string(format!("/proc/{}/status", server.process_id())).expect("read about the server");
    assert!(status.contains("THP_enabled:\t0"), "{status}");
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

/// A server whose activities may reach `service`, with these limits.
fn reaching(service: &Service, limits: Limits) -> Server {
    Setup { limits, configuration: service.allowed(), ..Setup::default() }.start()
}

/// Starts an instance with an activity that fetches the path of the same name.
fn start_fetching(server: &Client, service: &Service, id: &str) {
    server.start_as(id, "CallWithText", &json!(["Fetch", service.url(&format!("/{id}"))]).to_string());
}

fn until_waiting(service: &Service, paths: &[&str]) {
    eventually("the activity is under way", || (service.waiting() == paths).then_some(()));
}

/// Long enough that nobody waits for it in vain, far longer than a test may take otherwise.
const PATIENT_MS: u64 = DEADLINE_S * 1_000;

#[test]
fn a_server_that_is_asked_to_stop_lets_activities_come_to_their_end_and_begins_no_others() {
    let service = Service::holding();
    let limits = Limits { activities_running_max: 1, stop_grace_ms: PATIENT_MS, ..Limits::default() };
    let mut server = reaching(&service, limits);
    start_fetching(&server, &service, "a");
    until_waiting(&service, &["/a"]);
    start_fetching(&server, &service, "b");
    let address = server.origin.trim_start_matches("http://").to_owned();
    server.ask_to_stop();
    eventually("nobody is let in", || TcpStream::connect(&address).is_err().then_some(()));
    assert!(server.is_alive(), "an activity is under way");
    service.release();
    let (status, log) = server.ended();
    assert!(status.success(), "{status}: {log}");
    assert_eq!(service.seen(), ["/a"]);

    server.restart();
    for id in ["a", "b"] {
        assert_eq!(server.finished(id)["output"], "released", "{id}");
    }
    assert_eq!(service.seen(), ["/a", "/b"], "what had come to its end was recorded");
}

#[test]
fn an_activity_that_takes_longer_than_a_stop_may_is_run_again_at_the_next_start() {
    let service = Service::holding();
    let mut server = reaching(&service, Limits { stop_grace_ms: 50, ..Limits::default() });
    start_fetching(&server, &service, "a");
    until_waiting(&service, &["/a"]);
    server.ask_to_stop();
    let (status, log) = server.ended();
    assert!(status.success() && log.contains("1 activities did not end within stop_grace_ms"), "{status}: {log}");
    service.release();
    server.restart();
    assert_eq!(server.finished("a")["output"], "released");
    assert_eq!(service.seen(), ["/a", "/a"]);
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let service = Service::holding();
    let mut server = reaching(&service, Limits { stop_grace_ms: PATIENT_MS, ..Limits::default() });
    start_fetching(&server, &service, "a");
    until_waiting(&service, &["/a"]);
    server.ask_to_stop();
    eventually("it says that it stops", || server.log().contains("a second signal stops at once").then_some(()));
    server.ask_to_stop();
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    service.release();
    server.restart();
    assert_eq!(server.finished("a")["output"], "released");
}

#[test]
fn who_starts_more_than_the_server_can_hold_is_told_when_to_come_again_and_what_was_let_in_comes_to_its_end() {
    let service = Service::holding();
    let limits = Limits { activities_running_max: 1, backlog_bytes_max: 30_000, ..Limits::default() };
    let server = reaching(&service, limits);
    let start = |number: usize| {
        let input = json!(["Fetch", service.url(&format!("/{number}"))]).to_string();
        server.post(&format!("{P3}/orchestrators/CallWithText/loaf-{number}"), &input)
    };
    server.start_as("collector", "Collect", "1");
    let mut accepted = 0;
    // What the last start has asked for is known a moment after its answer.
    let refused = eventually("the server is full", || {
        let reply = start(accepted);
        match reply.status {
            202 => {
                accepted += 1;
                None
            }
            _ => Some(reply),
        }
    });
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
    assert!(accepted < 1_000, "{accepted} were let in");
    assert!(server.metric("dacapo_backlog_bytes") >= 30_000.0);
    // An event needs no such room, and may be what others wait for.
    server.raise("collector", "item", "7");
    service.release();
    for number in 0..accepted {
        assert_eq!(server.finished(&format!("loaf-{number}"))["output"], "released", "{number}");
    }
    eventually("there is room again", || (start(accepted).status == 202).then_some(()));
    assert_eq!(server.finished("collector")["output"], json!([7]));
}

/// Whether the server has closed this connection, without an answer.
fn is_closed(connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).expect("change the socket");
    match (&*connection).read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("it was answered"),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn connections_that_keep_the_server_waiting_make_room_for_others_and_those_it_works_for_stay() {
    const MOST: usize = 8;
    let service = Service::holding();
    let server = reaching(&service, Limits { connections_max: MOST, ..Limits::default() });
    let client = server.clone();
    let input = json!(["Fetch", service.url("/a")]).to_string();
    let waiting = thread::spawn(move || client.run("CallWithText", &input));
    until_waiting(&service, &["/a"]);

    let address = server.origin.trim_start_matches("http://");
    let connect = |bytes: &str| {
        let mut connection = TcpStream::connect(address).expect("connect");
        connection.write_all(bytes.as_bytes()).expect("send");
        connection
    };
    let body = format!("POST {P3}/orchestrators/Race HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nnu");
    let slow: Vec<TcpStream> =
        (0..MOST).map(|number| connect(["", "GET /healthz HTTP/1.1\r\nhost: lo", &body][number % 3])).collect();
    let mut newcomers = Vec::new();
    for number in 0..MOST {
        let began = Instant::now();
        let newcomer = Client::new(&server.origin);
        assert_eq!(newcomer.get("/healthz").status, 200, "newcomer {number}");
        assert!(began.elapsed() < Duration::from_secs(20), "newcomer {number} had to wait");
        newcomers.push(newcomer); // Idle from now on.
    }
    eventually("the slow ones have gone", || slow.iter().all(is_closed).then_some(()));
    assert!(server.metric("dacapo_http_connections_open") <= MOST as f64);
    assert!(server.metric("dacapo_http_connections_dismissed_total") >= MOST as f64);
    service.release();
    assert_eq!(waiting.join().expect("an answer").status, 200, "the server was at work for it");
}

#[test]
fn a_bound_on_file_descriptors_that_is_too_low_for_the_limits_is_said() {
    let server = Setup { shell: "ulimit -n 1024", ..Setup::default() }.start();
    let told = "so 448 clients may be connected at once and not 10000 (limit connections_max): raise the hard bound to 14224";
    assert!(server.log().contains(told), "{}", server.log());
}
