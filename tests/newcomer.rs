//! Is the way from nothing to a running module as short as it should be? `new`, `deploy` and `dev`, and what they refuse.

use std::fs;
use std::path::Path;

use dacapo::limits::Limits;
use serde_json::json;

use crate::support::shell::edit;
use crate::support::{Client, Server, Setup, Shell, eventually, guests};

/// What a folder holds, by path, without what cargo makes.
fn files(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(folder)
        .expect("list the folder")
        .map(|entry| entry.expect("list the folder").file_name().into_string().expect("a name is text"))
        .collect();
    found.sort();
    found
}

#[test]
fn a_new_crate_is_complete_and_names_the_sdk_of_this_checkout() {
    let shell = Shell::new();
    let said = shell.done("dacapo new my-first --path deep/below");
    assert!(said.contains("cd deep/below\n  dacapo dev"), "{said}");
    let folder = shell.folder.join("deep/below");
    assert_eq!(files(&folder), [".gitignore", "Cargo.toml", "README.md", "src"]);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("read the manifest");
    assert!(manifest.contains("name = \"my-first\"") && manifest.contains("[workspace]\n"), "{manifest}");
    let sdk = guests::root().join("guest-sdk").canonicalize().expect("find the SDK");
    assert!(manifest.contains(&format!("dacapo-guest = {{ path = \"{}\" }}", sdk.display())), "{manifest}");
    for file in ["Cargo.toml", "README.md", "src/lib.rs"] {
        let text = fs::read_to_string(folder.join(file)).expect("read a file");
        assert!(!text.contains("{{"), "{file}: all places are filled in");
    }
}

#[test]
fn new_refuses_what_cannot_be_and_leaves_everything_as_it_was() {
    let shell = Shell::new();
    fs::create_dir(shell.folder.join("full")).expect("make a folder");
    fs::write(shell.folder.join("full/letter.txt"), "Dear Ada").expect("write a file");
    fs::create_dir(shell.folder.join("empty")).expect("make a folder");
    for (line, code, why) in [
        ("dacapo new 2nd", 2, "begins with a letter"),
        ("dacapo new struct", 2, "has this name already"),
        ("dacapo new full", 1, "full is there already and not empty"),
        ("dacapo new other --path full", 1, "full is there already and not empty"),
        ("dacapo new other --path full/letter.txt", 1, "look into full/letter.txt"),
        ("dacapo new other --sdk full", 1, "full is not the folder of the crate dacapo-guest"),
    ] {
        let said = shell.run(line);
        assert_eq!(said.status.code(), Some(code), "{line}: {said:?}");
        assert!(said.stdout.is_empty() && said.stderr.contains(why), "{line}: {said:?}");
        assert_eq!(files(&shell.folder), ["bin", "empty", "full"], "{line}");
        assert_eq!(files(&shell.folder.join("full")), ["letter.txt"], "{line}");
    }
    shell.done("dacapo new empty");
    assert!(shell.folder.join("empty/src/lib.rs").is_file());
}

#[test]
fn a_crate_is_built_and_deployed_and_what_does_not_compile_is_not() {
    let server = Server::empty();
    let mut shell = Shell::new();
    shell.set("DACAPO_SERVER", &server.origin);
    let source = shell.new_crate("deployed").join("src/lib.rs");

    let said = shell.done("dacapo deploy deployed");
    let module = server.get("/admin/modules/deployed").json();
    let digest = module["current"].as_str().expect("a digest");
    let expected = format!(
        "module         deployed, a new version, is current now\n\
         digest         {digest}\n\
         orchestrators  greet_everyone\n\
         activities     greet, make_card\n"
    );
    assert_eq!(said, expected);
    let answer: serde_json::Value = serde_json::from_str(&shell.done("cd deployed && dacapo deploy . --json")).expect("JSON");
    assert_eq!((&answer["name"], &answer["digest"]), (&json!("deployed"), &json!(digest)));
    assert!(shell.done("dacapo deploy deployed").contains("a version that the server knows"));
    assert_eq!(
        server.output("greet_everyone", r#"["Zoë"]"#),
        json!({ "people": 1, "lines": ["Hello, Zoë!"] }),
        "what the README of the new crate promises"
    );

    edit(&source, "lines.len()", "lines.length()");
    let said = shell.run("dacapo deploy deployed");
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("no method named `length`"), "{said:?}");
    assert!(said.stderr.contains("error: cargo could not build") && said.stdout.is_empty(), "{said:?}");
    assert_eq!(server.get("/admin/modules/deployed").json(), module);
}

#[test]
fn a_file_is_deployed_under_its_own_name_or_another_one() {
    let server = Server::empty();
    let mut shell = Shell::new();
    shell.set("DACAPO_SERVER", &server.origin);
    fs::write(shell.folder.join("hello.wasm"), guests::hello_sequence()).expect("write the module");
    assert!(shell.done("dacapo deploy hello.wasm").starts_with("module         hello, a new version"));

    fs::write(shell.folder.join("broken.wasm"), "no module").expect("write a file");
    for (line, code, why) in [
        ("dacapo deploy broken.wasm", 1, "the server refused: these bytes are not WebAssembly"),
        ("dacapo deploy hello.wasm --name again", 1, "belongs to module \"hello\""),
        ("dacapo deploy missing.wasm", 1, "read missing.wasm"),
        ("dacapo deploy bin", 1, "bin is not the folder of a crate: it has no Cargo.toml"),
        ("dacapo deploy hello.wasm --server http://127.0.0.1:1", 3, "cannot reach http://127.0.0.1:1"),
    ] {
        let said = shell.run(line);
        assert_eq!(said.status.code(), Some(code), "{line}: {said:?}");
        assert!(said.stdout.is_empty() && said.stderr.contains(why), "{line}: {said:?}");
    }
    assert_eq!(server.get("/admin/modules").json().as_array().expect("a list").len(), 1);
}

#[test]
fn a_module_that_is_too_large_is_refused_with_the_limit() {
    let server = Setup { empty: true, ..Setup::limits(Limits { module_bytes_max: 1000, ..Limits::default() }) }.start();
    let mut shell = Shell::new();
    shell.set("DACAPO_SERVER", &server.origin);
    fs::write(shell.folder.join("hello.wasm"), guests::hello_sequence()).expect("write the module");
    let said = shell.run("dacapo deploy hello.wasm");
    assert!(
        said.status.code() == Some(1) && said.stderr.contains("more than 1000 bytes, which is the limit module_bytes_max"),
        "{said:?}"
    );
}

/// One story, since each chapter takes a build.
#[test]
fn dev_runs_every_change_shows_what_happens_and_goes_on_where_it_stood() {
    let mut shell = Shell::new();
    let folder = shell.new_crate("watched");
    shell.folder.clone_from(&folder);
    // That is about the server's own lines; all that is looked for below is shown nevertheless.
    shell.set("DACAPO_LOG", "error");
    let source = folder.join("src/lib.rs");

    // It begins with a mistake.
    edit(&source, "lines.len()", "lines.length()");
    let dev = shell.start("dacapo dev --data data");
    let origin = dev.says("Serving ").split(' ').next().expect("a URL").to_owned();
    dev.says("no method named `length`");
    dev.says("the next change is waited for");
    let client = Client::new(&origin);
    assert_eq!(client.get("/admin/modules").json(), json!([]));

    // The mistake is mended.
    edit(&source, "lines.length()", "lines.len()");
    dev.says("src/lib.rs has changed");
    dev.says("watched is version ");
    assert!(dev.says("dacapo start greet_everyone --wait").contains(&format!("--server {origin}")));
    let started = client.post("/api/orchestrators/greet_everyone/first?timeout=30", r#"["Ada"]"#);
    assert_eq!(started.json()["lines"], json!(["Hello, Ada!"]));
    dev.says("first  watched: greeting Ada");
    dev.says("first  greet_everyone Completed in ");
    dev.says(r#"{"people":1,"lines":["Hello, Ada!"]}"#);

    // A change is picked up, and one that does not compile leaves the last one in place.
    edit(&source, "Hello, ", "Good morning, ");
    dev.says_again("watched is version ", 2);
    edit(&source, "lines.len()", "lines.length()");
    let stays = dev.says("what it said is above; version ");
    assert!(stays.ends_with(" stays"), "{stays}");
    let started = client.post("/api/orchestrators/greet_everyone/second?timeout=30", r#"["", "Ada"]"#);
    assert_eq!(started.json()["runtimeStatus"], "Failed", "{started}");
    dev.says("second  greet_everyone Failed in ");
    dev.says("failed: somebody on the list has no name");
    let said = dev.stop();
    assert!(!said.contains('\u{1b}'), "no colours where nobody looks: {said}");

    // The next one goes on with its data. None of them, and nothing that was built, was taken for a source.
    assert!(!said.contains("data/") && !said.contains("build-out/"), "{said}");
    edit(&source, "lines.length()", "lines.len()");
    let dev = shell.start("dacapo dev . --data ./data");
    let client = Client::new(dev.says("Serving ").split(' ').next().expect("a URL"));
    dev.says("watched is version ");
    assert_eq!(client.output("greet_everyone", r#"["Ada"]"#)["lines"], json!(["Good morning, Ada!"]));
    assert_eq!(client.finished("first")["output"]["lines"], json!(["Hello, Ada!"]));
    dev.stop();
}

/// A build that goes on until there is a file `go`, or until its crate is gone.
const SLOW_BUILD: &str = r#"
fn main() {
    std::fs::write("begun", "").unwrap();
    while std::path::Path::new("Cargo.toml").exists() && !std::path::Path::new("go").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
"#;

#[test]
fn dev_serves_before_the_first_build_is_done_and_ends_without_it() {
    let mut shell = Shell::new();
    let folder = shell.new_crate("slow");
    shell.folder.clone_from(&folder);
    // A lock of its own: nobody else's build waits for this one.
    shell.set("CARGO_TARGET_DIR", folder.join("out/of/cargo").display().to_string());
    // Nothing to build but this.
    fs::write(
        folder.join("Cargo.toml"),
        "[package]\nname = \"slow\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n",
    )
    .expect("write the manifest");
    fs::write(folder.join("src/lib.rs"), "").expect("write the source");
    fs::write(folder.join("build.rs"), SLOW_BUILD).expect("write the build script");
    fs::remove_file(folder.join("Cargo.lock")).expect("remove the lock file");

    let dev = shell.start("dacapo dev");
    let origin = dev.says("Serving ").split(' ').next().expect("a URL").to_owned();
    eventually("the build has begun", || folder.join("begun").exists().then_some(()));
    let answer = Client::new(&origin).post("/api/orchestrators/greet_everyone", "");
    assert_eq!(answer.status, 400, "{answer}");
    // Another one on the same data is told so at once.
    let said = shell.run("dacapo dev");
    assert!(said.status.code() == Some(1) && said.stderr.contains("open"), "{said:?}");

    let said = dev.stop();
    assert!(!said.contains("has changed") && !said.contains("interrupted"), "{said}");
    assert!(folder.join("out/of/cargo/dacapo/slow").is_dir(), "its data are with what cargo has built");
    fs::write(folder.join("go"), "").expect("let the build end");
}

#[test]
fn dev_listens_on_this_machine_only_and_wants_a_crate() {
    let shell = Shell::new();
    for (line, code, why) in [
        ("dacapo dev --listen 0.0.0.0:0", 2, "listens on a loopback address only"),
        ("dacapo dev --listen 7071", 2, "such as 127.0.0.1:7071"),
        ("dacapo dev bin", 1, "bin is not the folder of a crate"),
    ] {
        let said = shell.run(line);
        assert_eq!(said.status.code(), Some(code), "{line}: {said:?}");
        assert!(said.stderr.contains(why), "{line}: {said:?}");
    }
}
