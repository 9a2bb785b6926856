//! `dacapo export`: an instance with all that a replay needs, in one file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::NonEmptyStringValueParser;

use super::connection::Connection;
use super::exit::Exit;
use super::output::{hint, say};
use super::server::shell_path;
use crate::engine::archive::Export as Archived;
use crate::model::HubName;
use crate::store::sqlite::FILE as STORE_FILE;

const ABOUT: &str = "\
The file is a tar archive: manifest.json says what it is, history.jsonl has the events of the
present execution with all inputs and results, module.wasm is the code. Values of secrets are in no
history. The name of the file is printed. A server wants the master key for this.

Examples:
  dacapo export loaf-17
  dacapo replay loaf-17.tar
  dacapo export loaf-17 -o - | tar -xO history.jsonl | jq -c .";

/// Export an instance with its history and its code, for a replay anywhere
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Export {
    /// The instance
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,

    /// The file to write, - for standard output [default: ID.tar]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Read this data directory, which no server has open, and ask none
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    #[command(flatten)]
    connection: Connection,
}

impl Export {
    pub(super) fn run(self) -> Result<()> {
        let output = self.output.clone().unwrap_or_else(|| file_name(&self.id).into());
        if output == Path::new("-") {
            let mut out = io::stdout().lock();
            self.write(&mut out)?;
            return out.flush().context("write to standard output");
        }
        self.write_to(&output)?;
        hint(format_args!("`dacapo replay {}` plays it", shell_path(&output)));
        say(output.display())
    }

    /// Writes to a file, which gets its name when it is whole; to a device or a pipe directly.
    fn write_to(&self, output: &Path) -> Result<()> {
        let doing = || format!("write {}", output.display());
        // What a link leads to is written, and not the link.
        let path = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        let there = fs::metadata(&path).ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return self.write_file(OpenOptions::new().write(true).open(&path).with_context(doing)?);
        }
        if self.output.is_none() && there.is_some() {
            bail!("{} is there already: name a file with --output, which is replaced if it is there", output.display());
        }
        // Only for our eyes: it has all that the instance was told. It goes if it does not get its name.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = tempfile::Builder::new().prefix(".dacapo-export-").tempfile_in(folder).with_context(doing)?;
        self.write_file(draft.reopen().with_context(doing)?)?;
        let named = if self.output.is_none() { draft.persist_noclobber(&path) } else { draft.persist(&path) };
        named.map(drop).with_context(doing)
    }

    fn write_file(&self, file: File) -> Result<()> {
        let mut out = BufWriter::new(file);
        self.write(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        // A pipe has nothing to sync.
        if file.metadata()?.is_file() { Ok(file.sync_all()?) } else { Ok(()) }
    }

    fn write(&self, out: &mut dyn Write) -> Result<()> {
        let Some(data) = &self.data else {
            return self.connection.client()?.spinning().export(&self.id, out);
        };
        let hub = match self.connection.hub() {
            Some(name) => name.parse().map_err(|error| Exit::Usage.because(error))?,
            None => HubName::default_hub(),
        };
        let absent =
            || Exit::NotFound.because(format_args!("task hub {hub} in {} has no instance {:?}", data.display(), self.id));
        // A store that is not there would be made.
        if !data.join(STORE_FILE).is_file() {
            return Err(Exit::Failed.because(format_args!("{} is no data directory: it has no {STORE_FILE}", data.display())));
        }
        let id = self.id.parse().map_err(|_| absent())?;
        let export = Archived::offline(data, &hub, &id).with_context(|| format!("open the store in {}", data.display()))?;
        export.ok_or_else(absent)?.write(out).with_context(|| format!("export {}", self.id))
    }
}

/// A name for the file of an instance: an ID may hold what a shell or a file system does not like.
fn file_name(id: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_.@+".contains(c) { c } else { '_' };
    let name: String = id.chars().map(plain).take(50).collect();
    // Neither hidden nor an option.
    let mark = if name.starts_with(['.', '-']) { "_" } else { "" };
    format!("{mark}{name}.tar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_instance_as_far_as_that_makes_a_name() {
        for (id, expected) in
            [("loaf-17", "loaf-17.tar"), ("a b:c", "a_b_c.tar"), ("..", "_...tar"), ("-o", "_-o.tar"), ("é", "é.tar")]
        {
            assert_eq!(file_name(id), expected);
        }
        assert_eq!(file_name(&"x".repeat(256)).len(), 54);
    }
}
