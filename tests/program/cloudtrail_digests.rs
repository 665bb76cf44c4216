//! Tests digest files of `CloudTrail`: an error names each deleted or changed file in the bucket, and missed files are
//! delivered.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wiremock::matchers::{header, method};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::cloudtrail::{ACCOUNT, Trail, lines};
use crate::cloudtrail_queue::gzip;
use crate::daemon::{Ended, Setup};
use crate::probe::Probe;
use crate::stage::{sorted, stop};
use crate::support::{
    Asked, FakeQueue, FakeTrail, REGION, TrailFault, TrailObject, log_file, log_key, minutes_ago, s3_event,
    trail_record,
};

const GONE: &str = "a log file that a digest lists is gone";
const CHANGED: &str = "a log file is not what CloudTrail wrote";
const BROKEN: &str = "the chain of digest files is broken: the digest before this one";
const UNREADABLE: &str = "a log file that a digest lists cannot be read";
const CONTENT_ONLY: &str = "log files have the content that digests list, but nothing proves that they were delivered";
const ARCHIVED: TrailFault =
    TrailFault::Error(403, "InvalidObjectState", "The operation is not valid for the object's storage class");
const DENIED: TrailFault = TrailFault::Error(403, "AccessDenied", "Access Denied");
const VERIFIED: &str = "a digest file is verified";

/// `CloudTrail`'s key of the region, shared because making one takes long.
static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());

/// A log file, as a digest lists it.
struct Log {
    key: String,
    sha256: String,
    records: Vec<String>,
}

/// A bucket whose trail writes digest files.
struct Signed {
    trail: Trail,
    logs: usize,
    /// The digest before, as the next one names it: its key, its hash and its signature.
    previous: Option<(String, String, String)>,
    /// The bucket of the digest before.
    previous_bucket: &'static str,
}

impl Signed {
    async fn usual() -> Self {
        let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_VERIFY", "true");
        let path = trail.setup.folder().join("key");
        std::fs::write(&path, BASE64_STANDARD.encode(KEY.public_key().as_ref())).unwrap();
        let trail = trail.with("CLOUDTRAIL_AUDIT_DIGEST_PUBLIC_KEY", path.to_str().unwrap());
        Self { trail, logs: 0, previous: None, previous_bucket: FakeTrail::BUCKET }
    }

    /// Makes a log file that is not in the bucket yet.
    fn log(&mut self, slot: i64) -> Log {
        let slot = minutes_ago(slot);
        let records: Vec<_> = (0..3).map(|n| trail_record(ACCOUNT, self.logs * 10 + n, slot)).collect();
        let key = log_key(ACCOUNT, REGION, slot, self.logs);
        self.logs += 1;
        let sha256 = hex(&Sha256::digest(format!("{{\"Records\":[{}]}}", records.join(","))));
        Log { key, sha256, records }
    }

    /// Makes a log file in the bucket, written a minute after its slot.
    fn written(&mut self, slot: i64) -> Log {
        let log = self.log(slot);
        self.trail.fake.put(&log.key, log_file(&log.records), minutes_ago(slot) + SignedDuration::from_mins(1));
        log
    }

    /// Writes a digest that lists these files, written this many minutes ago. Returns its key.
    fn digest(&mut self, minutes: i64, logs: &[&Log]) -> String {
        let written = minutes_ago(minutes);
        let zoned = written.to_zoned(TimeZone::UTC);
        let name = zoned.strftime("%Y%m%dT%H%M00Z");
        let key = format!(
            "AWSLogs/{ACCOUNT}/CloudTrail-Digest/{REGION}/{}/{ACCOUNT}_CloudTrail-Digest_{REGION}_trail_{REGION}_{name}.json.gz",
            zoned.strftime("%Y/%m/%d")
        );
        let files: Vec<Value> = logs
            .iter()
            .map(|log| json!({"s3Bucket": FakeTrail::BUCKET, "s3Object": log.key, "hashValue": log.sha256, "hashAlgorithm": "SHA-256"}))
            .collect();
        let previous = self.previous.clone();
        let of =
            |pick: fn(&(String, String, String)) -> &String| previous.as_ref().map(|previous| pick(previous).clone());
        let end = zoned.strftime("%Y-%m-%dT%H:%M:00Z").to_string();
        let content = json!({
            "awsAccountId": ACCOUNT, "digestStartTime": end, "digestEndTime": end, "digestS3Bucket": FakeTrail::BUCKET,
            "digestS3Object": key, "digestPublicKeyFingerprint": "31e8b5433410dfb6", "digestSignatureAlgorithm": "SHA256withRSA",
            "previousDigestS3Bucket": previous.as_ref().map(|_| self.previous_bucket),
            "previousDigestS3Object": of(|previous| &previous.0),
            "previousDigestHashValue": of(|previous| &previous.1), "previousDigestHashAlgorithm": "SHA-256",
            "previousDigestSignature": of(|previous| &previous.2), "logFiles": files,
        })
        .to_string();
        let sha256 = hex(&Sha256::digest(&content));
        let before = of(|previous| &previous.2).unwrap_or_else(|| "null".to_owned());
        let signature = sign(&format!("{end}\n{}/{key}\n{sha256}\n{before}", FakeTrail::BUCKET));
        self.trail.fake.put_signed(&key, gzip(content.as_bytes()), written, signature.clone());
        self.previous = Some((key.clone(), sha256, signature));
        key
    }

    async fn run(&self) -> Ended {
        self.trail.run_to(0).await
    }
}

fn sign(text: &str) -> String {
    let mut signature = vec![0; KEY.public_modulus_len()];
    KEY.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    hex(&signature)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The records of these files, sorted.
fn records(logs: &[&Log]) -> Vec<String> {
    sorted(logs.iter().flat_map(|log| log.records.clone()).collect())
}

/// The errors that were logged.
fn errors(ended: &Ended) -> Vec<&str> {
    ended.stderr.lines().filter(|line| line.contains(" ERROR ")).collect()
}

/// Checks that the only error says `what`, and names `key`.
fn assert_error(ended: &Ended, what: &str, key: &str) {
    let errors = errors(ended);
    assert!(matches!(errors[..], [error] if error.contains(what) && error.contains(key)), "{}", ended.stderr);
}

#[tokio::test]
async fn what_a_digest_lists_is_proven_and_then_forgotten() {
    let mut signed = Signed::usual().await;
    let logs = [signed.written(120), signed.written(110), signed.written(60)];
    signed.digest(90, &[&logs[0], &logs[1]]);
    let ended = signed.run().await;
    assert_eq!(sorted(lines(&ended)), records(&[&logs[0], &logs[1], &logs[2]]));
    assert_eq!((errors(&ended), ended.stderr.matches(VERIFIED).count()), (Vec::new(), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("a chain of digest files begins here"), "{}", ended.stderr);
    // One file waits for its digest: 28 bytes in base64.
    let waiting = |signed: &Signed| signed.trail.state()["cursor"]["verified"]["files"].as_str().unwrap().len();
    assert_eq!(waiting(&signed), 38);
    signed.digest(30, &[&logs[2]]);
    let reads = signed.trail.read().len();
    let ended = signed.run().await;
    assert_eq!((lines(&ended).len(), errors(&ended)), (0, Vec::new()), "{}", ended.stderr);
    assert_eq!((ended.stderr.matches(VERIFIED).count(), waiting(&signed)), (1, 0), "{}", ended.stderr);
    assert_eq!(signed.trail.read().len(), reads + 2, "this digest and the one before it, and no log file again");
}

#[tokio::test]
async fn a_log_file_that_was_deleted_is_an_error_that_names_it() {
    let mut signed = Signed::usual().await;
    let (kept, deleted) = (signed.written(120), signed.log(115));
    signed.digest(90, &[&kept, &deleted]);
    let ended = signed.run().await;
    assert_eq!(lines(&ended), kept.records);
    assert_error(&ended, GONE, &deleted.key);
    assert_eq!(errors(&signed.run().await), [""; 0], "it is logged once");
}

#[tokio::test]
async fn a_log_file_that_was_changed_is_an_error_that_names_it() {
    let mut signed = Signed::usual().await;
    let (kept, changed) = (signed.written(120), signed.written(115));
    let forged = changed.records[..2].to_vec();
    signed.trail.fake.put(&changed.key, log_file(&forged), minutes_ago(114));
    signed.digest(90, &[&kept, &changed]);
    let ended = signed.run().await;
    assert_eq!(lines(&ended).len(), 5, "what is there is delivered");
    assert_error(&ended, CHANGED, &changed.key);
}

#[tokio::test]
async fn a_log_file_that_was_not_delivered_is_delivered_now_and_once() {
    let mut signed = Signed::usual().await;
    let (listed, missed) = (signed.written(120), signed.log(115));
    signed.digest(90, &[&listed, &missed]);
    // The file appears long after its time of writing, when the log files have been listed.
    let (key, bytes) = (missed.key.clone(), log_file(&missed.records));
    signed.trail.fake.after_lists(3, move |objects| {
        objects.insert(key, TrailObject { bytes: bytes.into(), modified: minutes_ago(114) });
    });
    let ended = signed.run().await;
    assert_eq!(sorted(lines(&ended)), records(&[&listed, &missed]), "{}", ended.stderr);
    assert!(ended.stderr.contains("was not delivered; it is read now"), "{}", ended.stderr);
    assert_eq!(errors(&ended), [""; 0]);
    signed.trail.change_cursor(|cursor| {
        for class in cursor["classes"].as_array_mut().unwrap() {
            class.as_object_mut().unwrap().remove("swept");
        }
    });
    assert_eq!(lines(&signed.run().await), [""; 0], "a sweep does not deliver it again");
}

#[tokio::test]
async fn a_digest_that_was_deleted_or_changed_breaks_the_chain() {
    for is_deleted in [true, false] {
        let mut signed = Signed::usual().await;
        let log = signed.written(200);
        let first = signed.digest(190, &[]);
        signed.digest(130, &[&log]);
        let second = signed.previous.clone().unwrap().0;
        if is_deleted {
            signed.trail.fake.remove(&first);
        } else {
            let forged = gzip(b"{}");
            signed.trail.fake.put(&first, forged, minutes_ago(190));
        }
        let ended = signed.run().await;
        assert_eq!(lines(&ended), log.records);
        let said = if is_deleted { "is gone" } else { "was changed" };
        let broken = errors(&ended).into_iter().find(|error| error.contains(&format!("{BROKEN} {said}")));
        assert!(broken.is_some_and(|error| error.contains(&second)), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_digest_that_cloudtrail_did_not_sign_proves_nothing() {
    let mut signed = Signed::usual().await;
    let log = signed.written(120);
    let key = signed.digest(90, &[&log]);
    signed.trail.fake.put_signed(&key, gzip(b"{\"a\":1}"), minutes_ago(90), sign("something else"));
    let ended = signed.run().await;
    assert_error(&ended, "a digest file proves nothing", &key);
    // The digest is whole, but signed with another key.
    let mut signed = Signed::usual().await;
    let log = signed.written(120);
    let key = signed.digest(90, &[&log]);
    let other = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let path = signed.trail.setup.folder().join("other");
    std::fs::write(&path, BASE64_STANDARD.encode(other.public_key().as_ref())).unwrap();
    signed.trail = signed.trail.with("CLOUDTRAIL_AUDIT_DIGEST_PUBLIC_KEY", path.to_str().unwrap());
    let ended = signed.run().await;
    assert_eq!(lines(&ended), log.records);
    assert_error(&ended, "no public key of CloudTrail proves its signature", &key);
}

#[tokio::test]
async fn digests_that_cannot_be_read_hold_up_no_delivery_and_are_read_later() {
    let mut signed = Signed::usual().await;
    let log = signed.written(120);
    signed.digest(90, &[&log]);
    signed.trail.fake.fail_reads("CloudTrail-Digest", TrailFault::Error(403, "AccessDenied", "Access Denied"), 1);
    let ended = signed.run().await;
    assert_eq!(lines(&ended), log.records);
    assert_error(&ended, "digest files cannot be read; delivery goes on", "s3:GetObject");
    let ended = signed.run().await;
    assert_eq!((errors(&ended), ended.stderr.matches(VERIFIED).count()), (Vec::new(), 1), "{}", ended.stderr);
}

/// The answer of `CloudTrail`'s API with this key.
fn keys(key: &KeyPair, fingerprint: &str) -> ResponseTemplate {
    let value = BASE64_STANDARD.encode(key.public_key().as_ref());
    ResponseTemplate::new(200).set_body_json(json!({"PublicKeyList": [{"Value": value, "Fingerprint": fingerprint}]}))
}

/// A trail with two digests, which the key that `api` returns has proven.
async fn verified_by(api: &MockServer) -> Signed {
    let mut signed = Signed::usual().await;
    signed.trail.setup =
        signed.trail.setup.without("CLOUDTRAIL_AUDIT_DIGEST_PUBLIC_KEY").with("AWS_ENDPOINT_URL", api.uri());
    let log = signed.written(120);
    signed.digest(100, &[&log]);
    signed.digest(90, &[]);
    let ended = signed.run().await;
    assert_eq!((errors(&ended), ended.stderr.matches(VERIFIED).count()), (Vec::new(), 2), "{}", ended.stderr);
    signed
}

#[tokio::test]
async fn without_a_key_the_keys_of_the_region_are_fetched_from_cloudtrail() {
    let target = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.ListPublicKeys";
    let api = MockServer::start().await;
    let keys = keys(&KEY, "31e8");
    Mock::given(method("POST")).and(header("x-amz-target", target)).respond_with(keys).expect(1).mount(&api).await;
    let mut signed = verified_by(&api).await;
    let request = &api.received_requests().await.unwrap()[0];
    let scope = format!("/{REGION}/cloudtrail/aws4_request");
    assert!(request.headers["authorization"].to_str().unwrap().contains(&scope), "{request:?}");
    // A denied call does not stop the delivery.
    api.reset().await;
    let denied = ResponseTemplate::new(400).set_body_string("{\"__type\":\"AccessDeniedException\"}");
    Mock::given(method("POST")).respond_with(denied).mount(&api).await;
    let log = signed.written(60);
    signed.digest(30, &[&log]);
    let ended = signed.run().await;
    assert_eq!(lines(&ended), log.records);
    assert_error(&ended, "grant cloudtrail:ListPublicKeys", "AccessDeniedException");
}

#[tokio::test]
async fn while_the_credentials_for_the_keys_do_not_come_delivery_goes_on() {
    let mut signed = Signed::usual().await;
    let folder = signed.trail.setup.folder().to_owned();
    // A program that gives the credentials, until the bucket is listed. Then it takes much longer than a request may.
    let hanging = folder.join("hanging");
    let credentials = "{\"Version\":1,\"AccessKeyId\":\"AKIAANYONE\",\"SecretAccessKey\":\"secret\"}";
    let program = format!("if [ -e '{}' ]; then exec sleep 60; fi\necho '{credentials}'\n", hanging.display());
    std::fs::write(folder.join("program"), program).unwrap();
    let profile = format!("[default]\ncredential_process = /bin/sh {}\n", folder.join("program").display());
    std::fs::write(folder.join("profile"), profile).unwrap();
    let setup = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "CLOUDTRAIL_AUDIT_DIGEST_PUBLIC_KEY"]
        .into_iter()
        .fold(signed.trail.setup, Setup::without);
    signed.trail.setup = setup
        .with("AWS_CONFIG_FILE", folder.join("profile").to_str().unwrap())
        .with("PATH", std::env::var("PATH").unwrap())
        .with("AUDITSYNC_HTTP_TIMEOUT", "8s");
    signed.trail.fake.after_lists(1, move |_| std::fs::write(hanging, "").unwrap());
    let log = signed.written(120);
    signed.digest(90, &[&log]);
    let ended = signed.run().await;
    assert_eq!(lines(&ended), log.records);
    assert_error(&ended, "digest files cannot be read; delivery goes on", "AUDITSYNC_HTTP_TIMEOUT");
}

#[tokio::test]
async fn a_log_file_that_was_in_an_archive_class_is_not_called_changed() {
    let mut signed = Signed::usual().await;
    let (archived, kept) = (signed.written(120), signed.written(110));
    signed.digest(90, &[&archived, &kept]);
    signed.trail.fake.fail_reads(&archived.key, ARCHIVED, 1);
    let ended = signed.run().await;
    assert_eq!(lines(&ended), kept.records);
    let said: Vec<_> = errors(&ended).into_iter().filter(|error| error.contains("digest")).collect();
    assert!(
        matches!(said[..], [error] if error.contains(UNREADABLE) && error.contains(&archived.key) && error.contains("it is a dead letter")),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr.matches(VERIFIED).count(), 1, "{}", ended.stderr);
    assert_eq!((lines(&signed.run().await).len(), signed.trail.dead_letters().len()), (0, 1), "it is given up once");
}

/// Delivers the existing files before verifying is turned on.
async fn deliver_unverified(mut signed: Signed) -> Signed {
    signed.trail = signed.trail.with("CLOUDTRAIL_AUDIT_VERIFY", "false");
    assert_eq!(errors(&signed.run().await), [""; 0]);
    signed.trail = signed.trail.with("CLOUDTRAIL_AUDIT_VERIFY", "true");
    signed
}

#[tokio::test]
async fn a_log_file_that_is_archived_or_denied_is_an_error_and_the_digests_behind_it_are_verified() {
    let mut signed = Signed::usual().await;
    let (archived, denied, kept) = (signed.written(120), signed.written(110), signed.written(100));
    let mut signed = deliver_unverified(signed).await;
    signed.digest(40, &[&archived, &denied]);
    signed.digest(30, &[&kept]);
    signed.trail.fake.fail_reads(&archived.key, ARCHIVED, usize::MAX);
    signed.trail.fake.fail_reads(&denied.key, DENIED, usize::MAX);
    let ended = signed.run().await;
    let said = errors(&ended);
    assert_eq!(said.len(), 2, "{}", ended.stderr);
    for (log, why) in [(&archived, "its storage class is an archive"), (&denied, "grant s3:GetObject")] {
        let names = |error: &&&str| error.contains(&log.key) && error.contains(UNREADABLE) && error.contains(why);
        assert!(said.iter().any(|error| names(&error)), "{why}: {}", ended.stderr);
    }
    assert_eq!(ended.stderr.matches(VERIFIED).count(), 2, "{}", ended.stderr);
    assert_eq!(errors(&signed.run().await), [""; 0], "it is logged once");
}

#[tokio::test]
async fn of_files_that_are_not_known_any_more_the_content_alone_is_proven_and_counted_so() {
    let mut signed = Signed::usual().await;
    let (before, changed) = (signed.written(120), signed.written(110));
    let mut signed = deliver_unverified(signed).await;
    signed.trail.fake.put(&changed.key, log_file(&changed.records[..1]), minutes_ago(109));
    signed.digest(40, &[&before, &changed]);
    let probe = Probe::new();
    let trail = signed.trail.with("AUDITSYNC_SYNC_LOOP", "true").with("CLOUDTRAIL_AUDIT_HTTP_LISTEN", probe.address());
    let mut daemon = trail.setup.start(&[]);
    daemon.says(CONTENT_ONLY).await;
    let scrape = probe.get("/metrics").await.body;
    for (result, count) in [("content_only", 1), ("proven", 0), ("mismatched", 1), ("fetched", 0)] {
        let series =
            format!("auditsync_files_verified_total{{pipeline=\"cloudtrail:stdout\",result=\"{result}\"}} {count}");
        assert!(scrape.lines().any(|line| line == series), "{series} in\n{scrape}");
    }
    let ended = stop(daemon).await;
    let warned = ended.stderr.lines().find(|line| line.contains(CONTENT_ONLY));
    assert!(warned.is_some_and(|line| line.contains("files=1")), "{}", ended.stderr);
    assert_error(&ended, CHANGED, &changed.key);
}

#[tokio::test]
async fn a_digest_whose_files_take_long_to_read_is_verified_in_parts() {
    let mut signed = Signed::usual().await;
    let logs: Vec<_> = (0..4).map(|n| signed.written(120 - n)).collect();
    let mut signed = deliver_unverified(signed).await;
    signed.digest(40, &logs.iter().collect::<Vec<_>>());
    signed.trail.fake.slow_reads("/CloudTrail/", Duration::from_millis(1100));
    let reads = signed.trail.read().len();
    let ended = signed.run().await;
    assert_eq!((errors(&ended), ended.stderr.matches(VERIFIED).count()), (Vec::new(), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("a digest takes long to verify"), "{}", ended.stderr);
    assert_eq!(signed.trail.read().len(), reads + 1 + 4, "the digest, and each log file once");
}

#[tokio::test]
async fn by_queue_a_file_that_a_digest_lists_and_no_message_named_is_delivered_and_what_is_wrong_is_an_error() {
    let queue = FakeQueue::start().await;
    let mut signed = Signed::usual().await;
    signed.trail = signed.trail.with("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", queue.url());
    let announce = |log: &Log, ago: i64| {
        queue.send_dated(s3_event(FakeTrail::BUCKET, &log.key).to_string(), minutes_ago(ago));
    };
    let first = signed.written(200);
    signed.digest(180, &[&first]);
    announce(&first, 199);
    let ended = signed.run().await;
    assert_eq!((lines(&ended), errors(&ended)), (first.records.clone(), Vec::new()), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches(VERIFIED).count(), 1, "{}", ended.stderr);
    // No sweep is due now, but digests are.
    let (named, changed) = (signed.written(160), signed.written(150));
    let (lost, deleted) = (signed.written(140), signed.log(130));
    signed.trail.fake.put(&changed.key, log_file(&changed.records[..2]), minutes_ago(149));
    announce(&named, 159);
    announce(&changed, 149);
    let ended = signed.run().await;
    assert_eq!((lines(&ended).len(), errors(&ended)), (5, Vec::new()), "{}", ended.stderr);
    signed.digest(100, &[&named, &changed, &lost, &deleted]);
    // The first read only looks whether the file is there, and the second one finds it broken.
    signed.trail.fake.fail_reads(&lost.key, TrailFault::Half, 2);
    let ended = signed.run().await;
    assert_eq!(lines(&ended), lost.records, "{}", ended.stderr);
    assert!(ended.stderr.contains("was not delivered; it is read now"), "{}", ended.stderr);
    let said = errors(&ended);
    for (what, key) in [(GONE, &deleted.key), (CHANGED, &changed.key)] {
        assert!(said.iter().any(|error| error.contains(what) && error.contains(key)), "{what}: {said:?}");
    }
    assert_eq!(said.len(), 2, "{said:?}");
    announce(&lost, 1);
    let ended = signed.run().await;
    assert_eq!((lines(&ended), errors(&ended)), (Vec::new(), Vec::new()), "its message comes late: {}", ended.stderr);
    queue.wait_until_empty().await;
}

#[tokio::test]
async fn check_reads_a_digest_and_names_the_permission_that_is_missing() {
    let denied = || TrailFault::Error(403, "AccessDenied", "Access Denied");
    let no_key = TrailFault::Error(403, "AccessDenied", "not authorized to perform: kms:Decrypt on resource: arn:k");
    let mut signed = Signed::usual().await;
    let log = signed.written(120);
    let check = async |signed: &Signed, code: i32, said: &str| {
        let ended = signed.trail.setup.run(&["check"]).await;
        assert_eq!(ended.code(), Some(code), "{}", ended.everything());
        assert!(ended.everything().contains(said), "{said}: {}", ended.everything());
    };
    check(&signed, 0, "there is no digest file of the last day; turn on the trail's log file validation").await;
    let key = signed.digest(90, &[&log]);
    check(&signed, 0, &format!("{key} is signed by CloudTrail and lists 1 files")).await;
    signed.trail.fake.fail_lists("CloudTrail-Digest", denied(), usize::MAX);
    check(&signed, 77, "grant s3:ListBucket on arn:aws:s3:::trail").await;
    signed.trail.fake.recover();
    signed.trail.fake.fail_reads("CloudTrail-Digest", denied(), usize::MAX);
    check(&signed, 77, "grant s3:GetObject on arn:aws:s3:::trail/*").await;
    signed.trail.fake.recover();
    signed.trail.fake.fail_reads("CloudTrail-Digest", no_key, usize::MAX);
    check(&signed, 77, "grant kms:Decrypt on the key").await;
    signed.trail.fake.recover();
    // The given key is not the one that signed the digest.
    let given = signed.trail.setup.folder().join("key");
    let other = KeyPair::generate(KeySize::Rsa2048).unwrap();
    std::fs::write(&given, BASE64_STANDARD.encode(other.public_key().as_ref())).unwrap();
    check(&signed, 78, "no public key of CloudTrail proves its signature").await;
    let api = MockServer::start().await;
    let answer = ResponseTemplate::new(400).set_body_string("{\"__type\":\"AccessDeniedException\"}");
    Mock::given(method("POST")).respond_with(answer).mount(&api).await;
    signed.trail.setup =
        signed.trail.setup.without("CLOUDTRAIL_AUDIT_DIGEST_PUBLIC_KEY").with("AWS_ENDPOINT_URL", api.uri());
    check(&signed, 77, "grant cloudtrail:ListPublicKeys").await;
}

const UNLISTED: &str = "no digest file lists log files that were delivered over 3 hours ago";

#[tokio::test]
async fn a_log_file_that_no_digest_lists_within_three_hours_is_warned_about_until_one_does() {
    let mut signed = Signed::usual().await;
    let (old, new) = (signed.written(300), signed.written(30));
    let ended = signed.run().await;
    assert_eq!((lines(&ended).len(), errors(&ended)), (6, Vec::new()));
    let warning =
        ended.stderr.lines().find(|line| line.contains(UNLISTED)).unwrap_or_else(|| panic!("{}", ended.stderr));
    let folder = format!("AWSLogs/{ACCOUNT}/CloudTrail/{REGION}\"");
    assert!(warning.contains(" WARN ") && warning.contains("files=1") && warning.contains(&folder), "{warning}");
    assert!(signed.run().await.stderr.contains(UNLISTED), "another process warns, too");
    signed.digest(20, &[&old, &new]);
    let ended = signed.run().await;
    assert!(!ended.stderr.contains(UNLISTED) && ended.stderr.contains(VERIFIED), "{}", ended.stderr);
}

#[tokio::test]
async fn a_chain_that_begins_again_is_warned_about() {
    let mut signed = Signed::usual().await;
    signed.written(20);
    signed.digest(200, &[]);
    signed.previous = None;
    let second = signed.digest(100, &[]);
    let ended = signed.run().await;
    let again: Vec<_> = ended.stderr.lines().filter(|line| line.contains("has written digest files before")).collect();
    assert!(matches!(again[..], [line] if line.contains(" WARN ") && line.contains(&second)), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("nothing proves what was written before it").count(), 1, "the first one");
}

#[tokio::test]
async fn the_keys_of_its_own_time_prove_a_digest_and_while_the_api_is_down_no_permission_is_named() {
    let api = MockServer::start().await;
    let other = KeyPair::generate(KeySize::Rsa2048).unwrap();
    Mock::given(method("POST")).respond_with(keys(&other, "other")).up_to_n_times(1).mount(&api).await;
    Mock::given(method("POST")).respond_with(keys(&KEY, "31e8b5433410dfb6")).mount(&api).await;
    let mut signed = verified_by(&api).await;
    let requests = api.received_requests().await.unwrap();
    assert_eq!(requests.len(), 2, "the keys are fetched once more");
    let range: Value = serde_json::from_slice(&requests[1].body).unwrap();
    assert_eq!(range["StartTime"], (minutes_ago(100) - SignedDuration::from_hours(40 * 24)).as_second());
    // A digest whose key nobody knows stays untrusted.
    api.reset().await;
    Mock::given(method("POST")).respond_with(keys(&other, "other")).mount(&api).await;
    let key = signed.digest(60, &[]);
    assert_error(&signed.run().await, "no public key of CloudTrail proves its signature", &key);
    api.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(503)).mount(&api).await;
    signed.digest(30, &[]);
    let ended = signed.run().await;
    assert_error(&ended, "digest files cannot be read; delivery goes on", "503");
    assert!(!ended.stderr.contains("grant"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_digest_that_is_denied_is_passed_if_another_one_can_be_read() {
    let mut signed = Signed::usual().await;
    let log = signed.written(80);
    let denied = signed.digest(90, &[]);
    let next = signed.digest(30, &[&log]);
    signed.trail.fake.fail_reads(&denied, DENIED, usize::MAX);
    let ended = signed.run().await;
    assert_eq!((lines(&ended), ended.stderr.matches(VERIFIED).count()), (log.records, 1), "{}", ended.stderr);
    let said = errors(&ended);
    let [untrusted, unlinked] = said[..] else { panic!("{said:?}") };
    assert!(untrusted.contains("a digest file cannot be read, so what it lists is not verified"), "{untrusted}");
    assert!(untrusted.contains(&denied) && untrusted.contains("grant s3:GetObject"), "{untrusted}");
    assert!(
        unlinked.contains("the digest before this one could not be read") && unlinked.contains(&next),
        "{unlinked}"
    );
    assert_eq!(errors(&signed.run().await), [""; 0], "both are finished");
}

#[tokio::test]
async fn where_the_trail_has_another_bucket_now_the_digest_before_is_read_in_the_old_one() {
    for is_there in [true, false] {
        let mut signed = Signed::usual().await;
        signed.written(20);
        // The first one is from before the start.
        signed.digest(500, &[]);
        signed.previous_bucket = "old";
        let second = signed.digest(100, &[]);
        if is_there {
            signed.trail.fake.also_as("old");
        }
        let ended = signed.run().await;
        assert_eq!(ended.stderr.matches(VERIFIED).count(), 1, "{}", ended.stderr);
        if is_there {
            assert_eq!(errors(&ended), [""; 0]);
        } else {
            assert_error(&ended, "the digest before this one could not be read", &second);
        }
    }
}

#[tokio::test]
async fn a_survey_of_digests_goes_on_where_it_stopped() {
    let mut signed = Signed::usual().await;
    signed.trail = signed.trail.with("AUDITSYNC_SYNC_LOOP", "true");
    signed.digest(90, &[]);
    for n in 0..9 {
        signed.trail.fake.put(&format!("AWSLogs/22223333444{n}/CloudTrail-Digest/{REGION}/x"), "", minutes_ago(90));
    }
    let slow_down = TrailFault::Error(503, "SlowDown", "Please reduce your request rate.");
    signed.trail.fake.fail_lists(&format!("222233334445/CloudTrail-Digest/{REGION}"), slow_down, 1);
    let mut daemon = signed.trail.setup.start(&[]);
    daemon.says(VERIFIED).await;
    stop(daemon).await;
    let requests = signed.trail.fake.requests();
    let until = requests.iter().position(|request| matches!(request.asked, Asked::Get { .. })).unwrap();
    let is_list = |asked: &Asked| matches!(asked, Asked::List { prefix, .. } if prefix.contains("CloudTrail-Digest"));
    let lists = requests[..until].iter().filter(|request| is_list(&request.asked)).count();
    assert_eq!(lists, 10 + 10 + 1, "nothing is listed twice but what failed");
}

#[tokio::test]
async fn a_digest_that_has_just_been_written_does_not_keep_a_sweep_of_digests_from_ending() {
    let mut signed = Signed::usual().await;
    signed.written(20);
    signed.digest(90, &[]);
    signed.digest(2, &[]);
    let swept = |signed: &Signed| signed.trail.state()["cursor"]["verified"]["digests"]["classes"][2]["swept"].clone();
    let ended = signed.run().await;
    assert_eq!((ended.stderr.matches(VERIFIED).count(), swept(&signed).is_string()), (1, true), "{}", ended.stderr);
}

/// Takes a minute, because a pass of verifying does.
#[tokio::test]
async fn while_many_digests_are_verified_new_files_are_delivered() {
    let mut signed = Signed::usual().await;
    for n in 0..9 {
        signed.digest(300 - 20 * n, &[]);
    }
    let last = signed.previous.clone().unwrap().0;
    signed.trail.fake.slow_reads("CloudTrail-Digest", Duration::from_secs(9));
    let new = signed.log(30);
    let (key, bytes) = (new.key.clone(), log_file(&new.records));
    // The log files and the digests are listed by then.
    signed.trail.fake.after_lists(4, move |objects| {
        objects.insert(key, TrailObject { bytes: bytes.into(), modified: minutes_ago(25) });
    });
    let ended = signed.run().await;
    assert_eq!((lines(&ended), ended.stderr.matches(VERIFIED).count()), (new.records, 9), "{}", ended.stderr);
    let read = signed.trail.read();
    let at = |key: &str| read.iter().position(|read| read == key).unwrap();
    assert!(at(&new.key) < at(&last), "{read:?}");
}
