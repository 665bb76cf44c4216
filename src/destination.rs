//! Destinations: the systems to which events are delivered.
//!
//! A destination owns batching, limits, splitting and the meaning of its answers. It never waits or retries. After a failed attempt the
//! [`Delivery`] knows what is outstanding, and the engine attempts it again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::LocalTime;
use crate::component::{Check, Configured};
use crate::config::{Noted, Reader, Spec};
use crate::event::Event;
use crate::failure::Failure;
use crate::source::{self, Cursor};
use crate::telemetry::liveness::Heartbeat;

pub mod datadog;
pub mod fluentd;
mod letters;
mod printer;
mod progress;
#[cfg(feature = "s3")]
pub mod s3;
pub mod stdout;

pub use printer::Printer;
pub use progress::Progress;

/// The number of a page, counted from 1 since the instance became active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct PageNumber(pub u64);

impl PageNumber {
    /// The number of the next page.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A page on its way to a destination. Clones share the events.
#[derive(Debug, Clone)]
pub struct Shipment {
    /// The number of the page.
    pub page: PageNumber,
    /// The cursor before the page.
    pub from: Cursor,
    /// The cursor after the page.
    pub to: Cursor,
    /// The events, in the source's order.
    pub events: Arc<[Event]>,
}

/// An acknowledgement of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acknowledged {
    /// Every page up to this one is durable at the destination; none while the destination still gathers all of them.
    pub up_to: Option<PageNumber>,
    /// The mark to store beside the cursor after that page; none leaves the last mark as it is.
    pub mark: Option<Mark>,
}

impl Acknowledged {
    /// Acknowledges every page up to `page`.
    pub fn up_to(page: PageNumber) -> Self {
        Self { up_to: Some(page), mark: None }
    }
}

/// A destination's own note, stored in the state together with a cursor. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(pub serde_json::Value);

/// The results of a delivery so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Events that the destination accepted.
    pub accepted: usize,
    /// Accepted events that carry the present time, because the destination does not take their own.
    pub restamped: usize,
    /// Accepted events of which the destination has only the beginning. The whole record is a dead letter.
    pub truncated: usize,
    /// Events that the destination refused by themselves, and that became dead letters.
    pub dead_lettered: usize,
    /// How many requests were made.
    pub requests: usize,
    /// Bytes of request bodies as sent.
    pub bytes: u64,
}

impl Tally {
    /// How many events are accepted or dead letters.
    pub fn settled(&self) -> usize {
        self.accepted + self.dead_lettered
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.restamped += other.restamped;
        self.truncated += other.truncated;
        self.dead_lettered += other.dead_lettered;
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

/// A system that receives events.
#[async_trait]
pub trait Destination: Send + Sync {
    /// The location of the destination, for messages: an address without credentials.
    fn location(&self) -> String;

    /// Called when an instance became active and found `cursor` and `mark` in the state. A destination that already has
    /// events after the cursor returns the cursor after them, and the engine continues from there. The destination
    /// drops everything that it gathered before.
    async fn resume(&self, _cursor: &Cursor, _mark: Option<&Mark>) -> Result<Option<Resumed>, Failure> {
        Ok(None)
    }

    /// Called before each delivery with the source's time, where it is known, and this machine's at the same moment.
    fn note_source_time(&self, _theirs: Option<Timestamp>, _ours: Timestamp) {}

    /// Opens the delivery of a page. Work that needs no answer, such as compression, may begin at once. The first attempt may follow at once,
    /// late, or never. `now` is the present. The caller runs within a Tokio runtime.
    fn open(&self, shipment: Shipment, now: Timestamp) -> Box<dyn Delivery>;

    /// The latest time to call [`Self::flush`]; none if nothing is gathered.
    fn flush_due(&self) -> Option<Instant> {
        None
    }

    /// Makes everything that was gathered durable. The caller may drop the call at any await, and repeat it.
    async fn flush(&self) -> Result<Acknowledged, Failure> {
        Ok(Acknowledged::default())
    }

    /// Forgets what was gathered, since another instance delivers it.
    fn discard(&self) {}

    /// Tries each part, for `auditsync check`. It delivers at most one marked test event.
    async fn check(&self, now: LocalTime) -> Vec<Check>;
}

/// How far a destination already is.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// The cursor after the last event that the destination has.
    pub cursor: Cursor,
    /// The mark to store beside the cursor.
    pub mark: Option<Mark>,
}

/// The delivery of one page.
#[async_trait]
pub trait Delivery: Send {
    /// Sends the outstanding events. After an error, settled events stay settled, and the rest is outstanding. `now` is the moment of
    /// sending. Each answered part is a beat of `heart`.
    ///
    /// The caller may drop the call at any await. So a delivery notes settled events at once, and a dropped request counts as one without
    /// an answer.
    async fn attempt(&mut self, now: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure>;

    /// The results so far.
    fn tally(&self) -> Tally;

    /// How many events were in requests without an answer. An event in two such requests counts twice.
    fn unanswered(&self) -> usize {
        0
    }

    /// Whether the destination has, or may have, a part of this page.
    fn has_begun(&self) -> bool {
        self.unanswered() > 0 || self.tally().settled() > 0
    }
}

type Read<T> = fn(&mut Reader<'_>, &'static source::Kind) -> Result<Configured<T>, Noted>;

/// The greatest ages of an event with its own time.
#[derive(Debug, Clone, Copy)]
pub struct Oldest {
    /// The destination accepts no older one.
    pub accepted: Duration,
    /// auditsync sends no older one, so that an accepted one stays acceptable through retries, and if clocks differ.
    pub sent: Duration,
}

/// A kind of destination, for the registry.
#[derive(Debug)]
pub struct Kind {
    /// Its name in `AUDITSYNC_PIPELINES`.
    pub name: &'static str,
    /// Its heading in the tables of variables.
    pub title: &'static str,
    /// Its own variables, in the order of the tables.
    pub variables: &'static [&'static Spec],
    /// The greatest ages of an event with its own time; none if it takes any age.
    pub oldest: Option<Oldest>,
    /// Reads its variables, for a pipeline from a source of this kind.
    pub(crate) read: Read<dyn Destination>,
    /// Reads what a dry run needs. The destination then prints what the real one would send.
    pub(crate) preview: Read<dyn Destination>,
    /// Reads what proving its archive needs; none if it keeps no archive.
    pub(crate) archive: Option<Read<dyn Archive>>,
}

/// An archive that a destination keeps, in a form that shows whether a part of it was changed or removed.
#[async_trait]
pub trait Archive: Send + Sync {
    /// The location of the archive, for messages.
    fn location(&self) -> String;

    /// Reads the whole archive. `mark` is the destination's mark in the state. It calls `advance` for each proven part.
    async fn verify(&self, mark: Option<&Mark>, advance: &(dyn Fn(Advance) + Send + Sync)) -> Result<Proof, Failure>;
}

/// The progress of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// How many parts are proven.
    pub done: u64,
    /// How many parts the state names; none without a mark.
    pub total: Option<u64>,
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The proven parts, in words.
    pub proven: String,
    /// The first difference from what was written; none if there is no difference.
    pub flaw: Option<String>,
    /// The mark of the archive that was read. If the state has another one, the end of the archive is unproven.
    pub mark: Option<Mark>,
}
