//! Tests upgrades: this version reads what an earlier version stored, and continues from there.
//!
//! `fixtures/states/VERSION/NAME` holds what that version stored, and what it had delivered by then. `UPDATE=1 cargo
//! test --test program upgrade` writes what is missing for the present version, and leaves everything else as it is.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::archive::Archive;
use crate::daemon::Setup;
use crate::stage::{Stage, ten_a_page};
use crate::support::{Fault, IntakeOptions, Record, RedisServer};

/// The names of the states. Each version stores one of each.
const NAMES: [&str; 11] = [
    "archive",
    "cloudtrail",
    "cloudtrail-within-a-file",
    "digicert",
    "digicert-within-a-run",
    "receiver-spool",
    "sectigo",
    "sectigo-with-a-lease",
    "sectigo-within-a-range",
    "teleport",
    "teleport-with-a-session",
];

/// The files that a version stored after it had delivered a part of its source.
pub struct Stored(PathBuf);

fn versions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/fixtures/states")
}

impl Stored {
    /// Returns what each version stored under `name`. With `UPDATE`, the present version stores it first, if it has not
    /// yet.
    pub async fn of_each_version(name: &str, make: impl AsyncFnOnce(&Self)) -> Vec<Self> {
        assert!(NAMES.contains(&name));
        let present = versions().join(env!("CARGO_PKG_VERSION")).join(name);
        if std::env::var_os("UPDATE").is_some() && !present.exists() {
            fs::create_dir_all(&present).unwrap();
            make(&Self(present)).await;
        }
        let all = versions().read_dir().unwrap().map(|version| Self(version.unwrap().path().join(name)));
        let all: Vec<_> = all.filter(|stored| stored.0.exists()).collect();
        assert!(!all.is_empty(), "no version has stored {name}; UPDATE=1 writes it");
        all
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub fn write(&self, file: &str, content: &impl Serialize) {
        fs::write(self.path(file), serde_json::to_vec_pretty(content).unwrap()).unwrap();
    }

    pub fn read<T: DeserializeOwned>(&self, file: &str) -> T {
        serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap()
    }

    /// Keeps the state of the only pipeline of `setup`, byte for byte.
    pub fn keep_state(&self, setup: &Setup) {
        let files = setup.folder().read_dir().unwrap().map(|file| file.unwrap().path());
        let mut states = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        let state = states.next().expect("there is a state");
        assert_eq!(states.next(), None);
        fs::copy(&state, self.path(state.file_name().unwrap().to_str().unwrap())).unwrap();
    }

    /// The state, and its file name.
    pub fn state(&self) -> (String, Value) {
        let files = self.0.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut states = files.filter(|name| name.starts_with("auditsync-"));
        let name = states.next().expect("there is a state");
        let state = self.read(&name);
        (name, state)
    }

    /// Gives the state to `setup`, and checks that `state show` shows all of it.
    pub async fn hand_to(&self, setup: &Setup) {
        let (name, state) = self.state();
        fs::copy(self.path(&name), setup.folder().join(&name)).unwrap();
        let shown = setup.run(&["state", "show"]).await;
        assert_eq!(shown.code(), Some(0), "{}: {}", self.0.display(), shown.stderr);
        assert_eq!(serde_json::from_str::<Value>(&shown.stdout).unwrap(), state, "{}", self.0.display());
    }
}

/// The next version can prove that it reads every state only if this version has stored each of them.
#[test]
fn the_present_version_has_stored_every_state() {
    let present = versions().join(env!("CARGO_PKG_VERSION"));
    let missing: Vec<_> = NAMES.iter().filter(|name| !present.join(name).exists()).collect();
    assert!(missing.is_empty(), "run `UPDATE=1 cargo test --test program upgrade` to write {missing:?}");
}

/// The records of the source, for a fixture. They must never change, because the state holds their hashes.
fn written(records: &[Record]) -> Vec<(Timestamp, String)> {
    records.iter().map(|record| (record.at, record.json.clone())).collect()
}

fn records(stored: &Stored) -> Vec<Record> {
    let records: Vec<(Timestamp, String)> = stored.read("records.json");
    records.into_iter().map(|(at, json)| Record::raw(at, json)).collect()
}

/// A stage whose syncs end five minutes ago, and whose ranges are as long as they may be.
async fn sectigo() -> Stage {
    let stage = Stage::of(ten_a_page(), IntakeOptions::default()).await;
    stage.with("SECTIGO_AUDIT_SYNC_DELAY", "5m").with("SECTIGO_AUDIT_SYNC_WINDOW", "24h")
}

/// Runs this version on what a version stored. The source has the records that it had then, and five more. No record
/// that was `delivered` may come again, and every other one must come once.
async fn goes_on(stored: &Stored, delivered: impl Fn(&Record) -> bool) {
    let stage = sectigo().await.with("SECTIGO_AUDIT_SYNC_DELAY", "0s");
    stored.hand_to(&stage.setup).await;
    let known = records(stored);
    let newest = known.iter().map(|record| record.at).max().unwrap();
    // After the end of the delivered history, and before the present.
    let news = stage.records(5, 0, 0).into_iter().zip(1..);
    let news: Vec<_> =
        news.map(|(record, n)| Record { at: newest + std::time::Duration::from_secs(90 + n), ..record }).collect();
    let (old, pending): (Vec<_>, Vec<_>) = known.into_iter().partition(|record| delivered(record));
    stage.scm.push(old);
    stage.push_all(pending);
    stage.push_all(news);
    stage.run_to(0).await;
    let ids = stage.intake.ids();
    assert!(ids.values().all(|times| *times == 1), "{ids:?}");
    assert_eq!(
        ids.len(),
        stage.pushed(),
        "{}: what was delivered came again, or something is lost",
        stored.0.display()
    );
    assert_eq!(stage.intake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_state_between_two_ranges_is_read_and_nothing_comes_again() {
    let make = async |stored: &Stored| {
        let stage = sectigo().await;
        let records = stage.records(20, 1500, 360);
        stored.write("records.json", &written(&records));
        stage.push_all(records);
        stage.run_to(0).await;
        stage.assert_all_once();
        stored.keep_state(&stage.setup);
    };
    for stored in Stored::of_each_version("sectigo", make).await {
        assert_eq!(stored.state().1["cursor"]["at"], "idle");
        goes_on(&stored, |_| true).await;
    }
}

#[tokio::test]
async fn a_state_within_a_range_is_read_and_no_page_before_it_comes_again() {
    const DELIVERED: usize = 20;
    let make = async |stored: &Stored| {
        let stage = sectigo().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
        let records = stage.records(30, 580, 360);
        stored.write("records.json", &written(&records));
        stage.push_all(records);
        stage.intake_meets([Fault::PASS, Fault::PASS, Fault::Hang]);
        let daemon = stage.setup.start(&[]);
        stage.intake.wait_for_requests(3).await;
        daemon.signal("KILL").await;
        daemon.ended().await;
        assert_eq!(stage.intake.count(), DELIVERED);
        stored.keep_state(&stage.setup);
    };
    for stored in Stored::of_each_version("sectigo-within-a-range", make).await {
        assert_eq!(stored.state().1["cursor"]["at"], "in_range");
        let delivered: Vec<_> = records(&stored).into_iter().take(DELIVERED).map(|record| record.id).collect();
        goes_on(&stored, |record| delivered.contains(&record.id)).await;
    }
}

#[tokio::test]
async fn a_state_with_the_lease_of_an_instance_that_was_killed_is_read() {
    let make = async |stored: &Stored| {
        let server = RedisServer::start();
        let stage = sectigo().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
        let stage = stage.with("SECTIGO_AUDIT_STORAGE_BACKEND", "redis");
        let stage = stage.with("SECTIGO_AUDIT_REDIS_ADDRESS", server.address());
        let records = stage.records(20, 1500, 360);
        stored.write("records.json", &written(&records));
        stage.push_all(records);
        let mut daemon = stage.setup.start(&[]);
        daemon.says("synced").await;
        daemon.signal("KILL").await;
        daemon.ended().await;
        let document = server.command(&["GET", "auditsync:sectigo:datadog"]);
        fs::write(stored.path("auditsync-sectigo-datadog.json"), document).unwrap();
    };
    for stored in Stored::of_each_version("sectigo-with-a-lease", make).await {
        assert!(stored.state().1["lease"].is_object(), "{}", stored.state().1);
        goes_on(&stored, |_| true).await;
    }
}

#[tokio::test]
async fn an_archive_of_an_earlier_version_is_continued_and_proven() {
    let make = async |stored: &Stored| {
        let archive = Archive::usual().await.with("SECTIGO_AUDIT_SYNC_DELAY", "5m");
        let records = archive.stage.records(15, 1500, 360);
        stored.write("records.json", &written(&records));
        archive.stage.push_all(records);
        archive.stage.run_to(0).await;
        archive.assert_all_once().await;
        stored.keep_state(&archive.stage.setup);
        let keys = archive.bucket.keys("").await;
        for (n, key) in keys.iter().enumerate() {
            fs::write(stored.path(&format!("object-{n}")), archive.bucket.get(key).await.bytes).unwrap();
        }
        stored.write("keys.json", &keys);
    };
    for stored in Stored::of_each_version("archive", make).await {
        let archive = Archive::usual().await.with("SECTIGO_AUDIT_SYNC_WINDOW", "24h");
        stored.hand_to(&archive.stage.setup).await;
        for (n, key) in stored.read::<Vec<String>>("keys.json").iter().enumerate() {
            archive.bucket.put(key, fs::read(stored.path(&format!("object-{n}"))).unwrap()).await;
        }
        archive.assert_proven().await;
        let before = archive.bucket.manifests().await.len();
        archive.stage.push_all(records(&stored));
        archive.stage.push(5, 30, 20);
        archive.stage.run_to(0).await;
        assert_eq!(archive.bucket.manifests().await.len(), before + 1);
        archive.assert_all_once().await;
        archive.assert_proven().await;
    }
}
