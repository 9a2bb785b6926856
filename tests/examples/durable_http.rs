//! Is a service that answers 202 asked until it is done, also by a server that was killed in between?

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

use super::events;
use crate::support::server::HUB;
use crate::support::{Server, Setup, eventually, guests};

/// A printing service on the loopback interface. Its first answer is a 503, a job is accepted with 202, and is done as soon as the
/// test says so.
struct Service {
    authority: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// How often each request was made, as `POST /jobs`.
    requests: HashMap<String, u32>,
    /// The bodies of all `POST`s, and the keys by which a repeated one is recognised.
    jobs: Vec<(String, String)>,
    is_done: bool,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let authority = listener.local_addr().expect("it listens").to_string();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        // Goes with the process of the tests.
        thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.expect("accept"), &mut lock(&shared))));
        Self { authority, seen }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// How often it was asked how the job stands.
    fn polls(&self) -> u32 {
        self.seen().count("GET /jobs/7")
    }

    fn order(&self) -> String {
        json!({ "service": format!("http://{}", self.authority), "pages": 12 }).to_string()
    }

    /// A server that may reach this service.
    fn server(&self) -> Server {
        let configuration = format!("[hubs.{HUB}.network]\nallow = [\"{}\"]\n", self.authority);
        let server = Setup { empty: true, configuration, ..Setup::default() }.start();
        server.upload(HUB, "durable-http", guests::durable_http());
        server
    }
}

impl Seen {
    fn count(&self, request: &str) -> u32 {
        self.requests.get(request).copied().unwrap_or_default()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request and its answer. A server that was killed takes its connection with it, which is not this service's concern.
fn serve(stream: TcpStream, seen: &mut Seen) {
    let mut lines = BufReader::new(&stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(1..) if !line.trim().is_empty() => head.push(line.trim().to_owned()),
            Ok(1..) => break,
            _ => return,
        }
    }
    let header = |name: &str| {
        let mut pairs = head.iter().filter_map(|line| line.split_once(": "));
        pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().expect("a length is a number"))];
    if lines.read_exact(&mut body).is_err() {
        return;
    }
    let request = head.first().and_then(|line| line.strip_suffix(" HTTP/1.1")).expect("a request line").to_owned();
    *seen.requests.entry(request.clone()).or_default() += 1;
    let (status, headers, answer) = match request.as_str() {
        "POST /jobs" => {
            let key = header("idempotency-key").expect("a job has a key");
            seen.jobs.push((String::from_utf8(body).expect("JSON is text"), key));
            match seen.jobs.len() {
                1 => ("503 Service Unavailable", "", ""),
                _ => ("202 Accepted", "location: /jobs/7\r\nretry-after: 1\r\n", ""),
            }
        }
        "GET /jobs/7" if seen.is_done => ("200 OK", "", r#"{"sheets":6,"tray":"B"}"#),
        "GET /jobs/7" => ("202 Accepted", "retry-after: 1\r\n", ""),
        "POST /full/jobs" => ("409 Conflict", "", "no paper"),
        other => panic!("nobody makes the request {other}"),
    };
    let length = answer.len();
    // Best effort, as above.
    let _ = write!(&stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{answer}");
}

/// The statuses of all answers, in the order of the history.
fn statuses(status: &Value) -> Vec<u64> {
    let answers = events(status, "TaskCompleted").into_iter();
    answers
        .map(|event| {
            assert_eq!(event["FunctionName"], "BuiltIn::HttpActivity", "{event}");
            event["Result"]["status"].as_u64().expect("an answer has a status")
        })
        .collect()
}

#[test]
fn a_job_is_asked_for_until_it_is_done_also_after_a_crash() {
    let service = Service::start();
    let mut server = service.server();
    server.start_as("a", "Print", &service.order());
    eventually("the first polls", || (service.polls() >= 1).then_some(()));
    server.kill();
    let before = service.polls();
    server.restart();
    eventually("polls after the restart", || (service.polls() > before).then_some(()));
    service.seen().is_done = true;

    let status = server.finished("a");
    assert_eq!(status["output"], json!({ "sheets": 6, "tray": "B" }));
    // The job itself was sent once, and once before that when the service was not ready, with one key.
    let jobs = service.seen().jobs.clone();
    assert!(matches!(&jobs[..], [(first, key), (second, again)] if first == "12" && second == "12" && key == again), "{jobs:?}");
    let statuses = statuses(&status);
    assert!(statuses.starts_with(&[503, 202, 202]) && statuses.ends_with(&[202, 200]), "{statuses:?}");
    // Before each request but the first lies a durable wait.
    let waits = statuses.len() - 1;
    assert_eq!((events(&status, "TimerCreated").len(), events(&status, "TimerFired").len()), (waits, waits), "{status}");
    let inputs: Vec<Value> = events(&status, "TaskCompleted")
        .iter()
        .map(|event| serde_json::from_str(event["Input"].as_str().expect("an input is text")).expect("and that is JSON"))
        .collect();
    assert_eq!(inputs[0]["method"], "POST");
    assert_eq!(
        (&inputs[2]["method"], &inputs[2]["uri"]),
        (&json!("GET"), &json!(format!("http://{}/jobs/7", service.authority)))
    );
}

#[test]
fn a_refusal_is_final_and_the_status_is_in_the_failure() {
    let service = Service::start();
    let server = service.server();
    let order = json!({ "service": format!("http://{}/full", service.authority), "pages": 12 });
    let id = server.start("Print", &order.to_string());
    let status = server.finished(&id);
    assert_eq!(status["runtimeStatus"], "Failed");
    assert_eq!((statuses(&status), service.seen().count("POST /full/jobs")), (vec![409], 1));
    let [end] = events(&status, "ExecutionCompleted")[..] else { panic!("it ends once: {status}") };
    let details = &end["FailureDetails"];
    assert_eq!(details["ErrorType"], "HttpStatus", "{details}");
    assert_eq!(details["Properties"]["Details"]["body"], "no paper", "{details}");
}

#[test]
fn what_the_configuration_does_not_list_is_not_reached() {
    let service = Service::start();
    let server = Server::empty();
    server.upload(HUB, "durable-http", guests::durable_http());
    let id = server.start("Print", &service.order());
    let status = server.finished(&id);
    let [failed] = events(&status, "TaskFailed")[..] else { panic!("one request, which is not tried again: {status}") };
    assert_eq!(
        (&failed["FunctionName"], &failed["FailureDetails"]["ErrorType"]),
        (&json!("BuiltIn::HttpActivity"), &json!("HttpDenied"))
    );
    assert_eq!(failed["FailureDetails"]["IsNonRetriable"], true);
    let output = status["output"].as_str().expect("a failure is text");
    let setting = format!("put \"{}\" into `allow` in section [hubs.{HUB}.network]", service.authority);
    assert!(status["runtimeStatus"] == "Failed" && output.contains(&setting), "{output}");
    assert!(service.seen().requests.is_empty());
}
