//! Tests recorded sessions: they are read to their end, one page at a time, and never hold up the audit log.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::stage::{ago, stop};
use crate::support::{AuditEvent, Recording, TeleportOptions};
use crate::teleport::{Cluster, ids, lines};

async fn with_sessions(options: TeleportOptions) -> Cluster {
    Cluster::of(options).await.with("TELEPORT_AUDIT_SESSIONS", "true")
}

/// A recording of this many commands, with a print between any two.
fn recording(session: &str, commands: i64) -> Recording {
    let event = |index: i64| {
        let kind = if index % 2 == 1 { "print" } else { "session.command" };
        AuditEvent::of_session(kind, session, index, ago(900))
    };
    Recording { events: (0..commands * 2).map(event).collect(), ..Recording::default() }
}

fn upload(session: &str, time: Timestamp) -> AuditEvent {
    AuditEvent::upload(&format!("upload-{session}"), session, time)
}

/// The number of records of the session, without the upload itself.
fn of_session(records: &[Value], session: &str) -> usize {
    ids(records).iter().filter(|id| id.starts_with(&format!("{session}-"))).count()
}

#[tokio::test]
async fn sessions_are_off_unless_they_are_wanted() {
    let cluster = Cluster::usual().await;
    cluster.auth.set_recording("s1", recording("s1", 5));
    cluster.auth.push([upload("s1", ago(60))]);
    assert_eq!(cluster.printed_ids().await, ["upload-s1"]);
    assert_eq!(cluster.auth.streams(), []);
}

#[tokio::test]
async fn a_stored_recording_is_read_once_and_whole_without_what_is_skipped() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.auth.set_recording("s1", recording("s1", 1700));
    cluster.auth.push([upload("s1", ago(60))]);
    let printed = cluster.printed().await;
    assert_eq!((of_session(&printed, "s1"), printed.len()), (1700, 1701));
    assert!(printed.iter().all(|record| record["event"] != "print"));
    assert_eq!(cluster.auth.streams(), [("s1".to_owned(), 0)], "one request: each makes an audit event");
    assert_eq!(cluster.printed().await.len(), 0);
    assert_eq!(cluster.auth.streams().len(), 1);
    let cluster = with_sessions(TeleportOptions::default()).await.with("TELEPORT_AUDIT_SKIP_SESSION_TYPES", "none");
    cluster.auth.set_recording("s1", recording("s1", 10));
    cluster.auth.push([upload("s1", ago(60))]);
    assert_eq!(of_session(&cluster.printed().await, "s1"), 20);
}

#[tokio::test]
async fn a_recording_that_is_uploaded_again_brings_only_what_is_new() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.auth.set_recording("s1", recording("s1", 5));
    cluster.auth.push([upload("s1", ago(60))]);
    assert_eq!(of_session(&cluster.printed().await, "s1"), 5);
    cluster.auth.set_recording("s1", recording("s1", 7));
    cluster.auth.push([AuditEvent::upload("again", "s1", ago(50))]);
    let mut found = cluster.printed_ids().await;
    found.sort();
    assert_eq!(found, ["again", "s1-10", "s1-12"]);
    assert_eq!(cluster.auth.streams(), [("s1".to_owned(), 0), ("s1".to_owned(), 9)]);
}

#[tokio::test]
async fn sessions_are_found_although_their_upload_is_not_of_a_wanted_type() {
    let cluster = with_sessions(TeleportOptions::default()).await.with("TELEPORT_AUDIT_TYPES", "user.login");
    cluster.auth.set_recording("s1", recording("s1", 3));
    cluster.auth.push([upload("s1", ago(60))]);
    cluster.auth.push(AuditEvent::logins(0, 2, ago(30)));
    let printed = cluster.printed().await;
    assert_eq!((of_session(&printed, "s1"), printed.len()), (3, 5), "{:?}", ids(&printed));
    assert_eq!(cluster.printed().await.len(), 0);
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_from_its_index_and_repeats_nothing() {
    // Wherever the stream breaks, the event before it was delivered.
    let cluster = with_sessions(TeleportOptions::default()).await.with("TELEPORT_AUDIT_SKIP_SESSION_TYPES", "none");
    cluster.auth.set_recording("s1", Recording { breaks_after: Some(2501), ..recording("s1", 2000) });
    cluster.auth.push([upload("s1", ago(60))]);
    let printed = cluster.printed().await;
    let expected: Vec<_> = (0..4000).map(|n| format!("s1-{n}")).collect();
    let found: Vec<_> = ids(&printed).into_iter().filter(|id| id.starts_with("s1-")).collect();
    assert_eq!(found, expected);
    let streams = cluster.auth.streams();
    assert_eq!(streams.len(), 2);
    assert!(streams[1].1 > 1000, "{streams:?}");
}

/// Defect 44659: a missing recording deadlocked the event handler.
#[tokio::test]
async fn a_missing_recording_holds_nothing_up_and_is_read_when_it_comes() {
    let cluster = with_sessions(TeleportOptions { page_size: 10, ..TeleportOptions::default() }).await;
    cluster.auth.set_recording("gone", Recording { missing: true, ..Recording::default() });
    cluster.auth.set_recording("s2", recording("s2", 5));
    cluster.auth.push([upload("gone", ago(700)), upload("s2", ago(699))]);
    cluster.auth.push(AuditEvent::logins(0, 100, ago(60)));
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 107).await;
    daemon.says("cannot be read; auditsync tries again later").await;
    cluster.auth.set_recording("gone", recording("gone", 4));
    daemon.prints(|text| text.lines().count() == 111).await;
    let ended = stop(daemon).await;
    let mut seen = ids(&lines(&ended.stdout));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 111);
}

#[tokio::test]
async fn a_recording_that_is_missing_for_48_hours_is_a_dead_letter_by_its_id() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.auth.push([upload("gone", ago(600))]);
    assert_eq!(cluster.printed_ids().await, ["upload-gone"]);
    assert_eq!(cluster.dead_letters(), [Value::Null; 0]);
    cluster.change_cursor(|cursor| {
        let session = &mut cursor["sessions"][0];
        assert_eq!(session["id"], "gone");
        session["stored"] = "2026-01-01T00:00:00Z".into();
        session["failing"]["since"] = "2026-01-01T00:00:00Z".into();
        session["failing"]["times"] = 60.into();
        session["failing"]["due"] = "2026-01-01T00:00:00Z".into();
    });
    cluster.run_to(0).await;
    let letters = cluster.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0]["fate"], &letters[0]["id"]), (&"missing".into(), &"gone".into()));
    assert!(letters[0]["reason"].as_str().unwrap().contains("could not be read for 2days"), "{}", letters[0]);
    assert!(cluster.state()["cursor"].get("sessions").is_none());
    let streams = cluster.auth.streams().len();
    cluster.run_to(0).await;
    assert_eq!(cluster.auth.streams().len(), streams, "it is given up");
}

#[tokio::test]
async fn a_dry_run_makes_no_dead_letter_of_a_missing_recording() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.auth.push([upload("gone", ago(600))]);
    cluster.run_to(0).await;
    cluster.change_cursor(|cursor| {
        let session = &mut cursor["sessions"][0];
        session["stored"] = "2026-01-01T00:00:00Z".into();
        session["failing"]["since"] = "2026-01-01T00:00:00Z".into();
        session["failing"]["times"] = 60.into();
        session["failing"]["due"] = "2026-01-01T00:00:00Z".into();
    });
    let ended = cluster.setup.run(&["run", "--dry-run"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(cluster.dead_letters(), [Value::Null; 0]);
}

#[tokio::test]
async fn a_full_list_of_recordings_that_may_still_be_read_makes_the_audit_log_wait_and_no_dead_letter() {
    let cluster = with_sessions(TeleportOptions::default()).await.with("AUDITSYNC_RETRY_BUDGET", "0s");
    cluster.run_to(0).await;
    let failing = |since: &str, may_pass: bool| serde_json::json!({"since": since, "times": 12, "due": "2100-01-01T00:00:00Z", "may_pass": may_pass});
    let long_ago = "2026-01-01T00:00:00Z";
    cluster.change_cursor(|cursor| {
        let session = |n: usize| serde_json::json!({"id": format!("s{n}"), "stored": long_ago, "failing": failing(long_ago, true)});
        cursor["sessions"] = (0..1024).map(session).collect();
    });
    cluster.auth.push(AuditEvent::logins(0, 5, ago(1)));
    let ended = cluster.run_to(75).await;
    assert!(
        ended.stderr.contains("1024 recorded sessions wait, and auditsync can read none of them"),
        "{}",
        ended.stderr
    );
    assert_eq!((ended.stdout.lines().count(), cluster.dead_letters().len()), (0, 0));
    // One of them has failed in another way for long, so it makes room.
    cluster.change_cursor(|cursor| cursor["sessions"][7]["failing"] = failing(long_ago, false));
    let ended = cluster.run_to(0).await;
    assert_eq!(ended.stdout.lines().count(), 5, "{}", ended.stderr);
    let letters = cluster.dead_letters();
    assert_eq!((letters.len(), &letters[0]["id"]), (1, &"s7".into()));
}

/// Defect 60317: one malformed event of a session ended the event handler.
#[tokio::test]
async fn a_malformed_event_of_a_session_costs_that_event_alone() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    let mut broken = recording("s1", 3);
    broken.events[2] = broken.events[2].clone().with_struct(Some(vec![0x0a, 0x7f, 1]));
    cluster.auth.set_recording("s1", broken);
    cluster.auth.push([upload("s1", ago(60))]);
    let ended = cluster.run_to(0).await;
    let printed = lines(&ended.stdout);
    assert_eq!(of_session(&printed, "s1"), 3);
    let reduced: Vec<_> = printed.iter().filter(|record| record.get("auditsync_malformed").is_some()).collect();
    assert_eq!(reduced.len(), 1);
    assert_eq!((&reduced[0]["uid"], &reduced[0]["ei"]), (&"s1-2".into(), &2.into()));
    assert!(ended.stderr.contains("has an event that is malformed"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_recording_that_is_long_in_coming_does_not_hold_up_the_audit_log() {
    let cluster = with_sessions(TeleportOptions { page_size: 10, ..TeleportOptions::default() }).await;
    let cluster = cluster.with("AUDITSYNC_HTTP_TIMEOUT", "600s");
    cluster.auth.set_recording("slow", Recording { held: true, ..recording("slow", 5) });
    cluster.auth.push([upload("slow", ago(700))]);
    cluster.auth.push(AuditEvent::logins(0, 50, ago(60)));
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 51).await;
    assert_eq!(cluster.auth.streams().len(), 1, "it stays open");
    stop(daemon).await;
}

#[tokio::test]
async fn a_recording_that_loads_for_longer_than_a_request_may_take_is_read_with_one_request() {
    let cluster = with_sessions(TeleportOptions::default()).await.with("AUDITSYNC_HTTP_TIMEOUT", "1s");
    cluster.auth.set_recording("slow", Recording { loading: Duration::from_secs(3), ..recording("slow", 5) });
    cluster.auth.push([upload("slow", ago(700))]);
    assert_eq!(of_session(&cluster.printed().await, "slow"), 5);
    assert_eq!(cluster.auth.streams(), [("slow".to_owned(), 0)]);
}

#[tokio::test]
async fn the_audit_log_goes_on_however_many_sessions_wait_for_a_recording_that_is_long_in_coming() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.run_to(0).await;
    let id = |n: usize| format!("s{n}");
    (0..300).for_each(|n| cluster.auth.set_recording(&id(n), Recording { held: true, ..recording(&id(n), 5) }));
    cluster.change_cursor(|cursor| {
        let session = |n: usize| serde_json::json!({"id": id(n), "stored": "2026-01-01T00:00:00Z"});
        cursor["sessions"] = (0..300).map(session).collect();
    });
    cluster.auth.push(AuditEvent::logins(0, 5, ago(1)));
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 5).await;
    stop(daemon).await;
}

#[tokio::test]
async fn sessions_in_the_state_are_not_read_while_sessions_are_off_and_none_is_forgotten() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.auth.push([upload("s1", ago(60))]);
    cluster.run_to(0).await;
    let requested = cluster.auth.streams().len();
    cluster.auth.set_recording("s1", recording("s1", 5));
    cluster.change_cursor(|cursor| cursor["sessions"][0]["failing"]["due"] = "2026-01-01T00:00:00Z".into());
    let cluster = cluster.with("TELEPORT_AUDIT_SESSIONS", "false");
    cluster.auth.push(AuditEvent::logins(0, 5, ago(1)));
    let ended = cluster.run_to(0).await;
    assert_eq!((ended.stdout.lines().count(), cluster.auth.streams().len()), (5, requested), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("recorded sessions wait in the state").count(), 1, "{}", ended.stderr);
    let cluster = cluster.with("TELEPORT_AUDIT_SESSIONS", "true");
    assert_eq!(of_session(&cluster.printed().await, "s1"), 5);
}

#[tokio::test]
async fn sessions_that_wait_are_read_after_an_operator_has_set_the_cursor() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    let sessions = ["s1", "s2", "s3"];
    cluster.auth.push(sessions.map(|session| upload(session, ago(900))));
    cluster.run_to(0).await;
    for session in sessions {
        cluster.auth.set_recording(session, recording(session, 5));
    }
    let since = cluster.state()["cursor"]["log"]["since"].as_str().unwrap().to_owned();
    let set = cluster.setup.run(&["state", "set", "--since", &since, "--yes"]).await;
    assert_eq!(set.code(), Some(0), "{}", set.everything());
    assert!(set.stderr.contains("the new state keeps the work that waits in the old one"), "{}", set.stderr);
    let printed = cluster.printed().await;
    assert_eq!(sessions.map(|session| of_session(&printed, session)), [5; 3], "{:?}", ids(&printed));
    assert_eq!(printed.len(), 15, "{:?}", ids(&printed));
    let set = cluster.setup.run(&["state", "set", "--since", &since, "--yes"]).await;
    assert!(!set.stderr.contains("recorded sessions"), "none waits: {}", set.stderr);
}

#[tokio::test]
async fn a_session_that_may_not_be_read_is_kept_and_the_audit_log_goes_on() {
    let cluster = with_sessions(TeleportOptions::default()).await;
    cluster.auth.deny_sessions(true);
    cluster.auth.set_recording("s1", recording("s1", 5));
    cluster.auth.push([upload("s1", ago(60))]);
    cluster.auth.push(AuditEvent::logins(0, 5, ago(30)));
    let ended = cluster.run_to(0).await;
    assert_eq!(ended.stdout.lines().count(), 6);
    assert!(ended.stderr.contains("resources: [event, session]"), "{}", ended.stderr);
    cluster.auth.deny_sessions(false);
    cluster.change_cursor(|cursor| cursor["sessions"][0]["failing"]["due"] = "2026-01-01T00:00:00Z".into());
    assert_eq!(of_session(&cluster.printed().await, "s1"), 5);
}
