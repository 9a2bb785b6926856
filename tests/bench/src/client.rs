//! What does one client do over and over? One unit of its workload at a time, on connections that it keeps.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join;
use serde::Deserialize;

use crate::http::{self, Answer, Connection, INSTANCES, Stream};
use crate::workload::{Orchestration, Task};

/// One client.
pub(crate) enum Client {
    /// Starts an orchestration and waits for its output, in one request.
    Starter { connection: Connection, request: Vec<u8>, output: &'static str },
    /// Raises events.
    Raiser(Box<Raiser>),
}

impl Client {
    /// Connects one that is ready for its first unit.
    pub(crate) async fn connect(server: SocketAddr, task: &Task) -> Result<Self> {
        Ok(match task {
            Task::Start(orchestration) => Self::Starter {
                connection: Connection::open(server).await?,
                request: orchestration.request(server),
                output: orchestration.output,
            },
            Task::Raise => Self::Raiser(Box::new(Raiser::connect(server).await?)),
        })
    }

    /// Does one unit of work.
    ///
    /// # Errors
    /// If what comes of it is not what it should be. The client cannot be used any more.
    pub(crate) async fn work(&mut self) -> Result<()> {
        match self {
            Self::Starter { connection, request, output } => is_output(&connection.ask(request).await?, output),
            Self::Raiser(raiser) => raiser.raise().await,
        }
    }
}

/// Whether an answer is this output.
fn is_output(answer: &Answer, output: &str) -> Result<()> {
    ensure!(answer.status == 200 && answer.body == output.as_bytes(), "{answer}");
    Ok(())
}

/// Raises numbers to a running instance of its own, each when a stream of what happens there has said that the one before was taken.
///
/// Only a stream neither asks again and again nor misses a change that comes before its question: it is open all the time.
pub(crate) struct Raiser {
    server: SocketAddr,
    connection: Connection,
    path: String,
    stream: Stream,
    /// The number that was raised last.
    number: u64,
}

/// How an instance of `Echo` stands.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    runtime_status: String,
    /// The number that it has taken last.
    custom_status: Option<u64>,
}

impl Raiser {
    async fn connect(server: SocketAddr) -> Result<Self> {
        #[derive(Deserialize)]
        struct Started {
            id: String,
        }
        let mut connection = Connection::open(server).await?;
        let echo = http::request("POST", "/api/orchestrators/Echo", server, "application/json", b"");
        let answer = connection.ask(&echo).await?;
        ensure!(answer.status == 202, "the instance that is to wait for events did not start: {answer}");
        let Started { id } = serde_json::from_slice(&answer.body).context("read the ID of an instance")?;
        let stream = Stream::open(server, &format!("{INSTANCES}/{id}")).await?;
        Ok(Self { server, connection, path: format!("{INSTANCES}/{id}/raiseEvent/Number"), stream, number: 0 })
    }

    /// Raises a number and waits until it was taken.
    async fn raise(&mut self) -> Result<()> {
        self.number += 1;
        let number = self.number;
        let request = http::request("POST", &self.path, self.server, "application/json", number.to_string().as_bytes());
        let raised = async {
            let answer = self.connection.ask(&request).await?;
            ensure!(answer.status == 202, "{answer}");
            Ok(())
        };
        let taken = async {
            while !has_taken(&self.stream.next("status").await?, number)? {}
            Ok(())
        };
        try_join(raised, taken).await.map(drop)
    }
}

/// Whether an instance that is sent one number after the other says that it has this one, and not still one before.
fn has_taken(status: &str, number: u64) -> Result<bool> {
    let read: Status = serde_json::from_str(status).with_context(|| format!("read the status {status}"))?;
    match (read.runtime_status.as_str(), read.custom_status) {
        ("Pending" | "Running", None) => Ok(false),
        ("Pending" | "Running", Some(taken)) if taken <= number => Ok(taken == number),
        _ => bail!("after {number} was raised: {status}"),
    }
}

impl Orchestration {
    /// The request that starts it and is answered with its output.
    fn request(&self, server: SocketAddr) -> Vec<u8> {
        // Should an orchestration be stuck, the server says so after this time with a 202.
        let path = format!("/api/orchestrators/{}?timeout=30", self.function);
        http::request("POST", &path, server, "application/json", self.input.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_output_with_status_200_counts() {
        let check = |status, body: &str, is_right| {
            let answer = Answer { status, body: body.into(), has_retry_after: false };
            assert_eq!(is_output(&answer, "[1]").map_err(|error| error.to_string()), is_right);
        };
        check(200, "[1]", Ok(()));
        check(202, "[1]", Err("202 [1]".into()));
        check(200, r#"{"runtimeStatus":"Failed"}"#, Err(r#"200 {"runtimeStatus":"Failed"}"#.into()));
    }

    #[test]
    fn a_number_is_taken_when_the_status_shows_it() {
        let check = |status: &str, expected| assert_eq!(has_taken(status, 3).ok(), expected, "{status}");
        check(r#"{"runtimeStatus":"Pending","customStatus":null}"#, Some(false));
        check(r#"{"runtimeStatus":"Running","customStatus":2,"output":null}"#, Some(false));
        check(r#"{"runtimeStatus":"Running","customStatus":3,"output":null}"#, Some(true));
        check(r#"{"runtimeStatus":"Running","customStatus":4}"#, None);
        check(r#"{"runtimeStatus":"Failed","customStatus":3}"#, None);
        check("3", None);
    }
}
