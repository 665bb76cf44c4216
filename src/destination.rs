//! Where events go.
//!
//! A destination owns batching, limits, splitting and the meaning of its answers. It never waits or retries: after a failed attempt the
//! [`Delivery`] knows what is still to be sent, and the engine attempts it again.

use std::sync::Arc;

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
mod printer;
mod progress;
#[cfg(feature = "s3")]
pub mod s3;
pub mod stdout;

pub use printer::Printer;
pub use progress::Progress;

/// The number of a page since an instance became active, counted from 1.
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
    /// The page's number.
    pub page: PageNumber,
    /// The cursor before it.
    pub from: Cursor,
    /// The cursor behind it.
    pub to: Cursor,
    /// Its events, in the source's order.
    pub events: Arc<[Event]>,
}

/// What a destination has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acknowledged {
    /// Every page up to this one is durable at the destination; none while all of them are still being gathered.
    pub up_to: Option<PageNumber>,
    /// What the destination wants to find beside the cursor behind that page; none leaves the last mark as it is.
    pub mark: Option<Mark>,
}

impl Acknowledged {
    /// Every page up to `page`.
    pub fn up_to(page: PageNumber) -> Self {
        Self { up_to: Some(page), mark: None }
    }
}

/// A destination's own note, stored in the state together with a cursor. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(pub serde_json::Value);

/// What became of the events of a delivery so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Events that the destination accepted.
    pub accepted: usize,
    /// Those among them that carry the present time, because their own is outside what the destination takes.
    pub restamped: usize,
    /// Those among them of which the destination has the beginning; the whole record is a dead letter.
    pub truncated: usize,
    /// Events that the destination refuses by themselves: dead letters.
    pub dead_lettered: usize,
    /// Requests.
    pub requests: usize,
    /// Bytes of request bodies as sent.
    pub bytes: u64,
}

impl Tally {
    /// How many events are settled.
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

/// A system that takes events.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Where events go, for messages: an address without credentials.
    fn location(&self) -> String;

    /// An instance became active and found `cursor` and `mark` in the state. A destination that already has what follows the cursor gives
    /// the cursor behind it, and the engine goes on from there. Whatever the destination gathered before is void.
    async fn resume(&self, _cursor: &Cursor, _mark: Option<&Mark>) -> Result<Option<Resumed>, Failure> {
        Ok(None)
    }

    /// Opens the delivery of a page. What needs no answer may begin at once, such as compression. The first attempt may follow at once, late,
    /// or never. `now` is the present. Called within a runtime of tokio.
    fn open(&self, shipment: Shipment, now: Timestamp) -> Box<dyn Delivery>;

    /// When [`Self::flush`] has to be called at the latest; none where nothing is gathered.
    fn flush_due(&self) -> Option<Instant> {
        None
    }

    /// Makes everything durable that was gathered. The call may be dropped at any await, and repeated.
    async fn flush(&self) -> Result<Acknowledged, Failure> {
        Ok(Acknowledged::default())
    }

    /// Forgets what was gathered: another instance delivers it.
    fn discard(&self) {}

    /// Tries each part, for `auditsync check`. At most a marked test event is delivered.
    async fn check(&self, now: LocalTime) -> Vec<Check>;
}

/// Where a destination already stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// The cursor behind what the destination has.
    pub cursor: Cursor,
    /// The mark that belongs to it.
    pub mark: Option<Mark>,
}

/// The delivery of one page.
#[async_trait]
pub trait Delivery: Send {
    /// Sends what is outstanding. After an error, what was settled stays settled and the rest is outstanding. `now` is the moment of
    /// sending; each answered part is a beat of `heart`.
    ///
    /// The call may be dropped at any await. So what is settled is noted at once, and a request that is under way then counts as one
    /// without an answer.
    async fn attempt(&mut self, now: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure>;

    /// What became of the events so far.
    fn tally(&self) -> Tally;

    /// How many events the requests without an answer carried. An event that was in two of them counts twice.
    fn unanswered(&self) -> usize {
        0
    }

    /// Whether the destination has, or may have, anything of this page.
    fn has_begun(&self) -> bool {
        self.unanswered() > 0 || self.tally().settled() > 0
    }
}

type Read<T> = fn(&mut Reader<'_>, &'static source::Kind) -> Result<Configured<T>, Noted>;

/// A kind of destination, for the registry.
#[derive(Debug)]
pub struct Kind {
    /// Its name in `AUDITSYNC_PIPELINES`.
    pub name: &'static str,
    /// Its heading in the tables of variables.
    pub title: &'static str,
    /// Its own variables, in the order of the tables.
    pub variables: &'static [&'static Spec],
    /// The age up to which it takes an event with the event's own time; none where it takes any.
    pub oldest: Option<std::time::Duration>,
    /// Reads its variables, for a pipeline that begins at a source of this kind.
    pub(crate) read: Read<dyn Destination>,
    /// Reads what a dry run needs: the destination then prints what the real one would send.
    pub(crate) preview: Read<dyn Destination>,
    /// Reads what proving its archive needs; none where it keeps no archive.
    pub(crate) archive: Option<Read<dyn Archive>>,
}

/// What a destination keeps for good, in a form that shows whether anything of it was changed or taken away.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Where it is, for messages.
    fn location(&self) -> String;

    /// Reads all of it. `mark` is what the state holds of this destination; `advance` is called for each part that is proven.
    async fn verify(&self, mark: Option<&Mark>, advance: &(dyn Fn(Advance) + Send + Sync)) -> Result<Proof, Failure>;
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Parts that are proven.
    pub done: u64,
    /// All parts that the state names; none where there is no mark.
    pub total: Option<u64>,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// What was proven, for a person.
    pub proven: String,
    /// The first place where the archive is not as it was written.
    pub flaw: Option<String>,
    /// The mark that belongs to what was read. Where the state has another one, the end of the archive is unproven.
    pub mark: Option<Mark>,
}
