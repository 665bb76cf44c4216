//! Sources: the systems from which events are read.
//!
//! A source reads the [`Page`] that follows a [`Cursor`], and classifies its failures. It never waits, retries or saves: the engine does.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::LocalTime;
use crate::component::{Check, Claim, Configured};
use crate::config::{Alias, Noted, Reader, Spec};
use crate::event::Event;
use crate::failure::Failure;
use crate::telemetry::liveness::Liveness;

#[cfg(feature = "s3")]
pub mod cloudtrail;
pub mod digicert;
#[cfg(feature = "receiver")]
pub mod receiver;
pub mod sectigo;
pub(crate) mod stretch;
#[cfg(feature = "teleport")]
pub mod teleport;
mod times;
pub(crate) mod unconfirmed;
pub(crate) mod variables;

/// How far a source has been read. Only the source that made a cursor can read it. It contains no secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(serde_json::Value);

impl Cursor {
    /// Wraps the own cursor of a source.
    pub fn encode<T: Serialize>(cursor: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(cursor).map(Self)
    }

    /// Unwraps the own cursor of a source.
    pub fn decode<T: for<'de> Deserialize<'de>>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a part of a cursor has its default, which is not stored.
fn is_default<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

/// One step of a source.
#[derive(Debug)]
pub struct Page {
    /// The events to deliver, in the source's order.
    pub events: Vec<Event>,
    /// How many records were dropped because they were delivered before.
    pub deduplicated: usize,
    /// The cursor after this page, which the engine commits once `events` are delivered.
    pub next: Cursor,
    /// Whether the source made progress. A one-shot without progress ends when its retry budget is spent.
    pub progressed: bool,
    /// What follows this page.
    pub then: Then,
}

/// What follows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next page can be read at once.
    Now,
    /// The next page can be read after this time, for example because a server is still making a report.
    After(Duration),
    /// There is no further page before the next sync.
    CaughtUp,
}

/// A system that keeps audit events.
#[async_trait]
pub trait Source: Send + Sync {
    /// The location of the source, for messages: an address without credentials.
    fn location(&self) -> String;

    /// The cursor of a first sync that starts at `now`.
    fn first_cursor(&self, now: Timestamp) -> Cursor;

    /// The time up to which everything is read at `cursor`: the earliest one if the cursor has several parts. An error if this source cannot
    /// read the cursor.
    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure>;

    /// Called when the pipeline starts, before everything else, even if this instance is not active. It is called again if the pipeline
    /// starts again. A source to which others push lets them connect from now on.
    async fn open(&self, _opening: &Opening) -> Result<(), Failure> {
        Ok(())
    }

    /// Reads the page that follows `cursor`, within the history up to `begun`, the start of the sync. A source converts `begun` to its
    /// server's time if it knows that clock.
    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure>;

    /// The present by the server's clock, as far as it is known `now`.
    fn server_time(&self, _now: LocalTime) -> Option<Timestamp> {
        None
    }

    /// Returns the same cursor with a smaller range after it; none if the range cannot be smaller.
    fn narrowed(&self, _cursor: &Cursor, _begun: LocalTime) -> Option<Cursor> {
        None
    }

    /// Called when everything before `cursor` is delivered and the cursor is stored. The source may now delete it from its server's queue or
    /// its spool. A call may be repeated, and a later cursor includes all earlier ones.
    async fn committed(&self, _cursor: &Cursor) -> Result<(), Failure> {
        Ok(())
    }

    /// Stops any work that the source does ahead of a call, since the next call may never come.
    fn pause(&self) {}

    /// Stops the work that is not committed, because another instance is active. This instance does not deliver that work. The next call,
    /// if any, begins at the cursor that the state then has.
    fn superseded(&self) {
        self.pause();
    }

    /// Tries each part, for `auditsync check`. It delivers nothing.
    async fn check(&self, now: LocalTime) -> Vec<Check>;
}

/// The parts that a running pipeline gives to its source.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Cancelled by the request to shut down, or when all pipelines have ended. The source then accepts no more connections.
    pub shutdown: CancellationToken,
    /// Tasks of the source, such as connections. The process waits a few seconds for them after `shutdown`.
    pub tasks: TaskTracker,
    /// Whether the pipeline runs until it is stopped. If not, it delivers the events that exist, and ends.
    pub is_daemon: bool,
    /// The pipeline's liveness, in which the source notes its backlog.
    pub liveness: Liveness,
}

/// A queue of the server, which keeps undelivered records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Whether the queue is the source's only cursor. Then no state is stored, and several instances share the work without a lease.
    pub is_the_cursor: bool,
}

/// The interval of a source that reads from a queue, if none is set. It is short because such a source waits for news at the queue.
pub(crate) const QUEUE_INTERVAL: Duration = Duration::from_secs(5);

/// A kind of source, for the registry.
#[derive(Debug)]
pub struct Kind {
    /// Its name in `AUDITSYNC_PIPELINES` and, in capitals, in the prefix of its variables.
    pub name: &'static str,
    /// Its heading in the tables of variables.
    pub title: &'static str,
    /// Its names for destinations.
    pub product: Product,
    /// Its own variables, in the order of the tables.
    pub variables: &'static [&'static Spec],
    /// Variables of the software that it replaces, from which ours can take their values.
    pub aliases: &'static [Alias],
    /// How far back it can be read, in words, if that is known.
    pub history: Option<&'static str>,
    /// The default time between two syncs, if it is not the usual one.
    pub interval: Option<Duration>,
    /// Reads the queue, if its variables name one. It notes no other mistakes in those variables.
    pub(crate) queue: fn(&mut Reader<'_>) -> Result<Option<Queue>, Noted>,
    /// For a source to which clients connect: reads the things that its pipeline must have for itself, and notes no other mistakes than
    /// `read`. Such a source needs a process that keeps running, so it cannot run in an AWS Lambda function, and a daemon with it does not
    /// end when the pipeline fails.
    pub(crate) server: Option<fn(&mut Reader<'_>) -> Vec<Claim>>,
    /// Makes the cursor of a first sync that starts at a time, as [`Source::first_cursor`] does. It reads only the variables that decide it.
    pub(crate) first: fn(&mut Reader<'_>, Timestamp) -> Result<Cursor, Noted>,
    /// Makes the cursor after everything up to a time that an operator chose; none if the source cannot begin at a time. The second time
    /// is the end of a range, whose events are before it. A source may leave later events for the caller to drop. The new cursor keeps what
    /// waits in the given one beside the log, such as recorded sessions.
    pub cursor_at: fn(Timestamp, Option<Timestamp>, Option<&Cursor>) -> Option<Cursor>,
    /// [`Source::reached`], for commands that need no connection.
    pub reached: fn(&Cursor) -> Result<Timestamp, Failure>,
    /// The time up to which nothing is left to deliver. The source no longer looks for late events before it. A range that ends there is
    /// done.
    pub settled: fn(&Cursor) -> Result<Timestamp, Failure>,
    /// Reads its variables.
    pub(crate) read: fn(&mut Reader<'_>) -> Result<Configured<dyn Source>, Noted>,
}

/// The names of a source for destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// The product in one word: a key for its records, and the name by which other software knows them.
    pub name: &'static str,
    /// The service of its events, if an operator sets none.
    pub service: &'static str,
    /// Whether other software expects the members of its records at the top level, and not under the product's name.
    pub is_flat: bool,
}
