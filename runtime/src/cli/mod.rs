//! What does the command line offer? A file per subcommand; those that act on instances use the server over HTTP, as anybody can.
//!
//! [`main`] parses, runs and reports. `server` is the server in this process; the other commands use `connection`, which finds
//! the server and the key, `client`, which speaks HTTP, `wire`, what it hears, and `output`, how that is shown.

mod backup;
mod client;
mod completions;
mod connection;
mod data;
mod demo;
mod deploy;
mod dev;
mod events;
mod exit;
mod export;
mod filter;
pub mod guests;
mod input;
mod json;
mod keys;
mod list;
mod logs;
mod modules;
mod moment;
mod new;
mod operated;
mod output;
mod purge;
mod query;
mod raise;
mod replay;
mod restart;
mod resume;
mod rewind;
mod serve;
mod server;
mod start;
mod status;
mod suspend;
mod tag;
mod terminate;
mod verify;
mod watch;
mod why;
mod wire;

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::exit::Exit;
use crate::host;

/// The environment variable that says what is logged.
const LOG_VARIABLE: &str = "DACAPO_LOG";

const LOG_HELP: &str = "\
Log: DACAPO_LOG says what is logged to standard error, from `error` over `warn`, `info` and
`debug` to `trace`, also by module: `DACAPO_LOG=warn,dacapo::engine=debug`.";

/// Durable orchestrations as WebAssembly modules
#[derive(Debug, Parser)]
#[command(name = "dacapo", bin_name = "dacapo", version, after_help = format!("{}\n\n{}\n\n{LOG_HELP}", exit::HELP, connection::HELP))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Demo(demo::Demo),
    New(new::New),
    Dev(dev::Dev),
    Deploy(deploy::Deploy),
    Start(start::Start),
    Status(status::Status),
    Watch(watch::Watch),
    Why(why::Why),
    List(list::List),
    Query(query::Query),
    Raise(raise::Raise),
    Terminate(terminate::Terminate),
    Suspend(suspend::Suspend),
    Resume(resume::Resume),
    Rewind(rewind::Rewind),
    Restart(restart::Restart),
    Purge(purge::Purge),
    Logs(logs::Logs),
    Export(export::Export),
    Replay(replay::Replay),
    Modules(modules::Modules),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Keys(keys::Keys),
    Verify(verify::Verify),
    Completions(completions::Completions),
}

/// The whole program: does what the command line says, and reports what went wrong.
pub fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    // Before everything else: the compiler's child process is started often, and is held to little memory.
    if arguments.next().is_some_and(|first| first == host::COMPILER_COMMAND) {
        return exit_code(compile_module(arguments.next()));
    }
    match Arguments::try_parse().and_then(Arguments::checked) {
        Ok(Arguments { command }) => exit_code(command.run()),
        Err(error) => {
            // Help and version are errors to clap too: they go to standard output, with status 0.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// The hidden command that compiles one module, see [`host::Compiler`].
fn compile_module(limits: Option<OsString>) -> Result<()> {
    let limits = limits.and_then(|limits| limits.into_string().ok()).context("the limits are missing")?;
    host::compiler_child_main(&limits, io::stdout().lock()).context("compile a module")
}

fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the results has enough of them, as `head` has.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell(format_args!("error: {error:#}"));
            ExitCode::from(Exit::of(&error) as u8)
        }
    }
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Demo(demo) => demo.run(),
            Self::New(new) => new.run(),
            Self::Dev(dev) => dev.run(),
            Self::Deploy(deploy) => deploy.run(),
            Self::Start(start) => start.run(),
            Self::Status(status) => status.run(),
            Self::Watch(watch) => watch.run(),
            Self::Why(why) => why.run(),
            Self::List(list) => list.run(),
            Self::Query(query) => query.run(),
            Self::Raise(raise) => raise.run(),
            Self::Terminate(terminate) => terminate.run(),
            Self::Suspend(suspend) => suspend.run(),
            Self::Resume(resume) => resume.run(),
            Self::Rewind(rewind) => rewind.run(),
            Self::Restart(restart) => restart.run(),
            Self::Purge(purge) => purge.run(),
            Self::Logs(logs) => logs.run(),
            Self::Export(export) => export.run(),
            Self::Replay(replay) => replay.run(),
            Self::Modules(modules) => modules.run(),
            Self::Backup(backup) => backup.run(),
            Self::Restore(restore) => restore.run(),
            Self::Keys(keys) => keys.run(),
            Self::Verify(verify) => verify.run(),
            Self::Completions(completions) => completions.run(),
        }
    }
}

impl Arguments {
    /// Looks at what the arguments mean together.
    fn checked(self) -> Result<Self, clap::Error> {
        let checked = match &self.command {
            Command::Serve(serve) => serve.check(),
            Command::Modules(modules) => modules.check(),
            Command::Purge(purge) => purge.check(),
            _ => Ok(()),
        };
        checked.map_err(|message| Self::command().error(ErrorKind::ArgumentConflict, message))?;
        Ok(self)
    }
}

/// Writes a line for people to standard error. If nobody reads there, that is no reason to stop.
fn tell(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Logs to standard error from here on: what the environment says, or else `default`.
fn start_logging(default: &str) -> Result<()> {
    let filter = log_filter(default)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).init();
    Ok(())
}

/// What is logged: what the environment says, or else `default`.
fn log_filter(default: &str) -> Result<EnvFilter> {
    let wanted = env::var(LOG_VARIABLE).unwrap_or_default();
    let filter = EnvFilter::builder().parse(if wanted.is_empty() { default } else { &wanted });
    filter.with_context(|| format!("read {LOG_VARIABLE}={wanted:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).and_then(Arguments::checked)
    }

    /// All commands below this one, and itself.
    fn all(command: &clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command.clone()).chain(below).collect()
    }

    #[test]
    fn every_help_fits_100_columns_and_begins_with_a_sentence() {
        let mut root = Arguments::command();
        root.build();
        for mut command in all(&root) {
            for help in [command.render_help().to_string(), command.render_long_help().to_string()] {
                assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
                assert!(!help.starts_with("Usage"), "{help}");
            }
        }
        assert!(root.render_help().to_string().contains(exit::HELP));
    }

    #[test]
    fn every_command_shows_an_example() {
        let mut root = Arguments::command();
        root.build();
        for mut command in root.get_subcommands().filter(|command| command.get_name() != "help").cloned() {
            assert!(command.render_help().to_string().contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_server_without_keys_listens_on_loopback_only() {
        for good in ["127.0.0.1:0", "127.1.2.3:80", "[::1]:7071"] {
            assert!(parse(&format!("dacapo serve --no-auth --listen {good}")).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:7071", "10.0.0.1:7071", "[::]:7071"] {
            let error = parse(&format!("dacapo serve --no-auth --listen {bad}")).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("only with a loopback address"), "{error}");
            assert!(parse(&format!("dacapo serve --listen {bad}")).is_ok(), "{bad}");
            let error = parse(&format!("dacapo serve --rpc-listen {bad}")).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("--rpc-listen works only with a loopback"), "{error}");
        }
    }

    #[test]
    fn wrong_usage_has_status_2_and_help_has_0() {
        let code = |line| parse(line).unwrap_err().exit_code();
        for wrong in [
            "dacapo",
            "dacapo bake",
            "dacapo serve --port 1",
            "dacapo serve --listen 7071",
            "dacapo demo twice",
            "dacapo status",
            "dacapo watch",
            "dacapo why",
            "dacapo start",
            "dacapo list --status Baked",
            "dacapo list --top 0",
            "dacapo list --top 5 --all",
            "dacapo list --show-input maybe",
            "dacapo start a --wait=soon",
            "dacapo start a --tag shop",
            "dacapo list --tag =north",
            "dacapo query a",
            "dacapo deploy . --name=",
            "dacapo modules --json delete a",
            "dacapo purge",
            "dacapo purge --yes",
            "dacapo purge a --status Failed",
            "dacapo restart",
            "dacapo verify",
            "dacapo export",
            "dacapo replay",
            "dacapo backup",
        ] {
            assert_eq!(code(wrong), 2, "{wrong}");
        }
        assert_eq!((code("dacapo --help"), code("dacapo --version")), (0, 0));
    }
}
