//! Tests the receiver: an entry answered with 2xx is delivered, whatever happens, and every kind of client gets the
//! answer that it expects.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup};
use crate::probe::{Answer, Probe};
use crate::stage::stop;
use crate::support::{FakeIntake, IntakeOptions};

pub const KEY: &str = "first-key-0123456789";
pub const OTHER_KEY: &str = "second-key-0123456789";

/// The daemon's log text when senders can connect.
pub const OPEN: &str = "senders can connect";

/// A receiver, and where it listens.
pub struct Reception {
    pub setup: Setup,
    pub probe: Probe,
}

impl Reception {
    /// A receiver on loopback with two keys, to standard output.
    pub fn usual() -> Self {
        let probe = Probe::new();
        let setup = Setup::bare()
            .with("AUDITSYNC_PIPELINES", "receiver:stdout")
            .with("RECEIVER_AUDIT_LISTEN", probe.address())
            .with("RECEIVER_AUDIT_API_KEYS", format!("{KEY},{OTHER_KEY}"))
            .with("AUDITSYNC_LOG_LEVEL", "debug");
        Self { setup, probe }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    /// With Datadog as the destination.
    #[must_use]
    pub fn to(self, intake: &FakeIntake) -> Self {
        let setup = self.setup.with("AUDITSYNC_PIPELINES", "receiver:datadog").with("DD_TAGS", "team:pki");
        Self { setup: setup.with_datadog(intake), ..self }
    }

    pub async fn started(&self) -> Daemon {
        let mut daemon = self.setup.start(&[]);
        daemon.says(OPEN).await;
        daemon
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.probe.address())
    }

    /// Posts to `path` with the first key.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request =
            client().post(self.url(path)).header("DD-API-KEY", KEY).header("Content-Type", "application/json");
        request.body(body).send().await.expect("an answer")
    }

    /// Posts entries with these numbers, which must be accepted.
    pub async fn push(&self, numbers: std::ops::Range<usize>) {
        let entries: Vec<_> = numbers.map(entry).collect();
        let answer = self.post("/api/v2/logs", serde_json::to_vec(&entries).expect("JSON")).await;
        assert_eq!(answer.status(), 202);
    }

    /// Sends these bytes as they are.
    pub async fn send(&self, text: &str) -> Answer {
        self.probe.send(text.as_bytes()).await
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client")
}

pub fn entry(n: usize) -> Value {
    json!({"ddsource":"test","service":"test","hostname":"h","message":format!("event {n}"),"n":n,"evt":{"id":n.to_string()}})
}

/// The numbers of the printed entries, in order.
pub fn numbers(printed: &str) -> Vec<u64> {
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|entry| entry["n"].as_u64()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn every_way_in_which_datadogs_clients_send_is_taken_and_answered_as_they_expect() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    let plain = br#"[{"n":1}]"#.to_vec();
    for (path, key, encoding, kind, body, status) in [
        ("/api/v2/logs", true, None, Some("application/json"), plain.clone(), 202),
        ("/api/v2/logs", true, Some("gzip"), Some("application/json"), gzip(br#"[{"n":2}]"#), 202),
        ("/api/v2/logs", true, Some("deflate"), Some("application/json"), zlib(br#"[{"n":3}]"#), 202),
        ("/api/v2/logs", true, Some("zstd"), None, zstd::encode_all(&br#"{"n":4}"#[..], 1).unwrap(), 202),
        ("/v1/input", true, None, Some("application/json"), br#"{"n":5}"#.to_vec(), 200),
        ("/v1/input/first-key-0123456789", false, Some("x-gzip"), None, gzip(br#"{"n":6}"#), 200),
        (
            "/api/v2/logs?dd-api-key=second-key-0123456789",
            false,
            None,
            Some("application/x-ndjson"),
            b"{\"n\":7}\n{\"n\":8}\n".to_vec(),
            202,
        ),
        ("/v1/input?service=s&ddtags=a:1", true, None, Some("text/plain"), b"a text".to_vec(), 200),
        ("/api/v2/logs", true, None, Some("application/logplex-1"), b"6 <1>1 x".to_vec(), 202),
        // Agents send these to keep a connection: nothing is stored.
        ("/api/v2/logs", true, None, Some("application/json"), b"{}".to_vec(), 202),
        ("/api/v2/logs", true, None, Some("application/json"), b"[]".to_vec(), 202),
        ("/v1/input", true, None, None, Vec::new(), 200),
    ] {
        let mut request = client().post(reception.url(path)).body(body);
        for (name, value) in
            [("dd-api-key", key.then_some(KEY)), ("content-encoding", encoding), ("content-type", kind)]
        {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {encoding:?} {kind:?}");
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.text().await.unwrap(), "{}", "{path}");
    }
    daemon.prints(|text| text.lines().count() >= 10).await;
    let ended = stop(daemon).await;
    assert_eq!(numbers(&ended.stdout), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(ended.stdout.contains(r#"{"service":"s","ddtags":"a:1","message":"a text"}"#), "{}", ended.stdout);
    assert!(ended.stdout.contains(r#"{"message":"<1>1 x"}"#), "{}", ended.stdout);
    assert_eq!(ended.stdout.lines().count(), 10, "{}", ended.stdout);
}

/// Vector's receiver answers 200, which strict clients take for a failure.
#[tokio::test]
async fn a_client_of_the_second_version_is_answered_202() {
    let reception = Reception::usual();
    let daemon = reception.started().await;
    let answer = reception.post("/api/v2/logs", r#"[{"message":"m"}]"#).await;
    assert_eq!(answer.status(), 202);
    let answer = reception.post("/v1/input", r#"[{"message":"m"}]"#).await;
    assert_eq!(answer.status(), 200);
    stop(daemon).await;
}

/// A receiver that logs the path of a request shows the key of `/v1/input/<key>`.
#[tokio::test]
async fn no_key_is_taken_but_ours_and_none_is_shown() {
    let reception = Reception::usual();
    let daemon = reception.started().await;
    let guess = "guess-0123456789abcdef";
    for (request, status) in [
        (client().post(reception.url("/api/v2/logs")).header("DD-API-KEY", guess), 403),
        (client().post(reception.url(&format!("/v1/input/{guess}"))), 403),
        (client().post(reception.url(&format!("/api/v2/logs?dd-api-key={guess}"))), 403),
        (client().post(reception.url("/api/v2/logs")), 401),
        (client().post(reception.url("/test.log")), 401),
        (client().post(reception.url("/test.log")).bearer_auth(guess), 401),
        (client().get(reception.url("/api/v1/validate")), 403),
        (client().get(reception.url(&format!("/api/v1/validate?api_key={guess}"))), 403),
        (client().post(reception.url(&format!("/v1/input/{KEY}"))), 200),
        (client().post(reception.url("/test.log")).bearer_auth(OTHER_KEY), 200),
        (client().get(reception.url("/api/v1/validate")).header("DD-API-KEY", OTHER_KEY), 200),
        (client().get(reception.url("/nothing")), 404),
        (client().put(reception.url("/api/v2/logs")), 405),
    ] {
        let answer = request.header("Content-Type", "application/json").body(r#"{"n":1}"#).send().await.unwrap();
        assert_eq!(answer.status(), status, "{}", answer.url());
        let text = answer.text().await.unwrap();
        assert!(!text.contains(guess) && !text.contains(KEY), "{text}");
    }
    let ended = stop(daemon).await;
    for secret in [guess, KEY, OTHER_KEY] {
        assert!(!ended.everything().contains(secret), "{}", ended.everything());
    }
    assert!(ended.stderr.contains("a sender has no key or a wrong one"), "{}", ended.stderr);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_whole_in_the_form_of_its_version() {
    let reception = Reception::usual();
    let daemon = reception.started().await;
    let many = format!("[{}]", vec![r#"{"a":1}"#; 1001].join(","));
    let large = format!(r#"[{{"a":"{}"}}]"#, "x".repeat(5 * 1024 * 1024));
    for (body, encoding, status) in [
        (b"[{\"n\":1},2]".to_vec(), None, 400),
        (b"{\"n\":1".to_vec(), None, 400),
        (many.clone().into_bytes(), None, 413),
        (large.into_bytes(), None, 413),
        (gzip(&vec![b' '; 100 * 1024 * 1024]), Some("gzip"), 413),
        (b"not gzip".to_vec(), Some("gzip"), 400),
        (b"[]".to_vec(), Some("br"), 415),
    ] {
        let request = client().post(reception.url("/api/v2/logs")).header("DD-API-KEY", KEY);
        let request = request.header("Content-Type", "application/json").body(body);
        let request =
            if let Some(encoding) = encoding { request.header("Content-Encoding", encoding) } else { request };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{encoding:?}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["errors"][0]["status"], status.to_string(), "{error}");
    }
    let error: Value = reception.post("/v1/input", "{").await.json().await.unwrap();
    assert_eq!(error["code"], 400);
    let ended = stop(daemon).await;
    assert_eq!(ended.stdout, "", "nothing of it was taken");
}

#[tokio::test]
async fn clients_of_fluentd_push_objects_arrays_and_lines_under_a_tag() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    for (path, kind, body, status) in [
        ("/test.log", "application/json", r#"{"event":"user.login","n":1}"#, 200),
        ("/test.log", "application/json", r#"[{"n":2},{"n":3}]"#, 200),
        ("/session.8d38-a.log", "application/x-ndjson", "{\"n\":4}\n{\"n\":5}\n", 200),
        ("/test.log", "application/json", "{", 400),
        ("/test.log", "text/plain", "x", 400),
    ] {
        let request = client().post(reception.url(path)).bearer_auth(KEY).header("Content-Type", kind).body(body);
        assert_eq!(request.send().await.unwrap().status(), status, "{path} {body}");
    }
    daemon.prints(|text| text.lines().count() >= 5).await;
    assert_eq!(numbers(&stop(daemon).await.stdout), [1, 2, 3, 4, 5]);
}

/// EZCA offers no way to read missed events again, so no accepted event may be lost.
#[tokio::test]
async fn what_was_answered_while_datadog_was_down_arrives_after_kill_9() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    intake.go_down().await;
    let reception = Reception::usual().to(&intake);
    let daemon = reception.started().await;
    reception.push(0..300).await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    intake.come_back().await;
    let daemon = reception.started().await;
    intake.wait_for_ids(300).await;
    stop(daemon).await;
    assert_eq!((intake.ids().len(), intake.count()), (300, 300));
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn after_a_stop_nothing_is_delivered_again() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let reception = Reception::usual().to(&intake);
    for round in 0..3 {
        let daemon = reception.started().await;
        reception.push(round * 100..(round + 1) * 100).await;
        intake.wait_for_ids((round + 1) * 100).await;
        stop(daemon).await;
    }
    assert_eq!((intake.ids().len(), intake.count()), (300, 300));
}

/// EZCA's events reach Datadog without a severity; only the vendor's documents have the table of events. Of its form of
/// records, only `service` and `EventID` are public; the rest here is invented.
#[tokio::test]
async fn events_of_ezca_arrive_with_the_severity_of_its_table_and_otherwise_as_they_were_sent() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let reception = Reception::usual().to(&intake);
    let daemon = reception.started().await;
    let sent = json!([
        {"service":"EZCA","ddsource":"ezca","EventID":4888,"message":"denied","x":{"y":1}},
        {"service":"EZCA","ddsource":"ezca","EventID":"4870","message":"revoked","ddtags":"a:1"},
        {"service":"EZCA","ddsource":"ezca","EventID":5000,"message":"new"},
    ]);
    assert_eq!(reception.post("/api/v2/logs", sent.to_string()).await.status(), 202);
    intake.wait_for_entries(3).await;
    stop(daemon).await;
    assert_eq!(intake.violations(), [""; 0]);
    let entries = intake.entries();
    for (entry, status, outcome) in [(&entries[0], "error", "failure"), (&entries[1], "warn", "success")] {
        assert_eq!((&entry["status"], &entry["evt"]["outcome"]), (&json!(status), &json!(outcome)), "{entry}");
        assert_eq!(entry["evt"]["severity"], status);
        assert_eq!(entry["evt"]["category"], "certificate");
    }
    assert_eq!(entries[2]["status"], "info", "an unknown event passes");
    assert_eq!((&entries[0]["x"], &entries[0]["ddsource"]), (&json!({"y":1}), &json!("ezca")));
    assert_eq!((&entries[0]["ddtags"], &entries[1]["ddtags"]), (&json!("team:pki"), &json!("a:1,team:pki")));
}

/// Datadog reads a status by its first letters, so `DENIED` would be a debug message.
#[tokio::test]
async fn an_outcome_that_stands_for_the_status_is_no_debug_message() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let reception = Reception::usual().to(&intake);
    let daemon = reception.started().await;
    let sent =
        r#"[{"message":"m","status":"DENIED"},{"message":"m","status":"APPROVED"},{"message":"m","status":"warn"}]"#;
    assert_eq!(reception.post("/api/v2/logs", sent).await.status(), 202);
    intake.wait_for_entries(3).await;
    stop(daemon).await;
    let statuses: Vec<_> = intake.entries().iter().map(|entry| entry["status"].clone()).collect();
    assert_eq!(statuses, ["error", "info", "warn"]);
    assert_eq!(intake.entries()[0]["evt"]["outcome"], "DENIED");
    assert_eq!(intake.violations(), [""; 0]);
}
