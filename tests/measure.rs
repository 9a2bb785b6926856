//! Does the bench still measure? Once with a handful of orchestrations; whether they are fast is not asked here.

use serde_json::Value;

use crate::support::server::PROGRAM;

/// What the trial of this command line shows, which leaves nothing behind.
fn trial(line: &str) -> String {
    let folder = tempfile::tempdir().expect("make a folder");
    let data = folder.path().to_str().expect("a path of text");
    let arguments = ["dacapo-trial"].into_iter().chain(line.split(' ')).chain(["--data", data, "--server-binary", PROGRAM]);
    let report = dacapo_bench::trial::report(arguments).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(folder.path().read_dir().expect("list the folder").count(), 0, "data was left behind");
    report
}

#[test]
fn sleepers_are_measured_through_a_kill_and_wake_when_they_are_due() {
    let report = trial("sleepers --instances 40 --due 10 --after 4 --clients 4");
    assert!(report.starts_with("40 instances asleep\n") && report.contains("\n10 due in one second: late by p50 "), "{report}");
}

#[test]
fn under_more_load_than_it_can_bear_the_server_does_what_it_has_accepted_and_is_well_soon_after() {
    let report =
        trial("overload --seconds 2 --quiet 1 --connections 8 --depth 4 --idle 50 --slow 5 --slower-ms 5000 --recovery 60");
    for what in ["beside 50 idle connections", " starts in 2 s over 8 connections", "has come to its end"] {
        assert!(report.contains(what), "{report}");
    }
}

#[test]
fn a_server_that_was_killed_is_there_again_with_all_that_was_open() {
    let report = trial("startup --instances 60 --due 20 --working 20 --load 1 --clients 4 --at-least 20000");
    assert!(report.starts_with("60 instances open, ") && report.contains("\nkilled in the middle of a load"), "{report}");
}

#[test]
fn a_crowd_is_looked_through_and_purged_while_others_run() {
    let report = trial("crowd --fill 3000 --purge 700 --reads 20 --clients 3 --seconds 1");
    assert!(report.starts_with("3000 ended instances, ") && report.contains("\n700 purged in "), "{report}");
    for what in ["page of 100", "status by ID", "sequence-3 before", "sequence-3 during", "sequence-3 afterwards"] {
        assert!(report.contains(what), "{report}");
    }
}

/// Whether the bounds hold is not asked here, where other tests share the machine.
#[test]
fn neighbours_of_looping_guests_are_measured() {
    let report = trial("neighbours --seconds 1 --clients 2 --no-bounds");
    for what in ["| none ", "one looping orchestrator", "8 looping orchestrators", "one looping activity", "8 looping activities"]
    {
        assert!(report.contains(what), "{report}");
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_twenty_kills_under_a_mixed_load() {
    let report = trial("crash --rounds 20 --latest 500");
    assert!(report.starts_with("20 kills in ") && report.contains("\ndacapo verify: sound; "), "{report}");
}

#[test]
fn a_store_is_backed_up_while_others_run_and_an_export_replays() {
    let report = trial("backup --fill 2000 --clients 3 --seconds 1");
    for what in
        [" instances, ", "a server on the copy is ready after", "one instance exported in", "sequence-3 during the backup"]
    {
        assert!(report.contains(what), "{report}");
    }
}

#[test]
fn what_was_acknowledged_survives_power_losses_at_many_places_of_one_run() {
    let report = trial("power-loss --states 120 --replays 3 --instances 24 --clients 4");
    assert!(report.starts_with("120 power losses, ") && report.contains(" and all were there\n"), "{report}");
}

#[test]
fn a_full_disk_and_a_failed_sync_under_load_lose_nothing() {
    let report = trial("full-disk --seconds 1 --clients 3");
    assert!(report.starts_with("disk full under 3 clients: first 503 after ") && report.contains("\nsync failed: "), "{report}");
}

#[test]
fn the_memory_of_open_instances_is_measured_with_guests_and_without() {
    let report = trial("memory --instances 40,70");
    let rows: Vec<Vec<&str>> = report.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    for [open, server, alive] in [["40", "started them", "40"], ["40", "started again", "0"], ["70", "started them", "70"]] {
        let is_it = |row: &Vec<&str>| row.get(1..4) == Some(&[open, server, alive][..]);
        assert_eq!(rows.iter().filter(|row| is_it(row)).count(), 1, "{open} {server}: {report}");
    }
}

#[test]
fn cold_paths_are_measured_each_as_often_as_they_were_gone() {
    let report = trial("cold --fill 2000 --open 60 --rounds 2");
    for what in [
        "start on an empty store: listens",
        "upload of a new module: its first orchestration has ended",
        "first orchestration after a start",
        "hundredth orchestration after a start",
        "upload of a module with compiled code in the cache: its first orchestration has ended",
        "start on the filled store: all goes on that was open",
    ] {
        let row =
            report.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>()).find(|row| row.get(1) == Some(&what));
        assert!(row.is_some_and(|row| row[2] == "2" && row[3].parse::<f64>().is_ok_and(|ms| ms > 0.0)), "{what}: {report}");
    }
    assert!(report.contains("\nfilled: 1940 instances have ended, 60 are open, of which 6 wait for an activity"), "{report}");
}

/// What the bench of this command line reports, with so many units in each run, none before; it leaves nothing behind.
fn bench(line: &str, count: u64) -> Value {
    let folder = tempfile::tempdir().expect("make a folder");
    let data = folder.path().to_str().expect("a path of text");
    let line = format!("dacapo-bench {line} --count {count} --warm-up 0 --json --data {data} --server-binary {PROGRAM}");
    let report = dacapo_bench::report(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error:#}"));
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    for run in report["runs"].as_array().expect("a list of runs") {
        assert_eq!(run["count"], count, "{report}");
        for figure in ["p50_ms", "idle_mib", "resident_mib"] {
            assert!(run["figures"][figure].as_f64() > Some(0.0), "{figure} of {report}");
        }
    }
    assert_eq!(folder.path().read_dir().expect("list the folder").count(), 0, "data was left behind");
    report
}

#[test]
fn the_bench_measures_as_often_as_it_is_told() {
    let report = bench("sequence-5 --clients 3 --runs 2", 20);
    assert_eq!(report["runs"].as_array().map(Vec::len), Some(2));
    assert_eq!((&report["settings"]["clients"], &report["settings"]["fill"]), (&3.into(), &0.into()));
}

#[test]
fn every_workload_runs_and_is_checked() {
    bench("long-1000 --clients 1 --runs 1", 1);
    bench("fan-out-100 --clients 2 --runs 1", 4);
    bench("sub-orchestrations-50 --clients 2 --runs 1", 4);
    bench("timers --clients 3 --runs 1", 20);
    let report = bench("event-ping --clients 3 --runs 1", 60);
    assert!(report["over_runs"]["events_per_second"]["median"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn instances_are_listed_under_load_in_a_store_that_was_filled_before() {
    let report = bench("list-under-load --clients 3 --runs 1 --fill 3000", 200);
    assert_eq!(report["settings"]["fill"], 3_000);
    let rows = report["over_runs"]["rows_per_page"]["median"].as_f64();
    assert!(rows > Some(0.0) && rows <= Some(100.0), "{report}");
}
