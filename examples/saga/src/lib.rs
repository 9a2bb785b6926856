//! A saga: an order takes goods from the stock, charges a card and ships a parcel, in three systems that share no transaction.
//! When a step fails for good, those before it are undone, the latest first, and the output says why and what was undone.
//!
//! What has been done is an ordinary `Vec`. A crash does not empty it: the replay fills it again from the history.

use std::time::Duration;

use dacapo_guest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    item: String,
    count: u32,
    cents: u32,
    city: String,
}

/// How an order ends.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Outcome {
    Shipped { parcel: String },
    Cancelled { because: Reason, undone: Vec<String> },
}

/// A failure as the customer sees it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reason {
    kind: String,
    message: String,
    /// What led to it, the nearest cause first.
    causes: Vec<String>,
    /// Where we do ship to, if that was the matter.
    cities: Option<Vec<String>>,
}

/// A step that was done, with what it takes to undo it.
enum Done {
    Reserved { reservation: String },
    Charged { receipt: String },
}

/// A step is given up soon: the customer waits.
const STEP: RetryPolicy = RetryPolicy::new(Duration::from_secs(1), 3).backoff_coefficient(2.0);

/// Undoing goes on for about a week: stopping half-way would be worse than being late.
const UNDO: RetryPolicy =
    RetryPolicy::new(Duration::from_secs(1), 180).backoff_coefficient(2.0).max_interval(Duration::from_hours(1));

#[orchestrator(name = "PlaceOrder")]
async fn place_order(ctx: Context, order: Order) -> Result<Outcome> {
    let mut done = Vec::new();
    match fulfil(&ctx, order, &mut done).await {
        Ok(parcel) => Ok(Outcome::Shipped { parcel }),
        Err(error) => {
            let undone = undo(&ctx, done).await?;
            Ok(Outcome::Cancelled { because: reason(&error), undone })
        }
    }
}

/// Takes all steps in their order, and notes in `done` how far it came.
async fn fulfil(ctx: &Context, order: Order, done: &mut Vec<Done>) -> Result<String> {
    let reservation = ctx.call_with(reserve_stock, (order.item, order.count), STEP).await?;
    done.push(Done::Reserved { reservation: reservation.clone() });

    let receipt = ctx.call_with(charge_card, order.cents, STEP).await?;
    done.push(Done::Charged { receipt });

    // The last step: nothing comes after it that could make us take it back.
    ctx.call_with(ship, (reservation, order.city), STEP).await
}

/// Undoes the steps, the latest first.
async fn undo(ctx: &Context, done: Vec<Done>) -> Result<Vec<String>> {
    let mut undone = Vec::new();
    for step in done.into_iter().rev() {
        undone.push(match step {
            Done::Charged { receipt } => ctx.call_with(refund, receipt, UNDO).await?,
            Done::Reserved { reservation } => ctx.call_with(release_stock, reservation, UNDO).await?,
        });
    }
    Ok(undone)
}

/// Reads what an activity's failure has brought along: it comes out of the history as it went in.
fn reason(error: &Error) -> Reason {
    Reason {
        kind: error.kind().to_owned(),
        message: error.message().to_owned(),
        causes: error.causes().map(|(kind, message)| format!("{kind}: {message}")).collect(),
        cities: error.details(),
    }
}

#[activity(name = "ReserveStock")]
async fn reserve_stock((item, count): (String, u32)) -> Result<String> {
    const IN_STOCK: u32 = 10;
    if count > IN_STOCK {
        return Err(Error::new("OutOfStock", format!("there are {IN_STOCK} of {item} left")).non_retriable());
    }
    Ok(format!("{count} × {item}"))
}

#[activity(name = "ReleaseStock")]
async fn release_stock(reservation: String) -> Result<String> {
    Ok(format!("released {reservation}"))
}

#[activity(name = "ChargeCard")]
async fn charge_card(cents: u32) -> Result<String> {
    const LIMIT_CENTS: u32 = 100_000;
    if cents > LIMIT_CENTS {
        return Err(Error::new("CardDeclined", "this is more than the card is good for").non_retriable());
    }
    Ok(format!("receipt over {cents} cents"))
}

#[activity(name = "Refund")]
async fn refund(receipt: String) -> Result<String> {
    Ok(format!("refunded {receipt}"))
}

/// Fails with all that an error can carry: a kind for programs and a message for people, what a program may want to know,
/// what led to it, and that there is no use in trying again.
#[activity(name = "Ship")]
async fn ship((goods, city): (String, String)) -> Result<String> {
    let depot = find_depot(&city).map_err(|cause| {
        Error::new("CannotShip", format!("no parcel gets to {city}")).with_details(&CITIES).caused_by(cause).non_retriable()
    })?;
    Ok(format!("{goods}, by way of depot {depot}"))
}

const CITIES: [&str; 3] = ["Bergen", "Oslo", "Tromsø"];

/// The number of the depot in `city`.
fn find_depot(city: &str) -> Result<usize> {
    let depot = CITIES.iter().position(|known| *known == city);
    depot.ok_or_else(|| Error::new("NoDepot", format!("there is no depot in {city}")))
}

dacapo_guest::module!(place_order, reserve_stock, release_stock, charge_card, refund, ship);

#[cfg(test)]
mod tests {
    use dacapo_guest::testing;

    use super::*;

    fn kettles(city: &str) -> Order {
        Order { item: "kettle".to_owned(), count: 2, cents: 5_900, city: city.to_owned() }
    }

    #[test]
    fn an_order_is_reserved_charged_and_shipped() {
        let scenario = testing::scenario(place_order, kettles("Oslo"));
        let run = scenario.real(reserve_stock).real(charge_card).real(ship).run();
        let parcel = "2 × kettle, by way of depot 1".to_owned();
        assert_eq!(run.output().unwrap(), &Outcome::Shipped { parcel });
        assert_eq!(run.calls(), [r#"ReserveStock(["kettle",2])"#, "ChargeCard(5900)", r#"Ship(["2 × kettle","Oslo"])"#]);
    }

    #[test]
    fn what_cannot_be_shipped_is_undone_in_reverse_order() {
        let scenario = testing::scenario(place_order, kettles("Atlantis")).real(reserve_stock).real(charge_card);
        let run = scenario.real(ship).real(refund).real(release_stock).run();
        let because = Reason {
            kind: "CannotShip".to_owned(),
            message: "no parcel gets to Atlantis".to_owned(),
            causes: vec!["NoDepot: there is no depot in Atlantis".to_owned()],
            cities: Some(CITIES.map(str::to_owned).to_vec()),
        };
        let undone = vec!["refunded receipt over 5900 cents".to_owned(), "released 2 × kettle".to_owned()];
        assert_eq!(run.output().unwrap(), &Outcome::Cancelled { because, undone });
        // Once, since the failure says that trying again cannot help.
        assert_eq!(run.calls().iter().filter(|call| call.starts_with("Ship")).count(), 1);
    }

    #[test]
    fn only_what_was_done_is_undone() {
        let order = Order { cents: 200_000, ..kettles("Oslo") };
        let run = testing::scenario(place_order, order).real(reserve_stock).real(charge_card).real(release_stock).run();
        assert!(matches!(run.output(), Ok(Outcome::Cancelled { undone, .. }) if undone == &["released 2 × kettle"]));
        let order = Order { count: 11, ..kettles("Oslo") };
        let run = testing::scenario(place_order, order).real(reserve_stock).run();
        assert!(matches!(run.output(), Ok(Outcome::Cancelled { undone, .. }) if undone.is_empty()));
    }

    #[test]
    fn undoing_goes_on_until_the_bank_is_open_again() {
        let mut closed_for = 20;
        let scenario = testing::scenario(place_order, kettles("Atlantis")).real(reserve_stock).real(charge_card).real(ship);
        let run = scenario
            .activity(refund, |receipt| {
                closed_for -= 1;
                if closed_for > 0 {
                    bail!("the bank is closed");
                }
                Ok(format!("refunded {receipt}"))
            })
            .real(release_stock)
            .run();
        assert!(matches!(run.output(), Ok(Outcome::Cancelled { undone, .. }) if undone.len() == 2));
        assert!(run.elapsed() > Duration::from_hours(7), "{:?}", run.elapsed());
    }
}
