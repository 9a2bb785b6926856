//! `dacapo modules`: what code does the server have, and how does it get rid of it?

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;

use super::client;
use super::connection::Connection;
use super::exit::Exit;
use super::moment::milliseconds;
use super::output::{Table, hint, relative, say, say_data};
use super::tell;
use super::wire::{Module, Version};
use crate::clock::Clock;

/// How much of a digest is shown, in hex digits: enough to tell apart whatever one hub has.
const DIGEST_CHARS: usize = 12;

const ABOUT: &str = "\
The first line of a module is its current version, on which new instances run.

Example:
  dacapo modules --json | jq -r '.[].name'";

const DELETE_EXAMPLES: &str = "\
Examples:
  dacapo modules delete bakery
  dacapo modules delete bakery --version 9f86d081";

/// List the modules of a task hub with their versions, or delete one
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Modules {
    #[command(subcommand)]
    action: Option<Action>,

    /// Print the server's JSON as it is
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Delete(Delete),
}

/// Delete a module, or one version of it, on which no live instance runs
#[derive(Debug, clap::Args)]
#[command(after_help = DELETE_EXAMPLES)]
struct Delete {
    /// The module
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,

    /// Only this version: its digest, or enough of its beginning
    #[arg(long, value_name = "DIGEST", value_parser = NonEmptyStringValueParser::new())]
    version: Option<String>,
}

impl Modules {
    /// What is wrong with the arguments together.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.json && self.action.is_some() { Err("--json is for the list: delete prints nothing".into()) } else { Ok(()) }
    }

    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?.spinning();
        if let Some(Action::Delete(Delete { name, version })) = self.action {
            let digest = match version {
                Some(prefix) => Some(full_digest(&client.module(&name)?, &prefix)?),
                None => None,
            };
            client.delete_module(&name, digest.as_deref())?;
            match digest {
                Some(digest) => hint(format_args!("Version {} of module {name} is deleted", short(&digest))),
                None => hint(format_args!("Module {name} is deleted")),
            }
            return Ok(());
        }
        let text = client.modules()?;
        if self.json {
            return say_data(&text);
        }
        let modules: Vec<Module> = client::parse(&text)?;
        if modules.is_empty() {
            tell("There is no module; `dacapo deploy` uploads one");
            return Ok(());
        }
        say(table(&modules, Clock.now_ms()).show())
    }
}

/// The digest of the one version that begins with `prefix`.
fn full_digest(module: &Module, prefix: &str) -> Result<String> {
    let prefix = prefix.to_ascii_lowercase();
    let mut found = module.versions.iter().filter(|version| version.digest.starts_with(&prefix));
    match (found.next(), found.next()) {
        (Some(version), None) => Ok(version.digest.clone()),
        (None, _) => Err(Exit::NotFound.because(format_args!("module {:?} has no version {prefix:?}", module.name))),
        (Some(_), Some(_)) => Err(Exit::Usage.because(format_args!(
            "module {:?} has more than one version that begins with {prefix:?}; write more of the digest",
            module.name
        ))),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..DIGEST_CHARS).unwrap_or(digest)
}

fn table(modules: &[Module], now_ms: u64) -> Table {
    let mut table = Table::new(&["NAME", "DIGEST", "FUNCTIONS", "LIVE", "UPLOADED"]);
    for module in modules {
        let is_current = |version: &&Version| version.digest == module.current;
        let (current, older): (Vec<_>, Vec<_>) = module.versions.iter().partition(is_current);
        let names = std::iter::once(module.name.as_str()).chain(std::iter::repeat(""));
        for (version, name) in current.into_iter().chain(older).zip(names) {
            let uploaded = milliseconds(&version.uploaded_time).map(|then_ms| relative(now_ms, then_ms));
            let functions: Vec<_> = version.orchestrators.iter().chain(&version.activities).map(String::as_str).collect();
            table.row([
                name.into(),
                short(&version.digest).into(),
                functions.join(", ").into(),
                version.live_instances.to_string().into(),
                uploaded.unwrap_or_else(|| version.uploaded_time.clone()).into(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digest: &str, uploaded_time: &str, orchestrators: &[&str], live_instances: u64) -> Version {
        Version {
            digest: digest.repeat(32),
            uploaded_time: uploaded_time.into(),
            orchestrators: orchestrators.iter().map(|name| (*name).to_owned()).collect(),
            activities: vec!["Mix".into()],
            live_instances,
        }
    }

    fn bakery() -> Module {
        let versions = vec![
            version("ab", "2026-03-01T09:00:00Z", &["Bake"], 2),
            version("ac", "2026-03-01T08:00:00Z", &["Bake", "Sell"], 0),
        ];
        Module { name: "bakery".into(), current: "ac".repeat(32), versions }
    }

    #[test]
    fn the_current_version_of_a_module_comes_first() {
        let expected = "\
NAME    DIGEST        FUNCTIONS        LIVE  UPLOADED
bakery  acacacacacac  Bake, Sell, Mix  0     1h ago
        abababababab  Bake, Mix        2     10s ago";
        assert_eq!(table(&[bakery()], 1_772_355_610_000).fitted(100), expected);
    }

    #[test]
    fn a_version_is_found_by_the_beginning_of_its_digest_if_there_is_one_only() {
        assert_eq!(full_digest(&bakery(), "ABA").unwrap(), "ab".repeat(32));
        assert_eq!(full_digest(&bakery(), &"ac".repeat(32)).unwrap(), "ac".repeat(32));
        let code = |prefix| Exit::of(&full_digest(&bakery(), prefix).unwrap_err());
        assert_eq!((code("a"), code("ad")), (Exit::Usage, Exit::NotFound));
    }
}
