//! `dacapo completions`: the shell knows the commands too.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Arguments;
use super::output::say;

const EXAMPLES: &str = "\
Examples:
  dacapo completions bash > ~/.local/share/bash-completion/completions/dacapo
  dacapo completions fish > ~/.config/fish/completions/dacapo.fish";

/// Print a script that lets a shell complete commands and flags
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "dacapo", &mut script);
        say(String::from_utf8(script)?.trim_end())
    }
}
