//! Tests `CloudTrail`'s log files by listing: every record arrives once, whatever the order of names and times.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::daemon::{Ended, Setup};
use crate::support::{
    Asked, FakeIntake, FakeTrail, IntakeOptions, REGION, log_file, log_key, minutes_ago, trail_record,
};

/// An account of these tests.
pub const ACCOUNT: &str = "111122223333";
pub const OTHER: &str = "444455556666";

/// The bucket, and the binary's setup before standard output.
pub struct Trail {
    pub fake: FakeTrail,
    pub setup: Setup,
}

impl Trail {
    pub async fn usual() -> Self {
        let fake = FakeTrail::start().await;
        let setup = reading(&fake.url(), FakeTrail::BUCKET);
        Self { fake, setup }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    /// With Datadog as the destination.
    pub fn to(self, intake: &FakeIntake) -> Self {
        Self { setup: to(self.setup, intake), ..self }
    }

    /// A log file whose slot is `slot` minutes ago, written `behind` minutes after the slot. Its records are numbered
    /// from `n` on.
    pub fn file(&self, account: &str, n: usize, slot: i64, behind: i64, records: usize) -> Vec<String> {
        let slot = minutes_ago(slot);
        let records: Vec<_> = (0..records).map(|more| trail_record(account, n + more, slot)).collect();
        let key = log_key(account, REGION, slot, n);
        self.fake.put(&key, log_file(&records), slot + SignedDuration::from_mins(behind));
        records
    }

    /// Runs once, and expects this exit code.
    pub async fn run_to(&self, code: i32) -> Ended {
        let ended = self.setup.run_to(code).await;
        assert_eq!(self.fake.violations(), [""; 0]);
        ended
    }

    /// Runs once with success, and returns the printed lines.
    pub async fn printed(&self) -> Vec<String> {
        lines(&self.run_to(0).await)
    }

    /// The state document of a pipeline to standard output.
    pub fn state(&self) -> Value {
        serde_json::from_slice(&std::fs::read(state_file(&self.setup)).expect("a state")).expect("it is JSON")
    }

    /// Changes the cursor in the state, as time would.
    pub fn change_cursor(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        change(&mut state["cursor"]);
        std::fs::write(state_file(&self.setup), state.to_string()).expect("it can be written");
    }

    /// The keys that were read, in order.
    pub fn read(&self) -> Vec<String> {
        let requests = self.fake.requests().into_iter();
        let keys = requests.filter_map(|request| match request.asked {
            Asked::Get { key, .. } => Some(key),
            Asked::List { .. } => None,
        });
        keys.collect()
    }

    pub fn dead_letters(&self) -> Vec<Value> {
        let path = self.setup.folder().join("auditsync-cloudtrail-stdout.dead-letters.ndjson");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

fn state_file(setup: &Setup) -> PathBuf {
    setup.folder().join("auditsync-cloudtrail-stdout.json")
}

/// A one-shot that reads a bucket of the S3 at `url`.
pub fn reading(url: &str, bucket: &str) -> Setup {
    Setup::bare()
        .with("AUDITSYNC_PIPELINES", "cloudtrail:stdout")
        .with("CLOUDTRAIL_AUDIT_LOG_BUCKET", bucket)
        .with("CLOUDTRAIL_AUDIT_ENDPOINT_URL", url)
        .with("CLOUDTRAIL_AUDIT_FORCE_PATH_STYLE", "true")
        .with("CLOUDTRAIL_AUDIT_SYNC_INTERVAL", "5s")
        .with("CLOUDTRAIL_AUDIT_SYNC_LOOKBACK", "6h")
        .with("AUDITSYNC_SYNC_LOOP", "false")
        // On a busy machine, a one-shot may need long for a fault that passes.
        .with("AUDITSYNC_RETRY_BUDGET", "2m")
        .with("AUDITSYNC_LOG_LEVEL", "debug")
        .with_aws_keys()
}

/// The same with Datadog as the destination.
pub fn to(setup: Setup, intake: &FakeIntake) -> Setup {
    setup.with("AUDITSYNC_PIPELINES", "cloudtrail:datadog").with_datadog(intake)
}

pub fn lines(ended: &Ended) -> Vec<String> {
    ended.stdout.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn every_record_is_delivered_once_byte_for_byte_and_then_only_what_is_new() {
    let trail = Trail::usual().await;
    let mut expected = Vec::new();
    for n in 0..12 {
        let account = if n % 2 == 0 { ACCOUNT } else { OTHER };
        expected.extend(trail.file(account, n * 100, 300 - i64::try_from(n).unwrap() * 20, 5, 10));
    }
    assert_eq!(trail.printed().await, expected, "in the order of writing");
    assert_eq!(trail.printed().await, [""; 0]);
    let read = trail.read().len();
    let news = trail.file(OTHER, 5000, 10, 5, 3);
    assert_eq!(trail.printed().await, news);
    assert_eq!(trail.read().len(), read + 1);
}

#[tokio::test]
async fn files_that_appear_out_of_order_are_delivered() {
    let trail = Trail::usual().await;
    trail.file(ACCOUNT, 100, 20, 14, 1);
    trail.printed().await;
    // An older slot, and an older time of writing; the same second; and a slot ahead of the clock.
    let mut late = trail.file(ACCOUNT, 200, 40, 33, 1);
    late.extend(trail.file(ACCOUNT, 300, 20, 14, 1));
    late.extend(trail.file(OTHER, 400, -4, -8, 1));
    let mut printed = trail.printed().await;
    printed.sort();
    late.sort();
    assert_eq!(printed, late);
    assert_eq!(trail.printed().await, [""; 0]);
}

#[tokio::test]
async fn a_file_that_is_written_long_after_its_slot_is_found_by_a_sweep() {
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_START", minutes_ago(40 * 24 * 60).to_string());
    trail.file(ACCOUNT, 100, 20, 14, 1);
    trail.printed().await;
    let day = 24 * 60;
    let late = trail.file(ACCOUNT, 200, day, day - 3, 1);
    let very_late = trail.file(ACCOUNT, 300, 20 * day, 20 * day - 3, 1);
    assert_eq!(trail.printed().await, [""; 0], "it is looked for once an hour");
    let back = |trail: &Trail, class: usize, hours: i64| {
        trail.change_cursor(|cursor| {
            let swept = Timestamp::now() - SignedDuration::from_hours(hours);
            cursor["classes"][class]["swept"] = swept.to_string().into();
        });
    };
    back(&trail, 1, 2);
    assert_eq!(trail.printed().await, late);
    back(&trail, 2, 25);
    assert_eq!(trail.printed().await, very_late);
    back(&trail, 2, 25);
    assert_eq!(trail.printed().await, [""; 0]);
}

#[tokio::test]
async fn the_first_sync_lists_only_the_days_that_it_needs() {
    let start = minutes_ago(30);
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_START", start.to_string());
    trail.file(ACCOUNT, 100, 3 * 24 * 60, 5, 1);
    trail.file(ACCOUNT, 200, 100, 5, 1);
    // A slot before the start, with a record from after it, and one from before.
    let slot = minutes_ago(60);
    let records = [trail_record(ACCOUNT, 300, minutes_ago(20)), trail_record(ACCOUNT, 301, minutes_ago(31))];
    trail.fake.put(&log_key(ACCOUNT, REGION, slot, 300), log_file(&records), minutes_ago(10));
    let expected: Vec<_> = records[..1].iter().cloned().chain(trail.file(ACCOUNT, 400, 15, 6, 1)).collect();
    let mut printed = trail.printed().await;
    printed.sort();
    assert_eq!(printed, expected);
    let listed: Vec<_> = trail
        .fake
        .requests()
        .into_iter()
        .filter_map(|request| match request.asked {
            Asked::List { after, is_of_folders: false, .. } => after,
            _ => None,
        })
        .collect();
    let slot = (start - SignedDuration::from_hours(1)).to_zoned(jiff::tz::TimeZone::UTC);
    let from = format!(
        "AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/{}/{ACCOUNT}_CloudTrail_{REGION}_{}",
        slot.strftime("%Y/%m/%d"),
        slot.strftime("%Y%m%dT%H%MZ")
    );
    assert_eq!(listed, [from]);
}

#[tokio::test]
async fn only_log_files_are_read_of_the_accounts_and_regions_that_are_wanted() {
    let trail = Trail::usual().await;
    let wanted = trail.file(ACCOUNT, 100, 20, 5, 2);
    trail.file(OTHER, 200, 20, 5, 2);
    let (slot, modified) = (minutes_ago(20), minutes_ago(15));
    let put = |key: &str| trail.fake.put(key, log_file(&[trail_record(ACCOUNT, 999, slot)]), modified);
    let key = log_key(ACCOUNT, REGION, slot, 300);
    put(&key.replace("/CloudTrail/", "/CloudTrail-Digest/"));
    put(&key.replace("/CloudTrail/", "/CloudTrail-Insight/"));
    put(&key.replace("_CloudTrail_", "_CloudTrail-Insight_"));
    put(&key.replace(".json.gz", ".tmp"));
    put(&log_key(ACCOUNT, "eu-west-1", slot, 301));
    put(&format!("AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/2026/01/01/CloudTrail validation message"));
    put(&format!("AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/"));
    put(&format!("AWSLogs/{ACCOUNT}/"));
    put("AWSLogs/aws-config/x");
    let trail = trail.with("CLOUDTRAIL_AUDIT_ACCOUNTS", format!("-{OTHER}")).with("CLOUDTRAIL_AUDIT_REGIONS", REGION);
    assert_eq!(trail.printed().await, wanted);
    assert_eq!(trail.read().len(), 1);
}

#[tokio::test]
async fn an_organisations_accounts_are_found_under_a_prefix_and_a_new_one_is_read_from_its_first_file() {
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_LOG_PREFIX", "/org/logs/");
    let put = |account: &str, n: usize, ago: i64| {
        let record = trail_record(account, n, minutes_ago(ago));
        let key = log_key(account, REGION, minutes_ago(ago), n).replace("AWSLogs/", "org/logs/AWSLogs/o-a1b2c3/");
        trail.fake.put(&key, log_file(std::slice::from_ref(&record)), minutes_ago(ago - 4));
        record
    };
    let first = put(ACCOUNT, 100, 30);
    // Outside the prefix.
    trail.fake.put(&log_key(OTHER, REGION, minutes_ago(30), 900), log_file(&[]), minutes_ago(25));
    assert_eq!(trail.printed().await, [first]);
    let (second, third) = (put(OTHER, 200, 12), put("777788889999", 300, 9));
    assert_eq!(trail.printed().await, [second, third]);
}

#[tokio::test]
async fn a_daemon_reads_an_account_that_appears_at_its_next_sync() {
    let trail = Trail::usual().await.with("AUDITSYNC_SYNC_LOOP", "true");
    let first = trail.file(ACCOUNT, 100, 30, 5, 1);
    let mut daemon = trail.setup.start(&[]);
    daemon.prints(|printed| printed.contains(&first[0])).await;
    daemon.says("synced").await;
    let second = trail.file(OTHER, 200, 8, 5, 1);
    daemon.prints(|printed| printed.contains(&second[0])).await;
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!((ended.code(), lines(&ended)), (Some(0), [first, second].concat()));
}

#[tokio::test]
async fn a_record_that_comes_in_two_files_is_delivered_once_and_what_it_is_shared_with_is_kept() {
    let trail = Trail::usual().await;
    let (slot, record) = (minutes_ago(20), trail_record(ACCOUNT, 100, minutes_ago(21)));
    // Another account's view of the same call has its own eventID; the same eventID may be in both accounts.
    let shared =
        record.replace("\"requestID\"", "\"sharedEventID\":\"s\",\"requestID\"").replace("event-000100", "event-x");
    let others = record
        .replace(&format!("\"recipientAccountId\":\"{ACCOUNT}\""), &format!("\"recipientAccountId\":\"{OTHER}\""));
    let all = [record.clone(), shared.clone(), others.clone()];
    for (n, region) in [(1, REGION), (2, "eu-west-1")] {
        let key = log_key(ACCOUNT, region, slot, n);
        trail.fake.put(&key, log_file(&all), slot + SignedDuration::from_mins(5));
    }
    let ended = trail.run_to(0).await;
    assert_eq!(lines(&ended), all);
    assert!(ended.stderr.contains("deduplicated=3"), "{}", ended.stderr);
    let both = Trail { setup: reading(&trail.fake.url(), FakeTrail::BUCKET), ..trail };
    let both = both.with("CLOUDTRAIL_AUDIT_DEDUPLICATE", "false");
    assert_eq!(both.printed().await.len(), 6);
}

#[tokio::test]
async fn requests_say_who_pays_and_are_signed_for_the_region() {
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_REQUESTER_PAYS", "true");
    let trail = trail.with("CLOUDTRAIL_AUDIT_LOG_REGION", "eu-central-1");
    trail.file(ACCOUNT, 100, 20, 5, 1);
    trail.printed().await;
    let requests = trail.fake.requests();
    assert!(requests.len() >= 4, "{requests:?}");
    for request in requests {
        assert_eq!(request.headers.get("x-amz-request-payer").unwrap(), "requester", "{request:?}");
        let signed = request.headers.get("authorization").unwrap().to_str().unwrap();
        assert!(signed.contains("/eu-central-1/s3/"), "{signed}");
    }
}

#[tokio::test]
async fn datadogs_own_pipeline_finds_the_record_at_the_top_of_an_entry() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let trail = Trail::usual().await.to(&intake);
    let records = trail.file(ACCOUNT, 100, 20, 5, 2);
    trail.run_to(0).await;
    let entries = intake.entries();
    assert_eq!(entries.len(), 2);
    for (entry, record) in entries.iter().zip(&records) {
        let record: BTreeMap<String, Value> = serde_json::from_str(record).unwrap();
        assert_eq!((&entry["ddsource"], &entry["service"]), (&"cloudtrail".into(), &"cloudtrail".into()));
        for (key, value) in &record {
            assert_eq!(&entry[key], value, "{key}");
        }
        assert_eq!(entry["evt"]["name"], "PutObject");
        assert_eq!(entry["evt"]["outcome"], "success");
        assert_eq!(entry["usr"]["id"], record["userIdentity"]["arn"]);
        assert_eq!(entry["network"]["client"]["ip"], record["sourceIPAddress"]);
        assert_eq!(entry["message"], "[s3.amazonaws.com] PutObject");
    }
    assert_eq!(intake.violations(), [""; 0]);
}
