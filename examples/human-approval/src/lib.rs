//! A request waits for a person, goes on to the next one when that person's time runs out, and is declined in the end.
//!
//! Whoever answers raises the event `approve`, such as `{"approved": true, "by": "Ada"}`. The wait for it and the timer
//! against it are both durable: patience may be counted in days, and a server that was down in between changes nothing.

use std::time::Duration;

use dacapo_guest::log;
use dacapo_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// What somebody wants, and who may allow it.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    what: String,
    /// Asked one after the other, such as a team leader, then the manager.
    approvers: Vec<Approver>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Approver {
    name: String,
    /// When this has passed without an answer, the next one is asked.
    patience_ms: u64,
}

/// The answer to a request: what comes with the event, and how the orchestration ends.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Decision {
    approved: bool,
    /// Nobody, if all let their time pass.
    by: Option<String>,
}

/// Asks one after the other. The first answer counts, also that of somebody whose time had run out.
#[orchestrator(name = "HumanApproval")]
async fn human_approval(ctx: Context, request: Request) -> Result<Decision> {
    for Approver { name, patience_ms } in request.approvers {
        ctx.set_custom_status(&format!("waiting for {name}"))?;
        ctx.call(ask, (name.clone(), request.what.clone())).await?;

        // An event that came while nobody waited for it was kept, so no answer is lost between two waits.
        let patience = Duration::from_millis(patience_ms);
        if let Ok(decision) = ctx.timeout(patience, ctx.event("approve")).await {
            ctx.set_custom_status("answered")?;
            return decision;
        }
        log::warn!("{name} has not answered within {patience:?}");
    }
    ctx.set_custom_status("nobody has answered")?;
    Ok(Decision { approved: false, by: None })
}

/// Tells somebody that a request waits. A line in the log of the instance stands for the mail.
#[activity(name = "Ask")]
async fn ask((name, what): (String, String)) -> Result<()> {
    log::info!("Dear {name}, may we have {what}?");
    Ok(())
}

dacapo_guest::module!(human_approval, ask);

#[cfg(test)]
mod tests {
    use dacapo_guest::testing;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const DAY: Duration = Duration::from_hours(24);

    /// Two days for Ada, then one for Grace. On the clock of a scenario they pass at once.
    fn oven() -> Request {
        let approver = |name: &str, patience: Duration| {
            let patience_ms = patience.as_secs() * 1_000;
            Approver { name: name.to_owned(), patience_ms }
        };
        Request { what: "a new oven".to_owned(), approvers: vec![approver("Ada", 2 * DAY), approver("Grace", DAY)] }
    }

    fn decision(approved: bool, by: &str) -> Decision {
        Decision { approved, by: Some(by.to_owned()) }
    }

    #[test]
    fn the_first_one_decides_if_she_answers_in_time() {
        let refused = decision(false, "Ada");
        let run = testing::scenario(human_approval, oven()).real(ask).event_at(HOUR, "approve", &refused).run();
        assert_eq!(run.output().unwrap(), &refused);
        assert_eq!(run.calls(), [r#"Ask(["Ada","a new oven"])"#]);
        assert_eq!(run.elapsed(), HOUR); // Nobody waits for the timer.
    }

    #[test]
    fn the_next_one_is_asked_when_her_time_is_up() {
        let approved = decision(true, "Grace");
        let scenario = testing::scenario(human_approval, oven()).real(ask);
        let run = scenario.event_at(2 * DAY + HOUR, "approve", &approved).run();
        assert_eq!(run.output().unwrap(), &approved);
        assert_eq!(run.calls(), [r#"Ask(["Ada","a new oven"])"#, r#"Ask(["Grace","a new oven"])"#]);
    }

    #[test]
    fn whoever_waits_is_shown() {
        let run = testing::scenario(human_approval, oven()).real(ask).until(DAY).run();
        assert_eq!(run.custom_status::<String>().unwrap(), "waiting for Ada");
        let run = testing::scenario(human_approval, oven()).real(ask).until(2 * DAY + HOUR).run();
        assert_eq!(run.custom_status::<String>().unwrap(), "waiting for Grace");
    }

    #[test]
    fn an_answer_that_comes_between_two_waits_counts() {
        let approved = decision(true, "Ada");
        let scenario = testing::scenario(human_approval, oven()).real(ask).takes(2 * HOUR);
        let run = scenario.event_at(2 * DAY + 3 * HOUR, "approve", &approved).run();
        assert_eq!(run.output().unwrap(), &approved);
        assert_eq!(run.elapsed(), 2 * DAY + 4 * HOUR); // Heard as soon as Grace has been asked.
    }

    #[test]
    fn silence_is_a_no() {
        let run = testing::scenario(human_approval, oven()).real(ask).run();
        assert_eq!(run.output().unwrap(), &Decision { approved: false, by: None });
        assert_eq!(run.elapsed(), 3 * DAY);
    }
}
