//! Tests health under simulated time: a long wait with a reason is healthy, and a wait past its limit is reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

use std::collections::VecDeque;
use std::future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use auditsync::clock::{Clock, LocalTime};
use auditsync::component::{Check, Component, Context};
use auditsync::dead_letter::DeadLetters;
use auditsync::destination::datadog::{self, Compression, Datadog, Intake, Labels};
use auditsync::destination::{Acknowledged, Delivery, Destination, PageNumber, Shipment, Tally};
use auditsync::engine::shutdown::Shutdown;
use auditsync::engine::{Engine, Mode, Parts, Settings};
use auditsync::event::{Event, Fields};
use auditsync::failure::{Class, Failure};
use auditsync::http;
use auditsync::secret::Secret;
use auditsync::source::{Cursor, Page, Source, Then};
use auditsync::state::memory::Memory;
use auditsync::telemetry::liveness::{Heartbeat, Liveness, Pace};
use auditsync::telemetry::metrics::Metrics;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{advance, pause, resume, sleep, timeout};
use url::Url;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// The result of the next call; without one, it succeeds.
#[derive(Clone, Copy)]
enum Meets {
    RetryAfter(u64),
    /// Parts of this many seconds each.
    Parts(u64, u32),
    /// A page, and the next one only after this many seconds.
    PageAfter(u64),
    Hang,
}

/// Both ends: a source with one event and then none, and a destination.
#[derive(Default)]
struct Ends {
    source: Mutex<VecDeque<Meets>>,
    destination: Mutex<VecDeque<Meets>>,
}

#[async_trait]
impl Source for Ends {
    fn location(&self) -> String {
        "the model's source".to_owned()
    }

    fn first_cursor(&self, _: Timestamp) -> Cursor {
        Cursor::encode(&0).unwrap()
    }

    fn reached(&self, _: &Cursor) -> Result<Timestamp, Failure> {
        Ok(NOW)
    }

    async fn next_page(&self, cursor: &Cursor, _: LocalTime) -> Result<Page, Failure> {
        let meets = self.source.lock().unwrap().pop_front();
        let mut then = Then::CaughtUp;
        match meets {
            Some(Meets::RetryAfter(seconds)) => {
                let after = Some(Duration::from_secs(seconds));
                return Err(Failure::new(Class::Retryable { after }, "later"));
            }
            Some(Meets::Hang) => future::pending().await,
            Some(Meets::PageAfter(seconds)) => then = Then::After(Duration::from_secs(seconds)),
            Some(Meets::Parts(..)) | None => {}
        }
        let number: u64 = cursor.decode().unwrap();
        let event = Event::new(Bytes::from_static(b"{}"), Some(NOW), Fields::default());
        let next = Cursor::encode(&(number + 1)).unwrap();
        Ok(Page { events: vec![event], deduplicated: 0, next, progressed: true, then })
    }

    async fn check(&self, _: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}

#[async_trait]
impl Destination for Ends {
    fn location(&self) -> String {
        "the model's destination".to_owned()
    }

    fn open(&self, shipment: Shipment, _: Timestamp) -> Box<dyn Delivery> {
        let meets = self.destination.lock().unwrap().pop_front();
        Box::new(ModelDelivery { meets, shipment, is_done: false })
    }

    async fn check(&self, _: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}

struct ModelDelivery {
    meets: Option<Meets>,
    shipment: Shipment,
    is_done: bool,
}

#[async_trait]
impl Delivery for ModelDelivery {
    async fn attempt(&mut self, _: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure> {
        match self.meets.take() {
            Some(Meets::RetryAfter(_) | Meets::PageAfter(_)) => unreachable!("no test needs it"),
            Some(Meets::Hang) => future::pending().await,
            Some(Meets::Parts(seconds, parts)) => {
                for _ in 0..parts {
                    sleep(Duration::from_secs(seconds)).await;
                    heart.beat();
                }
            }
            None => {}
        }
        self.is_done = true;
        Ok(Acknowledged::up_to(self.shipment.page))
    }

    fn tally(&self) -> Tally {
        Tally { accepted: usize::from(self.is_done), ..Tally::default() }
    }
}

/// Runs the engine for this time. Returns the first reason to call it stuck, and the seconds until then.
async fn stuck_within(seconds: u64, interval: u64, source: &[Meets], destination: &[Meets]) -> Option<(u64, String)> {
    let interval = Duration::from_secs(interval);
    let liveness = Liveness::new(Pace { interval, exchange: Duration::from_secs(60) });
    let settings = Settings {
        mode: Mode::Loop,
        interval,
        retry_budget: Duration::ZERO,
        shutdown_timeout: Duration::ZERO,
        lease_ttl: Duration::from_secs(60),
    };
    let ends = Arc::new(Ends {
        source: Mutex::new(source.iter().copied().collect()),
        destination: Mutex::new(destination.iter().copied().collect()),
    });
    let pipeline = "model:model".into();
    let parts = Parts {
        metrics: Metrics::of(&pipeline),
        pipeline,
        source: Arc::clone(&ends) as _,
        destination: ends,
        store: Arc::new(Memory::default()),
        screen: auditsync::screen::Screen::default(),
        clock: Clock::starting_at(NOW),
        liveness: liveness.clone(),
    };
    let engine = Engine::new(parts, settings, Shutdown::default());
    let watching = async {
        for second in 0..seconds {
            if let Some(reason) = liveness.health().reason {
                return Some((second, reason));
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert!(liveness.readiness().last_success.is_some(), "it did its work");
        None
    };
    tokio::select! {
        biased;
        seen = watching => seen,
        ended = timeout(Duration::MAX, engine.run()) => panic!("it ended: {ended:?}"),
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
        tls: http::Tls::default(),
        api_key: Secret::from_value("DD_API_KEY", "key".into()),
        compression: Compression::Identity,
        labels: Labels { source: text(), service: text(), hostname: text(), tags: text() },
    };
    let settings_of_http =
        http::Settings { timeout: Duration::from_secs(60), timeout_variable: "AUDITSYNC_HTTP_TIMEOUT".into() };
    let dead_letters = DeadLetters::new("model:datadog".into(), None, "AUDITSYNC_DEAD_LETTER_PATH".into());
    let context = Context::new("model:datadog".into(), settings_of_http, dead_letters);
    let datadog = Datadog::new(settings, "model", &context);
    let liveness = Liveness::new(Pace { interval: Duration::ZERO, exchange: Duration::ZERO });
    // The server sends the real time.
    let now = Timestamp::now();
    let events = vec![Event::new(Bytes::from_static(b"{}"), Some(now), Fields::default())].into();
    let shipment = Shipment { page: PageNumber(1), from: Cursor::default(), to: Cursor::default(), events };
    let mut delivery = datadog.open(shipment, now);
    let calling = liveness.calls(Component::Destination);
    // Two steps are too long for one answer. Only during the attempt does the clock also move by itself.
    let step = || advance(Duration::from_secs(11));
    pause();
    step().await;
    resume();
    delivery.attempt(now, &calling.heartbeat()).await.unwrap();
    pause();
    step().await;
    assert_eq!(liveness.health().reason, None);
    step().await;
    assert!(!liveness.health().is_good);
}

const HOUR: u64 = 3600;

#[tokio::test(start_paused = true)]
async fn the_rest_between_two_syncs_is_healthy() {
    assert_eq!(stuck_within(40 * HOUR, 18 * HOUR, &[], &[]).await, None);
}

#[tokio::test(start_paused = true)]
async fn the_longest_retry_after_is_healthy() {
    let longest = [Meets::RetryAfter(900); 8];
    assert_eq!(stuck_within(3 * HOUR, 60, &longest, &[]).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_needs_half_an_hour_between_two_pages_is_healthy() {
    assert_eq!(stuck_within(3 * HOUR, 60, &[Meets::PageAfter(1800); 4], &[]).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_many_slow_requests_is_healthy() {
    assert_eq!(stuck_within(3 * HOUR, 60, &[], &[Meets::Parts(59, 100)]).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_reported_once_its_time_is_over() {
    let (second, reason) = stuck_within(HOUR, 60, &[Meets::Hang], &[]).await.unwrap();
    assert!(reason.contains("for the source, which"), "{reason}");
    assert_eq!(second, 3 * 60 + 20 + 1, "three exchanges, and twenty seconds for what is busy");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_is_reported_once_its_time_is_over() {
    let (_, reason) = stuck_within(HOUR, 60, &[], &[Meets::Hang]).await.unwrap();
    assert!(reason.contains("for the destination, which"), "{reason}");
}
