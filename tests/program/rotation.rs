//! Tests SIGHUP, which makes the daemon read secrets from files again, and systemd's credentials.

use crate::stage::{Stage, stop};
use crate::support::{IntakeOptions, ScmOptions};

const KEY: &str = "DD_API_KEY";
const KEY_FILE: &str = "DD_API_KEY_FILE";
const SECRET: &str = "SECTIGO_AUDIT_API_CLIENT_SECRET";
const SECRET_FILE: &str = "SECTIGO_AUDIT_API_CLIENT_SECRET_FILE";
const NEW: &str = "fedcba9876543210fedcba9876543210";

const ANOTHER: &str = "holds another secret, which is used from now on";

fn put(stage: &Stage, name: &str, secret: &str) {
    std::fs::write(stage.setup.folder().join(name), format!("{secret}\n")).unwrap();
}

/// A daemon in a loop, with both secrets in files of the current folder.
async fn from_files() -> Stage {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_LOG_LEVEL", "trace");
    let stage = stage.without(KEY).with(KEY_FILE, "key").without(SECRET).with(SECRET_FILE, "secret");
    put(&stage, "key", &IntakeOptions::default().api_key);
    put(&stage, "secret", &ScmOptions::default().client_secret);
    stage
}

#[tokio::test]
async fn a_rotated_api_key_is_taken_up_before_the_old_one_is_refused() {
    let stage = from_files().await;
    stage.push(25, 1500, 2);
    let mut daemon = stage.setup.start(&[]);
    stage.intake.wait_for_ids(25).await;
    put(&stage, "key", NEW);
    daemon.signal("HUP").await;
    daemon.says(ANOTHER).await;
    daemon.says("holds the same secret").await;
    stage.intake.set_api_key(NEW);
    stage.push(25, 20, 2);
    stage.intake.wait_for_ids(50).await;
    let ended = stop(daemon).await;
    let line = ended.stderr.lines().find(|line| line.contains(ANOTHER)).unwrap();
    assert!(line.contains(KEY_FILE), "{line}");
    assert!(stage.intake.requests().iter().all(|request| request.status == Some(202)), "none was refused");
    assert!(!ended.everything().contains(NEW) && !ended.everything().contains(&IntakeOptions::default().api_key));
    stage.assert_all_once();
}

#[tokio::test]
async fn a_rotated_client_secret_is_taken_up_before_the_old_one_is_refused() {
    let stage = from_files().await;
    stage.push(25, 1500, 2);
    let mut daemon = stage.setup.start(&[]);
    stage.intake.wait_for_ids(25).await;
    put(&stage, "secret", NEW);
    daemon.signal("HUP").await;
    daemon.says(ANOTHER).await;
    stage.scm.set_client_secret(NEW);
    stage.scm.revoke_tokens();
    stage.push(25, 20, 2);
    stage.intake.wait_for_ids(50).await;
    let ended = stop(daemon).await;
    assert_eq!(stage.scm.token_requests(), 2, "the old secret was not tried again: {}", ended.stderr);
    assert!(!ended.everything().contains(NEW), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_file_that_cannot_be_read_again_leaves_the_secret_in_use() {
    let stage = from_files().await;
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    std::fs::remove_file(stage.setup.folder().join("key")).unwrap();
    daemon.signal("HUP").await;
    daemon.says("cannot be read again; the secret in use stays").await;
    stage.push(25, 20, 2);
    stage.intake.wait_for_ids(25).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn sighup_in_the_midst_of_a_page_loses_and_repeats_nothing() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(45, 1500, 2);
    stage.intake.hold();
    let mut daemon = stage.setup.start(&[]);
    stage.intake.wait_for_requests(1).await;
    daemon.signal("HUP").await;
    daemon.says("no secret came from a file, so there is nothing to read again").await;
    stage.intake.release();
    stage.intake.wait_for_ids(45).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn the_credentials_that_systemd_brings_are_used_where_none_is_given_otherwise() {
    let stage = Stage::usual().await.without(KEY).without(SECRET).with("CREDENTIALS_DIRECTORY", "credentials");
    std::fs::create_dir(stage.setup.folder().join("credentials")).unwrap();
    put(&stage, "credentials/dd-api-key", &IntakeOptions::default().api_key);
    put(&stage, "credentials/sectigo-audit-api-client-secret", &ScmOptions::default().client_secret);
    stage.push(25, 1500, 2);
    // The given variable comes first, so it is the one to correct.
    let stage = stage.with(KEY, NEW);
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains("check DD_API_KEY, "), "{}", ended.stderr);
    let stage = stage.without(KEY);
    stage.intake.set_api_key(NEW);
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains("check DD_API_KEY_FILE, "), "{}", ended.stderr);
    stage.intake.set_api_key(IntakeOptions::default().api_key);
    stage.run_to(0).await;
    stage.assert_all_once();
}
