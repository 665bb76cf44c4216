//! Being in charge of the state: becoming the only one who works on it, staying it, and giving it up.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::attempt::{Counterpart, WHILE_STOPPING};
use super::commit::{Committer, Sighting};
use super::{CLOCK_IS_SET, Error, Halt, Mode, STANDBY_POLL, Save, Sync};
use crate::source::Cursor;
use crate::state::lease::{Chance, Watch};
use crate::state::{self, Claim};
use crate::telemetry::metrics;

impl Sync {
    /// Becomes the only one who works on the state. A daemon stands by for as long as another does; a one-shot run waits
    /// within its budget.
    pub(super) async fn take_charge(&self, committer: &mut Committer) -> Result<(), Halt> {
        let is_first = if self.is_locked().await? {
            committer.observe().await?;
            let is_first = committer.cursor().is_none();
            if is_first {
                committer.advance(self.first_cursor()?);
                // It is written down before anything is asked for, so that an outage then costs nothing; and a store that cannot be written to now would hold up everything later.
                committer.write().await?;
            }
            is_first
        } else {
            self.win_lease(committer).await?
        };
        self.attempts.pulse.takes_charge();
        metrics::lease_held(true);
        if let Some(cursor) = committer.cursor() {
            let since = self.position(cursor)?;
            metrics::position(since);
            let (source, place) = (self.source.name(), committer.place());
            if is_first {
                tracing::info!(source, place, %since, "no state yet: this is the first synchronisation");
            } else {
                tracing::info!(source, place, %since, "going on where the last run ended");
            }
        }
        Ok(())
    }

    /// Takes the lock of a store that has one; false where the lease in the document decides.
    async fn is_locked(&self) -> Result<bool, Halt> {
        let asked = Instant::now();
        let mut standing_by = false;
        loop {
            let holder = match self.store.claim().await? {
                Claim::ByLease => return Ok(false),
                Claim::Granted => break,
                Claim::Busy { holder } => holder,
            };
            self.attempts.pulse.stands_by(&holder);
            let place = self.store.place();
            if self.settings.mode == Mode::Once && asked.elapsed() >= self.settings.retry_budget {
                return Err(state::Error::Busy { place, holder }.into());
            }
            if !standing_by {
                self.tell_of_standing_by(&place, &holder);
                standing_by = true;
            }
            if !self.rest(STANDBY_POLL).await {
                return Err(Halt::Stopped);
            }
        }
        if standing_by {
            self.attempts.fails_over();
            tracing::info!(place = self.store.place(), "the other instance has ended; taking over");
        }
        self.attempts.progress();
        Ok(true)
    }

    /// Watches the document until its lease is given back or over, and puts ours into it; whether it is the first document.
    async fn win_lease(&self, committer: &mut Committer) -> Result<bool, Halt> {
        let asked = Instant::now();
        let mut watch = Watch::default();
        let mut standing_by_for = None;
        let mut attempt = self.attempts.with(Counterpart::Store);
        let is_first = loop {
            let calling = attempt.calls();
            let looked = self.look(committer, &mut watch).await;
            drop(calling);
            let cause = match looked {
                Ok(Look::Ours { is_first }) => break is_first,
                Ok(Look::Theirs { holder, again_in }) => {
                    attempt.succeeded();
                    // To wait for its turn is what it should do; the holder's sign of life ends that, not the budget's.
                    self.attempts.progress();
                    self.attempts.pulse.stands_by(&holder);
                    let place = self.store.place();
                    let is_over = self.settings.mode == Mode::Once && asked.elapsed() >= self.settings.retry_budget;
                    if is_over && watch.has_seen_renewal() {
                        return Err(state::Error::Busy { place, holder }.into());
                    }
                    if standing_by_for.is_none() {
                        self.tell_of_standing_by(&place, &holder);
                    }
                    standing_by_for = Some(holder);
                    if !self.rest(again_in).await {
                        return Err(Halt::Stopped);
                    }
                    continue;
                }
                Err(Halt::Failed(Error::State(cause))) => cause,
                Err(halt) => return Err(halt),
            };
            let verdict = attempt.failed(cause.class());
            if attempt.wait(verdict, &cause).await?.is_some() {
                return Err(cause.into());
            }
        };
        attempt.succeeded();
        if let Some(holder) = standing_by_for {
            self.attempts.fails_over();
            let waited = humantime::format_duration(Duration::from_secs(asked.elapsed().as_secs()));
            tracing::info!(place = self.store.place(), holder, %waited, "the other instance has ended or gives no sign of life; taking over");
        }
        self.attempts.progress();
        Ok(is_first)
    }

    fn tell_of_standing_by(&self, place: &str, holder: &str) {
        tracing::info!(place, holder, "another instance works on this state; standing by");
        self.attempts.pulse.stands(format_args!("standing by: {holder} works on this state"));
    }

    /// One look at the document. If its lease is free, it is ours now.
    async fn look(&self, committer: &mut Committer, watch: &mut Watch) -> Result<Look, Halt> {
        let Sighting { version, lease } = committer.observe().await?;
        let is_missing = version.is_none();
        let length = match &lease {
            Some(lease) => Some(lease.length()),
            // Gone from the store: whoever was at work will write it anew.
            None if is_missing && committer.has_known_one() => Some(self.lease.length()),
            None => None,
        };
        if let Chance::Wait(again_in) = watch.sees(version, length, Instant::now()) {
            let holder = lease.map_or_else(|| NOBODY_YET.to_owned(), |lease| lease.holder);
            return Ok(Look::Theirs { holder, again_in });
        }
        if !self.is_probed.get() {
            self.store.probe().await?;
        }
        let (cursor, is_first) = match committer.cursor() {
            Some(cursor) => (cursor.clone(), false),
            None => (self.first_cursor()?, true),
        };
        match committer.seize(self.lease.clone(), cursor).await {
            Ok(()) => {}
            // Another was faster.
            Err(state::Error::Conflict { .. }) => {
                return Ok(Look::Theirs { holder: FASTER.to_owned(), again_in: STANDBY_POLL });
            }
            Err(cause) => return Err(cause.into()),
        }
        if is_missing && !self.is_probed.get() {
            // Only now is there a document to try it on.
            if let Err(cause) = self.store.probe().await {
                let _ = committer.release().await;
                return Err(cause.into());
            }
        }
        self.is_probed.set(true);
        Ok(Look::Ours { is_first })
    }

    /// Where the very first synchronisation begins.
    fn first_cursor(&self) -> Result<Cursor, Halt> {
        let now = *self.begun.get_or_init(|| self.clock.now());
        if now < CLOCK_IS_SET {
            return Err(Error::Clock { now }.into());
        }
        Ok(self.source.first_cursor(now))
    }

    /// Writes what the work itself does not: the lease before it lapses, and at its time what a slow store is to be told. Ends only
    /// when that fails for good.
    pub(super) async fn keep(&self, ledger: &Mutex<Committer>) -> Result<Infallible, Halt> {
        loop {
            let changed = self.changed.notified();
            let due = self.due_at(&*ledger.lock().await);
            tokio::select! {
                biased;
                () = changed => continue,
                () = sleep_until(due) => {}
            }
            let mut committer = ledger.lock().await;
            if self.due_at(&committer).is_some_and(|due| due <= Instant::now()) {
                let save = if committer.is_pending() { Save::Pending } else { Save::Renewal };
                self.write(&mut committer, save).await?;
            }
            drop(committer);
            if self.tenure.renewal_due().is_some_and(|due| due <= Instant::now()) {
                // It failed during a stop, which waits for nothing but what is delivered.
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(WHILE_STOPPING) => {}
                }
            }
        }
    }

    fn due_at(&self, committer: &Committer) -> Option<Instant> {
        let borne_at = Instant::now() + committer.due_in();
        let written = committer.is_pending().then_some(borne_at);
        let renewed = self.tenure.renewal_due().map(|due| due.max(borne_at));
        written.into_iter().chain(renewed).min()
    }

    /// Another has taken over: it delivers what was in flight.
    pub(super) fn step_down(&self, committer: &mut Committer) {
        committer.surrender();
        self.source.pause();
        metrics::lease_held(false);
        let uncertain = self.in_flight.take();
        metrics::possibly_duplicated(uncertain);
        tracing::warn!(
            place = committer.place(),
            uncertain,
            "another instance has taken over, or the state was changed by hand; what was in flight may be delivered again"
        );
    }
}

/// What a look at the document came to.
enum Look {
    Ours { is_first: bool },
    Theirs { holder: String, again_in: Duration },
}

/// The holder, where the document is gone.
const NOBODY_YET: &str = "whoever writes it anew, now that it is gone from its store";

/// The holder, where the document was taken before it was read.
const FASTER: &str = "another instance, which was faster";

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
