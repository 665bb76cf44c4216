//! Tests `DigiCert`'s audit reports: every row arrives once, whatever happens to the API's runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::daemon::{Ended, Setup};
use crate::memory::peak;
use crate::stage::{ago, sorted, stop};
use crate::support::{
    Called, CertCentralOptions, FakeCertCentral, FakeIntake, FakeRun, Fault, Form, IntakeOptions, Outcome, REPORT,
    report_row, until,
};

/// The fake, and the binary's setup before standard output.
pub struct Reports {
    pub fake: FakeCertCentral,
    pub setup: Setup,
}

impl Reports {
    pub async fn usual() -> Self {
        Self::of(CertCentralOptions::default()).await
    }

    pub async fn of(options: CertCentralOptions) -> Self {
        let key = options.api_key.clone();
        let fake = FakeCertCentral::start(options).await;
        let setup = Setup::bare()
            .with("AUDITSYNC_PIPELINES", "digicert:stdout")
            .with("DIGICERT_AUDIT_API_URL", fake.url())
            .with("DIGICERT_AUDIT_API_KEY", key)
            .with("DIGICERT_AUDIT_REPORT_ID", REPORT)
            .with("DIGICERT_AUDIT_POLL_INTERVAL", "1s")
            .with("DIGICERT_AUDIT_SYNC_INTERVAL", "5s")
            .with("AUDITSYNC_SYNC_LOOP", "false")
            .with("AUDITSYNC_RETRY_BUDGET", "30s")
            .with("AUDITSYNC_LOG_LEVEL", "debug");
        Self { fake, setup }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.setup = self.setup.without(name);
        self
    }

    /// With Datadog as the destination.
    pub fn to(self, intake: &FakeIntake) -> Self {
        Self { setup: self.setup.with("AUDITSYNC_PIPELINES", "digicert:datadog").with_datadog(intake), ..self }
    }

    /// Runs once, and expects this exit code.
    pub async fn run_to(&self, code: i32) -> Ended {
        let ended = self.setup.run_to(code).await;
        assert_eq!(self.fake.violations(), [""; 0]);
        ended
    }

    /// Runs once with success, and returns the printed lines.
    pub async fn printed(&self) -> Vec<String> {
        lines(&self.run_to(0).await)
    }

    fn state_file(&self) -> PathBuf {
        self.setup.folder().join("auditsync-digicert-stdout.json")
    }

    fn state(&self) -> Value {
        let bytes = std::fs::read(self.state_file()).expect("there is a state");
        serde_json::from_slice(&bytes).expect("it is JSON")
    }

    /// The cursor, as the state has it.
    pub fn cursor(&self) -> Value {
        self.state()["cursor"].clone()
    }

    /// Waits until the stored cursor is as `wanted`.
    async fn stores(&self, wanted: impl Fn(&Value) -> bool) {
        until("the cursor in the state", || wanted(&self.cursor())).await;
    }

    /// Changes the cursor in the state, as time would.
    pub fn change_cursor(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        change(&mut state["cursor"]);
        std::fs::write(self.state_file(), state.to_string()).expect("it can be written");
    }

    /// The runs whose files were read, in order.
    pub fn read(&self) -> Vec<String> {
        let requests = self.fake.requests().into_iter();
        let runs = requests.filter_map(|(called, _)| match called {
            Called::Download(run, None | Some(0)) => Some(run),
            _ => None,
        });
        runs.collect()
    }
}

pub fn lines(ended: &Ended) -> Vec<String> {
    ended.stdout.lines().map(str::to_owned).collect()
}

/// Rows `from` to `to`, a second apart, the last one this many seconds ago.
pub fn rows(from: usize, to: usize, newest: u64) -> Vec<String> {
    (from..to).map(|n| report_row(ago(newest + (to - n) as u64), n)).collect()
}

#[tokio::test]
async fn the_whole_report_is_delivered_once_and_then_only_what_is_new() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 2500, 600));
    assert_eq!(reports.printed().await, reports.fake.rows(), "byte for byte");
    assert_eq!(reports.printed().await, [""; 0], "the same report again has no news");
    let news = rows(2500, 2600, 60);
    reports.fake.push(news.clone());
    assert_eq!(reports.printed().await, news);
    assert_eq!(reports.fake.starts(), 3);
}

#[tokio::test]
async fn the_state_and_the_data_are_apart() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 10, 60));
    assert_eq!(reports.printed().await, reports.fake.rows(), "rows and nothing else");
    let files = std::fs::read_dir(reports.setup.folder()).unwrap().map(|file| file.unwrap().file_name());
    assert!(files.into_iter().all(|name| name.to_str().unwrap().starts_with("auditsync-digicert-stdout")));
    let state = reports.state().to_string();
    assert!(!state.contains("Zoë") && !state.contains("row 3"), "no row is in the state: {state}");
}

#[tokio::test]
async fn a_failed_run_is_followed_by_another() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 10, 60));
    reports.fake.next_runs([Outcome::Failed, Outcome::Failed, Outcome::Ready]);
    assert_eq!(reports.printed().await.len(), 10);
    assert_eq!(reports.fake.starts(), 3);
}

#[tokio::test]
async fn every_split_of_a_run_is_read() {
    let reports = Reports::of(CertCentralOptions { form: Form::Splits(400), ..CertCentralOptions::default() }).await;
    reports.fake.push(rows(0, 1000, 60));
    assert_eq!(reports.printed().await, reports.fake.rows());
    let splits: Vec<_> = reports
        .fake
        .requests()
        .into_iter()
        .filter_map(|(called, _)| match called {
            Called::Download(_, split) => Some(split),
            _ => None,
        })
        .collect();
    assert_eq!(splits, [Some(0), Some(1), Some(2)]);
}

#[tokio::test]
async fn after_a_kill_in_the_middle_of_a_run_nothing_is_lost_and_at_most_two_pages_come_again() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let reports =
        Reports::of(CertCentralOptions { form: Form::Zip, ..CertCentralOptions::default() }).await.to(&intake);
    reports.fake.push(rows(0, 8000, 60));
    for round in 1..4 {
        let daemon = reports.setup.start(&["run", "--once"]);
        intake.wait_for_entries(round * 2000).await;
        daemon.signal("KILL").await;
        daemon.ended().await;
    }
    reports.run_to(0).await;
    let ids = intake.ids();
    assert_eq!(ids.len(), 8000, "nothing is lost");
    assert!(intake.count() <= 8000 + 3 * 2000, "{}", intake.count());
    let first = reports.read()[0].clone();
    assert!(
        reports.read()[..4].iter().filter(|run| **run == first).count() >= 2,
        "the same run is read on: {:?}",
        reports.read()
    );
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_run_that_began_shortly_before_ours_is_not_taken_for_ours() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 20, 60));
    let before = FakeRun { looks: 2, ..FakeRun::ready("theirs", Timestamp::now(), &rows(0, 5, 60)) };
    reports.fake.add_run(before);
    assert_eq!(reports.printed().await.len(), 20);
    assert_eq!(reports.read(), ["run-1-4b1a-9d2e"]);
}

#[tokio::test]
async fn runs_of_other_reports_and_old_runs_are_left_alone() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 20, 60));
    for n in 0..250_u64 {
        let run = FakeRun::ready(&format!("theirs-{n}"), ago(10_000 - n), &rows(0, 5, 60));
        let report = if n.is_multiple_of(2) { "another-report".to_owned() } else { REPORT.to_owned() };
        reports.fake.add_run(FakeRun { report, ..run });
    }
    assert_eq!(reports.printed().await.len(), 20);
    assert_eq!(reports.read(), ["run-250-4b1a-9d2e"]);
}

#[tokio::test]
async fn a_restart_goes_on_waiting_for_the_same_run() {
    // The run is not ready before the restart.
    let options = CertCentralOptions { looks: usize::MAX, ..CertCentralOptions::default() };
    let reports =
        Reports::of(options).await.with("AUDITSYNC_SYNC_LOOP", "true").with("DIGICERT_AUDIT_SYNC_INTERVAL", "10m");
    reports.fake.push(rows(0, 20, 60));
    let daemon = reports.setup.start(&[]);
    let has_started = |requests: &[(Called, _)]| requests.iter().any(|(called, _)| *called == Called::Start);
    let looked_after = |requests: &[(Called, _)]| {
        has_started(requests) && requests.last().is_some_and(|(called, _)| *called == Called::History)
    };
    reports.fake.wait_until("a look after the start", looked_after).await;
    // auditsync may look before it has stored that it waits for the run.
    reports.stores(|cursor| cursor["step"]["waiting"]["started"] == 1).await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    assert_eq!(reports.fake.starts(), 1);
    reports.fake.change_run(0, |run| run.looks = 4);
    let mut daemon = reports.setup.start(&[]);
    daemon.prints(|stdout| stdout.lines().count() == 20).await;
    assert_eq!(reports.read()[0], "run-0-4b1a-9d2e");
    stop(daemon).await;
}

#[tokio::test]
async fn a_one_shot_ends_after_a_run_that_began_after_its_own_start() {
    let reports = Reports::of(CertCentralOptions { looks: 4, ..CertCentralOptions::default() }).await;
    reports.fake.push(rows(0, 20, 60));
    let daemon = reports.setup.start(&["run", "--once"]);
    let has_started = |requests: &[(Called, _)]| requests.iter().any(|(called, _)| *called == Called::Start);
    reports.fake.wait_until("a start", has_started).await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    let news = rows(20, 25, 1);
    reports.fake.push(news);
    assert_eq!(sorted(reports.printed().await), sorted(reports.fake.rows()));
    assert_eq!(reports.read().last().unwrap(), "run-1-4b1a-9d2e");
    assert_eq!(reports.fake.starts(), 2);
}

#[tokio::test]
async fn more_rows_than_the_state_holds_shorten_the_overlap_with_a_warning() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 18_000, 60));
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended), reports.fake.rows());
    assert!(ended.stderr.contains("than the state can hold"), "{}", ended.stderr);
    assert!(reports.state().to_string().len() < 256 * 1024);
    let news = rows(18_000, 18_010, 1);
    reports.fake.push(news.clone());
    assert_eq!(reports.printed().await, news);
}

#[tokio::test]
async fn a_run_larger_than_the_memory_passes_through_it() {
    // The debug build would take minutes to deliver all of it.
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_START", ago(500).to_string());
    let reports = reports.with("AUDITSYNC_SYNC_LOOP", "true").with("DIGICERT_AUDIT_SYNC_INTERVAL", "10m");
    let text = format!("\"Message\":\"{}", "x".repeat(3000));
    reports.fake.push(rows(0, 24_000, 600).iter().map(|row| row.replace("\"Message\":\"", &text)));
    reports.fake.push(rows(24_000, 24_010, 60));
    let mut daemon = reports.setup.start(&[]);
    daemon.prints(|stdout| stdout.lines().count() == 10).await;
    let peak = peak(&daemon);
    stop(daemon).await;
    assert!(peak < 64 * 1024, "{peak} KiB, of a run of {} KiB", 24_000 * 3400 / 1024);
}

#[tokio::test]
async fn after_a_reset_the_report_is_delivered_as_at_the_first_start() {
    const DAY: u64 = 24 * 3600;
    let reports = Reports::usual().await;
    let old = rows(0, 10, 30 * DAY);
    let all = [old.clone(), rows(10, 20, DAY)].concat();
    reports.fake.push(all.clone());
    assert_eq!(reports.printed().await, all);
    let reset = async |reports: &Reports| {
        let reset = reports.setup.run(&["state", "reset", "--yes"]).await;
        assert_eq!(reset.code(), Some(0), "{}", reset.stderr);
    };
    reset(&reports).await;
    assert_eq!(reports.printed().await, all, "the whole report");
    let reports = reports.with("DIGICERT_AUDIT_START", ago(2 * DAY).to_string());
    reset(&reports).await;
    assert_eq!(reports.printed().await, all[old.len()..], "from the start on");
}

#[tokio::test]
async fn rows_out_of_order_and_rows_that_appear_late_are_delivered_once() {
    let reports = Reports::usual().await;
    let all = rows(0, 300, 60);
    let mut shuffled: Vec<_> = all.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, row)| row.clone()).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut shuffled);
    reports.fake.set_rows(shuffled);
    let mut printed = reports.printed().await;
    assert_eq!(printed.len(), 200);
    let reversed: Vec<_> = all.iter().rev().cloned().collect();
    reports.fake.set_rows(reversed);
    let late = reports.printed().await;
    assert_eq!(late.len(), 100);
    printed.extend(late);
    assert_eq!(sorted(printed), sorted(all));
}

#[tokio::test]
async fn identical_rows_are_counted_not_merged() {
    let reports = Reports::usual().await;
    let row = report_row(ago(60), 1);
    reports.fake.push(std::iter::repeat_n(row.clone(), 3));
    assert_eq!(reports.printed().await.len(), 3);
    reports.fake.push([row.clone(), row.clone()]);
    assert_eq!(reports.printed().await, [row.clone(), row]);
    assert_eq!(reports.printed().await, [""; 0]);
}

#[tokio::test]
async fn a_late_row_behind_the_overlap_is_not_delivered() {
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_SYNC_OVERLAP", "1h");
    reports.fake.push([report_row(ago(60), 1)]);
    assert_eq!(reports.printed().await.len(), 1);
    let within = report_row(ago(3000), 2);
    reports.fake.push([report_row(ago(9000), 3), within.clone()]);
    assert_eq!(reports.printed().await, [within]);
}

#[tokio::test]
async fn a_changed_set_of_columns_costs_duplicates_and_a_warning_but_loses_nothing() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 10, 60));
    reports.printed().await;
    let wider = |row: &String| row.replacen('{', "{\"Neue Spalte\":\"ü\",", 1);
    let mut now: Vec<_> = reports.fake.rows().iter().map(wider).collect();
    now.push(wider(&report_row(ago(5), 11)));
    reports.fake.set_rows(now.clone());
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended), now);
    assert!(ended.stderr.contains("the columns of the report changed"), "{}", ended.stderr);
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended), [""; 0]);
    assert!(!ended.stderr.contains("the columns of the report changed"), "{}", ended.stderr);
}

#[tokio::test]
async fn headings_of_another_language_pass_through_with_their_time_column() {
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_TIME_COLUMN", "Fecha y hora (UTC)");
    let row = report_row(ago(60), 1).replace("Date and time (UTC)", "Fecha y hora (UTC)").replace("Action", "Acción");
    reports.fake.push([row.clone()]);
    assert_eq!(reports.printed().await, [row]);
    assert_eq!(reports.printed().await, [""; 0]);
}

#[tokio::test]
async fn the_first_run_begins_at_the_start_that_was_set() {
    let start = ago(1000);
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_START", start.to_string());
    let wanted = [report_row(ago(900), 2), report_row(ago(60), 3)];
    reports.fake.push([report_row(ago(1100), 1)].into_iter().chain(wanted.clone()));
    assert_eq!(reports.printed().await, wanted);
}

#[tokio::test]
async fn a_429_is_obeyed() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 10, 60));
    reports.fake.history_meets([Fault::PASS, Fault::StatusWithRetryAfter(429, "3".into())]);
    reports.fake.downloads_meet([Fault::StatusWithRetryAfter(429, "1".into())]);
    assert_eq!(reports.printed().await.len(), 10);
    let looks: Vec<_> = reports.fake.requests().into_iter().filter(|(called, _)| *called == Called::History).collect();
    let waited = looks[2].1.duration_since(looks[1].1).unwrap();
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
}

#[tokio::test]
async fn a_failing_api_is_retried() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 10, 60));
    reports.fake.history_meets([Fault::Status(503), Fault::Reset, Fault::NotJson]);
    reports.fake.starts_meet([Fault::Status(502)]);
    reports.fake.downloads_meet([Fault::TruncatedBody, Fault::Status(500), Fault::Reset]);
    assert_eq!(reports.printed().await.len(), 10);
    assert_eq!(reports.fake.starts(), 2, "the one that failed, and the one that worked");
}

#[tokio::test]
async fn rows_arrive_in_datadog_with_their_fields_and_the_hash_as_id() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let reports = Reports::usual().await.to(&intake);
    reports.fake.push(rows(0, 50, 60));
    reports.run_to(0).await;
    reports.run_to(0).await;
    assert_eq!((intake.count(), intake.ids().len()), (50, 50));
    assert_eq!(intake.violations(), [""; 0]);
    let entry = &intake.entries()[3];
    assert_eq!(entry["ddsource"], "digicert");
    assert_eq!(entry["service"], "digicert-certcentral");
    assert_eq!(entry["status"], "error", "its result is a failure");
    assert_eq!(entry["network"]["client"]["ip"], "192.0.2.3");
    assert_eq!(entry["usr"]["name"], "Zoë");
    assert_eq!(entry["digicert"]["Message"], "row 3");
}

#[tokio::test]
async fn the_scripts_own_environment_is_enough() {
    let reports = Reports::usual().await;
    let key = CertCentralOptions::default().api_key;
    let reports = reports
        .without("DIGICERT_AUDIT_API_KEY")
        .without("DIGICERT_AUDIT_REPORT_ID")
        .without("DIGICERT_AUDIT_POLL_INTERVAL")
        .with("DIGICERT_API_KEY", key)
        .with("DIGICERT_REPORT_ID", REPORT)
        .with("REQUEST_TIMEOUT", "30")
        .with("POLL_INTERVAL", "1")
        .with("MAX_WAIT_SECONDS", "300");
    reports.fake.push(rows(0, 10, 60));
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended).len(), 10);
    assert!(!ended.stderr.contains("did you mean"), "{}", ended.stderr);
}

/// Counts how often each line was printed.
pub fn counted(lines: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line.as_str()).or_default() += 1;
    }
    counts
}
