//! A first orchestration: greets everybody on a list, side by side, and makes a card of it.

use dacapo_guest::{log, prelude::*};
use serde::{Deserialize, Serialize};

/// What comes out in the end. Whatever goes in or out of a function travels as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Card {
    people: usize,
    lines: Vec<String>,
}

/// An orchestrator says what is done in which order. This one is started by
/// `dacapo start greet_everyone --input '["Ada", "Grace"]' --wait`.
///
/// The server writes down every answer that it gets. After a crash or a restart it plays this code
/// again from the top against that record: so it goes on where it stood, and no activity that has
/// answered runs twice.
#[orchestrator]
async fn greet_everyone(ctx: Context, names: Option<Vec<String>>) -> Result<Card> {
    // Started without an input, it greets these three.
    let names = names.unwrap_or_else(|| ["Ada", "Grace", "Linus"].map(String::from).to_vec());
    log::info!("greeting {}", names.join(", "));

    // An activity starts when it is called: all of these run at the same time …
    let greetings: Vec<_> = names
        .iter()
        .map(|name| ctx.call(greet, name.as_str()))
        .collect();

    // … and here their answers are awaited. `?` ends the orchestration if an activity has failed.
    let mut lines = Vec::new();
    for greeting in greetings {
        lines.push(greeting.await?);
    }
    ctx.call(make_card, lines).await
}

/// An activity does the work. It may take its time, fail, and touch the world outside.
#[activity]
async fn greet(name: String) -> Result<String> {
    if name.is_empty() {
        bail!("somebody on the list has no name");
    }
    Ok(format!("Hello, {name}!"))
}

/// Another one, which gets what the first ones gave.
#[activity]
async fn make_card(lines: Vec<String>) -> Result<Card> {
    Ok(Card {
        people: lines.len(),
        lines,
    })
}

// What the server gets to know of: every orchestrator and activity stands here.
dacapo_guest::module!(greet_everyone, greet, make_card);

/// `cargo test` runs these without a server: a scenario says how activities answer.
#[cfg(test)]
mod tests {
    use dacapo_guest::testing::scenario;

    use super::*;

    #[test]
    fn everybody_is_greeted() {
        let names = vec!["Ada".to_owned(), "Grace".to_owned()];
        let run = scenario(greet_everyone, Some(names))
            .real(greet)
            .real(make_card)
            .run();
        assert_eq!(
            run.output().unwrap().lines,
            ["Hello, Ada!", "Hello, Grace!"]
        );
    }

    #[test]
    fn without_all_greetings_there_is_no_card() {
        let names = vec!["Ada".to_owned()];
        let run = scenario(greet_everyone, Some(names))
            .activity(greet, |name| bail!("{name} is out"))
            .run();
        assert_eq!(run.output().unwrap_err().message(), "Ada is out");
    }
}
