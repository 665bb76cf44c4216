//! Tests a queue whose bucket is swept: files without a message are delivered, and nothing comes twice. The last tests check the requests
//! about one message, by the queue's own record.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};

use crate::cloudtrail::{ACCOUNT, OTHER, Trail, lines};
use crate::killing::rounds;
use crate::probe::{LISTEN, Probe};
use crate::stage::stop;
use crate::support::{
    Done, FakeIntake, FakeQueue, FakeTrail, IntakeOptions, REGION, RedisServer, TrailFault, log_file, log_key,
    minutes_ago, s3_event, trail_record,
};

/// A log file in the bucket.
pub struct Written {
    pub key: String,
    pub records: Vec<String>,
    modified: Timestamp,
}

/// A bucket of log files and a queue.
pub struct Announced {
    pub trail: Trail,
    pub queue: FakeQueue,
}

impl Announced {
    /// A bucket and a queue, without sweeps.
    pub async fn queue_alone() -> Self {
        let queue = FakeQueue::start().await;
        let trail = Trail::usual().await.with("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", queue.url());
        Self { trail, queue }
    }

    async fn swept() -> Self {
        Self::queue_alone().await.with("CLOUDTRAIL_AUDIT_SWEEP", "true")
    }

    #[must_use]
    pub fn with(self, name: &str, value: impl Into<String>) -> Self {
        Self { trail: self.trail.with(name, value), ..self }
    }

    /// Writes a log file this many minutes ago, five minutes after its slot. Its records are numbered from `n` on.
    fn write(&self, account: &str, n: usize, ago: i64, records: usize) -> Written {
        let (slot, modified) = (minutes_ago(ago + 5), minutes_ago(ago));
        let records: Vec<_> = (0..records).map(|more| trail_record(account, n + more, slot)).collect();
        let key = log_key(account, REGION, slot, n);
        self.trail.fake.put(&key, log_file(&records), modified);
        Written { key, records, modified }
    }

    /// Writes a log file that breaks off in its head, this many minutes ago. Returns its key.
    fn write_broken(&self, n: usize, ago: i64) -> String {
        let Written { key, records, modified } = self.write(ACCOUNT, n, ago, 3);
        self.trail.fake.put(&key, log_file(&records)[..10].to_vec(), modified);
        key
    }

    /// The keys of the files that became dead letters.
    fn dead_letters(&self) -> Vec<String> {
        let letters = self.trail.dead_letters().into_iter();
        letters.map(|letter| letter["record"]["key"].as_str().expect("a file").to_owned()).collect()
    }

    /// Sends a message about the file, this many minutes after it was written.
    fn announce(&self, file: &Written, after: i64) -> usize {
        let sent = file.modified + SignedDuration::from_mins(after);
        self.queue.send_dated(s3_event(FakeTrail::BUCKET, &file.key).to_string(), sent)
    }

    /// Moves the last sweep to this many hours ago.
    fn swept_before(&self, hours: i64) {
        self.trail.change_cursor(|cursor| {
            for class in cursor["sweep"]["classes"].as_array_mut().unwrap() {
                if let Some(swept) = class.get_mut("swept") {
                    *swept = (Timestamp::now() - SignedDuration::from_hours(hours)).to_string().into();
                }
            }
        });
    }

    /// Runs once, and returns the printed lines, sorted. Every message must be deleted by then.
    async fn printed(&self) -> Vec<String> {
        let mut printed = self.trail.printed().await;
        self.queue.wait_until_empty().await;
        assert_eq!(self.queue.violations(), [""; 0]);
        printed.sort();
        printed
    }
}

/// The records of these files, sorted.
fn records<'a>(files: impl IntoIterator<Item = &'a Written>) -> Vec<String> {
    let mut records: Vec<_> = files.into_iter().flat_map(|file| file.records.clone()).collect();
    records.sort();
    records
}

fn lists(trail: &Trail) -> usize {
    trail.fake.lists()
}

#[tokio::test]
async fn a_file_whose_message_was_lost_is_delivered_by_the_next_sweep_and_nothing_comes_twice() {
    let announced = Announced::swept().await;
    let ago = |first: i64, n: usize| first - 10 * i64::try_from(n).unwrap();
    let first: Vec<_> = (0..6).map(|n| announced.write(ACCOUNT, n * 100, ago(200, n), 3)).collect();
    for file in first.iter().step_by(2) {
        announced.announce(file, 0);
    }
    assert_eq!(announced.printed().await, records(&first), "the first sync sweeps");
    let listed = lists(&announced.trail);
    let second: Vec<_> = (0..6).map(|n| announced.write(OTHER, n * 100 + 5000, ago(120, n), 3)).collect();
    for file in second.iter().step_by(2) {
        announced.announce(file, 0);
    }
    assert_eq!(announced.printed().await, records(second.iter().step_by(2)));
    assert_eq!(lists(&announced.trail), listed, "nothing is listed within a day");
    announced.swept_before(25);
    let ended = announced.trail.run_to(0).await;
    let mut printed = lines(&ended);
    printed.sort();
    assert_eq!(printed, records(second.iter().skip(1).step_by(2)), "those alone whose messages were lost");
    assert!(
        ended.stderr.contains("a sweep delivered log files that no message of the queue has brought"),
        "{}",
        ended.stderr
    );
    announced.swept_before(25);
    assert_eq!(announced.printed().await, [""; 0]);
}

#[tokio::test]
async fn a_sweep_delivers_each_record_of_an_announced_file_however_old_it_is() {
    // The lookback is six hours, and a sweep reads the files of the seventh, too.
    let announced = Announced::swept().await;
    let ago = |n: usize| 460 - 10 * i64::try_from(n).unwrap();
    let files: Vec<_> = (0..45).map(|n| announced.write(ACCOUNT, n * 100, ago(n), 3)).collect();
    for file in &files {
        announced.announce(file, 0);
    }
    assert_eq!(announced.printed().await, records(&files));
}

#[tokio::test]
async fn a_message_that_comes_after_the_sweep_is_deleted_and_its_file_is_not_delivered_again() {
    let announced = Announced::swept().await;
    let files = [
        announced.write(ACCOUNT, 100, 180, 3),
        announced.write(ACCOUNT, 200, 170, 3),
        announced.write(ACCOUNT, 300, 60, 3),
    ];
    assert_eq!(announced.printed().await, records(&files));
    // The first message has waited since its file was written. The second was sent late. The third names the newest file, which the
    // cursor has not passed.
    announced.announce(&files[0], 0);
    announced.announce(&files[1], 90);
    announced.announce(&files[2], 0);
    assert_eq!(announced.printed().await, [""; 0]);
}

#[tokio::test]
async fn a_file_that_appears_long_after_its_time_of_writing_is_delivered_although_a_sweep_has_passed_it() {
    let announced = Announced::swept().await;
    let first = announced.write(ACCOUNT, 100, 60, 3);
    assert_eq!(announced.printed().await, first.records);
    // A replica has the time of its original.
    let late = announced.write(ACCOUNT, 200, 180, 3);
    announced.announce(&late, 170);
    assert_eq!(announced.printed().await, late.records);
}

#[tokio::test]
async fn a_file_of_the_last_minutes_is_left_to_its_message() {
    let announced = Announced::swept().await;
    let (old, new) = (announced.write(ACCOUNT, 100, 60, 3), announced.write(ACCOUNT, 200, 5, 3));
    assert_eq!(announced.printed().await, old.records);
    announced.announce(&new, 0);
    assert_eq!(announced.printed().await, new.records);
}

#[tokio::test]
async fn a_sweep_that_fails_holds_up_no_message_and_is_due_at_the_next_start() {
    let announced = Announced::swept().await;
    let first = announced.write(ACCOUNT, 100, 180, 3);
    announced.announce(&first, 0);
    assert_eq!(announced.printed().await, first.records);
    announced.swept_before(25);
    let (lost, second) = (announced.write(ACCOUNT, 200, 120, 3), announced.write(ACCOUNT, 300, 2, 3));
    announced.announce(&second, 0);
    announced.trail.fake.fail_lists(
        "",
        TrailFault::Error(503, "SlowDown", "Please reduce your request rate."),
        usize::MAX,
    );
    let ended = announced.trail.run_to(0).await;
    assert_eq!(lines(&ended), second.records, "{}", ended.stderr);
    assert!(ended.stderr.contains("SlowDown"), "{}", ended.stderr);
    announced.trail.fake.recover();
    assert_eq!(announced.printed().await, lost.records);
}

#[tokio::test]
async fn a_broken_file_becomes_a_dead_letter_within_a_one_shot_and_its_sweep_goes_on() {
    let announced = Announced::swept().await;
    let broken = announced.write_broken(200, 120);
    let (lost, named) = (announced.write(ACCOUNT, 300, 100, 3), announced.write(ACCOUNT, 400, 3, 3));
    announced.announce(&named, 0);
    assert_eq!(announced.printed().await, records([&lost, &named]));
    assert_eq!(announced.dead_letters(), [broken]);
}

#[tokio::test]
async fn a_broken_file_becomes_a_dead_letter_in_a_daemon_whose_queue_delivers_meanwhile() {
    let announced = Announced::swept().await.with("AUDITSYNC_SYNC_LOOP", "true");
    // The sweep has delivered a file when it finds the broken one.
    let first = announced.write(ACCOUNT, 100, 140, 3);
    let broken = announced.write_broken(200, 120);
    let (lost, named) = (announced.write(ACCOUNT, 300, 100, 3), announced.write(ACCOUNT, 400, 3, 3));
    announced.announce(&named, 0);
    let mut daemon = announced.trail.setup.start(&[]);
    daemon.prints(|text| text.lines().count() >= 9).await;
    announced.queue.wait_until_empty().await;
    let mut printed = lines(&stop(daemon).await);
    printed.sort();
    assert_eq!(printed, records([&first, &lost, &named]));
    assert_eq!(announced.dead_letters(), [broken]);
}

#[tokio::test]
async fn an_object_at_which_the_store_always_fails_holds_up_no_message_and_is_swept_at_a_later_start() {
    let announced = Announced::swept().await;
    let first = announced.write(ACCOUNT, 100, 180, 3);
    assert_eq!(announced.printed().await, first.records);
    announced.swept_before(25);
    let (failing, named) = (announced.write(ACCOUNT, 200, 120, 3), announced.write(ACCOUNT, 300, 3, 3));
    announced.announce(&named, 0);
    let fault = TrailFault::Error(500, "InternalError", "We encountered an internal error.");
    announced.trail.fake.fail_reads(&failing.key, fault, usize::MAX);
    assert_eq!(announced.printed().await, named.records);
    announced.trail.fake.recover();
    assert_eq!(announced.printed().await, failing.records);
    assert!(announced.dead_letters().is_empty());
}

#[tokio::test]
async fn where_the_bucket_may_not_be_listed_the_start_ends_and_the_permission_is_named() {
    let announced = Announced::swept().await;
    let denied = TrailFault::Error(403, "AccessDenied", "Access Denied");
    announced.trail.fake.fail_lists("", denied, usize::MAX);
    let ended = announced.trail.run_to(77).await;
    assert!(ended.stderr.contains("grant s3:ListBucket on arn:aws:s3:::trail"), "{}", ended.stderr);
    let check = announced.trail.setup.run(&["check"]).await;
    assert_eq!(check.code(), Some(77), "{}", check.everything());
    assert!(check.everything().contains("grant s3:ListBucket on arn:aws:s3:::trail"), "{}", check.everything());
}

#[tokio::test]
async fn the_cursor_of_a_listing_and_that_of_a_queue_with_a_sweep_go_on_from_each_other() {
    let announced = Announced::swept().await;
    let first = announced.write(ACCOUNT, 100, 180, 3);
    assert_eq!(announced.printed().await, first.records);
    let queue = announced.queue.url();
    let Announced { trail, queue: kept } = announced;
    let trail = Trail { setup: trail.setup.without("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL"), ..trail };
    let announced = Announced { trail, queue: kept };
    let second = announced.write(ACCOUNT, 200, 120, 3);
    assert_eq!(announced.trail.printed().await, second.records, "by listing");
    let announced = announced.with("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", queue);
    let third = announced.write(ACCOUNT, 300, 60, 3);
    for file in [&first, &second, &third] {
        announced.announce(file, 0);
    }
    assert_eq!(announced.printed().await, third.records);
}

#[tokio::test]
async fn a_sweep_and_a_listing_go_on_from_the_cursor_of_a_queue_without_a_sweep() {
    let announced = Announced::swept().await;
    let alone = |announced: &Announced| {
        announced.trail.change_cursor(|cursor| {
            cursor.as_object_mut().unwrap().remove("sweep").expect("a cursor of a sweep");
        });
    };
    let first = announced.write(ACCOUNT, 100, 200, 3);
    announced.announce(&first, 0);
    assert_eq!(announced.printed().await, first.records);
    alone(&announced);
    let second = announced.write(ACCOUNT, 200, 20, 3);
    assert_eq!(announced.printed().await, second.records, "by a sweep");
    alone(&announced);
    // Its records are older than the last sync.
    let third = announced.write(ACCOUNT, 300, 2, 3);
    let setup = announced.trail.setup.without("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL");
    let trail = Trail { setup, ..announced.trail };
    assert_eq!(trail.printed().await, records([&second, &third]), "by listing, with the last hour");
    assert_eq!(trail.printed().await, [""; 0]);
}

#[tokio::test]
async fn with_a_sweep_one_instance_reads_the_queue_and_the_other_is_a_standby() {
    let (redis, intake) = (RedisServer::start(), FakeIntake::start(IntakeOptions::default()).await);
    let announced = Announced::swept().await;
    let announced = Announced { trail: announced.trail.to(&intake), ..announced }
        .with("AUDITSYNC_SYNC_LOOP", "true")
        .with("AUDITSYNC_STORAGE_BACKEND", "redis")
        .with("AUDITSYNC_REDIS_ADDRESS", format!("127.0.0.1:{}", redis.port()));
    let mut first = announced.trail.setup.start(&[]);
    first.says("synced").await;
    let mut second = announced.trail.setup.start(&[]);
    second.says("standby").await;
    for n in 0..20 {
        let file = announced.write(ACCOUNT, n * 100, 60, 3);
        announced.announce(&file, 0);
    }
    announced.queue.wait_until_empty().await;
    stop(first).await;
    announced.queue.wait_until_nobody_asks().await;
    let file = announced.write(ACCOUNT, 9000, 50, 3);
    announced.announce(&file, 0);
    announced.queue.wait_until_empty().await;
    stop(second).await;
    assert_eq!((intake.ids().len(), intake.count()), (63, 63), "each once");
}

#[tokio::test]
async fn kill_9_at_random_moments_loses_nothing_with_a_sweep() {
    const FILES: usize = 60;
    let mut random = fastrand::Rng::with_seed(20_261_130);
    let wanted = if std::env::var_os("AUDITSYNC_TEST_KILLS").is_some() { rounds("AUDITSYNC_TEST_KILLS") } else { 3 };
    let (mut kills, mut twice) = (0, 0);
    while kills < wanted {
        let announced = Announced::swept().await;
        // The queue shows what a process held again.
        let show_all = || announced.queue.let_pass(Duration::from_hours(24));
        let mut files = Vec::new();
        for n in 0..FILES {
            // Half of the files are too new for a sweep. Some messages of the other files are lost.
            let file = announced.write(ACCOUNT, n * 100, if n % 2 == 0 { 3 } else { 100 }, 20);
            if n % 4 != 3 {
                announced.announce(&file, 0);
            }
            files.push(file);
        }
        let mut printed: HashMap<String, usize> = HashMap::new();
        let mut note = |text: &str| {
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                *printed.entry(line.trim_end().to_owned()).or_default() += 1;
            }
            printed.len()
        };
        let mut found = 0;
        while found < FILES * 20 && kills < wanted {
            let mut daemon = announced.trail.setup.start(&["run", "--once"]);
            let lines = random.usize(1..=FILES * 20 - found);
            daemon.prints(|text| text.lines().count() >= lines.min(FILES * 5)).await;
            daemon.signal("KILL").await;
            found = note(&daemon.ended().await.stdout);
            kills += 1;
            announced.queue.wait_until_nobody_asks().await;
            show_all();
        }
        loop {
            show_all();
            found = note(&announced.trail.run_to(0).await.stdout);
            if found >= FILES * 20 {
                break;
            }
        }
        show_all();
        announced.trail.run_to(0).await;
        announced.queue.wait_until_empty().await;
        assert!(records(&files).iter().all(|record| printed.contains_key(record)), "every record arrived");
        twice += printed.values().map(|times| times - 1).sum::<usize>();
    }
    println!("SIGKILL: {kills} kills, {twice} records came more than once");
}

#[tokio::test]
async fn when_the_state_is_full_the_queue_waits_and_a_sweep_makes_room() {
    const FULL: u64 = 16_384;
    const HELD: &str = "the state is full of delivered files";
    let announced = Announced::swept().await;
    announced.write(OTHER, 0, 60, 1);
    announced.printed().await;
    // The files that the queue delivered within the last minutes: all but twelve of those that the state can hold.
    let minute = minutes_ago(3).as_second() / 60;
    let others: String = (0..FULL - 12).map(|n| URL_SAFE_NO_PAD.encode(n.to_be_bytes())).collect();
    announced.trail.change_cursor(|cursor| cursor["sweep"]["classes"][0]["done"][minute.to_string()] = others.into());
    let files: Vec<_> = (1..=30).map(|n| announced.write(ACCOUNT, n * 100, 3, 1)).collect();
    for file in &files {
        announced.announce(file, 0);
    }
    let mut daemon = announced.trail.setup.start(&["run", "--once"]);
    daemon.says(HELD).await;
    // The process says so while it still makes the last page.
    daemon.prints(|text| text.lines().count() >= 12).await;
    daemon.signal("TERM").await;
    let first = daemon.ended().await;
    assert_eq!(lines(&first).len(), 12, "what waits is not read");
    let is_back = |done: &Done| matches!(done, Done::Hidden(_, 0));
    assert!(announced.queue.done().iter().any(is_back), "the process gives back what it has not read before it ends");
    // Except for a message that came at the very end.
    announced.queue.let_pass(Duration::from_hours(24));
    // The files and the state now look as they would 20 minutes later.
    for file in &files {
        announced.trail.fake.put(&file.key, log_file(&file.records), minutes_ago(23));
    }
    announced.trail.change_cursor(|cursor| {
        let regular = &mut cursor["sweep"]["classes"][0];
        regular["place"] = serde_json::json!({"at": minutes_ago(60).to_string()});
        let done = regular["done"].as_object_mut().unwrap();
        let earlier = |minute: &String| (minute.parse::<i64>().unwrap() - 20).to_string();
        *done = done.iter().map(|(minute, hashes)| (earlier(minute), hashes.clone())).collect();
    });
    let second = announced.printed().await;
    let mut all = [lines(&first), second].concat();
    all.sort();
    assert_eq!(all, records(&files), "each once");
    assert!(announced.trail.state().to_string().len() < 4096, "the hashes are forgotten");
}

#[tokio::test]
async fn a_message_stays_hidden_for_as_long_as_its_large_file_is_delivered() {
    let intake = FakeIntake::start(IntakeOptions { keep_bodies: false, ..IntakeOptions::default() }).await;
    let announced = Announced::queue_alone().await;
    let announced = Announced { trail: announced.trail.to(&intake), ..announced }
        .with("AUDITSYNC_SYNC_LOOP", "true")
        .with("CLOUDTRAIL_AUDIT_SQS_VISIBILITY", "2s");
    // The file fills several pages.
    let file = announced.write(ACCOUNT, 0, 20, 25_000);
    intake.hold();
    let message = announced.announce(&file, 0);
    let daemon = announced.trail.setup.start(&[]);
    announced.queue.wait_until("the message", |done| !done.is_empty()).await;
    // The queue alone would hide the message for two seconds.
    for _ in 0..3 {
        announced.queue.let_pass_until_hidden_again(Duration::from_millis(1500), 1).await;
    }
    assert_eq!(intake.count(), 0, "nothing is accepted yet");
    intake.release();
    intake.wait_for_ids(25_000).await;
    announced.queue.wait_until_empty().await;
    stop(daemon).await;
    let done = announced.queue.done();
    assert_eq!((done.first(), done.last()), (Some(&Done::Received(message)), Some(&Done::Deleted(message))));
    let received = done.iter().filter(|done| matches!(done, Done::Received(_))).count();
    assert_eq!((received, intake.count()), (1, 25_000), "it is received once: {done:?}");
}

#[tokio::test]
async fn a_message_is_deleted_after_the_destination_has_accepted_all_of_its_file_and_not_before() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let announced = Announced::queue_alone().await;
    let announced = Announced { trail: announced.trail.to(&intake), ..announced }.with("AUDITSYNC_SYNC_LOOP", "true");
    intake.hold();
    let messages = [100, 200].map(|n| {
        let file = announced.write(ACCOUNT, n, 20, 5);
        announced.announce(&file, 0)
    });
    let daemon = announced.trail.setup.start(&[]);
    intake.wait_for_requests(1).await;
    // By the second request for messages, everything that can be deleted is deleted.
    let received = |done: &[Done]| done.iter().filter(|done| matches!(done, Done::Received(_))).count();
    announced.queue.wait_until("both messages", |done| received(done) == 2).await;
    let deleted = |done: &[Done]| done.iter().filter(|done| matches!(done, Done::Deleted(_))).count();
    assert_eq!(deleted(&announced.queue.done()), 0, "nothing is accepted yet");
    intake.release();
    announced.queue.wait_until_empty().await;
    assert_eq!(intake.count(), 10);
    assert!(messages.iter().all(|message| announced.queue.done().contains(&Done::Deleted(*message))));
    stop(daemon).await;
}

#[tokio::test]
async fn a_dry_run_deletes_no_message() {
    let announced = Announced::queue_alone().await;
    let file = announced.write(ACCOUNT, 100, 20, 3);
    announced.announce(&file, 0);
    let ended = announced.trail.setup.run(&["run", "--dry-run"]).await;
    assert_eq!((ended.code(), lines(&ended)), (Some(0), file.records.clone()), "{}", ended.stderr);
    announced.queue.let_pass(Duration::from_hours(24));
    assert_eq!(announced.printed().await, file.records);
}

#[tokio::test]
async fn what_concerns_nobody_is_deleted_and_counted() {
    let (announced, probe) = (Announced::queue_alone().await.with("AUDITSYNC_SYNC_LOOP", "true"), Probe::new());
    let announced = announced.with(&LISTEN.replace("SECTIGO", "CLOUDTRAIL"), probe.address());
    let file = announced.write(ACCOUNT, 100, 20, 3);
    announced.announce(&file, 0);
    for key in ["AWSLogs/111122223333/CloudTrail/", "elsewhere/file.txt"] {
        announced.queue.send(s3_event(FakeTrail::BUCKET, key).to_string());
    }
    announced.queue.send(s3_event("other", &file.key).to_string());
    announced.queue.send("{\"Service\":\"Amazon S3\",\"Event\":\"s3:TestEvent\"}");
    let mut daemon = announced.trail.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 3).await;
    announced.queue.wait_until_empty().await;
    let scrape = probe.get("/metrics").await.body;
    let count = |result: &str| {
        let series = format!("auditsync_queue_messages_total{{pipeline=\"cloudtrail:stdout\",result=\"{result}\"}} ");
        scrape.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or_else(|| panic!("no {series} in\n{scrape}"))
    };
    assert_eq!((count("ignored"), count("left")), ("4", "0"), "{scrape}");
    stop(daemon).await;
}

#[tokio::test]
async fn an_object_in_another_region_is_read_there() {
    let announced = Announced::queue_alone().await;
    let file = announced.write(ACCOUNT, 100, 20, 3);
    announced.announce(&file, 0);
    announced.trail.fake.fail_reads("", TrailFault::Region("eu-central-1"), usize::MAX);
    let ended = announced.trail.run_to(0).await;
    assert_eq!(lines(&ended), file.records);
    assert!(ended.stderr.contains("the bucket is in another region and is read there"), "{}", ended.stderr);
    assert_eq!(lists(&announced.trail), 0, "nothing is listed");
    let signed: Vec<_> = announced.trail.fake.requests().into_iter().map(|request| request.headers).collect();
    let scopes: Vec<_> = signed.iter().map(|headers| headers["authorization"].to_str().unwrap()).collect();
    assert!(scopes.last().unwrap().contains("/eu-central-1/s3/"), "{scopes:?}");
    announced.queue.wait_until_empty().await;
}
