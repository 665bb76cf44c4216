//! A destination that prints lines: for pipes, and for a dry run that shows what another destination would send.

use std::io::{self, Write};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{Acknowledged, Delivery, Destination, Shipment, Tally};
use crate::clock::LocalTime;
use crate::component::Check;
use crate::event::Event;
use crate::failure::{Class, Failure};
use crate::telemetry::liveness::Heartbeat;
use crate::telemetry::metrics::Metrics;

/// Appends an event's line to a buffer, without its line end, and counts what it had to change.
type Format = dyn Fn(&mut Vec<u8>, &Event, Timestamp) -> Tally + Send + Sync;

/// Prints each event as one line and acknowledges a page when all of it is written and flushed.
pub struct Printer {
    location: &'static str,
    format: Arc<Format>,
    out: Arc<Mutex<dyn Write + Send>>,
    metrics: Metrics,
}

impl Printer {
    /// Prints each event to `out`, formatted by `format`. Messages name the output as `location`.
    pub fn new(
        location: &'static str,
        metrics: Metrics,
        out: impl Write + Send + 'static,
        format: impl Fn(&mut Vec<u8>, &Event, Timestamp) -> Tally + Send + Sync + 'static,
    ) -> Self {
        Self { location, format: Arc::new(format), out: Arc::new(Mutex::new(out)), metrics }
    }

    /// Prints to standard output. Pipelines that share it write whole pages, one after the other.
    pub fn to_stdout(
        metrics: Metrics,
        format: impl Fn(&mut Vec<u8>, &Event, Timestamp) -> Tally + Send + Sync + 'static,
    ) -> Self {
        Self::new("standard output", metrics, io::stdout(), format)
    }
}

/// The lines could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {location}")]
struct Unwritten {
    location: &'static str,
    #[source]
    cause: io::Error,
}

impl From<Unwritten> for Failure {
    fn from(error: Unwritten) -> Self {
        // Some lines may have been written: a retry would print them twice.
        Self::new(Class::Closed, error)
    }
}

#[async_trait]
impl Destination for Printer {
    fn location(&self) -> String {
        self.location.to_owned()
    }

    fn open(&self, shipment: Shipment, _now: Timestamp) -> Box<dyn Delivery> {
        let (format, out) = (Arc::clone(&self.format), Arc::clone(&self.out));
        let (location, metrics) = (self.location, self.metrics.clone());
        Box::new(Printing { location, format, out, metrics, shipment, writing: None, tally: Tally::default() })
    }

    async fn check(&self, _now: LocalTime) -> Vec<Check> {
        vec![Check::works("output", format!("events go to {}", self.location))]
    }
}

struct Printing {
    location: &'static str,
    format: Arc<Format>,
    out: Arc<Mutex<dyn Write + Send>>,
    metrics: Metrics,
    shipment: Shipment,
    /// The writing of the lines. It goes on if the call that began it is dropped, and the next call waits for its end.
    writing: Option<JoinHandle<io::Result<Tally>>>,
    tally: Tally,
}

#[async_trait]
impl Delivery for Printing {
    async fn attempt(&mut self, now: Timestamp, _heart: &Heartbeat) -> Result<Acknowledged, Failure> {
        let (format, events, out) =
            (Arc::clone(&self.format), Arc::clone(&self.shipment.events), Arc::clone(&self.out));
        let writing = self.writing.get_or_insert_with(|| {
            // The reader of a pipe may be slow.
            tokio::task::spawn_blocking(move || {
                let (lines, tally) = lines(format.as_ref(), &events, now);
                let mut out = out.lock();
                out.write_all(&lines)?;
                out.flush()?;
                Ok(tally)
            })
        });
        let printed = writing.await.map_err(io::Error::other).flatten();
        self.writing = None;
        self.tally = printed.map_err(|cause| Unwritten { location: self.location, cause })?;
        let Tally { accepted, restamped, truncated, .. } = self.tally;
        let newest = self.shipment.events.iter().filter_map(Event::time).max();
        self.metrics.accepted(accepted, restamped, truncated, newest);
        Ok(Acknowledged::up_to(self.shipment.page))
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn has_begun(&self) -> bool {
        self.writing.is_some() || self.tally.settled() > 0
    }
}

/// Ends the line that begins at `start`. A line end inside a record can only stand between two JSON tokens, where a
/// blank means the same.
pub(super) fn end_line(lines: &mut Vec<u8>, start: usize) {
    for byte in lines[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    lines.push(b'\n');
}

fn lines(format: &Format, events: &[Event], now: Timestamp) -> (Vec<u8>, Tally) {
    let (mut lines, mut tally) = (Vec::new(), Tally::default());
    for event in events {
        let start = lines.len();
        tally += format(&mut lines, event, now);
        end_line(&mut lines, start);
    }
    tally.accepted = events.len();
    tally.bytes = lines.len() as u64;
    (lines, tally)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::destination::PageNumber;
    use crate::event::Fields;
    use crate::source::Cursor;

    /// Fails as a pipe does whose reader has gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shipment(records: &[&'static str]) -> Shipment {
        let events = records.iter().map(|raw| Event::new(Bytes::from_static(raw.as_bytes()), None, Fields::default()));
        Shipment { page: PageNumber(7), from: Cursor::default(), to: Cursor::default(), events: events.collect() }
    }

    fn raw(out: &mut Vec<u8>, event: &Event, _: Timestamp) -> Tally {
        out.extend_from_slice(event.raw());
        Tally::default()
    }

    #[tokio::test]
    async fn each_event_is_one_line_whatever_line_ends_stand_in_it() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let printer = Printer::new("a buffer", Metrics::of(&"here:there".into()), Shared(Arc::clone(&written)), raw);
        let mut delivery = printer.open(shipment(&["{\"a\":\n1}", "{\r\n}"]), Timestamp::UNIX_EPOCH);
        let acknowledged = delivery.attempt(Timestamp::UNIX_EPOCH, &Heartbeat::default()).await.unwrap();
        assert_eq!(acknowledged, Acknowledged::up_to(PageNumber(7)));
        assert_eq!(String::from_utf8(written.lock().clone()).unwrap(), "{\"a\": 1}\n{  }\n");
        assert_eq!(delivery.tally().accepted, 2);
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_while_it_prints_does_not_print_the_page_again() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let printer = Printer::new("a buffer", Metrics::of(&"here:there".into()), Shared(Arc::clone(&written)), raw);
        let mut delivery = printer.open(shipment(&["{}"]), Timestamp::UNIX_EPOCH);
        let reader_is_slow = written.lock();
        let dropped = delivery.attempt(Timestamp::UNIX_EPOCH, &Heartbeat::default()).now_or_never();
        assert!(dropped.is_none() && delivery.has_begun());
        drop(reader_is_slow);
        delivery.attempt(Timestamp::UNIX_EPOCH, &Heartbeat::default()).await.unwrap();
        assert_eq!(String::from_utf8(written.lock().clone()).unwrap(), "{}\n");
    }

    #[tokio::test]
    async fn an_output_that_cannot_be_written_is_not_tried_twice() {
        let mut delivery = Printer::new("a pipe", Metrics::of(&"here:there".into()), Gone, raw)
            .open(shipment(&["{}"]), Timestamp::UNIX_EPOCH);
        let failure = delivery.attempt(Timestamp::UNIX_EPOCH, &Heartbeat::default()).await.unwrap_err();
        assert_eq!(failure.class(), Class::Closed);
        assert_eq!(failure.to_string(), "cannot write to a pipe");
        assert!(!delivery.has_begun());
    }
}
