//! Saves the state. Nothing else saves it while the engine runs.

use std::sync::Arc;

use tokio::time::Instant;

use super::lease_clock::LeaseClock;
use crate::clock::Clock;
use crate::destination::Mark;
use crate::pipeline_name::PipelineName;
use crate::source::Cursor;
use crate::state::lease::Lease;
use crate::state::{Document, Error, Nonce, State, StateStore, Version};
use crate::telemetry::metrics::{Metrics, Saved};

/// How many earlier writers we remember, to recognise their documents. A store that goes back in time does not lose the turns of
/// more writers.
const MOST_FOLLOWED: usize = 16;

/// How far delivery got: the part of a state that does not depend on its writer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Delivered {
    /// The cursor after the last delivered event.
    pub(super) cursor: Cursor,
    /// What the destination wants to find beside the cursor.
    pub(super) mark: Option<Mark>,
}

/// Holds the state that was last read or saved, and saves the next one.
pub(super) struct Committer {
    store: Arc<dyn StateStore>,
    pipeline: PipelineName,
    clock: Clock,
    metrics: Metrics,
    /// The version in the store, as far as we know.
    version: Option<Version>,
    nonce: Nonce,
    /// The newest nonce of each writer that we followed, the latest writer last.
    followed: Vec<Nonce>,
    /// The nonce that goes with `stored` in the store.
    written: Option<Nonce>,
    stored: Option<Delivered>,
    /// Delivered but not stored.
    pending: Option<Delivered>,
    /// How many saves in a row the store refused as a conflict, although its document had not changed.
    contradictions: u32,
    /// Our lease; none if the store needs none or another instance holds it.
    lease: Option<Lease>,
    /// Until when our documents say that we found no document at our start.
    first_until: Option<Instant>,
    lease_clock: Arc<LeaseClock>,
}

/// What the store held when we looked.
pub(super) struct Sighting {
    /// The version of its document; none if it has no document.
    pub(super) version: Option<Version>,
    /// The lease of another instance, if the document carries one.
    pub(super) lease: Option<Lease>,
}

impl Committer {
    /// Makes a committer that has read nothing yet. It sets `lease_clock` whenever it saves our lease.
    pub(super) fn new(
        store: Arc<dyn StateStore>,
        pipeline: PipelineName,
        clock: Clock,
        metrics: Metrics,
        lease_clock: Arc<LeaseClock>,
    ) -> Self {
        Self {
            store,
            pipeline,
            clock,
            metrics,
            version: None,
            nonce: Nonce::of_new_writer(),
            followed: Vec::new(),
            written: None,
            stored: None,
            pending: None,
            contradictions: 0,
            lease: None,
            first_until: None,
            lease_clock,
        }
    }

    /// Reads the state and follows it, unless it is older than the one that we know.
    pub(super) async fn observe(&mut self) -> Result<Sighting, Error> {
        let Some((document, version)) = self.store.load().await? else {
            if self.version.take().is_some() {
                tracing::warn!(
                    location = self.location(),
                    "the state is gone from its store; this instance keeps its cursor"
                );
            }
            self.keep_what_is_known();
            return Ok(Sighting { version: None, lease: None });
        };
        let state = document.read_for(&self.pipeline, &self.location())?;
        // Two leases count for nothing: our own, from a save without an answer, and that of an instance that did not know the state.
        let is_nobodys = state.nonce == self.nonce || self.knows_better_than(&state);
        if self.version.as_ref() != Some(&version) {
            self.version = Some(version.clone());
            let is_old = self.is_from_before(&state.nonce) && !self.is_edited(&state) && self.has_known_one();
            if is_old || self.knows_better_than(&state) {
                self.keep_what_is_known();
            } else {
                if !state.nonce.is_of_the_writer_of(&self.nonce) {
                    // Another instance stored the first document before us.
                    self.first_until = None;
                }
                self.follow(&state.nonce);
                self.written = Some(state.nonce.clone());
                let State { cursor, mark, .. } = state.clone();
                (self.stored, self.pending) = (Some(Delivered { cursor, mark }), None);
            }
        }
        Ok(Sighting { version: Some(version), lease: state.lease.filter(|_| !is_nobodys) })
    }

    fn follow(&mut self, nonce: &Nonce) {
        self.followed.retain(|known| !known.is_of_the_writer_of(nonce));
        self.followed.push(nonce.clone());
        if self.followed.len() > MOST_FOLLOWED {
            self.followed.remove(0);
        }
    }

    /// Whether the writer of `state` started from nothing, although we know how far delivery had got.
    fn knows_better_than(&self, state: &State) -> bool {
        let is_known = self.followed.iter().chain([&self.nonce]).any(|known| known.is_of_the_writer_of(&state.nonce));
        state.first && self.has_known_one() && !self.is_first() && !is_known
    }

    /// Whether we started without a document, less than one lease ago.
    fn is_first(&self) -> bool {
        self.first_until.is_some_and(|until| Instant::now() < until)
    }

    /// Notes that our cursor has to be saved, because it is newer than the one in the store.
    fn keep_what_is_known(&mut self) {
        if self.pending.is_none() {
            self.pending.clone_from(&self.stored);
        }
    }

    /// Whether an operator edited the document: it has the nonce of the last document that we know, but another cursor.
    fn is_edited(&self, state: &State) -> bool {
        self.written.as_ref() == Some(&state.nonce)
            && self.stored.as_ref().map(|stored| &stored.cursor) != Some(&state.cursor)
    }

    /// Whether we, or an instance that we followed, wrote the document with this nonce or a later one.
    fn is_from_before(&self, nonce: &Nonce) -> bool {
        self.followed.iter().chain([&self.nonce]).any(|known| nonce.is_no_newer_than(known))
    }

    /// How far delivery got; none before the first start.
    pub(super) fn delivered(&self) -> Option<&Delivered> {
        self.pending.as_ref().or(self.stored.as_ref())
    }

    /// Whether we have seen or saved a document since the start.
    pub(super) fn has_known_one(&self) -> bool {
        self.written.is_some()
    }

    /// Where the state is stored, for messages.
    pub(super) fn location(&self) -> String {
        self.store.location()
    }

    /// Notes that everything before a cursor is delivered, for [`Self::write`] to save.
    pub(super) fn advance(&mut self, delivered: Delivered) {
        if self.stored.as_ref() != Some(&delivered) {
            self.pending = Some(delivered);
        }
    }

    /// Whether a cursor waits to be saved.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether our documents carry our lease.
    pub(super) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// Replaces the document that we last saw by one with our lease and `delivered`. A newer document in the store is a conflict.
    pub(super) async fn seize(&mut self, lease: Lease, delivered: Delivered) -> Result<(), Error> {
        if !self.has_known_one() {
            self.first_until = Some(Instant::now() + lease.length());
        }
        self.lease = Some(lease);
        let seized = self.save(delivered).await;
        if seized.is_err() {
            self.lease = None;
        }
        seized
    }

    /// Tries once to save the pending cursor. After an error it is still pending.
    pub(super) async fn write(&mut self) -> Result<(), Error> {
        match self.pending.clone() {
            Some(delivered) => self.save(delivered).await,
            None => Ok(()),
        }
    }

    /// Tries once to save the document again, which renews the lease.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        match self.delivered().cloned() {
            Some(delivered) => self.save(delivered).await,
            None => Ok(()),
        }
    }

    /// Tries once to save the pending cursor without our lease, which releases it. Without a lease it also stores a removed document again.
    pub(super) async fn release(&mut self) -> Result<(), Error> {
        let Some(lease) = self.lease.take() else {
            self.write().await?;
            // Nobody renews the document beside a lock, so it may have been removed since the last commit.
            return if matches!(self.store.load().await, Ok(None)) { self.renew().await } else { Ok(()) };
        };
        let released = self.renew().await;
        match released {
            Ok(()) => self.lease_clock.ended(),
            Err(_) => self.lease = Some(lease),
        }
        released
    }

    /// Forgets our lease, which another instance has taken.
    pub(super) fn surrender(&mut self) {
        self.lease = None;
        self.lease_clock.ended();
    }

    async fn save(&mut self, delivered: Delivered) -> Result<(), Error> {
        let saved = self.replace(delivered).await;
        let result = match &saved {
            Ok(()) => Saved::Saved,
            Err(Error::Conflict { .. }) => Saved::Conflict,
            Err(_) => Saved::Failed,
        };
        self.metrics.state_saved(result, self.clock.now());
        saved
    }

    /// Replaces the document. The caller may drop the call at any await: the next call finds out whether the save went through.
    async fn replace(&mut self, delivered: Delivered) -> Result<(), Error> {
        let begun = Instant::now();
        self.nonce = self.nonce.next();
        let Delivered { cursor, mark } = delivered.clone();
        let mut state = State::new(self.pipeline.clone(), cursor, self.nonce.clone(), self.clock.now());
        state.mark = mark;
        state.lease.clone_from(&self.lease);
        state.first = self.is_first();
        let document = Document::of(&state)?;
        let version = match self.store.save(&document, self.version.as_ref()).await {
            Ok(version) => version,
            Err(error) => self.after_failed_save(error, &document).await?,
        };
        self.version = Some(version);
        self.contradictions = 0;
        self.written = Some(self.nonce.clone());
        if self.pending.as_ref() == Some(&delivered) {
            self.pending = None;
        }
        self.stored = Some(delivered);
        if let Some(lease) = &self.lease {
            self.lease_clock.renewed(begun, lease.length());
        }
        Ok(())
    }

    /// Finds out what the store holds after a failed save, and saves once more where that is safe. The nonce tells who wrote a document.
    async fn after_failed_save(&mut self, error: Error, document: &Document) -> Result<Version, Error> {
        // A save without an answer may have gone through. The next save finds out.
        if !matches!(error, Error::Conflict { .. } | Error::Refused { .. }) {
            return Err(error);
        }
        // Once our lease has lapsed, another instance may have saved a document that the store then lost. Only a standby may go on then.
        let may_go_on = !self.lease_clock.has_lapsed();
        let held = match self.store.load().await {
            Ok(held) => held,
            // Without the permission to list, some stores refuse to read a missing document as they refuse a forbidden one.
            Err(unread @ Error::Refused { .. }) if self.version.is_some() && may_go_on => {
                return self.store.save(document, None).await.map_err(|_| unread).inspect(|_| self.warn_of_loss());
            }
            Err(unread) => return Err(unread),
        };
        let is_conflict = matches!(error, Error::Conflict { .. });
        if held.as_ref().map(|(_, version)| version) == self.version.as_ref() {
            return Err(self.contradicted(error));
        }
        self.contradictions = 0;
        let Some((held, version)) = held else {
            if !(is_conflict && may_go_on && self.version.is_some()) {
                return Err(error);
            }
            self.version = None;
            self.warn_of_loss();
            return self.store.save(document, None).await;
        };
        let state = held.read_for(&self.pipeline, &self.location())?;
        if state.nonce == self.nonce {
            return Ok(version);
        }
        if !is_conflict {
            return Err(error);
        }
        if self.is_unanswered_save_of_ours(&state.nonce) && !self.is_edited(&state) {
            tracing::info!(location = self.location(), "an earlier save without an answer went through after all");
        } else if !may_go_on {
            return Err(error);
        } else if self.knows_better_than(&state) {
            tracing::warn!(
                location = self.location(),
                "an instance that did not know the state started from nothing; its state is replaced by the newer cursor"
            );
        } else if self.is_from_before(&state.nonce) && !self.is_edited(&state) {
            // The store went back in time, but delivery did not, so we keep our cursor.
            tracing::warn!(
                location = self.location(),
                "the store holds an older state than before; it is replaced by the newer cursor"
            );
        } else {
            return Err(error);
        }
        let written = self.store.save(document, Some(&version)).await;
        self.version = Some(version);
        written
    }

    /// Turns a conflict into a contradiction: the store holds the very version that the save expected. Other errors stay as they are.
    fn contradicted(&mut self, error: Error) -> Error {
        let Error::Conflict { location, cause } = error else { return error };
        self.contradictions = self.contradictions.saturating_add(1);
        Error::Contradiction { location, times: self.contradictions, cause }
    }

    fn is_unanswered_save_of_ours(&self, nonce: &Nonce) -> bool {
        let is_newer = self.written.as_ref().is_none_or(|written| !nonce.is_no_newer_than(written));
        is_newer && nonce.is_no_newer_than(&self.nonce)
    }

    fn warn_of_loss(&self) {
        tracing::warn!(location = self.location(), "the state is gone from its store; it is stored again");
    }
}
