//! Does a parent get what its children come to, each once, and its failure from the one that fails?

use serde_json::{Value, json};

use super::events;
use crate::support::server::HUB;
use crate::support::{P3, Server, eventually, guests};

const NIGHT: &str = r#"{"date":"2026-11-22","shops":50}"#;

fn started() -> Server {
    let server = Server::empty();
    server.upload(HUB, "sub-orchestrations", guests::sub_orchestrations());
    server.start_as("night", "NightlyReport", NIGHT);
    server
}

/// What the example promises: the report, how it stands in the history of the parent, and what became of the others.
#[track_caller]
fn check(server: &Server) {
    const WHY: &str = "nobody has closed the register of shop 13";
    let night = server.finished("night");
    let report = &night["output"];
    assert_eq!(report["takings_cents"], 100 * (50 * 51 / 2 - 13));
    let shops: Vec<(u32, u32)> = (1..=50).filter(|shop| *shop != 13).map(|shop| (shop, shop % 7)).collect();
    assert_eq!(report["to_deliver"], json!(shops));
    assert_eq!(report["failed"], json!([[13, "RegisterOpen", WHY]]));

    let completed = events(&night, "SubOrchestrationInstanceCompleted");
    let mut ids: Vec<&str> = completed.iter().map(|event| event["InstanceId"].as_str().expect("an ID is text")).collect();
    ids.sort_unstable();
    let mut expected: Vec<String> = shops.iter().map(|(shop, _)| format!("2026-11-22-shop-{shop}")).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let [failed] = events(&night, "SubOrchestrationInstanceFailed")[..] else { panic!("one shop fails: {night}") };
    assert_eq!((&failed["InstanceId"], &failed["FunctionName"]), (&json!("2026-11-22-shop-13"), &json!("ReportShop")));
    let details = &failed["FailureDetails"];
    assert_eq!((&details["ErrorType"], &details["ErrorMessage"]), (&json!("RegisterOpen"), &json!(WHY)));
    assert_eq!(details["IsNonRetriable"], true);

    // The archive was started and not awaited, and got one event.
    let [created] = events(&night, "SubOrchestrationInstanceCreated")[..] else { panic!("one start: {night}") };
    assert_eq!((&created["Name"], &created["InstanceId"]), (&json!("FileReport"), &json!("2026-11-22-archive")));
    let [sent] = events(&night, "EventSent")[..] else { panic!("one event: {night}") };
    assert_eq!((&sent["InstanceId"], &sent["Name"]), (&json!("2026-11-22-archive"), &json!("report")));
    let archive = server.finished("2026-11-22-archive");
    assert_eq!(archive["output"], format!("{} cents, 1 shops without a report", report["takings_cents"]));
    assert_eq!(events(&archive, "EventRaised").len(), 1, "{archive}");

    // Each child is an instance like any other.
    let shop = server.finished("2026-11-22-shop-12");
    assert_eq!(shop["output"], json!({ "takings_cents": 1_200, "loaves_missing": 5 }));
    assert_eq!(events(&shop, "TaskCompleted").len(), 2, "{shop}");
    assert_eq!(server.finished("2026-11-22-shop-13")["runtimeStatus"], "Failed");
    assert_eq!(tagged(server, "tag.date=2026-11-22").len(), 51);
    let north = tagged(server, "tag.date=2026-11-22&tag.region=north");
    assert_eq!(north.len(), 25);
    assert!(north.iter().all(|instance| instance["name"] == "ReportShop"), "{north:?}");
}

fn tagged(server: &Server, tags: &str) -> Vec<Value> {
    let list = server.get(&format!("{P3}/instances?top=1000&{tags}")).json();
    list.as_array().expect("a list").clone()
}

#[test]
fn fifty_shops_report_one_fails_and_the_parent_says_why() {
    check(&started());
}

#[test]
fn children_that_run_when_the_server_is_killed_report_once() {
    let mut server = started();
    for children in [0, 1, 20] {
        eventually("some of the children", || {
            let night = server.status("night", "showHistory=true").json();
            (events(&night, "SubOrchestrationInstanceCompleted").len() >= children).then_some(())
        });
        server.kill();
        server.restart();
    }
    check(&server);
}

#[test]
fn a_shop_that_is_alive_is_not_started_twice() {
    let server = Server::empty();
    server.upload(HUB, "sub-orchestrations", guests::sub_orchestrations());
    // Somebody has taken the ID, and does not let it go.
    server.start_as("2026-11-22-shop-1", "FileReport", "");
    server.start_as("night", "NightlyReport", r#"{"date":"2026-11-22","shops":2}"#);
    let night = server.finished("night");
    let [failed] = events(&night, "SubOrchestrationInstanceFailed")[..] else { panic!("one shop fails: {night}") };
    assert_eq!(failed["InstanceId"], "2026-11-22-shop-1");
    let reason = failed["Reason"].as_str().expect("a reason is text");
    assert!(reason.contains("2026-11-22-shop-1"), "{reason}");
    assert_eq!(night["output"]["to_deliver"], json!([[2, 2]]));
}
