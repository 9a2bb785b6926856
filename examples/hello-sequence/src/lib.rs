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

#[cfg(test)]
mod tests {
    use super::*;
    use dacapo_guest::testing;

    #[test]
    fn each_city_is_greeted_in_its_turn() {
        let run = testing::scenario(hello_sequence, ()).real(say_hello).run();
        assert_eq!(run.output().unwrap(), &["Hello Tokyo!", "Hello Seattle!", "Hello London!"]);
        assert_eq!(run.calls(), [r#"E1_SayHello("Tokyo")"#, r#"E1_SayHello("Seattle")"#, r#"E1_SayHello("London")"#]);
    }

    #[test]
    fn nobody_is_greeted_after_a_failure() {
        let run = testing::scenario(hello_sequence, ()).activity(say_hello, |_| bail!("nobody is there")).run();
        assert_eq!(run.output().unwrap_err().message(), "nobody is there");
        assert_eq!(run.calls().len(), 1);
    }
}
