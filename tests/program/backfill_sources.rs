//! Tests `auditsync backfill` of each source: which events belong to a stretch, and when all of them are delivered.

use std::path::PathBuf;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cloudtrail::{ACCOUNT, Trail};
use crate::daemon::{Ended, Setup};
use crate::digicert::Reports;
use crate::stage::{Stage, ago};
use crate::support::{
    AuditEvent, REGION, Record, Recording, Records, TeleportOptions, log_file, log_key, minutes_ago as at, report_row,
    trail_record,
};
use crate::teleport::{Cluster, ids, lines};

/// Delivers a stretch to standard output.
async fn backfill(setup: &Setup, from: Timestamp, to: Timestamp, more: &[&str]) -> Ended {
    let (from, to) = (from.to_string(), to.to_string());
    let arguments = [&["backfill", "--from", &from, "--to", &to], more].concat();
    setup.run(&arguments).await
}

/// The path of that backfill's state.
fn state_file(setup: &Setup, pipeline: &str, from: Timestamp, to: Timestamp) -> PathBuf {
    let compact = |time: Timestamp| time.to_string().replace(['-', ':'], "");
    setup.folder().join(format!("auditsync-{pipeline}.backfill-{}-{}.json", compact(from), compact(to)))
}

/// The joints in minutes ago: the start of a stretch, its end where the next stretch starts, and the end of that one.
const JOINTS: [i64; 3] = [300, 240, 180];

/// The times around each joint, in order: a second before it, the joint, and a second after it. All but the first and the last two belong
/// to the two stretches.
fn around_the_joints() -> [Timestamp; 9] {
    let second = SignedDuration::from_secs(1);
    let [first, joint, last] = JOINTS.map(|minutes| {
        let time = at(minutes);
        [time - second, time, time + second]
    });
    std::array::from_fn(|n| [first, joint, last].concat()[n])
}

/// Delivers both stretches, and returns the numbers of their events. `number` finds the number in a printed line.
async fn both_stretches(setup: &Setup, number: impl Fn(&str) -> Option<usize>) -> Vec<usize> {
    let [first, joint, last] = JOINTS.map(at);
    let mut numbers = Vec::new();
    for (from, to) in [(first, joint), (joint, last)] {
        let ended = backfill(setup, from, to, &[]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        numbers.extend(ended.stdout.lines().map(|line| number(line).expect("one of ours")));
    }
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn stretches_of_sectigo_that_follow_each_other_leave_nothing_out_and_deliver_nothing_twice() {
    let stage = Stage::usual().await.with("AUDITSYNC_PIPELINES", "sectigo:stdout");
    let record = |(n, time)| Record::raw(time, format!(r#"{{"id":"{n}","created":"{time}"}}"#));
    stage.push_all((0..).zip(around_the_joints()).map(record).collect());
    let number = |line: &str| serde_json::from_str::<Value>(line).ok()?["id"].as_str()?.parse().ok();
    assert_eq!(both_stretches(&stage.setup, number).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn records_of_sectigo_whose_times_are_misread_are_in_a_stretch_all_the_same() {
    let stage = Stage::usual().await.with("AUDITSYNC_PIPELINES", "sectigo:stdout");
    let number = |line: &str| serde_json::from_str::<Value>(line).ok()?["id"].as_str()?.parse::<usize>().ok();
    for (begins, hours) in [(0, 2), (10, -5)] {
        // A local time without its offset.
        let local =
            |time: Timestamp| (time + SignedDuration::from_hours(hours)).strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let record = |(n, time)| Record::raw(time, format!(r#"{{"id":"{n}","created":"{}"}}"#, local(time)));
        stage.push_all((begins..).zip(around_the_joints()).map(record).collect());
    }
    let mut numbers = Vec::new();
    for (from, to) in [(at(JOINTS[0]), at(JOINTS[1])), (at(JOINTS[1]), at(JOINTS[2]))] {
        let ended = backfill(&stage.setup, from, to, &[]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("times are outside the requested range"), "{}", ended.stderr);
        numbers.extend(ended.stdout.lines().map(|line| number(line).expect("one of ours")));
    }
    for expected in (1..=6).chain(11..=16) {
        assert!(numbers.contains(&expected), "{expected}: {numbers:?}");
    }
}

#[tokio::test]
async fn a_stretch_of_sectigo_is_not_done_while_records_of_it_may_become_visible_late() {
    let stage = Stage::usual().await.with("AUDITSYNC_PIPELINES", "sectigo:stdout");
    let to = Timestamp::from_second(ago(60).as_second()).unwrap();
    let before = |seconds: i64| to - SignedDuration::from_secs(seconds);
    let push =
        |seed, n, oldest, newest| stage.push_all(Records::seeded(seed).between(before(oldest), before(newest), n));
    let from = before(3600);
    push(1, 25, 3500, 100);
    let ended = backfill(&stage.setup, from, to, &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(75), 25), "{}", ended.stderr);
    push(2, 1, 50, 30);
    // The server's clock has moved on, so the second call has something to request. The program subtracts the time that an answer took, so
    // the clock has moved on by more than that.
    stage.scm.set_date_offset(30);
    let ended = backfill(&stage.setup, from, to, &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(75), 1), "{}", ended.stderr);
}

#[tokio::test]
async fn stretches_of_digicert_that_follow_each_other_leave_nothing_out_and_deliver_nothing_twice() {
    let reports = Reports::usual().await;
    reports.fake.push((0..).zip(around_the_joints()).map(|(n, time)| report_row(time, n)));
    let number =
        |line: &str| serde_json::from_str::<Value>(line).ok()?["Message"].as_str()?.strip_prefix("row ")?.parse().ok();
    assert_eq!(both_stretches(&reports.setup, number).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn stretches_of_teleport_that_follow_each_other_leave_nothing_out_and_deliver_nothing_twice() {
    for whole_seconds in [false, true] {
        let cluster = Cluster::of(TeleportOptions { whole_seconds, ..TeleportOptions::default() }).await;
        cluster.auth.push((0..).zip(around_the_joints()).map(|(n, time)| AuditEvent::login(&n.to_string(), time)));
        let number = |line: &str| serde_json::from_str::<Value>(line).ok()?["uid"].as_str()?.parse().ok();
        assert_eq!(both_stretches(&cluster.setup, number).await, [1, 2, 3, 4, 5, 6]);
    }
}

/// The number of a trail's record.
fn number(line: &str) -> Option<usize> {
    serde_json::from_str::<Value>(line).ok()?["eventID"].as_str()?.strip_prefix("event-")?.parse().ok()
}

/// Writes a log file with one record of this number and time. Its slot is `slot` minutes ago, and it is written `behind` minutes after
/// the slot.
fn file(trail: &Trail, n: usize, (slot, behind): (i64, i64), time: Timestamp) {
    let key = log_key(ACCOUNT, REGION, at(slot), n);
    let content = log_file(&[trail_record(ACCOUNT, n, time)]);
    trail.fake.put(&key, content, at(slot) + SignedDuration::from_mins(behind));
}

#[tokio::test]
async fn stretches_of_cloudtrail_that_follow_each_other_leave_nothing_out_and_deliver_nothing_twice() {
    let trail = Trail::usual().await;
    for (n, time) in around_the_joints().into_iter().enumerate() {
        // Each event is in a file of the slot after it.
        file(&trail, n, (JOINTS[n / 3] - 5, 2), time);
    }
    assert_eq!(both_stretches(&trail.setup, number).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_bucket_that_was_copied_after_the_stretch_is_delivered_whole() {
    let trail = Trail::usual().await;
    // There are more files than a page takes. All were written after the end of the stretch, and one does not belong to it.
    let total = 1500;
    for n in 0..total {
        file(&trail, n, (300 - i64::try_from(n).unwrap() % 60, 239), at(300 - i64::try_from(n).unwrap() % 60));
    }
    file(&trail, total, (120, 10), at(121));
    let ended = backfill(&trail.setup, at(300), at(240), &[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let mut numbers: Vec<_> = ended.stdout.lines().filter_map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..total).collect::<Vec<_>>());
    let behind = log_key(ACCOUNT, REGION, at(120), total);
    assert!(!trail.read().contains(&behind), "what lies behind the stretch is not read");
    let again = backfill(&trail.setup, at(300), at(240), &[]).await;
    assert!(again.code() == Some(0) && again.stdout.is_empty() && again.stderr.contains("is done"), "{}", again.stderr);
}

#[tokio::test]
async fn a_trail_that_stopped_before_the_end_of_the_stretch_is_done_when_all_is_delivered() {
    let trail = Trail::usual().await;
    file(&trail, 0, (290, 2), at(291));
    let ended = backfill(&trail.setup, at(300), at(240), &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 1), "{}", ended.stderr);
    let ended = backfill(&trail.setup, at(240), at(200), &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 0), "without any file: {}", ended.stderr);
}

#[tokio::test]
async fn a_stretch_of_cloudtrail_is_not_done_while_files_of_it_may_still_come() {
    let trail = Trail::usual().await;
    let (from, to) = (at(200), at(60));
    file(&trail, 0, (150, 2), at(152));
    // A file from after the end exists. It says nothing of the files before the end.
    file(&trail, 1, (50, 2), at(52));
    let ended = backfill(&trail.setup, from, to, &[]).await;
    assert_eq!(
        (ended.code(), ended.stdout.lines().filter_map(number).collect()),
        (Some(75), vec![0]),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("auditsync cannot read the whole range yet"), "{}", ended.stderr);
    // Two files come late: one in time for a regular file, and one hours after its slot. A third file is in a slot after the end.
    file(&trail, 2, (70, 50), at(72));
    file(&trail, 3, (190, 180), at(192));
    file(&trail, 4, (45, 10), at(62));
    let ended = backfill(&trail.setup, from, to, &[]).await;
    let mut numbers: Vec<_> = ended.stdout.lines().filter_map(number).collect();
    numbers.sort_unstable();
    assert_eq!((ended.code(), numbers), (Some(75), vec![2, 3, 4]), "{}", ended.stderr);
}

#[tokio::test]
async fn a_dry_run_of_a_backfill_writes_no_dead_letter() {
    let trail = Trail::usual().await;
    file(&trail, 0, (290, 2), at(291));
    let key = log_key(ACCOUNT, REGION, at(280), 1);
    trail.fake.put(&key, Bytes::from_static(b"no log file"), at(279));
    let ended = backfill(&trail.setup, at(300), at(240), &["--dry-run"]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&key), "what would be a dead letter is logged: {}", ended.stderr);
    assert_eq!(std::fs::read_dir(trail.setup.folder()).unwrap().count(), 0);
}

/// Makes a recording of two commands. `begun` is the number of minutes since the first one.
fn recording(session: &str, begun: i64) -> Recording {
    let event = |index: i64| AuditEvent::of_session("session.command", session, index, at(begun - 5 * index));
    Recording { events: (0..2).map(event).collect(), ..Recording::default() }
}

#[tokio::test]
async fn recorded_sessions_belong_to_the_stretch_in_which_they_were_stored_and_are_read_to_their_end() {
    let cluster = Cluster::usual().await.with("TELEPORT_AUDIT_SESSIONS", "true");
    // The first session began before the stretch, and the last one is stored after it.
    let sessions = [("s0", 305, 295), ("s1", 280, 270), ("s2", 262, 241), ("s3", 245, 240), ("s4", 241, 235)];
    for (session, begun, stored) in sessions {
        cluster.auth.set_recording(session, recording(session, begun));
        cluster.auth.push([AuditEvent::upload(&format!("upload-{session}"), session, at(stored))]);
    }
    let ended = backfill(&cluster.setup, at(300), at(240), &[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let mut found = ids(&lines(&ended.stdout));
    found.sort();
    let mut expected: Vec<_> = ["s0", "s1", "s2"]
        .iter()
        .flat_map(|id| [format!("{id}-0"), format!("{id}-1"), format!("upload-{id}")])
        .collect();
    expected.sort();
    assert_eq!(found, expected);
    let ended = backfill(&cluster.setup, at(240), at(180), &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 6), "{}", ended.stderr);
}

#[tokio::test]
async fn a_stretch_of_teleport_is_not_done_while_a_recorded_session_waits() {
    let cluster = Cluster::usual().await.with("TELEPORT_AUDIT_SESSIONS", "true");
    let (from, to) = (at(300), at(240));
    cluster.auth.set_recording("s1", Recording { missing: true, ..Recording::default() });
    cluster.auth.push([AuditEvent::upload("upload-s1", "s1", at(270))]);
    let ended = backfill(&cluster.setup, from, to, &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(75), 1), "{}", ended.stderr);
    // The audit log is not read past the end of the stretch.
    let latest = cluster.auth.searches().iter().map(|search| search.until).max().unwrap();
    assert!(latest < at(180), "{latest}");
    cluster.auth.set_recording("s1", recording("s1", 280));
    let path = state_file(&cluster.setup, "teleport-stdout", from, to);
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    state["cursor"]["sessions"][0]["failing"]["due"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&path, state.to_string()).unwrap();
    let ended = backfill(&cluster.setup, from, to, &[]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 2), "{}", ended.stderr);
    let ended = backfill(&cluster.setup, from, to, &[]).await;
    assert!(ended.code() == Some(0) && ended.stderr.contains("is done, according to the state at"), "{}", ended.stderr);
}
