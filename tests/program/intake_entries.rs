//! Tests the entries that arrive at the intake: within its limits, with the promised labels, times and marks.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::stage::{Stage, ago};
use crate::support::{IntakeOptions, Record, ScmOptions};

const LOOKBACK: &str = "SECTIGO_AUDIT_SYNC_LOOKBACK";
const COMPRESSION: &str = "DD_LOGS_CONFIG_COMPRESSION_KIND";

/// Pages of this many records.
async fn pages_of(page_size: usize) -> Stage {
    Stage::of(ScmOptions { page_size, ..ScmOptions::default() }, IntakeOptions::default()).await
}

/// The entry of the record with this id.
fn entry(stage: &Stage, id: &str) -> Value {
    let entries = stage.intake.entries();
    entries.into_iter().find(|entry| entry["evt"]["id"] == id).expect("it has arrived")
}

#[tokio::test]
async fn every_entry_carries_the_labels_the_id_and_the_record() {
    let stage = pages_of(100).await;
    let stage = stage.with("DD_TAGS", "team:pki, tier:1").with("DD_ENV", "prod").with("DD_SERVICE", "scm-eu");
    let stage = stage.with("DD_HOSTNAME", "relay-7").with("DD_SOURCE", "Sectigo-EU");
    let records = stage.records(20, 1500, 2);
    stage.push_all(records.clone());
    stage.run_to(0).await;
    for record in records {
        let entry = entry(&stage, &record.id);
        assert_eq!(entry["ddtags"], "team:pki,tier:1,env:prod");
        assert_eq!(entry["service"], "scm-eu");
        assert_eq!(entry["hostname"], "relay-7");
        assert_eq!(entry["ddsource"], "sectigo-eu");
        assert_eq!(entry["timestamp"], record.at.as_millisecond());
        assert_eq!(entry["sectigo"], serde_json::from_str::<Value>(&record.json).unwrap());
        assert_eq!(entry.get("auditsync"), None);
    }
    stage.assert_all_once();
}

#[tokio::test]
async fn a_record_arrives_byte_for_byte() {
    let stage = pages_of(100).await;
    let odd = r#"{ "id" : "odd" , "n" : 1.50, "u":"\u00e9\/","e":{},"created":"2026-01-01T00:00:00Z" }"#;
    stage.push_all(vec![Record::raw(ago(60), odd)]);
    stage.run_to(0).await;
    let body = String::from_utf8(stage.intake.bodies()[0].to_vec()).unwrap();
    assert!(body.contains(odd), "{body}");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_record_that_is_no_object_is_delivered() {
    let stage = pages_of(100).await;
    stage.scm.push(["17", "\"text\"", "null", "[1]"].map(|json| Record::raw(ago(60), json)));
    stage.run_to(0).await;
    let mut arrived: Vec<_> = stage.intake.entries().iter().map(|entry| entry["sectigo"].to_string()).collect();
    arrived.sort();
    assert_eq!(arrived, ["\"text\"", "17", "[1]", "null"]);
    stage.assert_protocol();
}

/// Checks that everything arrives, in requests with this `Content-Encoding`.
async fn is_sent_as(kind: &str, encoding: &str) {
    let stage = pages_of(100).await.with(COMPRESSION, kind);
    stage.push(150, 1500, 2);
    stage.run_to(0).await;
    for request in stage.intake.requests() {
        assert_eq!(request.encoding, encoding);
        assert_eq!(request.sent_bytes < request.bytes, encoding != "identity");
    }
    stage.assert_all_once();
}

#[tokio::test]
async fn entries_are_sent_as_gzip() {
    is_sent_as("gzip", "gzip").await;
}

#[tokio::test]
async fn entries_are_sent_as_zstd() {
    is_sent_as("zstd", "zstd").await;
}

#[tokio::test]
async fn entries_are_sent_as_they_are() {
    is_sent_as("none", "identity").await;
}

#[tokio::test]
async fn a_large_page_goes_out_in_requests_of_a_thousand_entries() {
    let stage = pages_of(5000).await;
    stage.push(5000, 1500, 2);
    stage.run_to(0).await;
    let entries: Vec<_> = stage.intake.requests().iter().map(|request| request.entries).collect();
    assert_eq!(entries, [1000; 5]);
    stage.assert_all_once();
}

#[tokio::test]
async fn large_records_go_out_in_bodies_within_the_limit() {
    let stage = pages_of(100).await;
    let large = |record: Record| {
        let details = "y".repeat(240_000);
        Record { json: format!(r#"{{"filler":"{details}",{}"#, &record.json[1..]), ..record }
    };
    stage.push_all(stage.records(50, 1500, 2).into_iter().map(large).collect());
    stage.run_to(0).await;
    let requests = stage.intake.requests();
    assert!(requests.iter().all(|request| request.bytes <= 5_000_000), "{requests:?}");
    assert_eq!(requests.len(), 3, "and as few of them as can be");
    stage.assert_all_once();
}

#[tokio::test]
async fn an_entry_over_a_megabyte_is_cut_marked_and_kept_whole() {
    let stage = pages_of(100).await;
    let mut records = stage.records(30, 1500, 2);
    let json = format!(r#"{{"id":"huge","action":"login","details":"{}"}}"#, "z".repeat(1_000_000));
    records[11] = Record::raw(records[11].at, json.clone());
    stage.push_all(records);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("truncated=1"), "{}", ended.stderr);
    stage.assert_all_once();

    let entry = entry(&stage, "huge");
    assert!(entry.to_string().len() <= 25_000, "{} bytes", entry.to_string().len());
    assert_eq!((&entry["auditsync"]["truncated"], entry.get("sectigo")), (&"true".into(), None));
    assert!(json.starts_with(entry["sectigo_raw"].as_str().unwrap().trim_end_matches('…')));
    let rejected = stage.setup.dead_letters();
    assert_eq!(rejected.len(), 1);
    assert_eq!((&rejected[0]["id"], &rejected[0]["fate"]), (&"huge".into(), &"truncated".into()));
    assert_eq!(rejected[0]["record"], serde_json::from_str::<Value>(&json).unwrap());
}

#[tokio::test]
async fn an_event_that_is_too_old_carries_the_present_time_and_its_own() {
    let stage = pages_of(100).await.with(LOOKBACK, "18h").with("SECTIGO_AUDIT_SYNC_WINDOW", "24h");
    let old = stage.records(3, 17 * 3600 + 1800, 17 * 3600 + 60);
    stage.push_all(old.clone());
    stage.push(10, 16 * 3600 + 1800, 2);
    let started = ago(0).as_millisecond();
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("restamped=3"), "{}", ended.stderr);
    for record in old {
        let entry = entry(&stage, &record.id);
        let sent_at = entry["timestamp"].as_i64().unwrap();
        assert!(sent_at >= started && sent_at <= ago(0).as_millisecond());
        assert_eq!(entry["auditsync"]["restamped"], "true");
        let told: Timestamp = entry["auditsync"]["event_time"].as_str().unwrap().parse().unwrap();
        assert_eq!(told, record.at);
    }
    let marked = stage.intake.entries().iter().filter(|entry| entry.get("auditsync").is_some()).count();
    assert_eq!(marked, 3, "none of the others");
    stage.assert_all_once();
}

#[tokio::test]
async fn events_of_days_ago_are_delivered_after_the_state_was_set_back() {
    let stage = pages_of(100).await.with("SECTIGO_AUDIT_SYNC_WINDOW", "24h");
    stage.push(40, 70 * 3600, 2);
    let since = ago(71 * 3600).to_string();
    let set = stage.setup.run(&["state", "set", "--since", &since, "--yes"]).await;
    assert_eq!(set.code(), Some(0), "{}", set.stderr);
    stage.run_to(0).await;
    assert!(stage.intake.entries().iter().any(|entry| entry["auditsync"]["restamped"] == "true"));
    stage.assert_all_once();
}

#[tokio::test]
async fn an_event_far_ahead_carries_the_present_time_and_its_own() {
    let stage = pages_of(100).await;
    let (far, near) = (ago(0) + Duration::from_hours(3), ago(0) + Duration::from_hours(1));
    let record =
        |id: &str, created: Timestamp| Record::raw(ago(60), format!(r#"{{"id":"{id}","created":"{created}"}}"#));
    stage.push_all(vec![record("far", far), record("near", near)]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("restamped=1"), "{}", ended.stderr);
    let told: Timestamp = entry(&stage, "far")["auditsync"]["event_time"].as_str().unwrap().parse().unwrap();
    assert_eq!(told, far);
    assert_eq!(entry(&stage, "near")["timestamp"], near.as_millisecond());
    stage.assert_all_once();
}
