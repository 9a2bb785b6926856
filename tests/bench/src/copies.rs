//! How does a store get a million ended instances in seconds? Two are run to their end; then, with the server stopped, copies of
//! what they left are written into its file.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection as File;

use crate::http::{self, Connection};
use crate::server::Server;
use crate::{now_ms, tell};

/// Over how much time the copies have begun, in milliseconds: a month.
const SPAN_MS: u64 = 30 * 24 * 3_600_000;

/// One copy in so many is of an instance that has failed.
pub(crate) const FAILED_EVERY: u64 = 10;

/// How many copies are written in one transaction.
const SLICE: u64 = 50_000;

/// How many there are, and when they have begun: evenly over a month.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copies {
    pub(crate) count: u64,
    /// When the first was made, in milliseconds since 1970.
    pub(crate) begin_ms: u64,
}

impl Copies {
    /// So many, up to now.
    pub(crate) fn of(count: u64) -> Self {
        Self { count, begin_ms: now_ms() - SPAN_MS }
    }

    /// When copy `number` was made, in milliseconds since 1970.
    pub(crate) fn created_ms(self, number: u64) -> u64 {
        self.begin_ms + u64::try_from(u128::from(number) * u128::from(SPAN_MS) / u128::from(self.count)).unwrap_or(SPAN_MS)
    }

    /// The ID of copy `number`, as the server would have drawn it: a UUID that begins with the time.
    pub(crate) fn id(self, number: u64) -> String {
        let random = scattered(number);
        format!("{:012x}7{:03x}8{:015x}", self.created_ms(number), random >> 52, random << 8 >> 4 | number & 15)
    }
}

/// Fills the store of a server that is stopped, and has the guests then, with copies. Its data directory is in `folder`.
///
/// What is written is on the disk when this returns, so that nothing of it is left to be done below whoever measures next.
pub(crate) async fn fill(program: &Path, folder: &Path, module: &[u8], copies: Copies) -> Result<()> {
    let mut server = Server::start(program, folder)?;
    server.upload(module).await?;
    run_models(server.address).await?;
    server.stop()?;
    let began = Instant::now();
    write(&folder.join("data/dacapo.db"), copies).await?;
    tell(format_args!("{} instances written in {:.1} s", copies.count, began.elapsed().as_secs_f64()));
    Ok(())
}

/// An instance that has run, to be copied.
struct Model {
    key: i64,
    execution: i64,
    id: String,
}

/// Runs the instances that are copied: one that completes, one that fails.
async fn run_models(server: SocketAddr) -> Result<()> {
    let mut connection = Connection::open(server).await?;
    for (id, input) in [("model-of-completed", "3"), ("model-of-failed", r#""three""#)] {
        let path = format!("/api/orchestrators/Sequence/{id}?timeout=30");
        let answer = connection.ask(&http::request("POST", &path, server, "application/json", input.as_bytes())).await?;
        ensure!(answer.status == 200, "a model has not ended: {answer}");
    }
    Ok(())
}

/// Writes copies of the models into the file of a stopped server.
async fn write(path: &Path, copies: Copies) -> Result<()> {
    let mut file = File::open(path).context("open the store")?;
    // If this does not come to its end, nobody uses the file.
    file.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000")?;
    let model = |id: &str| {
        let sql = "SELECT key, execution FROM instance WHERE id = ?1";
        file.query_row(sql, [id], |row| Ok(Model { key: row.get(0)?, execution: row.get(1)?, id: id.to_owned() }))
    };
    let models = [model("model-of-completed")?, model("model-of-failed")?];
    // A row each that becomes one copy after the other, whatever columns there are.
    file.execute_batch(
        "CREATE TEMP TABLE copy_0 AS SELECT * FROM instance LIMIT 0; CREATE TEMP TABLE copy_1 AS SELECT * FROM instance LIMIT 0",
    )?;
    for (at, model) in models.iter().enumerate() {
        file.execute(&format!("INSERT INTO copy_{at} SELECT * FROM instance WHERE key = ?1"), [model.key])?;
    }
    let next = next_key(&file)?;
    for first in (0..copies.count).step_by(usize::try_from(SLICE)?) {
        let transaction = file.transaction()?;
        for number in first..(first + SLICE).min(copies.count) {
            let at = usize::from(number % FAILED_EVERY == 0);
            copy(&transaction, &models[at], at, next + i64::try_from(number)?, &copies.id(number), copies.created_ms(number))?;
        }
        transaction.commit()?;
        tokio::task::yield_now().await; // Whoever is interrupted hears of it here.
    }
    file.close().map_err(|(_, error)| error).context("close the store")?;
    fs::File::open(path).and_then(|file| file.sync_all()).context("sync the store")
}

/// The number that the server would give to the next execution. Only one hub has any.
///
/// All of a hub get ascending numbers, and a server goes on behind the highest that it finds. So the copies, from this one on in
/// the order in which they were made, lie in the file as if it had grown, and what is started later lies behind them.
fn next_key(file: &File) -> Result<i64> {
    file.query_row("SELECT max(execution) + 1 FROM history", [], |row| row.get(0)).context("find the last execution")
}

/// Writes a copy of a model under this key and ID.
fn copy(file: &File, model: &Model, at: usize, key: i64, id: &str, created_ms: u64) -> Result<()> {
    let created_ms = i64::try_from(created_ms)?;
    let change = format!("UPDATE copy_{at} SET key = ?1, execution = ?1, id = ?2, created = ?3, updated = ?3 + 20");
    file.prepare_cached(&change)?.execute(rusqlite::params![key, id, created_ms])?;
    file.prepare_cached(&format!("INSERT INTO instance SELECT * FROM copy_{at}"))?.execute([])?;
    let history = "INSERT INTO history (execution, seq, events)
        SELECT ?1, seq, replace(events, ?2, ?3) FROM history WHERE execution = ?4 ORDER BY seq";
    let quoted = |id: &str| format!("\"{id}\"");
    file.prepare_cached(history)?.execute(rusqlite::params![key, quoted(&model.id), quoted(id), model.execution])?;
    Ok(())
}

/// Another number for each, all over the place: the finalizer of SplitMix64.
pub(crate) fn scattered(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_begin_one_after_the_other_over_the_whole_span() {
        let copies = Copies { count: 1_000_000, begin_ms: 7 };
        assert_eq!([0, 1, 999_999].map(|number| copies.created_ms(number)), [7, 7 + 2_592, 7 + SPAN_MS - 2_592]);
    }

    /// What of the store's tables is read and changed here.
    const STORE: &str = r#"
        CREATE TABLE instance (key INTEGER PRIMARY KEY, id TEXT, execution INTEGER, created INTEGER, updated INTEGER);
        CREATE TABLE history (execution INTEGER, seq INTEGER, events TEXT);
        INSERT INTO instance VALUES (1000, 'model-of-completed', 1000, 5, 6), (1001, 'model-of-failed', 1003, 7, 8);
        INSERT INTO history VALUES (1000, 0, '["model-of-completed"]'), (1003, 0, '["model-of-failed"]'), (1003, 2, '[]');
    "#;

    #[tokio::test]
    async fn copies_lie_in_the_order_of_their_making_behind_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dacapo.db");
        File::open(&path).unwrap().execute_batch(STORE).unwrap();
        let copies = Copies { count: 30, begin_ms: 0 };
        write(&path, copies).await.unwrap();
        let file = File::open(&path).unwrap();
        let sql = "SELECT key, execution, id, created, (SELECT group_concat(events, '') FROM history WHERE execution = key)
            FROM instance WHERE key > 1001 ORDER BY key";
        let mut rows = file.prepare(sql).unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))).unwrap();
        let expected = (0..30_u64).map(|number| {
            let (key, id, rest) =
                (1_004 + number.cast_signed(), copies.id(number), if number % FAILED_EVERY == 0 { "[]" } else { "" });
            (key, key, id.clone(), copies.created_ms(number).cast_signed(), format!("[\"{id}\"]{rest}"))
        });
        assert_eq!(rows.collect::<Result<Vec<(i64, i64, String, i64, String)>, _>>().unwrap(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn every_copy_has_an_id_of_its_own() {
        let copies = Copies { count: 10_000, begin_ms: 1_700_000_000_000 };
        let ids: std::collections::BTreeSet<String> = (0..10_000).map(|number| copies.id(number)).collect();
        assert!(ids.len() == 10_000 && ids.iter().all(|id| id.len() == 32));
    }
}
