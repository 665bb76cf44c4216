//! The records that wait at the source: any number of them, in the memory of a few thousand.
//!
//! The shared generator makes as many records as a page has, a thousand at least, so that none comes twice within the reach of a
//! compressor. A page is a copy of them with ids and times of its own: some fifty microseconds for a thousand records, where
//! making them anew would cost more than the program that is measured.

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use crate::identity;
use crate::support::Records;

/// Characters of a record's time, as in `2026-03-01T12:00:00.000Z`.
const TIME_LENGTH: usize = 24;

/// Records to be copied, one after the other, each with a comma behind it.
pub struct Templates {
    text: Vec<u8>,
    places: Vec<Place>,
}

/// Where a record stands in the text, and what changes in it.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    id: usize,
    time: usize,
}

impl Templates {
    /// So many records of this size on average.
    pub fn new(count: usize, bytes: usize) -> Self {
        let mut records = Records::seeded(1).size(bytes);
        let (mut text, mut places) = (Vec::new(), Vec::with_capacity(count + 1));
        for _ in 0..count {
            let record = records.at(Timestamp::UNIX_EPOCH);
            let start = text.len();
            let id = record.json.find(&record.id).expect("a record has its id");
            let time = record.json.find("\"created\":\"").expect("a record has a time") + "\"created\":\"".len();
            places.push(Place { start, id: start + id, time: start + time });
            text.extend_from_slice(record.json.as_bytes());
            text.push(b',');
        }
        // The end of the last one.
        places.push(Place { start: text.len(), id: 0, time: 0 });
        Self { text, places }
    }

    fn count(&self) -> usize {
        self.places.len() - 1
    }
}

/// So many records, spread evenly over a span of time.
pub struct Backlog {
    templates: Arc<Templates>,
    pub events: usize,
    /// Milliseconds since 1970; no record lies at `start`, and the last one at `end`.
    start: i64,
    end: i64,
}

impl Backlog {
    pub fn new(templates: Arc<Templates>, events: usize, start: Timestamp, end: Timestamp) -> Self {
        Self { templates, events, start: start.as_millisecond(), end: end.as_millisecond() }
    }

    /// The time of a record, in milliseconds since 1970.
    pub fn time(&self, index: usize) -> i64 {
        let (span, events) = (i128::from(self.end - self.start), self.events as i128);
        let since_start = (span * (index as i128 + 1) + events - 1) / events;
        self.start + i64::try_from(since_start).expect("no longer than the span")
    }

    /// The records of (`from`, `to`].
    pub fn range(&self, from: Timestamp, to: Timestamp) -> Range<usize> {
        self.first_after(from)..self.first_after(to)
    }

    fn first_after(&self, time: Timestamp) -> usize {
        let (mut low, mut high) = (0, self.events);
        while low < high {
            let middle = low.midpoint(high);
            if self.time(middle) > time.as_millisecond() { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// These records as the API shows them: a JSON array.
    pub fn page(&self, records: Range<usize>) -> Vec<u8> {
        let count = self.templates.count();
        let mut page = Vec::with_capacity(self.templates.text.len() / count * records.len() * 5 / 4 + 2);
        page.push(b'[');
        let mut clock = Clock::default();
        let mut next = records.start;
        while next < records.end {
            let first = next % count;
            let run = (count - first).min(records.end - next);
            self.copy(&mut page, first..first + run, next, &mut clock);
            next += run;
        }
        if records.is_empty() {
            page.push(b']');
        } else if let Some(last) = page.last_mut() {
            *last = b']';
        }
        page
    }

    /// One record.
    pub fn record(&self, index: usize, out: &mut Vec<u8>, clock: &mut Clock) {
        out.clear();
        let template = index % self.templates.count();
        self.copy(out, template..template + 1, index, clock);
        out.pop();
    }

    /// Appends these templates as the records from `index` on.
    fn copy(&self, out: &mut Vec<u8>, templates: Range<usize>, index: usize, clock: &mut Clock) {
        let Templates { text, places } = &*self.templates;
        let (from, to) = (places[templates.start].start, places[templates.end].start);
        let base = out.len();
        out.extend_from_slice(&text[from..to]);
        for (index, place) in (index..).zip(&places[templates]) {
            let (id, time) = (base + place.id - from, base + place.time - from);
            identity::write(&mut out[id..id + identity::LENGTH], index as u64);
            out[time..time + TIME_LENGTH].copy_from_slice(clock.text(self.time(index)));
        }
    }
}

/// Writes times; quickly, where they lie in the second of the one before.
pub struct Clock {
    second: i64,
    text: [u8; TIME_LENGTH],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: i64::MIN, text: [0; TIME_LENGTH] }
    }
}

impl Clock {
    fn text(&mut self, millisecond: i64) -> &[u8; TIME_LENGTH] {
        let second = millisecond.div_euclid(1000);
        if second != self.second {
            let whole = Timestamp::from_second(second).expect("a time of this century");
            self.text.copy_from_slice(format!("{whole:.3}").as_bytes());
            self.second = second;
        }
        let mut rest = millisecond.rem_euclid(1000);
        for place in self.text[20..23].iter_mut().rev() {
            *place = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        &self.text
    }
}
