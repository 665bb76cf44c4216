//! Tests the fake destination itself.

use std::io::Write;

use crate::support::{FakeIntake, Fault, IntakeOptions, Predicate, Records};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Response};
use serde_json::{Value, json};

fn entry(id: &str) -> Value {
    json!({
        "ddsource": "sectigo", "service": "scm", "hostname": "h", "message": "m", "status": "info",
        "ddtags": "a:b,c:d", "timestamp": Timestamp::now().as_millisecond(), "evt": { "id": id, "name": "login" }
    })
}

async fn send_with(intake: &FakeIntake, key: &str, coding: &str, body: Vec<u8>) -> Result<Response, reqwest::Error> {
    Client::new()
        .post(format!("{}/api/v2/logs", intake.url()))
        .header("user-agent", "selftest")
        .header("dd-api-key", key)
        .header("content-type", "application/json")
        .header("content-encoding", coding)
        .body(body)
        .send()
        .await
}

async fn send(intake: &FakeIntake, entries: &[Value]) -> Result<Response, reqwest::Error> {
    let body = serde_json::to_vec(entries).unwrap();
    send_with(intake, &IntakeOptions::default().api_key, "identity", body).await
}

#[tokio::test]
async fn takes_what_is_right_in_every_encoding() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let key = IntakeOptions::default().api_key;
    let body = |id: &str| serde_json::to_vec(&[entry(id), entry("twice")]).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&body("gz")).unwrap();
    for (coding, sent) in [
        ("identity", body("id")),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(&body("zs")[..], 1).unwrap()),
    ] {
        let answer = send_with(&intake, &key, coding, sent).await.unwrap();
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.text().await.unwrap(), "{}");
    }
    intake.wait_for_entries(6).await;
    intake.wait_for_ids(4).await;
    assert_eq!(intake.count(), 6);
    assert_eq!(intake.ids()["twice"], 3);
    assert_eq!(intake.entries()[2]["evt"]["id"], "gz");
    let requests = intake.requests();
    assert!(requests.iter().all(|r| r.status == Some(202) && r.entries == 2 && r.taken));
    assert!(requests[1].sent_bytes < requests[1].bytes);
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn limits_are_enforced() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let with = |key: &str, value: Value| {
        let mut entry = entry("x");
        entry[key] = value;
        vec![entry]
    };
    let now = Timestamp::now();
    let hours = |h: i64| json!((now + SignedDuration::from_hours(h)).as_millisecond());
    let text = |n: usize| json!("x".repeat(n));
    let large = || vec![with("message", text(990_000)).remove(0); 6];
    for (i, (entries, status, says)) in [
        (vec![], 400, "no entries"),
        (vec![entry("x"); 1001], 413, "1001 entries"),
        (large(), 413, "the body has"),
        (with("message", text(1_000_000)), 202, "would be cut"),
        (with("ddtags", json!(["a:b"])), 202, "ddtags"),
        (with("ddsource", json!("Sectigo")), 202, "lower case"),
        (with("hostname", Value::Null), 202, "hostname"),
        (with("status", json!("FAILURE")), 202, "misread"),
        (with("timestamp", hours(-19)), 202, "outside"),
        (with("timestamp", hours(3)), 202, "outside"),
        (with("timestamp", json!(now.as_second())), 202, "outside"),
        (with("timestamp", json!("2024-01-01T00:00:00Z")), 202, "not an integer"),
        (vec![json!("text")], 202, "not an entry"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(send(&intake, &entries).await.unwrap().status(), status, "{says}");
        let violations = intake.violations();
        assert_eq!(violations.len(), i + 1, "{violations:#?}");
        assert!(violations[i].contains(says), "{}", violations[i]);
    }
    assert_eq!(send(&intake, &with("timestamp", hours(-17))).await.unwrap().status(), 202);
    let key = IntakeOptions::default().api_key;
    let n = intake.violations().len();
    assert_eq!(send_with(&intake, &key, "gzip", b"[]".to_vec()).await.unwrap().status(), 400);
    assert_eq!(send_with(&intake, &key, "deflate", b"[]".to_vec()).await.unwrap().status(), 400);
    assert_eq!(send_with(&intake, &key, "identity", b"{}".to_vec()).await.unwrap().status(), 400);
    assert_eq!(intake.violations().len(), n + 3);
    let bare = Client::new().post(format!("{}/api/v2/logs", intake.url())).header("dd-protocol", "agent-json");
    assert_eq!(bare.body("[]").send().await.unwrap().status(), 401);
    assert_eq!(intake.violations().len(), n + 3 + 5, "{:#?}", intake.violations());
}

#[tokio::test]
async fn keys_rotate() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    intake.set_api_key("next");
    assert_eq!(send(&intake, &[entry("1")]).await.unwrap().status(), 403);
    let body = serde_json::to_vec(&[entry("1")]).unwrap();
    assert_eq!(send_with(&intake, "next", "identity", body).await.unwrap().status(), 202);
    let validate = async |key: &str| {
        let request = Client::new().get(format!("{}/api/v1/validate", intake.url())).header("dd-api-key", key);
        request.send().await.unwrap().status()
    };
    assert_eq!(validate("next").await, 200);
    assert_eq!(validate("old").await, 403);
    intake.answer_validate_always(Some(Fault::Status(502)));
    assert_eq!(validate("next").await, 502);
    assert_eq!(intake.validate_requests(), 3);
    assert_eq!((intake.count(), intake.hits()), (1, 5));
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn poison_refuses_the_whole_request() {
    let intake = FakeIntake::start(IntakeOptions {
        poison: Some(Predicate::new(|entry| entry["evt"]["id"] == "bad")),
        poison_text: Some(Predicate::new(|entry| entry["message"].as_str().is_some_and(|m| m.contains("bad")))),
        max_body_bytes: 2000,
        ..Default::default()
    })
    .await;
    let refused = send(&intake, &[entry("good"), entry("bad")]).await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains(r#""errors":[{"#));
    let mut text = entry("good");
    text["message"] = json!("{\"id\":\"bad\"}");
    assert_eq!(send(&intake, &[text]).await.unwrap().status(), 400);
    assert_eq!(send(&intake, &vec![entry("good"); 20]).await.unwrap().status(), 413);
    assert_eq!(send(&intake, &[entry("good")]).await.unwrap().status(), 202);
    assert_eq!(intake.count(), 1);
    assert_eq!(intake.requests().iter().map(|r| r.status).collect::<Vec<_>>(), [400, 400, 413, 202].map(Some));
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn faults_and_held_answers() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    intake.script(Fault::Reset);
    assert!(send(&intake, &[entry("1")]).await.is_err());
    assert_eq!(intake.count(), 0);
    intake.script(Fault::Unanswered);
    assert!(send(&intake, &[entry("1")]).await.is_err());
    assert_eq!(intake.count(), 1);
    let last = intake.requests().pop().unwrap();
    assert!(last.taken && last.status.is_none());
    intake.script(Fault::EchoAuthorization(403));
    let echo = send(&intake, &[entry("1")]).await.unwrap().text().await.unwrap();
    assert!(echo.contains(&IntakeOptions::default().api_key));

    intake.hold();
    let second = [entry("2")];
    let (held, ()) = tokio::join!(send(&intake, &second), async {
        intake.wait_for_requests(4).await;
        assert_eq!(intake.count(), 1);
        intake.release();
    });
    assert_eq!(held.unwrap().status(), 202);
    assert_eq!(intake.count(), 2);

    // A client that gives up before the answer has sent nothing.
    intake.hold();
    let third = [entry("3")];
    tokio::select! {
        answer = send(&intake, &third) => panic!("held, and answered all the same: {answer:?}"),
        () = intake.wait_for_requests(5) => {}
    }
    intake.wait_until("the server to see that nobody waits", |requests| requests[4].over).await;
    intake.release();
    assert_eq!(send(&intake, &[entry("4")]).await.unwrap().status(), 202);
    assert_eq!(intake.count(), 3);
    assert_eq!(intake.requests()[4].status, None);
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn twenty_thousand_entries_are_taken() {
    let intake = FakeIntake::start(IntakeOptions { keep_bodies: false, ..Default::default() }).await;
    let now = Timestamp::now();
    let mut records = Records::seeded(1);
    let bodies: Vec<Vec<u8>> = (0..20)
        .map(|_| {
            let entries: Vec<Value> = records
                .between(now - SignedDuration::from_mins(1), now, 1000)
                .into_iter()
                .map(|r| {
                    let mut entry = entry(&r.id);
                    entry["sectigo"] = serde_json::from_str(&r.json).unwrap();
                    entry
                })
                .collect();
            serde_json::to_vec(&entries).unwrap()
        })
        .collect();
    let key = IntakeOptions::default().api_key;
    for body in bodies {
        assert_eq!(send_with(&intake, &key, "identity", body).await.unwrap().status(), 202);
    }
    assert_eq!(intake.ids().len(), 20_000);
    assert_eq!(intake.violations(), [""; 0]);
}
