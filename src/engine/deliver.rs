//! Delivers a page, with every retry, and only while no other instance may deliver.

use super::commit::Delivered;
use super::sync::Upcoming;
use super::{Engine, Error, Halt};
use crate::component::Component;
use crate::destination::{Acknowledged, Delivery, PageNumber, Resumed, Tally};
use crate::failure::{Chain, Failure};
use crate::state;

/// The log message when a lapsed lease cancels a call to the destination.
const LAPSED: &str = "the lease was not renewed in time, so the requests to the destination are cancelled; they are retried once the \
lease is certain";

/// The log message after requests without an answer.
const UNANSWERED: &str =
    "requests with these events had no answer, so the destination may have accepted them; they are delivered again";

impl Engine {
    /// Delivers a page. A shutdown waits for the page once a part of it has been sent.
    pub(super) async fn deliver(&self, upcoming: Upcoming) -> Result<Tally, Halt> {
        let Upcoming { page, delivery, .. } = upcoming;
        let Some(mut delivery) = delivery else {
            self.taken(page, Acknowledged::default());
            return Ok(Tally::default());
        };
        self.commits_keep_up(page).await?;
        self.ledger.lock().set_begun(page, true);
        let delivered = self.deliver_all(delivery.as_mut()).await;
        if delivered.is_err() && !delivery.has_begun() {
            self.ledger.lock().set_begun(page, false);
        }
        self.taken(page, delivered?);
        Ok(delivery.tally())
    }

    fn taken(&self, page: PageNumber, acknowledged: Acknowledged) {
        let mut ledger = self.ledger.lock();
        ledger.taken(page);
        ledger.acknowledge(acknowledged);
        drop(ledger);
        self.changed.notify_waiters();
    }

    /// Waits until enough pages are committed for the delivery of `page` to begin.
    async fn commits_keep_up(&self, page: PageNumber) -> Result<(), Halt> {
        loop {
            let changed = self.changed.notified();
            if self.ledger.lock().may_begin(page) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(Halt::Stopped),
                () = changed => {}
            }
        }
    }

    async fn deliver_all(&self, delivery: &mut dyn Delivery) -> Result<Acknowledged, Halt> {
        let mut call = self.retries.call(Component::Destination);
        loop {
            self.lease_is_certain(delivery.has_begun()).await?;
            self.lock_is_held(delivery.has_begun()).await?;
            let (before, unanswered_before) = (delivery.tally(), delivery.unanswered());
            let calling = call.begins();
            let heart = calling.heartbeat();
            let answer = tokio::select! {
                biased;
                () = self.lease_clock.lapse() => None,
                answer = delivery.attempt(self.now(), &heart) => Some(answer),
            };
            drop(calling);
            let unanswered = delivery.unanswered() - unanswered_before;
            self.metrics.possibly_duplicated(unanswered);
            let Some(answer) = answer else {
                tracing::warn!(possibly_duplicated = unanswered, "{LAPSED}");
                continue;
            };
            if unanswered > 0 {
                tracing::warn!(possibly_duplicated = unanswered, "{UNANSWERED}");
            }
            if delivery.tally().settled() > before.settled() || answer.is_ok() {
                // A destination that only gathered the page has called no server, so this is no contact.
                if self.destination.flush_due().is_none() {
                    call.succeeded();
                }
                self.retries.progress();
            }
            let cause = match answer {
                Ok(acknowledged) => return Ok(acknowledged),
                Err(cause) => cause,
            };
            if self.shutdown.is_requested() && !delivery.has_begun() {
                tracing::info!(error = %Chain(&cause), "shutting down before anything of the page was accepted");
                return Err(Halt::Stopped);
            }
            let decision = call.failed(cause.class());
            if let Some(reason) = call.persist(decision, &cause, delivery.has_begun()).await? {
                if delivery.has_begun() {
                    let accepted = delivery.tally().accepted;
                    tracing::warn!(accepted, "a part of a page is delivered; the next run may deliver it again");
                }
                return Err(Error::GivenUp { component: Component::Destination, reason, cause }.into());
            }
        }
    }

    /// Has the destination make durable what it has gathered.
    pub(super) async fn flush(&self) -> Result<(), Halt> {
        if !self.ledger.lock().is_gathering() {
            return Ok(());
        }
        let acknowledged = self.while_active(true, || self.destination.flush()).await?;
        self.retries.meets(Component::Destination);
        self.retries.progress();
        self.ledger.lock().acknowledge(acknowledged);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Advances the cursor past everything that the destination already has. A run may have ended before it stored that cursor. The
    /// engine commits the advanced cursor before it reads the source.
    pub(super) async fn resume(&self) -> Result<(), Halt> {
        loop {
            let Delivered { cursor, mark } = self.ledger.lock().start();
            let resumed = self.while_active(false, || self.destination.resume(&cursor, mark.as_ref())).await?;
            let Some(Resumed { cursor: end, mark: its_mark }) = resumed else { return Ok(()) };
            if end != cursor {
                // A whole cursor can be hundreds of kilobytes, and contain text from outside.
                let reached = self.source.reached(&end).ok();
                tracing::warn!(
                    up_to = reached.map(tracing::field::display),
                    "the destination already has events after the stored cursor; the cursor behind them is stored"
                );
            } else if its_mark == mark {
                return Ok(());
            }
            self.ledger.lock().adopt(Delivered { cursor: end, mark: its_mark });
            self.changed.notify_waiters();
            self.committed().await;
            self.retries.progress();
        }
    }

    /// Calls the destination until it succeeds, and only while no other instance may call it. A shutdown ends the retries, except with
    /// `through_shutdown`.
    async fn while_active<T, F>(&self, through_shutdown: bool, make: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut call = self.retries.call(Component::Destination);
        loop {
            self.lease_is_certain(through_shutdown).await?;
            self.lock_is_held(through_shutdown).await?;
            let calling = call.begins();
            let answer = tokio::select! {
                biased;
                () = self.shutdown.requested(), if !through_shutdown => return Err(Halt::Stopped),
                () = self.lease_clock.lapse() => None,
                answer = make() => Some(answer),
            };
            drop(calling);
            let cause = match answer {
                Some(Ok(answer)) => {
                    // A destination with nothing to do has called no server, so this success alone is no contact.
                    if call.has_failed() {
                        call.succeeded();
                    }
                    return Ok(answer);
                }
                Some(Err(cause)) => cause,
                None => {
                    tracing::warn!("{LAPSED}");
                    continue;
                }
            };
            let decision = call.failed(cause.class());
            if let Some(reason) = call.persist(decision, &cause, through_shutdown).await? {
                return Err(Error::GivenUp { component: Component::Destination, reason, cause }.into());
            }
        }
    }

    /// Makes sure that this instance still holds the store's lock. If another instance holds it now, that one delivers.
    async fn lock_is_held(&self, has_begun: bool) -> Result<(), Halt> {
        let mut call = self.retries.call(Component::StateStore);
        loop {
            let cause = match self.store.confirm().await {
                Ok(()) => return Ok(()),
                Err(state::Error::Busy { .. }) => return Err(Halt::Superseded),
                Err(cause) => cause,
            };
            let decision = call.failed(cause.class());
            if call.persist(decision, &cause, has_begun).await?.is_some() {
                return Err(cause.into());
            }
        }
    }

    /// Waits until the lease is certain. A shutdown ends the wait if nothing was sent yet.
    async fn lease_is_certain(&self, has_begun: bool) -> Result<(), Halt> {
        tokio::select! {
            biased;
            () = self.shutdown.requested(), if !has_begun => Err(Halt::Stopped),
            () = self.lease_clock.sure() => Ok(()),
        }
    }
}
