//! What does the server say of itself? The figures of `/metrics`, and waiting until they are what they should be.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::sleep;

use super::PATIENCE;
use crate::http::{self, Connection};

/// All figures of one moment.
pub(super) struct Metrics(String);

impl Metrics {
    pub(super) async fn ask(server: SocketAddr) -> Result<Self> {
        let request = http::request("GET", "/metrics", server, "application/json", b"");
        let answer = Connection::open(server).await?.ask(&request).await?;
        ensure!(answer.status == 200, "no metrics: {answer}");
        Ok(Self(String::from_utf8(answer.body).context("metrics are text")?))
    }

    pub(super) fn get(&self, name: &str) -> Result<f64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("find {name} among the metrics"))
    }
}

/// Waits until the figures fulfil this, which is `what` in words.
pub(super) async fn until(server: SocketAddr, what: &str, condition: impl Fn(&Metrics) -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !condition(&Metrics::ask(server).await.context("look at the metrics")?)? {
        if began.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until no turn waits for a thread any more, nor the first one of an instance for its place.
pub(super) async fn until_turns_are_done(server: SocketAddr) -> Result<()> {
    until(server, "its turns are done", |metrics| Ok(metrics.get("dacapo_turns_queued")? <= 0.0)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        let metrics = Metrics("dacapo_turns_queued_more 7\ndacapo_turns_queued 3\ndacapo_x{a=\"b\"} 2.5\n".into());
        assert_eq!(metrics.get("dacapo_turns_queued").ok(), Some(3.0));
        assert_eq!(metrics.get("dacapo_x{a=\"b\"}").ok(), Some(2.5));
        assert!(metrics.get("dacapo_turns").is_err());
    }
}
