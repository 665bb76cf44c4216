//! Exit codes. They follow `sysexits.h`, so that a supervisor can act on them.

use std::process::ExitCode;

use crate::engine::decision::Reason;
use crate::failure::Class;
use crate::{engine, state};

/// How the process ends, in order of gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exit {
    /// The command did everything.
    Done,
    /// The command line is wrong.
    Usage,
    /// The same command may work later.
    TryAgain,
    /// The state cannot be read or written, or the output cannot be written.
    State,
    /// A server rejected the credentials.
    Credentials,
    /// The proof of an archive failed.
    Unproven,
    /// The program has a bug.
    Bug,
    /// The configuration is wrong.
    Configuration,
}

impl Exit {
    /// The exit code as a number.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 64,
            Self::Unproven => 65,
            Self::Bug => 70,
            Self::State => 74,
            Self::TryAgain => 75,
            Self::Credentials => 77,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&engine::Error> for Exit {
    fn from(error: &engine::Error) -> Self {
        match error {
            engine::Error::GivenUp { reason, .. } => match reason {
                Reason::Credentials => Self::Credentials,
                Reason::BudgetSpent => Self::TryAgain,
                // 74 is the code of `sysexits.h` for input and output errors, which include the state.
                Reason::Closed => Self::State,
                Reason::Configuration | Reason::Fatal => Self::Configuration,
            },
            engine::Error::Unopened(failure) => failure.class().into(),
            engine::Error::State(error) => error.into(),
            engine::Error::Clock { .. } => Self::TryAgain,
        }
    }
}

impl From<&state::Error> for Exit {
    fn from(error: &state::Error) -> Self {
        match error {
            state::Error::Busy { .. } => Self::TryAgain,
            _ => Self::State,
        }
    }
}

impl From<Class> for Exit {
    fn from(class: Class) -> Self {
        match class {
            Class::TokenRejected | Class::CredentialsRejected => Self::Credentials,
            Class::Refused | Class::Fatal => Self::Configuration,
            Class::Closed => Self::State,
            Class::Retryable { .. } | Class::Unreadable | Class::Stalled => Self::TryAgain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_ends_the_gravest_counts() {
        let codes = [78, 70, 65, 77, 74, 75, 0];
        let mut all = [
            Exit::Unproven,
            Exit::Done,
            Exit::TryAgain,
            Exit::State,
            Exit::Credentials,
            Exit::Bug,
            Exit::Configuration,
        ];
        all.sort_unstable();
        assert_eq!(all.iter().rev().map(|exit| exit.code()).collect::<Vec<_>>(), codes);
    }
}
