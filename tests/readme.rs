//! Does the README tell the truth? Its code and its commands are taken from it and run.

use std::fs;
use std::process::Command;

use crate::support::server::run_to_end;
use crate::support::{Server, eventually, guests};

const README: &str = include_str!("../README.md");

#[test]
fn the_code_in_the_readme_is_the_example() {
    let (_doc, code) =
        include_str!("../examples/hello-sequence/src/lib.rs").split_once("\n\n").expect("a doc comment stands first");
    let code = code.split("\n#[cfg(test)]").next().expect("something stands before its tests");
    assert!(README.contains(&format!("```rust\n{}\n```", code.trim())));
}

/// The commands stand in the order in which a reader would type them; only the address of the server is another.
#[test]
fn the_curl_commands_of_the_readme_work_as_printed() {
    // A folder that looks as the reader's does after the build.
    let folder = tempfile::tempdir().expect("make a folder");
    let module = folder.path().join("target/guests/wasm32-wasip2/guest/hello_sequence.wasm");
    fs::create_dir_all(module.parent().expect("it lies in a folder")).expect("make its folder");
    fs::write(&module, guests::hello_sequence()).expect("put the module there");
    let server = Server::empty();
    let typed: Vec<&str> = README.lines().filter_map(|line| line.strip_prefix("$ curl")).collect();
    let [upload, start, status] = typed[..] else { panic!("the README has other commands than this test knows: {typed:?}") };
    let curl = |arguments: &str| {
        let line = format!("curl -sS {}", arguments.replace("http://127.0.0.1:7071", &server.origin));
        let output = run_to_end(Command::new("sh").args(["-c", &line]).current_dir(folder.path()));
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("JSON is text")
    };
    assert!(curl(upload).contains(r#""orchestrators":["E1_HelloSequence"],"activities":["E1_SayHello"]"#));
    let started = curl(start);
    assert!(
        started.starts_with("HTTP/1.1 202 Accepted") && started.contains(r#"{"id":"hello-1","statusQueryGetUri":"#),
        "{started}"
    );
    let history = eventually("the run that the README started", || {
        Some(curl(status)).filter(|status| status.contains(r#""runtimeStatus":"Completed""#))
    });
    let kinds: Vec<&str> = history.split(r#""EventType":""#).skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(kinds, ["ExecutionStarted", "TaskCompleted", "TaskCompleted", "TaskCompleted", "ExecutionCompleted"]);
    // The one-request form, in the text below.
    let (_, wait) = README.split_once("`curl -X POST '").expect("it waits in one request");
    let (wait, _) = wait.split_once('`').expect("the command ends");
    assert_eq!(curl(&format!("-X POST '{wait}")), r#"["Hello Tokyo!","Hello Seattle!","Hello London!"]"#);
}
