//! Tests wrong clocks, which the servers' `Date` reveals. A server whose clock is behind stands for a machine whose
//! clock is ahead, and the other way round.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use auditsync::clock::Clock;
use auditsync::component::Context;
use auditsync::dead_letter::DeadLetters;
use auditsync::destination::datadog::{Compression, Datadog, Intake, Labels, Settings};
use auditsync::destination::{Delivery, Destination as _, PageNumber, Shipment};
use auditsync::event::{Event, Fields};
use auditsync::failure::{Class, Failure};
use auditsync::http;
use auditsync::pipeline_name::PipelineName;
use auditsync::secret::Secret;
use auditsync::source::sectigo::{self, Sectigo};
use auditsync::source::{Cursor, Source as _, Then};
use auditsync::telemetry::liveness::Heartbeat;

use crate::probe::{LISTEN, Probe};
use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{FakeIntake, FakeScm, Fault, IntakeOptions, Record, Records, ScmOptions};

const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";
const AHEAD: &str = "ahead of the clock of";
const BEHIND: &str = "behind the clock of";
const UNDATED: &str = "carry no `Date`";

/// Servers whose clocks are this many seconds ahead of this machine's.
async fn servers(ahead: i64) -> Stage {
    let scm = ScmOptions { date_offset: ahead, ..ten_a_page() };
    Stage::of(scm, IntakeOptions { date_offset: ahead, ..IntakeOptions::default() }).await
}

/// This many seconds before now, by a clock that is this many ahead.
fn before(seconds: i64, ahead: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(ahead - seconds)
}

/// Puts thirty records into the source, of the last 25 minutes by the servers' clock.
fn push(stage: &Stage, ahead: i64) {
    stage.push_all(Records::seeded(7).between(before(1500, ahead), before(60, ahead), 30));
}

/// Sets up a state in which everything up to twenty minutes before the servers' present is delivered, and thirty
/// records have come since.
async fn going_on(stage: &Stage, ahead: i64) {
    stage.begins_at(Timestamp::now() - SignedDuration::from_hours(24)).await;
    // The command refuses a future time, but by the servers' clock this time is past.
    let mut document = stage.setup.state().unwrap();
    document["cursor"]["since"] = before(1200, ahead).to_string().into();
    document["cursor"]["tail"]["from"] = document["cursor"]["since"].clone();
    std::fs::write(stage.setup.folder().join("auditsync-sectigo-datadog.json"), document.to_string()).unwrap();
    stage.push_all(Records::seeded(8).between(before(1100, ahead), before(60, ahead), 30));
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[tokio::test]
async fn a_clock_17_hours_ahead_costs_nothing_of_the_first_sync() {
    let ahead = -63_000;
    let stage = servers(ahead).await;
    push(&stage, ahead);
    let ended = stage.run_to(0).await;
    stage.assert_all_once();
    assert_eq!(stage.intake.dropped(), 0);
    assert_eq!(count(&ended.stderr, AHEAD), 2, "once for each server: {}", ended.stderr);
    assert!(ended.stderr.contains("begins earlier than stored"), "{}", ended.stderr);
    assert!(stage.since() <= before(0, ahead), "{}", stage.since());
}

#[tokio::test]
async fn a_clock_ahead_at_the_first_start_costs_nothing_when_an_outage_comes_first() {
    let ahead = -63_000;
    let stage = servers(ahead).await.with(BUDGET, "1s");
    push(&stage, ahead);
    stage.scm.go_down().await;
    stage.run_to(75).await;
    stage.scm.come_back().await;
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn the_first_page_is_dated_by_the_sources_clock() {
    let ahead = -63_000;
    let stage = servers(ahead).await;
    going_on(&stage, ahead).await;
    let undated = |n: i64| Record::raw(before(600 + n, ahead), format!(r#"{{"id":"undated-{n}","action":"login"}}"#));
    stage.push_all((0..5).map(undated).collect());
    stage.run_to(0).await;
    stage.assert_all_once();
    assert_eq!(stage.intake.dropped(), 0, "nothing was dated by a wrong clock");
}

#[tokio::test]
async fn a_clock_18_hours_behind_costs_nothing() {
    let ahead = 66_000;
    let stage = servers(ahead).await;
    push(&stage, ahead);
    let ended = stage.run_to(0).await;
    stage.assert_all_once();
    assert_eq!(stage.intake.dropped(), 0);
    assert_eq!(count(&ended.stderr, BEHIND), 2, "once for each server: {}", ended.stderr);
}

#[tokio::test]
async fn a_clock_one_hour_back_does_not_stop_the_requests() {
    let stage = servers(3600).await;
    going_on(&stage, 3600).await;
    let ended = stage.run_to(0).await;
    stage.assert_all_once();
    assert_eq!(count(&ended.stderr, BEHIND), 2, "{}", ended.stderr);
}

#[tokio::test]
async fn what_cannot_be_requested_for_its_clock_alone_is_not_ready() {
    let probe = Probe::new();
    let scm = ScmOptions { omit_date: true, ..ten_a_page() };
    let stage = Stage::of(scm, IntakeOptions::default()).await.with(BUDGET, "1s");
    going_on(&stage, 3600).await;
    let ended = stage.run_to(75).await;
    assert!(
        ended.stderr.contains("auditsync requests nothing until one of the two clocks is right"),
        "{}",
        ended.stderr
    );

    let stage = stage.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with(LISTEN, probe.address());
    let mut daemon = stage.setup.start(&[]);
    daemon.says("auditsync requests nothing until").await;
    assert_eq!(probe.get("/readyz").await.status, 503);
    stop(daemon).await;
}

#[tokio::test]
async fn servers_that_send_no_date_are_reported_once() {
    let scm = ScmOptions { omit_date: true, ..ten_a_page() };
    let stage = Stage::of(scm, IntakeOptions { omit_date: true, ..IntakeOptions::default() }).await;
    stage.push(30, 1500, 60);
    let ended = stage.run_to(0).await;
    stage.assert_all_once();
    assert_eq!(count(&ended.stderr, UNDATED), 2, "{}", ended.stderr);
}

#[tokio::test]
async fn clocks_that_agree_are_not_worth_a_word() {
    let stage = Stage::usual().await;
    stage.push(30, 1500, 60);
    let ended = stage.run_to(0).await;
    assert_eq!(count(&ended.stderr, "clock"), 0, "{}", ended.stderr);
}

#[tokio::test]
async fn entries_that_the_intake_drops_for_a_wrong_clock_are_sent_again_with_its_time() {
    // The source sends no time, so only the intake's answer shows that this machine's clock is ahead.
    let scm = ScmOptions { omit_date: true, ..ten_a_page() };
    let stage = Stage::of(scm, IntakeOptions { date_offset: -63_000, ..IntakeOptions::default() }).await;
    stage.push(5, 1500, 60);
    let ended = stage.run_to(0).await;
    stage.assert_all_once();
    assert_eq!(stage.intake.dropped(), 5);
    assert!(ended.stderr.contains("auditsync sends them again with the intake's time"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_relay_whose_clock_alone_is_wrong_neither_redates_nor_repeats_an_event() {
    for offset in [-24 * 3600, 24 * 3600] {
        let intake = IntakeOptions { date_offset: offset, is_relay: true, ..IntakeOptions::default() };
        let stage = Stage::of(ten_a_page(), intake).await;
        stage.push(30, 1500, 60);
        let ended = stage.run_to(0).await;
        stage.assert_all_once();
        let earliest = before(3600, 0).as_millisecond();
        for entry in stage.intake.entries() {
            assert!(
                (earliest..=before(60, 0).as_millisecond()).contains(&entry["timestamp"].as_i64().unwrap()),
                "{entry}"
            );
            assert!(entry["auditsync"].get("restamped").is_none(), "{entry}");
        }
        assert_eq!(
            count(&ended.stderr, "which agree. Their time counts. Synchronise the clock of"),
            1,
            "{}",
            ended.stderr
        );
        assert_eq!(count(&ended.stderr, "Synchronise this machine's clock"), 0, "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_host_that_was_suspended_and_then_gets_no_date_is_not_caught_up() {
    let scm = FakeScm::start(ScmOptions::default()).await;
    let options = ScmOptions::default();
    let settings = sectigo::Settings {
        api_url: scm.url().parse().unwrap(),
        client_id: options.client_id,
        client_secret: Secret::from_value("SECRET", options.client_secret.into()),
        token_url: Some(scm.token_url().parse().unwrap()),
        lookback: Duration::from_mins(5),
        delay: Duration::ZERO,
        window: Duration::from_hours(1),
        overlap: Duration::ZERO,
        names: sectigo::Names::default(),
        tls: http::Tls::default(),
    };
    let pipeline = PipelineName::of("sectigo", "datadog");
    let letters = DeadLetters::new(pipeline.clone(), None, "LETTERS".into());
    let http = http::Settings { timeout: Duration::from_secs(60), timeout_variable: "TIMEOUT".into() };
    let clock = Clock::starting_at(Timestamp::now());
    let source = Sectigo::new(settings, &Context { clock: clock.clone(), ..Context::new(pipeline, http, letters) });
    let sync = async |mut cursor: Cursor| loop {
        let page = source.next_page(&cursor, clock.local()).await?;
        cursor = page.next;
        if page.then == Then::CaughtUp {
            return Ok::<_, Failure>(cursor);
        }
    };
    let cursor = sync(source.first_cursor(clock.now())).await.unwrap();

    scm.lose_clock();
    clock.set_ahead(20 * 3600);
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(11)).await;
    tokio::time::resume();
    let error = sync(cursor.clone()).await.unwrap_err();
    assert!(error.class() == Class::Stalled && error.to_string().contains("no longer carry a `Date`"), "{error}");
    scm.set_date_offset(20 * 3600 + 660);
    let reached = source.reached(&sync(cursor).await.unwrap()).unwrap();
    assert!(clock.now().duration_since(reached) < SignedDuration::from_mins(5), "{reached}");
}

/// The destination itself, without a process, so that hours can pass.
fn destination(intake: &FakeIntake) -> Datadog {
    let text = || "x".to_owned();
    let address: url::Url = intake.url().parse().unwrap();
    let settings = Settings {
        intake_url: address.clone(),
        intake: Intake::Datadog,
        intake_variable: "DD_SITE".into(),
        site: text(),
        api_url: address,
        tls: http::Tls::default(),
        api_key: Secret::from_value("DD_API_KEY", IntakeOptions::default().api_key.into()),
        compression: Compression::Identity,
        labels: Labels { source: text(), service: text(), hostname: text(), tags: text() },
    };
    let pipeline = PipelineName::of("sectigo", "datadog");
    let letters = DeadLetters::new(pipeline.clone(), None, "LETTERS".into());
    let http = http::Settings { timeout: Duration::from_secs(60), timeout_variable: "TIMEOUT".into() };
    Datadog::new(settings, "sectigo", &Context::new(pipeline, http, letters))
}

fn fresh_event(datadog: &Datadog, now: Timestamp) -> Box<dyn Delivery> {
    let time = Some(now - SignedDuration::from_secs(60));
    let events = vec![Event::new(Bytes::from_static(b"{}"), time, Fields::default())];
    let (from, to) = (Cursor::default(), Cursor::default());
    datadog.open(Shipment { page: PageNumber(1), from, to, events: events.into() }, now)
}

async fn attempt(delivery: &mut dyn Delivery, now: Timestamp) -> Result<(), Failure> {
    delivery.attempt(now, &Heartbeat::default()).await.map(drop)
}

#[tokio::test]
async fn a_quiet_time_and_a_reset_leave_a_fresh_event_its_own_time() {
    for quiet in [131_u32, 60 * 3600] {
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        let datadog = destination(&intake);
        let now = Timestamp::now();
        attempt(fresh_event(&datadog, now).as_mut(), now).await.unwrap();

        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(quiet.into())).await;
        tokio::time::resume();
        intake.set_date_offset(quiet.into());
        let now = Timestamp::now() + SignedDuration::from_secs(quiet.into());
        let mut delivery = fresh_event(&datadog, now);
        intake.script(Fault::Reset);
        attempt(delivery.as_mut(), now).await.unwrap_err();
        attempt(delivery.as_mut(), now).await.unwrap();
        // A notice of ours may have tested whether the intake accepts entries.
        let entries = intake.entries();
        let events: Vec<_> = entries.iter().filter(|entry| entry.get("sectigo").is_some()).collect();
        assert_eq!((intake.dropped(), events.len()), (0, 2), "after {quiet} s");
        let sent_at = events[1]["timestamp"].as_i64().unwrap();
        assert_eq!(sent_at, now.as_millisecond() - 60_000, "after {quiet} s");
    }
}

#[tokio::test]
async fn a_page_that_waited_through_an_outage_of_20_hours_carries_the_present_time() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let datadog = destination(&intake);
    let now = Timestamp::now();
    let mut delivery = fresh_event(&datadog, now);
    attempt(fresh_event(&datadog, now).as_mut(), now).await.unwrap();
    intake.script(Fault::Reset);
    attempt(delivery.as_mut(), now).await.unwrap_err();

    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(20)).await;
    tokio::time::resume();
    intake.set_date_offset(20 * 3600);
    let now = Timestamp::now() + SignedDuration::from_hours(20);
    intake.script(Fault::Reset);
    attempt(delivery.as_mut(), now).await.unwrap_err();
    attempt(delivery.as_mut(), now).await.unwrap();
    assert_eq!((intake.dropped(), intake.count()), (0, 2));
    assert_eq!(delivery.tally().restamped, 1);
}
