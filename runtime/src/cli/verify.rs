//! `dacapo verify`: is what a server has stored as it should be? For its operator, on its machine, while no server has it open.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::exit::Exit;
use super::output::{clean, say};
use super::start_logging;
use crate::config::Config;
use crate::engine::{Check, Finding, Progress, Report, VerifyError, examine};
use crate::host::Compiler;

const ABOUT: &str = "\
It reads the whole store, compares the instances' rows with their histories, and replays each
instance on its own module. It goes on behind what it finds, and changes nothing.

A backup or any other copy of the directory will do, also one with the file dacapo.db alone; then
modules are compiled first. Of a server that runs, make a backup and check that.

Exit status: 0 if all is as it should be, 1 if something is not, 2 if it cannot be checked: there is
no store, a server has it open, or it is of another version.

Examples:
  dacapo verify ./dacapo-data
  dacapo verify --json ./dacapo-data | jq .findings";

/// Check a data directory that no server has open, and replay every instance
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub(super) struct Verify {
    /// The data directory, or a copy of it
    #[arg(value_name = "DIR")]
    data: PathBuf,

    /// The server's configuration file, if it has one
    ///
    /// Its limits hold for replays too.
    #[arg(long, value_name = "FILE", env = "DACAPO_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<()> {
        start_logging("error")?;
        let config = self.config.as_deref().map(Config::load).transpose().context("load the settings")?.unwrap_or_default();
        let compiler = Compiler::child().context("find this program, which compiles modules")?;
        let (bar, began) = (ProgressBar::new(0), Instant::now());
        bar.enable_steady_tick(Duration::from_millis(100));
        let mut shown = None;
        let report = examine(&self.data, &config.limits, compiler, &mut |progress| show(&bar, &mut shown, progress));
        bar.finish_and_clear();
        let report = report.map_err(|error| {
            let exit = if let VerifyError::Store(_) = error { Exit::Usage } else { Exit::Failed };
            exit.because(format_args!("check {}: {error}", self.data.display()))
        })?;
        if self.json {
            say(as_json(&report))?;
        } else {
            let lines: Vec<String> = report.to_string().lines().map(clean).collect();
            say(format_args!("{}, in {:.1} s", lines.join("\n"), began.elapsed().as_secs_f64()))?;
        }
        match report.found {
            0 => Ok(()),
            found => Err(Exit::Failed.because(format_args!("{} is not as it should be: {found} findings", self.data.display()))),
        }
    }
}

/// Moves the bar on, which is drawn on a terminal only.
fn show(bar: &ProgressBar, shown: &mut Option<Check>, Progress { check, done, of }: Progress) {
    if shown.replace(check) != Some(check) {
        let template = if of > 0 { "{msg} {wide_bar} {pos} of {len}, {eta}" } else { "{spinner} {msg}" };
        bar.set_style(ProgressStyle::with_template(template).expect("it is one of the two above"));
        bar.set_message(match check {
            Check::File => "Reading the file",
            Check::Rows => "Comparing rows",
            Check::Modules => "Hashing modules",
            Check::Messages => "Reading messages",
            Check::Histories | Check::Children | Check::Replay => "Replaying",
        });
        bar.set_length(of);
        bar.reset_eta();
    }
    bar.set_position(done);
}

fn as_json(report: &Report) -> String {
    let Report { hubs, modules, messages, instances, ended, events, turns, findings, found } = report;
    let finding = |finding: &Finding| {
        let mut json = json!({ "check": finding.check.name(), "what": finding.what });
        if let Some((hub, id)) = &finding.instance {
            json["taskHub"] = json!(hub);
            json["instanceId"] = json!(id);
        }
        json
    };
    let findings: Vec<_> = findings.iter().map(finding).collect();
    json!({
        "sound": *found == 0, "hubs": hubs, "modules": modules, "messages": messages, "instances": instances, "ended": ended,
        "events": events, "turns": turns, "found": found, "findings": findings,
    })
    .to_string()
}
