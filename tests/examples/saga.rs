//! An order that is shipped or undone, never left in between.

use serde_json::{Value, json};

use crate::support::server::HUB;
use crate::support::{Server, guests};

fn shop() -> Server {
    let server = Server::empty();
    server.upload(HUB, "saga", guests::saga());
    server
}

/// Two kettles.
fn order(city: &str) -> String {
    json!({"item": "kettle", "count": 2, "cents": 5900, "city": city}).to_string()
}

/// Which activities have answered, in the order of the history, and how.
fn steps(status: &Value) -> Vec<(&str, &str)> {
    let events = status["historyEvents"].as_array().expect("it has a history").iter();
    let tasks = events.filter(|event| event["FunctionName"] != "PlaceOrder" && !event["FunctionName"].is_null());
    tasks.map(|event| (text(&event["FunctionName"]), text(&event["EventType"]))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("it is text")
}

const UNDONE: [(&str, &str); 5] = [
    ("ReserveStock", "TaskCompleted"),
    ("ChargeCard", "TaskCompleted"),
    ("Ship", "TaskFailed"),
    ("Refund", "TaskCompleted"),
    ("ReleaseStock", "TaskCompleted"),
];

#[test]
fn what_can_be_shipped_is_shipped() {
    let server = shop();
    server.start_as("a", "PlaceOrder", &order("Oslo"));
    let status = server.finished("a");
    assert_eq!(status["output"], json!({"outcome": "shipped", "parcel": "2 × kettle, by way of depot 1"}));
    let done = ["ReserveStock", "ChargeCard", "Ship"].map(|step| (step, "TaskCompleted"));
    assert_eq!(steps(&status), done);
}

#[test]
fn what_cannot_be_shipped_is_undone_in_reverse_order_and_says_why() {
    let server = shop();
    server.start_as("a", "PlaceOrder", &order("Atlantis"));
    let status = server.finished("a");
    assert_eq!(
        status["output"],
        json!({
            "outcome": "cancelled",
            "because": {
                "kind": "CannotShip",
                "message": "no parcel gets to Atlantis",
                "causes": ["NoDepot: there is no depot in Atlantis"],
                "cities": ["Bergen", "Oslo", "Tromsø"],
            },
            "undone": ["refunded receipt over 5900 cents", "released 2 × kettle"],
        })
    );
    // Once each: the failure of shipping says that trying again cannot help.
    assert_eq!(steps(&status), UNDONE);
    let failed = status["historyEvents"].as_array().unwrap().iter().find(|event| event["EventType"] == "TaskFailed").unwrap();
    let failure = &failed["FailureDetails"];
    assert_eq!((&failure["ErrorType"], &failure["IsNonRetriable"]), (&json!("CannotShip"), &json!(true)), "{failure}");
    assert_eq!(failure["InnerFailure"]["ErrorType"], "NoDepot", "{failure}");
    assert_eq!(failure["Properties"]["Details"], json!(["Bergen", "Oslo", "Tromsø"]), "{failure}");
}

/// Wherever the kill finds them: some have not begun, some are between two steps, some are through.
#[test]
fn each_of_many_orders_is_undone_once_when_the_server_is_killed_in_between() {
    let mut server = shop();
    let ids: Vec<String> = (0..60).map(|number| format!("order-{number}")).collect();
    for id in &ids {
        server.start_as(id, "PlaceOrder", &order("Atlantis"));
    }
    server.kill();
    server.restart();
    for id in &ids {
        let status = server.finished(id);
        assert_eq!(status["output"]["undone"], json!(["refunded receipt over 5900 cents", "released 2 × kettle"]), "{id}");
        assert_eq!(steps(&status), UNDONE, "{id}");
    }
}
