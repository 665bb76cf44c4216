//! Tests faults of an Auth Service: refusals, silence, answers that break, and events that are large, malformed or of
//! an unknown type.

use std::time::Duration;

use serde_json::{Value, json};

use crate::stage::{ago, stop};
use crate::support::{AuditEvent, TeleportOptions, Trouble};
use crate::teleport::{Cluster, ids};

const RESOURCE_EXHAUSTED: i32 = 8;

#[tokio::test]
async fn what_may_pass_is_retried_and_nothing_is_lost_or_repeated() {
    let cluster = Cluster::of(TeleportOptions { page_size: 10, ..TeleportOptions::default() }).await;
    let cluster = cluster.with("AUDITSYNC_HTTP_TIMEOUT", "2s");
    // A slow machine adds time-outs to these failures, and each failure in a row doubles the wait.
    let cluster = cluster.with("AUDITSYNC_RETRY_BUDGET", "4m");
    cluster.auth.push(AuditEvent::logins(0, 100, ago(600)));
    cluster.auth.meet([
        Trouble::Status(14, "down"),
        Trouble::EmptyPage,
        Trouble::Status(2, "unknown"),
        Trouble::Cut,
        Trouble::BrokenOff,
        Trouble::EmptyPage,
        Trouble::Garbage,
        Trouble::Status(13, "internal"),
        Trouble::Hang,
    ]);
    assert_eq!(cluster.printed().await, cluster.auth.log());
}

/// Defect plugins 1012: time-outs of a backend ended the event handler, or hung it silently.
#[tokio::test]
async fn a_server_that_does_not_answer_is_named_with_the_time_out() {
    let cluster = Cluster::usual().await.with("AUDITSYNC_HTTP_TIMEOUT", "1s");
    cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
    cluster.auth.meet([Trouble::Hang]);
    let ended = cluster.run_to(0).await;
    let message = format!(
        "{} did not answer within 1s; if it needs longer, raise AUDITSYNC_HTTP_TIMEOUT",
        cluster.auth.address()
    );
    assert!(ended.stderr.contains(&message), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 5);
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_as_long_as_the_server_says() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
    cluster.auth.meet([Trouble::StatusAndPushback(RESOURCE_EXHAUSTED, 2500)]);
    let ended = cluster.run_to(0).await;
    assert_eq!(ended.stdout.lines().count(), 5);
    assert!(ended.stderr.contains("ResourceExhausted"), "{}", ended.stderr);
    // A one-shot that cannot wait so long says that a later run may work.
    cluster.auth.push(AuditEvent::logins(5, 6, ago(2)));
    cluster.auth.meet([Trouble::StatusAndPushback(RESOURCE_EXHAUSTED, 90_000)]);
    let ended = cluster.run_to(75).await;
    assert_eq!(ended.stdout.lines().count(), 0);
}

#[tokio::test]
async fn a_denied_search_names_the_identity_and_the_rule_that_the_role_lacks() {
    let cluster = Cluster::usual().await;
    cluster.auth.deny_search(true);
    let ended = cluster.run_to(77).await;
    for part in ["TELEPORT_AUDIT_IDENTITY", "resources: [event, session]", "verbs: [list, read]"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_permission_that_is_taken_away_while_it_runs_is_an_alarm_and_the_cursor_stays() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 5).await;
    cluster.auth.deny_search(true);
    daemon.says("denies access").await;
    daemon.says("the source needs attention").await;
    stop(daemon).await;
    cluster.auth.push(AuditEvent::logins(5, 9, ago(2)));
    cluster.auth.deny_search(false);
    assert_eq!(cluster.printed().await, cluster.auth.log()[5..]);
}

/// Defect 61645: an event over 1 MiB stalled the event handler for ever. tonic by itself refuses an answer over 4 MiB.
#[tokio::test]
async fn an_event_of_six_mebibytes_is_delivered_and_holds_nothing_up() {
    let cluster = Cluster::usual().await;
    let large = json!({"text": "x".repeat(6 * 1024 * 1024), "list": [1, 2.5, null]});
    cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
    cluster.auth.push([AuditEvent::new("session.data", "large", ago(300), large)]);
    cluster.auth.push(AuditEvent::logins(5, 10, ago(60)));
    let printed = cluster.printed().await;
    assert!(printed == cluster.auth.log(), "{:?}", ids(&printed));
}

#[tokio::test]
async fn a_page_that_is_too_large_is_requested_with_fewer_events() {
    let options = TeleportOptions { page_bytes: usize::MAX, ..TeleportOptions::default() };
    let cluster = Cluster::of(options).await;
    let text = "x".repeat(23 * 1024 * 1024);
    let event = |n: u64| AuditEvent::new("session.data", &format!("n-{n:02}"), ago(100 - n), json!({"text": text}));
    cluster.auth.push((0..3).map(event));
    let printed = cluster.printed().await;
    assert!(printed == cluster.auth.log(), "{:?}", ids(&printed));
    let limits: Vec<_> = cluster.auth.searches().iter().map(|search| search.limit).collect();
    assert!(limits.contains(&1) && limits[0] == 1000, "{limits:?}");
}

/// Defect 10788: an unknown type ended the event handler.
#[tokio::test]
async fn an_event_of_an_unknown_type_is_delivered_like_any_other() {
    let cluster = Cluster::usual().await;
    cluster.auth.push([AuditEvent::new(
        "quantum.tunnel.open",
        "new",
        ago(60),
        json!({"nested": {"a": [1, {"b": 0.5}]}}),
    )]);
    assert_eq!(cluster.printed().await, cluster.auth.log());
}

#[tokio::test]
async fn a_malformed_event_is_delivered_in_a_reduced_form_and_the_others_around_it_whole() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 3, ago(600)));
    let event = |id: &str, seconds| AuditEvent::login(id, ago(seconds));
    cluster.auth.push([
        event("nan", 500).with_nan(),
        event("no-struct", 400).with_struct(None),
        event("garbage", 300).with_struct(Some(vec![0x0a, 0x7f, 1])),
        event("no-message", 200).with_message(vec![0xff; 9]),
    ]);
    cluster.auth.push(AuditEvent::logins(3, 6, ago(60)));
    let ended = cluster.run_to(0).await;
    let printed = crate::teleport::lines(&ended.stdout);
    assert_eq!(printed.len(), 10, "{}", ended.stdout);
    assert_eq!(printed[..3], cluster.auth.log()[..3]);
    assert_eq!(printed[7..], cluster.auth.log()[7..]);
    let [nan, bare, garbage, unreadable] = [3, 4, 5, 6].map(|index| &printed[index]);
    assert_eq!((&nan["ratio"], &nan["uid"]), (&json!("NaN"), &json!("nan")));
    assert_eq!((&bare["event"], &bare["uid"]), (&json!("user.login"), &json!("no-struct")));
    assert!(bare["time"].is_string());
    assert_eq!((&garbage["event"], &garbage["uid"]), (&json!("user.login"), &json!("garbage")));
    for reduced in [garbage, unreadable] {
        assert!(reduced["auditsync_malformed"].is_string() && reduced["auditsync_message"].is_string(), "{reduced}");
    }
    assert_eq!(ended.stderr.matches("an event that is malformed").count(), 2, "{}", ended.stderr);
    let again = cluster.printed().await;
    assert_eq!(again, [Value::Null; 0], "each of them once");
}

#[tokio::test]
async fn what_is_no_auth_service_is_named_with_the_address() {
    let cluster = Cluster::usual().await;
    cluster.auth.meet_always(Some(Trouble::Status(12, "unknown service")));
    let ended = cluster.setup.start_with(&[("AUDITSYNC_RETRY_BUDGET", "0s")], &["run", "--once"]).ended().await;
    assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("check TELEPORT_AUDIT_ADDRESS"), "{}", ended.stderr);
}

#[tokio::test]
async fn check_shows_the_identity_the_server_and_the_permissions() {
    let cluster = Cluster::usual().await.with("TELEPORT_AUDIT_SESSIONS", "true");
    cluster.auth.push(AuditEvent::logins(0, 5, ago(60)));
    let checked = cluster.setup.run(&["check"]).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.everything());
    for part in [
        "of the cluster example.com, valid until",
        "Teleport \"18.5.0\", cluster \"example.com\"",
        "a page of the last hour has 5",
        "recordings may be read",
    ] {
        assert!(checked.stdout.contains(part), "{part}: {}", checked.everything());
    }
    cluster.auth.deny_sessions(true);
    let checked = cluster.setup.run(&["check"]).await;
    assert_eq!(checked.code(), Some(77), "{}", checked.everything());
    // The identity has twelve hours left of a day and a half.
    cluster.auth.deny_sessions(false);
    cluster.auth.write_identity(&cluster.identity_file(), "auditsync", Duration::from_hours(12));
    let checked = cluster.setup.run(&["check"]).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.everything());
    assert!(checked.stdout.contains("nothing seems to renew it"), "{}", checked.stdout);
}

#[tokio::test]
async fn a_dry_run_prints_and_leaves_the_state_alone() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 5, ago(60)));
    let ended = cluster.setup.run(&["run", "--dry-run"]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 5), "{}", ended.stderr);
    assert_eq!(cluster.printed().await.len(), 5);
}
