//! Tests `/metrics`: its counts match what the servers saw.

use std::collections::BTreeSet;

use auditsync::telemetry::metrics::{Kind, METRICS};
use serde_json::Value;

use crate::probe::{ANSWERING, LISTEN, Probe, value};
use crate::stage::{Stage, ago, stop, ten_a_page};
use crate::support::{Fault, IntakeOptions, Predicate, Record};

/// A daemon in a loop, with a port for probes.
async fn asked(intake: IntakeOptions, interval: &str) -> (Stage, Probe) {
    let probe = Probe::new();
    let stage = Stage::of(ten_a_page(), intake).await.with(LISTEN, probe.address());
    (stage.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_INTERVAL", interval), probe)
}

/// A count in the form of a metric.
#[allow(clippy::cast_precision_loss, reason = "tests count to some hundreds")]
fn number(count: usize) -> f64 {
    count as f64
}

#[track_caller]
fn assert_shows(scrape: &str, series: &str, expected: usize) {
    let (shown, expected) = (value(scrape, series), number(expected));
    assert!((shown - expected).abs() < 0.5, "{series} is {shown}, not {expected}:\n{scrape}");
}

/// The family, the name without a suffix, and the labels of a line.
fn series(line: &str) -> (&str, Vec<(&str, &str)>) {
    let (name, labels) = line.split_once(['{', ' ']).unwrap();
    let labels = labels.split_once('}').filter(|_| line.contains('{')).map_or("", |(labels, _)| labels);
    let pair = |label| {
        let (name, value): (&str, &str) = str::split_once(label, '=').unwrap();
        (name, value.trim_matches('"'))
    };
    (name, labels.split(',').filter(|label| !label.is_empty()).map(pair).collect())
}

#[tokio::test]
async fn every_metric_of_the_table_is_in_a_scrape_and_nothing_else() {
    let (stage, probe) = asked(IntakeOptions::default(), "1h").await;
    stage.push(30, 1500, 2);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    let answer = probe.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let typed: BTreeSet<_> = answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    // Only a source with a spool knows its age.
    let ours = || METRICS.iter().filter(|metric| metric.name != "auditsync_spool_oldest_entry_timestamp_seconds");
    let table: Vec<_> = ours().map(|metric| format!("{} {}", metric.name, metric.kind.name())).collect();
    assert_eq!(typed, table.iter().map(String::as_str).collect(), "{}", answer.body);
    for metric in ours() {
        let help = format!("# HELP {} {}\n", metric.name, metric.help);
        assert!(answer.body.contains(&help), "{help}");
    }
    for line in answer.body.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, labels) = series(line);
        let of_it = |name: &str| METRICS.iter().find(|metric| metric.name == name);
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| of_it(name.strip_suffix(suffix)?));
        let metric = of_it(name).or(stem).unwrap_or_else(|| panic!("{line}"));
        for (label, value) in labels {
            let is_pipeline = label == "pipeline" && name != "auditsync_build_info" && value == "sectigo:datadog";
            let is_bound = label == "le" && matches!(metric.kind, Kind::Histogram { .. });
            let is_known = metric.labels.iter().any(|known| known.name == label && known.values.contains(&value));
            assert!(is_pipeline || is_bound || is_known, "{line}");
        }
    }
    stop(daemon).await;
}

/// A fake that refuses the record with this id in every form.
fn refusing(id: &'static str) -> IntakeOptions {
    let in_text = move |entry: &Value| {
        let message = entry["message"].as_str().unwrap_or_default();
        entry.get("sectigo").is_none() && message.contains(&format!("\"{id}\""))
    };
    IntakeOptions {
        poison: Some(Predicate::new(move |entry| entry["sectigo"]["id"] == id)),
        poison_text: Some(Predicate::new(in_text)),
        ..IntakeOptions::default()
    }
}

#[tokio::test]
async fn what_is_counted_is_what_the_source_and_the_destination_saw_whatever_fails() {
    let (stage, probe) = asked(refusing("poison"), "1h").await;
    let mut records = stage.records(50, 1500, 2);
    let Record { at, .. } = records[25];
    records[25] = Record::raw(at, format!(r#"{{"id":"poison","action":"login","created":"{at}"}}"#));
    stage.push_all(records);
    // All three meet the request for the first page. A request ahead may be repeated without being counted as a retry.
    stage.source_meets([Fault::PASS, Fault::Status(503), Fault::Reset, Fault::TruncatedBody]);
    stage.intake_meets([
        Fault::Status(503),
        Fault::PASS,
        Fault::Unanswered,
        Fault::StatusWithRetryAfter(429, "1".into()),
    ]);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    let scrape = probe.get("/metrics").await.body;

    let requests = stage.intake.requests();
    let answered = |status| requests.iter().filter(|request| request.status == status).count();
    let accepted: usize =
        requests.iter().filter(|request| request.status == Some(202)).map(|request| request.entries).sum();
    let notices = stage.intake.entries().iter().filter(|entry| entry["evt"].get("id").is_none()).count();
    assert_eq!(accepted - notices, 49);
    assert!(stage.intake.count() > accepted, "a page was taken without an answer, which is not counted as delivered");
    assert_shows(&scrape, "auditsync_events_delivered_total", accepted - notices);
    assert_shows(&scrape, "auditsync_events_dead_lettered_total", 1);
    let without_answer = requests.iter().filter(|request| request.status.is_none()).map(|request| request.entries);
    assert_shows(&scrape, "auditsync_events_possibly_duplicated_total", without_answer.sum());
    assert_shows(&scrape, "auditsync_events_read_total", 50);
    assert_shows(&scrape, "auditsync_events_deduplicated_total", 0);
    let to_intake = |status| format!("auditsync_requests_total{{component=\"destination\",status=\"{status}\"}}");
    assert_shows(&scrape, &to_intake("2xx"), answered(Some(202)));
    assert_shows(&scrape, &to_intake("4xx"), answered(Some(400)) + answered(Some(429)));
    assert_shows(&scrape, &to_intake("5xx"), 1);
    assert_shows(&scrape, &to_intake("none"), 1);
    assert_shows(&scrape, "auditsync_request_duration_seconds_count{component=\"destination\"}", requests.len());
    assert_shows(
        &scrape,
        "auditsync_request_body_sent_bytes_total",
        requests.iter().map(|request| request.sent_bytes).sum(),
    );
    assert_shows(
        &scrape,
        "auditsync_request_body_uncompressed_bytes_total",
        requests.iter().map(|request| request.bytes).sum(),
    );
    assert_shows(&scrape, "auditsync_retries_total{component=\"destination\",reason=\"unavailable\"}", 3);
    assert_shows(&scrape, "auditsync_retries_total{component=\"source\",reason=\"unavailable\"}", 3);
    assert_shows(&scrape, "auditsync_requests_total{component=\"source\",status=\"5xx\"}", 1);
    assert_shows(&scrape, "auditsync_requests_total{component=\"source\",status=\"none\"}", 2);
    assert_shows(
        &scrape,
        "auditsync_requests_total{component=\"token_endpoint\",status=\"2xx\"}",
        stage.scm.token_requests(),
    );
    assert_shows(&scrape, "auditsync_sync_duration_seconds_count{result=\"complete\"}", 1);
    assert_shows(&scrape, "auditsync_state_saves_total{result=\"conflict\"}", 0);
    assert!(value(&scrape, "auditsync_state_saves_total{result=\"saved\"}") >= 2.0);
    let since = value(&scrape, "auditsync_cursor_timestamp_seconds");
    let difference = since - number(usize::try_from(stage.since().as_second()).unwrap());
    assert!(difference.abs() < 0.5, "the cursor is the state's: {difference}");
    assert!(value(&scrape, "auditsync_last_commit_timestamp_seconds") >= since);
    assert!(value(&scrape, "auditsync_newest_event_timestamp_seconds") <= since);
    stop(daemon).await;
    stage.assert_protocol();
}

#[tokio::test]
async fn what_is_changed_on_its_way_is_counted() {
    let (stage, probe) = asked(IntakeOptions::default(), "1h").await;
    let stage = stage.with("SECTIGO_AUDIT_SYNC_LOOKBACK", "18h");
    let (old, recent) = (ago(17 * 3600 + 1800), ago(60));
    let record = |id: &str, at: jiff::Timestamp, details: &str| {
        Record::raw(at, format!(r#"{{"id":"{id}","action":"login","created":"{at}","details":"{details}"}}"#))
    };
    stage.push_all(vec![
        record("old", old, ""),
        record("older", old, "x"),
        record("large", recent, &"x".repeat(1_100_000)),
        record("usual", recent, ""),
    ]);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    let scrape = probe.get("/metrics").await.body;
    assert_shows(&scrape, "auditsync_events_delivered_total", 4);
    assert_shows(&scrape, "auditsync_events_restamped_total", 2);
    assert_shows(&scrape, "auditsync_events_truncated_total", 1);
    assert_shows(&scrape, "auditsync_events_dead_lettered_total", 0);
    stop(daemon).await;
}

#[tokio::test]
async fn what_is_read_again_is_counted_apart() {
    let (stage, probe) = asked(IntakeOptions::default(), "5s").await;
    stage.push(5, 100, 50);
    let daemon = stage.setup.start(&[]);
    stage.intake.wait_for_ids(5).await;
    stage.push(1, 1, 0);
    stage.intake.wait_for_ids(6).await;
    let again = "auditsync_events_deduplicated_total";
    let scrape = probe.until("/metrics", |answer| value(&answer.body, again) > 0.5).await.body;
    let (read, again) = (value(&scrape, "auditsync_events_read_total"), value(&scrape, again));
    assert!((read - again - 6.0).abs() < 0.5, "{scrape}");
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn without_an_address_nobody_listens() {
    let (stage, probe) = asked(IntakeOptions::default(), "1h").await;
    let stage = stage.without(LISTEN);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    assert!(!daemon.stderr().contains(ANSWERING), "{}", daemon.stderr());
    assert!(tokio::net::TcpStream::connect(probe.address()).await.is_err());
    stop(daemon).await;
}
