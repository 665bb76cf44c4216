//! Tests the fake source itself.

use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use crate::support::{AdvertiseAuth, FakeScm, Fault, FinalPage, Order, Record, Records, ScmOptions};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

fn client() -> Client {
    Client::builder().user_agent("selftest").redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn encode(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn login(scm: &FakeScm, secret: &str) -> Response {
    let form =
        encode(&[("grant_type", "client_credentials"), ("client_id", "audit-client"), ("client_secret", secret)]);
    client()
        .post(scm.token_url())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap()
}

async fn json(response: Response) -> Value {
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

async fn bearer(scm: &FakeScm) -> String {
    let answer = login(scm, &ScmOptions::default().client_secret).await;
    assert_eq!(answer.status(), 200);
    json(answer).await["access_token"].as_str().unwrap().to_owned()
}

async fn get(scm: &FakeScm, bearer: &str, query: &[(&str, &str)]) -> Result<Response, reqwest::Error> {
    let url = format!("{}/api/v1/records?{}", scm.url(), encode(query));
    client().get(url).header("authorization", format!("Bearer {bearer}")).send().await
}

/// Reads a whole range. Returns its ids, and the number of requests.
async fn drain(scm: &FakeScm, from: Timestamp, to: Timestamp) -> (Vec<String>, usize) {
    let bearer = bearer(scm).await;
    let (from, to) = (from.to_string(), to.to_string());
    let mut token: Option<String> = None;
    let mut ids = Vec::new();
    for n in 1.. {
        let start = token.as_deref().map_or(("from", from.as_str()), |t| ("token", t));
        let answer = get(scm, &bearer, &[start, ("to", &to)]).await.unwrap();
        assert_eq!(answer.status(), 200);
        token = answer.headers().get("token").map(|t| t.to_str().unwrap().to_owned());
        let page = json(answer).await;
        let page = page.as_array().unwrap();
        ids.extend(page.iter().map(|r| r["id"].as_str().unwrap().to_owned()));
        if page.is_empty() || token.is_none() {
            return (ids, n);
        }
    }
    unreachable!()
}

fn span() -> (Timestamp, Timestamp) {
    let end = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    (end - SignedDuration::from_mins(60), end)
}

#[tokio::test]
async fn a_range_is_paged_to_its_end() {
    let (start, end) = span();
    for (final_page, order, short_pages, requests) in [
        (FinalPage::EmptyArray, Order::Ascending, false, 4..=4),
        (FinalPage::EmptyArrayWithToken, Order::Descending, false, 4..=4),
        (FinalPage::NoTokenOnLast, Order::Shuffled, false, 3..=3),
        (FinalPage::EmptyArray, Order::Ascending, true, 4..=26),
    ] {
        let scm =
            FakeScm::start(ScmOptions { page_size: 10, final_page, order, short_pages, ..Default::default() }).await;
        let records = Records::seeded(7).between(start, end, 25);
        assert_eq!(records.last().unwrap().at, end);
        let mut wanted: Vec<String> = records.iter().map(|r| r.id.clone()).collect();
        scm.push(records);
        scm.push([Record::raw(start, r#"{"id":"on from"}"#)]);
        let (mut ids, n) = drain(&scm, start, end).await;
        match order {
            Order::Ascending => assert_eq!(ids, wanted),
            Order::Descending => assert!(ids.iter().rev().eq(&wanted)),
            Order::Shuffled => {
                assert_ne!(ids, wanted);
                ids.sort();
                wanted.sort();
                assert_eq!(ids, wanted);
            }
        }
        assert!(requests.contains(&n), "{n}");
        assert_eq!(scm.requests().len(), n);
        assert_eq!(scm.requests().iter().map(|r| r.records).sum::<usize>(), 25);
        assert_eq!(scm.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn late_records_and_wrong_queries() {
    let (start, end) = span();
    let scm = FakeScm::start(ScmOptions::default()).await;
    let mut records = Records::seeded(1);
    let mut record = || records.at(end - SignedDuration::from_secs(10));
    let (visible, later) = (record(), record());
    scm.push_visible_at(visible.clone(), SystemTime::now());
    scm.push_visible_at(later, SystemTime::now() + Duration::from_hours(1));
    assert_eq!(drain(&scm, start, end).await.0, [visible.id]);
    assert_eq!(scm.violations(), [""; 0]);

    let bearer = bearer(&scm).await;
    let (from, to) = (start.to_string(), end.to_string());
    for (i, query) in [
        vec![("from", from.as_str())],
        vec![("to", to.as_str())],
        vec![("from", &to), ("to", &from)],
        vec![("from", "2024-01-01"), ("to", &to)],
        vec![("from", &from), ("to", &to), ("token", "x")],
        vec![("token", "made up"), ("to", &to)],
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(get(&scm, &bearer, &query).await.unwrap().status(), 400);
        assert_eq!(scm.violations().len(), i + 1, "{query:?} {:?}", scm.violations());
    }
    let offset = get(&scm, &bearer, &[("from", "2024-01-01T00:00:00.5+02:00"), ("to", &to)]).await.unwrap();
    assert_eq!(offset.status(), 200);
    client().get(format!("{}/elsewhere", scm.url())).send().await.unwrap();
    assert_eq!(scm.violations().len(), 7);
}

#[tokio::test]
async fn page_tokens_are_bound_and_can_be_refused() {
    let (start, end) = span();
    let scm = FakeScm::start(ScmOptions { page_size: 2, ..Default::default() }).await;
    scm.push(Records::seeded(1).between(start, end, 5));
    let bearer = bearer(&scm).await;
    let to = end.to_string();
    let first = get(&scm, &bearer, &[("from", &start.to_string()), ("to", &to)]).await.unwrap();
    let token = first.headers()["token"].to_str().unwrap().to_owned();
    let status = async |to: &str| get(&scm, &bearer, &[("token", &token), ("to", to)]).await.unwrap().status();
    assert_eq!(status(&to).await, 200);
    scm.repeat_page_tokens(true);
    let again = get(&scm, &bearer, &[("token", &token), ("to", &to)]).await.unwrap();
    assert_eq!(again.headers()["token"], token);
    scm.repeat_page_tokens(false);
    scm.refuse_page_tokens(1);
    assert_eq!(status(&to).await, 400);
    assert_eq!(status(&to).await, 400, "a token that was refused stays refused");
    let first = get(&scm, &bearer, &[("from", &start.to_string()), ("to", &to)]).await.unwrap();
    let token = first.headers()["token"].to_str().unwrap().to_owned();
    let status = async |to: &str| get(&scm, &bearer, &[("token", &token), ("to", to)]).await.unwrap().status();
    assert_eq!(scm.violations(), [""; 0]);
    assert_eq!(status(&start.to_string()).await, 400);
    assert_eq!(scm.violations().len(), 1);
    scm.expire_page_tokens();
    assert_eq!(status(&to).await, 400);
    assert_eq!(scm.violations().len(), 1);
}

#[tokio::test]
async fn access_tokens_expire_and_are_revoked() {
    let (start, end) = span();
    let scm = FakeScm::start(ScmOptions {
        token_lifetime: Duration::from_hours(2),
        advertise_auth: AdvertiseAuth::Other("https://sso.example/token".into()),
        ..Default::default()
    })
    .await;
    let probe = client().get(format!("{}/api/v1/records", scm.url())).send().await.unwrap();
    assert_eq!(probe.status(), 401);
    assert!(
        probe.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .contains("authorization_uri=\"https://sso.example/token\"")
    );
    let query = [("from", &*start.to_string()), ("to", &*end.to_string())].map(|(k, v)| (k, v.to_owned()));
    let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let first = bearer(&scm).await;
    let status = async |bearer: &str| get(&scm, bearer, &query).await.unwrap().status();
    assert_eq!(status(&first).await, 200);
    scm.revoke_tokens();
    assert_eq!(status(&first).await, 401);
    let second = bearer(&scm).await;
    scm.age_tokens(Duration::from_hours(1));
    assert_eq!(status(&second).await, 200);
    scm.age_tokens(Duration::from_hours(1));
    assert_eq!(status(&second).await, 401);
    assert_eq!(login(&scm, "wrong").await.status(), 401);
    scm.set_client_secret("rotated");
    assert_eq!(login(&scm, "rotated").await.status(), 200);
    assert_eq!(scm.token_requests(), 4);
    assert_eq!(scm.requests().iter().map(|r| r.authorized).collect::<Vec<_>>(), [false, true, false, true, false]);
    assert_eq!(scm.violations(), [""; 0]);
}

#[tokio::test]
async fn every_fault_is_what_it_says() {
    let (start, end) = span();
    let scm = FakeScm::start(ScmOptions { gzip: true, date_offset: -7200, ..Default::default() }).await;
    scm.push(Records::seeded(1).between(start, end, 5));
    let bearer = bearer(&scm).await;
    let (from, to) = (start.to_string(), end.to_string());
    let get = async || get(&scm, &bearer, &[("from", &from), ("to", &to)]).await;

    let asked = Timestamp::now().as_second();
    let dated = get().await.unwrap();
    let date = jiff::fmt::rfc2822::parse(dated.headers()["date"].to_str().unwrap()).unwrap().timestamp();
    assert!((asked..=Timestamp::now().as_second()).contains(&(date.as_second() + 7200)));

    scm.script(Fault::Reset);
    scm.script(Fault::Unanswered);
    for _ in 0..2 {
        assert!(get().await.is_err());
        assert_eq!(scm.requests().last().unwrap().status, None);
    }
    scm.script(Fault::TruncatedBody);
    let cut = get().await.unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.text().await.is_err());

    scm.script(Fault::StatusWithRetryAfter(429, "7".into()));
    let busy = get().await.unwrap();
    assert_eq!((busy.status(), &busy.headers()["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"7".parse().unwrap()));
    scm.script(Fault::Redirect("http://127.0.0.1:1/".into()));
    assert_eq!(get().await.unwrap().status(), 307);
    scm.script(Fault::NotJson);
    assert!(get().await.unwrap().text().await.unwrap().starts_with("<!doctype"));
    scm.script(Fault::Body("[{}]".into()));
    assert_eq!(get().await.unwrap().text().await.unwrap(), "[{}]");
    scm.script(Fault::EchoAuthorization(500));
    let echo = get().await.unwrap().text().await.unwrap();
    assert!(echo.contains(&bearer) && echo.contains("=m0s&j!"), "{echo}");
    scm.script(Fault::Huge(3_000_000));
    let huge = get().await.unwrap().bytes().await.unwrap();
    assert_eq!(huge.len(), 3_000_000);
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&huge).unwrap().len(), 1);

    scm.script(Fault::Slow(Duration::from_millis(200)));
    let began = std::time::Instant::now();
    assert_eq!(get().await.unwrap().status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(200));

    scm.answer_always(Some(Fault::Status(503)));
    scm.script(Fault::PASS);
    assert_eq!(get().await.unwrap().status(), 200);
    assert_eq!(get().await.unwrap().status(), 503);
    assert_eq!(get().await.unwrap().status(), 503);
    scm.answer_always(None);

    scm.fail_randomly(3, 0.5, vec![Fault::Status(500)]);
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(get().await.unwrap().status() == 500);
    }
    assert!((10..30).contains(&failed), "{failed}");
    scm.fail_randomly(3, 0.0, vec![]);

    scm.script_token(Fault::Status(500));
    assert_eq!(login(&scm, "x").await.status(), 500);
    assert_eq!(scm.violations(), [""; 0]);
}

fn unchunk_and_gunzip(answer: &[u8]) -> Vec<u8> {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
    let mut rest = &answer[find(answer, b"\r\n\r\n") + 4..];
    let mut body = Vec::new();
    loop {
        let line = find(rest, b"\r\n");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
    let _: Vec<Value> = serde_json::from_slice(&plain).unwrap();
    plain
}

#[tokio::test]
async fn gzip_date_and_hanging() {
    let (start, end) = span();
    let scm = FakeScm::start(ScmOptions { gzip: true, omit_date: true, ..Default::default() }).await;
    scm.push(Records::seeded(1).between(start, end, 50));
    let bearer = bearer(&scm).await;
    let raw = |accept: &str| {
        let address = scm.url().trim_start_matches("http://").to_owned();
        let query = encode(&[("from", &start.to_string()), ("to", &end.to_string())]);
        let head = format!(
            "GET /api/v1/records?{query} HTTP/1.1\r\nhost: x\r\nuser-agent: raw\r\nauthorization: Bearer {bearer}\r\n{accept}connection: close\r\n\r\n"
        );
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).map(|_| answer)
        })
    };
    let plain = raw("").await.unwrap().unwrap();
    let zipped = raw("accept-encoding: br;q=1, gzip\r\n").await.unwrap().unwrap();
    for answer in [&plain, &zipped] {
        let text = String::from_utf8_lossy(answer).to_lowercase();
        assert!(!text.contains("\ndate:"), "{text}");
        assert!(text.contains("\nx-at:"), "{text}");
    }
    assert!(String::from_utf8_lossy(&zipped).contains("content-encoding: gzip"));
    assert!(zipped.len() * 3 < plain.len());
    // A compression bomb.
    scm.script(Fault::Huge(100_000_000));
    let bomb = raw("accept-encoding: gzip\r\n").await.unwrap().unwrap();
    assert!(bomb.len() < 1_000_000, "{}", bomb.len());
    // The decoder checks the length and the checksum. (A smaller one, because the debug build is slow.)
    scm.script(Fault::Huge(3_000_001));
    let bomb = raw("accept-encoding: gzip\r\n").await.unwrap().unwrap();
    assert_eq!(unchunk_and_gunzip(&bomb).len(), 3_000_001);
    // The server sends no byte of an answer.
    scm.script(Fault::Reset);
    assert_eq!(raw("").await.unwrap().unwrap_or_default(), b"");
    scm.script(Fault::TruncatedBody);
    let half = raw("").await.unwrap().unwrap();
    assert!(half.len() > plain.len() / 3 && half.len() < plain.len() * 2 / 3);
    // A request that hangs ends with the server.
    scm.script(Fault::Hang);
    let n = scm.requests().len();
    let hanging = raw("");
    scm.wait_for_requests(n + 1).await;
    assert!(!hanging.is_finished());
    assert_eq!(scm.violations(), [""; 0]);
    drop(scm);
    assert_eq!(hanging.await.unwrap().unwrap_or_default(), b"");
}

#[tokio::test]
async fn a_server_goes_down_and_comes_back() {
    let scm = FakeScm::start(ScmOptions::default()).await;
    scm.hold();
    let client = client();
    let url = format!("{}/api/v1/records", scm.url());
    let held = tokio::spawn(client.get(&url).send());
    scm.wait_for_requests(1).await;
    assert!(!held.is_finished());
    scm.go_down().await;
    assert!(held.await.unwrap().is_err());
    assert!(client.get(&url).send().await.unwrap_err().is_connect());
    scm.go_down().await;
    scm.come_back().await;
    scm.come_back().await;
    scm.release();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(scm.hits(), 2);
}

#[tokio::test]
async fn unstable_records_differ_at_each_read() {
    let (start, end) = span();
    let scm = FakeScm::start(ScmOptions { unstable_records: true, ..Default::default() }).await;
    scm.push(Records::seeded(1).between(start, end, 2));
    let bearer = bearer(&scm).await;
    let (from, to) = (start.to_string(), end.to_string());
    let page = async || get(&scm, &bearer, &[("from", &from), ("to", &to)]).await.unwrap();
    let (one, two) = (json(page().await).await, json(page().await).await);
    assert_ne!(one, two);
    assert_eq!(one[0]["id"], two[0]["id"]);
}

#[test]
fn records_have_the_size_asked_for_and_unique_ids() {
    let (start, end) = span();
    for size in [300, 500, 1000, 10_000] {
        let records = Records::seeded(5).size(size).between(start, end, 2000);
        let total: usize = records.iter().map(|r| r.json.len()).sum();
        let average = total / records.len();
        assert!(average.abs_diff(size) * 10 <= size, "{size}: {average}");
        let ids: std::collections::HashSet<_> = records.iter().map(|r| &r.id).collect();
        assert_eq!(ids.len(), records.len());
        assert!(records.windows(2).all(|w| w[0].at <= w[1].at));
        for record in &records {
            let value: Value = serde_json::from_str(&record.json).unwrap();
            assert_eq!(value["id"], record.id);
            assert_eq!(value["created"].as_str().unwrap().parse::<Timestamp>().unwrap(), record.at);
        }
        let again = Records::seeded(5).size(size).between(start, end, 2000);
        assert!(records.iter().map(|r| &r.json).eq(again.iter().map(|r| &r.json)));
    }
    let dense = Records::seeded(1).between(start, start + SignedDuration::from_millis(3), 10);
    assert!(dense.iter().all(|r| r.at > start));
}
