//! Which server, which hub, which key?

use super::{DONE, FAILED, NOT_FOUND, Shell, UNREACHABLE};
use crate::support::{Server, Setup};

fn with_keys() -> Server {
    Setup { keys: true, ..Setup::default() }.start()
}

#[test]
fn a_key_comes_from_the_environment_a_file_or_the_users_settings() {
    let server = with_keys();
    let master = server.key("master");
    let keys_file = server.data().join("keys.json");
    let keys_file = keys_file.to_str().expect("text");

    let shell = Shell::of(&server);
    let why = shell.refused(&["modules"], FAILED);
    assert!(why.contains("DACAPO_KEY") && why.contains("--key-file"), "{why}");
    let file = shell.file("oven.key", &format!("{master}\n"));
    let file = file.to_str().expect("text");
    for flag in [keys_file, file] {
        shell.done(&["modules", "--key-file", flag]);
        shell.done(&["modules", "delete", "x", "--help", "--key-file", flag]);
    }
    for (variable, value) in [("DACAPO_KEY", master.as_str()), ("DACAPO_KEY_FILE", file), ("DACAPO_KEY_FILE", keys_file)] {
        Shell::of(&server).with(variable, value).done(&["modules"]);
    }
    // The system key is enough for instances, and not for modules.
    let shell = Shell::of(&server).with("DACAPO_KEY", &server.key("system"));
    shell.done(&["start", "Race", "--wait"]);
    let why = shell.refused(&["modules"], FAILED);
    assert!(why.contains("does not take this key for /admin/modules, which wants the master key"), "{why}");

    let shell = Shell::new();
    shell.file("oven.key", &master);
    let settings = format!("server = \"{}/\"\nhub = \"DurableFunctionsHub\"\nkey_file = \"../../oven.key\"\n", server.origin);
    shell.file(".config/dacapo/config.toml", &settings);
    shell.done(&["modules"]);
    assert_eq!(shell.done(&["modules", "--hub", "Other", "--json"]), "[]\n");
}

#[test]
fn settings_with_a_mistake_are_refused_by_name() {
    let shell = Shell::new();
    shell.file(".config/dacapo/config.toml", "servers = \"http://oven\"\n");
    let why = shell.refused(&["list"], FAILED);
    assert!(why.contains("config.toml") && why.contains("there is no setting servers"), "{why}");
}

#[test]
fn no_error_shows_a_key() {
    let server = with_keys();
    let (master, system) = (server.key("master"), server.key("system"));
    let wrong = format!("{}x", master);
    let shell = Shell::of(&server).with("DACAPO_KEY", &master);
    let mistaken = Shell::of(&server).with("DACAPO_KEY", &wrong);
    let two = Shell::of(&server).with("DACAPO_KEY", &format!("{master} {system}"));
    let nowhere = Shell::new().with("DACAPO_SERVER", "http://127.0.0.1:1").with("DACAPO_KEY", &master);
    let in_url = Shell::new().with("DACAPO_SERVER", &format!("{}/?code={master}", server.origin));
    let as_user = Shell::new().with("DACAPO_SERVER", &format!("http://me:{master}@127.0.0.1:1"));
    let commands: [&[&str]; 7] = [
        &["status", "x"],
        &["start", "Nothing"],
        &["start", "FailActivity", "--wait"],
        &["raise", "x", "e"],
        &["terminate", "x"],
        &["logs", "x"],
        &["modules", "--key-file", "absent"],
    ];
    for shell in [shell, mistaken, two, nowhere, in_url, as_user] {
        for command in commands {
            let ran = shell.run(command);
            assert_ne!(ran.code, DONE, "{command:?}");
            for key in [&master, &system] {
                assert!(!ran.stderr.contains(key.as_str()) && !ran.stdout.contains(key.as_str()), "{command:?}: {}", ran.stderr);
            }
        }
    }
}

#[test]
fn a_server_that_is_not_there_has_an_exit_code_of_its_own() {
    let mut server = Server::start();
    let shell = Shell::of(&server);
    server.stop();
    for command in [["status", "a"].as_slice(), &["list"], &["modules"], &["start", "Race"], &["logs", "a"]] {
        let why = shell.refused(command, UNREACHABLE);
        assert!(why.contains("cannot reach") && why.contains(&server.origin) && why.contains("dacapo serve"), "{why}");
    }
    server.restart();
}

#[test]
fn a_server_that_speaks_no_tls_is_not_reached_by_https() {
    let server = Server::start();
    let why = Shell::new().refused(&["list", "--server", &server.origin.replace("http:", "https:")], FAILED);
    assert!(why.contains("does not speak"), "{why}");
}

#[test]
fn a_flag_beats_the_environment() {
    let server = Server::start();
    let shell = Shell::new().with("DACAPO_SERVER", "http://127.0.0.1:1").with("DACAPO_HUB", "Other");
    shell.done(&["start", "Race", "--server", &server.origin, "--hub", "DurableFunctionsHub", "--id", "a", "--wait"]);
    shell.refused(&["status", "a", "--server", &server.origin], NOT_FOUND);
}
