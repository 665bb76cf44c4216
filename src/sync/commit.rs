//! Writing the state: the one place that does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Clock;
use crate::source::{Cursor, Source};
use crate::state::{Document, Error, Nonce, State, StateStore, Version};

/// Holds the state as it was last written, and writes the next.
pub(super) struct Committer {
    store: Arc<dyn StateStore>,
    source: &'static str,
    clock: Clock,
    /// What the store holds, as far as we know.
    version: Option<Version>,
    nonce: Nonce,
    /// The newest nonce of the writer before us.
    inherited: Option<Nonce>,
    /// The nonce that goes with `cursor` in the store.
    written: Option<Nonce>,
    cursor: Option<Cursor>,
    /// Delivered but not written, on a store that wants to be written to slowly.
    pending: Option<Cursor>,
    written_at: Option<Instant>,
}

impl Committer {
    /// Reads the stored state.
    pub(super) async fn load(store: Arc<dyn StateStore>, source: &dyn Source, clock: Clock) -> Result<Self, Error> {
        let mut committer = Self {
            source: source.name(),
            clock,
            version: None,
            nonce: Nonce::of_new_writer(),
            inherited: None,
            written: None,
            cursor: None,
            pending: None,
            written_at: None,
            store,
        };
        if let Some((document, version)) = committer.store.load().await? {
            let state = document.read(&committer.store.place())?;
            committer.check_source(&state)?;
            committer.version = Some(version);
            committer.inherited = Some(state.nonce.clone());
            committer.written = Some(state.nonce);
            committer.cursor = Some(state.cursor);
        }
        Ok(committer)
    }

    fn check_source(&self, state: &State) -> Result<(), Error> {
        if state.source == self.source {
            return Ok(());
        }
        let (place, found) = (self.store.place(), state.source.clone());
        Err(Error::OtherSource { place, found, expected: self.source })
    }

    /// The stored cursor; none before the first start.
    pub(super) fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// Where the state is, for messages.
    pub(super) fn place(&self) -> String {
        self.store.place()
    }

    /// Takes note that everything before `cursor` is delivered, to be written by [`Self::write`].
    pub(super) fn advance(&mut self, cursor: Cursor) {
        if self.cursor.as_ref() != Some(&cursor) {
            self.pending = Some(cursor);
        }
    }

    /// Whether something is to be written.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// How long the store wants to be left alone before the next write.
    pub(super) fn due_in(&self) -> Duration {
        self.written_at.map_or(Duration::ZERO, |written| self.store.pace().saturating_sub(written.elapsed()))
    }

    /// One attempt to write what is pending. After an error it is still pending.
    pub(super) async fn write(&mut self) -> Result<(), Error> {
        let Some(cursor) = self.pending.clone() else { return Ok(()) };
        self.nonce = self.nonce.next();
        let state = State::new(self.source, cursor.clone(), self.nonce.clone(), self.clock.now());
        let document = Document::of(&state)?;
        let version = match self.store.save(&document, self.version.as_ref()).await {
            Ok(version) => version,
            Err(error) => self.after_failed_save(error, &document).await?,
        };
        self.version = Some(version);
        self.written = Some(self.nonce.clone());
        self.cursor = Some(cursor);
        self.pending = None;
        self.written_at = Some(Instant::now());
        Ok(())
    }

    /// A save that failed or had no answer may have gone through: the nonce that the store holds tells.
    async fn after_failed_save(&mut self, error: Error, document: &Document) -> Result<Version, Error> {
        let held = match self.store.load().await {
            Ok(held) => held,
            // Whose document stands in the way is not known until it is read: it may be our own.
            Err(unread) if matches!(error, Error::Conflict { .. }) => return Err(unread),
            // Where the store cannot be read either, the save's own error says more.
            Err(_) => return Err(error),
        };
        let Some((held, version)) = held else {
            let had_one = self.version.take().is_some();
            if had_one && matches!(error, Error::Conflict { .. }) {
                tracing::warn!(place = self.place(), "the state is gone from its store; it is written anew");
                return self.store.save(document, None).await;
            }
            return Err(error);
        };
        let state = held.read(&self.place())?;
        self.check_source(&state)?;
        if state.nonce == self.nonce {
            return Ok(version);
        }
        // The nonce of our last document with another cursor: edited by hand, for no store makes that up.
        let edited = self.written.as_ref() == Some(&state.nonce) && self.cursor.as_ref() != Some(&state.cursor);
        let known = [Some(&self.nonce), self.inherited.as_ref()];
        if edited || !known.into_iter().flatten().any(|nonce| state.nonce.is_older_than(nonce)) {
            return Err(Error::Conflict { place: self.place() });
        }
        if !matches!(error, Error::Conflict { .. }) {
            return Err(error);
        }
        // It holds a document from before the one we knew: a store that went back in time. Delivery did not, so neither do we.
        tracing::warn!(place = self.place(), "the store holds an older state than it did; it is written forward");
        let written = self.store.save(document, Some(&version)).await;
        self.version = Some(version);
        written
    }
}
