//! Dead letters that a delivery owes: written once each, also when the call that began to write is cut off.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::Datadog;
use super::ledger::Ledger;
use super::rejected::{Fate, Rejected};
use crate::destination::{Error, Tally};
use crate::event::Event;
use crate::telemetry::metrics;

/// A dead letter that is not written yet.
#[derive(Debug)]
pub(super) struct Letter {
    index: usize,
    fate: Fate,
    reason: String,
    /// The writing, which goes on when nobody waits for it.
    writing: Option<JoinHandle<Result<(), Error>>>,
}

impl Letter {
    pub(super) fn new(index: usize, fate: Fate, reason: String) -> Self {
        Self { index, fate, reason, writing: None }
    }
}

/// The dead letters that are owed, the next one first.
#[derive(Debug, Default)]
pub(super) struct Letters(VecDeque<Letter>);

impl Letters {
    pub(super) fn owe(&mut self, letters: impl IntoIterator<Item = Letter>) {
        self.0.extend(letters);
    }

    /// Begins to write the next one, or goes on with it. Ready with none when nothing is owed.
    fn poll_next(
        &mut self,
        rejected: &Rejected,
        events: &Arc<[Event]>,
        now: Timestamp,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Letter, Error>>> {
        let Some(letter) = self.0.front_mut() else { return Poll::Ready(None) };
        let writing = letter.writing.get_or_insert_with(|| {
            let (rejected, events) = (rejected.clone(), Arc::clone(events));
            let (index, fate, reason) = (letter.index, letter.fate, letter.reason.clone());
            tokio::spawn(async move { write(&rejected, &events, index, fate, &reason, now).await })
        });
        let Poll::Ready(ended) = Pin::new(writing).poll(context) else { return Poll::Pending };
        letter.writing = None;
        Poll::Ready(match ended {
            // A bug is to end the process as one.
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            Err(stopped) => Some(Err(Error::Batch(std::io::Error::other(stopped)))),
            Ok(Err(error)) => Some(Err(error)),
            Ok(Ok(())) => self.0.pop_front().map(Ok),
        })
    }
}

async fn write(
    rejected: &Rejected,
    events: &[Event],
    index: usize,
    fate: Fate,
    reason: &str,
    now: Timestamp,
) -> Result<(), Error> {
    match events.get(index) {
        Some(event) => rejected.keep(event, fate, reason, now).await,
        None => Ok(()),
    }
}

impl Datadog {
    /// Writes the dead letters that are owed, those first that a call before began with. After an error the rest is still owed.
    pub(super) async fn write_letters(
        &self,
        ledger: &Ledger<'_>,
        events: &Arc<[Event]>,
        now: Timestamp,
    ) -> Result<(), Error> {
        loop {
            let next = poll_fn(|context| {
                ledger.remember(|memory| memory.letters.poll_next(&self.rejected, events, now, context))
            });
            let Some(written) = next.await else { return Ok(()) };
            let Letter { index, fate, .. } = written?;
            if fate == Fate::Rejected {
                let mut delivery = ledger.delivery();
                delivery.settle(&(index..index + 1));
                delivery.count(Tally { rejected: 1, ..Tally::default() });
                metrics::rejected();
            }
        }
    }
}
