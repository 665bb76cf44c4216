//! Tests failing runs and calls of `DigiCert`'s audit reports: the error is clear, and nothing is lost afterwards.

use bytes::Bytes;

use crate::digicert::{Reports, counted, lines, rows};
use crate::stage::{ago, sorted};
use crate::support::{Called, CertCentralOptions, FakeRun, Fault, Form, Outcome, REPORT, array, report_row, zipped};

/// Runs against a run with this content. The one-shot ends with 75 and says `expected`; another run delivers
/// everything.
async fn heals_from(body: Vec<u8>, expected: &str) {
    let reports = Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "5s");
    reports.fake.push(rows(0, 10, 600));
    assert_eq!(reports.printed().await.len(), 10);
    let before = reports.cursor();
    reports.fake.push(rows(10, 30, 60));
    reports.fake.next_runs([Outcome::Holds(Bytes::from(body))]);
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    assert!(ended.stderr.contains("run-1-4b1a-9d2e"), "the run is named: {}", ended.stderr);
    assert_eq!(lines(&ended), [""; 0], "nothing of a damaged run is delivered");
    assert_eq!((&reports.cursor()["kept"], &reports.cursor()["high"]), (&before["kept"], &before["high"]));
    reports.fake.change_run(1, |run| run.outcome = Outcome::Ready);
    let printed = reports.printed().await;
    assert_eq!(printed, rows_of(&reports)[10..], "each once");
}

fn rows_of(reports: &Reports) -> Vec<String> {
    reports.fake.rows()
}

#[tokio::test]
async fn truncated_json_is_an_error_and_heals() {
    let whole = array(&rows(0, 2000, 60));
    heals_from(whole[..whole.len() - 30].to_vec(), "EOF").await;
}

#[tokio::test]
async fn a_zip_file_without_json_is_an_error_and_heals() {
    heals_from(zipped("report.csv", b"a,b\n1,2\n"), "holds no .json file").await;
}

#[tokio::test]
async fn a_damaged_zip_file_is_an_error_and_heals() {
    let whole = zipped("a.json", &array(&rows(0, 200, 60)));
    heals_from(whole[..whole.len() / 2].to_vec(), "the ZIP file cannot be read").await;
}

#[tokio::test]
async fn a_zip_bomb_is_an_error_and_heals() {
    let bomb = [b"[{\"a\":\"".to_vec(), vec![b'x'; 64 * 1024 * 1024]].concat();
    heals_from(zipped("a.json", &bomb), "has more than 1048576 bytes").await;
}

#[tokio::test]
async fn an_error_instead_of_rows_is_shown_and_heals() {
    heals_from(br#"{"errors":[{"code":"oops"}]}"#.to_vec(), "oops").await;
}

#[tokio::test]
async fn a_run_that_vanishes_is_an_error_and_the_next_one_shows_its_rows() {
    let reports = Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "5s");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.next_runs([Outcome::Vanished]);
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("answered 404"), "{}", ended.stderr);
    assert_eq!(reports.cursor()["kept"]["minutes"], serde_json::json!({}));
    // As if an hour had passed.
    reports.change_cursor(|cursor| cursor["step"]["reading"]["found"] = ago(3700).to_string().into());
    let ended = reports.run_to(0).await;
    assert!(ended.stderr.contains("is given up"), "{}", ended.stderr);
    assert_eq!(lines(&ended), reports.fake.rows());
}

#[tokio::test]
async fn runs_that_fail_again_and_again_are_an_error_that_is_bounded() {
    let reports = Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "3s");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.next_runs((0..10).map(|_| Outcome::Failed));
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("3 runs of the report"), "{}", ended.stderr);
    assert_eq!(reports.fake.starts(), 3);
    // The next one continues it.
    reports.run_to(75).await;
    assert_eq!(reports.fake.starts(), 3);
    // As if ten minutes had passed: auditsync starts another run.
    reports.change_cursor(|cursor| cursor["step"]["waiting"]["since"] = ago(601).to_string().into());
    reports.run_to(75).await;
    assert_eq!(reports.fake.starts(), 4);
    reports.fake.add_run(FakeRun::ready("by-hand", jiff::Timestamp::now(), &reports.fake.rows()));
    let ended = reports.setup.run(&["run", "--once"]).await;
    assert_eq!(lines(&ended).len(), 10, "{}", ended.stderr);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_followed_by_another() {
    // The second run is ready at the first look. Otherwise a late look would find it too slow, too.
    let options = CertCentralOptions { looks: 0, ..CertCentralOptions::default() };
    let reports = Reports::of(options).await.with("DIGICERT_AUDIT_MAX_WAIT", "2s");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.next_runs([Outcome::Never, Outcome::Ready]);
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended).len(), 10);
    assert!(ended.stderr.contains("took too long"), "{}", ended.stderr);
    assert_eq!(reports.fake.starts(), 2);
}

#[tokio::test]
async fn a_report_that_is_never_ready_is_an_error_that_names_the_variable() {
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_MAX_WAIT", "1s").with("AUDITSYNC_RETRY_BUDGET", "3s");
    reports.fake.next_runs((0..9).map(|_| Outcome::Never));
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("raise DIGICERT_AUDIT_MAX_WAIT"), "{}", ended.stderr);
    assert_eq!(reports.fake.starts(), 3);
}

#[tokio::test]
async fn a_history_that_never_ends_is_an_error_that_is_bounded() {
    let options = CertCentralOptions { endless_history: true, ..CertCentralOptions::default() };
    let reports = Reports::of(options).await.with("AUDITSYNC_RETRY_BUDGET", "1s");
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("20 pages of the history"), "{}", ended.stderr);
    let looks = reports.fake.requests().iter().filter(|(called, _)| *called == Called::History).count();
    assert!(looks < 200, "{looks}");
}

#[tokio::test]
async fn a_report_of_another_type_is_named_with_its_variable() {
    let options = CertCentralOptions { report_type: "orders", ..CertCentralOptions::default() };
    let reports = Reports::of(options).await.with("AUDITSYNC_RETRY_BUDGET", "1s");
    let ended = reports.run_to(75).await;
    let expected = "is of the type \"orders\", not audit-logs; check DIGICERT_AUDIT_REPORT_ID";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
}

#[tokio::test]
async fn an_unknown_report_is_named_with_its_variable() {
    let reports =
        Reports::usual().await.with("DIGICERT_AUDIT_REPORT_ID", "unknown").with("AUDITSYNC_RETRY_BUDGET", "1s");
    let ended = reports.run_to(75).await;
    assert!(
        ended.stderr.contains("answered 404") && ended.stderr.contains("DIGICERT_AUDIT_REPORT_ID"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn with_a_label_a_message_names_the_variable_that_is_set() {
    let labelled = async |name: &str, value: &str| {
        let reports = Reports::usual().await.with("AUDITSYNC_PIPELINES", "digicert.eu:stdout");
        let reports = reports.without(&format!("DIGICERT_AUDIT_{name}")).with("AUDITSYNC_RETRY_BUDGET", "1s");
        reports.with(&format!("DIGICERT_EU_AUDIT_{name}"), value)
    };
    let ended = labelled("REPORT_ID", "unknown").await.run_to(75).await;
    let expected = "check DIGICERT_EU_AUDIT_REPORT_ID and DIGICERT_AUDIT_API_URL";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    let reports = labelled("MAX_WAIT", "1s").await.with("AUDITSYNC_RETRY_BUDGET", "3s");
    reports.fake.next_runs((0..9).map(|_| Outcome::Never));
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("raise DIGICERT_EU_AUDIT_MAX_WAIT"), "{}", ended.stderr);
    let reports = labelled("TIME_COLUMN", "Time").await;
    reports.fake.push(rows(0, 1, 60));
    let ended = reports.run_to(75).await;
    assert!(ended.stderr.contains("in DIGICERT_EU_AUDIT_TIME_COLUMN"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_rejected_key_ends_with_77_and_shows_no_key() {
    let reports = Reports::usual().await;
    let key = CertCentralOptions::default().api_key;
    reports.fake.set_api_key("another");
    let ended = reports.run_to(77).await;
    assert!(ended.stderr.contains("DIGICERT_AUDIT_API_KEY"), "{}", ended.stderr);
    assert!(!ended.everything().contains(&key));
    let reports = Reports::usual().await.with("AUDITSYNC_LOG_LEVEL", "trace").with("AUDITSYNC_RETRY_BUDGET", "0s");
    for status in [400, 401, 503] {
        reports.fake.history_meets([Fault::EchoAuthorization(status)]);
        let ended = reports.setup.run(&["run", "--once"]).await;
        assert!(!ended.everything().contains(&key), "{}", ended.everything());
    }
}

#[tokio::test]
async fn a_key_that_was_rotated_in_its_file_is_taken_up() {
    let reports = Reports::usual().await.without("DIGICERT_AUDIT_API_KEY");
    let file = reports.setup.folder().join("key");
    std::fs::write(&file, "first\n").unwrap();
    let reports =
        reports.with("DIGICERT_AUDIT_API_KEY_FILE", file.to_str().unwrap()).with("AUDITSYNC_SYNC_LOOP", "true");
    reports.fake.push(rows(0, 10, 60));
    reports.fake.set_api_key("first");
    let mut daemon = reports.setup.start(&[]);
    daemon.prints(|stdout| stdout.lines().count() == 10).await;
    std::fs::write(&file, "second\n").unwrap();
    reports.fake.set_api_key("second");
    reports.fake.push(rows(10, 15, 1));
    daemon.prints(|stdout| stdout.lines().count() == 15).await;
    daemon.signal("TERM").await;
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn check_names_the_report_its_columns_its_format_and_its_newest_run() {
    let reports = Reports::usual().await;
    let ended = reports.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert!(ended.stdout.contains("no run of the report"), "{}", ended.stdout);
    reports.fake.push(rows(0, 10, 60));
    reports.printed().await;
    let ended = reports.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    for expected in
        ["Audit événements", REPORT, "format \"JSON\"", "run-0-4b1a-9d2e", "READY", "Date and time (UTC), Action"]
    {
        assert!(ended.stdout.contains(expected), "{expected}: {}", ended.stdout);
    }
    assert_eq!(reports.fake.starts(), 1, "check starts no run");
    assert_eq!(reports.fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_report_without_the_time_column_is_a_mistake_that_check_finds() {
    let reports = Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "1s");
    reports.fake.push([report_row(ago(60), 1).replace("Date and time", "Fecha y hora")]);
    let ended = reports.run_to(75).await;
    let expected = "the report has no column \"Date and time (UTC)\"";
    assert!(ended.stderr.contains(expected) && ended.stderr.contains("DIGICERT_AUDIT_TIME_COLUMN"), "{}", ended.stderr);
    let ended = reports.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    assert!(ended.stdout.contains(expected) && ended.stdout.contains("Fecha y hora (UTC)"), "{}", ended.stdout);
    let reports = reports.with("DIGICERT_AUDIT_TIME_COLUMN", "Fecha y hora (UTC)");
    assert_eq!(reports.printed().await.len(), 1, "the run is still there");
}

#[tokio::test]
async fn the_runs_that_certcentral_schedules_are_read_one_after_the_other() {
    let reports = Reports::usual().await.with("DIGICERT_AUDIT_START_RUNS", "false");
    let all = rows(0, 40, 60);
    reports.fake.add_run(FakeRun::ready("old", ago(9000), &all[..5]));
    reports.fake.add_run(FakeRun::ready("first", ago(5000), &all[..10]));
    assert_eq!(reports.printed().await, all[..10], "at first the newest alone");
    assert_eq!(reports.printed().await, [""; 0]);
    reports.fake.add_run(FakeRun::ready("second", ago(4000), &all[5..20]));
    reports.fake.add_run(FakeRun { outcome: Outcome::Failed, ..FakeRun::ready("failed", ago(3500), &[]) });
    reports.fake.add_run(FakeRun::ready("third", ago(3000), &all[15..30]));
    reports.fake.add_run(FakeRun { looks: 2, ..FakeRun::ready("fourth", ago(1), &all[25..]) });
    assert_eq!(sorted(reports.printed().await), sorted(all[10..].to_vec()), "nothing between them is missed");
    assert_eq!(reports.read(), ["first", "second", "third", "fourth"]);
    assert_eq!(reports.fake.starts(), 0);
}

#[tokio::test]
async fn a_gap_between_two_runs_is_a_warning() {
    let reports = Reports::usual().await;
    reports.fake.push(rows(0, 10, 3600));
    reports.printed().await;
    reports.fake.set_rows(rows(10, 20, 60));
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended).len(), 10);
    assert!(ended.stderr.contains("rows between them may be missing"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_cursor_that_was_set_is_obeyed() {
    let reports = Reports::usual().await;
    reports.fake.push([report_row(ago(900), 1), report_row(ago(100), 2)]);
    let since = ago(500).to_string();
    let set = reports.setup.run(&["state", "set", "--since", &since, "--yes"]).await;
    assert_eq!(set.code(), Some(0), "{}", set.stderr);
    assert_eq!(reports.printed().await, reports.fake.rows()[1..]);
}

#[tokio::test]
async fn rows_without_a_time_are_delivered_once_with_a_warning() {
    let reports = Reports::usual().await;
    reports.fake.push([report_row(ago(60), 1), r#"{"Message":"no time"}"#.to_owned(), "17".to_owned()]);
    let ended = reports.run_to(0).await;
    assert_eq!(lines(&ended), reports.fake.rows());
    assert!(ended.stderr.contains("rows have no readable time"), "{}", ended.stderr);
    assert_eq!(reports.printed().await, [""; 0]);
}

#[tokio::test]
async fn a_daemon_delivers_what_appears_sync_after_sync() {
    let reports = Reports::of(CertCentralOptions { form: Form::Zip, ..CertCentralOptions::default() }).await;
    let reports = reports.with("AUDITSYNC_SYNC_LOOP", "true");
    let mut daemon = reports.setup.start(&[]);
    for round in 1..4 {
        reports.fake.push(rows(round * 10, round * 10 + 10, 1));
        daemon.prints(|stdout| stdout.lines().count() == round * 10).await;
    }
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(counted(&lines(&ended)).values().all(|times| *times == 1));
    assert_eq!(reports.fake.violations(), [""; 0]);
}
