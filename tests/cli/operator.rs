//! Modules and keys: what whoever runs a server does.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::{FAILED, NOT_FOUND, Ran, Shell, masked};
use crate::support::server::HUB;
use crate::support::{Server, Setup, golden, guests};

#[test]
fn modules_are_a_table_for_people_and_the_servers_json_for_programs() {
    let server = Server::empty();
    let shell = Shell::of(&server);
    let Ran { code, stdout, stderr } = shell.run(&["modules"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", "There is no module; `dacapo deploy` uploads one\n"));
    let uploaded = server.upload(HUB, "hello", guests::hello_sequence());
    let digest = &uploaded["digest"].as_str().expect("a digest")[..12];
    golden::check_text("cli/modules.txt", &masked(&shell.done(&["modules"])).replace(digest, "<digest>"));
    assert_eq!(shell.done(&["modules", "--json"]), format!("{}\n", server.get("/admin/modules").text()));
}

#[test]
fn a_module_that_was_deployed_under_another_name_is_pointed_to_it() {
    let server = Server::empty();
    let shell = Shell::of(&server);
    server.upload(HUB, "my-first", guests::hello_sequence());
    fs::write(shell.home.path().join("my_first.wasm"), guests::hello_sequence()).expect("write a module");
    let why = shell.refused(&["deploy", "my_first.wasm"], FAILED);
    assert!(why.contains("module \"my-first\"") && why.ends_with("or upload under that name, with --name"), "{why}");
    shell.done(&["deploy", "my_first.wasm", "--name", "my-first"]);
}

#[test]
fn a_version_that_no_module_has_is_not_found() {
    let server = Server::start();
    let shell = Shell::of(&server);
    for (command, expected) in [
        (["modules", "delete", "nothing", "--version", "ab"].as_slice(), "has no module \"nothing\""),
        (&["modules", "delete", "guests", "--version", "xyz"], "module \"guests\" has no version \"xyz\""),
    ] {
        let why = shell.refused(command, NOT_FOUND);
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_module_goes_when_nothing_runs_on_it() {
    let server = Server::start();
    let shell = Shell::of(&server);
    shell.done(&["start", "Collect", "--input", "1", "--id", "a"]);
    let why = shell.refused(&["modules", "delete", "guests"], FAILED);
    assert!(why.starts_with("the server refused: "), "{why}");
    shell.done(&["raise", "a", "item"]);
    server.finished("a");

    let modules = shell.json(&["modules", "--json"]);
    let digest = modules[0]["current"].as_str().expect("a digest");
    assert_eq!(shell.done(&["modules", "delete", "guests", "--version", &digest[..8]]), "");
    assert_eq!(shell.done(&["modules", "--json"]), "[]\n");
    let why = shell.refused(&["modules", "delete", "guests"], NOT_FOUND);
    assert!(why.contains("has no module \"guests\""), "{why}");
}

#[test]
fn keys_are_those_of_the_data_directory() {
    let server = Setup { keys: true, empty: true, ..Setup::default() }.start();
    let (master, system) = (server.key("master"), server.key("system"));
    let shell = Shell::new();
    let data = server.data();
    let data = data.to_str().expect("text");
    assert_eq!(shell.done(&["keys", "--data", data]), format!("master  {master}\nsystem  {system}\n"));
    let keys = Shell::new().with("DACAPO_DATA", data).json(&["keys", "--json"]);
    assert_eq!((keys["master"].as_str(), keys["system"].as_str()), (Some(master.as_str()), Some(system.as_str())));
}

#[test]
fn keys_that_others_can_read_or_that_are_not_there_are_refused() {
    let server = Setup { keys: true, empty: true, ..Setup::default() }.start();
    let shell = Shell::new();
    let data = server.data();
    fs::set_permissions(data.join("keys.json"), Permissions::from_mode(0o640)).expect("set permissions");
    let why = shell.refused(&["keys", "--data", data.to_str().expect("text")], FAILED);
    assert!(why.contains("others can read") && why.contains("chmod 600"), "{why}");
    assert!(!why.contains(&server.key("master")), "{why}");
    let why = shell.refused(&["keys"], FAILED);
    assert!(why.contains("dacapo-data/keys.json") && why.contains("--no-auth"), "{why}");
    assert!(!shell.home.path().join("dacapo-data").exists());
}
