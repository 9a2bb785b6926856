//! `dacapo demo`: what does all this look like? Two examples, from source to recorded history, on a server of their own.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::client::{self, Client};
use super::json::Json;
use super::output::say;
use super::server::{Server, listen_nearby, program, shell_path};
use super::wire::Instance;
use super::{guests, start_logging, tell};

/// Build, upload and run two examples on a server of their own; show what it recorded
///
/// To be run in a clone of the repository. The server needs no keys, listens on 127.0.0.1 (port 7071
/// if that is free) and keeps its data in a new folder below the system's temporary one.
///
/// Results go to standard output, progress to standard error.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Example:\n  dacapo demo --once")]
pub(super) struct Demo {
    /// Stop the server and delete its data at the end, instead of leaving it running
    #[arg(long)]
    once: bool,
}

/// One example.
struct Example {
    /// Its folder, and the module's name.
    module: &'static str,
    /// The orchestrator that is started.
    function: &'static str,
    /// What it shows.
    about: &'static str,
    /// The text that is the input, a file in the folder.
    input: Option<&'static str>,
    /// Whether its history is too long to be shown whole.
    long: bool,
}

const EXAMPLES: [Example; 2] = [
    Example {
        module: "hello-sequence",
        function: "E1_HelloSequence",
        about: "Three activities, one after the other. Each answer is on disk before the next one is asked for.",
        input: None,
        long: false,
    },
    Example {
        module: "word-count",
        function: "WordCount",
        about: "Fan-out and fan-in: the chapters of a book are counted side by side, and the counts become one result.",
        input: Some("text/alice.txt"),
        long: true,
    },
];

impl Demo {
    /// Shows the examples; serves on, unless it is to be done once.
    pub(super) fn run(self) -> Result<()> {
        start_logging("warn")?;
        let examples = examples_folder(&env::current_dir().context("find the current directory")?)?;
        let modules = EXAMPLES.each_ref().map(|example| build(&examples, example));

        let data = Data::create(if self.once { AtEnd::Delete } else { AtEnd::Keep })?;
        tell(format_args!("Starting a server with an empty store in {}", data.path.display()));
        let server = Server::start_open(listen_nearby()?, &data.path)?;
        let client = Client::to(server.url());

        let shown = modules.into_iter().zip(&EXAMPLES).try_for_each(|(wasm, example)| {
            upload(&client, example, &wasm?)?;
            show(&client, example, &examples)
        });
        if self.once || shown.is_err() {
            let stopped = server.stop();
            return shown.and(stopped);
        }
        let stop = server.stop_signal()?;
        say(format_args!(
            "The server goes on at {url}. From another terminal, start one more greeting:\n\n  \
             curl -i -X POST {start}\n\n\
             It answers 202; GET the URL of its Location (in quotes, it has an &) to see how the instance stands.\n\
             Ctrl-C stops the server; to go on where it stopped:\n\n  \
             {program} serve --no-auth --data {data}\n",
            url = server.url(),
            start = client.start_url(EXAMPLES[0].function),
            program = program(),
            data = shell_path(&data.path),
        ))?;
        server.run_until(stop)
    }
}

/// The folder of the examples, which lies in `from` or above.
fn examples_folder(from: &Path) -> Result<PathBuf> {
    let mut folders = from.ancestors().map(|folder| folder.join("examples"));
    let has_all = |folder: &PathBuf| EXAMPLES.iter().all(|example| folder.join(example.module).join("Cargo.toml").is_file());
    folders.find(has_all).with_context(|| {
        format!("there is no examples/hello-sequence in {} or above: run the demo in a clone of the repository", from.display())
    })
}

/// Builds the module of an example.
fn build(examples: &Path, example: &Example) -> Result<Vec<u8>> {
    tell(format_args!("Building examples/{} for {}; the first time, its dependencies too", example.module, guests::TARGET));
    let file = guests::build(&examples.join(example.module))?;
    fs::read(&file).with_context(|| format!("read {}", file.display()))
}

fn upload(client: &Client, example: &Example, wasm: &[u8]) -> Result<()> {
    tell(format_args!(
        "Uploading {} ({} KB); the server checks it and compiles it to machine code",
        example.module,
        wasm.len().div_ceil(1000)
    ));
    client.upload(example.module, wasm).map(drop)
}

/// Starts an instance of the example, waits for its end, and shows both and the history between them.
fn show(client: &Client, example: &Example, examples: &Path) -> Result<()> {
    let input = example.input.map(|file| json_text(&examples.join(example.module).join(file))).transpose()?.unwrap_or_default();
    say(format_args!("{}: {}\n", example.function, example.about))?;
    let begin = Instant::now();
    let started = client.started(example.function, &input)?;
    let start = client.start_url(example.function);
    let with = example.input.map(|file| format!(", with {file} as a JSON string")).unwrap_or_default();
    say(format_args!(
        "POST {start}{with}\nstarted instance {}. How it stands is at\n{}\n",
        started.id, started.status_query_get_uri
    ))?;

    let end: Instance = client::parse(&client.end(&started.id, None)?)?;
    let took_ms = begin.elapsed().as_millis();
    say(format_args!("{} after {took_ms} ms, with the output\n{}\n", end.runtime_status, Json::parse(end.output.get())?))?;

    let history = client.status(&started.id, &[("showHistory", "true"), ("showHistoryOutput", "true")])?;
    let status = Json::parse(&history)?;
    let (status, cut) =
        if example.long { (status.shortened(), "; long texts and lists are cut short with …") } else { (status, "") };
    say(format_args!(
        "What the server has recorded (the same URL with &showHistory=true&showHistoryOutput=true{cut}):\n{status}\n"
    ))?;
    ensure!(end.runtime_status == "Completed", "{} is {}", example.function, end.runtime_status);
    Ok(())
}

/// A text file as a JSON string.
fn json_text(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::to_string(&text).context("write the input as JSON")
}

/// What becomes of the demo's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Keep,
    Delete,
}

/// A new data directory of the demo.
struct Data {
    path: PathBuf,
    at_end: AtEnd,
}

impl Data {
    fn create(at_end: AtEnd) -> Result<Self> {
        let mut random = [0; 6];
        getrandom::fill(&mut random).context("ask for random bytes")?;
        let path = env::temp_dir().join(format!("dacapo-demo-{}", hex::encode(random)));
        // Fails if there is something of that name, whoever made it.
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path, at_end })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.at_end == AtEnd::Delete
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tell(format_args!("warning: {} could not be deleted: {error}", self.path.display()));
        }
    }
}
