//! Decides what to do about a failed call: a plain function of the failure and of the failures before it.

use std::time::Duration;

use super::Mode;
use super::backoff::{Backoff, LONGEST_RETRY_AFTER};
use crate::failure::Class;

/// How often the engine requests a range with an unreadable answer before it requests a smaller range.
const READING_ATTEMPTS: u32 = 3;

/// At first contact, the run ends only after this many refusals in a row.
const REFUSALS_BEFORE_GIVING_UP: u32 = 4;

/// The refusals at first contact must also span this time: a proxy or a deployment may answer wrongly for a moment.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// A failed call, and the failures before it.
#[derive(Debug, Clone, Copy)]
pub struct FailedCall {
    /// What the failure means.
    pub class: Class,
    /// How many calls in a row failed, this one included.
    pub failures: u32,
    /// How many of the last failures in a row were of this kind, this one included.
    pub alike: u32,
    /// The time since the first of the failures in `alike`.
    pub alike_for: Duration,
    /// Whether the access token was renewed since the last success.
    pub renewed: bool,
    /// Whether no call to the component has succeeded since the start.
    pub first_contact: bool,
    /// Whether a smaller range was requested since the last success.
    pub narrowed: bool,
    /// How long the run has been without progress.
    pub stuck_for: Duration,
}

/// How long a run retries.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// A daemon never gives up on what can still work.
    pub mode: Mode,
    /// A one-shot gives up after this long without progress.
    pub budget: Duration,
}

/// What to do about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Call again at once.
    RetryNow,
    /// Call again after a wait.
    Wait {
        /// How long.
        pause: Duration,
        /// Whether an operator has to correct something.
        alarm: bool,
    },
    /// Request a smaller range.
    Narrow,
    /// End the run.
    GiveUp(Reason),
}

impl Decision {
    /// The same decision, with a wait no longer than `longest`.
    #[must_use]
    pub fn within(self, longest: Option<Duration>) -> Self {
        match (self, longest) {
            (Self::Wait { pause, alarm }, Some(longest)) => Self::Wait { pause: pause.min(longest), alarm },
            (decision, _) => decision,
        }
    }
}

/// Why the engine gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The server rejected the credentials.
    Credentials,
    /// The address is wrong, or the server refuses our requests.
    Configuration,
    /// The retry budget is spent. The call may work later.
    BudgetSpent,
    /// The reader has closed our output.
    Closed,
    /// No retry can help.
    Fatal,
}

/// Decides what to do about `call`. `draw` is a random number, even in [0, 1), that jitters a wait.
pub fn decide(call: FailedCall, policy: RetryPolicy, draw: f64) -> Decision {
    let FailedCall { class, failures, alike, first_contact, narrowed, renewed, .. } = call;
    let quick = Backoff::QUICK.wait(failures, draw);
    let slow = Backoff::SLOW.wait(failures, draw);
    match class {
        Class::Fatal => Decision::GiveUp(Reason::Fatal),
        Class::Closed => Decision::GiveUp(Reason::Closed),
        Class::TokenRejected if !renewed => Decision::RetryNow,
        Class::TokenRejected if first_contact && alike > 1 => Decision::GiveUp(Reason::Credentials),
        Class::CredentialsRejected if first_contact => Decision::GiveUp(Reason::Credentials),
        Class::TokenRejected | Class::CredentialsRejected => wait(call, policy, slow, Some(Reason::Credentials)),
        Class::Refused if first_contact => refused_at_first_contact(call, policy, quick),
        Class::Refused | Class::Stalled => wait(call, policy, slow, Some(Reason::BudgetSpent)),
        Class::Unreadable if narrowed || alike >= READING_ATTEMPTS => Decision::Narrow,
        Class::Unreadable => wait(call, policy, quick, None),
        Class::Retryable { after } => {
            let asked = after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
            wait(call, policy, quick.max(asked), None)
        }
    }
}

/// Retries often enough to tell a wrong configuration from a passing refusal within about [`REFUSED_FOR`].
fn refused_at_first_contact(call: FailedCall, policy: RetryPolicy, quick: Duration) -> Decision {
    let left = REFUSED_FOR.saturating_sub(call.alike_for);
    if left.is_zero() && call.alike >= REFUSALS_BEFORE_GIVING_UP {
        return Decision::GiveUp(Reason::Configuration);
    }
    let pause = if left.is_zero() { quick } else { quick.min(left) };
    // A one-shot's budget may end sooner. If every failure was a refusal, the likely cause is the configuration.
    let is_all = call.alike >= call.failures;
    wait(call, policy, pause, Some(if is_all { Reason::Configuration } else { Reason::BudgetSpent }))
}

/// Decides what to do when the engine needs a smaller range and there is none.
pub fn cannot_narrow(call: FailedCall, policy: RetryPolicy, draw: f64) -> Decision {
    wait(call, policy, Backoff::SLOW.wait(call.failures, draw), Some(Reason::BudgetSpent))
}

/// Waits if the policy allows it. An `alarm` means that an operator has to act; it is also the reason if the engine gives up.
fn wait(call: FailedCall, policy: RetryPolicy, pause: Duration, alarm: Option<Reason>) -> Decision {
    match policy.mode {
        Mode::Once if call.stuck_for.saturating_add(pause) > policy.budget => {
            Decision::GiveUp(alarm.unwrap_or(Reason::BudgetSpent))
        }
        Mode::Once | Mode::Loop => Decision::Wait { pause, alarm: alarm.is_some() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP: RetryPolicy = RetryPolicy { mode: Mode::Loop, budget: Duration::ZERO };
    const ONCE: RetryPolicy = RetryPolicy { mode: Mode::Once, budget: Duration::from_secs(300) };

    fn call(class: Class) -> FailedCall {
        FailedCall {
            class,
            failures: 1,
            alike: 1,
            alike_for: Duration::ZERO,
            renewed: false,
            first_contact: false,
            narrowed: false,
            stuck_for: Duration::ZERO,
        }
    }

    fn retry_after(seconds: u64) -> Class {
        Class::Retryable { after: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn a_daemon_never_gives_up_on_what_can_still_work() {
        for class in [
            Class::Retryable { after: None },
            Class::TokenRejected,
            Class::CredentialsRejected,
            Class::Refused,
            Class::Stalled,
            Class::Unreadable,
        ] {
            for failures in [1, 2, 3, 1000, u32::MAX] {
                let call =
                    FailedCall { failures, alike: failures, stuck_for: Duration::from_secs(1_000_000), ..call(class) };
                assert!(!matches!(decide(call, LOOP, 0.9), Decision::GiveUp(_)), "{class:?}");
            }
        }
    }

    #[test]
    fn rejected_credentials_end_a_first_contact_alone() {
        for class in [Class::CredentialsRejected, Class::TokenRejected] {
            let first = FailedCall { first_contact: true, failures: 2, alike: 2, renewed: true, ..call(class) };
            assert_eq!(decide(first, LOOP, 0.5), Decision::GiveUp(Reason::Credentials));
            let later = FailedCall { first_contact: false, ..first };
            assert_eq!(decide(later, LOOP, 0.5), Decision::Wait { pause: Duration::from_secs(15), alarm: true });
        }
    }

    fn refused(alike: u32, seconds: u64) -> FailedCall {
        let alike_for = Duration::from_secs(seconds);
        FailedCall {
            first_contact: true,
            failures: alike,
            alike,
            alike_for,
            stuck_for: alike_for,
            ..call(Class::Refused)
        }
    }

    #[test]
    fn refusals_end_a_first_contact_after_four_of_them_and_half_a_minute() {
        for policy in [LOOP, ONCE] {
            for passing in [refused(1, 0), refused(1, 3600), refused(3, 40), refused(4, 29), refused(100, 29)] {
                let decision = decide(FailedCall { stuck_for: Duration::ZERO, ..passing }, policy, 0.5);
                assert!(matches!(decision, Decision::Wait { alarm: true, .. }), "{passing:?}: {decision:?}");
            }
            assert_eq!(decide(refused(4, 30), policy, 0.5), Decision::GiveUp(Reason::Configuration));
        }
        let later = FailedCall { first_contact: false, ..refused(100, 3600) };
        assert!(matches!(decide(later, LOOP, 0.5), Decision::Wait { alarm: true, .. }));
    }

    #[test]
    fn a_wrong_address_is_given_up_after_about_half_a_minute_however_the_draws_fall() {
        for draw in [0.1, 0.5, 0.999] {
            let (mut passed, mut alike) = (Duration::ZERO, 1);
            while let Decision::Wait { pause, .. } =
                decide(FailedCall { alike_for: passed, ..refused(alike, 0) }, LOOP, draw)
            {
                (passed, alike) = (passed + pause, alike + 1);
                assert!(alike < 100, "it goes on");
            }
            assert!(passed >= REFUSED_FOR && passed < 2 * REFUSED_FOR, "{draw}: {passed:?}");
        }
    }

    #[test]
    fn a_one_shot_that_met_nothing_but_refusals_blames_the_configuration_when_its_budget_is_spent() {
        let policy = RetryPolicy { budget: Duration::from_secs(1), ..ONCE };
        let spent = refused(2, 2);
        assert_eq!(decide(spent, policy, 0.5), Decision::GiveUp(Reason::Configuration));
        let mixed = FailedCall { failures: 3, ..spent };
        assert_eq!(decide(mixed, policy, 0.5), Decision::GiveUp(Reason::BudgetSpent));
    }

    #[test]
    fn a_revoked_token_is_renewed_once() {
        assert_eq!(decide(call(Class::TokenRejected), LOOP, 0.5), Decision::RetryNow);
        let again = FailedCall { renewed: true, ..call(Class::TokenRejected) };
        assert_ne!(decide(again, LOOP, 0.5), Decision::RetryNow);
    }

    #[test]
    fn a_retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
        let wait = |seconds| decide(call(retry_after(seconds)), LOOP, 0.0);
        assert_eq!(wait(120), Decision::Wait { pause: Duration::from_secs(120), alarm: false });
        assert_eq!(wait(u64::MAX), Decision::Wait { pause: Duration::from_secs(900), alarm: false });
        assert_eq!(wait(0), Decision::Wait { pause: Duration::ZERO, alarm: false });
    }

    #[test]
    fn a_one_shot_gives_up_when_its_budget_is_spent_or_cannot_last() {
        let spent = FailedCall { stuck_for: Duration::from_secs(301), ..call(Class::Retryable { after: None }) };
        assert_eq!(decide(spent, ONCE, 0.0), Decision::GiveUp(Reason::BudgetSpent));
        assert_eq!(decide(call(retry_after(301)), ONCE, 0.0), Decision::GiveUp(Reason::BudgetSpent));
        assert!(matches!(decide(call(retry_after(299)), ONCE, 0.0), Decision::Wait { .. }));
        let refused = FailedCall { stuck_for: Duration::from_secs(301), ..call(Class::CredentialsRejected) };
        assert_eq!(decide(refused, ONCE, 0.0), Decision::GiveUp(Reason::Credentials));
    }

    #[test]
    fn what_cannot_be_read_is_requested_three_times_and_then_in_halves() {
        let decision = |failures, narrowed| {
            decide(FailedCall { failures, alike: failures, narrowed, ..call(Class::Unreadable) }, LOOP, 0.0)
        };
        assert!(matches!(decision(1, false), Decision::Wait { alarm: false, .. }));
        assert!(matches!(decision(2, false), Decision::Wait { .. }));
        assert_eq!(decision(3, false), Decision::Narrow);
        assert_eq!(decision(1, true), Decision::Narrow);
        let stuck = FailedCall { failures: 9, ..call(Class::Unreadable) };
        assert!(matches!(cannot_narrow(stuck, LOOP, 0.5), Decision::Wait { alarm: true, .. }));
    }
}
