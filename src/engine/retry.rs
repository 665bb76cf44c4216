//! Counts failed calls, and waits between them.

use std::error::Error;
use std::mem::{Discriminant, discriminant};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Halt;
use super::decision::{self, Decision, FailedCall, Reason, RetryPolicy};
use super::shutdown::Shutdown;
use crate::component::Component;
use crate::failure::{Chain, Class};
use crate::telemetry::liveness::{Liveness, Waiting};
use crate::telemetry::metrics::Metrics;

/// The longest wait before a retry during a shutdown.
pub(super) const DURING_SHUTDOWN: Duration = Duration::from_secs(1);

/// The part that all calls of a run share.
pub(super) struct Retries {
    policy: RetryPolicy,
    shutdown: Shutdown,
    pub(super) liveness: Liveness,
    metrics: Metrics,
    progress: Mutex<Instant>,
    /// Per component, whether a call to it has succeeded.
    met: [AtomicBool; 4],
}

impl Retries {
    pub(super) fn new(policy: RetryPolicy, shutdown: Shutdown, liveness: Liveness, metrics: Metrics) -> Self {
        let progress = Mutex::new(Instant::now());
        Self { policy, shutdown, liveness, metrics, progress, met: Default::default() }
    }

    /// Restores the whole retry budget: there was progress, or a wait ended as expected.
    pub(super) fn progress(&self) {
        *self.progress.lock() = Instant::now();
    }

    /// Notes a failover. The other instance worked with the same configuration, so a refusal is no longer one at first contact.
    pub(super) fn fails_over(&self) {
        self.meets(Component::Source);
        self.meets(Component::Destination);
    }

    /// Notes that a call to `component` succeeded. A later refusal is no longer one at first contact.
    pub(super) fn meets(&self, component: Component) {
        self.met[component as usize].store(true, Ordering::Relaxed);
    }

    /// Makes the counter for a call to `component` that is retried until it succeeds.
    pub(super) fn call(&self, component: Component) -> Call<'_> {
        Call { shared: self, component, kind: None, alike: 0, total: 0, renewed: false, narrowed: false, exhausted: 0 }
    }
}

/// One call with its retries.
pub(super) struct Call<'a> {
    shared: &'a Retries,
    component: Component,
    /// The kind of the last failure, and when failures of that kind began.
    kind: Option<(Discriminant<Class>, Instant)>,
    /// How many failures of that kind there were in a row.
    alike: u32,
    /// How many failures of any kind there were in a row.
    total: u32,
    /// Whether the call was retried at once since the last success.
    renewed: bool,
    narrowed: bool,
    /// How often even the smallest range failed.
    exhausted: u32,
}

impl Call<'_> {
    /// Marks the start of an attempt, which ends when the returned value is dropped.
    pub(super) fn begins(&self) -> Waiting {
        self.shared.liveness.calls(self.component)
    }

    /// Notes that the call, or a part of it, succeeded. The caller decides whether that is progress.
    pub(super) fn succeeded(&mut self) {
        if self.total > 0 {
            tracing::info!(failures = self.total, "the {} works again", self.component);
        }
        self.shared.meets(self.component);
        (self.kind, self.alike, self.total) = (None, 0, 0);
        (self.renewed, self.narrowed, self.exhausted) = (false, false, 0);
    }

    /// Whether the last call failed.
    pub(super) fn has_failed(&self) -> bool {
        self.total > 0
    }

    /// Notes a failure, and decides what to do.
    pub(super) fn failed(&mut self, class: Class) -> Decision {
        let decision = self.decided(class, fastrand::f64());
        if !matches!(decision, Decision::GiveUp(_)) {
            self.shared.metrics.retried(self.component, class);
        }
        decision
    }

    fn decided(&mut self, class: Class, draw: f64) -> Decision {
        let kind = discriminant(&class);
        if self.kind.is_none_or(|(last, _)| last != kind) {
            (self.kind, self.alike) = (Some((kind, Instant::now())), 0);
        }
        self.alike = self.alike.saturating_add(1);
        self.total = self.total.saturating_add(1);
        let decision = decision::decide(self.failed_call(class), self.shared.policy, draw);
        self.renewed |= decision == Decision::RetryNow;
        decision
    }

    /// Notes that a smaller range is requested.
    pub(super) fn narrowed(&mut self) {
        (self.narrowed, self.kind, self.alike) = (true, None, 0);
    }

    /// Notes that the engine needs a smaller range and there is none. After a wait it requests the whole range again, since the failure
    /// may have passed.
    pub(super) fn cannot_narrow(&mut self) -> Decision {
        self.exhausted = self.exhausted.saturating_add(1);
        (self.narrowed, self.kind, self.alike) = (false, None, 0);
        let call = FailedCall { failures: self.exhausted, ..self.failed_call(Class::Unreadable) };
        decision::cannot_narrow(call, self.shared.policy, fastrand::f64())
    }

    fn failed_call(&self, class: Class) -> FailedCall {
        FailedCall {
            class,
            failures: self.total,
            alike: self.alike,
            alike_for: self.kind.map_or(Duration::ZERO, |(_, since)| since.elapsed()),
            renewed: self.renewed,
            first_contact: !self.shared.met[self.component as usize].load(Ordering::Relaxed),
            narrowed: self.narrowed,
            stuck_for: self.shared.progress.lock().elapsed(),
        }
    }

    /// Waits as decided. Returns the reason if the decision was to give up; a shutdown ends the wait with [`Halt::Stopped`].
    pub(super) async fn wait(
        &self,
        decision: Decision,
        cause: &(dyn Error + Send + Sync + 'static),
    ) -> Result<Option<Reason>, Halt> {
        self.persist(decision, cause, false).await
    }

    /// Waits as [`Self::wait`] does. With `through_shutdown`, a shutdown shortens the waits but does not end the retries.
    pub(super) async fn persist(
        &self,
        decision: Decision,
        cause: &(dyn Error + Send + Sync + 'static),
        through_shutdown: bool,
    ) -> Result<Option<Reason>, Halt> {
        let (pause, alarm) = match decision {
            Decision::GiveUp(reason) => return Ok(Some(reason)),
            Decision::RetryNow | Decision::Narrow => {
                tracing::info!(error = %Chain(cause), "the call to the {} failed and is retried at once", self.component);
                return Ok(None);
            }
            Decision::Wait { pause, alarm } => (pause, alarm),
        };
        self.log(cause, pause, alarm);
        let _pausing = self.shared.liveness.pauses(pause);
        let shutdown = &self.shared.shutdown;
        if !shutdown.is_requested() && shutdown.sleep(pause).await {
            return Ok(None);
        }
        if !through_shutdown {
            return Err(Halt::Stopped);
        }
        tokio::time::sleep(pause.min(DURING_SHUTDOWN)).await;
        Ok(None)
    }

    fn log(&self, cause: &(dyn Error + Send + Sync + 'static), pause: Duration, alarm: bool) {
        self.shared.liveness.logged(cause);
        let (component, failures, error) = (self.component, self.total, Chain(cause));
        let milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let retry_in = humantime::format_duration(Duration::from_millis(milliseconds));
        let status = format_args!("the {component} failed, {failures} in a row; retried in {retry_in}");
        self.shared.liveness.set_status(status);
        if alarm {
            tracing::error!(%error, failures, %retry_in, "the {component} needs attention; nothing is lost, and the cursor stays");
        } else {
            tracing::warn!(%error, failures, %retry_in, "the {component} failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Mode;
    use super::super::backoff::Backoff;
    use super::*;

    const LOOP: RetryPolicy = RetryPolicy { mode: Mode::Loop, budget: Duration::ZERO };

    fn retries() -> Retries {
        Retries::new(LOOP, Shutdown::default(), Liveness::default(), Metrics::of(&"here:there".into()))
    }

    fn classes() -> impl Strategy<Value = Class> {
        prop_oneof![
            Just(Class::Retryable { after: None }),
            Just(Class::TokenRejected),
            Just(Class::CredentialsRejected),
            Just(Class::Refused),
            Just(Class::Unreadable),
            Just(Class::Stalled),
        ]
    }

    proptest! {
        #[test]
        fn without_a_success_a_call_is_retried_at_once_only_once_and_waits_grow(
            classes in prop::collection::vec(classes(), 1..60),
        ) {
            let retries = retries();
            retries.fails_over();
            let mut call = retries.call(Component::Source);
            let mut at_once = 0;
            for (failures, class) in (1..).zip(classes) {
                match call.decided(class, 1.0) {
                    Decision::RetryNow => at_once += 1,
                    Decision::Wait { pause, .. } => prop_assert!(pause >= Backoff::QUICK.ceiling(failures)),
                    Decision::Narrow => call.narrowed(),
                    Decision::GiveUp(reason) => prop_assert!(false, "gave up: {:?}", reason),
                }
            }
            prop_assert!(at_once <= 1);
        }
    }

    #[test]
    fn a_success_allows_another_renewal() {
        let retries = retries();
        let mut call = retries.call(Component::Source);
        for _ in 0..3 {
            assert_eq!(call.decided(Class::TokenRejected, 0.5), Decision::RetryNow);
            call.succeeded();
        }
    }

    #[test]
    fn after_a_failover_a_refusal_is_retried_for_ever() {
        for class in [Class::Refused, Class::CredentialsRejected, Class::TokenRejected] {
            let retries = retries();
            retries.fails_over();
            for component in [Component::Source, Component::Destination] {
                let mut call = retries.call(component);
                let gave_up = (0..100).any(|_| matches!(call.decided(class, 0.5), Decision::GiveUp(_)));
                assert!(!gave_up, "{class:?}");
            }
        }
    }
}
