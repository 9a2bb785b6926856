//! Guests that do next to nothing, so that what is measured is the server.

use dacapo_guest::prelude::*;

const CITIES: [&str; 5] = ["Tokyo", "Seattle", "London", "Amsterdam", "Mumbai"];

#[activity(name = "SayHello")]
async fn say_hello(city: String) -> Result<String> {
    Ok(format!("Hello {city}!"))
}

/// Greets as many cities as it is told, one after the other, from the first again when they are used up.
#[orchestrator(name = "Sequence")]
async fn sequence(ctx: Context, length: usize) -> Result<Vec<String>> {
    let mut greetings = Vec::with_capacity(length);
    for city in CITIES.into_iter().cycle().take(length) {
        greetings.push(ctx.call(say_hello, city).await?);
    }
    Ok(greetings)
}

dacapo_guest::module!(sequence, say_hello);
