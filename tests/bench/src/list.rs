//! What does somebody feel who looks through instances while others run? A client that asks for one page after the other.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde::Deserialize;

use crate::copies::scattered;
use crate::http::{self, Connection, INSTANCES};
use crate::now_ms;

/// How many instances a page has.
const ROWS: usize = 100;

/// Asks for pages of completed instances from some time on.
pub(crate) struct Lister {
    server: SocketAddr,
    connection: Connection,
    /// No instance was made before, in milliseconds since 1970.
    since_ms: u64,
}

/// The pages that came.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    /// How long each took.
    pub(crate) latencies_us: Histogram<u64>,
    /// How many instances were on all of them.
    pub(crate) rows: u64,
}

/// What is looked at of an instance.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    runtime_status: &'a str,
}

impl Lister {
    pub(crate) async fn connect(server: SocketAddr, since_ms: u64) -> Result<Self> {
        Ok(Self { server, connection: Connection::open(server).await?, since_ms })
    }

    /// Asks for as long as `load` takes, and returns what that gave, with the pages.
    ///
    /// # Errors
    /// Those of `load`, and if a page is not what it should be.
    pub(crate) async fn beside<T>(mut self, load: impl Future<Output = Result<T>>) -> Result<(T, Pages)> {
        let mut pages = Pages { latencies_us: Histogram::new(3).context("make a histogram")?, rows: 0 };
        let done = tokio::select! {
            done = load => done?,
            wrong = self.ask(&mut pages) => match wrong.context("list instances")? {},
        };
        Ok((done, pages))
    }

    async fn ask(&mut self, pages: &mut Pages) -> Result<Infallible> {
        let mut number = 0;
        loop {
            number += 1;
            let past_ms = now_ms().saturating_sub(self.since_ms).max(1);
            let from = Timestamp::from_millisecond(i64::try_from(self.since_ms + scattered(number) % past_ms)?)?;
            let path = format!("{INSTANCES}?runtimeStatus=Completed&createdTimeFrom={from}&top={ROWS}");
            let request = http::request("GET", &path, self.server, "application/json", b"");
            let began = Instant::now();
            let answer = self.connection.ask(&request).await?;
            pages.latencies_us += u64::try_from(began.elapsed().as_micros())?;
            ensure!(answer.status == 200, "{path}: {answer}");
            let rows: Vec<Row<'_>> = serde_json::from_slice(&answer.body).with_context(|| format!("{path}: {answer}"))?;
            ensure!(rows.len() <= ROWS && rows.iter().all(|row| row.runtime_status == "Completed"), "{path}: {answer}");
            pages.rows += rows.len() as u64;
        }
    }
}
