//! Tests upgrades of the other sources' cursors, and of the receiver's spool.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cloudtrail::{ACCOUNT, Trail};
use crate::digicert::{Reports, rows};
use crate::receiver::Reception;
use crate::stage::ago;
use crate::support::{
    AuditEvent, CertCentralOptions, FakeIntake, FakeRun, Fault, IntakeOptions, REGION, Recording, TeleportOptions,
    TrailFault, log_file, log_key, minutes_ago, report_row, trail_record,
};
use crate::teleport::{Cluster, ids};
use crate::upgrade::Stored;

#[tokio::test]
async fn a_state_of_digicerts_reports_is_read_and_no_row_comes_again() {
    let make = async |stored: &Stored| {
        let reports = Reports::usual().await;
        reports.fake.push(rows(0, 20, 600));
        reports.printed().await;
        stored.write("rows.json", &reports.fake.rows());
        stored.keep_state(&reports.setup);
    };
    for stored in Stored::of_each_version("digicert", make).await {
        let reports = Reports::usual().await;
        stored.hand_to(&reports.setup).await;
        reports.fake.push(stored.read::<Vec<String>>("rows.json"));
        let news = rows(20, 25, 60);
        reports.fake.push(news.clone());
        assert_eq!(reports.printed().await, news);
    }
}

#[tokio::test]
async fn a_state_within_a_run_of_digicerts_is_read_and_the_run_is_read_on() {
    // A page has 1000 rows.
    const ROWS: usize = 1500;
    let all = |newest: Timestamp| -> Vec<_> {
        (0..ROWS).map(|n| report_row(newest - Duration::from_secs((ROWS - n) as u64), n)).collect()
    };
    let make = async |stored: &Stored| {
        let newest = ago(600);
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        let reports = Reports::of(CertCentralOptions::default()).await.to(&intake);
        reports.fake.push(all(newest));
        intake.script(Fault::PASS);
        intake.script(Fault::Hang);
        let daemon = reports.setup.start(&["run", "--once"]);
        intake.wait_for_requests(2).await;
        daemon.signal("KILL").await;
        daemon.ended().await;
        assert_eq!(intake.count(), 1000);
        stored.write("newest.json", &newest);
        stored.keep_state(&reports.setup);
    };
    for stored in Stored::of_each_version("digicert-within-a-run", make).await {
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        let reports = Reports::of(CertCentralOptions::default()).await.to(&intake);
        stored.hand_to(&reports.setup).await;
        let reading = &stored.state().1["cursor"]["step"]["reading"];
        assert_eq!(reading["rows"], 1000, "{reading}");
        let (run, rows) = (reading["run"]["id"].as_str().unwrap(), all(stored.read("newest.json")));
        let began = reading["run"]["began"].as_str().unwrap().parse().unwrap();
        reports.fake.push(rows.clone());
        reports.fake.add_run(FakeRun::ready(run, began, &rows));
        reports.run_to(0).await;
        assert_eq!(intake.count(), ROWS - 1000);
        assert_eq!(reports.read()[0], run);
    }
}

/// Log files in a fixture: their keys, their times and their records.
type Files = Vec<(String, Timestamp, Vec<String>)>;

#[tokio::test]
async fn a_state_of_a_trail_is_read_and_no_file_comes_again() {
    let put = |trail: &Trail, files: &Files| {
        for (key, modified, records) in files {
            trail.fake.put(key, log_file(records), *modified);
        }
    };
    let make = async |stored: &Stored| {
        let file = |n: usize, slot: i64| {
            let slot = minutes_ago(slot);
            let records = (0..3).map(|more| trail_record(ACCOUNT, n + more, slot)).collect();
            (log_key(ACCOUNT, REGION, slot, n), slot + SignedDuration::from_mins(4), records)
        };
        // Some files are before the cursor. The state keeps the hashes of the later ones.
        let files: Files = vec![file(0, 90), file(100, 60), file(200, 12), file(300, 8)];
        let trail = Trail::usual().await;
        put(&trail, &files);
        assert_eq!(trail.printed().await.len(), 12);
        stored.write("files.json", &files);
        stored.keep_state(&trail.setup);
    };
    for stored in Stored::of_each_version("cloudtrail", make).await {
        let trail = Trail::usual().await;
        stored.hand_to(&trail.setup).await;
        put(&trail, &stored.read("files.json"));
        let news = trail.file(ACCOUNT, 5000, 6, 4, 2);
        assert_eq!(trail.printed().await, news);
    }
}

#[tokio::test]
async fn a_state_within_a_log_file_is_read_and_the_file_is_read_on() {
    // The file holds more than a page, and is small when it is compressed.
    let record = |n: usize, time| trail_record(ACCOUNT, n, time).replace("cli", &"x".repeat(300_000));
    let number = |record: &String| serde_json::from_str::<Value>(record).unwrap()["requestID"].clone();
    let make = async |stored: &Stored| {
        let slot = minutes_ago(60);
        let records: Vec<_> = (0..30).map(|n| record(n, slot)).collect();
        let mut file = GzEncoder::new(Vec::new(), Compression::best());
        write!(file, "{{\"Records\":[{}]}}", records.join(",")).unwrap();
        let file = file.finish().unwrap();
        let (key, modified) = (log_key(ACCOUNT, REGION, slot, 0), slot + SignedDuration::from_mins(4));
        let trail = Trail::usual().await;
        trail.fake.put(&key, file.clone(), modified);
        trail.fake.fail_reads(&key, TrailFault::Half, 1);
        let state = trail.setup.folder().join("auditsync-cloudtrail-stdout.json");
        let daemon = trail.setup.start(&["run", "--once"]);
        while !fs::read_to_string(&state).unwrap_or_default().contains("\"current\"") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        daemon.signal("STOP").await;
        stored.keep_state(&trail.setup);
        daemon.signal("KILL").await;
        daemon.ended().await;
        fs::write(stored.path("log-file.json.gz"), file).unwrap();
        stored.write("file.json", &(key, modified));
    };
    for stored in Stored::of_each_version("cloudtrail-within-a-file", make).await {
        let trail = Trail::usual().await;
        stored.hand_to(&trail.setup).await;
        let delivered = stored.state().1["cursor"]["current"]["records"].as_u64().unwrap();
        assert!((1..30).contains(&delivered), "{delivered}");
        let (key, modified): (String, Timestamp) = stored.read("file.json");
        trail.fake.put(&key, fs::read(stored.path("log-file.json.gz")).unwrap(), modified);
        let printed: Vec<_> = trail.printed().await.iter().map(number).collect();
        let expected: Vec<_> = (delivered..30).map(|n| Value::from(format!("r{n}"))).collect();
        assert_eq!(printed, expected);
    }
}

/// Events in a fixture.
fn logins(stored: &Stored) -> Vec<AuditEvent> {
    let logins: Vec<(String, Timestamp)> = stored.read("logins.json");
    logins.into_iter().map(|(id, time)| AuditEvent::login(&id, time)).collect()
}

#[tokio::test]
async fn a_state_of_teleports_log_is_read_and_no_event_comes_again() {
    let make = async |stored: &Stored| {
        let cluster = Cluster::usual().await;
        let events = AuditEvent::logins(0, 40, ago(20));
        let times: Vec<_> = events.iter().map(|event| (event.id.clone(), event.time)).collect();
        cluster.auth.push(events);
        assert_eq!(cluster.printed().await.len(), 40);
        stored.write("logins.json", &times);
        stored.keep_state(&cluster.setup);
    };
    for stored in Stored::of_each_version("teleport", make).await {
        let cluster = Cluster::usual().await;
        stored.hand_to(&cluster.setup).await;
        cluster.auth.push(logins(&stored));
        cluster.auth.push(AuditEvent::logins(40, 45, ago(1)));
        assert_eq!(cluster.printed_ids().await, (40..45).map(|n| format!("login-{n:06}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_state_with_a_session_that_is_still_to_be_read_is_read() {
    const SESSION: &str = "8d38cbe9-1f1c-4d2e-9a6b-2f6a1f4f5a11";
    let recording = |time: Timestamp| {
        let event = |index| AuditEvent::of_session("session.command", SESSION, index, time);
        Recording { events: (0..20).map(event).collect(), ..Recording::default() }
    };
    let with_sessions = async || Cluster::of(TeleportOptions::default()).await.with("TELEPORT_AUDIT_SESSIONS", "true");
    let make = async |stored: &Stored| {
        let time = ago(900);
        let cluster = with_sessions().await;
        cluster.auth.push([AuditEvent::upload("upload-1", SESSION, time)]);
        cluster.auth.set_recording(SESSION, Recording { held: true, ..recording(time) });
        let daemon = cluster.setup.start(&["run", "--once"]);
        cluster.auth.wait_for_streams(1).await;
        while !fs::read_to_string(cluster.state_file()).unwrap_or_default().contains(SESSION) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        daemon.signal("KILL").await;
        daemon.ended().await;
        stored.write("time.json", &time);
        stored.keep_state(&cluster.setup);
    };
    for stored in Stored::of_each_version("teleport-with-a-session", make).await {
        let cluster = with_sessions().await;
        stored.hand_to(&cluster.setup).await;
        let state = stored.state().1;
        assert!(state["cursor"]["sessions"].to_string().contains(SESSION), "{state}");
        let time = stored.read("time.json");
        cluster.auth.push([AuditEvent::upload("upload-1", SESSION, time)]);
        cluster.auth.set_recording(SESSION, recording(time));
        let expected: Vec<_> = (0..20).map(|index| format!("{SESSION}-{index}")).collect();
        assert_eq!(ids(&cluster.printed().await), expected);
    }
}

/// Gives the spool of a version to a receiver.
pub fn hand_spool_to(stored: &Stored, reception: &Reception) {
    let folder = reception.setup.folder().join("receiver-spool");
    fs::create_dir(&folder).unwrap();
    copy(&stored.path("spool"), &folder);
}

fn copy(from: &Path, to: &Path) {
    for file in from.read_dir().unwrap() {
        let file = file.unwrap();
        if file.file_name() != "lock" {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// A spool of each version, with 30 entries. The first 20 of them are delivered.
pub async fn spools() -> Vec<Stored> {
    let make = async |stored: &Stored| {
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        let reception = Reception::usual().to(&intake);
        let mut daemon = reception.started().await;
        reception.push(0..20).await;
        intake.wait_for_ids(20).await;
        daemon.says("synced").await;
        intake.go_down().await;
        reception.push(20..25).await;
        // This request has the other shape.
        let tagged = serde_json::to_vec(&(25..30).map(crate::receiver::entry).collect::<Vec<_>>()).unwrap();
        assert_eq!(reception.post("/test.log", tagged).await.status(), 200);
        daemon.signal("KILL").await;
        daemon.ended().await;
        fs::create_dir(stored.path("spool")).unwrap();
        copy(&reception.setup.folder().join("receiver-spool"), &stored.path("spool"));
    };
    Stored::of_each_version("receiver-spool", make).await
}

#[tokio::test]
async fn a_spool_of_an_earlier_version_is_delivered_from_where_it_was() {
    for stored in spools().await {
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        let reception = Reception::usual().to(&intake);
        hand_spool_to(&stored, &reception);
        let ended = reception.setup.run(&["run", "--once"]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        let mut ids: Vec<usize> = intake.ids().keys().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!((ids, intake.count()), ((20..30).collect(), 10));
    }
}

/// An earlier version would take the entries for damage, and skip them.
#[tokio::test]
async fn a_spool_of_a_newer_version_is_left_as_it_is() {
    let reception = Reception::usual();
    hand_spool_to(&spools().await[0], &reception);
    let spool = reception.setup.folder().join("receiver-spool");
    let segment = spool.join("00000000000000000001.spool");
    let mut bytes = fs::read(&segment).unwrap();
    // The last of the four bytes at the beginning of an entry is the layout.
    let entries: Vec<_> = memchr::memmem::find_iter(&bytes, b"\xffSP\x01").collect();
    for at in &entries {
        bytes[at + 3] = 2;
    }
    assert_eq!(entries.len(), 30);
    fs::write(&segment, &bytes).unwrap();
    for arguments in [&["run"][..], &["run", "--once"]] {
        let ended = reception.setup.run(arguments).await;
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(78), ""), "{}", ended.stderr);
        for told in
            ["RECEIVER_AUDIT_SPOOL_PATH", "the spool in receiver-spool has layout 2", "run the version that wrote it"]
        {
            assert!(ended.stderr.contains(told), "{told}: {}", ended.stderr);
        }
        assert_eq!(fs::read(&segment).unwrap(), bytes, "nothing of it is cut off");
    }
}
