//! Tests ranges and their limits: windows, overlaps, clocks and late records.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::stage::{Stage, ago, ten_a_page};
use crate::support::{Fault, IntakeOptions, Record, Records, ScmOptions};

const WINDOW: &str = "SECTIGO_AUDIT_SYNC_WINDOW";
const DELAY: &str = "SECTIGO_AUDIT_SYNC_DELAY";
const OVERLAP: &str = "SECTIGO_AUDIT_SYNC_OVERLAP";
const LOOKBACK: &str = "SECTIGO_AUDIT_SYNC_LOOKBACK";

/// A source whose clock is this many seconds ahead.
async fn dated(date_offset: i64) -> Stage {
    Stage::of(ScmOptions { date_offset, ..ten_a_page() }, IntakeOptions::default()).await
}

#[tokio::test]
async fn a_backlog_is_drained_in_steps_of_a_window() {
    let stage = Stage::usual().await.with(WINDOW, "10m").with(OVERLAP, "0s").with(LOOKBACK, "1h");
    stage.push(120, 3500, 2);
    stage.run_to(0).await;
    let ranges: Vec<_> = stage.openings().iter().map(|request| (request.from.unwrap(), request.to.unwrap())).collect();
    assert!(ranges.len() >= 6, "{ranges:?}");
    for (from, to) in &ranges {
        assert!(to.duration_since(*from) <= SignedDuration::from_mins(10), "{from} to {to}");
    }
    for pair in ranges.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "each range starts where the one before ended");
    }
    assert_eq!(stage.since(), ranges.last().unwrap().1);
    stage.assert_all_once();
}

#[tokio::test]
async fn windows_overlap_and_nothing_is_sent_twice() {
    let stage = Stage::usual().await.with(WINDOW, "10m").with(LOOKBACK, "1h");
    stage.push(120, 3500, 2);
    stage.run_to(0).await;
    let openings = stage.openings();
    for pair in openings.windows(2) {
        assert!(pair[1].from < pair[0].to, "a range reaches back into the one before");
        let first = openings[0].from;
        assert!(pair[1].from >= first, "and never before the first one");
    }
    stage.assert_all_once();
}

#[tokio::test]
async fn a_record_that_comes_late_within_the_overlap_is_delivered_once() {
    let stage = Stage::usual().await.with(DELAY, "60s");
    stage.push(30, 1500, 2);
    stage.run_to(0).await;
    let before = stage.intake.count();
    let until = stage.since();
    // They belong to a time that is read, and to the overlap.
    let late = Records::seeded(1).between(until - Duration::from_secs(190), until - Duration::from_secs(40), 5);
    stage.push_all(late);

    let stage = stage.with(DELAY, "0s");
    stage.run_to(0).await;
    assert!(stage.intake.count() > before);
    stage.assert_all_once();
}

#[tokio::test]
async fn what_is_newer_than_the_delay_waits_for_the_next_run() {
    let stage = Stage::usual().await.with(DELAY, "10m");
    stage.push(20, 1500, 700);
    stage.run_to(0).await;
    stage.assert_all_once();
    let latest = Timestamp::now() - Duration::from_mins(10);
    assert!(stage.authorized().iter().all(|request| request.to.unwrap() <= latest));

    stage.push(20, 500, 2);
    stage.run_to(0).await;
    assert_eq!(stage.intake.count(), 20);
    let stage = stage.with(DELAY, "0s");
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn equal_records_are_as_many_as_the_source_has() {
    let stage = Stage::usual().await.with(DELAY, "60s");
    let record = stage.records(1, 200, 100).remove(0);
    stage.push_all(vec![record.clone(), record.clone()]);
    stage.run_to(0).await;
    assert_eq!(stage.intake.ids()[&record.id], 2);
    // A third one of the same content comes late.
    stage.push_all(vec![record.clone()]);
    let stage = stage.with(DELAY, "0s");
    stage.run_to(0).await;
    assert_eq!((stage.intake.ids()[&record.id], stage.intake.count()), (3, 3));
    stage.assert_protocol();
}

#[tokio::test]
async fn records_without_a_time_of_their_own_are_delivered_once() {
    let stage = Stage::usual().await.with(DELAY, "60s");
    let undated = |n: u64| Record::raw(ago(70 + n), format!(r#"{{"id":"undated-{n}","action":"login"}}"#));
    stage.push_all((0..30).map(undated).collect());
    stage.run_to(0).await;
    let stage = stage.with(DELAY, "0s");
    stage.push(5, 50, 2);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_overlap_that_holds_too_many_records_shrinks_with_a_warning() {
    let options = ScmOptions { page_size: 1000, ..ScmOptions::default() };
    let stage = Stage::of(options, IntakeOptions::default()).await.with(DELAY, "60s");
    stage.push(5000, 280, 61);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains(OVERLAP), "{}", ended.stderr);
    let document = stage.setup.state().unwrap().to_string();
    assert!(document.len() < 4096 * 11 + 1000, "{} bytes", document.len());

    stage.push(50, 59, 2);
    let stage = stage.with(DELAY, "0s");
    let ended = stage.run_to(0).await;
    assert!(!ended.stderr.contains("omitted all"), "{}", ended.stderr);
    stage.assert_all_once();
}

/// Makes a run against a server whose clock is two minutes behind, and another one when it is right.
async fn nothing_is_lost_to_a_clock_behind(delay: &str, delay_seconds: u64) {
    let stage = dated(-120).await.with(DELAY, delay).with(OVERLAP, "0s");
    stage.push(30, 1500, 125 + delay_seconds);
    stage.run_to(0).await;
    let requests = stage.authorized();
    assert!(requests.len() > 1, "{requests:?}");
    for request in &requests[1..] {
        let latest = Timestamp::try_from(request.time).unwrap() - Duration::from_secs(120 + delay_seconds);
        assert!(request.to.unwrap() <= latest, "{request:?}");
    }
    stage.assert_all_once();

    // Their time was requested once, and the answer was dropped.
    stage.push(30, 115 + delay_seconds, delay_seconds + 2);
    stage.scm.set_date_offset(0);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_server_clock_behind_ours_counts() {
    nothing_is_lost_to_a_clock_behind("0s", 0).await;
}

#[tokio::test]
async fn a_server_clock_behind_ours_counts_with_the_delay() {
    nothing_is_lost_to_a_clock_behind("30s", 30).await;
}

#[tokio::test]
async fn a_cursor_ahead_of_the_servers_clock_is_reported_and_loses_nothing() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "1s").with(DELAY, "60s");
    stage.push(30, 1500, 100);
    stage.run_to(0).await;
    stage.scm.set_date_offset(-7200);
    stage.push(30, 50, 2);
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("is later than the clock of"), "{}", ended.stderr);
    assert_eq!(stage.intake.count(), 30);
    stage.scm.set_date_offset(0);
    let stage = stage.with(DELAY, "0s");
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_server_clock_that_goes_back_in_a_range_is_reported_and_does_not_spin() {
    let stage = dated(-60).await.with("SECTIGO_AUDIT_RETRY_BUDGET", "1s");
    stage.begins_at(ago(90)).await;
    stage.push(30, 80, 70);
    // The range is shortened to the time on the clock; then the clock shows an earlier time.
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::Slow(Duration::from_millis(300))]);
    let daemon = stage.setup.start(&[]);
    stage.scm.wait_until("the request for the shortened range", |requests| requests.len() >= 3).await;
    stage.scm.set_date_offset(-3600);
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains("is later than the clock of"), "{}", ended.stderr);
    assert!(stage.scm.requests().len() < 20, "{}", stage.scm.requests().len());
    stage.scm.set_date_offset(0);
    stage.run_to(0).await;
    stage.assert_none_lost();
}

#[tokio::test]
async fn a_server_clock_ahead_of_ours_counts() {
    let stage = dated(7200).await;
    stage.push(30, 1500, 2);
    stage.run_to(0).await;
    for request in stage.authorized() {
        let theirs = Timestamp::try_from(request.time).unwrap() + Duration::from_hours(2);
        assert!(request.to.unwrap() <= theirs, "{request:?}");
    }
    assert!(stage.since() > ago(60) + Duration::from_hours(2), "{}", stage.since());
    stage.assert_all_once();
}

#[tokio::test]
async fn a_server_without_a_date_is_read_by_our_clock() {
    let stage = Stage::of(ScmOptions { omit_date: true, ..ten_a_page() }, IntakeOptions::default()).await;
    stage.push(30, 1500, 2);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn records_that_are_not_stable_are_reported_and_not_delivered_twice() {
    let options = ScmOptions { unstable_records: true, ..ScmOptions::default() };
    let stage = Stage::of(options, IntakeOptions::default()).await.with(DELAY, "60s");
    stage.push(30, 280, 70);
    let ended = stage.run_to(0).await;
    assert!(!ended.stderr.contains("omitted all"), "{}", ended.stderr);
    stage.push(5, 50, 2);
    let stage = stage.with(DELAY, "0s").with("SECTIGO_AUDIT_RETRY_BUDGET", "2s");
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("omitted all"), "{}", ended.stderr);
    assert_eq!(stage.intake.count(), 30, "nothing of it is delivered");
}

#[tokio::test]
async fn one_empty_answer_does_not_end_the_protection_of_late_records() {
    let stage = Stage::usual().await.with(DELAY, "60s");
    stage.push(30, 280, 70);
    stage.run_to(0).await;
    // They became visible late; and the next answer is a passing fault.
    stage.push(5, 270, 100);
    stage.source_meets([Fault::PASS, Fault::Body("[]".into())]);
    let stage = stage.with(DELAY, "0s");
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("omitted all 30 records"), "{}", ended.stderr);
    stage.assert_all_once();
}
