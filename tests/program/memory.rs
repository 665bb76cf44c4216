//! Tests that the memory of the whole process stays bounded, whatever the source sends.

use std::time::Duration;

use crate::archive::noise;
use crate::daemon::Daemon;
use crate::stage::{Stage, ago, stop};
use crate::support::{Fault, IntakeOptions, Record, ScmOptions};

/// The most resident memory of the process, in KiB: three quarters of the memory limit in `docker-compose.yaml`.
pub const MOST: usize = 96 * 1024;

/// The same for each further pipeline: what the comment at that limit says, and docs/PERFORMANCE.md.
const FURTHER: usize = 64 * 1024;

const MIB: usize = 1024 * 1024;

/// The most resident memory since the start, in KiB.
pub fn peak(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

async fn stage(page_size: usize) -> Stage {
    stage_with(page_size, Duration::ZERO).await
}

/// A stage with this latency of the intake's answers, so that pages and batches are made ahead as far as possible.
async fn stage_with(page_size: usize, latency: Duration) -> Stage {
    let intake = IntakeOptions { keep_bodies: false, latency, ..IntakeOptions::default() };
    let scm = ScmOptions { page_size, ..ScmOptions::default() };
    Stage::of(scm, intake).await.with("SECTIGO_AUDIT_SYNC_LOOP", "true")
}

/// Runs until this many entries have arrived; the peak must be below the bound of one pipeline.
async fn stays_small(stage: Stage, entries: usize) {
    stays_below(MOST, stage, entries).await;
}

/// Runs until this many entries have arrived; the peak must be below this bound, in KiB.
async fn stays_below(most: usize, stage: Stage, entries: usize) {
    let daemon = stage.setup.start(&[]);
    stage.intake.wait_for_entries(entries).await;
    let peak = peak(&daemon);
    stop(daemon).await;
    assert!(peak < most, "{peak} KiB");
}

#[tokio::test]
async fn one_record_of_64_mib_is_not_taken_into_memory() {
    let stage = stage(10).await;
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::Body(format!("[\"{}\"]", "x".repeat(64 * MIB)))]);
    stays_small(stage, 30).await;
}

#[tokio::test]
async fn small_records_of_64_mib_are_not_taken_into_memory() {
    let stage = stage(10).await;
    stage.push(30, 1500, 2);
    let record = format!("{{\"a\":\"{}\"}},", "x".repeat(90));
    stage.source_meets([Fault::PASS, Fault::Body(format!("[{}0]", record.repeat(64 * MIB / record.len())))]);
    stays_small(stage, 30).await;
}

#[tokio::test]
async fn a_bomb_of_gzip_is_not_taken_into_memory() {
    let stage = stage(10).await;
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::Huge(1024 * MIB)]);
    stays_small(stage, 30).await;
}

#[tokio::test]
async fn pages_of_the_most_records_stay_small() {
    let stage = stage(50_000).await;
    stage.push_all((0..150_000).map(|_| Record::raw(ago(600), "1")).collect());
    stays_small(stage, 150_000).await;
}

#[tokio::test]
async fn a_page_of_200_000_tiny_records_is_narrowed() {
    let stage = stage(200_000).await;
    stage.push_all((0..200_000).map(|n| Record::raw(ago(1_500 - n / 150), n.to_string())).collect());
    stays_small(stage, 200_000).await;
}

#[tokio::test]
async fn pages_of_large_records_that_do_not_compress_stay_small() {
    let stage = stage(9).await;
    let record = |n| Record::raw(ago(600), format!("{{\"id\":{n},\"details\":\"{}\"}}", noise(900_000, n)));
    stage.push_all((0..54).map(record).collect());
    stays_small(stage, 54).await;
}

/// Two dozen such records at a slow intake.
async fn large_records_at_a_slow_intake(page_size: usize, bytes: usize, compression: &str) {
    let stage =
        stage_with(page_size, Duration::from_millis(300)).await.with("DD_LOGS_CONFIG_COMPRESSION_KIND", compression);
    let record = |n| Record::raw(ago(600), format!("{{\"id\":{n},\"details\":\"{}\"}}", noise(bytes, n)));
    stage.push_all((0..27).map(record).collect());
    stays_small(stage, 27).await;
}

#[tokio::test]
async fn a_slow_intake_does_not_pile_up_large_records_as_gzip() {
    large_records_at_a_slow_intake(9, 900_000, "gzip").await;
}

#[tokio::test]
async fn a_slow_intake_does_not_pile_up_large_records_as_zstd() {
    large_records_at_a_slow_intake(9, 900_000, "zstd").await;
}

#[tokio::test]
async fn a_slow_intake_does_not_pile_up_large_records_uncompressed() {
    large_records_at_a_slow_intake(9, 900_000, "none").await;
}

#[tokio::test]
async fn a_slow_intake_does_not_pile_up_pages_that_are_requested_ahead() {
    large_records_at_a_slow_intake(4, 990_000, "gzip").await;
}

#[tokio::test]
async fn texts_that_are_repeated_in_messages_stay_small() {
    for compression in ["gzip", "none"] {
        let stage =
            stage_with(1_000, Duration::from_millis(300)).await.with("DD_LOGS_CONFIG_COMPRESSION_KIND", compression);
        let record = |n| Record::raw(ago(600), format!("{{\"id\":{n},\"details\":\"{}\"}}", noise(7_900, n)));
        stage.push_all((0..4_000).map(record).collect());
        stays_small(stage, 4_000).await;
    }
}

#[tokio::test]
async fn a_second_pipeline_stays_within_its_own_part() {
    for compression in ["gzip", "none"] {
        let stage = stage_with(1_000, Duration::from_millis(300)).await;
        let stage = stage.with("AUDITSYNC_PIPELINES", "sectigo.one:datadog,sectigo.two:datadog");
        let stage = stage.with("DD_LOGS_CONFIG_COMPRESSION_KIND", compression);
        let record = |n| Record::raw(ago(600), format!("{{\"id\":{n},\"details\":\"{}\"}}", noise(7_900, n)));
        stage.push_all((0..4_000).map(record).collect());
        stays_below(MOST + FURTHER, stage, 8_000).await;
    }
}

#[tokio::test]
async fn pages_just_below_the_bound_stay_small() {
    let stage = stage(8_000).await;
    let record = |n| Record::raw(ago(600), format!("{{\"id\":{n},\"details\":\"{}\"}}", noise(1_000, n)));
    stage.push_all((0..48_000).map(record).collect());
    stays_small(stage, 48_000).await;
}
