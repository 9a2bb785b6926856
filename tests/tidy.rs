//! Is the architecture still what it is said to be? Mostly absences: who must not name what.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::guests::root;

/// Files that carry the argument for durability and determinism: plain data and pure functions.
const PURE: [&str; 4] =
    ["runtime/src/model/", "runtime/src/replay.rs", "runtime/src/engine/partition.rs", "runtime/src/engine/instance.rs"];

/// What pure code has no use for.
const IMPURE: [&str; 17] = [
    "tokio",
    "hyper",
    "wasmtime",
    "rusqlite",
    "getrandom",
    "tracing",
    "SystemTime",
    "Instant",
    "Clock",
    "sleep",
    "thread",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "Mutex",
    "async",
];

/// Who may name a crate or a language: nobody else does.
const OWNERS: [(&[&str], &[&str]); 5] = [
    (&["wasmtime", "wasmtime_wasi", "wit_component"], &["runtime/src/host/"]),
    (&["rusqlite", "SELECT", "INSERT INTO", "CREATE TABLE", "PRAGMA"], &["runtime/src/store/"]),
    (
        &["hyper", "hyper_util", "http_body_util"],
        &["runtime/src/api/", "runtime/src/host/client.rs", "runtime/src/host/http.rs", "runtime/src/host/outgoing.rs"],
    ),
    (&["ureq", "clap"], &["runtime/src/cli/"]),
    (&["SystemTime"], &["runtime/src/clock.rs"]),
];

/// Where the compiler cannot check memory safety, with the reason beside it.
const UNSAFE: [&str; 7] = [
    "runtime/src/engine/in_flight.rs",
    "runtime/src/host/cache.rs",
    "runtime/src/host/contract.rs",
    "guest-sdk/src/bindings.rs",
    "guest-sdk/src/module.rs",
    "tests/disk/preload/src/",
    "tests/guests/src/hoarding.rs",
];

const LINES_MAX: usize = 800;

/// A file of ours by its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// The lines that hold code, with their numbers: comments may name anything.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines =
            self.text.lines().enumerate().map(|(number, line)| (number + 1, line.find("//").map_or(line, |at| &line[..at])));
        lines.filter(|(_, line)| !line.trim().is_empty())
    }

    /// The lines of code that hold `word`, and not as a part of a longer one.
    fn named(&self, word: &str) -> Vec<String> {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let holds = |line: &str| {
            line.match_indices(word)
                .any(|(at, _)| !is_part(line[..at].chars().last()) && !is_part(line[at + word.len()..].chars().next()))
        };
        self.code()
            .filter(|(_, line)| holds(line))
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

/// All files of ours that end with `ending`, without what is built.
fn sources(ending: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["runtime", "guest-sdk", "examples", "tests"].iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list a folder") {
            let path = entry.expect("list a folder").path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.to_string_lossy().ends_with(ending) {
                let text = fs::read_to_string(&path).expect("sources are text");
                found.push(Source { path: from_root(&path), text });
            }
        }
    }
    assert!(!found.is_empty(), "there is no {ending} at all");
    found
}

fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).expect("it lies in the workspace").to_string_lossy().into_owned()
}

#[test]
fn pure_code_names_no_runtime_no_clock_and_no_database() {
    let sources = sources(".rs");
    for place in PURE {
        assert!(sources.iter().any(|source| source.is_in(&[place])), "{place} is not there");
    }
    let offences: Vec<String> = sources
        .iter()
        .filter(|source| source.is_in(&PURE))
        .flat_map(|source| IMPURE.iter().flat_map(|word| source.named(word)))
        .collect();
    assert!(offences.is_empty(), "these files are to stay pure:\n{}", offences.join("\n"));
}

#[test]
fn each_large_dependency_has_one_owner() {
    let sources = sources(".rs");
    for (words, owners) in OWNERS {
        let strangers = sources.iter().filter(|source| source.is_in(&["runtime/src/"]) && !source.is_in(owners));
        let offences: Vec<String> = strangers.flat_map(|source| words.iter().flat_map(|word| source.named(word))).collect();
        assert!(offences.is_empty(), "only {owners:?} may name {words:?}:\n{}", offences.join("\n"));
        let owned = sources
            .iter()
            .filter(|source| source.is_in(owners))
            .any(|source| words.iter().any(|word| !source.named(word).is_empty()));
        assert!(owned, "nobody names {words:?} any more");
    }
}

#[test]
fn arrows_point_down_only() {
    // Each layer with those above it, which it must not name.
    let layers = [
        ("runtime/src/model/", "api cli engine host replay store"),
        ("runtime/src/replay.rs", "api cli engine host store"),
        ("runtime/src/store/", "api cli engine host replay"),
        ("runtime/src/host/", "api cli engine store"),
        ("runtime/src/engine/", "api cli"),
        ("runtime/src/api/", "cli host"),
    ];
    let sources = sources(".rs");
    for (layer, above) in layers {
        for source in sources.iter().filter(|source| source.is_in(&[layer])) {
            let offences: Vec<String> = above.split(' ').flat_map(|module| source.named(&format!("crate::{module}"))).collect();
            assert!(offences.is_empty(), "{layer} must not know {above}:\n{}", offences.join("\n"));
        }
    }
}

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let this = ["tests/tidy.rs"];
    for source in sources(".rs").iter().filter(|source| !source.is_in(&this)) {
        let offences = [source.named("unsafe"), source.named("allow(unsafe_code")].concat();
        assert!(offences.is_empty() || source.is_in(&UNSAFE), "unsafe code outside {UNSAFE:?}:\n{}", offences.join("\n"));
    }
}

#[test]
fn the_guest_contract_has_one_copy() {
    for source in sources(".wit") {
        assert!(source.is_in(&["guest-sdk/wit/"]), "{} is a second copy of the contract", source.path);
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    for source in sources(".rs") {
        let lines = source.text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines; look for the second noun hiding inside", source.path);
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for source in sources(".rs") {
        assert!(source.text.starts_with("//!"), "{} does not begin with what it is for", source.path);
    }
}
