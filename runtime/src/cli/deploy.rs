//! `dacapo deploy`: how does a module get onto a server?

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::builder::NonEmptyStringValueParser;

use super::client::FunctionTaken;
use super::connection::Connection;
use super::guests::{Guest, Shown};
use super::output::{Spinner, Tone, clean, say, say_data};
use super::wire::{Uploaded, Version};

/// Build a module, upload it, and make it the current version of its name
///
/// New instances run on it from then on; those that have begun stay on the version they began with.
/// Uploading a version that the server knows makes it current again.
///
/// The functions of a module belong to it: another module that has one of them is refused.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Example:\n  dacapo deploy ./bakery --server http://oven.example:7071 --hub Bakery")]
pub(super) struct Deploy {
    /// A crate's folder, or a file that is built already
    #[arg(value_name = "CRATE-DIR|FILE.wasm")]
    source: PathBuf,

    /// The module's name [default: that of the crate, or of the file]
    #[arg(long, value_name = "MODULE", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Deploy {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?; // Before the build: what is wrong with it is known at once.
        let (name, file) = if self.source.is_dir() {
            let guest = Guest::find(&self.source)?;
            (guest.name().to_owned(), guest.build(Shown::Progress)?)
        } else {
            (stem(&self.source)?, self.source)
        };
        let name = self.name.unwrap_or(name);
        let wasm = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let uploaded = {
            let _spinner = Spinner::start(format!("Uploading {name}; the server checks and compiles it"));
            let uploaded = client.upload(&name, &wasm);
            // A crate and its file differ in name by - and _, so that this may be the same module.
            let uploaded =
                uploaded.map_err(|error| if error.is::<FunctionTaken>() { anyhow!("{error}, with --name") } else { error });
            uploaded.with_context(|| format!("upload {name}"))?
        };
        if self.json { say_data(&uploaded.text) } else { say(summary(&name, &uploaded)) }
    }
}

/// A module's name from that of its file.
fn stem(file: &Path) -> Result<String> {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    Ok(stem.with_context(|| format!("{} makes no name for a module: give one with --name", file.display()))?.to_owned())
}

fn summary(name: &str, uploaded: &Uploaded) -> String {
    let version = if uploaded.new { "a new version" } else { "a version that the server knows" };
    format!(
        "{}  {}, {version}, is current now\n{}  {}\n{}",
        Tone::Dim.paint("module       "),
        clean(name),
        Tone::Dim.paint("digest       "),
        clean(&uploaded.version.digest),
        functions(&uploaded.version)
    )
}

/// What a version offers, in a line for each kind.
pub(super) fn functions(version: &Version) -> String {
    let line = |kind: &str, names: &[String]| {
        let names = if names.is_empty() { "none".to_owned() } else { clean(&names.join(", ")) };
        format!("{}  {names}", Tone::Dim.paint(&format!("{kind:13}")))
    };
    [line("orchestrators", &version.orchestrators), line("activities", &version.activities)].join("\n")
}
