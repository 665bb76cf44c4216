//! Runs one stage of the hot path a number of times, for a profiler or a counter of instructions:
//! `cargo run --release --example hot_path -- gzip 100`.
//!
//! `.ci/instructions` counts with it. So it does the same in every run and on every machine: the same records, the same times, one
//! thread.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a tool for people, with nobody to hand an error to")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::process::ExitCode;

use auditsync::destination::datadog::batch::{Batch, Workbench};
use auditsync::destination::datadog::compressor::Compressor;
use auditsync::destination::datadog::entry::{EntryWriter, Form};
use auditsync::destination::datadog::{Compression, Labels};
use auditsync::fingerprint::Fingerprint;
use auditsync::source::sectigo::page;
use bytes::Bytes;
use jiff::Timestamp;
use support::Records;

/// The number of records in the page, of 500 bytes each.
const RECORDS: usize = 1000;

/// The newest record's time, and the time of sending.
const NOW: &str = "2026-03-01T12:00:00Z";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (stage, rounds) = (arguments.next().unwrap_or_default(), arguments.next().and_then(|text| text.parse().ok()));
    let rounds: usize = rounds.unwrap_or(1);
    let now: Timestamp = NOW.parse().unwrap();
    let records = Records::seeded(1).between(now - std::time::Duration::from_secs(3600), now, RECORDS);
    let records: Vec<_> = records.iter().map(|record| record.json.as_str()).collect();
    let page = Bytes::from(format!("[{}]", records.join(",")));
    let events = page::records(&page).unwrap();
    let labels = Labels {
        source: "sectigo".into(),
        service: "sectigo-scm".into(),
        hostname: "audit-host-01".into(),
        tags: "env:prod,team:pki".into(),
    };
    let writer = EntryWriter::new(&labels, "sectigo");
    let mut workbench = Workbench::new(Compression::Identity).unwrap();
    let mut build = || Batch::fill(&mut workbench, &writer, &events, 0..RECORDS, Form::Whole, now).unwrap().body;
    let body = build();
    let mut gzip = Compressor::new(Compression::Gzip).unwrap();
    let mut zstd = Compressor::new(Compression::Zstd).unwrap();
    let run: &mut dyn FnMut() = match stage.as_str() {
        "read" => &mut || drop(black_box(page::records(&page).unwrap())),
        "fingerprint" => &mut || {
            for event in &events {
                black_box(Fingerprint::of_record(event.raw()));
            }
        },
        "build" => &mut || drop(black_box(build())),
        "gzip" => &mut || drop(black_box(gzip.compress(&body).unwrap())),
        "zstd" => &mut || drop(black_box(zstd.compress(&body).unwrap())),
        _ => {
            eprintln!("usage: hot_path read|fingerprint|build|gzip|zstd [rounds]");
            return ExitCode::FAILURE;
        }
    };
    for _ in 0..rounds {
        run();
    }
    ExitCode::SUCCESS
}
