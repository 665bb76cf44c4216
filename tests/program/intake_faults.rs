//! Tests an intake that is down, slow or replaced by another server: nothing is lost, and no answered entry is sent
//! twice.

use std::time::Duration;

use crate::stage::{Stage, stop, timeout_for};
use crate::support::{Fault, IntakeOptions, ScmOptions};

const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";
const LOOP: &str = "SECTIGO_AUDIT_SYNC_LOOP";
const INTAKE: &str = "DD_LOGS_CONFIG_LOGS_DD_URL";
const KEY: &str = "DD_API_KEY";
const KEY_FILE: &str = "DD_API_KEY_FILE";

/// Runs against an intake that accepts one page and meets the second one with the fault. Everything still arrives once.
async fn delivers_after(fault: Fault) -> Stage {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_HTTP_TIMEOUT", timeout_for(&fault)).with(BUDGET, "5m");
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS, fault]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("the destination failed"), "{}", ended.stderr);
    assert!(ended.stderr.contains(&stage.intake.url()), "the address is named: {}", ended.stderr);
    stage.assert_all_once();
    stage
}

#[tokio::test]
async fn a_server_error_of_the_intake_is_retried() {
    delivers_after(Fault::Status(503)).await;
}

#[tokio::test]
async fn a_request_time_out_of_the_intake_is_retried() {
    delivers_after(Fault::Status(408)).await;
}

#[tokio::test]
async fn a_reset_before_anything_is_taken_is_retried() {
    delivers_after(Fault::Reset).await;
}

#[tokio::test]
async fn an_intake_that_hangs_is_given_up_after_the_time_out() {
    delivers_after(Fault::Hang).await;
}

#[tokio::test]
async fn a_retry_after_of_the_intake_is_waited_for() {
    let stage = delivers_after(Fault::StatusWithRetryAfter(429, "1".into())).await;
    let requests = stage.intake.requests();
    let waited = requests[2].time.duration_since(requests[1].time).unwrap();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn an_acceptance_whose_body_breaks_off_is_an_acceptance() {
    let stage = Stage::usual().await;
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS, Fault::TruncatedBody]);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_batch_that_was_never_answered_is_sent_twice_at_most_and_no_other() {
    let stage = Stage::usual().await;
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS, Fault::Unanswered]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("possibly_duplicated=10"), "{}", ended.stderr);
    stage.assert_none_lost();
    assert_eq!(stage.intake.count(), 40, "the ten of the second page once more");
    let twice = stage.intake.ids().values().filter(|times| **times == 2).count();
    assert_eq!((twice, stage.intake.ids().len()), (10, 30));
}

#[tokio::test]
async fn only_the_batch_that_failed_is_sent_again() {
    let stage = Stage::of(ScmOptions { page_size: 1500, ..ScmOptions::default() }, IntakeOptions::default()).await;
    stage.push(1500, 1500, 2);
    stage.intake_meets([Fault::PASS, Fault::Status(503)]);
    stage.run_to(0).await;
    assert_eq!(stage.intake.requests().iter().filter(|request| request.taken).count(), 2);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_page_given_up_halfway_repeats_no_more_than_what_was_taken_of_it() {
    let stage = Stage::of(ScmOptions { page_size: 1500, ..ScmOptions::default() }, IntakeOptions::default()).await;
    let stage = stage.with(BUDGET, "0s");
    stage.push(1500, 1500, 2);
    stage.intake_meets([Fault::PASS, Fault::Status(503)]);
    stage.run_to(75).await;
    let taken = stage.intake.count();
    assert!(taken > 0 && taken < 1500, "{taken}");
    stage.run_to(0).await;
    stage.assert_none_lost();
    assert!(stage.intake.count() <= 1500 + taken, "{}", stage.intake.count());
}

#[tokio::test]
async fn an_intake_that_is_down_at_first_is_waited_for() {
    let stage = Stage::usual().await.with(BUDGET, "5m");
    stage.push(30, 1500, 2);
    stage.intake.go_down().await;
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the destination failed").await;
    stage.intake.come_back().await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_loop_outlives_an_outage_of_the_intake() {
    let stage = Stage::usual().await.with(LOOP, "true").with(BUDGET, "0s");
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS, Fault::Status(500)]);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the destination failed").await;
    stage.intake.wait_for_ids(30).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_intake_down_for_good_ends_a_one_shot_with_75_and_keeps_the_cursor() {
    let stage = Stage::usual().await.with(BUDGET, "1s");
    stage.push(30, 1500, 2);
    stage.intake.go_down().await;
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("the destination failed"), "{}", ended.stderr);
    assert!(ended.stderr.contains(&stage.intake.url()), "the address is named: {}", ended.stderr);
    assert_eq!(Some(stage.since()), stage.openings()[0].from, "the cursor is where it was");
    stage.intake.come_back().await;
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_retry_after_of_the_intake_past_the_budget_ends_a_one_shot_at_once() {
    // If the run began the wait, it would not end while this test waits for it.
    let stage = Stage::usual().await.with(BUDGET, "10m");
    stage.push(10, 1500, 2);
    stage.intake_meets([Fault::StatusWithRetryAfter(429, "601".into())]);
    stage.run_to(75).await;
    assert_eq!((stage.intake.requests().len(), stage.intake.count()), (1, 0));
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_web_page_from_the_intake_is_no_acceptance() {
    let stage = Stage::usual().await;
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::NotJson]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains(INTAKE), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_block_page_of_any_kind_is_no_acceptance() {
    let xhtml = "<?xml version=\"1.0\"?><html xmlns=\"http://www.w3.org/1999/xhtml\"><title>Blocked</title></html>";
    let stage = Stage::usual().await.with(BUDGET, "0s");
    stage.push(30, 1500, 2);
    for (kind, body) in [
        (Some("text/plain"), "Access denied by policy"),
        (Some("application/xhtml+xml"), xhtml),
        (None, xhtml),
        (None, "blocked"),
        (Some("application/json"), "{blocked}"),
    ] {
        for status in [200, 201, 202] {
            stage.intake.answer_always(Some(Fault::Typed(status, kind, body)));
            let ended = stage.run_to(75).await;
            assert!(ended.stderr.contains(INTAKE), "{kind:?} {body}: {}", ended.stderr);
            assert_eq!((stage.intake.count(), stage.setup.dead_letters().len()), (0, 0));
        }
    }
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_web_page_from_the_intake_for_good_ends_a_one_shot_with_75_and_keeps_the_cursor() {
    let stage = Stage::usual().await.with(BUDGET, "0s");
    stage.push(30, 1500, 2);
    stage.intake.answer_always(Some(Fault::NotJson));
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains(INTAKE), "{}", ended.stderr);
    assert_eq!(Some(stage.since()), stage.openings()[0].from, "the cursor is where it was");
    assert_eq!(stage.setup.dead_letters().len(), 0);
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_redirect_of_the_intake_is_named_and_nothing_follows_it() {
    let stage = Stage::usual().await;
    stage.push(30, 1500, 2);
    let elsewhere = Stage::usual().await.intake;
    let location = format!("{}/api/v2/logs", elsewhere.url());
    stage.intake.answer_always(Some(Fault::Redirect(location.clone())));
    let ended = stage.refused_to_the_end().await;
    for address in [format!("{}/api/v2/logs", stage.intake.url()), location] {
        assert!(ended.stderr.contains(&address), "{address} is named: {}", ended.stderr);
    }
    assert_eq!(elsewhere.hits(), 0);
    assert_eq!(stage.setup.dead_letters().len(), 0);
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_key_refused_at_first_contact_is_named() {
    let stage = Stage::usual().await.with(LOOP, "true");
    stage.push(30, 1500, 2);
    stage.intake.set_api_key("fedcba9876543210fedcba9876543210");
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains(&format!("check {KEY},")), "{}", ended.stderr);
    assert!(ended.stderr.contains(INTAKE), "a key of another site is refused alike: {}", ended.stderr);
    assert!(!ended.everything().contains(&IntakeOptions::default().api_key));
    assert!(!ended.stderr.contains("may deliver it again"), "nothing was taken: {}", ended.stderr);
    assert_eq!(Some(stage.since()), stage.openings()[0].from, "the cursor is where it was");
    stage.intake.set_api_key(IntakeOptions::default().api_key);
    let stage = stage.with(LOOP, "false");
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_key_refused_later_ends_a_one_shot_with_77_and_drops_nothing() {
    let stage = Stage::usual().await.with(BUDGET, "0s");
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS, Fault::Status(401)]);
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains(&format!("check {KEY},")), "{}", ended.stderr);
    assert_eq!((stage.intake.count(), stage.setup.dead_letters().len()), (10, 0));
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_rotated_key_is_taken_up_from_its_file_after_an_alarm() {
    let stage = Stage::usual().await.with(LOOP, "true").without(KEY).with(KEY_FILE, "key");
    let file = stage.setup.folder().join("key");
    std::fs::write(&file, format!("{}\n", IntakeOptions::default().api_key)).unwrap();
    stage.push(30, 1500, 2);
    // The intake refuses the second page, and the notices that find out whether the key or the page is at fault.
    stage.intake_meets([Fault::PASS]);
    stage.intake.answer_always(Some(Fault::Status(403)));
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the destination needs attention").await;
    assert!(daemon.stderr().contains(KEY_FILE), "{}", daemon.stderr());
    assert_eq!(stage.intake.count(), 10, "the intake accepts nothing more with the old key");
    let next = "fedcba9876543210fedcba9876543210";
    stage.intake.set_api_key(next);
    stage.intake.answer_always(None);
    std::fs::write(&file, format!("{next}\n")).unwrap();
    stage.intake.wait_for_ids(30).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_key_rotated_before_it_is_refused_needs_nobody() {
    let stage = Stage::usual().await.without(KEY).with(KEY_FILE, "key");
    let file = stage.setup.folder().join("key");
    std::fs::write(&file, IntakeOptions::default().api_key).unwrap();
    stage.push(30, 1500, 2);
    stage.intake.hold();
    let daemon = stage.setup.start(&[]);
    stage.intake.wait_for_requests(1).await;
    let next = "fedcba9876543210fedcba9876543210";
    std::fs::write(&file, next).unwrap();
    stage.intake.set_api_key(next);
    stage.intake.release();
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("needs attention"), "{}", ended.stderr);
    stage.assert_all_once();
}
