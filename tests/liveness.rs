//! The engine tells what it waits for: a long wait that has its reason is no hang, and one that should have been over is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

use std::collections::VecDeque;
use std::future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use auditsync::destination::datadog::{self, Compression, Datadog, Intake, Labels};
use auditsync::destination::{self, Delivery, Destination, Receipt};
use auditsync::event::{Event, Fields};
use auditsync::http::{self, Excerpt, Place, Redaction};
use auditsync::secret::Secret;
use auditsync::server_time::LocalTime;
use auditsync::source::{self, Cursor, Page, Source};
use auditsync::state::memory::Memory;
use auditsync::engine::clock::Clock;
use auditsync::engine::stop::Stop;
use auditsync::engine::{Mode, Settings, Sync};
use auditsync::telemetry::pulse::{Pace, Pulse};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{advance, pause, resume, sleep, timeout};
use url::Url;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// What the next call meets; without one, it succeeds.
#[derive(Clone, Copy)]
enum Meets {
    RetryAfter(u64),
    /// Parts of so many seconds each.
    Parts(u64, u32),
    Hang,
}

/// Both ends: a source with one event and then none, and a destination.
#[derive(Default)]
struct Ends {
    source: Mutex<VecDeque<Meets>>,
    destination: Mutex<VecDeque<Meets>>,
}

fn place() -> Place {
    Place::of(&"https://far.example".parse().unwrap())
}

#[async_trait]
impl Source for Ends {
    fn name(&self) -> &'static str {
        "model"
    }

    fn first_cursor(&self, _: Timestamp) -> Cursor {
        Cursor::encode(&0).unwrap()
    }

    fn position(&self, _: &Cursor) -> Result<Timestamp, source::Error> {
        Ok(NOW)
    }

    async fn next_page(&self, cursor: &Cursor, _: LocalTime) -> Result<Page, source::Error> {
        let meets = self.source.lock().unwrap().pop_front();
        match meets {
            Some(Meets::RetryAfter(seconds)) => {
                let reason = Excerpt::of(b"later", &Redaction::none());
                let after = Some(Duration::from_secs(seconds));
                return Err(source::Error::Unavailable { place: place(), status: 429, after, reason });
            }
            Some(Meets::Hang) => future::pending().await,
            Some(Meets::Parts(..)) | None => {}
        }
        let number: u64 = cursor.decode().unwrap();
        let event = Event::new(Bytes::from_static(b"{}"), Some(NOW), Fields::default());
        Ok(Page {
            events: vec![event],
            deduplicated: 0,
            next: Cursor::encode(&(number + 1)).unwrap(),
            more: false,
        })
    }

    fn narrowed(&self, _: &Cursor, _: LocalTime) -> Option<Cursor> {
        None
    }
}

#[async_trait]
impl Destination for Ends {
    fn name(&self) -> &'static str {
        "model"
    }

    async fn deliver(&self, delivery: &mut Delivery, _: Timestamp) -> Result<Receipt, destination::Error> {
        let meets = self.destination.lock().unwrap().pop_front();
        match meets {
            Some(Meets::RetryAfter(_)) => unreachable!("no test needs it"),
            Some(Meets::Hang) => future::pending().await,
            Some(Meets::Parts(seconds, parts)) => {
                for _ in 0..parts {
                    sleep(Duration::from_secs(seconds)).await;
                    delivery.beat().beats();
                }
            }
            None => {}
        }
        delivery.leave(Vec::new());
        Ok(Receipt::Accepted)
    }
}

/// Runs the engine for so long, and gives the first reason to call it stuck, with the seconds until then.
async fn stuck_within(seconds: u64, interval: u64, source: &[Meets], destination: &[Meets]) -> Option<(u64, String)> {
    let interval = Duration::from_secs(interval);
    let pulse = Pulse::new(Pace { interval, exchange: Duration::from_secs(60) });
    let settings = Settings {
        mode: Mode::Loop,
        interval,
        retry_budget: Duration::ZERO,
        shutdown_grace: Duration::ZERO,
        lease_ttl: Duration::from_secs(60),
    };
    let ends = Arc::new(Ends {
        source: Mutex::new(source.iter().copied().collect()),
        destination: Mutex::new(destination.iter().copied().collect()),
    });
    let (stop, clock) = (Stop::new(Duration::ZERO), Clock::starting_at(NOW));
    let store = Arc::new(Memory::default());
    let sync = Sync::new(Arc::clone(&ends) as _, ends, store, settings, clock, stop).watched_by(pulse.clone());
    let watching = async {
        for second in 0..seconds {
            if let Some(reason) = pulse.health().reason {
                return Some((second, reason));
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert!(pulse.readiness().last_success.is_some(), "it did its work");
        None
    };
    tokio::select! {
        biased;
        seen = watching => seen,
        ended = timeout(Duration::MAX, sync.run()) => panic!("it ended: {ended:?}"),
    }
}

#[tokio::test]
async fn each_answer_of_the_intake_is_a_sign_of_life() {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(202)).mount(&server).await;
    let address: Url = server.uri().parse().unwrap();
    let text = || "x".to_owned();
    let settings = datadog::Settings {
        intake_url: address.clone(),
        intake: Intake::Datadog,
        intake_variable: "DD_SITE".into(),
        site: text(),
        api_url: address,
        api_key: Secret::from_value("DD_API_KEY", "key".into()),
        compression: Compression::Identity,
        labels: Labels { source: text(), service: text(), hostname: text(), tags: text() },
        rejected_path: None,
    };
    let http = http::Client::new(http::Settings { timeout: Duration::from_secs(10) });
    let datadog = Datadog::new(settings, "model", Arc::new(http));
    let pulse = Pulse::new(Pace { interval: Duration::ZERO, exchange: Duration::ZERO });
    // The server tells the real time.
    let now = Timestamp::now();
    let event = Event::new(Bytes::from_static(b"{}"), Some(now), Fields::default());
    let mut delivery = Delivery::new(vec![event]);
    let calling = pulse.calls("destination");
    delivery.watched_by(calling.beat());
    // The clock stands still but for these two steps, which together are too long to wait for one answer.
    let step = async || {
        pause();
        advance(Duration::from_secs(15)).await;
        resume();
    };
    step().await;
    datadog.deliver(&mut delivery, now).await.unwrap();
    step().await;
    assert_eq!(pulse.health().reason, None);
    step().await;
    assert!(!pulse.health().is_good);
}

const HOUR: u64 = 3600;

#[tokio::test(start_paused = true)]
async fn the_rest_between_two_synchronisations_is_no_hang() {
    assert_eq!(stuck_within(40 * HOUR, 18 * HOUR, &[], &[]).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_longest_retry_after_is_no_hang() {
    let longest = [Meets::RetryAfter(900); 8];
    assert_eq!(stuck_within(3 * HOUR, 60, &longest, &[]).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_many_slow_requests_is_no_hang() {
    assert_eq!(stuck_within(3 * HOUR, 60, &[], &[Meets::Parts(59, 100)]).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_told_once_its_time_is_over() {
    let (second, reason) = stuck_within(HOUR, 60, &[Meets::Hang], &[]).await.unwrap();
    assert!(reason.contains("waited for the source"), "{reason}");
    assert_eq!(second, 3 * 60 + 20 + 1, "three exchanges, and twenty seconds for what is busy");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_stops_in_the_midst_is_told_once_its_time_is_over() {
    let (_, reason) = stuck_within(HOUR, 60, &[], &[Meets::Hang]).await.unwrap();
    assert!(reason.contains("waited for the destination"), "{reason}");
}
