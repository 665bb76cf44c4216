//! What to do about a failed call: a plain function of what failed and of what went before.

use std::fmt;
use std::time::Duration;

use super::Mode;
use super::backoff::{Backoff, LONGEST_RETRY_AFTER};
use crate::failure::Class;

/// An answer that cannot be read is asked for this often before a smaller question is put.
const READING_ATTEMPTS: u32 = 3;

/// At first contact, a refusal ends the run only after this many refusals in a row.
const REFUSALS_BEFORE_GIVING_UP: u32 = 4;

/// The refusals at first contact must also span this time: a proxy or a deployment may answer wrongly for a moment.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// A failed call, and what went before it.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// What the failure means.
    pub class: Class,
    /// How many failures of any kind there were in a row, this one included.
    pub failures: u32,
    /// How many of the last ones were of this kind, this one included.
    pub alike: u32,
    /// The time since the first of those.
    pub alike_for: Duration,
    /// Whether the access token was renewed since the last success.
    pub renewed: bool,
    /// Whether nothing has worked with the far side since the start.
    pub first_contact: bool,
    /// Whether a smaller question was put since the last success.
    pub narrowed: bool,
    /// How long the run has been without progress.
    pub stuck_for: Duration,
}

/// What the run bears.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A loop never gives up on what can still work.
    pub mode: Mode,
    /// A one-shot run does after this long without progress.
    pub budget: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Call again at once.
    Again,
    /// Call again after a wait.
    Wait {
        /// How long.
        pause: Duration,
        /// Whether somebody has to do something about it.
        alarm: bool,
    },
    /// Put a smaller question.
    Narrow,
    /// Stop here.
    GiveUp(Reason),
}

impl Verdict {
    /// The same, with a wait no longer than `longest`.
    #[must_use]
    pub fn within(self, longest: Option<Duration>) -> Self {
        match (self, longest) {
            (Self::Wait { pause, alarm }, Some(longest)) => Self::Wait { pause: pause.min(longest), alarm },
            (verdict, _) => verdict,
        }
    }
}

/// Why a run stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The credentials were refused.
    Credentials,
    /// The place is wrong, or does not take what we send.
    Configuration,
    /// It may work later.
    OutOfPatience,
    /// Nothing that we can do again will mend it.
    Hopeless,
}

impl fmt::Display for Reason {
    /// What the reason adds to the error that led to it; nothing where that says it all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfPatience => f.write_str(
                " and made no progress within …_RETRY_BUDGET; the place is kept, and the next run goes on from there",
            ),
            Self::Credentials | Self::Configuration | Self::Hopeless => Ok(()),
        }
    }
}

/// Decides; `draw` lies evenly in [0, 1) and jitters a wait.
pub fn decide(trouble: Trouble, patience: Patience, draw: f64) -> Verdict {
    let Trouble { class, failures, alike, first_contact, narrowed, renewed, .. } = trouble;
    let quick = Backoff::QUICK.wait(failures, draw);
    let slow = Backoff::SLOW.wait(failures, draw);
    match class {
        Class::Fatal => Verdict::GiveUp(Reason::Hopeless),
        Class::Unauthorized if !renewed => Verdict::Again,
        Class::Unauthorized if first_contact && alike > 1 => Verdict::GiveUp(Reason::Credentials),
        Class::CredentialsRefused if first_contact => Verdict::GiveUp(Reason::Credentials),
        Class::Unauthorized | Class::CredentialsRefused => wait(trouble, patience, slow, Some(Reason::Credentials)),
        Class::Refused if first_contact => refused_at_first_contact(trouble, patience, quick),
        Class::Refused | Class::Stalled => wait(trouble, patience, slow, Some(Reason::OutOfPatience)),
        Class::Unreadable if narrowed || alike >= READING_ATTEMPTS => Verdict::Narrow,
        Class::Unreadable => wait(trouble, patience, quick, None),
        Class::Retryable { after } => {
            let asked = after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
            wait(trouble, patience, quick.max(asked), None)
        }
    }
}

/// Retries often enough to tell a wrong configuration from a passing refusal in about [`REFUSED_FOR`].
fn refused_at_first_contact(trouble: Trouble, patience: Patience, quick: Duration) -> Verdict {
    let left = REFUSED_FOR.saturating_sub(trouble.alike_for);
    if left.is_zero() && trouble.alike >= REFUSALS_BEFORE_GIVING_UP {
        return Verdict::GiveUp(Reason::Configuration);
    }
    let pause = if left.is_zero() { quick } else { quick.min(left) };
    // A one-shot's budget may end sooner. Where it met nothing but refusals, the configuration is the likely cause.
    let is_all = trouble.alike >= trouble.failures;
    wait(trouble, patience, pause, Some(if is_all { Reason::Configuration } else { Reason::OutOfPatience }))
}

/// The verdict where a smaller question was due and there is none.
pub fn cannot_narrow(trouble: Trouble, patience: Patience, draw: f64) -> Verdict {
    wait(trouble, patience, Backoff::SLOW.wait(trouble.failures, draw), Some(Reason::OutOfPatience))
}

/// Waits if patience lasts. With an `alarm`, somebody has to act, and that is why patience may end.
fn wait(trouble: Trouble, patience: Patience, pause: Duration, alarm: Option<Reason>) -> Verdict {
    match patience.mode {
        Mode::Once if trouble.stuck_for.saturating_add(pause) > patience.budget => {
            Verdict::GiveUp(alarm.unwrap_or(Reason::OutOfPatience))
        }
        Mode::Once | Mode::Loop => Verdict::Wait { pause, alarm: alarm.is_some() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP: Patience = Patience { mode: Mode::Loop, budget: Duration::ZERO };
    const ONCE: Patience = Patience { mode: Mode::Once, budget: Duration::from_secs(300) };

    fn trouble(class: Class) -> Trouble {
        Trouble {
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

    fn asked_to_wait(seconds: u64) -> Class {
        Class::Retryable { after: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn a_loop_never_gives_up_on_what_can_still_work() {
        for class in [
            Class::Retryable { after: None },
            Class::Unauthorized,
            Class::CredentialsRefused,
            Class::Refused,
            Class::Stalled,
            Class::Unreadable,
        ] {
            for failures in [1, 2, 3, 1000, u32::MAX] {
                let trouble =
                    Trouble { failures, alike: failures, stuck_for: Duration::from_secs(1_000_000), ..trouble(class) };
                assert!(!matches!(decide(trouble, LOOP, 0.9), Verdict::GiveUp(_)), "{class:?}");
            }
        }
    }

    #[test]
    fn refused_credentials_end_a_first_contact_alone() {
        for class in [Class::CredentialsRefused, Class::Unauthorized] {
            let first = Trouble { first_contact: true, failures: 2, alike: 2, renewed: true, ..trouble(class) };
            assert_eq!(decide(first, LOOP, 0.5), Verdict::GiveUp(Reason::Credentials));
            let later = Trouble { first_contact: false, ..first };
            assert_eq!(decide(later, LOOP, 0.5), Verdict::Wait { pause: Duration::from_secs(15), alarm: true });
        }
    }

    fn refused(alike: u32, seconds: u64) -> Trouble {
        let alike_for = Duration::from_secs(seconds);
        Trouble {
            first_contact: true,
            failures: alike,
            alike,
            alike_for,
            stuck_for: alike_for,
            ..trouble(Class::Refused)
        }
    }

    #[test]
    fn refusals_end_a_first_contact_after_four_of_them_and_half_a_minute() {
        for patience in [LOOP, ONCE] {
            for passing in [refused(1, 0), refused(1, 3600), refused(3, 40), refused(4, 29), refused(100, 29)] {
                let verdict = decide(Trouble { stuck_for: Duration::ZERO, ..passing }, patience, 0.5);
                assert!(matches!(verdict, Verdict::Wait { alarm: true, .. }), "{passing:?}: {verdict:?}");
            }
            assert_eq!(decide(refused(4, 30), patience, 0.5), Verdict::GiveUp(Reason::Configuration));
        }
        let later = Trouble { first_contact: false, ..refused(100, 3600) };
        assert!(matches!(decide(later, LOOP, 0.5), Verdict::Wait { alarm: true, .. }));
    }

    #[test]
    fn a_wrong_address_is_given_up_after_about_half_a_minute_however_the_draws_fall() {
        for draw in [0.1, 0.5, 0.999] {
            let (mut passed, mut alike) = (Duration::ZERO, 1);
            while let Verdict::Wait { pause, .. } =
                decide(Trouble { alike_for: passed, ..refused(alike, 0) }, LOOP, draw)
            {
                (passed, alike) = (passed + pause, alike + 1);
                assert!(alike < 100, "it goes on");
            }
            assert!(passed >= REFUSED_FOR && passed < 2 * REFUSED_FOR, "{draw}: {passed:?}");
        }
    }

    #[test]
    fn a_one_shot_that_met_nothing_but_refusals_blames_the_configuration_when_its_budget_is_spent() {
        let patience = Patience { budget: Duration::from_secs(1), ..ONCE };
        let spent = refused(2, 2);
        assert_eq!(decide(spent, patience, 0.5), Verdict::GiveUp(Reason::Configuration));
        let mixed = Trouble { failures: 3, ..spent };
        assert_eq!(decide(mixed, patience, 0.5), Verdict::GiveUp(Reason::OutOfPatience));
    }

    #[test]
    fn a_revoked_token_is_renewed_once() {
        assert_eq!(decide(trouble(Class::Unauthorized), LOOP, 0.5), Verdict::Again);
        let again = Trouble { renewed: true, ..trouble(Class::Unauthorized) };
        assert_ne!(decide(again, LOOP, 0.5), Verdict::Again);
    }

    #[test]
    fn a_retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
        let wait = |seconds| decide(trouble(asked_to_wait(seconds)), LOOP, 0.0);
        assert_eq!(wait(120), Verdict::Wait { pause: Duration::from_secs(120), alarm: false });
        assert_eq!(wait(u64::MAX), Verdict::Wait { pause: Duration::from_secs(900), alarm: false });
        assert_eq!(wait(0), Verdict::Wait { pause: Duration::ZERO, alarm: false });
    }

    #[test]
    fn a_one_shot_gives_up_when_its_budget_is_spent_or_cannot_last() {
        let spent = Trouble { stuck_for: Duration::from_secs(301), ..trouble(Class::Retryable { after: None }) };
        assert_eq!(decide(spent, ONCE, 0.0), Verdict::GiveUp(Reason::OutOfPatience));
        assert_eq!(decide(trouble(asked_to_wait(301)), ONCE, 0.0), Verdict::GiveUp(Reason::OutOfPatience));
        assert!(matches!(decide(trouble(asked_to_wait(299)), ONCE, 0.0), Verdict::Wait { .. }));
        let refused = Trouble { stuck_for: Duration::from_secs(301), ..trouble(Class::CredentialsRefused) };
        assert_eq!(decide(refused, ONCE, 0.0), Verdict::GiveUp(Reason::Credentials));
    }

    #[test]
    fn what_cannot_be_read_is_asked_for_thrice_and_then_in_halves() {
        let verdict = |failures, narrowed| {
            decide(Trouble { failures, alike: failures, narrowed, ..trouble(Class::Unreadable) }, LOOP, 0.0)
        };
        assert!(matches!(verdict(1, false), Verdict::Wait { alarm: false, .. }));
        assert!(matches!(verdict(2, false), Verdict::Wait { .. }));
        assert_eq!(verdict(3, false), Verdict::Narrow);
        assert_eq!(verdict(1, true), Verdict::Narrow);
        let stuck = Trouble { failures: 9, ..trouble(Class::Unreadable) };
        assert!(matches!(cannot_narrow(stuck, LOOP, 0.5), Verdict::Wait { alarm: true, .. }));
    }
}
