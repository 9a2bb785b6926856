//! What an exchange asks for, answer by answer.

use super::*;
use crate::executor::tests::check;

/// A response as the host gives it.
fn response(task: u32, status: u16, headers: &[(&str, &str)], body: &str) -> String {
    format!("{task}={}", serde_json::json!({ "status": status, "headers": headers, "body": body }))
}

async fn get(ctx: Context) -> Result<String> {
    Ok(ctx.http(HttpRequest::get("http://a/jobs")).await?.body)
}

#[test]
fn any_status_is_an_answer() {
    for status in [200, 302, 404, 503] {
        check(get, &[("turn 0", "GET http://a/jobs"), (&response(0, status, &[("location", "/x")], "done"), "ended \"done\"")]);
    }
    check(get, &[("turn 0", "GET http://a/jobs"), ("0!Unreachable", "failed Unreachable: it went wrong")]);
}

#[test]
fn a_request_says_what_it_was_told_to() {
    async fn post(ctx: Context) -> Result<(u16, Option<String>, u32)> {
        let request =
            HttpRequest::post("http://a/jobs").header("X-Key", "1").json(&("rye", 2)).timeout(Duration::from_millis(250));
        let answer = ctx.http(request).await?;
        Ok((answer.status, answer.header("ETAG").map(str::to_owned), answer.json()?))
    }
    let asked = "POST http://a/jobs X-Key: 1 content-type: application/json [\"rye\",2] within 250";
    check(post, &[("turn 0", asked), (&response(0, 201, &[("Etag", "7"), ("etag", "8")], "42"), "ended [201,\"7\",42]")]);
    let failure = "failed InvalidResponse: the body of a response with status 201 is other JSON than expected: \
                   expected value at line 1 column 1";
    check(post, &[("turn 0", asked), (&response(0, 201, &[], "<p>"), failure)]);
}

#[test]
fn a_response_without_a_body_has_an_empty_one() {
    check(get, &[("turn 0", "GET http://a/jobs"), ("0={\"status\":204,\"headers\":[]}", "ended \"\"")]);
}

#[test]
fn what_is_no_response_is_a_failure() {
    let failure = "failed InvalidOutput: the request to http://a/jobs gave something else than expected: \
                   invalid type: integer `7`, expected struct HttpResponse at line 1 column 1";
    check(get, &[("turn 0", "GET http://a/jobs"), ("0=7", failure)]);
}

#[test]
fn a_202_is_followed_to_its_end() {
    let calls = [
        ("turn 0", "GET http://a/jobs"),
        (&*response(0, 202, &[("Location", "/jobs/7"), ("Retry-After", "5")], ""), "timer 5000"),
        ("turn 5000; 1 fired", "GET http://a/jobs/7"),
        // Without a place of its own it is asked again where it was, after the time that is taken if none is said.
        (&response(2, 202, &[], "not yet"), "timer 35000"),
        ("turn 35000; 3 fired", "GET http://a/jobs/7"),
        (&response(4, 202, &[("location", "http://b/7"), ("retry-after", "Thu, 01 Jan 1970 00:01:00 GMT")], ""), "timer 60000"),
        ("turn 60000; 5 fired", "GET http://b/7"),
        (&response(6, 500, &[], "broken"), "ended \"broken\""),
    ];
    check(get, &calls);
}

#[test]
fn a_202_without_a_location_is_an_answer() {
    check(get, &[("turn 0", "GET http://a/jobs"), (&response(0, 202, &[("retry-after", "5")], "thanks"), "ended \"thanks\"")]);
}

#[test]
fn a_202_is_an_answer_if_it_is_not_to_be_followed() {
    async fn stay(ctx: Context) -> Result<u16> {
        Ok(ctx.http(HttpRequest::get("http://a/").follow_accepted(false)).await?.status)
    }
    check(stay, &[("turn 0", "GET http://a/"), (&response(0, 202, &[("location", "/x")], ""), "ended 202")]);
}

#[test]
fn what_follows_has_the_headers_but_for_those_of_the_body() {
    async fn post(ctx: Context) -> Result<u16> {
        let request = HttpRequest::post("http://a/jobs")
            .header("Authorization", "secret")
            .header("Content-Language", "de")
            .header("Transfer-Encoding", "chunked")
            .header("Cookie", "c")
            .header("X-Functions-Key", "k")
            .header("Accept", "text/plain")
            .header("Accept-Language", "da")
            .header("User-Agent", "u")
            .json(&1)
            .timeout(Duration::from_secs(1));
        Ok(ctx.http(request).await?.status)
    }
    let all = "POST http://a/jobs Authorization: secret Content-Language: de Transfer-Encoding: chunked Cookie: c \
               X-Functions-Key: k Accept: text/plain Accept-Language: da User-Agent: u content-type: application/json 1 within 1000";
    let calls = [
        ("turn 0", all),
        (&*response(0, 202, &[("location", "HTTP://A:80/1"), ("retry-after", "2")], ""), "timer 2000"),
        (
            "1 fired",
            "GET HTTP://A:80/1 Authorization: secret Cookie: c X-Functions-Key: k Accept: text/plain Accept-Language: da User-Agent: u within 1000",
        ),
        (&response(2, 202, &[("location", "https://a/2"), ("retry-after", "2")], ""), "timer 2000"),
        ("3 fired", "GET https://a/2 Accept: text/plain Accept-Language: da User-Agent: u within 1000"),
        // What another origin points back to does not get it again.
        (&response(4, 202, &[("location", "http://a/3"), ("retry-after", "2")], ""), "timer 2000"),
        ("5 fired", "GET http://a/3 Accept: text/plain Accept-Language: da User-Agent: u within 1000"),
        (&response(6, 200, &[], ""), "ended 200"),
    ];
    check(post, &calls);
}

#[test]
fn each_request_is_tried_again_by_itself() {
    async fn patient(ctx: Context) -> Result<String> {
        let policy = RetryPolicy::new(Duration::from_secs(1), 2);
        Ok(ctx.http(HttpRequest::post("http://a/").retry(policy).expect_success()).await?.body)
    }
    let calls = [
        ("turn 0", "POST http://a/"),
        ("0!Unreachable", "timer 1000"),
        ("1 fired", "POST http://a/"),
        (&*response(2, 202, &[("location", "/7"), ("retry-after", "3")], ""), "timer 3000"),
        ("3 fired", "GET http://a/7"),
        (&response(4, 503, &[], "later"), "timer 1000"),
        ("5 fired", "GET http://a/7"),
        (&response(6, 200, &[], "done"), "ended \"done\""),
    ];
    check(patient, &calls);
    let failure = "failed HttpStatus: the request to http://a/ was answered with status 404";
    let calls = [
        ("turn 0", "POST http://a/"),
        (&*response(0, 404, &[], ""), "timer 1000"),
        ("1 fired", "POST http://a/"),
        (&response(2, 404, &[], ""), failure),
    ];
    check(patient, &calls);
}

#[test]
fn an_unexpected_status_comes_with_the_response() {
    async fn catch(ctx: Context) -> Result<String> {
        let error = ctx.http(HttpRequest::get("http://a/").expect_success()).await.unwrap_err();
        Ok(error.details::<HttpResponse>().expect("there is one").body)
    }
    check(catch, &[("turn 0", "GET http://a/"), (&response(0, 404, &[], "gone"), "ended \"gone\"")]);
}

#[test]
fn whoever_drops_the_task_cancels_what_is_under_way() {
    async fn bounded(ctx: Context) -> Result<u16> {
        let answer = ctx.timeout(Duration::from_secs(60), ctx.http(HttpRequest::get("http://a/"))).await;
        ctx.sleep(Duration::ZERO).await?;
        answer?.map(|answer| answer.status)
    }
    let asked = "GET http://a/; timer 60000";
    check(bounded, &[("turn 0", asked), ("turn 60000; 1 fired", "cancel 0; timer 60000")]);
    let accepted = response(0, 202, &[("location", "/7")], "");
    check(bounded, &[("turn 0", asked), (&accepted, "timer 30000"), ("turn 60000; 1 fired", "cancel 2; timer 60000")]);
}

#[test]
fn what_cannot_be_sent_is_refused_before_anything_is_asked() {
    async fn unspeakable(ctx: Context) -> Result<u16> {
        let body = std::collections::HashMap::from([((), 1)]);
        Ok(ctx.http(HttpRequest::post("http://a/").json(&body)).await?.status)
    }
    check(unspeakable, &[("turn 0", "failed InvalidRequest: the body for http://a/ has no form in JSON: key must be a string")]);
    async fn never(ctx: Context) -> Result<u16> {
        Ok(ctx.http(HttpRequest::get("http://a/").retry(RetryPolicy::new(Duration::ZERO, 2))).await?.status)
    }
    let failure =
        "failed InvalidRetryPolicy: a retry policy says an interval of zero: it has to be longer, if only a millisecond";
    check(never, &[("turn 0", failure)]);
}

#[test]
fn a_request_is_shown_without_what_may_be_secret() {
    let request = HttpRequest::post("http://a/?key=secret#secret").header("Authorization", "secret").body("secret");
    assert_eq!(format!("{request:?}"), "HttpRequest(POST http://a/)");
    async fn keyed(ctx: Context) -> Result<String> {
        Ok(ctx.http(HttpRequest::get("http://a/b?key=secret").expect_success()).await?.body)
    }
    let asked = ("turn 0", "GET http://a/b?key=secret");
    check(
        keyed,
        &[asked, (&response(0, 403, &[], ""), "failed HttpStatus: the request to http://a/b was answered with status 403")],
    );
    let failure = "failed InvalidOutput: the request to http://a/b gave something else than expected: \
                   invalid type: integer `7`, expected struct HttpResponse at line 1 column 1";
    check(keyed, &[asked, ("0=7", failure)]);
}

#[test]
fn whoever_asks_to_be_asked_at_once_is_asked_after_a_second() {
    let accepted = |task| response(task, 202, &[("location", "/7"), ("retry-after", "0")], "");
    let calls = [
        ("turn 0", "GET http://a/jobs"),
        (&*accepted(0), "timer 1000"),
        ("turn 1000; 1 fired", "GET http://a/7"),
        (&accepted(2), "timer 2000"),
    ];
    check(get, &calls);
}

#[test]
fn an_exchange_may_last_for_a_year() {
    let year = Duration::from_hours(365 * 24);
    for told in [None, Some(Duration::ZERO), Some(Duration::from_secs(5))] {
        let (mut lasted, mut looks) = (Duration::ZERO, 0);
        while lasted < year {
            let wait = pause(told, lasted);
            assert!(wait <= (lasted / 1_000).max(POLL_INTERVAL), "{wait:?} is long after {lasted:?}");
            (lasted, looks) = (lasted + wait, looks + 1);
        }
        assert!(looks < 12_000, "{looks} looks, of which each takes two tasks");
    }
    assert_eq!(pause(Some(Duration::from_secs(7)), Duration::from_secs(60)), Duration::from_secs(7));
}
