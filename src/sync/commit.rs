//! Writing the state: the one place that does.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::Clock;
use super::tenure::Tenure;
use crate::source::Cursor;
use crate::state::lease::Lease;
use crate::state::{Document, Error, Nonce, State, StateStore, Version};
use crate::telemetry::metrics::{self, Saved};

/// So many writers before us are remembered, to know their documents again. More do not take turns within what a store can lose.
const MOST_FOLLOWED: usize = 16;

/// Holds the state as it was last read or written, and writes the next.
pub(super) struct Committer {
    store: Arc<dyn StateStore>,
    source: &'static str,
    clock: Clock,
    /// What the store holds, as far as we know.
    version: Option<Version>,
    nonce: Nonce,
    /// The newest nonce of each writer whose documents we followed, the latest last.
    followed: Vec<Nonce>,
    /// The nonce that goes with `cursor` in the store.
    written: Option<Nonce>,
    cursor: Option<Cursor>,
    /// Delivered but not written.
    pending: Option<Cursor>,
    /// Behind what the destination has taken into a buffer.
    held: Option<Cursor>,
    written_at: Option<Instant>,
    /// How many saves in a row the store refused as a conflict with a document that had not changed.
    contradictions: u32,
    /// What our documents say of us, where a lease is needed and ours.
    lease: Option<Lease>,
    /// Until when our documents say that we had found none.
    first_until: Option<Instant>,
    tenure: Rc<Tenure>,
    changed: Rc<Notify>,
}

/// What a look at the store found.
pub(super) struct Sighting {
    /// Which document it holds.
    pub(super) version: Option<Version>,
    /// Whose it is.
    pub(super) lease: Option<Lease>,
}

impl Committer {
    /// Nothing is read yet. `tenure` learns how long our lease lasts, and `changed` is told when something is to be written.
    pub(super) fn new(
        store: Arc<dyn StateStore>,
        source: &'static str,
        clock: Clock,
        tenure: Rc<Tenure>,
        changed: Rc<Notify>,
    ) -> Self {
        Self {
            store,
            source,
            clock,
            version: None,
            nonce: Nonce::of_new_writer(),
            followed: Vec::new(),
            written: None,
            cursor: None,
            pending: None,
            held: None,
            written_at: None,
            contradictions: 0,
            lease: None,
            first_until: None,
            tenure,
            changed,
        }
    }

    /// Reads the state. What it says holds, unless the store went back to before what we know.
    pub(super) async fn observe(&mut self) -> Result<Sighting, Error> {
        let Some((document, version)) = self.store.load().await? else {
            if self.version.take().is_some() {
                tracing::warn!(place = self.place(), "the state is gone from its store; what is known of it is kept");
            }
            self.keep_what_is_known();
            return Ok(Sighting { version: None, lease: None });
        };
        let state = self.read(&document)?;
        // Our own last save, whose answer was lost, is nobody else's lease; nor is that of one who did not know the state.
        let is_nobodys = state.nonce == self.nonce || self.knows_better_than(&state);
        if self.version.as_ref() != Some(&version) {
            self.version = Some(version.clone());
            let is_old = self.is_from_before(&state.nonce) && !self.is_edited(&state) && self.has_known_one();
            if is_old || self.knows_better_than(&state) {
                self.keep_what_is_known();
            } else {
                if !state.nonce.is_of_the_writer_of(&self.nonce) {
                    // We wanted to begin, and another was faster.
                    self.first_until = None;
                }
                self.follow(&state.nonce);
                self.written = Some(state.nonce);
                (self.cursor, self.pending) = (Some(state.cursor), None);
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

    /// Whether its writer began anew, where we know how far delivery got before.
    fn knows_better_than(&self, state: &State) -> bool {
        let is_known = self.followed.iter().chain([&self.nonce]).any(|known| known.is_of_the_writer_of(&state.nonce));
        state.first && self.has_known_one() && !self.is_first() && !is_known
    }

    /// Whether we began with nothing, and not long ago.
    fn is_first(&self) -> bool {
        self.first_until.is_some_and(|until| Instant::now() < until)
    }

    /// Our cursor is newer than what the store holds: it is to be written.
    fn keep_what_is_known(&mut self) {
        if self.pending.is_none() {
            self.pending.clone_from(&self.cursor);
        }
    }

    fn read(&self, document: &Document) -> Result<State, Error> {
        let state = document.read(&self.place())?;
        if state.source == self.source {
            return Ok(state);
        }
        Err(Error::OtherSource { place: self.place(), found: state.source, expected: self.source })
    }

    /// Whether it has the nonce of the last document that we know, with another cursor: edited by hand, for no store makes that up.
    fn is_edited(&self, state: &State) -> bool {
        self.written.as_ref() == Some(&state.nonce) && self.cursor.as_ref() != Some(&state.cursor)
    }

    /// Whether the document with this nonce was written by us, or by one whom we followed.
    fn is_from_before(&self, nonce: &Nonce) -> bool {
        self.followed.iter().chain([&self.nonce]).any(|known| nonce.is_no_newer_than(known))
    }

    /// How far delivery got; none before the first start.
    pub(super) fn cursor(&self) -> Option<&Cursor> {
        self.pending.as_ref().or(self.cursor.as_ref())
    }

    /// Whether there was a document since the start.
    pub(super) fn has_known_one(&self) -> bool {
        self.written.is_some()
    }

    /// Where the state is, for messages.
    pub(super) fn place(&self) -> String {
        self.store.place()
    }

    /// Takes note that everything before `cursor` is delivered, to be written by [`Self::write`].
    pub(super) fn advance(&mut self, cursor: Cursor) {
        self.held = None;
        if self.cursor.as_ref() != Some(&cursor) {
            self.pending = Some(cursor);
            self.changed.notify_one();
        }
    }

    /// Takes note that what is before `cursor` is in the destination's buffer: it must not be written before [`Self::flushed`].
    pub(super) fn hold(&mut self, cursor: Cursor) {
        self.held = Some(cursor);
    }

    /// The destination's buffer was emptied.
    pub(super) fn flushed(&mut self) {
        if let Some(cursor) = self.held.take() {
            self.advance(cursor);
        }
    }

    /// Whether a cursor is to be written.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether everything that was delivered is written.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_none() && self.held.is_none()
    }

    /// Whether the documents carry a lease of ours.
    pub(super) fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// How long the store wants to be left alone before the next write.
    pub(super) fn due_in(&self) -> Duration {
        self.written_at.map_or(Duration::ZERO, |written| self.store.pace().saturating_sub(written.elapsed()))
    }

    /// Puts our lease into the document, with the place to go on from, if it is still the document that was last seen.
    pub(super) async fn seize(&mut self, lease: Lease, cursor: Cursor) -> Result<(), Error> {
        if !self.has_known_one() {
            self.first_until = Some(Instant::now() + lease.length());
        }
        self.lease = Some(lease);
        let seized = self.save(cursor).await;
        if seized.is_err() {
            self.lease = None;
        }
        seized
    }

    /// One attempt to write what is pending. After an error it is still pending.
    pub(super) async fn write(&mut self) -> Result<(), Error> {
        match self.pending.clone() {
            Some(cursor) => self.save(cursor).await,
            None => Ok(()),
        }
    }

    /// One attempt to write the document anew, so that the lease goes on.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        match self.cursor().cloned() {
            Some(cursor) => self.save(cursor).await,
            None => Ok(()),
        }
    }

    /// One attempt to give the lease back, with what is pending.
    pub(super) async fn release(&mut self) -> Result<(), Error> {
        let Some(lease) = self.lease.take() else { return self.write().await };
        let released = self.renew().await;
        match released {
            Ok(()) => self.tenure.ended(),
            Err(_) => self.lease = Some(lease),
        }
        released
    }

    /// The lease is not ours any more.
    pub(super) fn surrender(&mut self) {
        (self.lease, self.held) = (None, None);
        self.tenure.ended();
    }

    async fn save(&mut self, cursor: Cursor) -> Result<(), Error> {
        let saved = self.replace(cursor).await;
        let result = match &saved {
            Ok(()) => Saved::Saved,
            Err(Error::Conflict { .. }) => Saved::Conflict,
            Err(_) => Saved::Failed,
        };
        metrics::state_saved(result, self.clock.now());
        saved
    }

    /// Replaces the document. May be broken off at any time: what became of the save is found out by the next one.
    async fn replace(&mut self, cursor: Cursor) -> Result<(), Error> {
        let begun = Instant::now();
        self.nonce = self.nonce.next();
        let mut state = State::new(self.source, cursor.clone(), self.nonce.clone(), self.clock.now());
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
        if self.pending.as_ref() == Some(&cursor) {
            self.pending = None;
        }
        self.cursor = Some(cursor);
        self.written_at = Some(Instant::now());
        if let Some(lease) = &self.lease {
            self.tenure.renewed(begun, lease.length());
        }
        self.changed.notify_one();
        Ok(())
    }

    /// The document is another than we thought, or may be: its nonce tells whose.
    async fn after_failed_save(&mut self, error: Error, document: &Document) -> Result<Version, Error> {
        // What became of a save without an answer the next one finds out.
        if !matches!(error, Error::Conflict { .. } | Error::Refused { .. }) {
            return Err(error);
        }
        // Without a lease that is certain, another may have written what the store then lost: only a stand-by may go on.
        let may_go_on = !self.tenure.has_lapsed();
        let held = match self.store.load().await {
            Ok(held) => held,
            // Some stores do not tell those who may not list whether there is nothing to read, or nothing that they may read.
            Err(unread @ Error::Refused { .. }) if self.version.is_some() && may_go_on => {
                return self.store.save(document, None).await.map_err(|_| unread).inspect(|_| self.tell_of_loss());
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
            self.tell_of_loss();
            return self.store.save(document, None).await;
        };
        let state = self.read(&held)?;
        if state.nonce == self.nonce {
            return Ok(version);
        }
        if !is_conflict {
            return Err(error);
        }
        if self.is_unanswered_save_of_ours(&state.nonce) && !self.is_edited(&state) {
            tracing::info!(place = self.place(), "a save that had no answer went through after all");
        } else if !may_go_on {
            return Err(error);
        } else if self.knows_better_than(&state) {
            let place = self.place();
            tracing::warn!(
                place,
                "an instance that did not know the state has begun anew; the state is written forward"
            );
        } else if self.is_from_before(&state.nonce) && !self.is_edited(&state) {
            // It holds a document from before the one we knew: a store that went back in time. Delivery did not, so neither do we.
            tracing::warn!(place = self.place(), "the store holds an older state than it did; it is written forward");
        } else {
            return Err(error);
        }
        let written = self.store.save(document, Some(&version)).await;
        self.version = Some(version);
        written
    }

    /// The store refused a save as a conflict and holds what the save named. Any other error stays as it is.
    fn contradicted(&mut self, error: Error) -> Error {
        let Error::Conflict { place, cause } = error else { return error };
        self.contradictions = self.contradictions.saturating_add(1);
        Error::Contradiction { place, times: self.contradictions, cause }
    }

    fn is_unanswered_save_of_ours(&self, nonce: &Nonce) -> bool {
        let is_newer = self.written.as_ref().is_none_or(|written| !nonce.is_no_newer_than(written));
        is_newer && nonce.is_no_newer_than(&self.nonce)
    }

    fn tell_of_loss(&self) {
        tracing::warn!(place = self.place(), "the state is gone from its store; it is written anew");
    }
}
