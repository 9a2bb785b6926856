//! What was measured, for people and for programs: the figures of each run, their median and range over the runs, and all that one
//! has to know to measure them again.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::list::Pages;
use crate::load::Amount;
use crate::machine::Machine;
use crate::server::Usage;
use crate::workload::Workload;

/// What one run has measured. Whatever it counts had the right outcome.
#[derive(Debug)]
pub(crate) struct Measured {
    /// How long each orchestration took, from its request to its output; or whatever the workload counts.
    pub(crate) latencies_us: Histogram<u64>,
    /// The lists that were asked for meanwhile, if the workload has any.
    pub(crate) pages: Option<Pages>,
    pub(crate) took: Duration,
    /// What of the server was in memory when it was ready, with the guests compiled before, and nobody had asked for anything.
    pub(crate) idle_bytes: u64,
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
    /// How many ended instances each store had at the beginning.
    pub(crate) fill: u64,
    pub(crate) server: PathBuf,
    pub(crate) version: String,
    /// The commit of the bench; the server may be of another.
    pub(crate) checkout: String,
    pub(crate) data: PathBuf,
    pub(crate) file_system: String,
}

/// One kind of figure.
#[derive(Debug)]
struct Figure {
    /// For programs. Here and in the label, `UNIT` stands for what the workload counts.
    name: &'static str,
    /// For people.
    label: &'static str,
    decimals: usize,
    of: fn(&Measured) -> f64,
}

/// Of every workload.
const FIGURES: [Figure; 10] = [
    Figure { name: "UNITs_per_second", label: "UNITs per second", decimals: 1, of: |run| run.count() / run.took.as_secs_f64() },
    Figure { name: "p50_ms", label: "latency p50, ms", decimals: 2, of: |run| run.latency_ms(0.5) },
    Figure { name: "p90_ms", label: "latency p90, ms", decimals: 2, of: |run| run.latency_ms(0.9) },
    Figure { name: "p99_ms", label: "latency p99, ms", decimals: 2, of: |run| run.latency_ms(0.99) },
    Figure {
        name: "server_cpu_us",
        label: "server CPU per UNIT, µs",
        decimals: 0,
        of: |run| 1e6 * run.after.cpu.saturating_sub(run.before.cpu).as_secs_f64() / run.count(),
    },
    Figure {
        name: "client_cpu_us",
        label: "client CPU per UNIT, µs",
        decimals: 0,
        of: |run| 1e6 * run.client_cpu.as_secs_f64() / run.count(),
    },
    Figure {
        name: "written_bytes",
        label: "written to disk per UNIT, bytes",
        decimals: 0,
        of: |run| run.after.written_bytes.saturating_sub(run.before.written_bytes) as f64 / run.count(),
    },
    Figure {
        name: "disk_bytes",
        label: "kept on disk per UNIT, bytes",
        decimals: 0,
        // Of database and log: in a short run mostly log, and less than nothing if that was shortened meanwhile.
        of: |run| (run.after.disk_bytes as f64 - run.before.disk_bytes as f64) / run.count(),
    },
    Figure { name: "idle_mib", label: "server memory before the load, MiB", decimals: 1, of: |run| mib(run.idle_bytes) },
    Figure { name: "resident_mib", label: "server memory at the end, MiB", decimals: 1, of: |run| mib(run.after.resident_bytes) },
];

/// Of workloads beside which instances are listed.
const PAGE_FIGURES: [Figure; 5] = [
    Figure {
        name: "pages_per_second",
        label: "pages per second",
        decimals: 1,
        of: |run| run.of_pages(|pages| pages.latencies_us.len() as f64 / run.took.as_secs_f64()),
    },
    Figure {
        name: "rows_per_page",
        label: "instances on a page",
        decimals: 1,
        of: |run| run.of_pages(|pages| pages.rows as f64 / pages.latencies_us.len() as f64),
    },
    Figure { name: "page_p50_ms", label: "latency of a page p50, ms", decimals: 2, of: |run| run.page_ms(0.5) },
    Figure { name: "page_p90_ms", label: "latency of a page p90, ms", decimals: 2, of: |run| run.page_ms(0.9) },
    Figure { name: "page_p99_ms", label: "latency of a page p99, ms", decimals: 2, of: |run| run.page_ms(0.99) },
];

impl Figure {
    /// A name or label of it in the words of a workload.
    fn of_unit(text: &str, unit: &str) -> String {
        text.replace("UNIT", unit)
    }
}

impl Measured {
    fn count(&self) -> f64 {
        self.latencies_us.len() as f64
    }

    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latencies_us.value_at_quantile(quantile) as f64 / 1e3
    }

    fn page_ms(&self, quantile: f64) -> f64 {
        self.of_pages(|pages| pages.latencies_us.value_at_quantile(quantile) as f64 / 1e3)
    }

    fn of_pages(&self, of: impl FnOnce(&Pages) -> f64) -> f64 {
        self.pages.as_ref().map_or(f64::NAN, of)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Figures of some runs, and where they come from.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    workload: &'static str,
    about: &'static str,
    /// What is counted.
    unit: &'static str,
    #[serde(skip)]
    figures: Vec<&'static Figure>,
    machine: Machine,
    settings: Settings,
    runs: Vec<Run>,
    over_runs: ByFigure<Range>,
}

#[derive(Debug, Serialize)]
struct Run {
    count: u64,
    seconds: f64,
    figures: ByFigure<f64>,
}

/// The values of all figures, with their names.
#[derive(Debug)]
struct ByFigure<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for ByFigure<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// A figure over several runs.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Range {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Range {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max), count) = (values.first(), values.last(), values.len()) else {
            return Self { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        };
        Self { median: f64::midpoint(values[(count - 1) / 2], values[count / 2]), min, max }
    }
}

impl Report {
    pub(crate) fn new(workload: &Workload, machine: Machine, settings: Settings, runs: Vec<Measured>) -> Self {
        let Workload { name, about, unit, is_listed, .. } = *workload;
        let figures: Vec<&Figure> = FIGURES.iter().chain(is_listed.then_some(&PAGE_FIGURES).into_iter().flatten()).collect();
        let named = |figure: &Figure| Figure::of_unit(figure.name, unit);
        let over_runs = figures.iter().map(|figure| (named(figure), Range::of(runs.iter().map(figure.of).collect()))).collect();
        let of_run = |run: &Measured| Run {
            count: run.latencies_us.len(),
            seconds: run.took.as_secs_f64(),
            figures: ByFigure(figures.iter().map(|figure| (named(figure), (figure.of)(run))).collect()),
        };
        let runs = runs.iter().map(of_run).collect();
        Self { workload: name, about, unit, figures, machine, settings, runs, over_runs: ByFigure(over_runs) }
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
        for (index, (figure, (_, Range { median, min, max }))) in self.figures.iter().zip(&self.over_runs.0).enumerate() {
            let decimals = figure.decimals;
            let mut cells = vec![Figure::of_unit(figure.label, self.unit)];
            cells.extend(self.runs.iter().map(|run| format!("{:.decimals$}", run.figures.0[index].1)));
            cells.push(format!("{median:.decimals$}"));
            cells.push(format!("{min:.decimals$}..{max:.decimals$}"));
            table.add_row(cells);
        }
        table.column_iter_mut().skip(1).for_each(|column| {
            column.set_cell_alignment(CellAlignment::Right);
        });
        let Self { workload, about, unit, machine, settings, .. } = self;
        format!("{workload}: {about}\n{machine}\n{}\n\n{}", settings.shown(unit), table.trim_fmt())
    }
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, kernel } = self;
        write!(f, "machine:  {cores} cores, {cpu}, Linux {kernel}")
    }
}

impl Settings {
    /// For people, of a workload that counts these.
    fn shown(&self, unit: &str) -> String {
        let Self { clients, amount, warm_up, fill, server, version, checkout, data, file_system } = self;
        let (server, data) = (server.display(), data.display());
        let amount = match amount {
            Amount::Count(count) => format!("{count} {unit}s"),
            Amount::Seconds(seconds) => format!("{seconds} s"),
        };
        let store = if *fill == 0 { "an empty store".to_owned() } else { format!("a store of {fill} ended instances") };
        format!(
            "server:   {server}, {version}, bench from checkout {checkout}, data in {data} on {file_system}\n\
             settings: {clients} clients, {amount} a run after {warm_up} {unit}s to warm up, on {store}"
        )
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
        let (took, client_cpu) = (Duration::from_millis(500), Duration::from_millis(20));
        Measured { latencies_us, pages: None, took, idle_bytes: 16 << 20, before, after, client_cpu }
    }

    fn report(workload: &str, runs: Vec<Measured>) -> Report {
        let machine = Machine { cores: 2, cpu: "Fast CPU".into(), kernel: "7.0".into() };
        let settings = Settings {
            clients: 16,
            amount: Amount::Count(1_000),
            warm_up: 100,
            fill: 0,
            server: "target/release/dacapo".into(),
            version: "dacapo 0.1.0".into(),
            checkout: "1234567".into(),
            data: "target".into(),
            file_system: "ext4".into(),
        };
        Report::new(workload::named(workload).unwrap(), machine, settings, runs)
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
settings: 16 clients, 1000 orchestrations a run after 100 orchestrations to warm up, on an empty store

                                            run 1   run 2  median        min..max
 orchestrations per second                 2000.0  1000.0  1500.0  1000.0..2000.0
 latency p50, ms                             2.00    2.00    2.00      2.00..2.00
 latency p90, ms                             5.00    5.00    5.00      5.00..5.00
 latency p99, ms                             5.00    5.00    5.00      5.00..5.00
 server CPU per orchestration, µs             250     250     250        250..250
 client CPU per orchestration, µs              20      20      20          20..20
 written to disk per orchestration, bytes    3000    3000    3000      3000..3000
 kept on disk per orchestration, bytes       1000    1000    1000      1000..1000
 server memory before the load, MiB          16.0    16.0    16.0      16.0..16.0
 server memory at the end, MiB               20.0    20.0    20.0      20.0..20.0";
        assert_eq!(report("sequence-3", vec![run(), slower]).table(), expected);
    }

    #[test]
    fn programs_get_the_same_as_json() {
        let json: Value = serde_json::from_str(&report("sequence-3", vec![run()]).json()).unwrap();
        assert_eq!(json["settings"]["amount"], json!({"count": 1_000}));
        assert_eq!(json["machine"]["cpu"], "Fast CPU");
        assert_eq!(json["runs"][0]["count"], 1_000);
        assert_eq!(json["runs"][0]["figures"]["server_cpu_us"], 250.0);
        assert_eq!(json["over_runs"]["orchestrations_per_second"], json!({"median": 2000.0, "min": 2000.0, "max": 2000.0}));
    }

    #[test]
    fn a_report_is_in_the_words_of_its_workload_and_shows_what_that_measures() {
        let mut latencies_us = Histogram::new(3).unwrap();
        latencies_us.record_n(4_000, 250).unwrap();
        let listed = Measured { pages: Some(Pages { latencies_us, rows: 24_000 }), ..run() };
        let listed: Value = serde_json::from_str(&report("list-under-load", vec![listed]).json()).unwrap();
        let figures = listed["runs"][0]["figures"].as_object().unwrap();
        assert_eq!((&figures["pages_per_second"], &figures["rows_per_page"]), (&json!(500.0), &json!(96.0)));
        assert_eq!(figures.len(), FIGURES.len() + PAGE_FIGURES.len(), "their names are not all different");
        let pinged = report("event-ping", vec![run()]);
        let table = pinged.table();
        assert!(table.contains(" events per second ") && table.contains("1000 events a run after 100 events"), "{table}");
        assert!(!table.contains("UNIT") && !table.contains("page"), "{table}");
        assert_eq!(pinged.over_runs.0[0].0, "events_per_second");
    }

    #[test]
    fn a_log_that_was_shortened_is_no_overflow() {
        let run = Measured { before: run().after, after: run().before, ..run() };
        let report = report("sequence-3", vec![run]);
        let figure = |name| report.runs[0].figures.0.iter().find(|(figure, _)| figure == name).map(|(_, value)| *value);
        assert_eq!((figure("disk_bytes"), figure("server_cpu_us")), (Some(-1_000.0), Some(0.0)));
    }
}
