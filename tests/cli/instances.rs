//! Instances from the command line: start, watch, steer.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{DONE, ENDED_BADLY, FAILED, NOT_FOUND, Ran, Shell, TIME_UP, USAGE, masked};
use crate::support::server::PROGRAM;
use crate::support::{Server, eventually, golden};

#[test]
fn start_prints_the_id_and_nothing_else() {
    let server = Server::start();
    let shell = Shell::of(&server);
    let printed = shell.done(&["start", "Sequence", "--input", r#"{"count": 2}"#]);
    let id = printed.strip_suffix('\n').expect("a line");
    assert_eq!(server.finished(id)["output"], json!([0, 1]));
    assert_eq!(shell.done(&["start", "Sequence", "--input", r#"{"count": 2}"#, "--id", "loaf 17"]), "loaf 17\n");
    assert_eq!(server.finished("loaf%2017")["output"], json!([0, 1]));
    let urls = shell.json(&["start", "Race", "--id", "b", "--json"]);
    assert_eq!(urls["id"], "b");
    assert!(urls["terminatePostUri"].as_str().is_some_and(|url| url.contains("/instances/b/terminate")), "{urls}");
    server.finished("b");
}

#[test]
fn start_with_a_wait_prints_the_output_as_it_is() {
    let server = Server::start();
    let shell = Shell::of(&server);
    assert_eq!(shell.done(&["start", "Sequence", "--input", r#"{"count": 3}"#, "--wait"]), "[0,1,2]\n");
    assert_eq!(shell.done(&["start", "Sequence", "--input", r#"{"count": 1}"#, "--wait=60", "--id", "a"]), "[0]\n");
    let status = shell.json(&["start", "Sequence", "--input", r#"{"count": 1}"#, "--wait", "--json"]);
    assert_eq!((&status["runtimeStatus"], &status["output"]), (&json!("Completed"), &json!([0])));
}

#[test]
fn an_instance_that_does_not_complete_in_a_wait_has_its_exit_codes() {
    let server = Server::start();
    let shell = Shell::of(&server);
    let why = shell.refused(&["start", "FailActivity", "--id", "f", "--wait"], ENDED_BADLY);
    assert_eq!(why, "instance f has ended as Failed: Orchestrator function 'FailActivity' failed: the oven is cold");
    let Ran { code, stdout, .. } = shell.run(&["start", "FailActivity", "--wait", "--json"]);
    let status: Value = serde_json::from_str(&stdout).expect("a status");
    assert_eq!((code, &status["runtimeStatus"]), (ENDED_BADLY, &json!("Failed")));

    let why = shell.refused(&["start", "Collect", "--input", "1", "--id", "c", "--wait=0.1"], TIME_UP);
    assert!(why.contains("instance c is Running; it goes on: dacapo status c"), "{why}");
    assert_eq!(server.status("c", "").status, 202);
    shell.done(&["terminate", "c"]);
    server.finished("c");
}

#[test]
fn an_input_is_json_from_an_argument_a_file_or_standard_input() {
    let server = Server::start();
    let shell = Shell::of(&server);
    let file = shell.file("order.json", "{\"count\":\n 2}\n");
    let argument = format!("@{}", file.display());
    assert_eq!(shell.done(&["start", "Sequence", "--input", &argument, "--wait"]), "[0,1]\n");

    let mut child = Command::new(PROGRAM)
        .args(["start", "Sequence", "--input", "@-", "--wait", "--server", &server.origin])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the program");
    child.stdin.take().expect("it is piped").write_all(b"{\"count\": 1}").expect("write the input");
    let output = child.wait_with_output().expect("wait for the program");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(DONE), b"[0]\n".as_slice()));

    let why = shell.refused(&["start", "Sequence", "--input", "Tokyo"], USAGE);
    assert!(why.contains(r#"--input '"Tokyo"'"#), "{why}");
    let why = shell.refused(&["start", "Sequence", "--input", "@absent.json"], FAILED);
    assert!(why.contains("read absent.json"), "{why}");
}

#[test]
fn what_the_server_refuses_is_told_in_its_words() {
    let server = Server::start();
    let shell = Shell::of(&server);
    let why = shell.refused(&["start", "BakeBread"], FAILED);
    assert!(why.starts_with("the server refused: ") && why.contains("\"BakeBread\""), "{why}");
    shell.done(&["start", "Collect", "--input", "1", "--id", "live"]);
    let why = shell.refused(&["start", "Collect", "--input", "1", "--id", "live"], FAILED);
    assert!(why.contains("live"), "{why}");
    shell.done(&["raise", "live", "item"]);
    server.finished("live");
}

#[test]
fn status_shows_lines_to_people_and_the_servers_json_to_programs() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Status", "--id", "a", "--wait", "--input", r#"{"to": "all"}"#]);
    golden::check_text("cli/status.txt", &masked(&shell.done(&["status", "a"])));
    golden::check_text("cli/status-history.txt", &masked(&shell.done(&["status", "a", "--history"])));
    let answer = server.status("a", "edition=current&showHistory=true&showHistoryOutput=true");
    assert_eq!(shell.done(&["status", "a", "--history", "--json"]), format!("{}\n", answer.text()));
    assert_eq!(shell.done(&["status", "a", "--json"]), format!("{}\n", server.status("a", "edition=current").text()));
}

#[test]
fn a_failure_is_seen_in_status_and_history() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.run(&["start", "FailActivity", "--id", "f", "--wait"]);
    golden::check_text("cli/status-failed.txt", &masked(&shell.done(&["status", "f", "--history"])));
}

#[test]
fn events_and_terminate_reach_the_instance() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Collect", "--input", "3", "--id", "a"]);
    let file = shell.file("item.json", "[1, 2]");
    assert_eq!(shell.done(&["raise", "a", "item", "--data", r#"{"tempC":24}"#]), "");
    assert_eq!(shell.done(&["raise", "a", "item"]), "");
    assert_eq!(shell.done(&["raise", "a", "item", "--data", &format!("@{}", file.display())]), "");
    assert_eq!(server.finished("a")["output"], json!([{"tempC": 24}, null, [1, 2]]));
    golden::check_text("cli/status-events.txt", &masked(&shell.done(&["status", "a", "--history"])));

    shell.done(&["start", "Collect", "--input", "1", "--id", "b"]);
    assert_eq!(shell.done(&["terminate", "b", "--reason", "power cut"]), "");
    let status = server.finished("b");
    assert_eq!((&status["runtimeStatus"], &status["output"]), (&json!("Terminated"), &json!("power cut")));

    for ended in [["raise", "a", "item"].as_slice(), &["terminate", "b"]] {
        let why = shell.refused(ended, FAILED);
        assert!(why.contains("has already ended"), "{why}");
    }
    let why = shell.refused(&["raise", "a", "item", "--data", "hot"], USAGE);
    assert!(why.contains(r#"--data '"hot"'"#), "{why}");
}

#[test]
fn a_query_that_nobody_answers_or_that_asks_with_no_json_is_told() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Sequence", "--input", r#"{"count": 1}"#, "--id", "a b", "--wait"]);
    let why = shell.refused(&["query", "a b", "how far", "--input", r#"{"unit":"percent"}"#], NOT_FOUND);
    assert!(why.contains("how far"), "{why}");
    let why = shell.refused(&["query", "a b", "far", "--input", "percent"], USAGE);
    assert!(why.contains(r#"--input '"percent"'"#), "{why}");
}

#[test]
fn a_list_has_inputs_if_they_are_wanted_and_as_json_unless_they_are_not() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Race", "--id", "a", "--input", r#"{"flour": "rye"}"#, "--wait"]);
    assert!(!shell.done(&["list"]).contains("rye"));
    assert!(shell.done(&["list", "--show-input", "true"]).ends_with("{\"flour\": \"rye\"}\n"));
    assert_eq!(shell.json(&["list", "--json"])[0]["input"], json!({ "flour": "rye" }));
    assert_eq!(shell.json(&["list", "--json", "--show-input", "false"])[0]["input"], json!(null));
}

/// More than the server puts onto a page.
#[test]
fn all_pages_are_one_list() {
    let server = Server::start();
    let shell = Shell::of(&server);
    (0..1_005).for_each(|number| server.start_as(&format!("all-{number:04}"), "Sequence", r#"{"count":0}"#));
    let all = shell.json(&["list", "--all", "--json", "--prefix", "all-"]);
    let ids: Vec<_> = all.as_array().expect("a list").iter().map(|it| it["instanceId"].as_str().expect("an ID")).collect();
    assert_eq!(ids, (0..1_005).map(|number| format!("all-{number:04}")).collect::<Vec<_>>());
    let Ran { code, stdout, stderr } = shell.run(&["list", "--top", "1002", "--json"]);
    assert_eq!((code, stderr.contains("the first 1002")), (DONE, true), "{stderr}");
    let some: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(some.as_array().map(Vec::len), Some(1_002));
    assert_eq!(shell.done(&["list", "--all"]).lines().count(), 1_006);
}

#[test]
fn instances_are_listed_by_their_tags() {
    let server = Server::start();
    let shell = Shell::of(&server);
    for (id, tags) in [("a", ["shop=north", "kind=rye"]), ("b", ["shop=north", "kind=wheat & rye"])] {
        let arguments = ["start", "Sequence", "--input", r#"{"count": 0}"#, "--id", id, "--tag", tags[0], "--tag", tags[1]];
        shell.done(&[arguments.as_slice(), &["--wait"]].concat());
    }
    let count = |arguments: &[&str]| shell.json(&[&["list", "--json"], arguments].concat()).as_array().expect("a list").len();
    assert_eq!(count(&["--tag", "shop=north"]), 2);
    assert_eq!(count(&["--tag", "shop=north", "--tag", "kind=wheat & rye"]), 1);
    assert_eq!(count(&["--tag", "shop=south"]), 0);
}

#[test]
fn what_is_not_there_has_an_exit_code_of_its_own() {
    let server = Server::start();
    let shell = Shell::of(&server);
    for command in [
        ["status", "x"].as_slice(),
        &["status", "a/b"],
        &["raise", "x", "e"],
        &["terminate", "x"],
        &["logs", "x"],
        &["logs", "x", "-f"],
        &["query", "x", "far"],
        &["watch", "x"],
        &["why", "x"],
    ] {
        let why = shell.refused(command, NOT_FOUND);
        assert!(why.contains(&format!("has no instance {:?}", command[1])), "{why}");
    }
    shell.done(&["start", "Race", "--id", "a", "--wait"]);
    let why = shell.refused(&["status", "a", "--hub", "Other"], NOT_FOUND);
    assert!(why.contains("in task hub Other"), "{why}");
}

#[test]
fn logs_are_shown_and_followed_until_the_instance_has_ended() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Talks", "--id", "a"]);
    let file = shell.home.path().join("followed");
    let mut following = Command::new(PROGRAM)
        .args(["logs", "a", "--follow", "--server", &server.origin])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&file).expect("make a file"))
        .spawn()
        .expect("start the program");
    let followed = || fs::read_to_string(&file).expect("read what was followed");
    eventually("three lines", || (followed().lines().count() == 3).then_some(()));
    assert!(following.try_wait().expect("ask for it").is_none(), "the instance goes on, and so does who follows it");
    shell.done(&["raise", "a", "done"]);
    let status = eventually("the end of logs --follow", || following.try_wait().expect("ask for it"));
    assert_eq!(status.code(), Some(DONE));

    let logs = shell.done(&["logs", "a"]);
    assert_eq!(followed(), logs);
    golden::check_text("cli/logs.txt", &masked(&logs));
    let lines = shell.done(&["logs", "a", "--json"]);
    let messages: Vec<_> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["message"].clone()).collect();
    assert_eq!(messages, ["first the mixing", "the dough", "the oven is at 250 °C"]);
}

#[test]
fn lists_are_filtered_and_follow_the_pages() {
    let server = Server::start();
    let shell = Shell::of(&server);
    for number in 0..5 {
        shell.done(&["start", "Race", "--id", &format!("race-{number}"), "--wait"]);
    }
    shell.run(&["start", "FailActivity", "--id", "failed", "--wait"]);
    let ids = |arguments: &[&str]| {
        let list = shell.json(&[&["list", "--json"], arguments].concat());
        list.as_array()
            .expect("a list")
            .iter()
            .map(|row| row["instanceId"].as_str().expect("an ID").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&["--status", "failed,Terminated"]), ["failed"]);
    assert_eq!(ids(&["--prefix", "race-"]), ["race-0", "race-1", "race-2", "race-3", "race-4"]);
    assert_eq!(ids(&[]).len(), 6);
    assert_eq!(ids(&["--created-before", "1h"]).len(), 0);
    assert_eq!(ids(&["--created-after", "1h", "--created-before", "2099-01-01"]).len(), 6);

    let Ran { code, stdout, stderr } = shell.run(&["list", "--prefix", "race-", "--top", "2"]);
    assert_eq!((code, stderr.as_str()), (DONE, "These are the first 2; --top shows more, --all shows all\n"));
    golden::check_text("cli/list.txt", &masked(&stdout));
    let Ran { code, stdout, stderr } = shell.run(&["list", "--prefix", "race-", "--all"]);
    assert_eq!((code, stdout.lines().count(), stderr.as_str()), (DONE, 6, ""));
    let long = format!("long-{}", "x".repeat(95));
    shell.done(&["start", "Race", "--id", &long, "--wait"]);
    let rows = shell.done(&["list", "--prefix", "long-"]);
    assert!(rows.contains(&format!("\n{long}  Race  ")), "a script gets the whole ID: {rows}");
    let Ran { code, stdout, stderr } = shell.run(&["list", "--prefix", "nothing-"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (DONE, "", "There is no such instance\n"));
    assert_eq!(shell.done(&["list", "--prefix", "nothing-", "--json"]), "[]\n");
}

#[test]
fn ended_instances_are_purged_by_id_or_by_conditions() {
    let server = Server::start();
    let shell = Shell::of(&server);
    for id in ["a", "b-1", "b-2", "c"] {
        shell.done(&["start", "Race", "--id", id, "--wait", "--tag", &format!("first={}", &id[..1])]);
    }
    shell.done(&["start", "Forever", "--id", "busy"]);
    assert_eq!(shell.done(&["purge", "a"]), "");
    let why = shell.refused(&["purge", "a"], NOT_FOUND);
    assert!(why.contains("has no instance \"a\""), "{why}");
    let why = shell.refused(&["purge", "busy"], FAILED);
    assert!(why.starts_with("the server refused: instance busy is "), "{why}");

    let why = shell.refused(&["purge", "--prefix", "b-"], USAGE);
    assert_eq!(why, "nobody can be asked whether that is meant; --yes says that it is");
    assert_eq!(server.status("b-1", "").status, 200);
    assert_eq!(shell.done(&["purge", "--prefix", "b-", "--status", "Failed", "--yes"]), "0\n");
    assert_eq!(shell.done(&["purge", "--prefix", "b-", "--status", "completed", "--yes"]), "2\n");
    assert_eq!(shell.done(&["purge", "--created-after", "1h", "--created-before", "2020-01-01", "--yes"]), "0\n");
    assert_eq!(shell.done(&["purge", "--tag", "first=c", "--created-after", "1h", "--yes"]), "1\n");
    assert_eq!(shell.json(&["list", "--json"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn restart_runs_the_same_again() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Sequence", "--input", r#"{"count": 2}"#, "--id", "a", "--wait"]);
    let printed = shell.done(&["restart", "a"]);
    let id = printed.strip_suffix('\n').expect("a line");
    assert_eq!((id.len(), &id[12..13], &server.finished(id)["output"]), (32, "7", &json!([0, 1])));
    assert_eq!(shell.done(&["restart", "a", "--same-id"]), "a\n");
    assert_eq!(shell.done(&["restart", "a", "--wait=60"]), "[0,1]\n");
    assert_ne!(shell.json(&["restart", "a", "--json"])["id"], "a");
    shell.run(&["start", "FailActivity", "--id", "f", "--wait"]);
    let why = shell.refused(&["restart", "f", "--same-id", "--wait"], ENDED_BADLY);
    assert!(why.starts_with("instance f has ended as Failed"), "{why}");

    let why = shell.refused(&["restart", "nobody"], NOT_FOUND);
    assert!(why.contains("has no instance \"nobody\""), "{why}");
    shell.done(&["start", "Forever", "--id", "busy"]);
    let why = shell.refused(&["restart", "busy", "--same-id"], FAILED);
    assert!(why.starts_with("the server refused: instance busy exists already"), "{why}");
}

#[test]
fn what_happens_is_watched_until_the_instance_has_ended_and_over_a_restart() {
    let mut server = Server::start();
    // An address that stays the same, which a free port does not.
    let address = server.authority().to_owned();
    let shell = Shell::of(&server);
    shell.done(&["start", "Collect", "--input", "2", "--id", "a"]);
    let file = shell.home.path().join("watched");
    let mut watching = Command::new(PROGRAM)
        .args(["watch", "a", "--json", "--server", &server.origin])
        .stdin(Stdio::null())
        .stdout(fs::File::create(&file).expect("make a file"))
        .spawn()
        .expect("start the program");
    let watched = || {
        let text = fs::read_to_string(&file).expect("read what was watched");
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect::<Vec<_>>()
    };
    let raised = || watched().iter().filter(|event| event["data"]["EventType"] == "EventRaised").count();
    shell.done(&["raise", "a", "item", "--data", "1"]);
    eventually("the first event", || (raised() == 1).then_some(()));
    server.kill();
    server.restart_at(&address);
    shell.done(&["raise", "a", "item", "--data", "2"]);
    let status = eventually("the end of watch", || watching.try_wait().expect("ask for it"));
    assert_eq!(status.code(), Some(DONE));
    let events = watched();
    let types: Vec<_> =
        events.iter().filter(|event| event["event"] == "history").map(|event| &event["data"]["EventType"]).collect();
    assert_eq!(types, ["ExecutionStarted", "EventRaised", "EventRaised", "ExecutionCompleted"]);
    assert_eq!(events.last().expect("an event")["data"]["output"], json!([1, 2]));
    golden::check_text("cli/watch.txt", &masked(&shell.done(&["watch", "a"])));

    shell.run(&["start", "FailActivity", "--id", "f", "--wait"]);
    let Ran { code, stdout, stderr } = shell.run(&["watch", "f"]);
    assert_eq!((code, stderr.contains("instance f has ended as Failed: ")), (ENDED_BADLY, true), "{stderr}");
    golden::check_text("cli/watch-failed.txt", &masked(&stdout));
}

#[test]
fn what_an_instance_waits_for_is_told() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Approval", "--input", "600000", "--id", "a"]);
    shell.done(&["raise", "a", "Aprove", "--data", "true"]);
    let told = || server.get("/runtime/webhooks/durabletask/instances/a/why").json()["unreadEvents"].as_array().map(Vec::len);
    eventually("an unread event", || (told() == Some(1)).then_some(()));
    let shown = shell.done(&["why", "a"]);
    let words = ["It waits for event \"approve\" and a timer", "UNREAD EVENT", "did you mean \"approve\"?", "timer", "due in 9m"];
    assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
    assert_eq!(shell.json(&["why", "a", "--json"])["open"]["events"], 1);
    shell.done(&["raise", "a", "approve", "--data", "true"]);
    server.finished("a");
    assert!(shell.done(&["why", "a"]).starts_with("It has ended as Completed.\n"));
}
