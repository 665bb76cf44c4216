//! Tests `CloudTrail`'s log files by the messages of a queue: each event arrives, and then its message is deleted.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::archive::MOTO;
use crate::cloudtrail::to;
use crate::daemon::{Ended, Setup};
use crate::killing::rounds;
use crate::stage::stop;
use crate::support::{Bucket, FakeIntake, Queue, s3_event, within};

/// The log text on each message that could not be read.
const LEFT: &str = "the message is not deleted";

/// A bucket of log files, a queue, and the binary's setup before standard output.
pub struct Trail {
    pub bucket: Bucket,
    pub queue: Queue,
    pub setup: Setup,
}

impl Trail {
    async fn usual() -> Self {
        Self::of(Queue::of(&MOTO).await).await
    }

    async fn of(queue: Queue) -> Self {
        let setup = Setup::bare()
            .with("AUDITSYNC_PIPELINES", "cloudtrail:stdout")
            .with("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", queue.url.as_str())
            .with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "20s")
            .with("CLOUDTRAIL_AUDIT_FORCE_PATH_STYLE", "true")
            .with("AUDITSYNC_RETRY_BUDGET", "2m")
            .with("AUDITSYNC_LOG_LEVEL", "debug")
            .with_aws_keys()
            .with("AWS_ENDPOINT_URL", MOTO.url());
        Self { bucket: Bucket::of(&MOTO).await, queue, setup }
    }

    #[must_use]
    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    /// With Datadog as the destination.
    fn to(self, intake: &FakeIntake) -> Self {
        Self { setup: to(self.setup, intake), ..self }
    }

    /// Writes the log file of this number, with this many events, and returns its key.
    async fn write(&self, file: usize, events: usize) -> String {
        let key = key(file);
        self.bucket.put(&key, log_file(file, events)).await;
        key
    }

    /// Writes a log file, and sends its notification.
    async fn deliver(&self, file: usize, events: usize) {
        let key = self.write(file, events).await;
        self.queue.notify(&self.bucket.name, &key).await;
    }

    async fn run_to(&self, code: i32) -> Ended {
        self.setup.run_to(code).await
    }
}

pub fn key(file: usize) -> String {
    format!(
        "AWSLogs/111122223333/CloudTrail/us-east-1/2026/11/29/111122223333_CloudTrail_us-east-1_20261129T0340Z_{file:016}.json.gz"
    )
}

fn id(file: usize, event: usize) -> String {
    format!("{file}-{event}")
}

fn record(file: usize, event: usize) -> Value {
    json!({
        "eventVersion": "1.11", "eventTime": jiff::Timestamp::now().to_string(), "eventSource": "ec2.amazonaws.com",
        "eventName": "DescribeInstances", "awsRegion": "us-east-1", "sourceIPAddress": "192.0.2.1", "readOnly": true,
        "eventID": id(file, event), "recipientAccountId": "111122223333", "eventType": "AwsApiCall",
    })
}

pub fn log_file(file: usize, events: usize) -> Vec<u8> {
    let records: Vec<_> = (0..events).map(|event| record(file, event)).collect();
    gzip(json!({"Records": records}).to_string().as_bytes())
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Counts how often each event was printed.
fn printed<'a>(outputs: impl IntoIterator<Item = &'a str>) -> HashMap<String, usize> {
    let mut ids = HashMap::new();
    for line in outputs.into_iter().flat_map(str::lines) {
        // A process that was killed may have left half a line.
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let id = event.pointer("/eventID").or(event.pointer("/record/eventID")).and_then(Value::as_str);
        *ids.entry(id.unwrap_or_else(|| panic!("no id: {line}")).to_owned()).or_default() += 1;
    }
    ids
}

/// The events of these files.
fn events(files: impl IntoIterator<Item = usize>, events: usize) -> HashMap<String, usize> {
    files.into_iter().flat_map(|file| (0..events).map(move |event| (id(file, event), 1))).collect()
}

fn sns(message: &str) -> String {
    json!({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": message}).to_string()
}

#[tokio::test]
async fn whatever_names_a_log_file_is_delivered_and_deleted_and_so_is_what_names_none() {
    let trail = Trail::usual().await;
    let bucket = &trail.bucket.name;
    let mut keys = Vec::new();
    for file in 0..7 {
        keys.push(trail.write(file, 3).await);
    }
    let bridge = json!({"source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": {"name": bucket}, "object": {"key": keys[2]}}});
    let own = json!({"s3Bucket": bucket, "s3ObjectKey": [keys[3], keys[4]]}).to_string();
    for body in [
        s3_event(bucket, &keys[0]).to_string(),
        sns(&s3_event(bucket, &keys[1]).to_string()),
        bridge.to_string(),
        sns(&own),
        sns(&json!({"s3Bucket": bucket, "s3ObjectKey": [keys[5]]}).to_string()),
        sns(&bridge.to_string().replace(&keys[2], &keys[6])),
        // Messages without an object for us.
        json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": bucket}).to_string(),
        "CloudTrail validation message.".to_owned(),
        s3_event(bucket, "AWSLogs/111122223333/CloudTrail-Digest/us-east-1/2026/11/29/d.json.gz").to_string(),
        s3_event(bucket, "AWSLogs/111122223333/CloudTrail/").to_string(),
        json!({"Records": []}).to_string(),
    ] {
        trail.queue.send(&body).await;
    }
    let ended = trail.run_to(0).await;
    assert_eq!(printed([&*ended.stdout]), events(0..7, 3));
    trail.queue.wait_for(0, 0).await;
    assert!(ended.stderr.contains("a message holds a test event; it is deleted"), "{}", ended.stderr);
    let files: Vec<_> =
        std::fs::read_dir(trail.setup.folder()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.is_empty(), "no state is stored: {files:?}");
}

#[tokio::test]
async fn s3_itself_notifies_the_queue_directly_or_by_sns() {
    for by_topic in [false, true] {
        let trail = Trail::usual().await;
        trail.queue.follow(&MOTO, &trail.bucket.name, by_topic).await;
        for file in 0..3 {
            trail.write(file, 2).await;
        }
        let ended = trail.run_to(0).await;
        assert_eq!(printed([&*ended.stdout]), events(0..3, 2), "by topic: {by_topic}");
        trail.queue.wait_for(0, 0).await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_left_to_the_redrive_policy_and_holds_up_nothing() {
    let dead_letters = Queue::of(&MOTO).await;
    let trail = Trail::of(Queue::before(&MOTO, &dead_letters, 2).await).await;
    let trail = trail.with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "5s").with("AUDITSYNC_SYNC_INTERVAL", "5s");
    let bucket = &trail.bucket.name;
    // Objects that are gone, not gzip, cut off, and of an unknown form.
    trail.queue.notify(bucket, &key(100)).await;
    trail.bucket.put(&key(101), b"<html>".to_vec()).await;
    trail.queue.notify(bucket, &key(101)).await;
    let whole = log_file(102, 50);
    trail.bucket.put(&key(102), whole[..whole.len() / 2].to_vec()).await;
    trail.queue.notify(bucket, &key(102)).await;
    trail.queue.send("{\"hello\":1}").await;
    for file in 0..3 {
        trail.deliver(file, 4).await;
    }
    let mut daemon = trail.setup.start(&[]);
    daemon.prints(|text| text.lines().count() >= 12).await;
    dead_letters.wait_for(4, 0).await;
    trail.queue.wait_for(0, 0).await;
    let ended = stop(daemon).await;
    for (file, why) in [(100, "it is gone"), (101, "does not begin with a brace"), (102, "ends in the middle")] {
        let line = ended.stderr.lines().find(|line| line.contains(&key(file)) && line.contains(LEFT));
        assert!(line.is_some_and(|line| line.contains(why)), "{file}: {}", ended.stderr);
    }
    assert!(ended.stderr.contains("a message is not understood"), "{}", ended.stderr);
    let printed = printed([&*ended.stdout]);
    assert!(events(0..3, 4).keys().all(|id| printed.contains_key(id)), "{printed:?}");
}

#[tokio::test]
async fn two_instances_share_a_queue_without_a_lease_and_nothing_is_lost_or_comes_twice() {
    // Nothing is held up for that long.
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "10m");
    let (mut first, mut second) = (trail.setup.start(&[]), trail.setup.start(&[]));
    let both_worked = Cell::new(false);
    let (files, ()) = tokio::join!(
        async {
            let mut files = 0;
            while files < 60 || !both_worked.get() {
                trail.deliver(files, 5).await;
                files += 1;
            }
            files
        },
        async {
            first.prints(|text| !text.is_empty()).await;
            second.prints(|text| !text.is_empty()).await;
            both_worked.set(true);
        }
    );
    trail.queue.wait_for(0, 0).await;
    let mut outputs = Vec::new();
    for daemon in [first, second] {
        let ended = stop(daemon).await;
        assert!(ended.stderr.contains("nowhere (the source keeps undelivered records)"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("standby"), "{}", ended.stderr);
        outputs.push(ended.stdout);
    }
    assert_eq!(printed(outputs.iter().map(String::as_str)), events(0..files, 5));
}

#[tokio::test]
async fn kill_9_at_random_moments_loses_nothing() {
    const FILES: usize = 60;
    let mut rng = fastrand::Rng::with_seed(20_261_129);
    let (mut kills, mut twice) = (0, 0);
    let wanted = if std::env::var_os("AUDITSYNC_TEST_KILLS").is_some() { rounds("AUDITSYNC_TEST_KILLS") } else { 3 };
    while kills < wanted {
        let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "2s");
        let mut outputs = Vec::new();
        for file in 0..FILES {
            trail.deliver(file, 20).await;
        }
        loop {
            let (waiting, _) = trail.queue.messages().await;
            if kills == wanted || waiting == 0 {
                break;
            }
            let mut daemon = trail.setup.start(&[]);
            let lines = rng.usize(1..=20 * waiting.min(20));
            daemon.prints(|text| text.lines().count() >= lines).await;
            daemon.signal("KILL").await;
            outputs.push(daemon.ended().await.stdout);
            kills += 1;
            // The queue shows the messages that it held again.
            trail.queue.wait_until_none_in_flight().await;
        }
        // The last request of a killed process may still receive messages. The queue shows them again.
        let emptied = async {
            loop {
                outputs.push(trail.run_to(0).await.stdout);
                if trail.queue.messages().await == (0, 0) {
                    return;
                }
                trail.queue.wait_until_none_in_flight().await;
            }
        };
        within("an empty queue", emptied).await;
        let printed = printed(outputs.iter().map(String::as_str));
        assert_eq!(printed.len(), FILES * 20, "every event arrived");
        twice += printed.values().map(|times| times - 1).sum::<usize>();
    }
    println!("SIGKILL: {kills} kills, {twice} events came more than once");
}

#[tokio::test]
async fn there_is_no_state_and_each_command_says_why() {
    const WHY: &str = "the source keeps undelivered records, so auditsync stores no state and needs no lease";
    let trail = Trail::usual().await;
    trail.deliver(0, 1).await;
    let shown = trail.setup.run(&["state", "show"]).await;
    assert_eq!(shown.code(), Some(0));
    assert!(shown.stderr.contains("cloudtrail:stdout has no state") && shown.stderr.contains(WHY), "{}", shown.stderr);
    let set = trail.setup.run(&["state", "reset", "--yes"]).await;
    assert_eq!(set.code(), Some(64));
    assert!(set.stderr.contains(WHY), "{}", set.stderr);
    let check = trail.setup.run(&["check"]).await;
    assert_eq!(check.code(), Some(0), "{}", check.everything());
    assert!(check.stdout.contains(&format!("none: {WHY}")), "{}", check.stdout);
    assert!(check.stdout.contains("about 1 messages wait"), "{}", check.stdout);
    assert!(check.stdout.contains("it has no redrive policy"), "{}", check.stdout);
    assert_eq!(trail.queue.messages().await, (1, 0), "nothing was received");
}

#[tokio::test]
async fn only_what_the_variables_name_is_delivered() {
    let trail = Trail::usual().await;
    let other = Bucket::of(&MOTO).await;
    let trail = trail.with("CLOUDTRAIL_AUDIT_LOG_PREFIX", "logs/").with("CLOUDTRAIL_AUDIT_ACCOUNTS", "-999999999999");
    let bucket = trail.bucket.name.clone();
    let trail = trail.with("CLOUDTRAIL_AUDIT_LOG_BUCKET", bucket.as_str());
    let wanted = format!("logs/{}", key(0));
    trail.bucket.put(&wanted, log_file(0, 2)).await;
    trail.queue.notify(&bucket, &wanted).await;
    trail.queue.notify(&bucket, &format!("logs/{}", key(1).replace("111122223333", "999999999999"))).await;
    trail.queue.notify(&bucket, &key(2)).await;
    trail.queue.notify(&bucket, &format!("logs2/{}", key(3))).await;
    trail.queue.notify(&other.name, &wanted).await;
    let ended = trail.run_to(0).await;
    assert_eq!(printed([&*ended.stdout]), events([0], 2));
    trail.queue.wait_for(0, 0).await;
}
