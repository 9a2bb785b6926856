//! Do the examples do what they say? Each of them runs, as does the demo that shows them.

mod durable_http;
mod flaky_fan_out;
mod human_approval;
mod monitor;
mod saga;
mod sub_orchestrations;

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::server::{HUB, PROGRAM, run_to_end};
use crate::support::{Server, guests};

fn greetings() -> Value {
    json!(["Hello Tokyo!", "Hello Seattle!", "Hello London!"])
}

/// The events of one type in the history of an instance, which has none before its first turn.
fn events<'a>(status: &'a Value, kind: &str) -> Vec<&'a Value> {
    let events = status["historyEvents"].as_array().into_iter().flatten();
    events.filter(|event| event["EventType"] == kind).collect()
}

fn alice() -> String {
    let path = guests::root().join("examples/word-count/text/alice.txt");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

#[test]
fn hello_sequence_greets_three_cities_in_their_order() {
    let server = Server::empty();
    server.upload(HUB, "hello-sequence", guests::hello_sequence());
    assert_eq!(server.output("E1_HelloSequence", ""), greetings());
}

#[test]
fn a_core_module_with_a_component_type_is_made_a_component_and_runs() {
    let server = Server::empty();
    let uploaded = server.upload(HUB, "hello-sequence", guests::core_hello_sequence());
    assert_eq!(uploaded["orchestrators"], json!(["E1_HelloSequence"]));
    assert_eq!(uploaded["activities"], json!(["E1_SayHello"]));
    assert_eq!(server.output("E1_HelloSequence", ""), greetings());
}

#[test]
fn word_count_counts_a_whole_book() {
    let server = Server::empty();
    server.upload(HUB, "word-count", guests::word_count());
    let book = alice();
    let (chapters, words) = count(&book);
    let id = server.start("WordCount", &json!(book).to_string());
    let status = server.finished(&id);
    let summary = &status["output"];
    assert_eq!(summary["chapters"], chapters.len());
    assert_eq!(summary["total_words"], chapters.iter().map(|(_, words)| words).sum::<u64>());
    assert_eq!(summary["words_per_chapter"], json!(chapters));
    let mut frequent: Vec<_> = words.into_iter().collect();
    frequent.sort_by(|(a, more), (b, less)| less.cmp(more).then(a.cmp(b)));
    assert_eq!(summary["most_frequent"], json!(frequent[..10]));
    // One activity for each chapter.
    let events = status["historyEvents"].as_array().expect("a history").iter();
    assert_eq!(events.filter(|event| event["EventType"] == "TaskCompleted").count(), chapters.len());
}

#[test]
fn a_text_without_chapters_is_told_so() {
    let server = Server::empty();
    server.upload(HUB, "word-count", guests::word_count());
    let status = server.run("WordCount", r#""no book at all""#).json();
    let output = status["output"].as_str().expect("a failure");
    assert!(output.contains("no line that begins a chapter"), "{output}");
}

/// The words of each chapter, and how often each word occurs: counted letter by letter, unlike the example.
fn count(book: &str) -> (Vec<(String, u64)>, HashMap<String, u64>) {
    let mut chapters: Vec<(String, u64)> = Vec::new();
    let mut counts = HashMap::new();
    let mut untitled = false;
    for line in book.lines() {
        if line.trim_start().starts_with("CHAPTER ") {
            chapters.push((String::new(), 0));
            untitled = true;
            continue;
        }
        let Some((title, total)) = chapters.last_mut() else { continue };
        if untitled {
            *title = line.trim().to_owned();
            untitled = title.is_empty();
            continue;
        }
        let letters: Vec<char> = line.chars().chain([' ']).collect();
        let mut word = String::new();
        for (position, letter) in letters.iter().enumerate() {
            let within = *letter == '\'' && !word.is_empty() && rest_of_word(&letters[position..]);
            if letter.is_alphabetic() || within {
                word.extend(letter.to_lowercase());
            } else if !word.is_empty() && *letter != '\'' {
                *total += 1;
                *counts.entry(std::mem::take(&mut word)).or_default() += 1;
            }
        }
    }
    (chapters, counts)
}

/// Whether a letter follows these apostrophes at once.
fn rest_of_word(letters: &[char]) -> bool {
    letters.iter().find(|letter| **letter != '\'').is_some_and(|letter| letter.is_alphabetic())
}

#[test]
fn the_demo_shows_both_examples_and_tidies_up() {
    let temporary = tempfile::tempdir().expect("make a folder");
    let mut command = Command::new(PROGRAM);
    command.args(["demo", "--once"]).current_dir(guests::root()).env("TMPDIR", temporary.path());
    let output = run_to_end(&mut command);
    let (shown, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{shown}\n{told}", output.status);
    for part in [
        "E1_HelloSequence: ",
        "Hello Tokyo!",
        "Hello Seattle!",
        "Hello London!",
        "WordCount: ",
        "Down the Rabbit-Hole",
        "Completed after ",
        "\"EventType\": \"TaskCompleted\"",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    assert!(!told.contains("warning"), "{told}");
    assert_eq!(fs::read_dir(temporary.path()).expect("list the folder").count(), 0, "nothing is left behind");
}

#[test]
fn the_demo_says_where_it_has_to_be_run() {
    let elsewhere = tempfile::tempdir().expect("make a folder");
    let output = run_to_end(Command::new(PROGRAM).args(["demo", "--once"]).current_dir(elsewhere.path()));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("run the demo in a clone of the repository"), "{told}");
}

#[test]
fn every_example_is_in_this_file_or_its_folder() {
    let tests = guests::root().join("tests");
    let files = fs::read_dir(tests.join("examples")).expect("list the tests").map(|file| file.expect("list the tests").path());
    let here: String =
        files.chain([tests.join("examples.rs")]).map(|file| fs::read_to_string(file).expect("a test is text")).collect();
    for example in fs::read_dir(guests::root().join("examples")).expect("list the examples") {
        let name = example.expect("list the examples").file_name().into_string().expect("a name is text");
        assert!(here.contains(&format!("\"{name}\"")), "no test runs the example {name}");
    }
}
