//! Measures the cost of further pairs of source and destination: `cargo run --release --example cost -- target/release/auditsync`.
//!
//! The given binary drains a backlog between two fakes on loopback. Every event must arrive exactly once.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a tool for people, with nobody to hand an error to"
)]
#![allow(clippy::cast_precision_loss, reason = "the figures are for people")]

#[path = "throughput/meter.rs"]
mod meter;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use support::{
    AuditEvent, FakeAuth, FakeFluentd, FakeIntake, FakeScm, FluentdOptions, IntakeOptions, Recording, Records,
    ScmOptions, TeleportOptions,
};
use tempfile::TempDir;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const EVENTS: usize = 100_000;
const SESSIONS: usize = 20;
const OF_A_SESSION: u16 = 5000;

#[tokio::main]
async fn main() {
    println!("| pair | events | events per CPU-second | CPU seconds | peak memory |\n|---|---|---|---|---|");
    for _ in 0..3 {
        teleport(0).await;
        teleport(SESSIONS).await;
        sectigo().await;
    }
}

/// Measures Teleport to Datadog, with so many recorded sessions.
async fn teleport(sessions: usize) {
    let auth = FakeAuth::start(TeleportOptions { page_size: 1000, ..TeleportOptions::default() }).await;
    let intake = FakeIntake::start(IntakeOptions { keep_bodies: false, ..IntakeOptions::default() }).await;
    let now = Timestamp::now();
    let at = |n: usize| now - Duration::from_secs(20_000) + Duration::from_millis(n as u64 * 150);
    auth.push((0..EVENTS).map(|n| AuditEvent::login(&format!("login-{n:06}"), at(n))));
    for session in 0..sessions {
        let id = format!("s{session}");
        let event = |index: i64| AuditEvent::of_session("session.command", &id, index, now);
        auth.set_recording(
            &id,
            Recording { events: (0..i64::from(OF_A_SESSION)).map(event).collect(), ..Recording::default() },
        );
        auth.push([AuditEvent::upload(&format!("upload-{id}"), &id, at(session * 1000))]);
    }
    let folder = tempfile::tempdir().unwrap();
    auth.write_identity(&folder.path().join("identity"), "auditsync", Duration::from_secs(86_400));
    let mut command = program(&folder);
    command
        .env("AUDITSYNC_PIPELINES", "teleport:datadog")
        .env("AUDITSYNC_SYNC_LOOKBACK", "6h")
        .env("TELEPORT_AUDIT_ADDRESS", auth.address().to_string())
        .env("TELEPORT_AUDIT_IDENTITY", "identity")
        .env("TELEPORT_AUDIT_SESSIONS", (sessions > 0).to_string())
        .env("DD_LOGS_CONFIG_LOGS_DD_URL", intake.url())
        .env("DD_API_KEY", IntakeOptions::default().api_key)
        .env("DD_HOSTNAME", "cost");
    let usage = meter::run(command).await.unwrap();
    let expected = EVENTS + sessions * (usize::from(OF_A_SESSION) + 1);
    assert_eq!((intake.count(), intake.ids().len()), (expected, expected));
    assert_eq!((auth.violations(), intake.violations()), (Vec::new(), Vec::new()));
    let name = if sessions > 0 { "teleport → datadog, with sessions" } else { "teleport → datadog" };
    show(name, expected, &usage);
}

async fn sectigo() {
    let options = ScmOptions { page_size: 1000, ..ScmOptions::default() };
    let client = options.clone();
    let scm = FakeScm::start(options).await;
    let fluentd = FakeFluentd::start(FluentdOptions::default()).await;
    let now = Timestamp::now();
    scm.push(Records::seeded(1).size(500).between(
        now - Duration::from_secs(20_000),
        now - Duration::from_secs(60),
        EVENTS,
    ));
    let mut command = program(&tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    command
        .current_dir(folder.path())
        .env("AUDITSYNC_PIPELINES", "sectigo:fluentd")
        .env("AUDITSYNC_SYNC_LOOKBACK", "6h")
        .env("SECTIGO_AUDIT_API_URL", scm.url())
        .env("SECTIGO_AUDIT_API_CLIENT_ID", client.client_id)
        .env("SECTIGO_AUDIT_API_CLIENT_SECRET", client.client_secret)
        .env("FLUENTD_URL", fluentd.url("audit.log"));
    let usage = meter::run(command).await.unwrap();
    assert_eq!(fluentd.events().len(), EVENTS);
    assert_eq!(fluentd.violations(), [""; 0]);
    show("sectigo → fluentd", EVENTS, &usage);
}

fn program(folder: &TempDir) -> Command {
    let binary = std::env::args().nth(1).expect("the path of the binary");
    let mut command = Command::new(std::fs::canonicalize(binary).unwrap());
    command.arg("run").arg("--once").env_clear().env("AUDITSYNC_LOG_LEVEL", "warn").current_dir(folder.path());
    command
}

fn show(pair: &str, events: usize, usage: &meter::Usage) {
    let rate = events as f64 / usage.cpu_seconds;
    println!("| {pair} | {events} | {rate:.0} | {:.2} | {:.1} MiB |", usage.cpu_seconds, usage.peak_mib);
    let _ = usage.seconds;
}
