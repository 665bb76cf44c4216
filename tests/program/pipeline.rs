//! Tests the work during waits for answers: the next pages are fetched and prepared, and nothing is sent before its
//! turn.

use std::time::Duration;

use crate::stage::{Stage, ten_a_page};
use crate::support::{ApiRequest, Fault, IntakeOptions, ScmOptions};

#[tokio::test]
async fn while_a_page_waits_for_the_intake_the_two_behind_it_are_asked_for() {
    let stage = Stage::usual().await;
    stage.push(45, 1500, 2);
    stage.intake.hold();
    let daemon = stage.setup.start(&["run", "--once"]);
    stage.wait_for_pages(3).await;
    stage.intake.wait_for_requests(1).await;
    assert_eq!(stage.intake.requests().len(), 1, "the second page is not sent before the first is accepted");
    stage.intake.release();
    assert_eq!(daemon.ended().await.code(), Some(0));
    stage.assert_all_once();
    let tokens: Vec<_> = stage.authorized().into_iter().filter_map(|request| request.token).collect();
    let mut distinct = tokens.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(tokens.len(), distinct.len(), "no page is requested twice: {tokens:?}");
}

#[tokio::test]
async fn a_question_asked_ahead_that_fails_is_asked_again_when_its_turn_comes() {
    for fault in [Fault::Status(503), Fault::Reset, Fault::Status(401), Fault::NotJson] {
        let stage = Stage::usual().await;
        stage.push(45, 1500, 2);
        stage.source_meets([Fault::PASS, Fault::PASS, Fault::PASS, fault]);
        stage.run_to(0).await;
        stage.assert_all_once();
    }
}

#[tokio::test]
async fn a_failure_from_long_before_its_turn_is_not_obeyed() {
    let stage = Stage::usual().await;
    stage.push(45, 1500, 2);
    stage.intake.hold();
    // The server delays the third page for longer than a one-shot waits.
    let later = Fault::StatusWithRetryAfter(503, "900".into());
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::PASS, later]);
    let daemon = stage.setup.start(&["run", "--once"]);
    let refused = |request: &ApiRequest| request.status == Some(503);
    stage.scm.wait_until("the third page to be refused", |requests| requests.iter().any(refused)).await;
    // The refusal is old one second after the program has read it. The program may read it some seconds late.
    tokio::time::sleep(Duration::from_secs(8)).await;
    stage.intake.release();
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_page_of_five_thousand_records_is_sent_in_one_round() {
    let stage = Stage::of(ScmOptions { page_size: 5000, ..ten_a_page() }, IntakeOptions::default()).await;
    stage.push(5000, 1500, 2);
    stage.intake.hold();
    let daemon = stage.setup.start(&["run", "--once"]);
    stage.intake.wait_for_requests(5).await;
    stage.intake.release();
    assert_eq!(daemon.ended().await.code(), Some(0));
    stage.assert_all_once();
}

#[tokio::test]
async fn what_was_made_ready_for_a_page_is_not_sent_when_the_page_before_it_fails() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS]);
    stage.intake.answer_always(Some(Fault::Status(503)));
    stage.run_to(75).await;
    assert_eq!(stage.intake.count(), 10);
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}
