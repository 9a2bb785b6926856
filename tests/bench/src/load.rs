//! Where does the load come from? From clients in a closed loop: each does one unit of work, such as an orchestration with its output,
//! checks it, and begins the next. All of them share one thread, so that they leave the machine to the server.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Client;
use crate::workload::Workload;

/// When a run ends.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Amount {
    /// After so many units of work.
    Count(u64),
    Seconds(u64),
}

/// When the next unit of work begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As soon as a client has its answer.
    AsFastAsAnswered,
    /// So many in each second, evenly, as long as a client is free.
    PerSecond(f64),
}

/// Clients, each with connections of its own.
pub(crate) struct Clients(Vec<Client>);

impl Clients {
    pub(crate) async fn connect(server: SocketAddr, count: usize, workload: &Workload) -> Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(Client::connect(server, &workload.task).await?);
        }
        Ok(Self(clients))
    }

    /// Does so many units of work, or for so long, and returns how long each took, in microseconds.
    ///
    /// # Errors
    /// If one answer is not what it should be: figures of a server that fails are worth nothing.
    pub(crate) async fn run(&mut self, amount: Amount) -> Result<Histogram<u64>> {
        self.run_paced(amount, Pace::AsFastAsAnswered).await
    }

    /// The same at this pace. What is late since all clients still wait for answers counts from when it should have begun.
    pub(crate) async fn run_paced(&mut self, amount: Amount, pace: Pace) -> Result<Histogram<u64>> {
        let shared = Shared {
            quota: Quota::new(amount),
            pace,
            slots: Slots { begin: Instant::now(), next: Cell::new(0) },
            tally: RefCell::new(Tally::new()?),
        };
        let mut clients: FuturesUnordered<_> = self.0.iter_mut().map(|client| shared.drive(client)).collect();
        while clients.next().await.is_some() {}
        drop(clients);
        shared.tally.into_inner().checked()
    }
}

/// What the clients of one run have in common.
struct Shared {
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

impl Shared {
    /// One client, until the quota is used up or something is wrong.
    async fn drive(&self, client: &mut Client) {
        while self.quota.take() {
            let begin = self.slot().await;
            let done = client.work().await;
            let is_wrong = done.is_err();
            self.tally.borrow_mut().add(begin.elapsed(), done);
            if is_wrong {
                return;
            }
        }
    }

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
            Amount::Count(count) => Self { left: Cell::new(count), end: None },
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
    /// What was wrong with the first.
    first_wrong: Option<String>,
}

impl Tally {
    fn new() -> Result<Self> {
        // Three significant digits; it grows with what is recorded.
        let latencies_us = Histogram::new(3).context("make a histogram")?;
        Ok(Self { latencies_us, wrong: 0, first_wrong: None })
    }

    fn add(&mut self, took: Duration, done: Result<()>) {
        match done {
            Ok(()) => self.latencies_us += u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            Err(wrong) => {
                self.wrong += 1;
                self.first_wrong.get_or_insert_with(|| format!("{wrong:#}"));
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

    #[test]
    fn what_went_wrong_is_counted_and_said_once() {
        let mut tally = Tally::new().unwrap();
        for done in [Ok(()), Err(anyhow!("202 [1]")), Err(anyhow!("lost"))] {
            tally.add(TOOK, done);
        }
        assert_eq!(tally.latencies_us.len(), 1);
        assert_eq!(tally.checked().unwrap_err().to_string(), "2 of 3 answers were wrong, of which the first: 202 [1]");
    }

    #[test]
    fn right_answers_pass_with_their_latencies() {
        let mut tally = Tally::new().unwrap();
        tally.add(TOOK, Ok(()));
        assert_eq!(tally.checked().unwrap().max(), 2_000);
    }

    #[test]
    fn a_quota_is_used_up_after_its_count() {
        let quota = Quota::new(Amount::Count(2));
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        assert!(!Quota::new(Amount::Seconds(0)).take());
    }
}
