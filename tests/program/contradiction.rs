//! Tests a state store that refuses each save as a conflict, although nobody changed the document.

use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{Conditions, FakeS3, IntakeOptions};

/// The fake's answer to a condition that is not met.
const ANSWER: &str = "412 PreconditionFailed";

async fn on(bucket: &FakeS3) -> Stage {
    let stage = Stage::of(ten_a_page(), IntakeOptions::default()).await;
    stage
        .with("SECTIGO_AUDIT_STORAGE_BACKEND", "s3")
        .with("SECTIGO_AUDIT_S3_BUCKET", FakeS3::BUCKET)
        .with("SECTIGO_AUDIT_S3_FORCE_PATH_STYLE", "true")
        .with("AWS_ENDPOINT_URL_S3", bucket.url())
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", "AKIAANYONE")
        .with("AWS_SECRET_ACCESS_KEY", "secret")
        .with("SECTIGO_AUDIT_LEASE_TTL", "15s")
}

#[tokio::test]
async fn a_first_save_that_is_refused_although_there_is_no_document_ends_with_74_and_the_stores_answer() {
    let bucket = FakeS3::start(Conditions::NeverMet).await;
    let stage = on(&bucket).await.with("SECTIGO_AUDIT_RETRY_BUDGET", "30s");
    let ended = stage.run_to(74).await;
    assert!(
        ended.stderr.contains("refused 3 saves in a row because the state had changed, but it had not changed"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains(ANSWER), "{}", ended.stderr);
    assert!(!ended.stderr.contains("another instance"), "{}", ended.stderr);
    assert_eq!(stage.scm.hits(), 0, "nothing is asked without a state");
}

#[tokio::test]
async fn a_daemon_whose_commit_is_refused_without_a_change_raises_an_alarm_and_goes_on_when_it_is_over() {
    let bucket = FakeS3::start(Conditions::Heeded).await;
    let stage = on(&bucket).await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(10, 1500, 300);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    bucket.treat_conditions(Conditions::NeverMet);
    daemon.says("the state store needs attention").await;
    assert!(daemon.stderr().contains(ANSWER), "{}", daemon.stderr());
    bucket.treat_conditions(Conditions::Heeded);
    daemon.says("the state store works again").await;
    stage.push(10, 2, 0);
    stage.intake.wait_for_ids(20).await;
    let ended = stop(daemon).await;
    assert!(!ended.stderr.contains("another instance"), "{}", ended.stderr);
    stage.assert_all_once();
}
