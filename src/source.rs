//! Where events come from.
//!
//! A source reads the [`Page`] that follows a [`Cursor`] and says what its failures mean. It never waits, retries or saves: the engine
//! does.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::LocalTime;
use crate::component::{Check, Configured};
use crate::config::{Alias, Noted, Reader, Spec};
use crate::event::Event;
use crate::failure::Failure;

pub mod digicert;
mod members;
pub mod sectigo;
pub(crate) mod variables;

/// How far a source has been read. Only the source that made it can read it. It holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(serde_json::Value);

impl Cursor {
    /// Wraps a source's own cursor.
    pub fn encode<T: Serialize>(cursor: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(cursor).map(Self)
    }

    /// The source's own cursor.
    pub fn decode<T: for<'de> Deserialize<'de>>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One step of a source.
#[derive(Debug)]
pub struct Page {
    /// What to deliver, in the source's order.
    pub events: Vec<Event>,
    /// How many records were dropped because they were delivered before.
    pub deduplicated: usize,
    /// The cursor behind this page: committed once `events` are delivered.
    pub next: Cursor,
    /// Whether the source has moved on. A one-shot run without progress ends when its retry budget is spent.
    pub progressed: bool,
    /// What follows this page.
    pub then: Then,
}

/// What follows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next page can be read at once.
    Now,
    /// The next page can be read after this time, as when a server is still making a report.
    After(Duration),
    /// Nothing, before the next sync.
    CaughtUp,
}

/// A system that keeps audit events.
#[async_trait]
pub trait Source: Send + Sync {
    /// Where events are read from, for messages: an address without credentials.
    fn location(&self) -> String;

    /// Where the first sync begins that starts at `now`.
    fn first_cursor(&self, now: Timestamp) -> Cursor;

    /// Up to when everything before `cursor` is known: the earliest time, where the cursor has several parts. An error where the cursor is
    /// not one of this source's.
    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure>;

    /// The page that follows `cursor`, within the history up to `begun`: the start of the sync. A source reads `begun` by its server's
    /// clock where it knows that clock.
    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure>;

    /// The present by the server's clock, as far as it is known `now`.
    fn server_time(&self, _now: LocalTime) -> Option<Timestamp> {
        None
    }

    /// The same cursor with a smaller range after it; none where the range cannot be smaller.
    fn narrowed(&self, _cursor: &Cursor, _begun: LocalTime) -> Option<Cursor> {
        None
    }

    /// Everything before `cursor` is delivered, and the cursor is stored: what the server or a spool keeps of it may go. A call may be
    /// repeated, and a later cursor stands for all before it.
    async fn committed(&self, _cursor: &Cursor) -> Result<(), Failure> {
        Ok(())
    }

    /// Stops what the source does ahead of a call: the next call may never come.
    fn pause(&self) {}

    /// Tries each part, for `auditsync check`. Nothing is delivered.
    async fn check(&self, now: LocalTime) -> Vec<Check>;
}

/// A kind of source, for the registry.
#[derive(Debug)]
pub struct Kind {
    /// Its name in `AUDITSYNC_PIPELINES` and, in capitals, in the prefix of its variables.
    pub name: &'static str,
    /// Its heading in the tables of variables.
    pub title: &'static str,
    /// What destinations know of it.
    pub product: Product,
    /// Its own variables, in the order of the tables.
    pub variables: &'static [&'static Spec],
    /// Names by which software that it replaces has values of our variables.
    pub aliases: &'static [Alias],
    /// The time between two syncs where none is set, if it is not the usual one.
    pub interval: Option<&'static str>,
    /// The cursor behind everything up to a time that an operator chose; none where the source cannot be read from a time on.
    pub cursor_at: fn(Timestamp) -> Option<Cursor>,
    /// [`Source::reached`], for commands that need no connection.
    pub reached: fn(&Cursor) -> Result<Timestamp, Failure>,
    /// Reads its variables.
    pub(crate) read: fn(&mut Reader<'_>) -> Result<Configured<dyn Source>, Noted>,
}

/// What destinations know of a source: names for whatever they need to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// The product, in one word: a key for its records, and a name by which other software knows them.
    pub name: &'static str,
    /// The service that its events belong to, where an operator names none.
    pub service: &'static str,
}
