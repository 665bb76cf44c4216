//! Sweeps beside a queue: decides when to list the bucket, and keeps what is known of it.
//!
//! The cursor holds what the queue and the sweeps have delivered. While a listing is under way, no message is taken from the queue. A
//! listing that fails does not hold up the queue.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::super::cursor::announced::Announced;
use super::super::error::Error;
use super::super::key::{Class, LogKey};
use super::super::known::Known;
use super::super::listing::{Listing, Round};
use super::reading::{Object, Reading};
use super::{Queue, QueueCursor};
use crate::aws::call::CallError;
use crate::aws::digest::Sha256;
use crate::clock::LocalTime;
use crate::failure::Chain;
use crate::source::{Cursor, Page, Then};

/// The pause after a round of files, and after a round that failed.
const REST: Duration = Duration::from_secs(300);

/// How often auditsync looks for digest files.
const DIGESTS: Duration = Duration::from_secs(900);

/// The longest time that a message may be on its way. After it, a file that a digest lists counts as undelivered.
const LONGEST_WAY: SignedDuration = SignedDuration::from_hours(1);

/// Lists the bucket beside a queue.
pub(super) struct Sweep {
    listing: Arc<Listing>,
    verifies: bool,
}

/// The state of the sweeps in this process.
#[derive(Default)]
pub(super) struct Sweeping {
    /// A cursor, and the knowledge that belongs to it.
    known: Option<(Cursor, Known)>,
    /// The round that is due or under way.
    round: Option<Round>,
    rests_until: Option<Instant>,
    /// When digest files are read next; none for at once.
    digests_due: Option<Instant>,
    has_succeeded: bool,
    is_waiting: bool,
}

impl Sweeping {
    /// Whether a round must begin as soon as nothing from the queue is in work.
    pub(super) fn is_wanted(&self) -> bool {
        self.round.is_some() && !self.is_resting()
    }

    /// Whether no message may be taken from the queue.
    pub(super) fn is_full(&self) -> bool {
        self.known.as_ref().is_some_and(|(_, known)| known.progress.is_full())
    }

    fn is_resting(&self) -> bool {
        self.rests_until.is_some_and(|until| Instant::now() < until)
    }

    /// Forgets what is known, because the records read were not delivered. The next cursor holds what is known.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Writes what is known into the cursor after a page.
    pub(super) fn encode(&self) -> Result<Option<Cursor>, Error> {
        self.known.as_ref().map(|(_, known)| known.encode()).transpose()
    }

    /// Notes that what is known now belongs to this cursor.
    pub(super) fn goes_with(&mut self, cursor: &Cursor) {
        if let Some((known, _)) = &mut self.known {
            known.clone_from(cursor);
        }
    }

    /// Notes that an object that a message named is delivered whole.
    pub(super) fn delivered(&mut self, object: &Object, digest: Option<Sha256>, now: Timestamp) {
        let (Some((_, known)), Some(log)) = (&mut self.known, LogKey::parse(&object.wanted.key)) else { return };
        let modified = object.modified.unwrap_or(now);
        known.progress.delivered_alone(Class::of(log.slot, modified), modified, &object.wanted.key);
        if let (Some(verified), Some(digest)) = (&mut known.verified, digest) {
            verified.delivered(&object.wanted.key, modified, digest);
        }
    }
}

impl Sweep {
    pub(super) fn new(listing: Arc<Listing>, verifies: bool) -> Self {
        Self { listing, verifies }
    }

    /// Whether the object that a message names was delivered before.
    pub(super) fn has(&self, sweeping: &Sweeping, object: &Object) -> bool {
        let (Some((_, known)), Some(log)) = (&sweeping.known, LogKey::parse(&object.wanted.key)) else { return false };
        // If the file's time is unknown, only its hash tells whether it was delivered.
        let modified = object.modified.unwrap_or(Timestamp::MAX);
        let key = &object.wanted.key;
        let is_listed = self.listing.terrain().shows(key);
        known.progress.has(Announced { key, slot: log.slot, modified, sent: object.sent, is_listed })
    }

    /// Reads `cursor`, and decides whether a round is due.
    fn prepare(
        &self,
        sweeping: &mut Sweeping,
        cursor: &Cursor,
        decoded: &QueueCursor,
        begun: LocalTime,
    ) -> Result<(), Error> {
        if sweeping.known.as_ref().is_none_or(|(known, _)| known != cursor) {
            sweeping.known = Some((cursor.clone(), self.listing.known(cursor)?));
        }
        let Some((_, known)) = &sweeping.known else { return Ok(()) };
        let terrain = self.listing.terrain();
        let now = terrain.server_clock.at(begun, terrain.clock.local()).unwrap_or(begun.wall);
        let are_digests_due = || sweeping.digests_due.is_none_or(|due| Instant::now() >= due);
        sweeping.round = match sweeping.round {
            Some(round) => Some(round),
            None if known.progress.is_sweep_due(now) => Some(Round::Files),
            None if self.verifies && are_digests_due() => {
                let on_its_way = now.checked_sub(LONGEST_WAY).unwrap_or(now);
                Some(Round::Digests(decoded.reached.max(on_its_way)))
            }
            None => None,
        };
        Ok(())
    }
}

impl Queue {
    /// Returns a page of a round, if a round is due and nothing from the queue is in work.
    pub(super) async fn sweep_page(
        &self,
        reading: &mut Reading,
        cursor: &Cursor,
        decoded: &QueueCursor,
        begun: LocalTime,
    ) -> Result<Option<Page>, Error> {
        let Some(sweep) = &self.sweep else { return Ok(None) };
        sweep.prepare(&mut reading.sweeping, cursor, decoded, begun)?;
        let is_ready = reading.sweeping.is_wanted() && reading.is_held() && reading.receiving.is_none();
        let (Some(round), true) = (reading.sweeping.round, is_ready) else { return Ok(None) };
        let Some(from) = reading.sweeping.encode()? else { return Ok(None) };
        let known = reading.sweeping.known.as_ref().map(|(_, known)| known);
        let page = match sweep.listing.next_page(&from, known, begun, round).await {
            Ok(page) => page,
            Err(error) => return reading.round_failed(error).map(|()| None),
        };
        let next = QueueCursor {
            queue: self.id.clone(),
            page: reading.page,
            reached: decoded.reached,
            sweep: Some(page.next.clone()),
        };
        let next = Cursor::encode(&next).map_err(Error::Cursor)?;
        let sweeping = &mut reading.sweeping;
        sweeping.known = Some((next.clone(), sweep.listing.behind(&page.next).await?));
        sweeping.has_succeeded |= page.progressed;
        // A listing beside a queue pauses only while it verifies. Its files are delivered then.
        let pause = match page.then {
            Then::Now => None,
            Then::After(pause) => Some(pause),
            Then::CaughtUp => Some(DIGESTS),
        };
        if let Some(pause) = pause {
            sweeping.has_succeeded = true;
            (sweeping.round, sweeping.is_waiting) = (None, false);
            let now = Instant::now();
            sweeping.digests_due = Some(now + pause);
            sweeping.rests_until = (round == Round::Files).then_some(now + REST);
        }
        Ok(Some(Page { next, then: Then::Now, ..page }))
    }
}

impl Reading {
    /// Whether the next object must wait, because a sweep must begin or there is no room to note another object.
    pub(super) fn is_held(&self) -> bool {
        let is_between = self.objects.front().is_none_or(|object| object.records == 0);
        is_between && (self.sweeping.is_wanted() || self.sweeping.is_full())
    }

    /// Handles a listing that failed. Returns the error for the engine if nothing could be read so far, or if the queue cannot go on
    /// without a sweep, or if a file's content is broken. The same session must try such a file again, because the session counts the
    /// tries, and the last one makes it a dead letter.
    fn round_failed(&mut self, error: Error) -> Result<(), Error> {
        let has_succeeded = self.sweeping.has_succeeded || self.succeeded.is_some();
        let is_refused = matches!(error, Error::Call(CallError::Refused { .. }));
        let is_broken = matches!(error, Error::Object { .. });
        if error.is_about_dead_letters() || is_broken || self.sweeping.is_full() || (is_refused && !has_succeeded) {
            return Err(error);
        }
        self.sweeping.rests_until = Some(Instant::now() + REST);
        if !has_succeeded {
            return Err(error);
        }
        tracing::error!(
            error = %Chain(&error),
            "the bucket cannot be swept; the queue's messages are delivered, and the sweep goes on in five minutes"
        );
        Ok(())
    }

    /// Logs once that the queue must wait for a sweep.
    pub(super) fn waits_for_sweep(&mut self) {
        if !std::mem::replace(&mut self.sweeping.is_waiting, true) {
            tracing::warn!(
                most = super::super::cursor::announced::MOST,
                "the state is full of delivered files; auditsync receives no message until a sweep has passed some of them"
            );
        }
    }
}
