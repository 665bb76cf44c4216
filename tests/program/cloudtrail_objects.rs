//! Tests odd, broken and huge files: readable records are delivered, the others become dead letters, and the next files
//! are read.

use serde_json::Value;

use crate::cloudtrail::{ACCOUNT, Trail, lines};
use crate::memory::peak;
use crate::support::{FakeTrail, REGION, TrailFault, log_file, log_key, minutes_ago, trail_record, until};

/// Puts a file of these bytes into the bucket, and returns its key.
fn put(trail: &Trail, n: usize, bytes: impl Into<bytes::Bytes>) -> String {
    let key = log_key(ACCOUNT, REGION, minutes_ago(60), n);
    trail.fake.put(&key, bytes, minutes_ago(55));
    key
}

fn record(n: usize) -> String {
    trail_record(ACCOUNT, n, minutes_ago(60))
}

#[tokio::test]
async fn odd_files_are_read() {
    let trail = Trail::usual().await;
    let plain = format!("{{\"x\":[1,{{}}], \"Records\" :\n[ {} ,\n{} ], \"y\":null}}\n", record(1), record(2));
    put(&trail, 1, plain);
    put(&trail, 2, log_file(&[]));
    let odd = record(3).replace("\"eventTime\":\"", "\"eventTime\":\"sometime after ");
    let aggregated = format!("{{\"accountId\":\"{ACCOUNT}\",\"eventId\":\"e\",\"eventCategory\":\"Aggregated\"}}");
    let large = record(4).replace("\"k\\\"]}\"", &format!("\"{}\"", "x}],".repeat(300_000)));
    put(&trail, 3, log_file(&[odd.clone(), aggregated.clone(), large.clone()]));
    let mut expected = vec![record(1), record(2), odd, aggregated, large];
    expected.sort();
    let mut printed = trail.printed().await;
    printed.sort();
    assert_eq!(printed, expected);
    assert!(trail.dead_letters().is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_with_its_key_and_reason_and_the_rest_goes_on() {
    let trail = Trail::usual().await;
    let whole = log_file(&(0..50).map(|n| record(1000 + n)).collect::<Vec<_>>());
    let mut damaged = log_file(&[record(1)]);
    let checksum = damaged.len() - 6;
    damaged[checksum] ^= 1;
    let two = [log_file(&[record(2)]), log_file(&[record(3)])].concat();
    let invalid = format!("{{\"Records\":[{},{{\"eventID\":oops}},{}]}}", record(4), record(5));
    let cases = [
        (put(&trail, 1, "<html>"), "does not begin with a brace"),
        (put(&trail, 2, "{\"Other\":[]}"), "`Records`: there is none"),
        (put(&trail, 3, "{\"Records\":{}}"), "`Records` is not an array"),
        (put(&trail, 4, ""), "it ends in the middle"),
        (put(&trail, 5, whole[..whole.len() / 2].to_vec()), "it ends in the middle"),
        (put(&trail, 6, damaged), "the gzip data is broken"),
        (put(&trail, 7, two), "data follows the gzip member"),
        (put(&trail, 8, invalid), "a record of the file is not a JSON object"),
    ];
    let news = trail.file(ACCOUNT, 9000, 30, 5, 1);
    let ended = trail.run_to(0).await;
    let printed = lines(&ended);
    assert_eq!(printed.last(), news.last(), "the files behind them are delivered");
    for n in [1, 2, 4, 5] {
        assert_eq!(printed.iter().filter(|line| **line == record(n)).count(), 1, "{n}");
    }
    assert!(!printed.contains(&record(3)), "it is behind the member");
    let letters = trail.dead_letters();
    for (key, reason) in &cases {
        let of_file = |letter: &&Value| letter["record"]["key"] == key.as_str();
        let found: Vec<_> = letters.iter().filter(of_file).collect();
        assert_eq!(found.len(), 1, "{key}: {letters:?}");
        assert!(found[0]["reason"].as_str().unwrap().contains(reason), "{reason}: {}", found[0]);
        assert_eq!(
            (&found[0]["fate"], &found[0]["record"]["bucket"]),
            (&"unreadable".into(), &FakeTrail::BUCKET.into())
        );
        assert!(ended.stderr.contains(key.as_str()), "{key}");
    }
    assert_eq!(letters.len(), cases.len());
    assert_eq!(trail.printed().await, [""; 0], "none of them is read again");
}

#[tokio::test]
async fn a_file_that_is_broken_for_a_moment_is_read_again_and_delivered_once() {
    let trail = Trail::usual().await;
    let records: Vec<_> = (0..2000).map(record).collect();
    let key = put(&trail, 1, log_file(&records));
    trail.fake.fail_reads(&key, TrailFault::Half, 1);
    trail.fake.fail_reads(&key, TrailFault::Truncated, 1);
    let ended = trail.run_to(0).await;
    assert_eq!(lines(&ended), records);
    assert!(trail.dead_letters().is_empty());
    assert!(ended.stderr.contains("it ends in the middle"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_record_that_is_no_object_is_one_dead_letter_although_its_file_breaks_off_behind_it() {
    const INVALID: &str = "{\"eventID\":oops}";
    let trail = Trail::usual().await;
    // One file is streamed, and the other holds only the invalid record.
    let noise = |n: u64| crate::archive::noise(600, n);
    let mut records: Vec<_> = (0..8000).map(|n| record(n).replace("k\\\"]}", &noise(n as u64))).collect();
    records[10] = INVALID.to_owned();
    let streamed = put(&trail, 1, log_file(&records));
    trail.fake.fail_reads(&streamed, TrailFault::Truncated, 1);
    let cut = put(&trail, 2, format!("{{\"Records\":[{INVALID},"));
    let ended = trail.run_to(0).await;
    records.remove(10);
    assert_eq!(lines(&ended), records);
    let letters = trail.dead_letters();
    let of = |key: &str, record: Value| {
        letters.iter().filter(|letter| letter["record"]["key"] == key && letter["record"]["record"] == record).count()
    };
    assert_eq!((of(&streamed, 10.into()), of(&cut, 0.into()), of(&cut, Value::Null)), (1, 1, 1), "{letters:?}");
    assert_eq!(letters.len(), 3, "{letters:?}");
}

#[tokio::test]
async fn a_file_of_records_that_are_no_objects_is_given_up_after_a_thousand() {
    let trail = Trail::usual().await;
    let invalid = vec!["{x}"; 3000].join(",");
    let key = put(&trail, 1, log_file(&[record(1), invalid, record(2)]));
    let news = trail.file(ACCOUNT, 9000, 30, 5, 1);
    assert_eq!(trail.printed().await, [record(1), news[0].clone()]);
    let letters = trail.dead_letters();
    assert_eq!(letters.len(), 1001);
    let last = &letters[1000];
    assert_eq!((&last["record"]["key"], &last["record"]["delivered"]), (&key.as_str().into(), &1001.into()));
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("more than 1000 of its records are not JSON objects"), "{reason}");
}

#[tokio::test]
async fn a_large_file_is_streamed_in_bounded_memory_although_its_stream_breaks_off() {
    let trail = Trail::usual().await;
    // Larger than a file that is fetched whole, and several pages of records.
    let noise = |n: u64| crate::archive::noise(600, n);
    let records: Vec<_> = (0..12_000).map(|n| record(n).replace("k\\\"]}", &noise(n as u64))).collect();
    let key = put(&trail, 1, log_file(&records));
    trail.fake.fail_reads(&key, TrailFault::Truncated, 2);
    let trail = trail.with("AUDITSYNC_SYNC_LOOP", "true");
    let mut daemon = trail.setup.start(&[]);
    daemon.prints(|printed| printed.len() >= records.iter().map(|record| record.len() + 1).sum()).await;
    let peak = peak(&daemon);
    daemon.signal("TERM").await;
    assert_eq!(lines(&daemon.ended().await), records);
    assert!(peak <= 64 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn a_process_that_is_killed_within_a_large_file_goes_on_within_it() {
    let trail = Trail::usual().await;
    let records: Vec<_> = (0..40_000).map(record).collect();
    put(&trail, 1, log_file(&records));
    // No process reads its output, so it stops in the middle, when the pipe is full.
    let mut command = trail.setup.command(&["run", "--once"]);
    let mut child = command.spawn().unwrap();
    let stored =
        || std::fs::read_to_string(trail.setup.folder().join("auditsync-cloudtrail-stdout.json")).unwrap_or_default();
    let mut out = child.stdout.take().unwrap();
    let mut read = vec![0; 6 * 1024 * 1024];
    tokio::io::AsyncReadExt::read_exact(&mut out, &mut read).await.unwrap();
    until("a cursor within the file", || stored().contains("\"current\"")).await;
    child.kill().await.unwrap();
    let first = String::from_utf8_lossy(&read).lines().count();
    let rest = trail.printed().await;
    assert!(rest.len() < records.len(), "it did not begin again");
    assert!(rest.len() + first >= records.len() && records.ends_with(&rest));
    assert_eq!(trail.printed().await, [""; 0]);
}
