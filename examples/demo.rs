//! Runs the whole pipeline against built-in fakes: `cargo run --profile demo --no-default-features --example demo`. It needs no
//! credentials and no network. It needs no TLS either, and builds in half the time without it.
//!
//! A fake certificate manager with a backlog of audit records and a fake Datadog intake run on loopback. Both fail now and then. Between
//! them run the same source, engine, destination and state as in the `auditsync` binary.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a demo prints, and an error ends it")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use auditsync::component::Context;
use auditsync::dead_letter::DeadLetters;
use auditsync::destination::datadog::{self, Compression, Datadog, Labels};
use auditsync::engine::shutdown::Shutdown;
use auditsync::engine::{Engine, Mode, Outcome, Parts, Settings};
use auditsync::http;
use auditsync::pipeline_name::PipelineName;
use auditsync::secret::Secret;
use auditsync::source::sectigo::{self, Sectigo};
use auditsync::state::localfs::LocalFs;
use auditsync::telemetry::liveness::Liveness;
use auditsync::telemetry::{self, Format};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use secrecy::SecretString;
use support::{FakeIntake, FakeScm, Fault, IntakeOptions, Records, ScmOptions};
use tracing::Level;
use url::Url;

const BACKLOG: usize = 60_000;
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() {
    telemetry::start(telemetry::Settings { format: Format::Text, level: Level::ERROR });
    let folder = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let (scm, intake) = (certificate_manager(now).await, log_intake().await);
    println!(
        "{} audit records of the last six hours wait at a fake Sectigo SCM, {}",
        HumanCount(BACKLOG as u64),
        scm.url()
    );
    println!("a fake Datadog intake takes them at {}; both fail now and then\n", intake.url());

    let begun = Instant::now();
    let bar = ProgressBar::new(BACKLOG as u64).with_style(
        ProgressStyle::with_template("{elapsed_precise} [{bar:50}] {human_pos}/{human_len} delivered").unwrap(),
    );
    let engine = pipeline(&scm, &intake, folder.path());
    let mut running = std::pin::pin!(engine.run());
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            () = tokio::time::sleep(Duration::from_millis(50)) => bar.set_position(intake.count() as u64),
        }
    };
    bar.set_position(intake.count() as u64);
    bar.finish();
    let took = begun.elapsed();
    assert_eq!(ended.unwrap(), Outcome::Done);
    show(&scm, &intake, folder.path(), took);
}

async fn certificate_manager(now: Timestamp) -> FakeScm {
    let options =
        ScmOptions { page_size: 1000, gzip: true, latency: Duration::from_millis(5), ..ScmOptions::default() };
    let scm = FakeScm::start(options).await;
    // Even the newest records are older than the delay, which waits until records have become visible.
    let newest = now - Duration::from_secs(60);
    scm.push(Records::seeded(7).between(newest - 6 * HOUR + Duration::from_secs(60), newest, BACKLOG));
    let faults = vec![Fault::Status(503), Fault::Reset, Fault::TruncatedBody, Fault::NotJson, Fault::Status(429)];
    scm.fail_randomly(1, 0.05, faults);
    scm
}

async fn log_intake() -> FakeIntake {
    let intake =
        FakeIntake::start(IntakeOptions { latency: Duration::from_millis(20), ..IntakeOptions::default() }).await;
    intake.fail_randomly(2, 0.05, vec![Fault::Status(503), Fault::Status(429), Fault::Reset]);
    intake
}

fn pipeline(scm: &FakeScm, intake: &FakeIntake, folder: &std::path::Path) -> Engine {
    let (client, key) = (ScmOptions::default(), IntakeOptions::default().api_key);
    let name = PipelineName::of("sectigo", "datadog");
    let letters = Some(folder.join("dead-letters.ndjson"));
    let letters = DeadLetters::new(name.clone(), letters, "AUDITSYNC_DEAD_LETTER_PATH".into());
    let http = http::Settings { timeout: Duration::from_secs(10), timeout_variable: "AUDITSYNC_HTTP_TIMEOUT".into() };
    let context = Context::new(name.clone(), http, letters);
    let source = sectigo::Settings {
        api_url: Url::parse(&scm.url()).unwrap(),
        client_id: client.client_id,
        client_secret: Secret::from_value("SECTIGO_AUDIT_API_CLIENT_SECRET", SecretString::from(client.client_secret)),
        token_url: None,
        tls: http::Tls::default(),
        lookback: 7 * HOUR,
        delay: Duration::from_secs(30),
        window: HOUR,
        overlap: Duration::from_secs(300),
        names: sectigo::Names::default(),
    };
    let destination = datadog::Settings {
        intake_url: Url::parse(&intake.url()).unwrap(),
        intake: datadog::Intake::Other,
        intake_variable: "DD_LOGS_CONFIG_LOGS_DD_URL".into(),
        site: "datadoghq.com".into(),
        api_url: Url::parse(&intake.url()).unwrap(),
        tls: http::Tls::default(),
        api_key: Secret::from_value("DD_API_KEY", SecretString::from(key)),
        compression: Compression::Gzip,
        labels: Labels {
            source: "sectigo".into(),
            service: "sectigo-scm".into(),
            hostname: "demo".into(),
            tags: "env:demo,team:pki".into(),
        },
    };
    let settings = Settings {
        mode: Mode::Once,
        interval: Duration::from_secs(60),
        retry_budget: Duration::from_secs(60),
        shutdown_timeout: Duration::from_secs(5),
        lease_ttl: Duration::from_secs(60),
    };
    let parts = Parts {
        source: Arc::new(Sectigo::new(source, &context)),
        destination: Arc::new(Datadog::new(destination, sectigo::KIND.product.name, &context)),
        store: Arc::new(LocalFs::new(folder.to_owned(), &name)),
        pipeline: name,
        screen: auditsync::screen::Screen::default(),
        clock: context.clock,
        metrics: context.metrics,
        liveness: Liveness::default(),
    };
    Engine::new(parts, settings, Shutdown::default())
}

fn show(scm: &FakeScm, intake: &FakeIntake, folder: &std::path::Path, took: Duration) {
    let ids = intake.ids();
    let duplicates = intake.count() - ids.len();
    let failed = |statuses: &[Option<u16>]| statuses.iter().filter(|status| !matches!(status, Some(200 | 202))).count();
    let (pages, posts) = (scm.requests(), intake.requests());
    let pages_failed = failed(&pages.iter().map(|request| request.status).collect::<Vec<_>>());
    let posts_failed = failed(&posts.iter().map(|request| request.status).collect::<Vec<_>>());
    let (plain, sent) = posts.iter().fold((0, 0), |(plain, sent), post| (plain + post.bytes, sent + post.sent_bytes));

    println!(
        "\ndelivered   {} of {} events, {duplicates} duplicates, in {:.1} s",
        HumanCount(ids.len() as u64),
        HumanCount(BACKLOG as u64),
        took.as_secs_f64()
    );
    println!("source      {} requests, {pages_failed} of them failed", pages.len());
    println!(
        "intake      {} requests, {posts_failed} of them failed; {} of entries sent as {}",
        posts.len(),
        HumanBytes(plain as u64),
        HumanBytes(sent as u64)
    );
    println!(
        "rules       {} breaches of either API's documented limits",
        scm.violations().len() + intake.violations().len()
    );
    let entries = intake.entries();
    let sample = entries.iter().find(|entry| entry["status"] == "warn").or(entries.first()).unwrap();
    println!("\na sample entry, as it arrived:\n{}", serde_json::to_string_pretty(sample).unwrap());
    let state = std::fs::read_to_string(folder.join("auditsync-sectigo-datadog.json")).unwrap();
    println!("\nthe state, from which the next run continues:\n{}", shortened(&state));
    assert_eq!((ids.len(), duplicates), (BACKLOG, 0), "every event arrives exactly once");
    assert!(scm.violations().is_empty() && intake.violations().is_empty());
}

/// Shortens the long line of fingerprints of the last minutes' records, since a few are enough to see.
fn shortened(state: &str) -> String {
    let line = |line: &str| match line.char_indices().nth(100) {
        Some((at, _)) => format!("{}… ({} characters)", &line[..at], line.len()),
        None => line.to_owned(),
    };
    state.lines().map(line).collect::<Vec<_>>().join("\n")
}
