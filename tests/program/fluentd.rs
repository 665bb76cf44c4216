//! Tests Sectigo to Fluentd and Fluent Bit: bodies, tags and outages.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Ended, Setup};
use crate::stage::ago;
use crate::support::{FakeFluentd, FakeScm, Fault, FluentdKind, FluentdOptions, Record, Records, ScmOptions};

const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";

/// Both ends and the setup between them.
pub struct Stand {
    pub scm: FakeScm,
    pub fluentd: FakeFluentd,
    pub setup: Setup,
    pushed: RefCell<Vec<String>>,
}

impl Stand {
    /// Pages of a hundred records.
    pub async fn of(options: FluentdOptions) -> Self {
        let scm = FakeScm::start(ScmOptions { page_size: 100, ..ScmOptions::default() }).await;
        let fluentd = FakeFluentd::start(options).await;
        let setup = Setup::reading(&scm)
            .with("SECTIGO_AUDIT_SYNC_LOOKBACK", "50m")
            .with("AUDITSYNC_PIPELINES", "sectigo:fluentd")
            .with("FLUENTD_URL", fluentd.url("audit.log"));
        Self { scm, fluentd, setup, pushed: RefCell::default() }
    }

    pub async fn usual() -> Self {
        Self::of(FluentdOptions::default()).await
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    /// Puts this many records into the source, from half an hour ago on. Returns their ids.
    pub fn push(&self, n: usize) -> Vec<String> {
        self.push_all(Records::seeded(1).between(ago(1500), ago(2), n))
    }

    /// Puts this many more into the source; they are read after a sync, too.
    ///
    /// None is of the last seconds. A program that stalled may end its next range some seconds early, and one sync must
    /// still read them all.
    pub fn push_late(&self, n: usize) {
        let seed = 1000 + self.pushed.borrow().len() as u64;
        self.push_all(Records::seeded(seed).between(ago(100), ago(40), n));
    }

    pub fn push_all(&self, records: Vec<Record>) -> Vec<String> {
        let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        self.pushed.borrow_mut().extend(ids.iter().cloned());
        self.scm.push(records);
        ids
    }

    /// This many records, of which those at `indices` have the action `poison`.
    pub fn push_poisoned(&self, n: usize, indices: &[usize]) -> Vec<String> {
        let mut records = Records::seeded(7).between(ago(1500), ago(2), n);
        for index in indices {
            let Record { id, at, .. } = &records[*index];
            let json = format!(r#"{{"id":"{id}","action":"poison","created":"{at}"}}"#);
            records[*index] = Record::raw(*at, json);
        }
        self.push_all(records)
    }

    pub async fn run_to(&self, code: i32) -> Ended {
        let ended = self.setup.run(&[]).await;
        assert_eq!(ended.code(), Some(code), "{}", ended.stderr);
        ended
    }

    /// Runs once with a budget that is spent at once.
    pub async fn run_without_patience_to(&self, code: i32) -> Ended {
        let ended = self.setup.start_with(&[(BUDGET, "0s")], &[]).ended().await;
        assert_eq!(ended.code(), Some(code), "{}", ended.stderr);
        ended
    }

    /// Checks that every record has arrived once and in order, except those at `missing`.
    pub fn assert_all_once_but(&self, missing: &[usize]) {
        let expected = self.pushed.borrow();
        let expected =
            expected.iter().enumerate().filter(|(index, _)| !missing.contains(index)).map(|(_, id)| id.clone());
        assert_eq!(self.fluentd.ids(), expected.collect::<Vec<_>>());
        self.assert_protocol();
    }

    pub fn assert_all_once(&self) {
        self.assert_all_once_but(&[]);
    }

    /// Checks that every record has arrived.
    pub fn assert_none_lost(&self) {
        let ids = self.fluentd.ids();
        assert!(self.pushed.borrow().iter().all(|id| ids.contains(id)));
        self.assert_protocol();
    }

    fn assert_protocol(&self) {
        assert_eq!(self.fluentd.violations(), [""; 0]);
        assert_eq!(self.scm.violations(), [""; 0]);
    }

    pub fn dead_letters(&self) -> Vec<Value> {
        read_lines(&self.setup.folder().join("auditsync-sectigo-fluentd.dead-letters.ndjson"))
    }

    /// The time up to which everything is delivered, as the state has it.
    pub fn cursor(&self) -> Option<Value> {
        read_lines(&self.setup.folder().join("auditsync-sectigo-fluentd.json"))
            .first()
            .map(|state| state["cursor"].clone())
    }
}

fn read_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[tokio::test]
async fn records_arrive_as_arrays_in_order_with_the_tag_of_the_path_and_their_time_twice() {
    for (kind, tag) in [(FluentdKind::Fluentd, "audit.pki-log"), (FluentdKind::FluentBit, "audit_pki_log")] {
        let stand = Stand::of(FluentdOptions { kind, ..FluentdOptions::default() }).await;
        let stand = {
            let url = stand.fluentd.url("audit/pki-log");
            stand.with("FLUENTD_URL", url)
        };
        stand.push(250);
        stand.run_to(0).await;
        stand.assert_all_once();
        assert!(stand.fluentd.requests().iter().all(|request| request.tag == *tag && !request.is_bare));
        assert_eq!(stand.fluentd.requests().len(), 3, "a request for each page");
        for (_, event) in stand.fluentd.events() {
            let time = |key: &str| event[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            assert_eq!(time("evt_time"), time("created"));
        }
    }
}

#[tokio::test]
async fn one_event_a_request_is_the_bare_record() {
    let stand = Stand::usual().await.with("FLUENTD_BATCH_RECORDS", "1");
    stand.push(20);
    stand.run_to(0).await;
    stand.assert_all_once();
    let requests = stand.fluentd.requests();
    assert!(requests.len() == 20 && requests.iter().all(|request| request.is_bare && request.records == 1));
    assert_eq!(stand.fluentd.connections(), 1);
}

#[tokio::test]
async fn arrays_are_bounded_by_records_and_by_bytes() {
    let stand = Stand::usual().await.with("FLUENTD_BATCH_RECORDS", "30").with("FLUENTD_BATCH_BYTES", "8KiB");
    stand.push(100);
    stand.run_to(0).await;
    stand.assert_all_once();
    let requests = stand.fluentd.requests();
    assert!(requests.iter().all(|request| request.bytes <= 8192 && request.records <= 30));
    assert!(requests.len() > 4, "{}", requests.len());
}

#[tokio::test]
async fn gzip_is_sent_where_it_is_set() {
    let stand = Stand::usual().await.with("FLUENTD_COMPRESSION", "gzip");
    stand.push(50);
    stand.run_to(0).await;
    stand.assert_all_once();
    assert!(stand.fluentd.requests().iter().all(|request| request.encoding == "gzip"));
}

#[tokio::test]
async fn every_success_is_accepted() {
    for success in [200, 201, 204] {
        let stand = Stand::of(FluentdOptions { success: Some(success), ..FluentdOptions::default() }).await;
        stand.push(10);
        stand.run_to(0).await;
        stand.assert_all_once();
    }
}

#[tokio::test]
async fn what_a_receiver_would_drop_after_a_200_is_sent_in_another_form() {
    let stand = Stand::usual().await;
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let at = ago(60);
    let record = |id: &str, member: &str| Record {
        id: id.to_owned(),
        at,
        json: format!(r#"{{"id":"{id}","created":"{at}","details":{member}}}"#),
    };
    stand.push_all(vec![
        record("half-character", r#""\ud800""#),
        record("large", "18446744073709551616"),
        record("deep", &deep),
        record("infinite", "1e999"),
    ]);
    stand.run_to(0).await;
    stand.assert_all_once();
    let details: Vec<_> = stand.fluentd.events().into_iter().map(|(_, event)| event["details"].clone()).collect();
    assert_eq!(
        (&details[0], &details[1], &details[3]),
        (&"\u{fffd}".into(), &"18446744073709551616".into(), &"1e999".into())
    );
}

#[tokio::test]
async fn malformed_bytes_of_the_source_never_reach_the_receiver() {
    let stand = Stand::usual().await;
    let at = ago(60);
    let record =
        |id: &str, details: &str| Record::raw(at, format!(r#"{{"id":"{id}","created":"{at}","details":"{details}"}}"#));
    stand.push_all(vec![record("one", "MALFORMED"), record("two", "sound")]);
    stand.scm.corrupt(&[("MALFORMED", b"\xff\xfe")]);
    stand.run_to(0).await;
    stand.assert_all_once();
}

#[tokio::test]
async fn an_outage_is_retried_until_it_is_over() {
    for fault in
        [Fault::Status(503), Fault::Status(500), Fault::Status(429), Fault::Status(408), Fault::NotJson, Fault::Reset]
    {
        let stand = Stand::usual().await;
        stand.push(150);
        stand.fluentd.script(Fault::PASS);
        stand.fluentd.script(fault.clone());
        stand.fluentd.script(fault);
        stand.run_to(0).await;
        stand.assert_all_once();
        assert!(stand.dead_letters().is_empty());
    }
}

#[tokio::test]
async fn a_200_that_breaks_off_in_its_middle_is_not_an_acceptance() {
    for fault in [Fault::TruncatedBody, Fault::Unanswered] {
        let stand = Stand::usual().await;
        stand.push(100);
        stand.fluentd.script(fault);
        let ended = stand.run_to(0).await;
        assert!(ended.stderr.contains("had no answer"), "{}", ended.stderr);
        stand.assert_none_lost();
        assert_eq!(stand.fluentd.events().len(), 200, "the page was sent again");
    }
}

#[tokio::test]
async fn a_wrong_path_or_method_is_configuration() {
    for status in [404, 405] {
        let stand = Stand::usual().await;
        stand.push(5);
        stand.fluentd.answer_always(Some(Fault::Status(status)));
        let ended = stand.run_without_patience_to(78).await;
        assert!(ended.stderr.contains("check FLUENTD_URL"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn rejected_credentials_name_the_certificate() {
    let stand = Stand::usual().await;
    stand.push(5);
    stand.fluentd.answer_always(Some(Fault::Status(403)));
    let ended = stand.run_to(77).await;
    assert!(ended.stderr.contains("check FLUENTD_CERT"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_redirect_is_configuration_and_no_event_follows_it() {
    let elsewhere = FakeFluentd::start(FluentdOptions::default()).await;
    let stand = Stand::usual().await;
    stand.push(5);
    stand.fluentd.answer_always(Some(Fault::Redirect(elsewhere.url("audit.log"))));
    let ended = stand.run_without_patience_to(78).await;
    assert!(ended.stderr.contains("check FLUENTD_URL") && ended.stderr.contains("not followed"), "{}", ended.stderr);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_check_sends_a_marked_event_and_says_what_it_cannot_prove() {
    let stand = Stand::usual().await;
    let stand = {
        let url = stand.fluentd.url("session");
        stand.with("FLUENTD_SESSION_URL", url)
    };
    let ended = stand.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    assert!(
        ended.stdout.contains("accepted by http://127.0.0.1") && ended.stdout.contains("no match rule takes the tag"),
        "{}",
        ended.stdout
    );
    let notices = stand.fluentd.notices();
    assert!(notices.len() == 2 && notices.iter().all(|notice| notice["auditsync"] == "check"));
    let tags: Vec<_> = stand.fluentd.requests().into_iter().map(|request| request.tag).collect();
    assert_eq!(tags, ["audit.log", "session.check.log"]);
    assert!(stand.fluentd.events().is_empty());

    stand.fluentd.answer_always(Some(Fault::Status(400)));
    let ended = stand.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(75), "{}", ended.everything());
    assert!(ended.stdout.contains("refuses every record"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_dry_run_shows_what_would_be_sent_and_sends_nothing() {
    let stand = Stand::usual().await;
    let ids = stand.push(5);
    let ended = stand.setup.run(&["run", "--dry-run"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    assert!(lines.iter().all(|line| line["evt_time"].is_string()));
    assert_eq!(stand.fluentd.connections(), 0);
}

#[tokio::test]
async fn a_connection_is_given_up_before_the_receiver_closes_it() {
    let stand = Stand::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_INTERVAL", "9s");
    stand.push(3);
    let mut daemon = stand.setup.start(&[]);
    // The interval counts from the start of a sync. The second one sends nothing, so a slow first one leaves time enough, too.
    daemon.says_so_often("synced", 2).await;
    stand.push_late(3);
    stand.fluentd.wait_for_events(6).await;
    assert_eq!(stand.fluentd.connections(), 2, "the connection had been unused for over 9 s");
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("had no answer"), "{}", ended.stderr);
    stand.assert_none_lost();
}

#[tokio::test]
async fn kill_9_at_random_moments_loses_nothing() {
    const BACKLOG: usize = 5000;
    let mut rng = fastrand::Rng::with_seed(20_261_128);
    let latency = Duration::from_millis(2);
    let stand = Stand::of(FluentdOptions { latency, ..FluentdOptions::default() }).await;
    let stand = stand.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("FLUENTD_BATCH_RECORDS", "20");
    stand.push(BACKLOG);
    let mut kills = 0;
    while stand.fluentd.events().len() < BACKLOG {
        let daemon = stand.setup.start(&[]);
        let before = stand.fluentd.events().len();
        let enough = before + rng.usize(1..=700);
        stand.fluentd.wait_for_events(enough.min(BACKLOG)).await;
        tokio::time::sleep(Duration::from_micros(rng.u64(..3000))).await;
        daemon.signal("KILL").await;
        daemon.ended().await;
        kills += 1;
    }
    stand.setup.run_to(0).await;
    let twice = stand.fluentd.events().len() - BACKLOG;
    // Two pages of a hundred are in flight at a kill.
    assert!(kills > 4 && twice <= kills * 200, "{kills} kills cost {twice} duplicates");
    stand.assert_none_lost();
}
