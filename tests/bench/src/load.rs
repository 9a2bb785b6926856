//! Where does the load come from? From clients in a closed loop: each starts an orchestration, waits for its output, checks it, and
//! starts the next. All of them share one thread, so that they leave the machine to the server.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::http::{Answer, Connection};
use crate::workload::Workload;

/// When a run ends.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Amount {
    Orchestrations(u64),
    Seconds(u64),
}

/// When the next orchestration starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As soon as a client has its answer.
    AsFastAsAnswered,
    /// So many in each second, evenly, as long as a client is free.
    PerSecond(f64),
}

/// Clients, each with a connection of its own.
pub(crate) struct Clients {
    workload: &'static Workload,
    request: Vec<u8>,
    connections: Vec<Connection>,
}

impl Clients {
    pub(crate) async fn connect(server: SocketAddr, count: usize, workload: &'static Workload) -> Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Connection::open(server).await?);
        }
        Ok(Self { workload, request: workload.request(server), connections })
    }

    /// Runs so many orchestrations, or for so long, and returns how long each took, in microseconds.
    ///
    /// # Errors
    /// If one answer is not what it should be: figures of a server that fails are worth nothing.
    pub(crate) async fn run(&mut self, amount: Amount) -> Result<Histogram<u64>> {
        self.run_paced(amount, Pace::AsFastAsAnswered).await
    }

    /// The same at this pace. What is late since all clients still wait for answers counts from when it should have begun.
    pub(crate) async fn run_paced(&mut self, amount: Amount, pace: Pace) -> Result<Histogram<u64>> {
        let shared = Shared {
            workload: self.workload,
            request: &self.request,
            quota: Quota::new(amount),
            pace,
            slots: Slots { begin: Instant::now(), next: Cell::new(0) },
            tally: RefCell::new(Tally::new()?),
        };
        let mut clients: FuturesUnordered<_> = self.connections.iter_mut().map(|connection| shared.drive(connection)).collect();
        while clients.next().await.is_some() {}
        drop(clients);
        shared.tally.into_inner().checked()
    }
}

/// What the clients of one run have in common.
struct Shared<'a> {
    workload: &'a Workload,
    request: &'a [u8],
    quota: Quota,
    pace: Pace,
    slots: Slots,
    tally: RefCell<Tally>,
}

/// Which start comes next, of those at a steady pace.
struct Slots {
    begin: Instant,
    next: Cell<u32>,
}

impl Shared<'_> {
    /// One client, until the quota is used up or its connection is lost.
    async fn drive(&self, connection: &mut Connection) {
        while self.quota.take() {
            let begin = self.slot().await;
            let answer = connection.ask(self.request).await;
            let took = begin.elapsed();
            let is_lost = answer.is_err();
            self.tally.borrow_mut().add(took, answer, self.workload.output);
            if is_lost {
                return;
            }
        }
    }
}

impl Shared<'_> {
    /// Waits until it is time for the next start, and returns when it was.
    async fn slot(&self) -> Instant {
        let Pace::PerSecond(rate) = self.pace else { return Instant::now() };
        let number = self.slots.next.replace(self.slots.next.get() + 1);
        let due = self.slots.begin + Duration::from_secs_f64(f64::from(number) / rate);
        if due <= Instant::now() {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now() // The timer is coarse, which is not the server's fault.
    }
}

/// How much is still to be started.
struct Quota {
    left: Cell<u64>,
    end: Option<Instant>,
}

impl Quota {
    fn new(amount: Amount) -> Self {
        match amount {
            Amount::Orchestrations(count) => Self { left: Cell::new(count), end: None },
            Amount::Seconds(seconds) => {
                Self { left: Cell::new(u64::MAX), end: Some(Instant::now() + Duration::from_secs(seconds)) }
            }
        }
    }

    /// Whether one more is to be started, which is then counted.
    fn take(&self) -> bool {
        if self.left.get() == 0 || self.end.is_some_and(|end| Instant::now() >= end) {
            return false;
        }
        self.left.set(self.left.get() - 1);
        true
    }
}

/// What has come back.
struct Tally {
    latencies_us: Histogram<u64>,
    wrong: u64,
    /// The first answer that was not right, or why there was none.
    first_wrong: Option<String>,
}

impl Tally {
    fn new() -> Result<Self> {
        // Three significant digits; it grows with what is recorded.
        let latencies_us = Histogram::new(3).context("make a histogram")?;
        Ok(Self { latencies_us, wrong: 0, first_wrong: None })
    }

    fn add(&mut self, took: Duration, answer: Result<Answer>, output: &str) {
        match answer {
            Ok(answer) if answer.status == 200 && answer.body == output.as_bytes() => {
                self.latencies_us += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            }
            wrong => {
                self.wrong += 1;
                self.first_wrong
                    .get_or_insert_with(|| wrong.map_or_else(|error| format!("{error:#}"), |answer| answer.to_string()));
            }
        }
    }

    fn checked(self) -> Result<Histogram<u64>> {
        let (wrong, all) = (self.wrong, self.wrong + self.latencies_us.len());
        ensure!(wrong == 0, "{wrong} of {all} answers were wrong, of which the first: {}", self.first_wrong.unwrap_or_default());
        Ok(self.latencies_us)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const TOOK: Duration = Duration::from_millis(2);

    fn answer(status: u16, body: &str) -> Result<Answer> {
        Ok(Answer { status, body: body.into(), has_retry_after: false })
    }

    #[test]
    fn only_the_right_output_with_status_200_counts() {
        let mut tally = Tally::new().unwrap();
        tally.add(TOOK, answer(200, "[1]"), "[1]");
        tally.add(TOOK, answer(202, "[1]"), "[1]");
        tally.add(TOOK, answer(200, r#"{"runtimeStatus":"Failed"}"#), "[1]");
        tally.add(TOOK, Err(anyhow!("lost")), "[1]");
        assert_eq!(tally.latencies_us.len(), 1);
        assert_eq!(tally.checked().unwrap_err().to_string(), "3 of 4 answers were wrong, of which the first: 202 [1]");
    }

    #[test]
    fn right_answers_pass_with_their_latencies() {
        let mut tally = Tally::new().unwrap();
        tally.add(TOOK, answer(200, "[1]"), "[1]");
        assert_eq!(tally.checked().unwrap().max(), 2_000);
    }

    #[test]
    fn a_quota_is_used_up_after_its_count() {
        let quota = Quota::new(Amount::Orchestrations(2));
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        assert!(!Quota::new(Amount::Seconds(0)).take());
    }
}
