//! Do both published client libraries work with the server, unmodified?
//!
//! They are installed by `.ci/clients`, which runs these tests too; without it they are left out of a run, since they need a network.
//! What the libraries are asked to do stands in `clients/node/drive.js` and `clients/python/drive.py`.

use std::path::PathBuf;
use std::process::Command;

use crate::support::guests::root;
use crate::support::server::run_to_end;
use crate::support::{P3, Server, Setup};

/// What is asked of both libraries, in this order.
const STEPS: [&str; 14] = [
    "start",
    "status",
    "list",
    "paging",
    "raise",
    "terminate",
    "suspend",
    "resume",
    "rewind",
    "purge",
    "purgeByFilter",
    "urls",
    "wait",
    "errors",
];

/// A file that `.ci/clients` has put there.
fn installed(path: &str) -> PathBuf {
    let file = root().join("target/clients").join(path);
    assert!(file.exists(), "{} is not there: `.ci/clients` installs the client libraries", file.display());
    file
}

/// Runs a driver, which has to say of each step that it holds.
#[track_caller]
fn holds(command: &mut Command, steps: impl IntoIterator<Item = &'static str>) {
    let steps: Vec<_> = steps.into_iter().collect();
    let output = run_to_end(command.args(&steps));
    let (told, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}\n{told}{why}", output.status);
    let held: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert_eq!(held, steps, "{why}");
}

fn node(binding: &str, mode: &str) -> Command {
    let libraries = installed("node/node_modules/durable-functions/package.json");
    let mut command = Command::new("node");
    command.env("NODE_PATH", libraries.ancestors().nth(2).expect("it lies in a folder of libraries"));
    command.arg(root().join("tests/clients/node/drive.js")).args([binding, mode]);
    command
}

#[test]
#[ignore = "needs the client libraries: .ci/clients installs them and runs this"]
fn the_npm_library_works_by_the_base_url_for_workers() {
    let server = Server::start();
    holds(&mut node(&format!("{}{P3}", server.origin), "rpc"), STEPS);
}

#[test]
#[ignore = "needs the client libraries: .ci/clients installs them and runs this"]
fn the_npm_library_works_by_the_url_templates_with_a_key() {
    let server = Setup { keys: true, ..Setup::default() }.start();
    holds(&mut node(&format!("{}{P3}?code={}", server.origin, server.key("system")), "urls"), STEPS);
}

fn python(binding: &str) -> Command {
    let mut command = Command::new(installed("python/bin/python"));
    command.arg("-B").arg(root().join("tests/clients/python/drive.py")).arg(binding);
    command
}

#[test]
#[ignore = "needs the client libraries: .ci/clients installs them and runs this"]
fn the_pypi_library_works_by_the_base_url_for_workers() {
    let server = Server::start();
    // Only this one can restart.
    holds(&mut python(&format!("{}{P3}", server.origin)), STEPS.into_iter().chain(["restart"]));
}

/// It never sends a key, so it needs the listener for workers.
#[test]
#[ignore = "needs the client libraries: .ci/clients installs them and runs this"]
fn the_pypi_library_works_with_a_server_that_wants_keys() {
    let server = Setup { keys: true, workers: true, ..Setup::default() }.start();
    holds(&mut python(&format!("{}{P3}?code={}", server.origin, server.key("system"))), STEPS.into_iter().chain(["restart"]));
}
