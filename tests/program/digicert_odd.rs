//! Tests odd runs and histories of `DigiCert`'s audit reports: nothing is lost, and no wait is endless.

use crate::digicert::{Reports, lines, rows};
use crate::stage::ago;
use crate::support::{Called, CertCentralOptions, FakeIntake, FakeRun, Fault, IntakeOptions, Outcome};

#[tokio::test]
async fn a_download_that_fails_late_costs_retry_budget() {
    let reports = Reports::usual().await.with("AUDITSYNC_HTTP_TIMEOUT", "21s").with("AUDITSYNC_RETRY_BUDGET", "10s");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.downloads_meet((0..5).map(|_| Fault::Hang));
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("did not arrive"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_run_that_is_in_another_order_when_it_is_read_on_loses_no_row() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let reports = Reports::usual().await.to(&intake);
    reports.fake.push(rows(0, 8000, 60));
    let daemon = reports.setup.start(&["run", "--once"]);
    intake.wait_for_entries(4000).await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    reports.fake.change_run(0, |run| run.rows.reverse());
    let ended = reports.run_to(0).await;
    assert!(ended.stderr.contains("auditsync delivers it again from its first row"), "{}", ended.stderr);
    assert_eq!(reports.read()[..2], ["run-0-4b1a-9d2e", "run-0-4b1a-9d2e"], "the same run is read on");
    assert_eq!(intake.ids().len(), 8000, "nothing is lost");
}

#[tokio::test]
async fn a_run_whose_download_is_always_refused_is_given_up_after_an_hour() {
    let reports = Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "2s");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.next_runs([Outcome::Refuses(400)]);
    let ended = reports.setup.run(&["run", "--once"]).await;
    assert!(ended.stderr.contains("did not arrive"), "{}", ended.stderr);
    assert_ne!(ended.code(), Some(0));
    // As if an hour had passed.
    reports.change_cursor(|cursor| cursor["step"]["reading"]["found"] = ago(3700).to_string().into());
    let ended = reports.run_to(0).await;
    assert!(ended.stderr.contains("is given up"), "{}", ended.stderr);
    assert_eq!(lines(&ended), reports.fake.rows());
}

#[tokio::test]
async fn a_run_of_which_the_history_says_no_number_of_files_is_an_error() {
    let reports = Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "1s");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.next_runs([Outcome::Vanished]);
    reports.run_to(75).await;
    reports.change_cursor(|cursor| cursor["step"]["reading"]["run"]["splits"] = serde_json::Value::Null);
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("does not say how many files"), "{}", ended.stderr);
    assert!(ended.stderr.contains("run-0-4b1a-9d2e"), "the run is named: {}", ended.stderr);
}

#[tokio::test]
async fn a_page_of_the_history_without_a_run_does_not_hide_the_present() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 20, 60));
    reports.fake.add_run(FakeRun::ready("old", ago(5000), &rows(0, 5, 60)));
    for n in 0..100 {
        reports.fake.add_run(FakeRun::ready(&format!("no run {n}"), ago(4000 - n), &[]));
    }
    assert_eq!(reports.printed().await.len(), 20);
    assert_eq!(reports.read(), ["run-101-4b1a-9d2e"]);
}

#[tokio::test]
async fn a_history_longer_than_what_is_read_of_it_does_not_hide_a_run_that_is_ready() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 20, 60));
    assert_eq!(reports.printed().await.len(), 20);
    reports.change_cursor(|cursor| {
        cursor["baseline"] = serde_json::json!({ "began": ago(20_000).to_string(), "runs": [] });
        let since = ago(60).to_string();
        cursor["step"] = serde_json::json!({ "waiting": { "started": 1, "since": since } });
    });
    for n in 0..2100 {
        let run = FakeRun::ready(&format!("theirs-{n}"), ago(10_000 - n), &[]);
        reports.fake.add_run(FakeRun { report: "another-report".to_owned(), ..run });
    }
    assert_eq!(reports.printed().await, [""; 0]);
    assert_eq!(reports.read().len(), 3, "the run that was ready, and then one of its own");
}

#[tokio::test]
async fn scheduled_runs_are_looked_for_in_as_much_of_the_history_as_is_read() {
    let options = CertCentralOptions { endless_history: true, ..CertCentralOptions::default() };
    let reports = Reports::of(options).await.with("DIGICERT_AUDIT_START_RUNS", "false");
    let ended = reports.run_to(0).await;
    assert!(ended.stderr.contains("the history is too long"), "{}", ended.stderr);
    let looks = reports.fake.requests().iter().filter(|(called, _)| *called == Called::History).count();
    assert_eq!(looks, 20);
}

#[tokio::test]
async fn a_start_leaves_it_at_the_newest_scheduled_run_alone() {
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_START_RUNS", "false");
    let reports = reports.with("DIGICERT_AUDIT_START", ago(20_000).to_string());
    let all = rows(0, 20, 60);
    reports.fake.add_run(FakeRun::ready("old", ago(9000), &all[..5]));
    reports.fake.add_run(FakeRun::ready("newest", ago(5000), &all));
    assert_eq!(reports.printed().await, all);
    assert_eq!(reports.read(), ["newest"]);
}
