//! Delivering a page: for as long as it takes, and only while nobody else may.

use std::cell::Cell;

use tokio::sync::Mutex;

use super::attempt::{Attempt, Counterpart};
use super::commit::Committer;
use super::report::Report;
use super::{Error, Halt, Save, Sync};
use crate::destination::{self, Delivery, Receipt};
use crate::failure::Chain;
use crate::source::Cursor;
use crate::state;
use crate::telemetry::metrics;

/// Why a call to the destination is broken off.
const LAPSED: &str = "the lease could not be renewed in time, so what is under way to the destination is cut off; it goes on once the lease \
                      is certain";

/// What a request without an answer means.
const UNANSWERED: &str =
    "requests with these events had no answer, so the destination may have accepted them; they are sent again";

impl Sync {
    /// Delivers a page and writes the cursor behind it, at once or, where the store wants to be written to slowly, at its time.
    pub(super) async fn settle(
        &self,
        delivery: Delivery,
        cursor: Cursor,
        ledger: &Mutex<Committer>,
        report: &mut Report,
    ) -> Result<(), Halt> {
        // A write that is under way ends first: while the store does not answer, nothing further is delivered.
        drop(ledger.lock().await);
        let receipt = if delivery.is_complete() { None } else { Some(self.deliver(delivery, report).await?) };
        let mut committer = ledger.lock().await;
        self.in_flight.delivered();
        // What the destination holds in a buffer is not accepted yet; neither is what follows it.
        if receipt == Some(Receipt::Held) || self.destination.is_holding() {
            committer.hold(cursor);
            return Ok(());
        }
        committer.advance(cursor);
        if committer.due_in().is_zero() {
            self.write(&mut committer, Save::Pending).await?;
        }
        Ok(())
    }

    /// Commits what is left to commit: at the end of a cycle and before a stop.
    pub(super) async fn finish(&self, ledger: &Mutex<Committer>) -> Result<(), Halt> {
        if self.destination.is_holding() {
            let mut attempt = self.attempts.with(Counterpart::Destination);
            while let Err(cause) = self.flush(&attempt).await {
                let verdict = attempt.failed(cause.class());
                if let Some(reason) = attempt.persist(verdict, &cause, true).await? {
                    return Err(Error::Destination { name: self.destination.name(), reason, cause }.into());
                }
            }
        }
        ledger.lock().await.flushed();
        self.settled(ledger).await;
        self.write(&mut *ledger.lock().await, Save::Pending).await
    }

    /// Waits until the store bears another write.
    pub(super) async fn settled(&self, ledger: &Mutex<Committer>) {
        let due_in = ledger.lock().await.due_in();
        tokio::time::sleep(due_in).await;
    }

    /// Empties the destination's buffer, as long as the lease is certain.
    async fn flush(&self, attempt: &Attempt<'_>) -> Result<(), destination::Error> {
        loop {
            self.tenure.sure().await;
            let _calling = attempt.calls();
            tokio::select! {
                biased;
                () = self.tenure.lapse() => tracing::warn!("{LAPSED}"),
                flushed = self.destination.flush() => return flushed,
            }
        }
    }

    /// Delivers a page, however long it takes. A stop lets it end, unless nothing of it has left yet.
    async fn deliver(&self, mut delivery: Delivery, report: &mut Report) -> Result<Receipt, Halt> {
        self.in_flight.delivering(delivery.events().len());
        let delivered = self.deliver_all(&mut delivery, report).await;
        if delivered.is_err() && !delivery.is_begun() {
            self.in_flight.delivering(0);
        }
        delivered
    }

    async fn deliver_all(&self, delivery: &mut Delivery, report: &mut Report) -> Result<Receipt, Halt> {
        let mut attempt = self.attempts.with(Counterpart::Destination);
        loop {
            self.assured(delivery.is_begun()).await?;
            self.confirmed(delivery.is_begun()).await?;
            let (before, before_unanswered) = (delivery.tally(), delivery.unanswered());
            let calling = attempt.calls();
            delivery.watched_by(calling.beat());
            let answer = tokio::select! {
                biased;
                () = self.tenure.lapse() => None,
                answer = self.destination.deliver(delivery, self.now()) => Some(answer),
            };
            drop(calling);
            let unanswered = delivery.unanswered() - before_unanswered;
            metrics::possibly_duplicated(unanswered);
            let Some(answer) = answer else {
                tracing::warn!(possibly_duplicated = unanswered, "{LAPSED}");
                continue;
            };
            if unanswered > 0 {
                tracing::warn!(possibly_duplicated = unanswered, "{UNANSWERED}");
            }
            let tally = delivery.tally();
            if (tally.accepted, tally.rejected) != (before.accepted, before.rejected) {
                attempt.succeeded();
                self.attempts.progress();
            }
            let cause = match answer {
                Ok(receipt) => {
                    attempt.succeeded();
                    self.attempts.progress();
                    report.delivered(tally);
                    return Ok(receipt);
                }
                Err(cause) => cause,
            };
            if self.stop.is_requested() && !delivery.is_begun() {
                tracing::info!(error = %Chain(&cause), "stopping before anything of the page was accepted");
                return Err(Halt::Stopped);
            }
            let verdict = attempt.failed(cause.class());
            if let Some(reason) = attempt.persist(verdict, &cause, delivery.is_begun()).await? {
                if delivery.is_begun() {
                    let accepted = delivery.tally().accepted;
                    tracing::warn!(accepted, "a part of a page is delivered and may be sent again by the next run");
                }
                return Err(Error::Destination { name: self.destination.name(), reason, cause }.into());
            }
        }
    }

    /// Makes sure that the store's lock is still held. If another instance holds it now, that one delivers.
    async fn confirmed(&self, is_begun: bool) -> Result<(), Halt> {
        let mut attempt = self.attempts.with(Counterpart::Store);
        loop {
            let cause = match self.store.confirm().await {
                Ok(()) => return Ok(()),
                Err(state::Error::Busy { .. }) => return Err(Halt::Superseded),
                Err(cause) => cause,
            };
            let verdict = attempt.failed(cause.class());
            if attempt.persist(verdict, &cause, is_begun).await?.is_some() {
                return Err(cause.into());
            }
        }
    }

    /// Waits until the lease is certain. A stop does not wait for it where nothing was sent yet.
    async fn assured(&self, is_begun: bool) -> Result<(), Halt> {
        tokio::select! {
            biased;
            () = self.stop.requested(), if !is_begun => Err(Halt::Stopped),
            () = self.tenure.sure() => Ok(()),
        }
    }
}

/// Events handed to the destination and not committed.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    delivering: Cell<usize>,
    uncommitted: Cell<usize>,
}

impl InFlight {
    fn delivering(&self, events: usize) {
        self.delivering.set(events);
    }

    fn delivered(&self) {
        self.uncommitted.set(self.uncommitted.get() + self.delivering.take());
    }

    pub(super) fn committed(&self) {
        self.uncommitted.set(0);
    }

    pub(super) fn count(&self) -> usize {
        self.delivering.get() + self.uncommitted.get()
    }

    /// The count, which begins anew.
    pub(super) fn take(&self) -> usize {
        self.delivering.take() + self.uncommitted.take()
    }
}
