//! What do orchestrations feel of guests that never wait? A server at half its load gets one looping guest, and then eight.
//!
//! Each of them is a module of its own in a task hub of its own, so that no bound on one module or hub is what protects the others.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use futures::future::{Either, pending, select, try_join_all};
use hdrhistogram::Histogram;

use super::Place;
use crate::http::{self, Connection};
use crate::load::{Amount, Clients, Pace};
use crate::{tell, workload};

/// What the neighbours run.
const WORKLOAD: &str = "sequence-3";

/// How many guests loop at most.
const LOOPING_MAX: usize = 8;

/// How long one looping orchestration may take, in seconds: three turns of a second of CPU each, while others have the machine.
const LOOP_S_MAX: u64 = 300;

/// Run orchestrations at half load, and look what they feel of one looping guest, and of eight
///
/// Half load is half of what the same clients get through when each starts the next one as soon as it
/// has its answer. With one looping guest the p99 has to stay under twice its quiet value + 20 ms, and
/// with eight under ten times that value.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Neighbours {
    /// How long each measurement takes
    #[arg(long, value_name = "S", default_value = "10")]
    seconds: u64,

    /// How many clients run orchestrations, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "16")]
    clients: NonZeroUsize,

    /// Print the figures, whatever they are
    #[arg(long)]
    no_bounds: bool,
}

/// Where the guest loops.
#[derive(Clone, Copy)]
enum Kind {
    Orchestrator,
    Activity,
}

/// What was measured.
struct Row {
    what: String,
    took_us: Histogram<u64>,
    /// What the p99 has to stay under, in milliseconds.
    bound_ms: Option<f64>,
}

impl Neighbours {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let mut rows = Vec::new();
        let mut rates = Vec::new();
        for (folder, kind) in [("orchestrators", Kind::Orchestrator), ("activities", Kind::Activity)] {
            // What loops in one server must not go on in the next.
            let folder = place.folder.join(folder);
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
            let place = Place { program: place.program, folder: &folder, module: place.module.clone() };
            let (half, measured) = self.measure(&place, kind).await?;
            rates.push(format!("{half:.0}"));
            rows.extend(measured);
        }
        let figures = format!(
            "{WORKLOAD} at half load, which is {} orchestrations per second, beside looping guests\n{}",
            rates.join(" and "),
            table(&rows)
        );
        let broken: Vec<&str> = rows.iter().filter(|row| row.is_broken()).map(|row| row.what.as_str()).collect();
        ensure!(self.no_bounds || broken.is_empty(), "the p99 is too high with {}\n{figures}", broken.join(", "));
        Ok(figures)
    }

    /// Half of the full load, and what was measured at it.
    async fn measure(&self, place: &Place<'_>, kind: Kind) -> Result<(f64, Vec<Row>)> {
        let mut server = place.start()?;
        server.upload(&place.module).await?;
        for number in 0..LOOPING_MAX {
            upload_looping(server.address, &place.module, number).await?;
        }
        let workload = workload::named(WORKLOAD).context("find the workload")?;
        let mut clients = Clients::connect(server.address, self.clients.get(), workload).await?;
        clients.run(Amount::Seconds(1)).await.context("warm up")?;
        let full = clients.run(Amount::Seconds(self.seconds)).await?;
        let half = (full.len() as f64 / self.seconds as f64 / 2.0).max(1.0);
        tell(format_args!("half load is {half:.0} orchestrations per second"));

        let mut rows: Vec<Row> = Vec::new();
        for looping in [0, 1, LOOPING_MAX] {
            let load = clients.run_paced(Amount::Seconds(self.seconds), Pace::PerSecond(half));
            let loops = try_join_all((0..looping).map(|number| loop_for_ever(server.address, kind, number)));
            let loops = async { if looping == 0 { pending().await } else { loops.await.map(drop) } };
            let took_us = match select(Box::pin(load), Box::pin(loops)).await {
                Either::Left((took_us, _)) => took_us?,
                Either::Right((ended, _)) => return Err(ended.err().context("nothing loops any more")?),
            };
            let quiet_ms = rows.first().map(|quiet| quiet.p99_ms());
            let bound_ms = quiet_ms.map(|quiet_ms| if looping == 1 { 2.0 * quiet_ms + 20.0 } else { 10.0 * quiet_ms });
            let what = match (looping, kind) {
                (0, _) => "none".to_owned(),
                (1, Kind::Orchestrator) => "one looping orchestrator".to_owned(),
                (1, Kind::Activity) => "one looping activity".to_owned(),
                (_, Kind::Orchestrator) => format!("{looping} looping orchestrators"),
                (_, Kind::Activity) => format!("{looping} looping activities"),
            };
            rows.push(Row { what, took_us, bound_ms });
        }
        server.stop()?;
        Ok((half, rows))
    }
}

/// Uploads the guests once more, as a module of its own in a hub of its own.
async fn upload_looping(server: SocketAddr, module: &[u8], number: usize) -> Result<()> {
    let name = format!("loop{number}");
    // One more custom section, without content: another digest.
    let section = [&[0, u8::try_from(name.len() + 1)?, u8::try_from(name.len())?], name.as_bytes()].concat();
    let path = format!("/admin/modules/bench?taskHub={name}");
    let upload = http::request("PUT", &path, server, "application/wasm", &[module, &section].concat());
    let uploaded = Connection::open(server).await?.ask(&upload).await.context("upload a looping guest")?;
    ensure!(uploaded.status == 201, "a looping guest was not taken: {uploaded}");
    Ok(())
}

/// Has a guest loop, and another one when it is stopped by its bound. Returns only if that does not work.
async fn loop_for_ever(server: SocketAddr, kind: Kind, number: usize) -> Result<()> {
    let function = match kind {
        Kind::Orchestrator => "Spin",
        Kind::Activity => "SpinElsewhere",
    };
    let path = format!("/api/orchestrators/{function}?taskHub=loop{number}&timeout={LOOP_S_MAX}");
    let request = http::request("POST", &path, server, "application/json", b"");
    let mut connection = Connection::open(server).await?;
    loop {
        let answer = connection.ask_patiently(&request, 2 * LOOP_S_MAX).await?;
        ensure!(answer.to_string().contains(r#""runtimeStatus":"Failed""#), "a looping guest was not stopped: {answer}");
    }
}

impl Row {
    fn p99_ms(&self) -> f64 {
        self.took_us.value_at_quantile(0.99) as f64 / 1e3
    }

    fn is_broken(&self) -> bool {
        self.bound_ms.is_some_and(|bound_ms| self.p99_ms() >= bound_ms)
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["looping", "count", "p50, ms", "p99, ms", "most, ms", "p99 has to be under, ms"]);
    for row in rows {
        let [p50, most] = [0.5, 1.0].map(|at| format!("{:.2}", row.took_us.value_at_quantile(at) as f64 / 1e3));
        let bound = row.bound_ms.map_or_else(String::new, |bound_ms| format!("{bound_ms:.2}"));
        table.add_row([row.what.clone(), row.took_us.len().to_string(), p50, format!("{:.2}", row.p99_ms()), most, bound]);
    }
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}
