//! Tests `DigiCert`'s audit reports into the archive, with only the environment of the script that this pipeline
//! replaces.

use crate::archive::MOTO;
use crate::daemon::Setup;
use crate::digicert::rows;
use crate::support::{Bucket, CertCentralOptions, FakeCertCentral, REPORT};

/// The script's environment, with the addresses of the fakes.
fn script(fake: &FakeCertCentral, bucket: &Bucket) -> Setup {
    Setup::bare()
        .with("AUDITSYNC_PIPELINES", "digicert:s3")
        .with("DIGICERT_API_KEY", CertCentralOptions::default().api_key)
        .with("DIGICERT_REPORT_ID", REPORT)
        .with("S3_BUCKET", bucket.name.as_str())
        .with("REQUEST_TIMEOUT", "60")
        .with("POLL_INTERVAL", "1")
        .with("MAX_WAIT_SECONDS", "300")
        .with_aws_keys()
        .with("AWS_ENDPOINT_URL", MOTO.url())
        .with("ARCHIVE_S3_FORCE_PATH_STYLE", "true")
        .with("AUDITSYNC_S3_FORCE_PATH_STYLE", "true")
        .with("DIGICERT_AUDIT_API_URL", fake.url())
}

/// Makes two runs, and verifies the archive. Objects begin with `prefix`, and the state is in `folder`.
async fn archives(setup: &Setup, fake: &FakeCertCentral, bucket: &Bucket, prefix: &str, folder: &str) {
    for news in [rows(0, 250, 600), rows(250, 300, 60)] {
        fake.push(news);
        setup.run_to(0).await;
    }
    assert_eq!(bucket.all_rows().await, fake.rows(), "each row once, byte for byte");
    assert_eq!(bucket.archived(prefix).await, fake.rows());
    for key in bucket.object_keys().await {
        let name = key.strip_prefix(&format!("{prefix}/")).unwrap_or_else(|| panic!("{key}"));
        let digits = name.replace(|c: char| c.is_ascii_digit(), "0");
        assert!(digits.starts_with("0000/00/00/000000-digicert-audit-") && name.ends_with(".json.gz"), "{key}");
        let stored = bucket.get(&key).await;
        assert_eq!((&*stored.content_type, &*stored.content_encoding), ("application/x-ndjson", "gzip"));
    }
    bucket.get(&format!("{folder}/auditsync-digicert-s3.json")).await;
    let proof = setup.run(&["verify"]).await;
    assert_eq!(proof.code(), Some(0), "{}", proof.everything());
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn the_scripts_environment_archives_each_row_once_and_leaves_the_scripts_state_alone() {
    let (fake, bucket) = (FakeCertCentral::start(CertCentralOptions::default()).await, Bucket::of(&MOTO).await);
    let theirs = br#"{"last_run_id":"4","rows_count":7}"#.to_vec();
    bucket.put("logs/state/script.json", theirs.clone()).await;
    let setup = script(&fake, &bucket).with("S3_PREFIX", "logs").with("STATE_KEY", "logs/state/script.json");
    archives(&setup, &fake, &bucket, "logs", "logs/state").await;
    assert_eq!(bucket.get("logs/state/script.json").await.bytes, theirs);
}

#[tokio::test]
async fn the_scripts_defaults_hold_where_only_its_bucket_is_set() {
    let (fake, bucket) = (FakeCertCentral::start(CertCentralOptions::default()).await, Bucket::of(&MOTO).await);
    archives(&script(&fake, &bucket), &fake, &bucket, "digicert/logs", "digicert/logs").await;
}

#[tokio::test]
async fn our_own_variables_count_before_the_scripts() {
    let (fake, bucket) = (FakeCertCentral::start(CertCentralOptions::default()).await, Bucket::of(&MOTO).await);
    let setup = script(&fake, &bucket)
        .with("S3_BUCKET", "none-of-ours")
        .with("ARCHIVE_S3_BUCKET", bucket.name.as_str())
        .with("ARCHIVE_S3_PREFIX", "ours")
        .with("AUDITSYNC_S3_BUCKET", bucket.name.as_str())
        .with("DIGICERT_AUDIT_S3_PREFIX", "ours/state");
    archives(&setup, &fake, &bucket, "ours", "ours/state").await;
}
