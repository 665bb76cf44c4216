//! Where events go.
//!
//! A destination owns batching, limits, splitting and what its answers mean. It never waits: a failed call leaves in the
//! [`Delivery`] what is still to be sent, and the engine calls again.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::event::Event;
use crate::failure::Class;
use crate::http::{self, Excerpt, Place};
use crate::telemetry::pulse::Beat;
use crate::variable_name::VariableName;

pub mod datadog;
pub(crate) mod variables;

/// A page on its way out.
#[derive(Debug)]
pub struct Delivery {
    events: Arc<[Event]>,
    outstanding: Vec<Range<usize>>,
    unanswered: usize,
    tally: Tally,
    beat: Beat,
    prepared: Kept,
    memory: Kept,
}

/// What a destination keeps with a delivery, in a form that it alone knows.
#[derive(Default)]
struct Kept(Option<Box<dyn Any + Send>>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Something" } else { "Nothing" })
    }
}

/// What became of the events of a delivery so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Accepted by the destination.
    pub accepted: usize,
    /// Accepted with the present time, because their own is outside what the destination takes.
    pub restamped: usize,
    /// Accepted in part; the whole record is kept aside.
    pub truncated: usize,
    /// Refused one by one and kept aside.
    pub rejected: usize,
    /// Requests made.
    pub requests: usize,
    /// Bytes of request bodies as sent.
    pub bytes: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.restamped += other.restamped;
        self.truncated += other.truncated;
        self.rejected += other.rejected;
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

impl Delivery {
    /// A page of which nothing has been sent.
    pub fn new(events: Vec<Event>) -> Self {
        let whole = 0..events.len();
        let outstanding = if whole.is_empty() { Vec::new() } else { vec![whole] };
        Self {
            events: events.into(),
            outstanding,
            unanswered: 0,
            tally: Tally::default(),
            beat: Beat::default(),
            prepared: Kept::default(),
            memory: Kept::default(),
        }
    }

    /// All events of the page, settled or not.
    pub fn events(&self) -> &Arc<[Event]> {
        &self.events
    }

    /// The events still to be sent, as ranges of [`Self::events`] in order.
    pub fn outstanding(&self) -> &[Range<usize>] {
        &self.outstanding
    }

    /// Replaces what is still to be sent: what a pass left over.
    pub fn leave(&mut self, mut outstanding: Vec<Range<usize>>) {
        outstanding.retain(|range| !range.is_empty());
        outstanding.sort_by_key(|range| range.start);
        self.outstanding = outstanding;
    }

    /// Takes `range` from what is still to be sent.
    pub fn settle(&mut self, range: &Range<usize>) {
        let around = |open: &Range<usize>| [open.start..open.end.min(range.start), open.start.max(range.end)..open.end];
        self.leave(self.outstanding.iter().flat_map(around).collect());
    }

    /// Adds what a pass achieved.
    pub fn count(&mut self, tally: Tally) {
        self.tally += tally;
    }

    /// Notes that a request with so many events was never answered, so that they may have been accepted.
    pub fn note_unanswered(&mut self, events: usize) {
        self.unanswered = self.unanswered.saturating_add(events);
    }

    /// How many events the requests without an answer carried; one that was in two of them counts twice.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// From now on `beat` is to be told of each part that is done.
    pub fn watched_by(&mut self, beat: Beat) {
        self.beat = beat;
    }

    /// To be told of each part that is done, such as a request that was answered.
    pub fn beat(&self) -> Beat {
        self.beat.clone()
    }

    /// Keeps what the destination has made ready, until it is taken or the delivery dropped.
    pub fn set_prepared(&mut self, prepared: impl Any + Send) {
        self.prepared = Kept(Some(Box::new(prepared)));
    }

    /// What [`Self::set_prepared`] kept, once; what is of another type is dropped.
    pub fn take_prepared<T: Any + Send>(&mut self) -> Option<T> {
        self.prepared.0.take()?.downcast().ok().map(|prepared| *prepared)
    }

    /// Changes what the destination remembers of this delivery from one call to the next, which begins as the default.
    pub fn remember<T: Any + Default + Send, R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let kept = self.memory.0.take().and_then(|kept| kept.downcast::<T>().ok());
        let mut memory = kept.unwrap_or_default();
        let changed = change(&mut memory);
        self.memory = Kept(Some(memory));
        changed
    }

    /// What was achieved so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether every event is settled.
    pub fn is_complete(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Whether the destination has, or may have, anything of this page.
    pub fn is_begun(&self) -> bool {
        self.unanswered > 0 || self.tally.accepted > 0 || self.tally.rejected > 0
    }
}

/// What a destination did with the whole of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Every event is accepted, or rejected by itself and kept.
    Accepted,
    /// Taken into a buffer: to be committed with the next [`Receipt::Accepted`] or with [`Destination::flush`].
    Held,
}

/// A system that takes events.
#[async_trait]
pub trait Destination: Send + Sync {
    /// The destination's name, for messages.
    fn name(&self) -> &'static str;

    /// Begins with what can be done before anything is sent, such as to compress it, and does not wait for it. The delivery may
    /// follow at once, late, or never; `now` is the present moment. To be called within a runtime of tokio.
    fn prepare(&self, _delivery: &mut Delivery, _now: Timestamp) {}

    /// Sends what is outstanding in `delivery`. After an error, what was settled stays settled and the rest is
    /// still outstanding. `now` is the moment of sending.
    ///
    /// The call may be dropped at any await. So what is settled has to be noted in `delivery` at once, and a request that is under way
    /// when the call is dropped as one without an answer.
    async fn deliver(&self, delivery: &mut Delivery, now: Timestamp) -> Result<Receipt, Error>;

    /// Whether events of a [`Receipt::Held`] still wait in a buffer.
    fn is_holding(&self) -> bool {
        false
    }

    /// Empties a buffer, where there is one: after it, everything [`Receipt::Held`] is accepted.
    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Why a destination did not take everything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The destination cannot be reached or did not answer whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The destination answered that it cannot take it now.
    #[error("{place} answered {status}: {reason}")]
    Unavailable {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The wait it asked for.
        after: Option<Duration>,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The key was refused.
    #[error("{place} refused the API key ({status}: {reason}); check {variable}, and that the key belongs to {site}")]
    KeyRefused {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that carries the key.
        variable: VariableName,
        /// The variable and value that chose the place.
        site: String,
    },
    /// The key was refused, and its file holds another by now.
    #[error("{place} refused the API key; {variable} names a newer one, which is tried next")]
    KeyRotated {
        /// Where the call went.
        place: Place,
        /// The variable that names the file.
        variable: VariableName,
    },
    /// The key was refused, and its file cannot be read again.
    #[error("{place} refused the API key, and {variable} cannot be read again")]
    KeyGone {
        /// Where the call went.
        place: Place,
        /// The variable that names the file.
        variable: VariableName,
        /// What was wrong with the file.
        #[source]
        cause: crate::secret::SecretError,
    },
    /// The destination refuses whatever is sent.
    #[error("{place} refuses everything ({reason}); nothing is put aside and the cursor stays; check {variable}")]
    RefusesAll {
        /// Where the call went.
        place: Place,
        /// The answer's status and the beginning of its body.
        reason: String,
        /// The variable that names the place.
        variable: VariableName,
    },
    /// The destination accepts others, but not a part of what is sent.
    #[error(
        "{place} does not accept some entries ({reason}) and accepts others; these are isolated and retried, and become dead letters \
         if that goes on"
    )]
    RefusesSome {
        /// Where the calls went.
        place: Place,
        /// What the last of them came to.
        reason: String,
    },
    /// A success that the destination itself would not give.
    #[error(
        "{place} answered {status}, which the intake itself does not: something between us and it answers in its place; check {variable} and the proxy"
    )]
    NotTheIntake {
        /// Where the call went.
        place: Place,
        /// The answer's status.
        status: u16,
        /// The variable that names the place.
        variable: VariableName,
        /// Whether it may be a relay that passed on what was sent, and answers otherwise than any that is known.
        is_relay: bool,
    },
    /// Entries were accepted and dropped, because of the times they carried.
    #[error(
        "{place} accepted {entries} entries and dropped them: they carried times by a clock that showed {ours}, and its own shows {theirs}. \
         They are sent again with its time. Synchronise this machine's clock (NTP)"
    )]
    Misdated {
        /// Where the call went.
        place: Place,
        /// How many were dropped.
        entries: usize,
        /// The time for which they were written.
        ours: Timestamp,
        /// The server's time.
        theirs: Timestamp,
    },
    /// Entries could not be printed.
    #[error("cannot write to {place}")]
    Unprinted {
        /// Where they were to go.
        place: &'static str,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A dead letter could not be written.
    #[error(
        "a dead letter cannot be written to {place}; the cursor stays and the delivery is retried; free disk space, correct the \
         permissions, or set {} to a file that can be written",
        variables::DEAD_LETTER_PATH.spec.name
    )]
    Unkept {
        /// Where the dead letter was to be kept.
        place: String,
        /// What the system answered.
        #[source]
        cause: std::io::Error,
    },
    /// A worker thread of ours failed.
    #[error("a batch could not be prepared")]
    Batch(#[source] std::io::Error),
}

impl Error {
    /// Whether the destination may have accepted what was sent all the same.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Http(error) => error.may_have_arrived(),
            Self::NotTheIntake { is_relay, .. } => *is_relay,
            _ => false,
        }
    }

    /// What the error means to the engine.
    pub fn class(&self) -> Class {
        match self {
            Self::Http(http::Error::Setup(_) | http::Error::NoTls { .. }) | Self::Unprinted { .. } => Class::Fatal,
            Self::Http(http::Error::Redirected { .. }) | Self::RefusesAll { .. } => Class::Refused,
            // Whatever answers in the intake's place may go away again, as a portal does.
            Self::Http(_)
            | Self::Batch(_)
            | Self::Unkept { .. }
            | Self::KeyRotated { .. }
            | Self::NotTheIntake { .. }
            | Self::RefusesSome { .. }
            | Self::Misdated { .. } => Class::Retryable { after: None },
            Self::Unavailable { after, .. } => Class::Retryable { after: *after },
            Self::KeyRefused { .. } | Self::KeyGone { .. } => Class::CredentialsRefused,
        }
    }
}
