//! Dead letters that are due in a delivery. Each is written once, even if the call that began to write it is cut off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::dead_letter::{DeadLetters, Fate, Unwritten};
use crate::event::Event;
use crate::task;

/// A dead letter that is not written yet.
#[derive(Debug)]
pub(super) struct Letter {
    /// Its index among the page's events.
    pub(super) index: usize,
    pub(super) fate: Fate,
    reason: String,
    /// The task that writes it, which continues when no call waits for it.
    writing: Option<JoinHandle<Result<(), Unwritten>>>,
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

    /// Begins or continues to write the next one. Ready with none when none is due. After an error, it is still due.
    pub(super) fn poll_next(
        &mut self,
        dead_letters: &DeadLetters,
        events: &Arc<[Event]>,
        now: Timestamp,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Letter, Unwritten>>> {
        let Some(letter) = self.0.front_mut() else { return Poll::Ready(None) };
        let writing = letter.writing.get_or_insert_with(|| {
            let (dead_letters, events) = (dead_letters.clone(), Arc::clone(events));
            let (index, fate, reason) = (letter.index, letter.fate, letter.reason.clone());
            tokio::spawn(async move {
                match events.get(index) {
                    Some(event) => dead_letters.keep(event, fate, &reason, now).await,
                    None => Ok(()),
                }
            })
        });
        let Poll::Ready(ended) = Pin::new(writing).poll(context) else { return Poll::Pending };
        letter.writing = None;
        Poll::Ready(match task::outcome(ended).map_err(|cause| dead_letters.unwritten(cause)).flatten() {
            Ok(()) => self.0.pop_front().map(Ok),
            Err(error) => Some(Err(error)),
        })
    }
}
