//! Tests several instances with one archive, and the memory of one.

use axum::http::Method;

use crate::archive::{Archive, PREFIX, noisy_record};
use crate::memory::{MOST, peak};
use crate::stage::stop;

/// The state is in the same bucket, and even under the prefix of the archive.
fn shared(archive: Archive) -> Archive {
    let bucket = archive.bucket.name.clone();
    archive
        .with("AUDITSYNC_STORAGE_BACKEND", "s3")
        .with("AUDITSYNC_S3_BUCKET", &bucket)
        .with("AUDITSYNC_S3_PREFIX", PREFIX)
        .with("AUDITSYNC_S3_FORCE_PATH_STYLE", "true")
        .with("SECTIGO_AUDIT_LEASE_TTL", "15s")
}

#[tokio::test]
async fn a_standby_gathers_again_what_a_killed_instance_had_not_archived() {
    let archive = shared(Archive::usual().await.forever());
    archive.stage.push(25, 1500, 60);
    let mut first = archive.stage.setup.start(&[]);
    first.says("synced").await;
    let mut second = archive.stage.setup.start(&[]);
    second.says("this one is on standby").await;
    first.signal("KILL").await;
    first.ended().await;
    second.says("synced").await;
    stop(second).await;
    assert_eq!(archive.bucket.manifests().await.len(), 1);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_instance_that_lost_its_lease_gives_up_what_it_gathered_and_its_upload() {
    let archive = shared(Archive::with_pages_of(8).await.forever()).with("ARCHIVE_S3_COMPRESSION", "zstd");
    archive.stage.push_all((0..16).map(|n| noisy_record(n, 900_000)).collect());
    let mut first = archive.stage.setup.start(&[]);
    archive.gate.has_passed(1, &Method::PUT, "partNumber=1").await;
    first.says("synced").await;
    first.signal("STOP").await;
    let mut second = archive.stage.setup.start(&[]);
    second.says("synced").await;
    stop(second).await;
    // The second instance aborted the upload that it found, and began its own.
    archive.gate.has_passed(1, &Method::DELETE, "uploadId=").await;
    first.signal("CONT").await;
    first.says("another instance is active, or an operator changed the state").await;
    archive.gate.has_done(2, &Method::DELETE, "uploadId=").await;
    first.says_so_often("continuing from the stored cursor", 1).await;
    stop(first).await;
    assert_eq!((archive.bucket.open_uploads().await, archive.bucket.manifests().await.len()), (0, 1));
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn objects_that_do_not_compress_stay_out_of_memory() {
    let archive = Archive::with_pages_of(8).await.forever().with("ARCHIVE_S3_COMPRESSION", "zstd");
    let archive = archive.with("ARCHIVE_S3_MAX_SIZE", "1GiB");
    archive.stage.push_all((0..96).map(|n| noisy_record(n, 900_000)).collect());
    let daemon = archive.stage.setup.start(&[]);
    archive.gate.has_passed(10, &Method::PUT, "partNumber=").await;
    let peak = peak(&daemon);
    stop(daemon).await;
    assert!(peak < MOST, "{peak} KiB");
    archive.stage.setup.run(&["run", "--once"]).await;
    archive.assert_all_once().await;
    archive.assert_proven().await;
}
