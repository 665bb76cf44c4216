//! Tests the archive in S3: which objects are in the bucket, and when.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use axum::http::Method;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cloudtrail_digests::hex;
use crate::daemon::Ended;
use crate::stage::{Stage, ago, stop};
use crate::support::{Bucket, Gate, Held, IntakeOptions, Moto, Record, ScmOptions};

pub static MOTO: LazyLock<Moto> = LazyLock::new(Moto::start);

/// The prefix of the archives in these tests.
pub const PREFIX: &str = "pki/audit";

/// A source, and a bucket whose requests pass a gate.
pub struct Archive {
    pub stage: Stage,
    pub gate: Gate,
    pub bucket: Bucket,
}

impl Archive {
    /// Pages of ten records.
    pub async fn usual() -> Self {
        Self::with_pages_of(10).await
    }

    pub async fn with_pages_of(page_size: usize) -> Self {
        let scm = ScmOptions { page_size, ..ScmOptions::default() };
        let stage = Stage::of(scm, IntakeOptions::default()).await;
        let (gate, bucket) = (Gate::to(MOTO.url()).await, Bucket::of(&MOTO).await);
        let stage = stage
            .with("AUDITSYNC_PIPELINES", "sectigo:s3")
            .with("ARCHIVE_S3_BUCKET", bucket.name.as_str())
            .with("ARCHIVE_S3_PREFIX", PREFIX)
            .with("ARCHIVE_S3_FORCE_PATH_STYLE", "true")
            .with("AWS_ENDPOINT_URL", gate.url())
            .with("AWS_REGION", "us-east-1")
            .with("AWS_ACCESS_KEY_ID", "AKIAANYONE")
            .with("AWS_SECRET_ACCESS_KEY", "secret")
            .with("AWS_EC2_METADATA_DISABLED", "true");
        Self { stage, gate, bucket }
    }

    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        Self { stage: self.stage.with(name, value), ..self }
    }

    /// A daemon that closes an object only at a stop, or when it is large.
    #[must_use]
    pub fn forever(self) -> Self {
        self.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("ARCHIVE_S3_MAX_AGE", "24h")
    }

    /// Every record of the source is in the archive once, and in no other object.
    pub async fn assert_all_once(&self) {
        let rows = self.bucket.archived(PREFIX).await;
        let mut ids = BTreeMap::<String, usize>::new();
        for row in &rows {
            let row: Value = serde_json::from_str(row).expect("a row is JSON");
            *ids.entry(row["id"].to_string()).or_default() += 1;
        }
        let twice: Vec<_> = ids.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{} rows are there more than once: {twice:?}", twice.len());
        assert_eq!(rows.len(), self.stage.pushed(), "every row is there");
        assert_eq!(self.bucket.all_rows().await.len(), rows.len(), "no object without a manifest is left");
        assert_eq!(self.stage.scm.violations(), [""; 0]);
    }

    /// The state document.
    pub fn state(&self) -> Value {
        self.find_state().expect("a state")
    }

    fn find_state(&self) -> Option<Value> {
        let path = self.stage.setup.folder().join("auditsync-sectigo-s3.json");
        Some(serde_json::from_slice(&std::fs::read(path).ok()?).expect("it is JSON"))
    }

    /// Runs once with this many more records, in a second of their own.
    pub async fn run_with(&self, records: usize, oldest: u64, newest: u64) -> Ended {
        self.wait_for_another_second().await;
        self.stage.push(records, oldest, newest);
        self.stage.run_to(0).await
    }

    /// Waits until a range follows the stored and the archived cursors, because a run makes no request for an empty
    /// one.
    pub async fn wait_for_another_second(&self) {
        // Within a range, its end counts.
        let end = |cursor: &Value| {
            let times = ["until", "since"].map(|name| cursor[name].as_str().map(str::to_owned));
            times.into_iter().flatten().next().expect("a time").parse::<Timestamp>().expect("a time")
        };
        let archived = self.bucket.manifests().await;
        let stored = self.find_state().map(|state| state["cursor"].clone());
        let newest = archived.iter().map(|manifest| &manifest["to"]).chain(&stored).map(end).max();
        // A server's `Date` has whole seconds, so its clock may be read as one second less.
        while newest.is_some_and(|end| Timestamp::now().as_second() <= end.as_second() + 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `verify` proves the archive.
    pub async fn assert_proven(&self) {
        let ended = self.stage.setup.run(&["verify"]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.everything());
        assert!(ended.stdout.starts_with("proven s3://"), "{}", ended.stdout);
    }

    /// Waits until this many manifests were sent.
    pub async fn wait_for_manifests(&self, count: usize) {
        self.gate.has_passed(1, &Method::PUT, &format!("/{:012}.json", count - 1)).await;
    }
}

/// Text that hardly compresses.
pub fn noise(bytes: usize, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.alphanumeric()).take(bytes).collect()
}

pub fn noisy_record(n: u64, bytes: usize) -> Record {
    Record::raw(ago(600), format!("{{\"id\":\"{n}\",\"details\":\"{}\"}}", noise(bytes, n)))
}

#[tokio::test]
async fn rows_are_the_records_under_keys_by_day_with_the_headers_of_compressed_ndjson() {
    let archive = Archive::usual().await;
    let records = archive.stage.records(25, 1500, 60);
    let expected: Vec<_> = records.iter().map(|record| record.json.clone()).collect();
    archive.stage.push_all(records);
    archive.stage.run_to(0).await;
    let keys = archive.bucket.object_keys().await;
    let [key] = &keys[..] else { panic!("one object: {keys:?}") };
    assert_eq!(archive.bucket.rows(key).await, expected, "byte for byte and in order");
    let parts: Vec<_> = key.split('/').collect();
    let [_, _, year, month, day, name] = parts[..] else { panic!("{key}") };
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    assert!(digits(year, 4) && digits(month, 2) && digits(day, 2), "{key}");
    assert!(digits(&name[..6], 6) && name[6..].starts_with("-sectigo-audit-") && name.ends_with(".json.gz"), "{key}");
    let stored = archive.bucket.get(key).await;
    assert_eq!((stored.content_type.as_str(), stored.content_encoding.as_str()), ("application/x-ndjson", "gzip"));

    let manifests = archive.bucket.manifests().await;
    let [manifest] = &manifests[..] else { panic!("one manifest: {manifests:?}") };
    assert_eq!(manifest["object"], key[PREFIX.len() + 1..]);
    assert_eq!((&manifest["rows"], &manifest["bytes"]), (&25.into(), &stored.bytes.len().into()));
    assert_eq!((&manifest["previous"], &manifest["pipeline"]), (&Value::Null, &"sectigo:s3".into()));
    assert!(manifest["first_event"].as_str() < manifest["last_event"].as_str(), "{manifest}");
    assert_eq!(archive.state()["mark"]["manifests"], 1);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn the_layout_and_the_compression_can_be_chosen() {
    let archive = Archive::usual().await.with("ARCHIVE_S3_COMPRESSION", "zstd");
    let archive = archive.with("ARCHIVE_S3_KEY", "source={source}/year=%Y/{id}");
    archive.stage.push(25, 1500, 60);
    archive.stage.run_to(0).await;
    let keys = archive.bucket.object_keys().await;
    assert!(keys[0].starts_with("pki/audit/source=sectigo/year=20") && keys[0].ends_with(".json.zst"), "{keys:?}");
    assert_eq!(archive.bucket.get(&keys[0]).await.content_encoding, "zstd");
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn run_after_run_continues_the_chain() {
    let archive = Archive::usual().await;
    for round in 0..3 {
        archive.run_with(5, 250 - 50 * round, 210 - 50 * round).await;
    }
    let manifests = archive.bucket.manifests().await;
    assert_eq!(manifests.len(), 3);
    for pair in manifests.windows(2) {
        assert_eq!(pair[1]["from"], pair[0]["to"]);
        assert!(pair[1]["previous"].is_string());
    }
    // A run without events leaves no object.
    archive.stage.run_to(0).await;
    assert_eq!(archive.bucket.manifests().await.len(), 3);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_object_is_closed_when_it_is_large() {
    let archive = Archive::with_pages_of(100).await.forever().with("ARCHIVE_S3_MAX_SIZE", "1MiB");
    archive.stage.push_all((0..400).map(|n| noisy_record(n, 8_000)).collect());
    let daemon = archive.stage.setup.start(&[]);
    // The stop closes the rest.
    archive.wait_for_manifests(2).await;
    archive.stage.wait_for_pages(5).await;
    stop(daemon).await;
    let manifests = archive.bucket.manifests().await;
    assert_eq!(manifests.iter().map(|manifest| manifest["rows"].as_u64().unwrap()).collect::<Vec<_>>(), [200, 200]);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_object_is_closed_when_it_is_old_although_nothing_follows() {
    let archive = Archive::usual().await.forever().with("ARCHIVE_S3_MAX_AGE", "1s");
    // One page: the object might be old between two.
    archive.stage.push(10, 1500, 60);
    let daemon = archive.stage.setup.start(&[]);
    archive.wait_for_manifests(1).await;
    archive.stage.push(5, 40, 20);
    archive.wait_for_manifests(2).await;
    stop(daemon).await;
    assert_eq!(archive.bucket.manifests().await.len(), 2);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_object_is_closed_at_a_stop() {
    let archive = Archive::usual().await.forever();
    archive.stage.push(25, 1500, 60);
    let mut daemon = archive.stage.setup.start(&[]);
    daemon.says("synced").await;
    assert_eq!(archive.bucket.manifests().await.len(), 0);
    let ended = stop(daemon).await;
    assert!(ended.stderr.contains("everything delivered is committed"), "{}", ended.stderr);
    assert_eq!(archive.bucket.manifests().await.len(), 1);
    archive.assert_all_once().await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_large_object_is_uploaded_in_parts() {
    for (compression, records, least) in [("gzip", 9, 2), ("zstd", 24, 3)] {
        let archive = Archive::with_pages_of(8).await.with("ARCHIVE_S3_COMPRESSION", compression);
        archive.stage.push_all((0..records).map(|n| noisy_record(n, 900_000)).collect());
        archive.stage.run_to(0).await;
        let parts = archive.gate.passed().iter().filter(|passed| passed.address.contains("partNumber=")).count();
        assert!(parts >= least, "{parts}");
        assert_eq!(archive.bucket.manifests().await.len(), 1);
        assert_eq!(archive.bucket.open_uploads().await, 0);
        archive.assert_all_once().await;
        archive.assert_proven().await;
    }
}

#[tokio::test]
async fn a_row_is_one_line_whatever_line_ends_stand_in_the_record() {
    let archive = Archive::usual().await;
    archive.stage.push_all(vec![Record::raw(ago(600), "{\r\n  \"id\": \"1\",\n\n\"a\":\"x\\ny\"}")]);
    archive.stage.run_to(0).await;
    let rows = archive.bucket.archived(PREFIX).await;
    let row: Value = serde_json::from_str(&rows[0]).unwrap();
    assert_eq!((rows.len(), row["a"].as_str()), (1, Some("x\ny")));
}

#[tokio::test]
async fn a_dry_run_prints_the_rows_and_needs_no_bucket() {
    let archive = Archive::usual().await;
    let records = archive.stage.records(5, 1500, 60);
    let expected: Vec<_> = records.iter().map(|record| record.json.clone()).collect();
    archive.stage.push_all(records);
    let stage = archive.stage.without("ARCHIVE_S3_BUCKET");
    let ended = stage.setup.run(&["run", "--dry-run"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), expected);
    assert!(archive.gate.passed().is_empty());
}

#[tokio::test]
async fn a_state_that_knows_nothing_of_the_archive_is_refused() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    archive.stage.run_to(0).await;
    let before = archive.bucket.keys("").await;
    archive.stage.setup.run(&["state", "reset", "--yes"]).await;
    let ended = archive.stage.run_to(78).await;
    assert!(ended.stderr.contains("the state does not know the archive that begins with s3://"), "{}", ended.stderr);
    assert!(ended.stderr.contains("ARCHIVE_S3_PREFIX"), "{}", ended.stderr);
    assert_eq!(archive.bucket.keys("").await, before);
}

#[tokio::test]
async fn another_prefix_begins_another_archive_at_the_same_cursor() {
    let archive = Archive::usual().await;
    archive.run_with(5, 1500, 600).await;
    let before = archive.state();
    let archive = archive.with("ARCHIVE_S3_PREFIX", "pki/2027");
    let ended = archive.run_with(5, 250, 210).await;
    assert!(ended.stderr.contains("another archive begins there"), "{}", ended.stderr);
    let rows = archive.bucket.archived("pki/2027").await;
    assert_eq!(rows.len(), 5, "what the first archive has does not come again");
    assert_ne!(archive.state()["mark"]["archive"], before["mark"]["archive"]);
    archive.assert_proven().await;
    let ended = archive.run_with(5, 40, 20).await;
    assert!(!ended.stderr.contains("another archive begins there"), "{}", ended.stderr);
    assert_eq!(archive.bucket.archived("pki/2027").await.len(), 10);
    archive.assert_proven().await;
    // The first archive and its state are as they were.
    let archive = archive.with("ARCHIVE_S3_PREFIX", PREFIX);
    std::fs::write(archive.stage.setup.folder().join("auditsync-sectigo-s3.json"), before.to_string()).unwrap();
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_archive_that_was_copied_to_another_prefix_continues_there() {
    let archive = Archive::usual().await;
    archive.run_with(5, 1500, 600).await;
    for key in archive.bucket.keys("").await {
        let copy = key.replace(PREFIX, "copy");
        archive.bucket.put(&copy, archive.bucket.get(&key).await.bytes).await;
    }
    let archive = archive.with("ARCHIVE_S3_PREFIX", "copy");
    archive.assert_proven().await;
    archive.run_with(5, 250, 210).await;
    assert_eq!(archive.state()["mark"]["manifests"], 2);
    assert_eq!(archive.bucket.archived("copy").await.len(), 10);
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_manifest_of_several_mebibytes_is_read() {
    let archive = Archive::usual().await;
    archive.run_with(5, 1500, 600).await;
    let keys = archive.bucket.manifest_keys().await;
    let mut manifest = archive.bucket.get(&keys[0]).await.bytes;
    manifest.resize(3 * 1024 * 1024, b' ');
    let mut state = archive.state();
    state["mark"]["newest"] = hex(&Sha256::digest(&manifest)).into();
    archive.bucket.put(&keys[0], manifest).await;
    std::fs::write(archive.stage.setup.folder().join("auditsync-sectigo-s3.json"), state.to_string()).unwrap();
    archive.run_with(5, 250, 210).await;
    assert_eq!(archive.bucket.manifests().await.len(), 2);
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let archive = Archive::usual().await;
    archive.run_with(5, 1500, 60).await;
    archive.gate.hold_so_many(usize::MAX, Held::Unconditional, Method::PUT, "");
    let ended = archive.stage.run_to(78).await;
    assert!(ended.stderr.contains("the store ignores If-None-Match"), "{}", ended.stderr);
    let ended = archive.stage.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    assert!(ended.stdout.contains("the store ignores If-None-Match"), "{}", ended.stdout);
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_before_anything_counts_as_archived() {
    let archive = Archive::usual().await;
    archive.gate.hold_so_many(usize::MAX, Held::Unconditional, Method::PUT, "");
    archive.stage.push(5, 1500, 60);
    let ended = archive.stage.run_to(78).await;
    assert!(ended.stderr.contains("the store ignores If-None-Match"), "{}", ended.stderr);
    assert_eq!(archive.state()["mark"]["manifests"], 0);
}

#[tokio::test]
async fn two_archives_that_begin_at_the_same_time_under_one_prefix_are_told_apart() {
    let archive = Archive::usual().await.forever();
    let other = Archive::usual().await.with("ARCHIVE_S3_BUCKET", &archive.bucket.name);
    let mut first = archive.stage.setup.start(&[]);
    first.says("synced").await;
    // Its mark is stored, and it has no manifest yet.
    other.stage.push(5, 1500, 60);
    other.stage.run_to(0).await;
    archive.stage.push(5, 300, 60);
    first.says("delivered=5").await;
    first.signal("TERM").await;
    let ended = first.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("ERROR") && ended.stderr.contains("exit_code=74"), "{}", ended.stderr);
    let before = archive.bucket.keys("").await;
    let ended = archive.stage.run_to(78).await;
    assert!(ended.stderr.contains("the state does not know the archive that begins with s3://"), "{}", ended.stderr);
    assert_eq!(archive.bucket.keys("").await, before);
    let ended = archive.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(65), "{}", ended.everything());
    assert!(ended.stdout.contains("it belongs to another archive"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_newest_manifest_that_is_not_as_stored_stops_the_pipeline() {
    let archive = Archive::usual().await;
    archive.stage.push(25, 1500, 60);
    archive.stage.run_to(0).await;
    let keys = archive.bucket.manifest_keys().await;
    let manifest = archive.bucket.get(&keys[0]).await.bytes;
    archive.bucket.put(&keys[0], [&manifest[..], b" "].concat()).await;
    let ended = archive.stage.run_to(74).await;
    assert!(ended.stderr.contains("as the newest manifest, but it was changed"), "{}", ended.stderr);
    archive.bucket.delete(&keys[0]).await;
    let ended = archive.stage.run_to(74).await;
    assert!(ended.stderr.contains("as the newest manifest, but it is not there"), "{}", ended.stderr);
}
