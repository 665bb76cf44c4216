//! Tests failures of the source: nothing is lost, nothing is a duplicate, and the message says what to do.

use std::time::Duration;

use crate::stage::{Stage, stop, timeout_for};
use crate::support::{Fault, FinalPage, IntakeOptions, ScmOptions};

/// Runs against two good answers (the token endpoint, the first page) and then the fault. The run still delivers
/// everything.
async fn delivers_after(fault: Fault) -> Stage {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_HTTP_TIMEOUT", timeout_for(&fault));
    let stage = stage.with("SECTIGO_AUDIT_RETRY_BUDGET", "5m");
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::PASS]);
    // The program requests the second page ahead, and requests it again if the failure is a second old by its turn. So
    // the fault lasts until the program reports it.
    stage.scm.answer_always(Some(fault));
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the source failed").await;
    stage.scm.answer_always(None);
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(&stage.scm.url()), "the address is named: {}", ended.stderr);
    assert!(ended.stderr.contains("the source works again"), "{}", ended.stderr);
    stage.assert_all_once();
    stage
}

#[tokio::test]
async fn a_server_error_is_retried() {
    delivers_after(Fault::Status(503)).await;
}

#[tokio::test]
async fn a_request_time_out_is_retried() {
    delivers_after(Fault::Status(408)).await;
}

#[tokio::test]
async fn a_reset_connection_is_retried() {
    delivers_after(Fault::Reset).await;
}

#[tokio::test]
async fn a_truncated_page_is_asked_for_again() {
    delivers_after(Fault::TruncatedBody).await;
}

#[tokio::test]
async fn a_page_that_is_html_is_asked_for_again() {
    delivers_after(Fault::NotJson).await;
}

#[tokio::test]
async fn a_page_that_is_another_json_is_asked_for_again() {
    delivers_after(Fault::Body(r#"{"error":"try later"}"#.into())).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up_after_the_time_out() {
    delivers_after(Fault::Hang).await;
}

#[tokio::test]
async fn a_retry_after_is_waited_for() {
    let stage = delivers_after(Fault::StatusWithRetryAfter(429, "1".into())).await;
    let requests = stage.scm.requests();
    let waited = requests[3].time.duration_since(requests[2].time).unwrap();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn the_unauthenticated_first_question_is_retried() {
    let stage = Stage::usual().await;
    stage.push(10, 1500, 2);
    stage.scm.script(Fault::Status(502));
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_failing_token_endpoint_is_retried() {
    let stage = Stage::usual().await;
    stage.push(10, 1500, 2);
    for fault in [Fault::Status(503), Fault::NotJson] {
        stage.scm.script_token(fault);
    }
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains(&stage.scm.token_url()), "the address is named: {}", ended.stderr);
    assert_eq!(stage.scm.token_requests(), 3);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_source_down_for_good_ends_a_one_shot_with_75() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "2s");
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::PASS]);
    stage.scm.answer_always(Some(Fault::Status(500)));
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("the source failed"), "{}", ended.stderr);
    assert_eq!(stage.intake.count(), 10, "what was read before is delivered");

    stage.scm.answer_always(None);
    let before = stage.scm.requests().len();
    stage.run_to(0).await;
    let requests = stage.scm.requests();
    let first = requests[before..].iter().find(|request| request.authorized).unwrap();
    assert!(first.token.is_some(), "it goes on in the middle of the range");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_retry_after_past_the_budget_ends_a_one_shot_at_once() {
    // If the run began the wait, it would not end while this test waits for it.
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "10m");
    stage.source_meets([Fault::PASS, Fault::StatusWithRetryAfter(429, "601".into())]);
    stage.run_to(75).await;
    assert_eq!(stage.scm.requests().len(), 2);
    stage.assert_protocol();
}

#[tokio::test]
async fn the_budget_is_of_time_without_progress() {
    // Eight waits of four seconds are longer than the budget, and each alone is much shorter.
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "30s");
    stage.push(80, 1500, 2);
    stage.scm.script(Fault::PASS);
    for _ in 0..8 {
        stage.source_meets([Fault::StatusWithRetryAfter(503, "4".into()), Fault::PASS]);
    }
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn the_first_cursor_is_saved_before_any_request() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    stage.scm.go_down().await;
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains(&stage.scm.url()), "the address is named: {}", ended.stderr);
    assert_eq!(stage.scm.hits(), 0);
    assert!(stage.setup.state().is_some());

    // Without the state, this run would begin a second ago.
    let stage = stage.with("SECTIGO_AUDIT_SYNC_LOOKBACK", "1s").with("SECTIGO_AUDIT_RETRY_BUDGET", "30s");
    stage.push(30, 1500, 2);
    stage.scm.come_back().await;
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_loop_outlives_an_outage_of_the_source() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    stage.push(40, 1500, 2);
    stage.intake.hold();
    let mut daemon = stage.setup.start(&[]);
    // The program requests two pages ahead. It requests the fourth one only after the first one is delivered.
    stage.wait_for_pages(3).await;
    stage.scm.go_down().await;
    stage.intake.release();
    daemon.says("the source failed").await;
    stage.intake.wait_for_ids(30).await;
    stage.scm.come_back().await;
    stage.intake.wait_for_ids(40).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_loop_finds_the_source_down_in_a_later_sync_and_goes_on() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    stage.push(20, 1500, 2);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    stage.scm.go_down().await;
    stage.push(20, 250, 2);
    daemon.says("the source failed").await;
    stage.scm.come_back().await;
    stage.intake.wait_for_ids(40).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_wrong_address_is_reported_at_first_contact() {
    let stage = Stage::usual().await;
    stage.scm.answer_always(Some(Fault::Status(404)));
    let ended = stage.refused_to_the_end().await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_URL"), "{}", ended.stderr);
    assert_eq!(stage.scm.token_requests(), 0, "what is not the API gets no secret");
    stage.assert_protocol();
}

#[tokio::test]
async fn a_refused_range_at_first_contact_names_the_address() {
    let stage = Stage::usual().await;
    stage.scm.script(Fault::PASS);
    stage.scm.answer_always(Some(Fault::Status(400)));
    let ended = stage.refused_to_the_end().await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_URL"), "{}", ended.stderr);
    assert_eq!(stage.scm.requests().len(), 2, "it is not asked again");
    stage.assert_protocol();
}

#[tokio::test]
async fn a_refused_range_later_is_an_alarm_and_the_loop_goes_on() {
    let options = ScmOptions { final_page: FinalPage::NoTokenOnLast, ..ScmOptions::default() };
    let stage = Stage::of(options, IntakeOptions::default()).await;
    let stage = stage.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_WINDOW", "10m");
    stage.push(90, 1500, 2);
    // The request for the token endpoint, the first window, and the second one.
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::Status(400)]);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the source needs attention").await;
    assert!(daemon.stderr().contains("SECTIGO_AUDIT_API_URL"), "{}", daemon.stderr());
    stage.intake.wait_for_ids(90).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_refused_range_later_ends_a_one_shot_with_75_and_keeps_the_cursor() {
    let options = ScmOptions { final_page: FinalPage::NoTokenOnLast, ..ScmOptions::default() };
    let stage = Stage::of(options, IntakeOptions::default()).await;
    let stage = stage.with("SECTIGO_AUDIT_RETRY_BUDGET", "0s").with("SECTIGO_AUDIT_SYNC_WINDOW", "10m");
    stage.push(90, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::Status(400)]);
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_URL"), "{}", ended.stderr);
    assert_eq!(
        Some(stage.since()),
        stage.openings()[0].to,
        "everything up to the end of the first window is delivered"
    );
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_redirect_of_the_api_is_named_and_nothing_follows_it() {
    let stage = Stage::usual().await;
    let elsewhere = Stage::usual().await.scm;
    let location = format!("{}/api/v1/records", elsewhere.url());
    stage.scm.answer_always(Some(Fault::Redirect(location.clone())));
    let ended = stage.refused_to_the_end().await;
    for address in [format!("{}/api/v1/records", stage.scm.url()), location] {
        assert!(ended.stderr.contains(&address), "{address} is named: {}", ended.stderr);
    }
    assert_eq!((elsewhere.hits(), stage.scm.token_requests()), (0, 0));
    stage.assert_protocol();
}

#[tokio::test]
async fn a_redirect_of_the_api_gets_no_access_token() {
    let stage = Stage::usual().await;
    let elsewhere = Stage::usual().await.scm;
    stage.scm.script(Fault::PASS);
    stage.scm.answer_always(Some(Fault::Redirect(format!("{}/api/v1/records", elsewhere.url()))));
    stage.refused_to_the_end().await;
    assert_eq!(stage.authorized().len(), 1, "it had a token to lose");
    assert_eq!(elsewhere.hits(), 0);
    stage.assert_protocol();
}

#[tokio::test]
async fn a_redirect_of_the_token_endpoint_is_named_and_no_secret_follows_it() {
    let stage = Stage::usual().await;
    let elsewhere = Stage::usual().await.scm;
    stage.scm.answer_tokens_always(Some(Fault::Redirect(elsewhere.token_url())));
    let ended = stage.refused_to_the_end().await;
    for address in [stage.scm.token_url(), elsewhere.token_url()] {
        assert!(ended.stderr.contains(&address), "{address} is named: {}", ended.stderr);
    }
    assert_eq!(elsewhere.hits(), 0);
    assert_eq!(stage.scm.token_requests(), 1);
    stage.assert_protocol();
}

#[tokio::test]
async fn a_daemon_survives_a_passing_refusal_at_first_contact() {
    for fault in [Fault::Status(404), Fault::Status(405), Fault::Status(400)] {
        let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
        stage.push(20, 1500, 2);
        stage.source_meets([fault.clone(), Fault::PASS, fault.clone()]);
        stage.intake_meets([fault]);
        let mut daemon = stage.setup.start(&[]);
        daemon.says("the source needs attention").await;
        stage.intake.wait_for_ids(20).await;
        stop(daemon).await;
        // A notice of ours may have tested whether the intake accepts entries.
        stage.assert_none_lost();
        assert!(stage.intake.ids().values().all(|times| *times == 1), "{:?}", stage.intake.ids());
    }
}

#[tokio::test]
async fn a_daemon_with_a_wrong_address_says_so_at_once_and_ends_after_half_a_minute() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.scm.answer_always(Some(Fault::Status(404)));
    let begun = std::time::Instant::now();
    let ended = stage.run_to(78).await;
    assert!(begun.elapsed() >= std::time::Duration::from_secs(30));
    assert!(ended.stderr.contains("the source needs attention"), "{}", ended.stderr);
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_URL"), "{}", ended.stderr);
    assert!(stage.scm.requests().len() >= 4, "{}", ended.stderr);
    stage.assert_protocol();
}
