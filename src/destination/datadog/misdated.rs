//! Entries that the intake accepted and dropped, because their times came from a wrong clock.

use std::ops::Range;

use jiff::Timestamp;

use super::client::Client;
use super::entry;
use super::error::Error;
use crate::clock::LocalTime;
use crate::event::Event;
use crate::server_time::TOLERANCE;

/// Entries that the intake accepted and dropped.
pub(super) struct Misdated {
    indices: Vec<usize>,
    /// Our time when they were written.
    ours: Timestamp,
    /// The intake's time.
    theirs: Timestamp,
}

impl Misdated {
    /// Finds them in `range`, whose entries were written for `written_for` in a request that began at `begun`.
    pub(super) fn of(
        client: &Client,
        events: &[Event],
        range: &Range<usize>,
        written_for: Timestamp,
        begun: LocalTime,
    ) -> Self {
        let theirs = client.intake_clock.at(begun, client.clock.local()).unwrap_or(written_for);
        let is_right = theirs.duration_since(written_for).unsigned_abs() <= TOLERANCE;
        let is_dropped = |index: &usize| {
            let stamp = events.get(*index).map(|event| entry::stamp(event, written_for));
            stamp.is_some_and(|stamp| !entry::is_kept(stamp, theirs))
        };
        let indices = if is_right { Vec::new() } else { range.clone().filter(is_dropped).collect() };
        Self { indices, ours: written_for, theirs }
    }

    /// Whether the intake dropped this entry.
    pub(super) fn has(&self, index: usize) -> bool {
        self.indices.binary_search(&index).is_ok()
    }

    /// The number of dropped entries.
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    /// The error, if there are any.
    pub(super) fn check(self, client: &Client) -> Result<(), Error> {
        let Self { indices, ours, theirs } = self;
        if indices.is_empty() {
            return Ok(());
        }
        Err(Error::Misdated { address: client.address(), entries: indices.len(), ours, theirs })
    }
}
