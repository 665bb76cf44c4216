//! Tests exactly-once delivery: after any kill, each row is in one object.

use axum::http::Method;

use crate::archive::{Archive, PREFIX, noisy_record};
use crate::daemon::Daemon;
use crate::killing::rounds;
use crate::stage::stop;
use crate::support::Held;

/// A process that is killed while a request is held up.
async fn killed_at(archive: &Archive, held: Held, part: &str) {
    archive.gate.hold(held, Method::PUT, part);
    let daemon = archive.stage.setup.start(&[]);
    archive.gate.is_holding().await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    archive.gate.release();
    archive.gate.is_free().await;
}

#[tokio::test]
async fn killed_between_object_and_manifest_the_next_run_leaves_one_object() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    archive.gate.hold(Held::Request, Method::PUT, "_manifests");
    let daemon = archive.stage.setup.start(&[]);
    archive.gate.is_holding().await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    let leftovers = archive.bucket.object_keys().await;
    assert_eq!(leftovers.len(), 1, "it was written");
    // The gate stays as it is and its rule is used up, so the manifest is never written.
    archive.stage.run_to(0).await;
    assert_eq!(archive.bucket.manifests().await.len(), 1);
    assert_ne!(archive.bucket.object_keys().await, leftovers, "it is gone");
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_listing_that_ignores_the_prefix_costs_nobody_an_object() {
    const FOREIGN: &str = "other-team/backup.tar";
    let archive = Archive::usual().await;
    archive.run_with(5, 1500, 60).await;
    archive.bucket.put(FOREIGN, b"theirs".to_vec()).await;
    archive.bucket.begin_upload(FOREIGN).await;
    let before = archive.bucket.keys("").await;
    archive.gate.hold_so_many(usize::MAX, Held::Unprefixed, Method::GET, "prefix=");
    archive.run_with(5, 40, 2).await;
    let after = archive.bucket.keys("").await;
    let lost: Vec<_> = before.iter().filter(|key| !after.contains(key)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(archive.bucket.open_uploads().await, 1);
    archive.gate.release();
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn killed_between_manifest_and_state_the_next_run_adopts_the_manifest() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    killed_at(&archive, Held::Answer, "_manifests").await;
    assert_eq!(archive.state()["mark"]["manifests"], 0);
    let ended = archive.run_with(5, 40, 2).await;
    let adopts = |line: &&str| line.contains("the destination already has events after the stored cursor");
    let told = ended.stderr.lines().find(adopts).unwrap_or_else(|| panic!("{}", ended.stderr));
    assert!(
        told.contains(" WARN ") && told.contains(" up_to=20") && !told.contains("delivered"),
        "a time, and not a whole cursor: {told}"
    );
    assert_eq!(archive.bucket.manifests().await.len(), 2);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_manifest_without_its_object_is_not_adopted() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    killed_at(&archive, Held::Answer, "_manifests").await;
    let key = archive.bucket.object_keys().await.remove(0);
    let sound = archive.bucket.get(&key).await.bytes;
    for stored in [None, Some(&sound[1..])] {
        archive.bucket.delete(&key).await;
        if let Some(stored) = stored {
            archive.bucket.put(&key, stored.to_vec()).await;
        }
        let ended = archive.stage.run_to(74).await;
        assert!(ended.stderr.contains("names an object that is not there in its size: s3://"), "{}", ended.stderr);
        assert_eq!(archive.state()["mark"]["manifests"], 0);
    }
    archive.bucket.put(&key, sound).await;
    archive.stage.run_to(0).await;
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_state_that_went_back_is_caught_up_with() {
    let archive = Archive::usual().await;
    archive.stage.push(5, 1500, 1000);
    archive.stage.run_to(0).await;
    let path = archive.stage.setup.folder().join("auditsync-sectigo-s3.json");
    let old = std::fs::read(&path).unwrap();
    for round in 0..3 {
        archive.run_with(5, 250 - 50 * round, 210 - 50 * round).await;
    }
    std::fs::write(&path, old).unwrap();
    archive.stage.run_to(0).await;
    assert_eq!(archive.state()["mark"]["manifests"], 4);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_lost_answer_costs_no_second_object() {
    for part in ["_manifests", ".json.gz"] {
        let archive = Archive::usual().await;
        archive.stage.push(25, 1500, 60);
        archive.gate.hold_so_many(2, Held::LostAnswer, Method::PUT, part);
        archive.stage.run_to(0).await;
        assert_eq!(archive.bucket.object_keys().await.len(), 1, "{part}");
        archive.assert_all_once().await;
        archive.assert_proven().await;
    }
}

#[tokio::test]
async fn lost_answers_to_an_upload_in_parts_cost_nothing() {
    let archive = Archive::with_pages_of(8).await.with("ARCHIVE_S3_COMPRESSION", "zstd");
    archive.stage.push_all((0..16).map(|n| noisy_record(n, 900_000)).collect());
    archive.gate.hold(Held::LostAnswer, Method::PUT, "partNumber=1");
    archive.gate.hold(Held::Failed(503), Method::PUT, "partNumber=2");
    archive.gate.hold(Held::LostAnswer, Method::POST, "uploadId=");
    archive.stage.run_to(0).await;
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_answer_that_is_not_from_s3_stores_nothing_and_costs_nothing() {
    for part in ["_manifests", ".json.zst", "partNumber=1"] {
        let archive = Archive::with_pages_of(8).await.with("ARCHIVE_S3_COMPRESSION", "zstd");
        let bytes = if part == "partNumber=1" { 900_000 } else { 100 };
        archive.stage.push_all((0..16).map(|n| noisy_record(n, bytes)).collect());
        archive.gate.hold(Held::Failed(200), Method::PUT, part);
        let ended = archive.stage.run_to(0).await;
        assert!(ended.stderr.contains("the answer has no ETag, so it does not come from S3"), "{}", ended.stderr);
        archive.assert_all_once().await;
        archive.assert_proven().await;
    }
}

#[tokio::test]
async fn a_lost_answer_to_an_upload_costs_nothing_in_a_class_that_cannot_be_read() {
    let archive = Archive::with_pages_of(8).await.with("ARCHIVE_S3_COMPRESSION", "zstd");
    let archive = archive.with("ARCHIVE_S3_STORAGE_CLASS", "GLACIER");
    archive.stage.push_all((0..16).map(|n| noisy_record(n, 900_000)).collect());
    archive.gate.hold(Held::LostAnswer, Method::POST, "uploadId=");
    archive.gate.hold_so_many(usize::MAX, Held::NoUpload, Method::POST, "uploadId=");
    archive.stage.run_to(0).await;
    assert_eq!((archive.bucket.manifests().await.len(), archive.bucket.object_keys().await.len()), (1, 1));
    let ended = archive.stage.setup.run(&["verify"]).await;
    assert!(ended.stderr.contains("restore the object first"), "{}", ended.everything());
}

/// The second page makes the object larger than a part. The run then gives up, and closes the object for the first
/// page.
#[tokio::test]
async fn an_upload_that_cannot_begin_costs_no_row_of_the_object() {
    let archive = Archive::with_pages_of(8).await.with("ARCHIVE_S3_COMPRESSION", "zstd");
    let archive = archive.with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    archive.stage.push_all((0..16).map(|n| noisy_record(n, 450_000)).collect());
    archive.gate.hold(Held::Failed(503), Method::POST, "?uploads");
    archive.stage.run_to(75).await;
    let archive = archive.with("SECTIGO_AUDIT_RETRY_BUDGET", "30s");
    archive.stage.run_to(0).await;
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn killed_while_parts_are_uploaded_the_next_run_gives_them_up() {
    let archive = Archive::with_pages_of(8).await.with("ARCHIVE_S3_COMPRESSION", "zstd");
    archive.stage.push_all((0..16).map(|n| noisy_record(n, 900_000)).collect());
    killed_at(&archive, Held::Request, "partNumber=2").await;
    assert_eq!(archive.bucket.open_uploads().await, 1);
    archive.stage.run_to(0).await;
    assert_eq!(archive.bucket.open_uploads().await, 0);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_outage_of_the_bucket_delays_and_loses_nothing() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    for (method, part) in [(Method::GET, "_manifests"), (Method::PUT, ".json.gz"), (Method::PUT, "_manifests")] {
        archive.gate.hold_so_many(2, Held::Failed(503), method, part);
    }
    let ended = archive.stage.run_to(0).await;
    assert!(ended.stderr.contains("the destination failed"), "{}", ended.stderr);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

/// A request of a dead process arrives late, as requests may.
#[tokio::test]
async fn a_manifest_that_arrives_late_is_never_overwritten_and_the_next_run_goes_on_behind_it() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    archive.gate.hold(Held::Request, Method::PUT, "_manifests");
    let first = archive.stage.setup.start(&[]);
    archive.gate.is_holding().await;
    first.signal("KILL").await;
    first.ended().await;
    // The second process finds no manifest, and gathers the rows again, and one more page.
    archive.stage.push(5, 40, 2);
    archive.gate.hold(Held::Request, Method::PUT, ".json.gz");
    let second = archive.stage.setup.start(&[]);
    archive.gate.has_passed(2, &Method::PUT, ".json.gz").await;
    archive.gate.release_those("_manifests");
    archive.gate.has_done(1, &Method::PUT, "_manifests").await;
    archive.gate.release();
    let ended = second.ended().await;
    assert_eq!(ended.code(), Some(74), "{}", ended.stderr);
    assert!(ended.stderr.contains("another instance wrote s3://"), "{}", ended.stderr);
    archive.wait_for_another_second().await;
    archive.stage.run_to(0).await;
    assert_eq!(archive.bucket.manifests().await.len(), 2);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

/// Waits until the daemon has archived this many rows. If these are all rows, no request is on its way then.
async fn has_archived(daemon: &mut Daemon, rows: usize) {
    const ARCHIVED: &str = "an object is archived";
    let rows_of = |line: &str| -> usize {
        let (_, rows) = line.split_once(" rows=").unwrap();
        rows.split_whitespace().next().unwrap().parse().unwrap()
    };
    let archived = |said: &str| said.lines().filter(|line| line.contains(ARCHIVED)).map(rows_of).sum::<usize>();
    let mut objects = 0;
    while archived(&daemon.stderr()) < rows {
        objects += 1;
        daemon.says_so_often(ARCHIVED, objects).await;
    }
}

#[tokio::test]
async fn kill_9_at_random_moments_leaves_every_row_in_one_object() {
    const ROWS: usize = 300;
    let mut random = fastrand::Rng::with_seed(20_260_302);
    let (mut kills, rounds) = (0, 2 * rounds("AUDITSYNC_TEST_KILLS"));
    while kills < rounds {
        let archive = Archive::usual().await.forever().with("ARCHIVE_S3_MAX_AGE", "1s");
        let archive = archive.with("ARCHIVE_S3_MAX_SIZE", "1MiB").with("ARCHIVE_S3_COMPRESSION", "zstd");
        archive.stage.push_all((0..ROWS as u64).map(|n| noisy_record(n, 10_000)).collect());
        loop {
            let left = ROWS.saturating_sub(archive.bucket.archived(PREFIX).await.len());
            if left == 0 {
                break;
            }
            let mut daemon = archive.stage.setup.start(&[]);
            // The kill comes at a request that has not arrived, at one without an answer yet, or near one.
            let before = archive.gate.passed().len();
            if random.u8(..3) == 0 {
                let held = if random.bool() { Held::Request } else { Held::Answer };
                archive.gate.hold(held, Method::PUT, if random.bool() { "_manifests" } else { ".json.zst" });
                archive.gate.is_holding().await;
            } else {
                tokio::select! {
                    () = archive.gate.so_many_passed(before + random.usize(1..15)) => {}
                    () = has_archived(&mut daemon, left) => {}
                }
            }
            daemon.signal("KILL").await;
            daemon.ended().await;
            archive.gate.release();
            archive.gate.is_free().await;
            kills += 1;
        }
        let mut daemon = archive.stage.setup.start(&[]);
        daemon.says("synced").await;
        stop(daemon).await;
        archive.assert_all_once().await;
        archive.assert_proven().await;
    }
    println!("SIGKILL: {kills}");
}
