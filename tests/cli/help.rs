//! What does the program say of itself?

use super::{DONE, Shell, USAGE};
use crate::support::golden;

/// All commands below `path`, and itself, as the help lists them.
fn all(shell: &Shell, path: &[String]) -> Vec<Vec<String>> {
    let help = help(shell, path);
    let commands = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut found = vec![path.to_vec()];
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        found.extend(all(shell, &[path, &[name.to_owned()]].concat()));
    }
    found
}

fn help(shell: &Shell, path: &[String]) -> String {
    let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    shell.done(&arguments)
}

#[test]
fn the_help_of_every_command_fits_100_columns_and_is_what_it_was() {
    let shell = Shell::new();
    let commands = all(&shell, &[]);
    assert!(commands.len() > 10, "{commands:?}");
    for path in commands {
        let help = help(&shell, &path);
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        golden::check_text(&format!("cli/help{}.txt", path.iter().map(|name| format!("-{name}")).collect::<String>()), &help);
    }
}

#[test]
fn wrong_usage_is_told_with_what_is_right() {
    let shell = Shell::new();
    for (line, expected) in [
        ("bake", "unrecognized subcommand 'bake'"),
        ("start", "<NAME>"),
        ("status ", "<ID>"),
        ("start BakeBread --wait=soon", "number of seconds"),
        ("list --status Baked", "Completed"),
        ("list --created-after yesterday", "how long ago"),
        ("list --top 0", "--top"),
        ("list --tag shop", "NAME=VALUE"),
        ("start BakeBread --tag =north", "1 to 64 letters"),
        ("query loaf-17", "<NAME>"),
        ("watch", "<ID>"),
        ("why", "<ID>"),
        ("completions tcsh", "zsh"),
    ] {
        let ran = shell.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((ran.code, ran.stdout.as_str()), (USAGE, ""), "{line}");
        assert!(ran.stderr.contains(expected), "{line}: {}", ran.stderr);
    }
}

#[test]
fn every_shell_can_complete_the_commands() {
    let shell = Shell::new();
    for name in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = shell.done(&["completions", name]);
        assert!(["dacapo", "terminate", "created-after"].iter().all(|word| script.contains(word)), "{name}");
    }
}

#[test]
fn who_reads_no_further_is_no_error() {
    // The reading end is closed before the program writes.
    use std::process::{Command, Stdio};
    let mut child = Command::new(crate::support::server::PROGRAM)
        .args(["completions", "bash"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the program");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait for the program");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(DONE), ""));
}
