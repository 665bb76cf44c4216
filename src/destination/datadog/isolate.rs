//! Settling of one batch: sends it and, if the intake refuses it, halves it until the refused entries are found.
//!
//! One refused entry must not hold up the others. An intake that refuses everything must not empty the log into the
//! dead-letter file. So a refused entry is a *suspect* until the intake has accepted an entry after it. If no other
//! entry is left, auditsync sends a notice of its own to find out.

use std::ops::Range;

use jiff::Timestamp;

use super::batch::Batch;
use super::client::{Body, Client, Setback};
use super::entry::Form;
use super::error::Error;
use super::ledger::Ledger;
use super::misdated::Misdated;
use super::response::Meaning;

/// Why a batch is not settled.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) error: Error,
    /// If the entries may be at fault, which puts them in doubt: the ranges to send next.
    pub(super) again: Option<Vec<Range<usize>>>,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self { error, again: None }
    }
}

/// An entry that the intake refused in every form.
struct Suspect {
    index: usize,
    reason: String,
}

/// The settling of one batch. It notes each settled entry in the ledger at once; the others are still outstanding.
pub(super) struct Settling<'a, 'd> {
    client: &'a Client,
    ledger: &'a Ledger<'d>,
    now: Timestamp,
    /// The batch packed ahead, which is sent first.
    first: Option<Batch>,
    /// Ranges still to be sent; the last one is the next.
    work: Vec<(Range<usize>, Form)>,
    suspects: Vec<Suspect>,
}

impl<'a, 'd> Settling<'a, 'd> {
    /// Starts with a batch whose entries have this form.
    pub(super) fn of(client: &'a Client, ledger: &'a Ledger<'d>, batch: Batch, form: Form, now: Timestamp) -> Self {
        let work = vec![(batch.range.clone(), form)];
        Self { client, ledger, now, first: Some(batch), work, suspects: Vec::new() }
    }

    /// Sends until every entry is settled or an error stops it.
    pub(super) async fn run(mut self) -> Result<(), Stopped> {
        while let Some((range, form)) = self.work.last().cloned() {
            self.send(range, form).await?;
            // A second suspect, and nothing accepted in between: the entries may not be at fault.
            if self.suspects.len() > 1 {
                self.try_suspects().await?;
            }
        }
        if self.suspects.is_empty() { Ok(()) } else { Ok(self.try_suspects().await?) }
    }

    /// Sends the beginning of `range`, which is the last of `work`, and replaces it there by the ranges that are left
    /// of it.
    async fn send(&mut self, range: Range<usize>, form: Form) -> Result<(), Stopped> {
        let mut batch = match self.first.take() {
            Some(batch) => batch,
            None => self.client.packer.pack(&self.ledger.events, range.clone(), form, self.now).await?,
        };
        let sent = batch.range.clone();
        let body = Body { sent: std::mem::take(&mut batch.body), uncompressed: batch.uncompressed };
        let begun = self.client.clock.local();
        let setback = match self.client.send(self.ledger, sent.len(), body).await {
            Ok(()) => {
                let misdated = Misdated::of(self.client, &self.ledger.events, &sent, self.now, begun);
                self.ledger.accepted(&batch, &misdated);
                self.refuse_suspects();
                misdated.check(self.client)?;
                None
            }
            Err(Setback::Refused { meaning, reason }) => Some((meaning, reason)),
            Err(Setback::Failed { error, about: None }) => return Err(error.into()),
            Err(Setback::Failed { error, about: Some(reason) }) => {
                let again = self.ledger.remember(|work| work.doubts.failed(&sent, form, reason));
                return Err(Stopped { error, again: Some(again) });
            }
        };
        self.work.pop();
        if sent.end < range.end {
            self.work.push((sent.end..range.end, form));
        }
        match setback {
            None => {}
            Some((meaning, reason)) if sent.len() > 1 => {
                tracing::warn!(entries = sent.len(), %reason, ?meaning, "the intake refused a batch; sending its halves");
                let middle = sent.start + sent.len() / 2;
                self.work.push((middle..sent.end, form));
                self.work.push((sent.start..middle, form));
            }
            Some((meaning, reason)) => match (form, meaning) {
                (Form::Whole, Meaning::TooLarge) => self.work.push((sent, Form::Cut)),
                (Form::Whole | Form::Cut, _) => self.work.push((sent, Form::Text)),
                (Form::Text, _) => self.suspects.push(Suspect { index: sent.start, reason }),
            },
        }
        Ok(())
    }

    /// Sends a notice, to find out whether the intake accepts anything at all.
    async fn try_suspects(&mut self) -> Result<(), Error> {
        let location = self.client.dead_letters.location();
        let message = format!(
            "auditsync could not deliver {} audit record(s): the intake refuses them; they are kept in {location}",
            self.suspects.len()
        );
        let body = self.client.notice("dead_letter", &message, "error", self.now)?;
        match self.client.send(self.ledger, 0, body).await {
            Ok(()) => {
                self.refuse_suspects();
                Ok(())
            }
            Err(setback) => Err(setback.into_error(self.client)),
        }
    }

    /// Convicts the suspects, because the intake accepts other entries.
    fn refuse_suspects(&mut self) {
        for Suspect { index, reason } in self.suspects.drain(..) {
            self.ledger.refused(index, reason);
        }
    }
}
