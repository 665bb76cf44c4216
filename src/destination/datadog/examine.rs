//! Examination of doubted entries: sends them, and leaves the decisions to [`super::doubt`].
//!
//! It sends one request at a time, because the order is evidence. An entry is at fault only if a notice is accepted
//! between each two of its failures.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;

use super::client::Client;
use super::error::Error;
use super::isolate::{Settling, Stopped};
use super::ledger::Ledger;
use crate::failure::Class;

/// The rounds in one call; each sends every single entry. Later calls gather the rest of the evidence, after the
/// engine's backoff.
const ROUNDS_IN_A_CALL: u32 = 2;

/// The most times in a row that a single entry is sent before a notice. The number is random. If it were always one, a
/// load balancer that takes its servers in turn, one of them failing, could fail every entry and no notice.
const MOST_IN_A_ROW: u32 = 3;

/// The most requests of an examination in one call, so as not to flood an intake in trouble.
const MOST_REQUESTS: u32 = 64;

/// The number of failures in a row that may be an outage, while nothing has been accepted in this call. A notice then
/// finds out.
const FAILURES_AT_FIRST: u32 = 2;

/// The same, once something has been accepted in this call: halving takes three failures of a range.
const FAILURES_LATER: u32 = 4;

/// The result for a doubted range, with the ranges to send next.
enum Tried {
    Accepted(Vec<Range<usize>>),
    Failed(Vec<Range<usize>>),
}

/// The examination of one call.
pub(super) struct Examination<'e, 'd> {
    client: &'e Client,
    ledger: &'e Ledger<'d>,
    now: Timestamp,
    requests: u32,
    /// Failures since something was accepted.
    unexplained: u32,
    has_accepted: bool,
    /// The longest `Retry-After` of a failure. Only the engine waits, after this call.
    after: Option<Duration>,
}

impl<'e, 'd> Examination<'e, 'd> {
    pub(super) fn new(client: &'e Client, ledger: &'e Ledger<'d>, now: Timestamp) -> Self {
        Self { client, ledger, now, requests: 0, unexplained: 0, has_accepted: false, after: None }
    }

    /// Sends doubted ranges until none is left, or until this call can find out no more.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut rounds = 0;
        loop {
            let mut queue: VecDeque<_> = self.ledger.remember(|work| work.doubts.to_try()).into();
            while let Some(range) = queue.pop_front() {
                let again = self.try_by_lot(range).await?;
                again.into_iter().rev().for_each(|range| queue.push_front(range));
                if self.unexplained >= if self.has_accepted { FAILURES_LATER } else { FAILURES_AT_FIRST } {
                    self.probe().await?;
                }
                if self.requests >= MOST_REQUESTS {
                    return self.ends();
                }
            }
            let (none, single) = self.ledger.remember(|work| {
                let doubts = work.doubts.all();
                (doubts.is_empty(), doubts.iter().all(super::doubt::Doubt::is_single))
            });
            if none {
                return Ok(());
            }
            if single || self.unexplained > 0 {
                self.probe().await?;
            }
            rounds += u32::from(single);
            if rounds >= ROUNDS_IN_A_CALL || self.requests >= MOST_REQUESTS {
                return self.ends();
            }
        }
    }

    /// Whether the intake accepts a notice of ours now.
    pub(super) async fn accepts_a_notice(mut self) -> bool {
        self.probe().await.is_ok()
    }

    /// Sends a notice of ours. If the intake accepts it, failures before it count against the entries that failed.
    async fn probe(&mut self) -> Result<(), Error> {
        let message =
            "auditsync tests whether the intake accepts entries, because requests with some audit records keep failing";
        let body = self.client.notice("probe", message, "info", self.now)?;
        self.requests += 1;
        match self.client.send(self.ledger, 0, body).await {
            Ok(()) => {
                (self.unexplained, self.has_accepted) = (0, true);
                for doubt in self.ledger.remember(|work| work.doubts.notice_accepted()) {
                    let reason = format!("{} ({} times, while notices were accepted)", doubt.reason, doubt.failures());
                    self.ledger.refused(doubt.range.start, reason);
                }
                self.ledger.write_letters(&self.client.dead_letters, self.now).await
            }
            Err(setback) => {
                self.ledger.remember(|work| work.doubts.notice_failed());
                Err(setback.into_error(self.client))
            }
        }
    }

    /// Sends a doubted range; a single entry several times while it fails. Returns the ranges to send next in its
    /// place.
    async fn try_by_lot(&mut self, range: Range<usize>) -> Result<Vec<Range<usize>>, Error> {
        let mut left = if range.len() == 1 { fastrand::u32(1..=MOST_IN_A_ROW) } else { 1 };
        loop {
            left -= 1;
            match self.attempt(range.clone()).await? {
                Tried::Accepted(next) => return Ok(next),
                Tried::Failed(_) if left > 0 => {}
                Tried::Failed(next) => {
                    self.unexplained += 1;
                    return Ok(next);
                }
            }
        }
    }

    /// Sends a doubted range once.
    async fn attempt(&mut self, range: Range<usize>) -> Result<Tried, Error> {
        let form = self.ledger.remember(|work| work.doubts.about(&range).map(|doubt| doubt.form));
        let Some(form) = form else { return Ok(Tried::Accepted(Vec::new())) };
        let batch = self.client.packer.pack(&self.ledger.events, range.clone(), form, self.now).await?;
        let sent = batch.range.clone();
        self.ledger.remember(|work| work.doubts.cut_at(&range, sent.end));
        let rest = Some(sent.end..range.end).filter(|rest| !rest.is_empty());
        self.requests += 1;
        let settling = Settling::of(self.client, self.ledger, batch, form, self.now);
        match settling.run().await {
            Ok(()) => {
                (self.unexplained, self.has_accepted) = (0, true);
                self.ledger.remember(|work| work.doubts.settled(&sent));
                Ok(Tried::Accepted(rest.into_iter().collect()))
            }
            Err(Stopped { error, again: Some(again) }) => {
                if let Class::Retryable { after } = error.class() {
                    self.after = self.after.max(after);
                }
                Ok(Tried::Failed(again.into_iter().chain(rest).collect()))
            }
            Err(Stopped { error, again: None }) => Err(error),
        }
    }

    fn ends(&self) -> Result<(), Error> {
        match self.ledger.remember(|work| work.doubts.all().first().cloned()) {
            Some(doubt) => Err(self.client.refuses_some(doubt.reason, self.after)),
            None => Ok(()),
        }
    }
}
