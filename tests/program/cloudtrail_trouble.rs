//! Tests a bucket in trouble: throttled, denied, or changing while it is read. Nothing is lost, and nothing is silent.

use std::time::Duration;

use crate::cloudtrail::{ACCOUNT, OTHER, Trail, lines};
use crate::killing::rounds;
use crate::support::{
    Asked, FakeIntake, IntakeOptions, REGION, RedisServer, TrailFault, TrailObject, log_file, log_key, minutes_ago,
    trail_record,
};

const SLOW_DOWN: TrailFault = TrailFault::Error(503, "SlowDown", "Please reduce your request rate.");
const DENIED: TrailFault = TrailFault::Error(403, "AccessDenied", "Access Denied");
const NO_KEY: TrailFault = TrailFault::Error(
    403,
    "AccessDenied",
    "User: arn:aws:iam::1:user/u is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:us-east-1:1:key/k",
);

const KEY_OFF: TrailFault =
    TrailFault::Error(400, "KMS.DisabledException", "arn:aws:kms:us-east-1:1:key/k is disabled.");
const KEY_PENDING: TrailFault =
    TrailFault::Error(400, "KMS.KMSInvalidStateException", "arn:aws:kms:us-east-1:1:key/k is pending deletion.");
const KEY_GONE: TrailFault = TrailFault::Error(400, "KMS.NotFoundException", "Key 'k' does not exist");
const OWN_KEY: TrailFault = TrailFault::Error(
    400,
    "InvalidRequest",
    "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.",
);
const FAILED: TrailFault = TrailFault::Error(500, "InternalError", "We encountered an internal error.");

#[tokio::test]
async fn a_bucket_that_throttles_is_read_when_it_recovers_and_a_survey_goes_on_where_it_stopped() {
    let trail = Trail::usual().await;
    let mut expected = Vec::new();
    for n in 0..40 {
        let account = format!("1111222233{n:02}");
        expected.extend(trail.file(&account, n * 100, 100 - i64::try_from(n).unwrap(), 5, 2));
    }
    trail.fake.fail_lists("AWSLogs/", SLOW_DOWN, 1);
    trail.fake.fail_lists("111122223330", SLOW_DOWN, 1);
    trail.fake.fail_reads("AWSLogs/", SLOW_DOWN, 1);
    let ended = trail.run_to(0).await;
    assert_eq!(lines(&ended), expected);
    assert!(ended.stderr.contains("SlowDown"), "{}", ended.stderr);
    // Lists of folders of accounts, of regions and of files, and the failed ones.
    let lists = trail.fake.requests().iter().filter(|request| matches!(request.asked, Asked::List { .. })).count();
    assert_eq!(lists, 1 + 40 + 40 + 2, "nothing is listed twice but what failed");
}

/// Takes most of a minute, because the survey must take longer than the retry budget.
#[tokio::test]
async fn a_survey_that_takes_longer_than_the_retry_budget_survives_a_failure() {
    let trail = Trail::usual().await.with("AUDITSYNC_RETRY_BUDGET", "25s");
    trail.fake.set_page(1);
    let mut expected = trail.file(ACCOUNT, 100, 60, 5, 1);
    for n in 2..7 {
        expected.extend(trail.file(OTHER, n * 100, 60 - i64::try_from(n).unwrap(), 5, 1));
    }
    // Two pages of accounts, a page of regions, and five pages of files come before the listing that fails.
    trail.fake.slow_reads("trail", Duration::from_secs(4));
    trail.fake.fail_lists(&format!("{ACCOUNT}/CloudTrail/{REGION}"), SLOW_DOWN, 1);
    let ended = trail.run_to(0).await;
    assert_eq!(lines(&ended), expected);
    assert!(ended.stderr.contains("SlowDown"), "{}", ended.stderr);
    assert_eq!(trail.fake.lists(), 2 + 2 + 5 + 1, "nothing is listed twice but what failed");
}

#[tokio::test]
async fn files_that_come_and_go_while_pages_are_listed_cost_nothing() {
    let trail = Trail::usual().await;
    trail.fake.set_page(3);
    let mut expected = Vec::new();
    for n in 0..10 {
        expected.extend(trail.file(ACCOUNT, n * 100, 60 - i64::try_from(n).unwrap(), 5, 1));
    }
    // Before and after the part that has been listed by then.
    let late = |n: usize, ago: i64| {
        let record = trail_record(ACCOUNT, n, minutes_ago(ago));
        let object = TrailObject { bytes: log_file(std::slice::from_ref(&record)).into(), modified: minutes_ago(4) };
        (record, log_key(ACCOUNT, REGION, minutes_ago(ago), n), object)
    };
    let (before, behind) = (late(5000, 59), late(6000, 20));
    expected.extend([before.0.clone(), behind.0.clone()]);
    trail.fake.after_lists(4, move |objects| {
        objects.insert(before.1, before.2);
        objects.insert(behind.1, behind.2);
    });
    let mut printed = trail.printed().await;
    printed.extend(trail.printed().await);
    printed.sort();
    expected.sort();
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn a_file_that_is_gone_is_an_error_that_names_it_and_the_next_ones_go_on() {
    let trail = Trail::usual().await;
    trail.file(ACCOUNT, 100, 40, 5, 1);
    let second = trail.file(ACCOUNT, 200, 30, 5, 1);
    let key = log_key(ACCOUNT, REGION, minutes_ago(40), 100);
    let gone = key.clone();
    trail.fake.after_lists(3, move |objects| {
        objects.remove(&gone);
    });
    let ended = trail.run_to(0).await;
    assert_eq!(lines(&ended), second);
    let letters = trail.dead_letters();
    assert_eq!((letters.len(), &letters[0]["record"]["key"]), (1, &key.as_str().into()));
    assert!(ended.stderr.contains("it is gone"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_file_in_an_archive_class_is_a_dead_letter() {
    let trail = Trail::usual().await;
    trail.file(ACCOUNT, 100, 40, 5, 1);
    let second = trail.file(ACCOUNT, 200, 30, 5, 1);
    let key = log_key(ACCOUNT, REGION, minutes_ago(40), 100);
    let archived =
        TrailFault::Error(403, "InvalidObjectState", "The operation is not valid for the object's storage class");
    trail.fake.fail_reads(&key, archived, 1);
    assert_eq!(trail.printed().await, second);
    assert!(trail.dead_letters()[0]["reason"].as_str().unwrap().contains("its storage class is an archive"));
}

#[tokio::test]
async fn what_is_denied_of_one_account_waits_with_the_permission_named_and_loses_nothing() {
    for (fault, said) in [
        (DENIED, "without s3:ListBucket, S3 answers this for an object that is gone, too"),
        (NO_KEY, "grant kms:Decrypt"),
        (KEY_OFF, "enable the KMS key that encrypts the object"),
        (KEY_PENDING, "cancel the deletion of the key"),
    ] {
        let trail = Trail::usual().await;
        let mut expected = trail.file(ACCOUNT, 100, 40, 5, 1);
        expected.extend(trail.file(OTHER, 200, 30, 5, 1));
        trail.fake.fail_reads(OTHER, fault, usize::MAX);
        let trail = trail.with("AUDITSYNC_RETRY_BUDGET", "0s");
        let ended = trail.run_to(77).await;
        assert_eq!(lines(&ended), expected[..1]);
        let way_out = format!("CLOUDTRAIL_AUDIT_ACCOUNTS=-{OTHER}");
        assert!(ended.stderr.contains(said) && ended.stderr.contains(&way_out), "{}", ended.stderr);
        trail.fake.recover();
        assert_eq!(trail.printed().await, expected[1..]);
    }
}

#[tokio::test]
async fn a_file_that_nobody_can_decrypt_is_a_dead_letter_and_the_next_ones_go_on() {
    for (fault, why) in [(KEY_GONE, "the KMS key that encrypts it does not exist any more"), (OWN_KEY, "(SSE-C)")] {
        let trail = Trail::usual().await;
        trail.file(ACCOUNT, 100, 40, 5, 1);
        let second = trail.file(OTHER, 200, 30, 5, 1);
        let key = log_key(ACCOUNT, REGION, minutes_ago(40), 100);
        trail.fake.fail_reads(&key, fault, usize::MAX);
        assert_eq!(trail.printed().await, second);
        let letters = trail.dead_letters();
        assert_eq!((letters.len(), &letters[0]["record"]["key"]), (1, &key.as_str().into()));
        assert!(letters[0]["reason"].as_str().unwrap().contains(why), "{letters:?}");
    }
}

#[tokio::test]
async fn where_the_store_always_fails_at_one_object_the_error_says_how_to_go_on_without_it() {
    // The error says so after the third failure, which must come before the budget is spent.
    let trail = Trail::usual().await.with("AUDITSYNC_RETRY_BUDGET", "30s");
    let first = trail.file(ACCOUNT, 100, 40, 5, 1);
    trail.file(OTHER, 200, 30, 5, 1);
    let third = trail.file(ACCOUNT, 300, 20, 5, 1);
    trail.fake.fail_reads(OTHER, FAILED, usize::MAX);
    let ended = trail.run_to(75).await;
    assert_eq!(lines(&ended), first);
    let leave_out = format!("CLOUDTRAIL_AUDIT_ACCOUNTS=-{OTHER}");
    assert!(
        ended.stderr.contains("all other log files wait for it") && ended.stderr.contains(&leave_out),
        "{}",
        ended.stderr
    );
    let trail = trail.with("CLOUDTRAIL_AUDIT_ACCOUNTS", format!("-{OTHER}"));
    assert_eq!(trail.printed().await, third);
}

#[tokio::test]
async fn after_a_listing_that_failed_the_time_of_the_bucket_still_counts() {
    let trail = Trail::usual().await;
    let records = trail.file(ACCOUNT, 100, 40, 5, 1);
    trail.fake.set_date_offset(-17 * 3600);
    trail.fake.fail_lists("CloudTrail/us-east-1/", SLOW_DOWN, 1);
    assert_eq!(trail.printed().await, records);
    let state = trail.state();
    let swept: jiff::Timestamp = state["cursor"]["classes"][2]["swept"].as_str().unwrap().parse().unwrap();
    assert!(swept < minutes_ago(16 * 60), "{swept} is our own time");
}

#[tokio::test]
async fn check_lists_only_below_the_path_of_the_accounts() {
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_LOG_PREFIX", "of/us");
    let ended = trail.setup.run(&["check"]).await;
    let requests = trail.fake.requests();
    let is_below = |asked: &Asked| matches!(asked, Asked::List { prefix, .. } if prefix.starts_with("of/us/AWSLogs/"));
    assert!(!requests.is_empty() && requests.iter().all(|request| is_below(&request.asked)), "{}", ended.everything());
}

#[tokio::test]
async fn a_bucket_in_another_region_is_read_there() {
    let trail = Trail::usual().await;
    let records = trail.file(ACCOUNT, 100, 40, 5, 1);
    trail.fake.fail_lists("", TrailFault::Region("eu-central-1"), usize::MAX);
    trail.fake.fail_reads("", TrailFault::Region("eu-central-1"), usize::MAX);
    let ended = trail.run_to(0).await;
    assert_eq!(lines(&ended), records);
    assert!(ended.stderr.contains("the bucket is in another region and is read there"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_bucket_without_log_files_is_warned_about() {
    let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_LOG_PREFIX", "wrong");
    trail.file(ACCOUNT, 100, 40, 5, 1);
    let ended = trail.run_to(0).await;
    assert!(
        ended.stderr.contains("there is no folder of log files")
            && ended.stderr.contains("CLOUDTRAIL_AUDIT_LOG_PREFIX"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn many_folders_take_a_request_each_and_little_state() {
    let trail = Trail::usual().await;
    let accounts = std::env::var("AUDITSYNC_TEST_ACCOUNTS").map_or(12, |text| text.parse().expect("a number"));
    let regions = if accounts == 1 { 1 } else { 17 };
    let mut count = 0;
    for account in 0..accounts {
        for region in 0..regions {
            let account = format!("2222333344{account:02}");
            let slot = minutes_ago(20);
            let record = trail_record(&account, count, slot);
            trail.fake.put(
                &log_key(&account, &format!("xx-region-{region}"), slot, count),
                log_file(&[record]),
                minutes_ago(1),
            );
            count += 1;
        }
    }
    assert_eq!(trail.printed().await.len(), count);
    let before = trail.fake.lists();
    assert_eq!(trail.printed().await, [""; 0]);
    let lists = trail.fake.lists() - before;
    let state = trail.state().to_string().len();
    println!("{count} folders: {lists} listings in a sync, {state} bytes of state");
    assert_eq!(lists, 1 + accounts + count);
    assert!(state < 1024 + 12 * count, "{state}");
}

#[tokio::test]
async fn of_two_instances_on_one_state_one_reads_and_the_other_goes_on_behind_it() {
    let (redis, intake) = (RedisServer::start(), FakeIntake::start(IntakeOptions::default()).await);
    let trail = Trail::usual().await.to(&intake);
    let trail = trail
        .with("AUDITSYNC_SYNC_LOOP", "true")
        .with("AUDITSYNC_STORAGE_BACKEND", "redis")
        .with("AUDITSYNC_REDIS_ADDRESS", format!("127.0.0.1:{}", redis.port()));
    trail.file(ACCOUNT, 0, 60, 5, 30);
    let mut first = trail.setup.start(&[]);
    intake.wait_for_ids(30).await;
    first.says("synced").await;
    let second = trail.setup.start(&[]);
    trail.file(ACCOUNT, 100, 50, 40, 30);
    intake.wait_for_ids(60).await;
    first.signal("TERM").await;
    assert_eq!(first.ended().await.code(), Some(0));
    trail.file(OTHER, 200, 40, 38, 30);
    intake.wait_for_ids(90).await;
    second.signal("TERM").await;
    assert_eq!(second.ended().await.code(), Some(0));
    assert_eq!(intake.count(), 90, "each once");
}

#[tokio::test]
async fn kill_9_at_random_moments_loses_nothing() {
    const FILES: usize = 60;
    const RECORDS: usize = 100;
    let mut random = fastrand::Rng::with_seed(20_261_129);
    let (mut kills, mut repeats, wanted) = (0, 0, rounds("AUDITSYNC_TEST_KILLS") / 2);
    while kills < wanted {
        let intake = FakeIntake::start(IntakeOptions { keep_bodies: false, ..IntakeOptions::default() }).await;
        let trail = Trail::usual().await.to(&intake);
        for n in 0..FILES {
            // Large records, so that there are several pages.
            let (account, slot) = ([ACCOUNT, OTHER][n % 2], minutes_ago(300 - i64::try_from(n).unwrap() * 4));
            let record = |more| {
                trail_record(account, n * RECORDS + more, slot)
                    .replace("\"cli\"", &format!("\"{}\"", "cli".repeat(700)))
            };
            let records: Vec<_> = (0..RECORDS).map(record).collect();
            trail.fake.put(
                &log_key(account, REGION, slot, n),
                log_file(&records),
                minutes_ago(290 - i64::try_from(n).unwrap() * 4),
            );
        }
        while intake.ids().len() < FILES * RECORDS {
            let daemon = trail.setup.start(&["run", "--once"]);
            let (requests, entries) = (trail.fake.requests().len(), intake.count());
            let moment = async {
                if random.u8(..3) == 0 {
                    trail.fake.wait_for_requests(requests + random.usize(1..60)).await;
                } else {
                    intake.wait_for_entries(entries + random.usize(1..4000)).await;
                }
            };
            tokio::select! {
                () = moment => {}
                () = intake.wait_for_ids(FILES * RECORDS) => {}
            }
            daemon.signal("KILL").await;
            daemon.ended().await;
            kills += 1;
        }
        trail.run_to(0).await;
        assert_eq!(intake.ids().len(), FILES * RECORDS, "every record arrived");
        repeats += intake.count() - FILES * RECORDS;
    }
    println!("SIGKILL: {kills}, repeats: {repeats}");
}
