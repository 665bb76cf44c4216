//! Tests several pipelines in one process: each has its own cursor, and none holds up another.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::daemon::{Daemon, Ended};
use crate::probe::Probe;
use crate::stage::{Stage, stop};
use crate::support::Fault;

const BOTH: &str = "sectigo:datadog,sectigo:stdout";

/// A source, an intake, and standard output as a second destination.
async fn both() -> Stage {
    Stage::usual().await.with("AUDITSYNC_PIPELINES", BOTH)
}

fn forever(stage: Stage) -> Stage {
    stage.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_INTERVAL", "5s")
}

/// Counts how often each record is in an output.
fn printed(stdout: &str) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for line in stdout.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        *ids.entry(record["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    ids
}

fn cursor_of(stage: &Stage, pipeline: &str) -> Option<Value> {
    let path = stage.setup.folder().join(format!("auditsync-{pipeline}.json"));
    Some(serde_json::from_slice(&std::fs::read(path).ok()?).unwrap())
}

async fn printed_all(daemon: &mut Daemon, count: usize) {
    daemon.prints(|stdout| stdout.lines().count() >= count).await;
}

#[tokio::test]
async fn one_run_delivers_to_both_and_stores_a_cursor_for_each() {
    let stage = both().await;
    stage.push(25, 1500, 60);
    let ended = stage.setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_all_once();
    let ids = printed(&ended.stdout);
    assert_eq!((ids.len(), ids.values().sum::<usize>()), (25, 25));
    for (file, pipeline) in [("sectigo-datadog", "sectigo:datadog"), ("sectigo-stdout", "sectigo:stdout")] {
        assert_eq!(cursor_of(&stage, file).unwrap()["pipeline"], pipeline);
    }
    for pipeline in ["sectigo:datadog", "sectigo:stdout"] {
        assert!(ended.stderr.contains(&format!("pipeline{{name={pipeline}}}")), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_record_is_printed_byte_for_byte() {
    let stage = Stage::usual().await.with("AUDITSYNC_PIPELINES", "sectigo:stdout").without("DD_API_KEY");
    let records = stage.records(5, 1500, 60);
    let expected: Vec<_> = records.iter().map(|record| record.json.clone()).collect();
    stage.push_all(records);
    let ended = stage.setup.run(&[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_outage_of_one_destination_holds_up_no_other_pipeline() {
    let stage = forever(both().await);
    stage.push(20, 1500, 300);
    stage.intake.answer_always(Some(Fault::Status(503)));
    let mut daemon = stage.setup.start(&[]);
    printed_all(&mut daemon, 20).await;
    daemon.says("the destination failed").await;
    assert_eq!(stage.intake.count(), 0);
    assert!(cursor_of(&stage, "sectigo-stdout").is_some());
    stage.intake.answer_always(None);
    stage.push(10, 60, 2);
    stage.intake.wait_for_entries(30).await;
    printed_all(&mut daemon, 30).await;
    let ended = stop(daemon).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_all_once();
    let ids = printed(&ended.stdout);
    assert_eq!((ids.len(), ids.values().sum::<usize>()), (30, 30), "no duplicate at a clean stop");
}

#[tokio::test]
async fn after_a_kill_each_pipeline_continues_from_its_own_cursor_and_nothing_is_lost() {
    let stage = forever(both().await);
    stage.push(200, 1500, 300);
    let mut outputs = String::new();
    for round in 0..5 {
        let mut daemon = stage.setup.start(&[]);
        let before = stage.intake.count();
        // The kill comes in the middle of a backlog, or after its delivery.
        stage.intake.wait_for_entries(before.max(20 * (round + 1)).min(200)).await;
        printed_all(&mut daemon, usize::from(round == 0)).await;
        daemon.signal("KILL").await;
        let ended = daemon.ended().await;
        outputs += complete_lines(&ended);
    }
    let ended = stage.setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    outputs += &ended.stdout;
    assert_eq!(stage.intake.ids().len(), 200, "nothing is lost");
    let ids = printed(&outputs);
    assert_eq!(ids.len(), 200, "nothing is lost");
    // A kill leaves at most two pages of ten in flight.
    for sent in [stage.intake.count(), ids.values().sum()] {
        assert!(sent <= 200 + 5 * 20, "{sent}");
    }
}

/// The lines, except one that the kill cut off.
fn complete_lines(ended: &Ended) -> &str {
    let last = ended.stdout.trim_end().rfind('\n').map_or(0, |end| end + 1);
    let is_complete = serde_json::from_str::<Value>(&ended.stdout[last..]).is_ok();
    if is_complete { &ended.stdout } else { &ended.stdout[..last] }
}

#[tokio::test]
async fn a_pipeline_that_fails_for_good_is_not_ready_and_the_other_goes_on() {
    let probe = Probe::new();
    let stage = forever(both().await).with("AUDITSYNC_HTTP_LISTEN", probe.address());
    stage.intake.set_api_key("fedcba9876543210fedcba9876543210");
    stage.push(20, 1500, 300);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the pipeline failed").await;
    printed_all(&mut daemon, 20).await;
    stage.push(5, 60, 2);
    printed_all(&mut daemon, 25).await;
    let ready = probe.get("/readyz").await;
    assert_eq!(ready.status, 503);
    let answer = ready.json();
    let status = |pipeline: &str| {
        let all = answer["pipelines"].as_array().unwrap();
        all.iter().find(|one| one["pipeline"] == pipeline).unwrap()["status"].clone()
    };
    assert_eq!((status("sectigo:datadog"), status("sectigo:stdout")), ("not ready".into(), "ready".into()));
    assert!(ready.body.contains("rejected the API key"), "{}", ready.body);
    assert_eq!(probe.get("/healthz").await.status, 200, "a failed pipeline is no reason to restart the process");
    let listen = probe.address();
    for (pipeline, code) in [("sectigo:datadog", 75), ("sectigo:stdout", 0)] {
        let stage = both().await.with("AUDITSYNC_HTTP_LISTEN", listen.as_str());
        let ended = stage.setup.run(&["health", "--ready", "--pipeline", pipeline]).await;
        assert_eq!(ended.code(), Some(code), "{pipeline}: {}", ended.everything());
    }
    let delivered = "auditsync_events_delivered_total{pipeline=\"sectigo:stdout\"} 25";
    probe.until("/metrics", |answer| answer.body.contains(delivered)).await;
    let scrape = probe.get("/metrics").await.body;
    for line in [
        "auditsync_pipeline_failures_total{pipeline=\"sectigo:datadog\"} 1",
        "auditsync_ready{pipeline=\"sectigo:datadog\"} 0",
        "auditsync_ready{pipeline=\"sectigo:stdout\"} 1",
    ] {
        assert!(scrape.contains(line), "{line}: {scrape}");
    }
    let ended = stop(daemon).await;
    assert_eq!(ended.code(), Some(0), "a daemon that is stopped ends well: {}", ended.stderr);
}

/// A one-shot to Datadog beside a daemon that prints.
async fn one_shot_beside_a_daemon() -> (Probe, Stage) {
    let probe = Probe::new();
    let stage = Stage::usual()
        .await
        .with("AUDITSYNC_PIPELINES", "sectigo.once:datadog,sectigo.always:stdout")
        .with("SECTIGO_ALWAYS_AUDIT_SYNC_LOOP", "true")
        .with("SECTIGO_ALWAYS_AUDIT_SYNC_INTERVAL", "5s")
        .with("AUDITSYNC_HTTP_LISTEN", probe.address());
    (probe, stage)
}

#[tokio::test]
async fn a_one_shot_that_is_done_stays_ready_beside_a_daemon() {
    let (probe, stage) = one_shot_beside_a_daemon().await;
    stage.push(25, 1500, 60);
    let mut daemon = stage.setup.start(&[]);
    printed_all(&mut daemon, 25).await;
    probe.until("/readyz", |answer| answer.status == 200 && answer.body.contains("its run is done")).await;
    let ended = stop(daemon).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_one_shot_that_fails_is_reported_at_once_and_the_daemon_beside_it_goes_on() {
    let (probe, stage) = one_shot_beside_a_daemon().await;
    let stage = stage.with("SECTIGO_ONCE_AUDIT_API_CLIENT_SECRET", "wrong");
    stage.push(25, 1500, 60);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the pipeline failed").await;
    printed_all(&mut daemon, 25).await;
    probe.until("/readyz", |answer| answer.status == 503 && answer.body.contains("the pipeline failed")).await;
    let ended = stop(daemon).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

#[tokio::test]
async fn a_one_shot_runs_all_and_ends_with_the_gravest_code() {
    let stage = both().await;
    stage.intake.set_api_key("fedcba9876543210fedcba9876543210");
    stage.push(20, 1500, 300);
    let ended = stage.setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(77), "{}", ended.stderr);
    assert_eq!(printed(&ended.stdout).len(), 20);
}

#[tokio::test]
async fn a_command_may_be_narrowed_to_one_pipeline() {
    let stage = both().await;
    stage.push(20, 1500, 300);
    let ended = stage.setup.run(&["run", "--once", "--pipeline", "sectigo:stdout"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!((printed(&ended.stdout).len(), stage.intake.hits()), (20, 0));
    let shown = stage.setup.run(&["state", "show", "--pipeline", "sectigo:stdout"]).await;
    let document: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(document["pipeline"], "sectigo:stdout");
    let set = stage.setup.run(&["state", "set", "--since", "2026-03-01T12:00:00Z"]).await;
    assert_eq!(set.code(), Some(64), "{}", set.stderr);
    assert!(set.stderr.contains("--pipeline"), "{}", set.stderr);
    let unknown = stage.setup.run(&["check", "--pipeline", "sectigo:nowhere"]).await;
    assert_eq!(unknown.code(), Some(64), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("sectigo:datadog, sectigo:stdout"), "{}", unknown.stderr);
}

#[tokio::test]
async fn check_covers_every_pipeline() {
    let ended = both().await.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    let (first, second) = ended.stdout.split_once("\nsectigo:stdout\n").expect("a heading for each");
    assert!(first.contains("\nsectigo:datadog\n") && first.contains("API key"), "{first}");
    assert!(second.contains("audit records") && second.contains("standard output"), "{second}");
}

#[tokio::test]
async fn a_dry_run_prints_what_each_destination_would_send() {
    let stage = both().await;
    stage.push(3, 1500, 300);
    let ended = stage.setup.run(&["run", "--dry-run"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entries = lines.iter().filter(|line| line.get("ddsource").is_some()).count();
    assert_eq!((entries, lines.len() - entries), (3, 3));
    assert_eq!(stage.intake.hits(), 0);
    assert!(cursor_of(&stage, "sectigo-datadog").is_none());
}

#[tokio::test]
async fn an_idle_sync_logs_nothing_at_info() {
    let stage = forever(Stage::usual().await).with("SECTIGO_AUDIT_LOG_LEVEL", "info");
    let daemon = stage.setup.start(&[]);
    stage.scm.wait_until("the second sync", |requests| requests.len() > 3).await;
    stage.scm.wait_until("the third", |requests| requests.len() > 5).await;
    let ended = stop(daemon).await;
    assert!(!ended.stderr.contains("synced"), "{}", ended.stderr);
}
