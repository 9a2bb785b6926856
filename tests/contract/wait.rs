//! Starting an instance and waiting for its end in one request.

use std::time::{Duration, Instant};

use crate::support::{P3, Server};

#[test]
fn a_result_in_time_is_the_bare_output() {
    let server = Server::start();
    for (function, input, output) in [("Sequence", r#"{"count":3}"#, "[0,1,2]"), ("FanOut", "10", "45"), ("Status", "", "null")] {
        let reply = server.run(function, input);
        assert_eq!((reply.status, reply.text()), (200, output), "{function}");
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(reply.header("location"), None);
    }
    let reply = server.post(&format!("{P3}/orchestrators/BigResult?timeout=30&pollingInterval=0.5"), "3");
    assert_eq!((reply.status, reply.text()), (200, r#""xxx""#));
}

#[test]
fn a_failure_in_time_is_the_status_object_with_200_whatever_the_edition() {
    let server = Server::start();
    for function in ["FailActivity", "Panic"] {
        for query in ["", "&returnInternalServerErrorOnFailure=true", "&edition=2018", "&edition=current"] {
            let reply = server.post(&format!("{P3}/orchestrators/{function}?timeout=30{query}"), "");
            assert_eq!(reply.status, 200, "{function}{query}: {reply}");
            assert_eq!(reply.json()["runtimeStatus"], "Failed");
            assert_eq!(reply.keys().len(), 8, "{reply}");
        }
    }
    let reply = server.post(&format!("{P3}/orchestrators/FailActivity?timeout=30&showHistory=true&showInput=false"), "7");
    assert_eq!(reply.keys().len(), 9, "the query says what is shown, as for the status: {reply}");
    assert_eq!(reply.member("input"), "null");
}

#[test]
fn when_the_time_is_up_the_answer_is_that_of_a_start() {
    let server = Server::start();
    for timeout in ["0.05", "0", "-1"] {
        let began = Instant::now();
        let reply = server.post(&format!("{P3}/orchestrators/Forever?timeout={timeout}&pollingInterval=-2"), "");
        assert!(began.elapsed() < Duration::from_secs(10), "{timeout}");
        assert_eq!((reply.status, reply.header("retry-after")), (202, Some("10")), "{timeout}: {reply}");
        assert_eq!(reply.keys().len(), 9, "{reply}");
        assert_eq!(reply.header("location"), reply.json()["statusQueryGetUri"].as_str());
    }
}

#[test]
fn polling_more_slowly_than_the_timeout_is_refused_and_nothing_starts() {
    let server = Server::start();
    let reply = server.post(&format!("{P3}/orchestrators/Race/a?timeout=1&pollingInterval=1.5"), "");
    assert_eq!(reply.status, 400, "{reply}");
    assert!(reply.json()["ExceptionMessage"].as_str().unwrap().contains("pollingInterval"), "{reply}");
    assert_eq!(server.status("a", "").status, 404);
}

#[test]
fn without_a_timeout_that_can_be_read_nobody_waits() {
    let server = Server::start();
    for query in ["pollingInterval=1", "timeout=soon", "timeout=", "timeout=1e9", "timeout=5s&pollingInterval=9"] {
        let reply = server.post(&format!("{P3}/orchestrators/Forever?{query}"), "");
        assert_eq!(reply.status, 202, "{query}: {reply}");
    }
}

#[test]
fn who_waits_is_refused_like_anybody_else() {
    let server = Server::start();
    server.start_as("a", "Forever", "");
    assert_eq!(server.post(&format!("{P3}/orchestrators/Race/a?timeout=1"), "").status, 409);
    assert_eq!(server.post(&format!("{P3}/orchestrators/NobodyHasThis?timeout=1"), "").status, 400);
    assert_eq!(server.post(&format!("{P3}/orchestrators/Race?timeout=1"), "{").status, 400);
}

#[test]
fn who_waits_is_answered_when_the_server_stops() {
    let mut server = Server::start();
    let (client, began) = (server.clone(), Instant::now());
    let waiting = std::thread::spawn(move || client.post(&format!("{P3}/orchestrators/Forever/a?timeout=50"), ""));
    crate::support::eventually("the start", || (server.status("a", "").status == 202).then_some(()));
    server.stop();
    let reply = waiting.join().unwrap();
    assert_eq!(reply.status, 202, "{reply}");
    assert!(began.elapsed() < Duration::from_secs(40));
}
