//! Does the README tell the truth? Its code and its commands are taken from it and run.

use std::fs;
use std::process::Command;

use dacapo::config::Config;

use crate::support::server::run_to_end;
use crate::support::shell::{Running, edit, lock};
use crate::support::{Server, Shell, eventually, guests};

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

#[test]
fn the_configuration_of_the_readme_is_one() {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("dacapo.toml");
    let settings: Vec<&str> = README.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!settings.is_empty());
    for text in settings {
        fs::write(&file, text).expect("write the settings");
        Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Three things differ from what a reader does: `dacapo` is linked into the PATH instead of installed, the environment says
/// which port is free, and the crate has the dependencies of the workspace in their versions.
#[test]
fn the_first_orchestration_of_the_readme_works_as_printed() {
    let (_, section) = README.split_once("## Your first orchestration\n").expect("there is a first orchestration");
    let (section, _) = section.split_once("\n## ").expect("the section ends");
    let mut shell = Shell::new();
    let mut dev = None;
    let mut lines = section.lines().peekable();
    let mut done = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(change) = line.strip_prefix("Change `") {
            let [from, _, to, _, file, ..] = change.split('`').collect::<Vec<_>>()[..] else { panic!("{line:?} is no change") };
            edit(&shell.folder.join(file), from, to);
            dev.as_ref().map(|dev: &Running| dev.says_again("greeter is version ", 2)).expect("dev runs");
        }
        let Some(command) = line.strip_prefix("$ ") else { continue };
        let mut printed = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ") && !line.starts_with("```")) {
            printed = printed + line + "\n";
        }
        done.push(command);
        match command {
            "cargo install --path runtime --locked" => (),
            "cd greeter" => {
                shell.folder.push("greeter");
                lock(&shell.folder);
            }
            "dacapo dev" => {
                let dev = dev.insert(shell.start(command));
                shell.set("DACAPO_SERVER", dev.says("Serving ").split(' ').next().expect("a URL"));
                dev.says("greeter is version ");
                // Not where the build of these tests may be at work.
                shell.set("CARGO_TARGET_DIR", guests::root().join("target/guests").display().to_string());
            }
            "cargo test" => assert!(shell.done(command).contains("test result: ok. 2 passed")),
            "dacapo new greeter" => drop(shell.done(command)),
            _ => assert_eq!(lasting(&shell.done(command)), lasting(&printed), "{command}"),
        }
    }
    assert_eq!(done.len(), 8, "the README has other commands than this test knows: {done:?}");
    dev.expect("dev runs").stop();
}

/// The words of an output that are the same whenever it is made: no times, and nothing that was cut to fit beside them.
fn lasting(output: &str) -> Vec<&str> {
    let is_passing =
        |word: &str| word.starts_with(|c: char| "+(".contains(c) || c.is_ascii_digit()) || word.ends_with(['…', ')']);
    output.split_whitespace().filter(|word| !is_passing(word)).collect()
}
