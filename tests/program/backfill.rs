//! Tests `auditsync backfill`: it delivers a stretch of the past once, beside a daemon, and then is done.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::archive::Archive;
use crate::daemon::{Daemon, Ended};
use crate::stage::{Stage, ago, stop, ten_a_page};
use crate::support::{Fault, IntakeOptions, ScmOptions};
use crate::terminal::shown_by;

const HOUR: u64 = 3600;

/// From five hours ago to two hours ago, in whole seconds.
fn bounds() -> [String; 2] {
    [5, 2].map(|hours| Timestamp::from_second(ago(hours * HOUR).as_second()).unwrap().to_string())
}

/// The command for the stretch.
fn command<'a>([from, to]: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["backfill", "--pipeline", "sectigo:datadog", "--from", from, "--to", to];
    arguments.extend(more);
    arguments
}

async fn backfill(stage: &Stage, bounds: &[String; 2], more: &[&str]) -> Ended {
    stage.setup.run(&command(bounds, more)).await
}

/// The name of the pipeline's backfill, and of its state.
fn name([from, to]: &[String; 2]) -> String {
    let compact = |time: &str| time.replace(['-', ':'], "");
    format!("sectigo:datadog.backfill-{}-{}", compact(from), compact(to))
}

#[tokio::test]
async fn a_backfill_delivers_its_stretch_once_beside_a_daemon_and_is_done_for_good() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_INTERVAL", "5s");
    let bounds = bounds();
    // Records around the stretch, and in it.
    stage.scm.push(stage.records(13, 6 * HOUR, 5 * HOUR + 60));
    stage.scm.push(stage.records(17, 2 * HOUR - 60, HOUR));
    stage.push(240, 5 * HOUR - 60, 2 * HOUR + 60);
    let daemon = stage.setup.start(&[]);
    stage.push(25, 1500, 60);
    let ended = backfill(&stage, &bounds, &[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("the backfill is done") && ended.stderr.contains("events=240"), "{}", ended.stderr);
    stage.intake.wait_for_ids(265).await;
    stop(daemon).await;
    stage.assert_all_once();

    let ended = backfill(&stage, &bounds, &[]).await;
    assert!(ended.code() == Some(0) && ended.stderr.contains("is done, according to the state at"), "{}", ended.stderr);
    assert_eq!(stage.intake.count(), 265, "nothing is delivered again");
    let ended = backfill(&stage, &bounds, &["--again"]).await;
    assert_eq!((ended.code(), stage.intake.count()), (Some(0), 505), "{}", ended.stderr);
}

#[tokio::test]
async fn a_stretch_that_is_delivered_again_and_killed_goes_on_and_does_not_begin_a_third_time() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_WINDOW", "10m");
    let bounds = bounds();
    stage.push(400, 5 * HOUR - 60, 2 * HOUR + 60);
    assert_eq!(backfill(&stage, &bounds, &[]).await.code(), Some(0));
    assert_eq!(stage.intake.count(), 400);
    let daemon: Daemon = stage.setup.start(&command(&bounds, &["--again"]));
    stage.intake.wait_for_entries(600).await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    let ended = backfill(&stage, &bounds, &["--again"]).await;
    assert!(ended.code() == Some(0) && ended.stderr.contains("the backfill continues up_to="), "{}", ended.stderr);
    // The kill may repeat two pages of ten.
    assert!((800..=820).contains(&stage.intake.count()), "{}", stage.intake.count());
    assert!(stage.intake.ids().values().all(|times| *times >= 2));
}

#[tokio::test]
async fn a_stretch_that_is_archived_again_continues_the_chain_of_its_manifests() {
    let archive = Archive::usual().await;
    let [from, to] = bounds();
    archive.stage.push(25, 4 * HOUR, 3 * HOUR);
    let name = name(&[from.clone(), to.clone()]).replace("datadog", "s3");
    for (round, again) in [(1, None), (2, Some("--again"))] {
        let arguments = ["backfill", "--from", &from, "--to", &to].into_iter().chain(again);
        let ended = archive.stage.setup.run(&arguments.collect::<Vec<_>>()).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_eq!(archive.bucket.all_rows().await.len(), 25 * round);
        let ended = archive.stage.setup.run(&["verify", "--pipeline", &name]).await;
        assert!(ended.code() == Some(0) && ended.stdout.starts_with("proven s3://"), "{}", ended.everything());
    }
}

#[tokio::test]
async fn a_backfill_that_is_killed_goes_on_and_repeats_only_the_pages_in_flight() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_WINDOW", "10m");
    let bounds = bounds();
    stage.push(400, 5 * HOUR - 60, 2 * HOUR + 60);
    for kill in 1..=5 {
        let daemon: Daemon = stage.setup.start(&command(&bounds, &[]));
        stage.intake.wait_for_ids(60 * kill).await;
        daemon.signal("KILL").await;
        daemon.ended().await;
    }
    let ended = backfill(&stage, &bounds, &[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_none_lost();
    // Each kill may repeat two pages of ten.
    assert!(stage.intake.count() <= 400 + 5 * 20, "{}", stage.intake.count());
}

#[tokio::test]
async fn a_large_backfill_that_is_killed_at_random_repeats_only_pages_in_flight_beside_a_daemon_that_misses_nothing() {
    const PAGE: usize = 500;
    const KILLS: usize = 5;
    const IN_FLIGHT: usize = 2 * PAGE;
    let events =
        std::env::var("AUDITSYNC_TEST_BACKFILL").map_or(20_000, |text| text.parse().expect("a number of events"));
    let scm = ScmOptions { page_size: PAGE, latency: Duration::from_millis(2), ..ScmOptions::default() };
    let intake = IntakeOptions { keep_bodies: false, ..IntakeOptions::default() };
    let stage = Stage::of(scm, intake).await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    let bounds = bounds();
    let past = stage.records(events, 5 * HOUR - 60, 2 * HOUR + 60);
    let of_the_past: HashSet<_> = past.iter().map(|record| record.id.clone()).collect();
    stage.push_all(past);
    stage.push(20, 1500, 60);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    let mut rng = fastrand::Rng::with_seed(16);
    let begun = Instant::now();
    // Five kills leave a part of the stretch for the last run.
    let most = (events / PAGE / (KILLS + 2)).max(2);
    let mut repeats = Vec::new();
    for _ in 0..KILLS {
        let killed: Daemon = stage.setup.start(&command(&bounds, &[]));
        let before = stage.intake.count();
        stage.intake.wait_for_entries(before + rng.usize(1..most) * PAGE + 1).await;
        tokio::time::sleep(Duration::from_micros(rng.u64(..5000))).await;
        killed.signal("KILL").await;
        assert_eq!(killed.ended().await.code(), None, "it was not done yet");
        repeats.push(stage.intake.count() - stage.intake.ids().len());
        // The daemon reads these meanwhile.
        stage.push(4, 2, 1);
    }
    let ended = backfill(&stage, &bounds, &[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let took = begun.elapsed();
    stage.intake.wait_for_ids(stage.pushed()).await;
    let said = stop(daemon).await;
    assert!(!said.stderr.contains("ERROR"), "{}", said.stderr);
    stage.assert_none_lost();
    let mut again = 0;
    for (id, times) in stage.intake.ids() {
        if of_the_past.contains(&id) {
            again += times - 1;
        } else {
            assert_eq!(times, 1, "the daemon delivered {id} again");
        }
    }
    println!("{events} events in {took:?}: {again} came again in {KILLS} kills; up to each kill {repeats:?}");
    assert!(again <= KILLS * IN_FLIGHT, "{again}");
}

/// The lines that a terminal shows, one after the other.
fn drawn(shown: &str) -> impl Iterator<Item = String> {
    const CODES: [&str; 3] = ["\x1b[2K", "\x1b[1A", "\x1b[1B"];
    let lines = shown.split(['\r', '\n']);
    lines.map(|line| CODES.iter().fold(line.to_owned(), |line, code| line.replace(code, "")).trim_end().to_owned())
}

#[tokio::test]
async fn on_a_terminal_a_bar_shows_what_is_covered_and_the_time_left_and_stands_below_the_log() {
    let scm = ScmOptions { latency: Duration::from_millis(60), ..ten_a_page() };
    let stage = Stage::of(scm, IntakeOptions::default()).await.with("SECTIGO_AUDIT_SYNC_WINDOW", "10m");
    let stage = stage.with("TERM", "xterm").with("NO_COLOR", "1").with("SECTIGO_AUDIT_LOG_LEVEL", "info");
    let bounds = bounds();
    stage.push(300, 5 * HOUR - 60, 2 * HOUR + 60);
    let mut faults = vec![Fault::PASS; 10];
    faults.push(Fault::Status(503));
    stage.intake_meets(faults);
    let shown = shown_by(&stage.setup, &command(&bounds, &[])).await;
    stage.assert_all_once();
    let (bars, log): (Vec<_>, Vec<_>) =
        drawn(&shown).filter(|line| !line.is_empty()).partition(|line| line.contains(" events, "));
    let covered: Vec<u32> = bars.iter().map(|bar| bar.split(" % ").next().unwrap().trim().parse().unwrap()).collect();
    assert!(covered.is_sorted() && covered.len() > 5 && *covered.last().unwrap() > 50, "{covered:?}");
    println!("{}", bars.join("\n"));
    for bar in &bars {
        assert!(bar.chars().count() <= 80 && !bar.contains("pipeline{"), "a line of its own: {bar:?}");
    }
    let last = bars.last().unwrap();
    for part in [" % ", "█", " events, ", "/s, ", "s left, "] {
        assert!(last.contains(part), "{part} in {last:?}");
    }
    for told in ["the destination failed", "the backfill is done events=300"] {
        assert!(log.iter().any(|line| line.starts_with("20") && line.contains(told)), "{told}: {log:?}");
    }
    // The bar disappears before each log line, and no log line is ever removed.
    let failed = shown.find("the destination failed").unwrap();
    let before = &shown[..failed];
    assert!(before[before.rfind("  WARN").unwrap() - 40..].contains("\x1b[2K"), "{before:?}");
    assert!(!shown.contains("\x1b[1A"), "{shown:?}");
}

#[tokio::test]
async fn a_dry_run_of_a_backfill_prints_its_stretch_and_writes_nothing() {
    let stage = Stage::usual().await.without("DD_API_KEY");
    stage.push(35, 5 * HOUR - 60, 2 * HOUR + 60);
    let ended = backfill(&stage, &bounds(), &["--dry-run"]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 35), "{}", ended.stderr);
    assert_eq!((stage.intake.hits(), std::fs::read_dir(stage.setup.folder()).unwrap().count()), (0, 0));
}

#[tokio::test]
async fn a_backfill_says_first_how_much_is_older_than_the_destination_takes() {
    let stage = Stage::usual().await;
    let half = 60 * HOUR + HOUR / 2;
    let bounds = [half, 2 * HOUR].map(|age| Timestamp::from_second(ago(age).as_second()).unwrap().to_string());
    stage.push(20, 60 * HOUR - 60, 2 * HOUR + 60);
    let ended = backfill(&stage, &bounds, &[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let told = "44 h of the range are older than 17h, and Datadog accepts no event older than 18h";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_stretch_that_reaches_the_present_is_finished_by_a_later_call() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_DELAY", "10s");
    let bounds = [ago(HOUR), ago(0)].map(|time| Timestamp::from_second(time.as_second()).unwrap().to_string());
    stage.push(25, HOUR - 60, 60);
    let ended = backfill(&stage, &bounds, &[]).await;
    assert!(
        ended.code() == Some(75) && ended.stderr.contains("auditsync cannot read the whole range yet"),
        "{}",
        ended.stderr
    );
    stage.assert_all_once();
}

#[tokio::test]
async fn the_state_of_a_backfill_can_be_shown_and_its_name_does_not_run() {
    let stage = Stage::usual().await;
    let bounds = bounds();
    stage.push(5, 4 * HOUR, 3 * HOUR);
    backfill(&stage, &bounds, &[]).await;
    let name = name(&bounds);
    for change in [&["reset"][..], &["set", "--since", "2026-03-01T12:00:00Z"]] {
        let arguments = [&["state"], change, &["--yes", "--pipeline", &name]].concat();
        let refused = stage.setup.run(&arguments).await;
        assert_eq!(refused.code(), Some(64), "{}", refused.everything());
        assert!(refused.stderr.contains("with --again, or delete its state"), "{}", refused.stderr);
    }
    let shown = stage.setup.run(&["state", "show", "--pipeline", &name]).await;
    assert!(shown.code() == Some(0) && shown.stdout.contains(&name), "{} {}", shown.stdout, shown.stderr);
    let ended = stage.setup.run(&["run", "--once", "--pipeline", &name]).await;
    assert!(ended.code() == Some(64) && ended.stderr.contains("names no pipeline"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_backfill_without_sense_is_refused_before_anything_is_called() {
    let stage = Stage::usual().await;
    let [from, to] = bounds();
    for (wrong, expected) in [
        ([to.clone(), from.clone()], "must be before"),
        ([from.clone(), (Timestamp::now() + Duration::from_secs(600)).to_string()], "in the past"),
    ] {
        let ended = backfill(&stage, &wrong, &[]).await;
        assert!(ended.code() == Some(64) && ended.stderr.contains(expected), "{}", ended.stderr);
    }
    let ended = backfill(&stage, &[from.clone(), to.clone()], &["--rate", "0"]).await;
    assert_eq!(ended.code(), Some(64), "{}", ended.stderr);
    let queue = ["AUDITSYNC_PIPELINES=cloudtrail:stdout", "CLOUDTRAIL_AUDIT_SQS_QUEUE_URL=http://127.0.0.1:9/1/queue"];
    let queue = queue.map(|pair| pair.split_once('=').unwrap());
    let arguments = ["backfill", "--from", &from, "--to", &to];
    let ended = stage.setup.start_with(&queue, &arguments).ended().await;
    assert!(ended.code() == Some(64) && ended.stderr.contains("reads from a queue"), "{}", ended.stderr);
    let stage = stage.with("AUDITSYNC_STORAGE_BACKEND", "memory");
    let ended = backfill(&stage, &[from, to], &[]).await;
    assert!(
        ended.code() == Some(78) && ended.stderr.contains("set a store that outlives the process"),
        "{}",
        ended.stderr
    );
    assert_eq!(stage.scm.requests().len(), 0);
}
