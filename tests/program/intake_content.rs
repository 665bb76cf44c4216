//! Tests requests that fail because of their content, and requests that fail by chance. They are called directly,
//! without the engine's backoff.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use auditsync::component::Context;
use auditsync::dead_letter::DeadLetters;
use auditsync::destination::datadog::{Compression, Datadog, Intake, Labels, Settings};
use auditsync::destination::{Delivery, Destination as _, PageNumber, Shipment};
use auditsync::event::Event;
use auditsync::failure::{Class, Failure};
use auditsync::http;
use auditsync::pipeline_name::PipelineName;
use auditsync::secret::Secret;
use auditsync::source::Cursor;
use auditsync::source::sectigo::page;
use auditsync::telemetry::liveness::Heartbeat;
use jiff::Timestamp;
use proptest::collection::btree_set;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use crate::support::{FakeIntake, Fault, IntakeOptions, Predicate};

/// Text that the firewall refuses in the whole record, and as plain text.
const BAD: &str = "' OR 1=1 --";

/// Text that the firewall refuses only in the whole record.
const BAD_WHOLE: &str = "whole alone";

pub fn datadog(intake: &FakeIntake, dead_letters: &Path) -> Datadog {
    let address: url::Url = intake.url().parse().unwrap();
    let text = || "x".to_owned();
    let settings = Settings {
        intake_url: address.clone(),
        intake: Intake::Other,
        intake_variable: "DD_LOGS_CONFIG_LOGS_DD_URL".into(),
        site: text(),
        api_url: address,
        api_key: Secret::from_value("DD_API_KEY", IntakeOptions::default().api_key.into()),
        compression: Compression::Identity,
        labels: Labels { source: text(), service: text(), hostname: text(), tags: text() },
    };
    let pipeline = PipelineName::of("sectigo", "datadog");
    let letters = DeadLetters::new(pipeline.clone(), Some(dead_letters.to_owned()), "LETTERS".into());
    let http = http::Settings { timeout: Duration::from_secs(30), timeout_variable: "TIMEOUT".into() };
    Datadog::new(settings, "sectigo", &Context::new(pipeline, http, letters))
}

/// This many events; those at these indices hold text that a firewall refuses.
pub fn events(count: usize, bad: &BTreeSet<usize>, bad_whole: &BTreeSet<usize>) -> Vec<Event> {
    let record = |id: usize| {
        let details = if bad.contains(&id) {
            BAD
        } else if bad_whole.contains(&id) {
            BAD_WHOLE
        } else {
            "well"
        };
        format!(r#"{{"id":"{id}","action":"login","details":"{details}"}}"#)
    };
    let records: Vec<_> = (0..count).map(record).collect();
    page::records(&format!("[{}]", records.join(",")).into()).unwrap()
}

/// A firewall that answers such text with this fault.
fn firewall(fault: Fault) -> IntakeOptions {
    let dislikes = |entry: &Value| {
        let text = entry.to_string();
        text.contains(BAD) || (entry.get("sectigo").is_some() && text.contains(BAD_WHOLE))
    };
    IntakeOptions { firewall: Some((Predicate::new(dislikes), fault)), ..IntakeOptions::default() }
}

/// Calls until everything is settled, and returns the errors on the way.
pub async fn deliver(delivery: &mut dyn Delivery, most: usize) -> Vec<Failure> {
    let mut errors = Vec::new();
    while errors.len() < most {
        match delivery.attempt(Timestamp::now(), &Heartbeat::default()).await {
            Ok(_) => return errors,
            Err(error) => errors.push(error),
        }
    }
    panic!("not settled after {most} calls: {}", errors.last().unwrap());
}

/// The delivery of a page with these events.
pub fn open(datadog: &Datadog, events: Vec<Event>) -> Box<dyn Delivery> {
    let (from, to) = (Cursor::default(), Cursor::default());
    datadog.open(Shipment { page: PageNumber(1), from, to, events: events.into() }, Timestamp::now())
}

/// The ids in the dead-letter file, in order.
pub fn dead_letters(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    let mut ids: Vec<_> = text.lines().map(id).collect();
    ids.sort_by_key(|id| id.parse::<usize>().unwrap());
    ids
}

/// How many notices of ours arrived.
pub fn notices(intake: &FakeIntake) -> usize {
    intake.entries().iter().filter(|entry| entry["auditsync"].get("notice").is_some()).count()
}

/// Checks that every event arrived once, except these, and that nothing else is a dead letter.
fn assert_settled(
    intake: &FakeIntake,
    rejected: &Path,
    count: usize,
    bad: &BTreeSet<usize>,
    as_text: &BTreeSet<usize>,
) {
    let expected: Vec<_> = bad.iter().map(ToString::to_string).collect();
    assert_eq!(dead_letters(rejected), expected);
    let entries = intake.entries();
    let texts: BTreeSet<usize> = entries
        .iter()
        .filter(|entry| entry["auditsync"]["plain_text"] == "true")
        .map(|entry| serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap())
        .map(|record| record["id"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(texts.is_superset(as_text), "{texts:?}");
    let whole = intake.ids();
    for id in 0..count {
        let times = whole.get(&id.to_string()).copied().unwrap_or_default() + usize::from(texts.contains(&id));
        assert_eq!(times, usize::from(!bad.contains(&id)), "{id}");
    }
    assert_eq!(whole.values().sum::<usize>() + texts.len() + notices(intake), intake.count());
}

fn faults_of_a_firewall() -> Vec<Fault> {
    let statuses = [400, 403, 404, 405, 406, 408, 409, 418, 451, 500, 501, 502, 503, 504];
    let page = Fault::Typed(200, Some("text/plain"), "blocked: incident 17");
    let redirect = Fault::Redirect("https://blocked.example/".into());
    let with_wait = [408, 500, 503].map(|status| Fault::StatusWithRetryAfter(status, "7".into()));
    let others = [page, Fault::NotJson, Fault::Reset, redirect].into_iter().chain(with_wait);
    statuses.into_iter().map(Fault::Status).chain(others).collect()
}

#[tokio::test]
async fn an_entry_that_a_firewall_dislikes_is_dead_lettered_alone_whatever_the_answer() {
    for fault in faults_of_a_firewall() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let intake = FakeIntake::start(firewall(fault.clone())).await;
        let datadog = datadog(&intake, &path);
        let (bad, as_text) = (BTreeSet::from([700]), BTreeSet::from([31]));
        let mut delivery = open(&datadog, events(1500, &bad, &as_text));
        let errors = deliver(delivery.as_mut(), 20).await;
        assert_settled(&intake, &path, 1500, &bad, &as_text);
        assert_eq!((delivery.tally().accepted, delivery.tally().dead_lettered), (1499, 1), "{fault:?}");
        assert!(notices(&intake) <= 30, "{fault:?}: {} notices", notices(&intake));
        for error in errors {
            assert!(matches!(error.class(), Class::Retryable { .. }), "{fault:?}: {error}");
            assert!(!error.to_string().contains("API key"), "{fault:?}: {error}");
            if matches!(fault, Fault::StatusWithRetryAfter(..)) {
                let after = Some(Duration::from_secs(7));
                assert_eq!(error.class(), Class::Retryable { after }, "{fault:?}: the engine waits as long");
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_one_entry_that_a_firewall_dislikes_is_settled_and_does_not_blame_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead-letters.ndjson");
    let intake = FakeIntake::start(firewall(Fault::Status(403))).await;
    let bad = BTreeSet::from([0]);
    let mut delivery = open(&datadog(&intake, &path), events(1, &bad, &BTreeSet::new()));
    let errors = deliver(delivery.as_mut(), 20).await;
    assert_settled(&intake, &path, 1, &bad, &BTreeSet::new());
    // The attempts are spread over the engine's backoff, not within one call.
    assert!((6..=8).contains(&errors.len()), "{}", errors.len());
    assert!(errors.iter().all(|error| error.to_string().contains("refuses some entries")), "{errors:?}");
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("403") && reason.contains("12 times"), "{reason}");
}

#[tokio::test]
async fn an_outage_of_any_kind_dead_letters_nothing() {
    for fault in faults_of_a_firewall().into_iter().chain([Fault::Status(401), Fault::Status(429)]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        let datadog = datadog(&intake, &path);
        let mut delivery = open(&datadog, events(300, &BTreeSet::new(), &BTreeSet::new()));
        intake.answer_always(Some(fault.clone()));
        for _ in 0..15 {
            assert!(delivery.attempt(Timestamp::now(), &Heartbeat::default()).await.is_err());
        }
        intake.answer_always(None);
        deliver(delivery.as_mut(), 1).await;
        assert_settled(&intake, &path, 300, &BTreeSet::new(), &BTreeSet::new());
        assert_eq!(notices(&intake), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_is_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead-letters.ndjson");
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let datadog = datadog(&intake, &path);
    intake.set_api_key("fedcba9876543210fedcba9876543210");
    let mut delivery = open(&datadog, events(10, &BTreeSet::new(), &BTreeSet::new()));
    for _ in 0..30 {
        let error = delivery.attempt(Timestamp::now(), &Heartbeat::default()).await.unwrap_err();
        assert!(
            error.class() == Class::CredentialsRejected && error.to_string().contains("rejected the API key"),
            "{error}"
        );
    }
    assert_eq!((dead_letters(&path).len(), intake.count()), (0, 0));
}

#[tokio::test]
async fn a_throttle_is_never_about_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead-letters.ndjson");
    for fault in [Fault::Status(429), Fault::StatusWithRetryAfter(429, "7".into())] {
        let intake = FakeIntake::start(firewall(fault)).await;
        let datadog = datadog(&intake, &path);
        let mut delivery = open(&datadog, events(1, &BTreeSet::from([0]), &BTreeSet::new()));
        for _ in 0..60 {
            assert!(delivery.attempt(Timestamp::now(), &Heartbeat::default()).await.is_err());
        }
        assert_eq!((dead_letters(&path).len(), notices(&intake)), (0, 0));
    }
}

#[tokio::test]
async fn a_balancer_with_ill_servers_that_takes_them_in_turn_has_nothing_dead_lettered() {
    for (length, pattern) in (2..=5).flat_map(|length| (1..(1_u32 << length) - 1).map(move |bits| (length, bits))) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        for slot in 0..3000 {
            let is_ill = pattern >> (slot % length) & 1 == 1;
            // Servers shed load in the same way.
            let shed = || Fault::StatusWithRetryAfter(503, "7".into());
            intake.script(if is_ill { shed() } else { Fault::PASS });
        }
        let mut delivery = open(&datadog(&intake, &path), events(1, &BTreeSet::new(), &BTreeSet::new()));
        deliver(delivery.as_mut(), 1000).await;
        assert_settled(&intake, &path, 1, &BTreeSet::new(), &BTreeSet::new());
    }
}

/// Every 4xx and 5xx that may be about the content, with and without a `Retry-After`. An entry that is too large (413) is
/// cut first, which has its own tests.
fn refusing_status() -> impl Strategy<Value = Fault> {
    let status = select((400..600).filter(|status| !matches!(status, 401 | 407 | 413 | 425 | 429)).collect::<Vec<_>>());
    let with_wait = |(status, wait): (u16, bool)| {
        if wait { Fault::StatusWithRetryAfter(status, "7".into()) } else { Fault::Status(status) }
    };
    (status, any::<bool>()).prop_map(with_wait)
}

fn random_faults() -> Vec<Fault> {
    vec![
        Fault::Status(500),
        Fault::Status(408),
        Fault::Status(403),
        Fault::Status(503),
        Fault::Status(429),
        Fault::StatusWithRetryAfter(503, "7".into()),
        Fault::Reset,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_intake_that_fails_at_random_has_nothing_dead_lettered(
        seed: u64,
        percent in 5_u32..90,
        count in select(vec![1_usize, 2, 7, 60, 1500]),
        one_status: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("dead-letters.ndjson");
            let intake = FakeIntake::start(IntakeOptions::default()).await;
            let faults = if one_status { vec![Fault::StatusWithRetryAfter(503, "7".into())] } else { random_faults() };
            intake.fail_randomly(seed, f64::from(percent) / 100.0, faults);
            let mut delivery = open(&datadog(&intake, &path), events(count, &BTreeSet::new(), &BTreeSet::new()));
            deliver(delivery.as_mut(), 3000).await;
            assert_settled(&intake, &path, count, &BTreeSet::new(), &BTreeSet::new());
        });
    }

    #[test]
    fn a_firewall_has_exactly_what_it_dislikes_dead_lettered(
        seed: u64,
        percent in select(vec![0_u32, 0, 10, 30]),
        bad in btree_set(0_usize..120, 0..6),
        bad_whole in btree_set(0_usize..120, 0..4),
        fault in prop_oneof![select(faults_of_a_firewall()), refusing_status()],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("dead-letters.ndjson");
            let intake = FakeIntake::start(firewall(fault)).await;
            intake.fail_randomly(seed, f64::from(percent) / 100.0, random_faults());
            let as_text: BTreeSet<_> = bad_whole.difference(&bad).copied().collect();
            let mut delivery = open(&datadog(&intake, &path), events(120, &bad, &bad_whole));
            deliver(delivery.as_mut(), 3000).await;
            assert_settled(&intake, &path, 120, &bad, &as_text);
        });
    }
}
