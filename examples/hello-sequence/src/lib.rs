//! Three activities, one after the other. Whatever happens to the server in between, each city is greeted in its turn,
//! and an answer that was recorded is never asked for again.

use dacapo_guest::prelude::*;

#[activity(name = "E1_SayHello")]
async fn say_hello(city: String) -> Result<String> {
    Ok(format!("Hello {city}!"))
}

#[orchestrator(name = "E1_HelloSequence")]
async fn hello_sequence(ctx: Context) -> Result<Vec<String>> {
    let mut greetings = Vec::new();
    for city in ["Tokyo", "Seattle", "London"] {
        greetings.push(ctx.call(say_hello, city).await?);
    }
    Ok(greetings)
}

dacapo_guest::module!(hello_sequence, say_hello);
