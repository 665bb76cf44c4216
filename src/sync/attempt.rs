//! Keeping count of failures, and waiting between attempts.

use std::cell::Cell;
use std::error::Error;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use tokio::time::Instant;

use super::Halt;
use super::stop::Stop;
use super::verdict::{self, Patience, Reason, Trouble, Verdict};
use crate::failure::{Chain, Class};
use crate::telemetry::metrics;
use crate::telemetry::pulse::{Pulse, Waiting};

/// While stopping, what is not finished yet is tried again at least this often.
pub(super) const WHILE_STOPPING: Duration = Duration::from_secs(1);

/// Whom a call is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counterpart {
    Source,
    Destination,
    Store,
}

impl Counterpart {
    /// A word for it, for the metrics.
    fn side(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Store => "store",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Store => "state store",
        }
    }
}

/// What all attempts of a run share.
pub(super) struct Attempts {
    patience: Patience,
    stop: Stop,
    pub(super) pulse: Pulse,
    progress: Cell<Instant>,
    met: [Cell<bool>; 3],
}

impl Attempts {
    pub(super) fn new(patience: Patience, stop: Stop) -> Self {
        Self { patience, stop, pulse: Pulse::default(), progress: Cell::new(Instant::now()), met: Default::default() }
    }

    /// Something worked, or waited for its time as it should: the budget starts anew.
    pub(super) fn progress(&self) {
        self.progress.set(Instant::now());
    }

    /// This instance continues what another did with the same configuration, so a refusal is not a first contact's.
    pub(super) fn fails_over(&self) {
        for counterpart in [Counterpart::Source, Counterpart::Destination] {
            self.met[counterpart as usize].set(true);
        }
    }

    /// A call to be made until it succeeds.
    pub(super) fn with(&self, counterpart: Counterpart) -> Attempt<'_> {
        Attempt {
            shared: self,
            counterpart,
            kind: None,
            alike: 0,
            total: 0,
            renewed: false,
            narrowed: false,
            exhausted: 0,
        }
    }
}

/// One call, tried as often as needed.
pub(super) struct Attempt<'a> {
    shared: &'a Attempts,
    counterpart: Counterpart,
    /// The kind of the last failure, and when the first of its row was.
    kind: Option<(Discriminant<Class>, Instant)>,
    /// Failures of that kind in a row.
    alike: u32,
    /// All failures in a row.
    total: u32,
    /// Whether the call was repeated at once since the last success.
    renewed: bool,
    narrowed: bool,
    /// How often even the smallest question had no answer.
    exhausted: u32,
}

impl Attempt<'_> {
    /// The call is made now; it is over when what this gives is dropped.
    pub(super) fn calls(&self) -> Waiting {
        let (pulse, name) = (&self.shared.pulse, self.counterpart.name());
        match self.counterpart {
            Counterpart::Source | Counterpart::Destination => pulse.calls(name),
            Counterpart::Store => pulse.calls_store(name),
        }
    }

    /// The call, or a part of it, worked. Whether that is progress is for the caller to say.
    pub(super) fn succeeded(&mut self) {
        if self.total > 0 {
            tracing::info!(failures = self.total, "the {} works again", self.counterpart.name());
        }
        self.shared.met[self.counterpart as usize].set(true);
        (self.kind, self.alike, self.total) = (None, 0, 0);
        (self.renewed, self.narrowed, self.exhausted) = (false, false, 0);
    }

    /// Whether the last attempt failed.
    pub(super) fn has_failed(&self) -> bool {
        self.total > 0
    }

    /// The call failed: what now?
    pub(super) fn failed(&mut self, class: Class) -> Verdict {
        let verdict = self.decided(class, fastrand::f64());
        if !matches!(verdict, Verdict::GiveUp(_)) {
            metrics::retried(self.counterpart.side(), class);
        }
        verdict
    }

    fn decided(&mut self, class: Class, draw: f64) -> Verdict {
        let kind = discriminant(&class);
        if self.kind.is_none_or(|(last, _)| last != kind) {
            (self.kind, self.alike) = (Some((kind, Instant::now())), 0);
        }
        self.alike = self.alike.saturating_add(1);
        self.total = self.total.saturating_add(1);
        let verdict = verdict::decide(self.trouble(class), self.shared.patience, draw);
        self.renewed |= verdict == Verdict::Again;
        verdict
    }

    /// A smaller question is put.
    pub(super) fn narrowed(&mut self) {
        (self.narrowed, self.kind, self.alike) = (true, None, 0);
    }

    /// A smaller question was due, and there is none: after a wait the first one is put again, in case it was a passing trouble.
    pub(super) fn cannot_narrow(&mut self) -> Verdict {
        self.exhausted = self.exhausted.saturating_add(1);
        (self.narrowed, self.kind, self.alike) = (false, None, 0);
        let trouble = Trouble { failures: self.exhausted, ..self.trouble(Class::Unreadable) };
        verdict::cannot_narrow(trouble, self.shared.patience, fastrand::f64())
    }

    fn trouble(&self, class: Class) -> Trouble {
        Trouble {
            class,
            failures: self.total,
            alike: self.alike,
            alike_for: self.kind.map_or(Duration::ZERO, |(_, since)| since.elapsed()),
            renewed: self.renewed,
            first_contact: !self.shared.met[self.counterpart as usize].get(),
            narrowed: self.narrowed,
            stuck_for: self.shared.progress.get().elapsed(),
        }
    }

    /// Waits as the verdict says, unless a stop comes; the reason if it says to give up.
    pub(super) async fn wait(&self, verdict: Verdict, cause: &(dyn Error + 'static)) -> Result<Option<Reason>, Halt> {
        self.persist(verdict, cause, false).await
    }

    /// Waits like [`Self::wait`]; with `through_stop`, a stop shortens the waits but does not end the attempts.
    pub(super) async fn persist(
        &self,
        verdict: Verdict,
        cause: &(dyn Error + 'static),
        through_stop: bool,
    ) -> Result<Option<Reason>, Halt> {
        let (pause, alarm) = match verdict {
            Verdict::GiveUp(reason) => return Ok(Some(reason)),
            Verdict::Again | Verdict::Narrow => {
                tracing::info!(error = %Chain(cause), "asking the {} again at once", self.counterpart.name());
                return Ok(None);
            }
            Verdict::Wait { pause, alarm } => (pause, alarm),
        };
        self.tell(cause, pause, alarm);
        let _pausing = self.shared.pulse.pauses(pause);
        let stop = &self.shared.stop;
        if !stop.is_requested() && stop.sleep(pause).await {
            return Ok(None);
        }
        if !through_stop {
            return Err(Halt::Stopped);
        }
        tokio::time::sleep(pause.min(WHILE_STOPPING)).await;
        Ok(None)
    }

    fn tell(&self, cause: &(dyn Error + 'static), pause: Duration, alarm: bool) {
        self.shared.pulse.told(cause);
        let (name, failures, error) = (self.counterpart.name(), self.total, Chain(cause));
        let again_in =
            humantime::format_duration(Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)));
        self.shared.pulse.stands(format_args!("the {name} failed, {failures} in a row; again in {again_in}"));
        if alarm {
            tracing::error!(%error, failures, %again_in, "the {name} needs attention; nothing is lost meanwhile, and the place is kept");
        } else {
            tracing::warn!(%error, failures, %again_in, "the {name} failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Mode;
    use super::super::backoff::Backoff;
    use super::*;

    const LOOP: Patience = Patience { mode: Mode::Loop, budget: Duration::ZERO };

    fn attempts() -> Attempts {
        Attempts::new(LOOP, Stop::new(Duration::ZERO))
    }

    fn classes() -> impl Strategy<Value = Class> {
        prop_oneof![
            Just(Class::Retryable { after: None }),
            Just(Class::Unauthorized),
            Just(Class::CredentialsRefused),
            Just(Class::Refused),
            Just(Class::Unreadable),
            Just(Class::Stalled),
        ]
    }

    proptest! {
        #[test]
        fn without_a_success_a_call_is_repeated_at_once_but_once_and_waits_grow(
            classes in prop::collection::vec(classes(), 1..60),
        ) {
            let attempts = attempts();
            attempts.fails_over();
            let mut attempt = attempts.with(Counterpart::Source);
            let mut repeats = 0;
            for (failures, class) in (1..).zip(classes) {
                match attempt.decided(class, 1.0) {
                    Verdict::Again => repeats += 1,
                    Verdict::Wait { pause, .. } => prop_assert!(pause >= Backoff::QUICK.ceiling(failures)),
                    Verdict::Narrow => attempt.narrowed(),
                    Verdict::GiveUp(reason) => prop_assert!(false, "gave up: {:?}", reason),
                }
            }
            prop_assert!(repeats <= 1);
        }
    }

    #[test]
    fn a_success_allows_another_renewal() {
        let attempts = attempts();
        let mut attempt = attempts.with(Counterpart::Source);
        for _ in 0..3 {
            assert_eq!(attempt.decided(Class::Unauthorized, 0.5), Verdict::Again);
            attempt.succeeded();
        }
    }

    #[test]
    fn after_a_failover_a_refusal_is_retried_for_ever() {
        for class in [Class::Refused, Class::CredentialsRefused, Class::Unauthorized] {
            let attempts = attempts();
            attempts.fails_over();
            for counterpart in [Counterpart::Source, Counterpart::Destination] {
                let mut attempt = attempts.with(counterpart);
                let gave_up = (0..100).any(|_| matches!(attempt.decided(class, 0.5), Verdict::GiveUp(_)));
                assert!(!gave_up, "{class:?}");
            }
        }
    }
}
