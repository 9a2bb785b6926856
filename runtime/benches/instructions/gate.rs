//! Do the scenarios take as many instructions as we last agreed on? Runs each under valgrind, and compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use dacapo::cli::guests;
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

use super::scenarios::{BEGINS, ENDS, ROUNDS, SCENARIOS, Scenario, WARM_UP};

/// The hidden commands of this program.
pub(crate) const PREPARE: &str = "prepare";
pub(crate) const RUN: &str = "run";

/// What we agreed on, beside this file.
const FIGURES: &str = "benches/instructions/figures.toml";
const FIGURES_HEAD: &str = "# Instructions for each unit. Written by `DACAPO_GOLDEN=write cargo bench --bench instructions`.\n";

/// Counts the scenarios of these names, or all if there are none, and says how they compare.
///
/// # Errors
/// If they cannot be counted.
pub(crate) fn run(names: &[&str]) -> Result<ExitCode> {
    let unknown = names.iter().find(|name| SCENARIOS.iter().all(|scenario| scenario.name != **name));
    if let Some(unknown) = unknown {
        bail!("there is no scenario {unknown:?}: there are {}", SCENARIOS.each_ref().map(|scenario| scenario.name).join(", "));
    }
    ensure!(cfg!(target_arch = "x86_64"), "the figures are those of x86-64");
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = package.join(FIGURES);
    let mut figures = match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("read {}", path.display()))?,
        Err(_) => BTreeMap::<String, u64>::new(), // The first time there are none.
    };

    let module = guests::build(&package.join("../examples/hello-sequence"))?;
    let folder = package.join("../target/instructions");
    let _ = fs::remove_dir_all(&folder); // It need not be there.
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let folder = folder.canonicalize().context("find target")?;
    deny_auxv().context("deny PR_GET_AUXV")?;
    eprintln!("compiling the guest under valgrind, for the processor that it shows");
    let this = env::current_exe().context("find this program")?;
    succeed(valgrind("none").arg(&this).arg(PREPARE).arg(&folder).arg(&module))?;

    println!("{:13} {:>9} {:>9} {:>8} {:>8}  for each", "scenario", "figure", "counted", "change", "allowed");
    let mut moved = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| names.is_empty() || names.contains(&scenario.name)) {
        let Scenario { name, unit, tolerance_percent: allowed, .. } = *scenario;
        let counted = count(scenario, &this, &folder)?;
        let figure = figures.insert(name.to_owned(), counted);
        let change = figure.map(|figure| (counted as f64 / figure as f64 - 1.0) * 100.0);
        let shown = change.map_or_else(|| "new".to_owned(), |change| format!("{change:+.1} %"));
        println!("{name:13} {:>9} {counted:>9} {shown:>8} {allowed:>6} %  {unit}", figure.unwrap_or_default());
        if change.is_none_or(|change| change.abs() > allowed) {
            moved.push(format!(
                "{name}: {shown}; `callgrind_annotate --threshold=100 {}` shows where",
                profile(&folder, name).display()
            ));
        }
    }

    if env::var_os("DACAPO_GOLDEN").is_some_and(|value| value == "write") {
        let mut text = FIGURES_HEAD.to_owned();
        for scenario in SCENARIOS {
            if let Some(figure) = figures.get(scenario.name) {
                writeln!(text, "{} = {figure} # {}", scenario.name, scenario.unit).expect("text can be written to");
            }
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if moved.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("These have moved further than is allowed:\n{}", moved.join("\n"));
    eprintln!(
        "If that is meant to be, keep the new figures, also those that are lower, so that they stay low:\n  \
         DACAPO_GOLDEN=write cargo bench --bench instructions"
    );
    Ok(ExitCode::FAILURE)
}

/// Runs a scenario, and returns how many instructions a unit took in the counted rounds, on average.
fn count(scenario: &Scenario, this: &Path, folder: &Path) -> Result<u64> {
    let profile = profile(folder, scenario.name);
    let mut valgrind = valgrind("callgrind");
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    // A file for what was before each round, and one for the round; of all threads.
    valgrind.args([BEGINS, ENDS].map(|function| format!("--dump-before={function}")));
    succeed(valgrind.arg(this).args([RUN, scenario.name]).arg(folder))?;

    let mut rounds = Vec::new();
    for number in 1.. {
        let part = profile.with_extension(format!("out.{number}"));
        let Ok(text) = fs::read_to_string(&part) else { break };
        if text.lines().any(|line| line.strip_prefix("desc: Trigger: --dump-before=") == Some(ENDS)) {
            let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
            let totals = totals.and_then(|totals| totals.trim().parse::<u64>().ok());
            rounds.push(totals.with_context(|| format!("read the totals in {}", part.display()))?);
            fs::rename(&part, &profile).context("keep the profile")?;
        } else {
            fs::remove_file(&part).context("delete what nobody wants")?;
        }
    }
    ensure!(
        rounds.len() == WARM_UP + ROUNDS,
        "valgrind has seen {} rounds of {}: see {}",
        rounds.len(),
        scenario.name,
        folder.display()
    );
    Ok(rounds[WARM_UP..].iter().sum::<u64>() / (ROUNDS as u64 * scenario.units))
}

/// Where the profile of a scenario's last round is.
fn profile(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.out"))
}

/// Has the kernel refuse `prctl(PR_GET_AUXV)` from here on, to this process and its children.
///
/// By that, rustix would find the vDSO and read from it, which is not there under valgrind. Refused, it reads `/proc/self/auxv`, and there
/// valgrind says what holds.
fn deny_auxv() -> Result<()> {
    const PR_GET_AUXV: u64 = 0x4155_5856;
    let asks = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, PR_GET_AUXV)?;
    let rules = [(libc::SYS_prctl, vec![SeccompRule::new(vec![asks])?])].into();
    let refuse = SeccompAction::Errno(libc::EINVAL.unsigned_abs());
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, env::consts::ARCH.try_into()?)?.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}

fn valgrind(tool: &str) -> Command {
    let mut valgrind = Command::new("valgrind");
    // Threads take turns in order. What the outside may set would be seen by the program too.
    valgrind.args(["--quiet", "--fair-sched=yes"]).arg(format!("--tool={tool}")).env_clear();
    valgrind.envs(["PATH", "TMPDIR"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
    valgrind
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().context("run valgrind (`apt-get install valgrind`)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} has failed ({}):\n{}", output.status, said.trim_end());
    Ok(())
}
