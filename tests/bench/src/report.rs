//! What was measured, for people and for programs: the figures of each run, their median and range over the runs, and all that one
//! has to know to measure them again.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::load::Amount;
use crate::machine::Machine;
use crate::server::Usage;
use crate::workload::Workload;

/// What one run has measured. All orchestrations had the right output.
#[derive(Debug)]
pub(crate) struct Measured {
    /// How long each orchestration took, from its request to its output.
    pub(crate) latencies_us: Histogram<u64>,
    pub(crate) took: Duration,
    /// What the server had used before and after.
    pub(crate) before: Usage,
    pub(crate) after: Usage,
    pub(crate) client_cpu: Duration,
}

/// What the figures depend on besides the workload and the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) clients: usize,
    pub(crate) amount: Amount,
    pub(crate) warm_up: u64,
    pub(crate) server: PathBuf,
    pub(crate) version: String,
    /// The commit of the bench; the server may be of another.
    pub(crate) checkout: String,
    pub(crate) data: PathBuf,
    pub(crate) file_system: String,
}

/// One kind of figure.
struct Figure {
    /// For programs.
    name: &'static str,
    /// For people.
    label: &'static str,
    decimals: usize,
    of: fn(&Measured) -> f64,
}

const FIGURES: [Figure; 9] = [
    Figure {
        name: "orchestrations_per_second",
        label: "orchestrations per second",
        decimals: 1,
        of: |run| run.count() / run.took.as_secs_f64(),
    },
    Figure { name: "p50_ms", label: "latency p50, ms", decimals: 2, of: |run| run.latency_ms(0.5) },
    Figure { name: "p90_ms", label: "latency p90, ms", decimals: 2, of: |run| run.latency_ms(0.9) },
    Figure { name: "p99_ms", label: "latency p99, ms", decimals: 2, of: |run| run.latency_ms(0.99) },
    Figure {
        name: "server_cpu_us",
        label: "server CPU per orchestration, µs",
        decimals: 0,
        of: |run| 1e6 * run.after.cpu.saturating_sub(run.before.cpu).as_secs_f64() / run.count(),
    },
    Figure {
        name: "client_cpu_us",
        label: "client CPU per orchestration, µs",
        decimals: 0,
        of: |run| 1e6 * run.client_cpu.as_secs_f64() / run.count(),
    },
    Figure {
        name: "written_bytes",
        label: "written to disk per orchestration, bytes",
        decimals: 0,
        of: |run| run.after.written_bytes.saturating_sub(run.before.written_bytes) as f64 / run.count(),
    },
    Figure {
        name: "disk_bytes",
        label: "kept on disk per orchestration, bytes",
        decimals: 0,
        // Of database and log: in a short run mostly log, and less than nothing if that was shortened meanwhile.
        of: |run| (run.after.disk_bytes as f64 - run.before.disk_bytes as f64) / run.count(),
    },
    Figure {
        name: "resident_mib",
        label: "server memory at the end, MiB",
        decimals: 1,
        of: |run| run.after.resident_bytes as f64 / f64::from(1 << 20),
    },
];

impl Measured {
    fn count(&self) -> f64 {
        self.latencies_us.len() as f64
    }

    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Figures of some runs, and where they come from.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    workload: &'static str,
    about: &'static str,
    machine: Machine,
    settings: Settings,
    runs: Vec<Run>,
    over_runs: ByFigure<Range>,
}

#[derive(Debug, Serialize)]
struct Run {
    orchestrations: u64,
    seconds: f64,
    figures: ByFigure<f64>,
}

/// A value for each of [`FIGURES`], in their order.
#[derive(Debug)]
struct ByFigure<T>(Vec<T>);

impl<T: Serialize> Serialize for ByFigure<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(FIGURES.iter().map(|figure| figure.name).zip(&self.0))
    }
}

/// A figure over all runs.
#[derive(Debug, PartialEq, Serialize)]
struct Range {
    median: f64,
    min: f64,
    max: f64,
}

impl Range {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max), count) = (values.first(), values.last(), values.len()) else {
            return Self { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        };
        Self { median: f64::midpoint(values[(count - 1) / 2], values[count / 2]), min, max }
    }
}

impl Report {
    pub(crate) fn new(workload: &Workload, machine: Machine, settings: Settings, runs: Vec<Measured>) -> Self {
        let over_runs = FIGURES.iter().map(|figure| Range::of(runs.iter().map(figure.of).collect())).collect();
        let runs = runs.iter().map(|run| Run {
            orchestrations: run.latencies_us.len(),
            seconds: run.took.as_secs_f64(),
            figures: ByFigure(FIGURES.iter().map(|figure| (figure.of)(run)).collect()),
        });
        let runs = runs.collect();
        Self { workload: workload.name, about: workload.about, machine, settings, runs, over_runs: ByFigure(over_runs) }
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers can be written as JSON")
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let runs = (1..=self.runs.len()).map(|run| format!("run {run}"));
        let heads = [String::new()].into_iter().chain(runs).chain(["median".to_owned(), "min..max".to_owned()]);
        table.set_header(heads.collect::<Vec<_>>());
        for (index, (figure, Range { median, min, max })) in FIGURES.iter().zip(&self.over_runs.0).enumerate() {
            let decimals = figure.decimals;
            let mut cells = vec![figure.label.to_owned()];
            cells.extend(self.runs.iter().map(|run| format!("{:.decimals$}", run.figures.0[index])));
            cells.push(format!("{median:.decimals$}"));
            cells.push(format!("{min:.decimals$}..{max:.decimals$}"));
            table.add_row(cells);
        }
        table.column_iter_mut().skip(1).for_each(|column| {
            column.set_cell_alignment(CellAlignment::Right);
        });
        format!("{}: {}\n{}\n{}\n\n{}", self.workload, self.about, self.machine, self.settings, table.trim_fmt())
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, kernel } = self;
        write!(f, "machine:  {cores} cores, {cpu}, Linux {kernel}")
    }
}

impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, amount, warm_up, server, version, checkout, data, file_system } = self;
        let (server, data) = (server.display(), data.display());
        writeln!(f, "server:   {server}, {version}, bench from checkout {checkout}, data in {data} on {file_system}")?;
        write!(f, "settings: {clients} clients, {amount} a run after {warm_up} orchestrations to warm up")
    }
}

impl Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orchestrations(count) => write!(f, "{count} orchestrations"),
            Self::Seconds(seconds) => write!(f, "{seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::workload;

    /// A run of 1,000 orchestrations in half a second, of which one took a second.
    fn run() -> Measured {
        let mut latencies_us = Histogram::new(3).unwrap();
        latencies_us.record_n(2_000, 899).unwrap();
        latencies_us.record_n(5_000, 100).unwrap();
        latencies_us.record(1_000_000).unwrap();
        let used = |cpu_ms, written_bytes, disk_bytes| {
            let cpu = Duration::from_millis(cpu_ms);
            Usage { cpu, resident_bytes: 20 << 20, written_bytes, disk_bytes }
        };
        let (before, after) = (used(1_000, 50_000, 4_096), used(1_250, 3_050_000, 1_004_096));
        Measured { latencies_us, took: Duration::from_millis(500), before, after, client_cpu: Duration::from_millis(20) }
    }

    fn report(runs: Vec<Measured>) -> Report {
        let machine = Machine { cores: 2, cpu: "Fast CPU".into(), kernel: "7.0".into() };
        let settings = Settings {
            clients: 16,
            amount: Amount::Orchestrations(1_000),
            warm_up: 100,
            server: "target/release/dacapo".into(),
            version: "dacapo 0.1.0".into(),
            checkout: "1234567".into(),
            data: "target".into(),
            file_system: "ext4".into(),
        };
        Report::new(workload::named("sequence-3").unwrap(), machine, settings, runs)
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(Range::of(vec![3.0, 1.0, 10.0]), Range { median: 3.0, min: 1.0, max: 10.0 });
        assert_eq!(Range::of(vec![4.0, 1.0, 2.0, 10.0]), Range { median: 3.0, min: 1.0, max: 10.0 });
        assert_eq!(Range::of(vec![5.0]), Range { median: 5.0, min: 5.0, max: 5.0 });
    }

    #[test]
    fn people_see_every_figure_with_where_it_comes_from() {
        let slower = Measured { took: Duration::from_secs(1), ..run() };
        let expected = "\
sequence-3: three trivial activities, one after the other
machine:  2 cores, Fast CPU, Linux 7.0
server:   target/release/dacapo, dacapo 0.1.0, bench from checkout 1234567, data in target on ext4
settings: 16 clients, 1000 orchestrations a run after 100 orchestrations to warm up

                                            run 1   run 2  median        min..max
 orchestrations per second                 2000.0  1000.0  1500.0  1000.0..2000.0
 latency p50, ms                             2.00    2.00    2.00      2.00..2.00
 latency p90, ms                             5.00    5.00    5.00      5.00..5.00
 latency p99, ms                             5.00    5.00    5.00      5.00..5.00
 server CPU per orchestration, µs             250     250     250        250..250
 client CPU per orchestration, µs              20      20      20          20..20
 written to disk per orchestration, bytes    3000    3000    3000      3000..3000
 kept on disk per orchestration, bytes       1000    1000    1000      1000..1000
 server memory at the end, MiB               20.0    20.0    20.0      20.0..20.0";
        assert_eq!(report(vec![run(), slower]).table(), expected);
    }

    #[test]
    fn programs_get_the_same_as_json() {
        let json: Value = serde_json::from_str(&report(vec![run()]).json()).unwrap();
        assert_eq!(json["settings"]["amount"], json!({"orchestrations": 1_000}));
        assert_eq!(json["machine"]["cpu"], "Fast CPU");
        assert_eq!(json["runs"][0]["orchestrations"], 1_000);
        assert_eq!(json["runs"][0]["figures"]["server_cpu_us"], 250.0);
        assert_eq!(json["over_runs"]["orchestrations_per_second"], json!({"median": 2000.0, "min": 2000.0, "max": 2000.0}));
        let names: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(json["over_runs"].as_object().unwrap().len(), names.len(), "{names:?} are not all different");
    }

    #[test]
    fn a_log_that_was_shortened_is_no_overflow() {
        let run = Measured { before: run().after, after: run().before, ..run() };
        let report = report(vec![run]);
        let figure = |name| FIGURES.iter().position(|figure| figure.name == name).map(|index| report.runs[0].figures.0[index]);
        assert_eq!((figure("disk_bytes"), figure("server_cpu_us")), (Some(-1_000.0), Some(0.0)));
    }
}
