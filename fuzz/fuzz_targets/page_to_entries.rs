//! Feeds any bytes as a page of the audit API. Nothing panics, and an accepted page is delivered whole and within the intake's limits.
#![no_main]

use auditsync::destination::datadog::batch::{Batch, LARGEST_BODY, MOST_ENTRIES, Workbench};
use auditsync::destination::datadog::entry::{CUT_ENTRY, EntryWriter, Form, LARGEST_ENTRY};
use auditsync::destination::datadog::{Compression, Labels};
use auditsync::event::Event;
use auditsync::fingerprint::Fingerprint;
use auditsync::source::sectigo::cursor::{Cut, SectigoCursor};
use auditsync::source::sectigo::moment::Moment;
use auditsync::source::sectigo::page;
use auditsync::source::sectigo::range::PageToken;
use bytes::Bytes;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use std::time::Duration;

/// 2026-03-01T12:00:00Z.
const NOW: Timestamp = Timestamp::constant(1_772_366_400, 0);

fuzz_target!(|data: &[u8]| {
    let Ok(events) = page::records(&Bytes::copy_from_slice(data)) else { return };
    let labels = Labels { source: "sectigo".into(), service: "s".into(), hostname: "h".into(), tags: String::new() };
    let writer = EntryWriter::new(&labels, "sectigo");
    for event in &events {
        for form in [Form::Whole, Form::Cut, Form::Text] {
            check_entry(&writer, event, form);
        }
        assert_eq!(Fingerprint::of_record(event.raw()), Fingerprint::of_record(event.raw()));
    }
    check_batches(&writer, &events);
    check_range(events);
});

fn check_entry(writer: &EntryWriter, event: &Event, form: Form) {
    let mut entry = Vec::new();
    let marks = writer.write(&mut entry, event, form, NOW);
    assert!(entry.len() <= if form == Form::Whole { LARGEST_ENTRY } else { CUT_ENTRY });
    serde_json::from_slice::<&RawValue>(&entry).expect("an entry is JSON");
    if form == Form::Whole && !marks.cut {
        assert!(entry.ends_with(&[event.raw().as_ref(), b"}"].concat()), "the record is sent byte for byte");
    }
}

fn check_batches(writer: &EntryWriter, events: &[Event]) {
    let mut workbench = Workbench::new(Compression::Identity).expect("without compression nothing can fail");
    let mut next = 0;
    while next < events.len() {
        let batch = Batch::fill(&mut workbench, writer, events, next..events.len(), Form::Whole, NOW)
            .expect("memory can be written to");
        assert!(batch.range.start == next && batch.range.end > next && batch.range.len() <= MOST_ENTRIES);
        assert!(batch.body.len() <= LARGEST_BODY);
        let entries: Vec<&RawValue> = serde_json::from_slice(&batch.body).expect("a body is JSON");
        assert_eq!(entries.len(), batch.range.len());
        next = batch.range.end;
    }
}

/// Checks that a page that was delivered and is read again is dropped, whatever its records are.
fn check_range(events: Vec<Event>) {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let cut = Cut { window: minutes(60), overlap: minutes(60) };
    let end = Moment::from(NOW);
    let range =
        SectigoCursor::starting_at(end.before(minutes(60))).enter(end, cut).expect("an hour is not delivered yet");
    let total = events.len();
    let sifted = range.take(events.clone(), Some(PageToken("t".into()))).expect("a first page contradicts nothing");
    assert_eq!((sifted.fresh.len(), sifted.deduplicated), (total, 0));
    let SectigoCursor::InRange(range) = sifted.next else { return };
    let sifted = range.take(Vec::new(), None).expect("an empty page contradicts nothing");
    let next = serde_json::to_string(&sifted.next).expect("a cursor is JSON");
    let next: SectigoCursor = serde_json::from_str(&next).expect("a cursor is read as it was written");
    assert_eq!(next, sifted.next);
    let again = next.enter(end.after(minutes(1)), cut).expect("a minute is not delivered yet");
    if let Ok(sifted) = again.take(events, None) {
        assert!(sifted.shrunk || sifted.deduplicated <= total);
        assert_eq!(sifted.fresh.len() + sifted.deduplicated, total);
    }
}
