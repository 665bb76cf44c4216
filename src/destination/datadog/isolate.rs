//! Settling one batch: sending it and, where the intake refuses it, finding by halving what it refuses.
//!
//! One entry that is refused by itself must not hold up the others, and an intake that refuses everything must not empty the log into the
//! rejected file. So a refused entry is a *suspect* until the intake has accepted something after it; where nothing
//! else is at hand, a notice of our own is sent to find out.

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;

use super::batch::Batch;
use super::entry::Form;
use super::rejected::Fate;
use super::response::Meaning;
use super::{Body, Datadog, Ruling};
use crate::destination::{Error, Tally};
use crate::event::Event;
use crate::telemetry::metrics;
use crate::telemetry::pulse::Beat;

/// What became of a range of events.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// What was to be settled: one batch.
    pub(super) range: Range<usize>,
    pub(super) tally: Tally,
    /// Not settled, to be sent again.
    pub(super) left: Vec<Range<usize>>,
    /// Why something is left.
    pub(super) error: Option<Error>,
}

/// An entry that was refused in every form.
struct Suspect {
    index: usize,
    reason: String,
}

/// The settling of one batch.
pub(super) struct Settling<'a> {
    datadog: &'a Datadog,
    events: Arc<[Event]>,
    range: Range<usize>,
    now: Timestamp,
    /// Made ahead, and the first to be sent.
    first: Option<Batch>,
    /// Still to be sent, the next one last.
    work: Vec<(Range<usize>, Form)>,
    suspects: Vec<Suspect>,
    tally: Tally,
    /// Told of each answer.
    beat: Beat,
}

impl<'a> Settling<'a> {
    pub(super) fn new(datadog: &'a Datadog, events: Arc<[Event]>, batch: Batch, now: Timestamp, beat: Beat) -> Self {
        let range = batch.range.clone();
        let work = vec![(range.clone(), Form::Whole)];
        let (suspects, tally) = (Vec::new(), Tally::default());
        Self { datadog, events, range, now, first: Some(batch), work, suspects, tally, beat }
    }

    /// Sends until everything is settled or something stands in the way.
    pub(super) async fn run(mut self) -> Settled {
        let error = self.settle().await.err();
        let mut left: Vec<_> = self.work.into_iter().map(|(range, _)| range).collect();
        left.extend(self.suspects.iter().map(|suspect| suspect.index..suspect.index + 1));
        Settled { range: self.range, tally: self.tally, left, error }
    }

    async fn settle(&mut self) -> Result<(), Error> {
        while let Some((range, form)) = self.work.last().cloned() {
            self.send(range, form).await?;
            // A second suspect without anything accepted in between: perhaps it is not the entries.
            if self.suspects.len() > 1 {
                self.try_suspects().await?;
            }
        }
        if self.suspects.is_empty() { Ok(()) } else { self.try_suspects().await }
    }

    /// Sends the beginning of `range`, the last piece of work, and replaces that by what is left of it.
    async fn send(&mut self, range: Range<usize>, form: Form) -> Result<(), Error> {
        let batch = match self.first.take() {
            Some(batch) => batch,
            None => self.datadog.packer.pack(&self.events, range.clone(), form, self.now).await?,
        };
        self.tally.requests += 1;
        self.tally.bytes += batch.body.len() as u64;
        let sent = batch.range.clone();
        let body = Body { sent: batch.body, uncompressed: batch.uncompressed };
        let verdict = self.datadog.post(body).await?;
        self.beat.beats();
        self.work.pop();
        if sent.end < range.end {
            self.work.push((sent.end..range.end, form));
        }
        match verdict {
            Ruling::Accepted => {
                self.tally.accepted += sent.len();
                self.tally.restamped += batch.restamped;
                self.tally.truncated += batch.cut.len();
                let newest = self.events.get(sent.clone()).unwrap_or_default().iter().filter_map(Event::time).max();
                metrics::accepted(sent.len(), batch.restamped, batch.cut.len(), newest);
                for index in batch.cut {
                    self.keep(index, Fate::Truncated, "larger than the intake takes").await;
                }
                self.put_suspects_aside().await;
            }
            Ruling::Refused { meaning, reason } if sent.len() > 1 => {
                tracing::warn!(entries = sent.len(), %reason, ?meaning, "the intake refused a batch; sending its halves");
                let middle = sent.start + sent.len() / 2;
                self.work.push((middle..sent.end, form));
                self.work.push((sent.start..middle, form));
            }
            Ruling::Refused { meaning, reason } => match (form, meaning) {
                (Form::Whole, Meaning::TooLarge) => self.work.push((sent, Form::Cut)),
                (Form::Whole | Form::Cut, _) => self.work.push((sent, Form::Text)),
                (Form::Text, _) => self.suspects.push(Suspect { index: sent.start, reason }),
            },
        }
        Ok(())
    }

    /// Finds out whether the intake accepts anything at all.
    async fn try_suspects(&mut self) -> Result<(), Error> {
        let place = self.datadog.rejected.place();
        let message = format!(
            "auditsync could not deliver {} audit record(s): the intake refuses them; they are kept in {place}",
            self.suspects.len()
        );
        let body = self.datadog.notice("rejected", &message, "error", self.now)?;
        self.tally.requests += 1;
        self.tally.bytes += body.sent.len() as u64;
        match self.datadog.post(body).await? {
            Ruling::Accepted => {
                self.put_suspects_aside().await;
                Ok(())
            }
            Ruling::Refused { meaning, reason } => Err(self.datadog.refuses_all(meaning, reason)),
        }
    }

    /// The intake accepts others: the suspects are at fault themselves.
    async fn put_suspects_aside(&mut self) {
        for suspect in std::mem::take(&mut self.suspects) {
            self.keep(suspect.index, Fate::Rejected, &suspect.reason).await;
            self.tally.rejected += 1;
            metrics::rejected();
        }
    }

    async fn keep(&self, index: usize, fate: Fate, reason: &str) {
        if let Some(event) = self.events.get(index) {
            self.datadog.rejected.keep(event, fate, reason, self.now).await;
        }
    }
}
