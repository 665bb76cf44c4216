//! Dead letters that are due in a delivery. Each is written once, even if the call that began to write it is cut off.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use super::client::Client;
use super::error::Error;
use super::ledger::Ledger;
use crate::dead_letter::{DeadLetters, Fate};
use crate::destination::Tally;
use crate::event::Event;
use crate::task;

/// A dead letter that is not written yet.
#[derive(Debug)]
pub(super) struct Letter {
    index: usize,
    fate: Fate,
    reason: String,
    /// The task that writes it, which continues when no call waits for it.
    writing: Option<JoinHandle<Result<(), Error>>>,
}

impl Letter {
    pub(super) fn new(index: usize, fate: Fate, reason: String) -> Self {
        Self { index, fate, reason, writing: None }
    }
}

/// The dead letters that are due, in order.
#[derive(Debug, Default)]
pub(super) struct Letters(VecDeque<Letter>);

impl Letters {
    pub(super) fn add(&mut self, letters: impl IntoIterator<Item = Letter>) {
        self.0.extend(letters);
    }

    /// Begins or continues to write the next one. Ready with none when none is due.
    fn poll_next(
        &mut self,
        dead_letters: &DeadLetters,
        events: &Arc<[Event]>,
        now: Timestamp,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Letter, Error>>> {
        let Some(letter) = self.0.front_mut() else { return Poll::Ready(None) };
        let writing = letter.writing.get_or_insert_with(|| {
            let (dead_letters, events) = (dead_letters.clone(), Arc::clone(events));
            let (index, fate, reason) = (letter.index, letter.fate, letter.reason.clone());
            tokio::spawn(async move { write(&dead_letters, &events, index, fate, &reason, now).await })
        });
        let Poll::Ready(ended) = Pin::new(writing).poll(context) else { return Poll::Pending };
        letter.writing = None;
        Poll::Ready(match task::outcome(ended).map_err(Error::Batch).flatten() {
            Ok(()) => self.0.pop_front().map(Ok),
            Err(error) => Some(Err(error)),
        })
    }
}

async fn write(
    dead_letters: &DeadLetters,
    events: &[Event],
    index: usize,
    fate: Fate,
    reason: &str,
    now: Timestamp,
) -> Result<(), Error> {
    match events.get(index) {
        Some(event) => Ok(dead_letters.keep(event, fate, reason, now).await?),
        None => Ok(()),
    }
}

impl Client {
    /// Writes the dead letters that are due. The first may be one that an earlier call began to write. After an error,
    /// the rest is still due.
    pub(super) async fn write_letters(&self, ledger: &Ledger<'_>, now: Timestamp) -> Result<(), Error> {
        loop {
            let next = poll_fn(|context| {
                ledger.remember(|work| work.letters.poll_next(&self.dead_letters, &ledger.events, now, context))
            });
            let Some(written) = next.await else { return Ok(()) };
            let Letter { index, fate, .. } = written?;
            if fate == Fate::Refused {
                ledger.remember(|work| {
                    work.progress.settle(&(index..index + 1));
                    work.progress.count(Tally { dead_lettered: 1, ..Tally::default() });
                });
                self.metrics.dead_lettered();
            }
        }
    }
}
