//! Activities: what they may reach, what they must not tell, how many run at once, and how they are stopped.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{completed, history, of_type, seen, until};
use crate::support::service::Answer;
use crate::support::{P3, Server, Service, Setup, eventually};

/// A secret as nobody would write it by chance.
const SECRET: &str = "rye-bread-with-salt-and-caraway";

/// A server whose default hub has a variable and a secret.
fn confidant() -> Server {
    confidant_of("")
}

/// The same with more in its configuration.
fn confidant_of(configuration: &str) -> Server {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("secret");
    fs::write(&file, format!("{SECRET}\n")).expect("write the secret");
    let hubs = format!(
        "[hubs.durablefunctionshub.environment]\nREGION = \"north\"\n\
         [hubs.durablefunctionshub.secrets]\nAPI_KEY = {{ file = {file:?} }}\n"
    );
    // It is read once, at the start.
    Setup { configuration: hubs + configuration, log: "debug", ..Setup::default() }.start()
}

fn call(function: &str, text: &str) -> String {
    json!([function, text]).to_string()
}

#[test]
fn variables_of_the_hub_are_there_and_no_others() {
    let server = confidant();
    assert_eq!(server.output("CallWithText", &call("Tell", "REGION")), "north");
    assert_eq!(server.output("CallWithText", &call("Mumble", "API_KEY")), SECRET.len());
    for other in ["PATH", "HOME", "api_key"] {
        server.start_as(other, "CallWithText", &call("Tell", other));
        assert_eq!(server.finished(other)["runtimeStatus"], "Failed", "{other}");
    }
}

#[test]
fn a_secret_is_in_no_history_no_status_no_line_and_no_file() {
    let mut server = confidant();
    for function in ["Mumble", "Tell", "Blurt", "Scream", "Boast"] {
        server.start_as(function, "CallWithText", &call(function, "API_KEY"));
        let status = server.finished(function);
        let ended = if function == "Mumble" { "Completed" } else { "Failed" };
        assert_eq!(status["runtimeStatus"], ended, "{function}: {status}");
        let all = status.to_string() + &server.lines(function).join("\n") + &server.log();
        assert!(!all.contains(SECRET), "{function}: {all}");
    }
    assert_eq!(server.lines("Mumble").len(), 3, "the lines are there without it");
    server.stop();
    nowhere(&server);
}

/// None of the files of a server that has stopped has the secret.
fn nowhere(server: &Server) {
    for entry in fs::read_dir(server.data()).expect("list the data").map(|entry| entry.expect("an entry").path()) {
        if entry.is_file() {
            let bytes = fs::read(&entry).expect("read a file");
            let is_there = bytes.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes());
            assert!(!is_there, "{} has the secret", entry.display());
        }
    }
}

#[test]
fn a_hub_reaches_what_its_policy_lists_and_nothing_else() {
    let service = Service::start(|path| Answer::Text(format!("fresh from {path}")));
    let closed = Service::start(|_| Answer::Text("never".into()));
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    assert_eq!(server.output("CallWithText", &call("Fetch", &service.url("/oven"))), "fresh from /oven");
    assert_eq!(server.output("FetchByHost", &json!(service.url("/host")).to_string()), json!([200, "fresh from /host"]));
    let refused = closed.url("/");
    for (id, function, input) in
        [("wasi", "CallWithText", call("Fetch", &refused)), ("host", "FetchByHost", json!(refused).to_string())]
    {
        server.start_as(id, function, &input);
        let status = server.finished(id);
        let text = status.to_string() + &server.lines(id).concat();
        assert_eq!(status["runtimeStatus"], "Failed", "{text}");
        assert!(text.contains(&closed.authority) && text.contains("network"), "{text}");
        assert_eq!(of_type(&status, "TaskFailed").len(), 1);
    }
    assert_eq!(closed.seen(), Vec::<String>::new());
    // Another hub has no such policy.
    server.upload("Bakery", "guests", crate::support::guests::test_guests());
    let start = format!("{P3}/orchestrators/CallWithText?taskHub=Bakery&timeout=60");
    let reply = server.post(&start, call("Fetch", &service.url("/elsewhere")));
    assert_eq!(reply.json()["runtimeStatus"], "Failed", "{reply}");
    assert_eq!(service.seen(), ["/oven", "/host"]);
}

#[test]
fn an_activity_that_takes_too_long_is_a_failure_that_can_be_tried_again() {
    let service = Service::holding();
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.start_as("a", "FetchInTime", &json!([service.url("/slow"), 100]).to_string());
    let status = server.finished("a");
    let failure = &of_type(&status, "TaskFailed")[0]["FailureDetails"];
    assert_eq!(failure["IsNonRetriable"], false, "{status}");
    assert!(failure["ErrorMessage"].as_str().unwrap().contains("100 ms"), "{status}");
    eventually("the end of its request", || (service.gone() == ["/slow"]).then_some(()));
}

#[test]
fn what_an_activity_said_before_it_was_stopped_is_kept() {
    let limits = dacapo::limits::Limits { activity_ms_default: 300, ..Default::default() };
    let server = Setup::limits(limits).start();
    server.start_as("a", "CallActivity", "\"TalkAndLoop\"");
    let status = server.finished("a");
    let message = of_type(&status, "TaskFailed")[0]["FailureDetails"]["ErrorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("300 ms") && message.contains("activity_ms_default"), "{message}");
    let lines = server.lines("a").join("\n");
    let logged = r#"logged before it hung, 1 times order=7 baker="Ada" flour=rye"#;
    assert!(lines.contains("printed before it hung") && lines.contains(logged), "{lines}");
}

#[test]
fn the_timeout_of_a_call_may_be_longer_than_the_default_and_not_than_the_maximum() {
    let service = Service::holding();
    let limits = dacapo::limits::Limits { activity_ms_default: 100, activity_ms_max: 2_000, ..Default::default() };
    let server = Setup { configuration: service.allowed(), limits, ..Setup::default() }.start();
    for (id, function, input, limit) in [
        ("default", "CallWithText", call("Fetch", &service.url("/")), "100 ms (limit activity_ms_default"),
        ("longer", "FetchInTime", json!([service.url("/"), 500]).to_string(), "500 ms (the timeout of its call)"),
        ("too long", "FetchInTime", json!([service.url("/"), 3_600_000]).to_string(), "2000 ms (limit activity_ms_max"),
    ] {
        let id = id.replace(' ', "-");
        server.start_as(&id, function, &input);
        let status = server.finished(&id).to_string();
        assert!(status.contains(limit), "{status}");
    }
}

#[test]
fn an_activity_can_send_a_body_of_any_length() {
    let service = Service::start(|_| Answer::Echo);
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    for bytes in [0, 1, 100_000, 10_000_000] {
        let input = json!(["Post", [service.url("/"), bytes]]).to_string();
        assert_eq!(server.output("CallWithValue", &input), bytes, "{bytes}");
    }
}

#[test]
fn a_durable_request_may_carry_a_secret_that_no_history_has() {
    let service =
        Service::start(|path| if path == "/told" { Answer::Header("x-api-key") } else { Answer::Text("thanks".into()) });
    // The hub's name has to be spelled in one way.
    let mut server = confidant_of(&service.allowed().replace("DurableFunctionsHub", "durablefunctionshub"));
    let ask = |path: &str, name: &str| json!([service.url(path), name]).to_string();
    server.start_as("kept", "CallWithSecret", &ask("/kept", "API_KEY"));
    assert_eq!(completed(&server, "kept"), json!([200, "thanks"]));
    // A service that tells it back has had it, and the history does not get it.
    server.start_as("told", "CallWithSecret", &ask("/told", "API_KEY"));
    let told = server.finished("told").to_string();
    assert!(told.contains("SecretRevealed") && told.contains("API_KEY"), "{told}");
    server.start_as("unknown", "CallWithSecret", &ask("/never", "OTHER_KEY"));
    let unknown = server.finished("unknown").to_string();
    assert!(unknown.contains("InvalidRequest") && unknown.contains("OTHER_KEY") && unknown.contains(".secrets]"), "{unknown}");
    assert_eq!(service.seen(), ["/kept", "/told"]);
    server.stop();
    nowhere(&server);
}

#[test]
fn a_heartbeat_is_read_by_the_next_attempt() {
    let service = Service::start(|path| Answer::Text(if path.starts_with("/step/2") { "done" } else { "crash" }.into()));
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.start_as("a", "CallStepwise", &json!(service.url("")).to_string());
    assert_eq!(completed(&server, "a"), "done at step 2 in attempt 3");
    assert_eq!(service.seen(), ["/step/0/attempt/1", "/step/1/attempt/2", "/step/2/attempt/3"]);
    assert!(!server.finished("a").to_string().contains("heartbeat"), "progress is not history");
}

#[test]
fn a_heartbeat_is_read_by_the_run_after_a_kill() {
    const REPORT: &[u8] = br#"{"steps_done":1}"#;
    let runs = AtomicU32::new(0);
    let service = Service::start(move |_| match runs.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Hold,
        _ => Answer::Text("done".into()),
    });
    let mut server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.start_as("a", "CallStepwise", &json!(service.url("")).to_string());
    eventually("the first run", || (service.waiting().len() == 1).then_some(()));
    // A report is kept within a second, in a table of its own.
    let is_stored = |file: &str| {
        let bytes = fs::read(server.data().join(file)).unwrap_or_default();
        bytes.windows(REPORT.len()).any(|bytes| bytes == REPORT)
    };
    eventually("the report", || ["dacapo.db", "dacapo.db-wal"].into_iter().any(is_stored).then_some(()));
    server.kill();
    server.restart();
    assert_eq!(completed(&server, "a"), "done at step 1 in attempt 1");
}

#[test]
fn activities_are_told_to_stop_when_their_orchestration_ends() {
    let service = Service::holding();
    let server = Setup { configuration: service.allowed(), ..Setup::default() }.start();
    server.start_as("a", "FetchMany", &json!([service.url(""), 3, 2]).to_string());
    eventually("all requests", || (service.waiting().len() == 5).then_some(()));
    assert_eq!(server.post(&format!("{P3}/instances/a/terminate"), "").status, 202);
    eventually("the end of all requests", || (service.gone().len() == 5).then_some(()));
    eventually("the end of the activities", || (server.metric("dacapo_activities_running") == 0.0).then_some(()));
    assert_eq!(server.finished("a")["runtimeStatus"], "Terminated");
}

#[test]
fn the_bounds_of_a_hub_and_of_a_function_hold() {
    let service = Service::holding();
    let limits = "[hubs.DurableFunctionsHub.limits]\nactivities_running_max = 7\n\
                  [hubs.DurableFunctionsHub.limits.functions.FETCHSLOWLY]\nrunning_max = 2\n";
    let server = Setup { configuration: service.allowed() + limits, ..Setup::default() }.start();
    server.start_as("a", "FetchMany", &json!([service.url(""), 20, 20]).to_string());
    eventually("as many as there may be", || (service.waiting().len() == 7).then_some(()));
    let slow = |paths: &[String]| paths.iter().filter(|path| path.starts_with("/slow")).count();
    assert!(slow(&service.waiting()) <= 2, "{:?}", service.waiting());
    assert_eq!((server.metric("dacapo_activities_running"), server.metric("dacapo_activities_waiting")), (7.0, 33.0));
    service.release();
    assert_eq!(completed(&server, "a"), 40);
    assert_eq!(service.waiting_max(), 7);
    assert_eq!(slow(&service.seen()), 20);
}

#[test]
fn the_bound_of_a_function_lets_others_pass() {
    let service = Service::holding();
    let limits = "[hubs.DurableFunctionsHub.limits.functions.Fetch]\nrunning_max = 1\n";
    let server = Setup { configuration: service.allowed() + limits, ..Setup::default() }.start();
    server.start_as("a", "FetchMany", &json!([service.url(""), 4, 4]).to_string());
    eventually("one of the bounded, all of the others", || (service.waiting().len() == 5).then_some(()));
    assert_eq!(service.waiting().iter().filter(|path| path.starts_with("/fast")).count(), 1);
    service.release();
    assert_eq!(completed(&server, "a"), 8);
}

/// While the first and the second request are held, nobody else runs: so what the fan-out has done by the second is what went
/// before it in the queue.
#[test]
fn a_wide_fan_out_does_not_hold_up_another_instance() {
    const WIDTH: usize = 2_000;
    let service = Service::start(|_| Answer::Hold);
    let limits = "[hubs.DurableFunctionsHub.limits]\nactivities_running_max = 1\n";
    let server = Setup { configuration: service.allowed() + limits, ..Setup::default() }.start();
    server.start_as("first", "CallWithText", &call("Fetch", &service.url("/first")));
    eventually("the first", || (service.waiting() == ["/first"]).then_some(()));
    server.start_as("wide", "FanOut", &WIDTH.to_string());
    until(&server, "wide", "TaskScheduled", WIDTH);
    server.start_as("single", "CallWithText", &call("Fetch", &service.url("/single")));
    until(&server, "single", "TaskScheduled", 1);
    assert_eq!(of_type(&seen(&server, "wide"), "TaskCompleted").len(), 0);
    assert_eq!(server.post(&format!("{P3}/instances/first/terminate"), "").status, 202);
    eventually("the single one", || (service.waiting() == ["/single"]).then_some(()));
    let done = of_type(&seen(&server, "wide"), "TaskCompleted").len();
    assert!(done < 20, "{done} of {WIDTH} were done before it");
    service.release();
    assert_eq!(completed(&server, "single"), "released");
    assert_eq!(completed(&server, "wide"), WIDTH * (WIDTH - 1) / 2);
    assert_eq!(history(&server.finished("wide")).len(), WIDTH + 2);
    let ended: Vec<Value> = ["first", "single", "wide"].map(|id| seen(&server, id)["runtimeStatus"].clone()).into();
    assert_eq!(ended, ["Terminated", "Completed", "Completed"]);
}
