//! Becoming the active instance, remaining active, and stepping down.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::backoff::Backoff;
use super::commit::{Committer, Delivered, Sighting};
use super::ledger::Ledger;
use super::retry::DURING_SHUTDOWN;
use super::{CLOCK_IS_SET, Engine, Error, Halt, Mode};
use crate::clock::whole_seconds;
use crate::component::Component;
use crate::failure::Chain;
use crate::state::lease::{Chance, Watch};
use crate::state::{self, Claim};

/// How often a standby looks at the state.
const STANDBY_LOOK: Duration = Duration::from_secs(1);

/// The longest that a sync or a shutdown waits for the source to confirm a stored cursor.
const LONGEST_CONFIRMATION: Duration = Duration::from_secs(10);

/// What a save is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    /// Store the cursor after the delivered pages.
    Pending,
    /// Renew the lease.
    Renewal,
    /// Release the lease.
    Release,
}

impl Engine {
    /// Becomes the active instance. A daemon waits on standby for as long as another is active; a one-shot waits for its retry budget.
    pub(super) async fn become_active(&self) -> Result<(), Halt> {
        let mut committer = self.committer.lock().await;
        let committer = &mut *committer;
        let is_first = if self.is_locked().await? {
            committer.observe().await?;
            let is_first = committer.delivered().is_none();
            if is_first {
                committer.advance(self.first()?);
                // Storing the first cursor before the first request means that an outage loses nothing. It also shows at once whether
                // the store can be saved to.
                committer.write().await?;
            }
            is_first
        } else {
            self.win_lease(committer).await?
        };
        self.retries.liveness.is_active();
        self.metrics.is_active(true);
        let Some(delivered) = committer.delivered().cloned() else { return Ok(()) };
        let since = self.reached(&delivered.cursor)?;
        self.metrics.reached(since);
        let location = committer.location();
        if is_first {
            tracing::info!(%location, %since, "there is no state yet: this is the first sync");
        } else {
            tracing::info!(%location, %since, "continuing from the stored cursor");
        }
        *self.ledger.lock() = Ledger::starting_at(delivered, self.store.pace(), Some(Instant::now()));
        Ok(())
    }

    /// Takes the store's lock. False if the store has none, and the lease in the document decides.
    async fn is_locked(&self) -> Result<bool, Halt> {
        let begun = Instant::now();
        let mut is_standby = false;
        loop {
            let holder = match self.store.claim().await? {
                Claim::ByLease => return Ok(false),
                Claim::Granted => break,
                Claim::Busy { holder } => holder,
            };
            self.retries.liveness.is_standby(&holder);
            let location = self.store.location();
            if self.settings.mode == Mode::Once && begun.elapsed() >= self.settings.retry_budget {
                return Err(state::Error::Busy { location, holder }.into());
            }
            if !is_standby {
                self.log_standby(&location, &holder);
                is_standby = true;
            }
            if !self.rest(STANDBY_LOOK).await {
                return Err(Halt::Stopped);
            }
        }
        if is_standby {
            self.retries.fails_over();
            tracing::info!(
                location = self.store.location(),
                "the other instance has ended; failover: this one is active now"
            );
        }
        self.retries.progress();
        Ok(true)
    }

    /// Watches the document until its lease is released or expires, and puts ours into it. True if it is the first document.
    async fn win_lease(&self, committer: &mut Committer) -> Result<bool, Halt> {
        let begun = Instant::now();
        let mut watch = Watch::default();
        let mut standby_for = None;
        let mut seen = begun;
        let mut call = self.retries.call(Component::StateStore);
        let is_first = loop {
            let calling = call.begins();
            let looked = self.look(committer, &mut watch).await;
            drop(calling);
            let cause = match looked {
                Ok(Look::Ours { is_first }) => break is_first,
                Ok(Look::Theirs { holder, look_in }) => {
                    call.succeeded();
                    seen = Instant::now();
                    // Being on standby is no failure. It must not use up the retry budget.
                    self.retries.progress();
                    self.retries.liveness.is_standby(&holder);
                    let location = self.store.location();
                    let is_over = self.settings.mode == Mode::Once && begun.elapsed() >= self.settings.retry_budget;
                    if is_over && watch.has_seen_renewal() {
                        return Err(state::Error::Busy { location, holder }.into());
                    }
                    if standby_for.is_none() {
                        self.log_standby(&location, &holder);
                    }
                    standby_for = Some(holder);
                    if !self.rest(look_in).await {
                        return Err(Halt::Stopped);
                    }
                    continue;
                }
                Err(Halt::Failed(Error::State(cause))) => cause,
                Err(halt) => return Err(halt),
            };
            if standby_for.is_some() && seen.elapsed() >= self.lease.length() {
                self.retries
                    .liveness
                    .failed("the state store fails, so nothing shows whether the other instance is active");
            }
            let decision = call.failed(cause.class());
            if call.wait(decision, &cause).await?.is_some() {
                return Err(cause.into());
            }
        };
        call.succeeded();
        if let Some(holder) = standby_for {
            self.retries.fails_over();
            tracing::info!(
                location = self.store.location(), holder, waited = %whole_seconds(begun.elapsed()),
                "the other instance has ended or sends no heartbeat; failover: this one is active now"
            );
        }
        self.retries.progress();
        Ok(is_first)
    }

    fn log_standby(&self, location: &str, holder: &str) {
        tracing::info!(location, holder, "another instance is active; this one is on standby");
        self.retries.liveness.set_status(format_args!("standby: {holder} is active"));
    }

    /// Looks at the document once, and takes the lease if it is free.
    async fn look(&self, committer: &mut Committer, watch: &mut Watch) -> Result<Look, Halt> {
        let Sighting { version, lease } = committer.observe().await?;
        let is_missing = version.is_none();
        let length = match &lease {
            Some(lease) => Some(lease.length()),
            // The document is gone from the store. Give the active instance the time to store it again.
            None if is_missing && committer.has_known_one() => Some(self.lease.length()),
            None => None,
        };
        if let Chance::Wait(look_in) = watch.sees(version, length, Instant::now()) {
            let holder = lease.map_or_else(|| UNKNOWN.to_owned(), |lease| lease.holder);
            return Ok(Look::Theirs { holder, look_in });
        }
        if !self.is_probed.load(Ordering::Relaxed) {
            self.store.probe().await?;
        }
        let (delivered, is_first) = match committer.delivered() {
            Some(delivered) => (delivered.clone(), false),
            None => (self.first()?, true),
        };
        match committer.seize(self.lease.clone(), delivered).await {
            Ok(()) => {}
            Err(state::Error::Conflict { .. }) => {
                return Ok(Look::Theirs { holder: FASTER.to_owned(), look_in: STANDBY_LOOK });
            }
            Err(cause) => return Err(cause.into()),
        }
        if is_missing && !self.is_probed.load(Ordering::Relaxed) {
            // The probe needs a document, and until now there was none.
            if let Err(cause) = self.store.probe().await {
                let _ = committer.release().await;
                return Err(cause.into());
            }
        }
        self.is_probed.store(true, Ordering::Relaxed);
        Ok(Look::Ours { is_first })
    }

    /// The cursor of the very first sync.
    fn first(&self) -> Result<Delivered, Halt> {
        let now = self.begun;
        if now < CLOCK_IS_SET {
            return Err(Error::Clock { now }.into());
        }
        Ok(Delivered { cursor: self.source.first_cursor(now), mark: None })
    }

    /// Commits acknowledged cursors at the store's pace, and renews the lease before it lapses. Returns only when a save fails for good.
    pub(super) async fn keep_committing(&self) -> Result<Infallible, Halt> {
        loop {
            let changed = self.changed.notified();
            let due = self.save_due_at();
            tokio::select! {
                biased;
                () = sleep_until(due) => {}
                () = changed => continue,
            }
            let mut committer = self.committer.lock().await;
            if self.save_due_at().is_some_and(|due| due <= Instant::now()) {
                let save = if self.ledger.lock().to_commit().is_some() { Save::Pending } else { Save::Renewal };
                self.save(&mut committer, save).await?;
            }
            drop(committer);
            if self.lease_clock.renewal_due().is_some_and(|due| due <= Instant::now()) {
                // The renewal failed during a shutdown, which waits only for commits. Pause before the next attempt.
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(DURING_SHUTDOWN) => {}
                }
            }
        }
    }

    fn save_due_at(&self) -> Option<Instant> {
        let ledger = self.ledger.lock();
        let earliest = Instant::now() + ledger.due_in();
        let commit = ledger.to_commit().map(|_| earliest);
        let renewal = self.lease_clock.renewal_due().map(|due| due.max(earliest));
        commit.into_iter().chain(renewal).min()
    }

    /// Commits the last acknowledged cursor and releases the lease.
    pub(super) async fn release(&self) -> Result<(), Halt> {
        let due_in = self.ledger.lock().due_in();
        tokio::time::sleep(due_in).await;
        self.save(&mut *self.committer.lock().await, Save::Release).await
    }

    /// Saves the state, with every retry.
    async fn save(&self, committer: &mut Committer, save: Save) -> Result<(), Halt> {
        let mut call = self.retries.call(Component::StateStore);
        let to_commit = self.ledger.lock().to_commit().cloned();
        let page = to_commit.as_ref().map(|to_commit| to_commit.page);
        if let Some(to_commit) = to_commit {
            committer.advance(to_commit.delivered);
        }
        let is_progress = committer.is_pending();
        loop {
            let calling = call.begins();
            let saved = match save {
                Save::Pending => committer.write().await,
                Save::Renewal => committer.renew().await,
                Save::Release => committer.release().await,
            };
            drop(calling);
            let Err(cause) = saved else { break };
            let is_superseded = match cause {
                state::Error::Conflict { .. } => committer.is_leased(),
                // Another process took the store's lock.
                state::Error::Busy { .. } => true,
                _ => false,
            };
            let is_optional = save == Save::Release || (save == Save::Renewal && self.shutdown.is_requested());
            if !committer.is_pending() && is_optional {
                // Everything is committed, and a failed release is not worth a wait.
                if save == Save::Release && !is_superseded {
                    let (location, error) = (committer.location(), Chain(&cause));
                    tracing::warn!(location, %error, "the lease could not be released; a standby has to wait until it expires");
                }
                return Ok(());
            }
            if is_superseded {
                return Err(Halt::Superseded);
            }
            let decision = call.failed(cause.class()).within(self.lease_clock.longest_pause());
            // A shutdown does not end these retries, since delivered pages must be committed. Only its timeout does.
            if call.persist(decision, &cause, true).await?.is_some() {
                return Err(cause.into());
            }
        }
        if call.has_failed() {
            // Nothing else could make progress while the store was unavailable.
            self.retries.progress();
        }
        call.succeeded();
        self.ledger.lock().saved(page);
        self.changed.notify_waiters();
        if is_progress {
            self.retries.liveness.succeeds();
        }
        let reached = committer.delivered().and_then(|delivered| self.source.reached(&delivered.cursor).ok());
        if let Some(reached) = reached {
            self.metrics.reached(reached);
        }
        Ok(())
    }

    /// Tells the source about each stored cursor, until it confirms. Delivery does not depend on it.
    pub(super) async fn confirm_commits(&self) -> Infallible {
        let mut failures = 0;
        loop {
            let changed = self.changed.notified();
            let cursor = self.ledger.lock().to_confirm().cloned();
            let Some(cursor) = cursor else {
                changed.await;
                continue;
            };
            let mut confirming = self.source.committed(&cursor);
            let answered = timeout(LONGEST_CONFIRMATION, &mut confirming).await;
            let confirmed = if let Ok(confirmed) = answered {
                confirmed
            } else {
                self.not_confirmed();
                tracing::warn!(
                    "the source has not confirmed a stored cursor in time; auditsync continues without waiting for it"
                );
                confirming.await
            };
            let Err(cause) = confirmed else {
                failures = 0;
                self.ledger.lock().confirmed(&cursor);
                self.changed.notify_waiters();
                continue;
            };
            failures += 1;
            self.metrics.retried(Component::Source, cause.class());
            self.not_confirmed();
            let pause = Backoff::QUICK.wait(failures, fastrand::f64());
            tracing::warn!(
                error = %Chain(&cause), failures,
                "the source could not confirm a stored cursor; auditsync retries this, and nothing waits for it"
            );
            tokio::time::sleep(pause).await;
        }
    }

    fn not_confirmed(&self) {
        self.ledger.lock().not_confirmed();
        self.changed.notify_waiters();
    }

    /// Steps down, because another instance is active. That instance delivers the pages that were in flight here.
    pub(super) async fn step_down(&self) {
        let mut committer = self.committer.lock().await;
        committer.surrender();
        self.source.superseded();
        self.destination.discard();
        self.metrics.is_active(false);
        let uncertain = std::mem::take(&mut *self.ledger.lock()).uncertain();
        self.metrics.possibly_duplicated(uncertain);
        tracing::warn!(
            location = committer.location(),
            uncertain,
            "another instance is active, or an operator changed the state; the events in flight may be delivered again"
        );
    }
}

/// The result of a look at the document.
enum Look {
    Ours { is_first: bool },
    Theirs { holder: String, look_in: Duration },
}

/// Stands for the holder where the document is gone.
const UNKNOWN: &str = "an unknown instance, whose state is gone from its store";

/// Stands for the holder where another instance took the lease before we could.
const FASTER: &str = "another instance, which was faster";

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
