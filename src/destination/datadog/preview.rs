//! A dry run's destination: prints the entries that would be sent, one JSON object a line.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::Labels;
use super::entry::{EntryWriter, Form};
use crate::destination::{Delivery, Destination, Error, Receipt, Tally};
use crate::event::Event;

/// Prints entries to `W`.
#[derive(Debug)]
pub struct Preview<W> {
    entries: Arc<EntryWriter>,
    place: &'static str,
    out: Arc<Mutex<W>>,
}

impl<W: Write + Send + 'static> Preview<W> {
    /// Prints to `out`, called `place` in messages, with records under `record_key`.
    pub fn new(labels: &Labels, record_key: &'static str, place: &'static str, out: W) -> Self {
        Self { entries: Arc::new(EntryWriter::new(labels, record_key)), place, out: Arc::new(Mutex::new(out)) }
    }
}

#[async_trait]
impl<W: Write + Send + 'static> Destination for Preview<W> {
    fn name(&self) -> &'static str {
        self.place
    }

    async fn deliver(&self, delivery: &mut Delivery, now: Timestamp) -> Result<Receipt, Error> {
        let (entries, events, out) = (Arc::clone(&self.entries), Arc::clone(delivery.events()), Arc::clone(&self.out));
        // Whoever reads a pipe may take his time.
        let printing = tokio::task::spawn_blocking(move || {
            let (lines, tally) = lines(&entries, &events, now);
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(&lines)?;
            out.flush()?;
            Ok(tally)
        });
        let printed: io::Result<Tally> = printing.await.map_err(io::Error::other).flatten();
        let tally = printed.map_err(|cause| Error::Unprinted { place: self.place, cause })?;
        delivery.count(tally);
        delivery.leave(Vec::new());
        Ok(Receipt::Accepted)
    }
}

fn lines(entries: &EntryWriter, events: &[Event], now: Timestamp) -> (Vec<u8>, Tally) {
    let (mut lines, mut tally) = (Vec::new(), Tally { accepted: events.len(), ..Tally::default() });
    for event in events {
        let start = lines.len();
        let marks = entries.write(&mut lines, event, Form::Whole, now);
        tally.restamped += usize::from(marks.restamped);
        tally.truncated += usize::from(marks.cut);
        // A line end in a record stands between its tokens, where a blank means the same.
        for byte in lines[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
        lines.push(b'\n');
    }
    tally.bytes = lines.len() as u64;
    (lines, tally)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::source::sectigo::page;

    fn preview<W: Write + Send + 'static>(out: W) -> Preview<W> {
        let labels = ["source", "service", "host", "a:b"].map(str::to_owned);
        let [source, service, hostname, tags] = labels;
        Preview::new(&Labels { source, service, hostname, tags }, "sectigo", "standard output", out)
    }

    fn delivery(page: &'static str) -> Delivery {
        Delivery::new(page::records(&Bytes::from_static(page.as_bytes())).unwrap())
    }

    #[tokio::test]
    async fn each_entry_is_one_line_however_its_record_is_laid_out() {
        let preview = preview(Vec::new());
        let mut delivery = delivery("[{\"id\":1,\r\n\"details\":\"a\\nb\"},{\"id\":2}]");
        let printed = preview.deliver(&mut delivery, Timestamp::UNIX_EPOCH).await.unwrap();
        assert!(printed == Receipt::Accepted && delivery.is_complete());
        let text = String::from_utf8(preview.out.lock().unwrap().clone()).unwrap();
        let entries: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0]["sectigo"]["details"], "a\nb");
        assert_eq!((&entries[1]["ddtags"], &entries[1]["evt"]["id"]), (&"a:b".into(), &"2".into()));
        assert_eq!((delivery.tally().accepted, delivery.tally().bytes), (2, text.len() as u64));
    }

    #[tokio::test]
    async fn what_cannot_be_printed_ends_it() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = preview(Closed).deliver(&mut delivery("[1]"), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert_eq!(error.class(), crate::failure::Class::Fatal);
        assert_eq!(error.to_string(), "cannot write to standard output");
    }
}
