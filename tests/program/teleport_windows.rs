//! Tests windows and keys of Teleport's search: late events, repeated events, and a server's treatment of keys.

use std::time::Duration;

use serde_json::json;

use crate::probe::Probe;
use crate::stage::{ago, stop};
use crate::support::{AuditEvent, PageKeys, SearchRequest, TeleportOptions, Trouble};
use crate::teleport::{Cluster, ids};

fn keys(searches: &[SearchRequest]) -> Vec<&str> {
    searches.iter().map(|search| search.key.as_str()).filter(|key| !key.is_empty()).collect()
}

/// Defect 58365 of the event handler.
#[tokio::test]
async fn a_key_never_leaves_its_window() {
    let cluster = Cluster::of(TeleportOptions { page_size: 20, ..TeleportOptions::default() }).await;
    let cluster = cluster.with("TELEPORT_AUDIT_WINDOW", "10m").with("TELEPORT_AUDIT_SYNC_OVERLAP", "1m");
    cluster.auth.push(AuditEvent::logins(0, 3000, ago(5)));
    // The fake returns nothing for a key of another window, and notes the breach.
    let printed = cluster.printed().await;
    assert_eq!(printed, cluster.auth.log());
    let searches = cluster.auth.searches();
    let first = searches.iter().filter(|search| search.key.is_empty()).count();
    assert!(first >= 6 && keys(&searches).len() > 100, "{first} windows with {} keys", keys(&searches).len());
}

#[tokio::test]
async fn a_late_event_within_the_overlap_arrives_and_nothing_else_again() {
    let cluster = Cluster::usual().await.with("TELEPORT_AUDIT_SYNC_OVERLAP", "5m");
    cluster.auth.push(AuditEvent::logins(0, 200, ago(2)));
    assert_eq!(cluster.printed().await.len(), 200);
    // Late events after those that were read, among them, and as old as the overlap reaches.
    let late: Vec<_> =
        [100, 150, 290].map(|seconds| AuditEvent::login(&format!("late-{seconds}"), ago(seconds))).into();
    cluster.auth.push(late);
    assert_eq!(cluster.printed_ids().await, ["late-290", "late-150", "late-100"]);
    assert_eq!(cluster.printed().await.len(), 0);
}

#[tokio::test]
async fn events_of_one_time_are_neither_lost_nor_repeated_at_the_ends_of_pages_and_windows() {
    for whole_seconds in [false, true] {
        let options = TeleportOptions { page_size: 7, whole_seconds, ..TeleportOptions::default() };
        let cluster = Cluster::of(options).await.with("TELEPORT_AUDIT_WINDOW", "1m");
        let cluster = cluster.with("TELEPORT_AUDIT_SYNC_OVERLAP", "1s");
        let begin = ago(600);
        let event =
            |n: usize| AuditEvent::login(&format!("tie-{n:03}"), begin + Duration::from_secs(n as u64 / 10 * 20));
        cluster.auth.push((0..200).map(event));
        let mut printed = cluster.printed_ids().await;
        printed.sort();
        assert_eq!(printed, (0..200).map(|n| format!("tie-{n:03}")).collect::<Vec<_>>(), "{whole_seconds}");
        assert_eq!(cluster.printed().await.len(), 0);
    }
}

#[tokio::test]
async fn windows_that_begin_and_end_within_a_second_lose_and_repeat_nothing_on_a_backend_of_whole_seconds() {
    let cluster = Cluster::of(TeleportOptions { whole_seconds: true, ..TeleportOptions::default() }).await;
    let cluster = cluster.with("TELEPORT_AUDIT_SYNC_OVERLAP", "1s");
    let mut printed = Vec::new();
    for round in 0..8 {
        cluster.auth.push((0..5).map(|n| AuditEvent::login(&format!("{round}-{n}"), ago(0))));
        printed.extend(cluster.printed_ids().await);
    }
    printed.extend(cluster.printed_ids().await);
    assert_eq!(printed, ids(&cluster.auth.log()));
}

/// Upgrades the server within a window. Everything arrives once all the same. Returns how often the server answered with `status`.
async fn refusals_after_an_upgrade(cluster: &Cluster, status: i32) -> usize {
    cluster.auth.push(AuditEvent::logins(0, 200, ago(600)));
    let mut daemon = cluster.setup.start(&["run", "--once"]);
    cluster.auth.wait_for_searches(8).await;
    cluster.auth.upgrade();
    daemon.says("no longer accepts the key of a page").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 200);
    assert_eq!(crate::teleport::lines(&ended.stdout), cluster.auth.log());
    assert_eq!(cluster.auth.violations(), [""; 0]);
    cluster.auth.searches().iter().filter(|search| search.status == Some(status)).count()
}

/// Defect 50554: after an upgrade of the server a stored key was an error for ever.
#[tokio::test]
async fn a_key_of_before_an_upgrade_leads_to_the_same_window_without_it_and_repeats_nothing() {
    let cluster = Cluster::of(TeleportOptions { page_size: 10, ..TeleportOptions::default() }).await;
    cluster.auth.meet([Trouble::EmptyPage, Trouble::EmptyPage]);
    assert_eq!(refusals_after_an_upgrade(&cluster, 3).await, 1);
}

/// The answer of a server to a key that it cannot decode. The status is `Unknown`, as for many other failures.
const UNDECODABLE: (i32, &str) = (2, "invalid character 'v' looking for beginning of value");

#[tokio::test]
async fn a_key_that_the_server_cannot_decode_is_dropped_after_three_refusals() {
    let options = TeleportOptions { page_size: 10, key_refusal: UNDECODABLE, ..TeleportOptions::default() };
    let cluster = Cluster::of(options).await;
    assert_eq!(refusals_after_an_upgrade(&cluster, 2).await, 3);
}

#[tokio::test]
async fn a_server_that_takes_no_key_is_an_error_with_the_way_out_and_is_not_called_in_a_hot_loop() {
    for key_refusal in [UNDECODABLE, (3, "unsupported start key")] {
        let options =
            TeleportOptions { page_size: 10, keys: PageKeys::None, key_refusal, ..TeleportOptions::default() };
        // Before auditsync blames the key, it retries for up to six seconds. The budget must not end before that.
        let cluster = Cluster::of(options).await.with("AUDITSYNC_RETRY_BUDGET", "20s");
        cluster.auth.push(AuditEvent::logins(0, 200, ago(600)));
        let ended = cluster.run_to(75).await;
        for part in ["refuses the key of a page", "TELEPORT_AUDIT_WINDOW", "`auditsync state set --since "] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
        assert_eq!(ended.stdout.lines().count(), 10);
        let searches = cluster.auth.searches().len();
        assert!(searches < 60, "{searches}");
    }
}

/// A server whose clock is behind stands for a machine whose clock is ahead. Nothing shows the true time: the server
/// sends no `Date`.
#[tokio::test]
async fn a_clock_an_hour_ahead_costs_no_event() {
    let cluster = Cluster::usual().await;
    let hour = 3600;
    cluster.auth.push(AuditEvent::logins(0, 20, ago(hour + 60)));
    let cluster = cluster.with("AUDITSYNC_SYNC_LOOKBACK", "2h");
    let newest = cluster.auth.log()[19]["time"].as_str().unwrap().to_owned();
    assert_eq!(cluster.printed().await, cluster.auth.log());
    // By our clock these events are much older than the overlap. By the server's clock they have just happened.
    let newest: jiff::Timestamp = newest.parse().unwrap();
    cluster.auth.push((0..5).map(|n| AuditEvent::login(&format!("next-{n}"), newest + Duration::from_secs(1 + n))));
    assert_eq!(cluster.printed_ids().await, ["next-0", "next-1", "next-2", "next-3", "next-4"]);
    assert_eq!(cluster.printed().await.len(), 0);
}

#[tokio::test]
async fn an_invalid_request_without_a_key_is_a_configuration_error() {
    let cluster = Cluster::usual().await;
    cluster.auth.meet_always(Some(Trouble::Status(3, "bad window")));
    let ended = cluster.setup.start_with(&[("AUDITSYNC_RETRY_BUDGET", "0s")], &["run", "--once"]).ended().await;
    assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("TELEPORT_AUDIT_WINDOW"), "{}", ended.stderr);
}

#[tokio::test]
async fn empty_and_short_pages_with_a_key_go_on() {
    let cluster = Cluster::of(TeleportOptions { page_size: 3, ..TeleportOptions::default() }).await;
    cluster.auth.push(AuditEvent::logins(0, 30, ago(600)));
    cluster.auth.meet([Trouble::EmptyPage, Trouble::EmptyPage, Trouble::EmptyPage]);
    assert_eq!(cluster.printed().await, cluster.auth.log());
}

#[tokio::test]
async fn pages_that_lead_in_a_circle_are_an_error_and_the_cursor_stays() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 30, ago(600)));
    cluster.auth.meet_always(Some(Trouble::Circle));
    let ended = cluster.setup.start_with(&[("AUDITSYNC_RETRY_BUDGET", "0s")], &["run", "--once"]).ended().await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("repeats its pages without a new event"), "{}", ended.stderr);
    cluster.auth.meet_always(None);
    assert_eq!(cluster.printed().await, cluster.auth.log());
}

#[tokio::test]
async fn a_start_holds_for_the_first_sync_and_a_later_change_is_no_error() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 100, ago(600)));
    let start = cluster.auth.log()[40]["time"].as_str().unwrap().to_owned();
    let cluster = cluster.with("TELEPORT_AUDIT_START", start);
    assert_eq!(cluster.printed().await, cluster.auth.log()[40..], "the event of that very time, too");
    let cluster = cluster.with("TELEPORT_AUDIT_START", "2020-01-01T00:00:00Z");
    assert_eq!(cluster.printed().await.len(), 0);
}

#[tokio::test]
async fn a_backlog_is_read_in_windows_from_its_oldest_event_on() {
    let cluster = Cluster::usual().await.with("AUDITSYNC_SYNC_LOOKBACK", "240h").with("TELEPORT_AUDIT_WINDOW", "24h");
    let day = 86_400;
    let events = (0..10).map(|n| AuditEvent::login(&format!("day-{n}"), ago(day * (10 - n) - 100)));
    cluster.auth.push(events);
    assert_eq!(cluster.printed().await, cluster.auth.log());
    let first = cluster.auth.searches().iter().filter(|search| search.key.is_empty()).count();
    assert!((10..=12).contains(&first), "{first}");
}

#[tokio::test]
async fn a_type_filter_holds_even_where_the_server_ignores_it() {
    let options = TeleportOptions { ignores_types: true, ..TeleportOptions::default() };
    let cluster = Cluster::of(options).await.with("TELEPORT_AUDIT_TYPES", "user.login, role.created");
    let cluster = cluster.with("TELEPORT_AUDIT_SKIP_TYPES", "role.created");
    cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
    for (n, kind) in ["role.created", "session.start", "user.login", "made.up"].into_iter().enumerate() {
        cluster.auth.push([AuditEvent::new(kind, &format!("other-{n}"), ago(60), json!({}))]);
    }
    let printed = cluster.printed_ids().await;
    assert_eq!(printed.len(), 6, "{printed:?}");
    assert!(printed.contains(&"other-2".to_owned()));
    assert_eq!(cluster.auth.searches()[0].types, ["user.login"]);
}

#[tokio::test]
async fn a_daemon_reads_what_is_new_in_each_sync_and_shows_metrics_and_health() {
    let probe = Probe::new();
    let cluster = Cluster::usual().await.with("AUDITSYNC_HTTP_LISTEN", probe.address());
    let cluster = cluster.with("TELEPORT_AUDIT_SKIP_TYPES", "session.data");
    cluster.auth.push(AuditEvent::logins(0, 20, ago(600)));
    cluster.auth.push([AuditEvent::new("session.data", "left-out", ago(500), json!({}))]);
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 20).await;
    cluster.auth.push(AuditEvent::logins(20, 25, ago(1)));
    daemon.prints(|text| text.lines().count() == 25).await;
    let delivered = "auditsync_events_delivered_total{pipeline=\"teleport:stdout\"} 25";
    let metrics = probe.until("/metrics", |answer| answer.body.contains(delivered)).await.body;
    assert!(metrics.contains("component=\"source\",status=\"2xx\""), "{metrics}");
    let filtered = metrics.lines().find(|line| line.starts_with("auditsync_events_filtered_total{")).unwrap();
    assert!(!filtered.ends_with(" 0"), "{filtered}");
    // A sync that takes long makes the daemon not ready for a moment.
    probe.until("/readyz", |answer| answer.status == 200).await;
    stop(daemon).await;
}
