//! Tests `run --dry-run`: it shows what a run would send, and changes nothing.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::daemon::Ended;
use crate::stage::{Stage, ago, stop};

/// The files in a folder.
fn folder(path: &Path) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

/// The entries that were printed, by their ids.
fn printed(ended: &Ended) -> Vec<Value> {
    sorted(ended.stdout.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect())
}

fn sorted(mut entries: Vec<Value>) -> Vec<Value> {
    entries.sort_by_key(|entry| entry["evt"]["id"].to_string());
    entries
}

async fn dry(stage: &Stage) -> Ended {
    let before = (stage.intake.hits(), folder(stage.setup.folder()));
    let ended = stage.setup.run(&["run", "--dry-run"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!((stage.intake.hits(), folder(stage.setup.folder())), before, "something was touched");
    ended
}

#[tokio::test]
async fn a_dry_run_prints_what_the_next_run_sends() {
    let stage = Stage::usual().await.with("DD_TAGS", "team:pki");
    stage.begins_at(ago(600)).await;
    // These are before the cursor, so they are not sent.
    stage.scm.push(stage.records(35, 1500, 700));
    stage.push(25, 500, 2);
    let ended = dry(&stage).await;
    stage.run_to(0).await;
    assert_eq!(printed(&ended), sorted(stage.intake.entries()));
    assert_eq!(printed(&ended).len(), 25);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_dry_run_before_the_first_run_goes_back_as_far_as_that_would_and_needs_no_key() {
    let stage = Stage::usual().await.without("DD_API_KEY").without("DD_LOGS_CONFIG_LOGS_DD_URL");
    stage.push(25, 1500, 2);
    stage.push(5, 3500, 2000);
    let ended = dry(&stage).await;
    assert_eq!(printed(&ended).len(), 25);
    assert_eq!(folder(stage.setup.folder()), [], "no state, no lock");
    assert!(ended.stderr.contains("nothing is sent, and the state is only read"), "{}", ended.stderr);
    assert_eq!(stage.intake.hits(), 0);
}

#[tokio::test]
async fn a_dry_run_beside_a_daemon_disturbs_it_in_nothing() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(25, 1500, 600);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    stage.intake.hold();
    stage.push(35, 20, 2);
    // The daemon is sending a page, and holds the lock.
    stage.intake.wait_for_requests(4).await;
    let ended = dry(&stage).await;
    assert_eq!(printed(&ended).len(), 35, "from the stored cursor, not from what is on its way");
    stage.intake.release();
    stage.intake.wait_for_ids(60).await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn whoever_closes_the_pipe_has_seen_enough() {
    let stage = Stage::usual().await;
    stage.push(200, 1500, 2);
    let mut command = stage.setup.command(&["run", "--dry-run"]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(!said.contains("ERROR") && !said.contains("WARN") && !said.contains("panicked"), "{said}");
    assert_eq!((stage.intake.hits(), folder(stage.setup.folder())), (0, Vec::new()));
}

#[tokio::test]
async fn an_output_that_cannot_be_written_is_an_error() {
    let stage = Stage::usual().await;
    stage.push(20, 1500, 2);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = stage.setup.command(&["run", "--dry-run"]);
    let ended = command.stdout(Stdio::from(full)).spawn().unwrap().wait_with_output().await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(74), "{said}");
    assert!(said.contains("cannot write to standard output") && said.contains("No space left"), "{said}");
}

#[tokio::test]
async fn a_state_that_cannot_be_understood_ends_a_dry_run_too() {
    let stage = Stage::usual().await;
    std::fs::write(stage.setup.folder().join("auditsync-sectigo-datadog.json"), "{").unwrap();
    let ended = stage.setup.run(&["run", "--dry-run"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(74), ""), "{}", ended.stderr);
    assert_eq!(folder(stage.setup.folder()), [("auditsync-sectigo-datadog.json".to_owned(), b"{".to_vec())]);
}
