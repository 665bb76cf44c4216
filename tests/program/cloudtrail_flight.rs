//! Tests the messages that a reader of a queue holds, by the queue's own record. No message becomes visible while it is held, and none is
//! deleted before its records are delivered.

use std::time::Duration;

use crate::archive::MOTO;
use crate::cloudtrail::{ACCOUNT, Trail, lines};
use crate::stage::stop;
use crate::support::{
    Bucket, Done, FakeIntake, FakeQueue, FakeTrail, IntakeOptions, REGION, RedisServer, TrailFault, log_file, log_key,
    minutes_ago, s3_event, trail_record,
};

const LEFT: &str = "an object that a message names cannot be read";
const FAILED: TrailFault = TrailFault::Error(500, "InternalError", "We encountered an internal error.");

/// A bucket, and the binary's setup to read it through the queue.
async fn by(queue: &FakeQueue) -> Trail {
    Trail::usual().await.with("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", queue.url())
}

/// Writes file number `n`, an hour ago or later. Returns its records, and the event that names it.
fn write(trail: &Trail, n: usize, records: usize) -> (Vec<String>, serde_json::Value) {
    let (first, ago) = (n * 100_000, 60 - i64::try_from(n).unwrap());
    let written = trail.file(ACCOUNT, first, ago, 1, records);
    (written, s3_event(FakeTrail::BUCKET, &log_key(ACCOUNT, REGION, minutes_ago(ago), first)))
}

#[tokio::test]
async fn ten_messages_of_the_largest_size_are_read_at_once() {
    let queue = FakeQueue::start().await;
    let trail = by(&queue).await;
    let mut expected = Vec::new();
    for n in 0..10 {
        let (records, mut event) = write(&trail, n, 1);
        expected.extend(records);
        // Each quotation mark takes two bytes of the message, and four of the answer.
        event["padding"] = "\"".repeat(500_000).into();
        queue.send(event.to_string());
    }
    assert_eq!(trail.printed().await, expected);
    queue.wait_until_empty().await;
    assert_eq!(queue.violations(), [""; 0]);
}

#[tokio::test]
async fn messages_that_were_received_ahead_stay_hidden_while_the_destination_is_down() {
    let (queue, intake) = (FakeQueue::start().await, FakeIntake::start(IntakeOptions::default()).await);
    let trail = by(&queue).await.to(&intake).with("AUDITSYNC_SYNC_LOOP", "true");
    let trail = trail.with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "3s");
    // The first file has more pages than are read ahead.
    for n in 0..20 {
        queue.send(write(&trail, n, if n == 0 { 45_000 } else { 1 }).1.to_string());
    }
    intake.hold();
    let daemon = trail.setup.start(&[]);
    let received = |done: &[Done]| done.iter().filter(|done| matches!(done, Done::Received(_))).count();
    queue.wait_until("all messages", |done| received(done) == 20).await;
    for _ in 0..3 {
        queue.let_pass_until_hidden_again(Duration::from_secs(2), 20).await;
    }
    intake.release();
    queue.wait_until_empty().await;
    assert_eq!(
        (received(&queue.done()), intake.ids().len(), intake.count()),
        (20, 45_019, 45_019),
        "none was shown again"
    );
    stop(daemon).await;
}

#[tokio::test]
async fn a_message_is_hidden_from_others_until_its_events_are_accepted() {
    let (queue, intake) = (FakeQueue::start().await, FakeIntake::start(IntakeOptions::default()).await);
    let trail = by(&queue).await.to(&intake).with("AUDITSYNC_SYNC_LOOP", "true");
    let trail = trail.with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "3s");
    intake.hold();
    queue.send(write(&trail, 0, 5).1.to_string());
    let first = trail.setup.start(&[]);
    intake.wait_for_requests(1).await;
    let mut second = trail.setup.start(&[]);
    second.says("synced").await;
    // The other instance looks again whenever the queue's clock moves, and finds nothing.
    for _ in 0..3 {
        queue.let_pass_until_hidden_again(Duration::from_secs(2), 1).await;
    }
    assert!(!queue.done().contains(&Done::Deleted(0)));
    intake.release();
    queue.wait_until_empty().await;
    let said = [stop(first).await.stderr, stop(second).await.stderr].concat();
    assert_eq!((intake.ids().len(), intake.count(), intake.requests().len()), (5, 5, 1), "{said}");
}

#[tokio::test]
async fn an_instance_that_lost_its_lease_deletes_no_message_whose_rows_it_gave_up() {
    let (queue, redis, bucket) = (FakeQueue::start().await, RedisServer::start(), Bucket::of(&MOTO).await);
    let trail = by(&queue)
        .await
        .with("AUDITSYNC_PIPELINES", "cloudtrail:s3")
        .with("ARCHIVE_S3_BUCKET", bucket.name.as_str())
        .with("ARCHIVE_S3_FORCE_PATH_STYLE", "true")
        .with("ARCHIVE_S3_MAX_AGE", "24h")
        .with("AWS_ENDPOINT_URL_S3", MOTO.url())
        .with("AUDITSYNC_STORAGE_BACKEND", "redis")
        .with("AUDITSYNC_REDIS_ADDRESS", redis.address())
        .with("CLOUDTRAIL_AUDIT_LEASE_TTL", "15s")
        // No held message becomes visible by itself during the test.
        .with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "10m")
        // No instance requests messages after its sync, so a stopped instance receives none.
        .with("CLOUDTRAIL_AUDIT_SYNC_INTERVAL", "1h")
        .with("AUDITSYNC_SYNC_LOOP", "true");
    let mut expected = Vec::new();
    let mut announce = |files: std::ops::Range<usize>| {
        for n in files {
            let (records, event) = write(&trail, n, 3);
            expected.extend(records);
            queue.send(event.to_string());
        }
    };
    announce(0..4);
    let mut first = trail.setup.start(&[]);
    first.says("synced up_to").await;
    first.signal("STOP").await;
    announce(4..6);
    let mut second = trail.setup.start(&[]);
    second.says("synced up_to").await;
    stop(second).await;
    announce(6..7);
    first.signal("CONT").await;
    first.says_so_often("continuing from the stored cursor", 1).await;
    let is_given_back = |done: &[Done]| (0..4).all(|message| done.contains(&Done::Hidden(message, 0)));
    queue.wait_until("what it held to be given back", is_given_back).await;
    first.says_so_often("synced up_to", 2).await;
    let ended = stop(first).await;
    trail.setup.run(&["run", "--once"]).await;
    queue.wait_until_empty().await;
    let mut rows = bucket.archived("").await;
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected, "{}", ended.stderr);
}

#[tokio::test]
async fn an_object_that_always_fails_holds_up_no_message_that_comes_later() {
    let queue = FakeQueue::start().await;
    let trail = by(&queue).await.with("AUDITSYNC_SYNC_LOOP", "true");
    let (_, failing) = write(&trail, 0, 1);
    trail.fake.fail_reads(&log_key(ACCOUNT, REGION, minutes_ago(60), 0), FAILED, usize::MAX);
    queue.send(failing.to_string());
    let mut daemon = trail.setup.start(&[]);
    trail.fake.wait_for_requests(2).await;
    let (records, event) = write(&trail, 1, 2);
    let good = queue.send(event.to_string());
    queue.wait_until("the good one is deleted", |done| done.contains(&Done::Deleted(good))).await;
    daemon.says(LEFT).await;
    let ended = stop(daemon).await;
    assert_eq!(lines(&ended), records);
    assert!(!queue.done().contains(&Done::Deleted(0)), "what is not delivered is not deleted");
}

#[tokio::test]
async fn an_object_that_fails_in_its_middle_is_left_to_the_queue_and_the_next_ones_are_read() {
    let queue = FakeQueue::start().await;
    let trail = by(&queue).await.with("AUDITSYNC_SYNC_LOOP", "true");
    // It is so large that it is streamed, even compressed.
    let mut random = fastrand::Rng::with_seed(13);
    let mut agent = || (0..1_000_000).map(|_| random.alphanumeric()).collect::<String>();
    let slot = minutes_ago(90);
    let records: Vec<_> =
        (0..8).map(|n| trail_record(ACCOUNT, n, slot).replace("\"cli\"", &format!("{:?}", agent()))).collect();
    let key = log_key(ACCOUNT, REGION, slot, 0);
    trail.fake.put(&key, log_file(&records), slot);
    trail.fake.fail_reads(&key, TrailFault::Truncated, 2);
    trail.fake.fail_reads(&key, FAILED, usize::MAX);
    queue.send(s3_event(FakeTrail::BUCKET, &key).to_string());
    let mut daemon = trail.setup.start(&[]);
    trail.fake.wait_for_requests(3).await;
    let (others, event) = write(&trail, 1, 2);
    let good = queue.send(event.to_string());
    queue.wait_until("the good one is deleted", |done| done.contains(&Done::Deleted(good))).await;
    daemon.says(LEFT).await;
    let printed = lines(&stop(daemon).await);
    assert!(others.iter().all(|record| printed.contains(record)), "the other message is delivered");
    assert!(printed.len() > 2, "the beginning of the large file is delivered");
    assert!(!queue.done().contains(&Done::Deleted(0)));
}
