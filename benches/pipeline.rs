//! Measures each stage from a page to a request body: `cargo bench`, or `cargo bench -- gzip`.
//!
//! | stage | what it does |
//! |---|---|
//! | `locate` | finds the begin and end of each record, and reads nothing else |
//! | `page` | the same, and finds the fields: everything that happens to a page before its delivery |
//! | `read` | finds the fields of located records |
//! | `fingerprint` | hashes the records, as for those in the overlap |
//! | `filter`, `redact` | applies a filter of three conditions; replaces one value by its hash |
//! | `build` | writes the uncompressed bodies |
//! | `gzip`, `zstd` | compresses a body, by level; the program uses the level `default` |
//! | `pipeline` | page → records → compressed bodies |
//!
//! Each figure is for the records of one request: a thousand, or fewer if they are large.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench has nobody to hand an error to")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write as _;
use std::ops::Range;

use auditsync::destination::datadog::batch::{Batch, Workbench};
use auditsync::destination::datadog::compressor::Compressor;
use auditsync::destination::datadog::entry::{EntryWriter, Form};
use auditsync::destination::datadog::{Compression, Labels};
use auditsync::event::Event;
use auditsync::fingerprint::Fingerprint;
use auditsync::screen::filter::Filter;
use auditsync::screen::redaction::{Pointer, Redaction};
use auditsync::secret::Secret;
use auditsync::source::sectigo::{page, record};
use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::value::RawValue;
use support::Records;

const SIZES: [usize; 3] = [300, 1000, 10_000];

const GZIP_LEVELS: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 9];
const ZSTD_LEVELS: [i32; 6] = [-1, 1, 2, 3, 6, 9];

fn main() {
    show_sizes();
    divan::main();
}

/// Prints the compressed sizes, since a level must be judged by its size as well as its time.
#[allow(clippy::print_stdout, reason = "a bench prints")]
fn show_sizes() {
    println!("bytes of an event when compressed, with records of {SIZES:?} B");
    let each =
        |compress: &dyn Fn(&[u8]) -> Vec<u8>| SIZES.map(|size| compress(&body_of(size)).len() / events_of(size).len());
    for level in GZIP_LEVELS {
        println!("gzip {level:>2}: {:?}", each(&|body| gzipped(body, level)));
    }
    for level in ZSTD_LEVELS {
        println!("zstd {level:>2}: {:?}", each(&|body| ::zstd::bulk::compress(body, level).unwrap()));
    }
    println!();
}

fn gzipped(body: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::new(level));
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Makes a page of records with `size` bytes on average.
fn page_of(size: usize) -> Bytes {
    let count = 1000.min(2_000_000 / size);
    let end = Timestamp::now();
    let start = end - std::time::Duration::from_secs(3600);
    let records = Records::seeded(1).size(size).between(start, end, count);
    let records: Vec<_> = records.iter().map(|record| record.json.as_str()).collect();
    format!("[{}]", records.join(",")).into()
}

fn events_of(size: usize) -> Vec<Event> {
    page::records(&page_of(size)).unwrap()
}

fn writer() -> EntryWriter {
    let labels = Labels {
        source: "sectigo".into(),
        service: "sectigo-scm".into(),
        hostname: "audit-host-01".into(),
        tags: "env:prod,team:pki".into(),
    };
    EntryWriter::new(&labels, "sectigo")
}

fn fill(events: &[Event], range: Range<usize>, compression: Compression) -> Batch {
    let mut workbench = Workbench::new(compression).unwrap();
    Batch::fill(&mut workbench, &writer(), events, range, Form::Whole, Timestamp::now()).unwrap()
}

fn body_of(size: usize) -> Vec<u8> {
    let events = events_of(size);
    fill(&events, 0..events.len(), Compression::Identity).body
}

/// Counts the events and bytes that go in.
fn counting<'a, 'b>(bencher: Bencher<'a, 'b>, events: usize, bytes: usize) -> Bencher<'a, 'b> {
    bencher.counter(ItemsCount::new(events)).counter(BytesCount::new(bytes))
}

#[divan::bench(args = SIZES)]
fn locate(bencher: Bencher<'_, '_>, size: usize) {
    let page = page_of(size);
    let elements = |page| serde_json::from_slice::<Vec<&RawValue>>(page).unwrap();
    let count = elements(&page).len();
    counting(bencher, count, page.len()).bench_local(|| elements(black_box(&page)).len());
}

#[divan::bench(name = "page", args = SIZES)]
fn whole_page(bencher: Bencher<'_, '_>, size: usize) {
    let page = page_of(size);
    counting(bencher, events_of(size).len(), page.len()).bench_local(|| page::records(black_box(&page)).unwrap());
}

#[divan::bench(args = SIZES)]
fn read(bencher: Bencher<'_, '_>, size: usize) {
    let events = events_of(size);
    let bytes = events.iter().map(|event| event.raw().len()).sum();
    counting(bencher, events.len(), bytes).bench_local(|| {
        let mut reader = record::Reader::default();
        for event in &events {
            black_box(reader.read(black_box(event.raw())));
        }
    });
}

#[divan::bench(args = SIZES)]
fn fingerprint(bencher: Bencher<'_, '_>, size: usize) {
    let events = events_of(size);
    let bytes = events.iter().map(|event| event.raw().len()).sum();
    counting(bencher, events.len(), bytes).bench_local(|| {
        for event in &events {
            black_box(Fingerprint::of_record(black_box(event.raw())));
        }
    });
}

#[divan::bench(args = SIZES)]
fn filter(bencher: Bencher<'_, '_>, size: usize) {
    let events = events_of(size);
    let bytes = events.iter().map(|event| event.raw().len()).sum();
    let filter: Filter = "action=certificate*,outcome!=success;actor=*@example.org".parse().unwrap();
    counting(bencher, events.len(), bytes).bench_local(|| {
        for event in &events {
            black_box(filter.holds(black_box(event)));
        }
    });
}

#[divan::bench(args = SIZES)]
fn redact(bencher: Bencher<'_, '_>, size: usize) {
    let events = events_of(size);
    let bytes = events.iter().map(|event| event.raw().len()).sum();
    let pointer = Pointer::parse("/user/email").unwrap();
    let redaction = Redaction::new(vec![pointer], Secret::from_value("SALT", "0123456789abcdef".to_owned().into()));
    counting(bencher, events.len(), bytes).bench_local(|| {
        for event in &events {
            black_box(redaction.of(black_box(event).clone()));
        }
    });
}

#[divan::bench(args = SIZES)]
fn build(bencher: Bencher<'_, '_>, size: usize) {
    let events = events_of(size);
    let bytes = body_of(size).len();
    let (writer, mut workbench) = (writer(), Workbench::new(Compression::Identity).unwrap());
    counting(bencher, events.len(), bytes).bench_local(|| {
        let events = black_box(&events);
        Batch::fill(&mut workbench, &writer, events, 0..events.len(), Form::Whole, Timestamp::now()).unwrap()
    });
}

#[divan::bench(consts = GZIP_LEVELS, args = SIZES, sample_count = 20)]
fn gzip<const LEVEL: u32>(bencher: Bencher<'_, '_>, size: usize) {
    let body = body_of(size);
    counting(bencher, events_of(size).len(), body.len()).bench_local(|| gzipped(black_box(&body), LEVEL));
}

#[divan::bench(consts = ZSTD_LEVELS, args = SIZES, sample_count = 20)]
fn zstd<const LEVEL: i32>(bencher: Bencher<'_, '_>, size: usize) {
    let body = body_of(size);
    counting(bencher, events_of(size).len(), body.len())
        .bench_local(|| ::zstd::bulk::compress(black_box(&body), LEVEL).unwrap());
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn gzip_default(bencher: Bencher<'_, '_>, size: usize) {
    as_sent(bencher, size, Compression::Gzip);
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn zstd_default(bencher: Bencher<'_, '_>, size: usize) {
    as_sent(bencher, size, Compression::Zstd);
}

fn as_sent(bencher: Bencher<'_, '_>, size: usize, compression: Compression) {
    let body = body_of(size);
    let mut compressor = Compressor::new(compression).unwrap();
    counting(bencher, events_of(size).len(), body.len()).bench_local(|| compressor.compress(black_box(&body)).unwrap());
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn pipeline_gzip(bencher: Bencher<'_, '_>, size: usize) {
    pipeline(bencher, size, Compression::Gzip);
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn pipeline_zstd(bencher: Bencher<'_, '_>, size: usize) {
    pipeline(bencher, size, Compression::Zstd);
}

fn pipeline(bencher: Bencher<'_, '_>, size: usize, compression: Compression) {
    let page = page_of(size);
    let (writer, mut workbench) = (writer(), Workbench::new(compression).unwrap());
    counting(bencher, events_of(size).len(), page.len()).bench_local(|| {
        let events = page::records(black_box(&page)).unwrap();
        Batch::fill(&mut workbench, &writer, &events, 0..events.len(), Form::Whole, Timestamp::now()).unwrap()
    });
}
