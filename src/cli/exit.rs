//! Exit codes, after `sysexits.h`, so that a supervisor can tell what to do.

use std::process::ExitCode;

use crate::sync::verdict::Reason;
use crate::{destination, source, state, sync};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// What was asked for is done.
    Done,
    /// The command line is wrong.
    Usage,
    /// The program is.
    Bug,
    /// The state cannot be read or written.
    State,
    /// It may work later.
    TryAgain,
    /// Credentials were refused.
    Credentials,
    /// The configuration is wrong.
    Configuration,
}

impl Exit {
    /// The number.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 64,
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

impl From<&sync::Error> for Exit {
    fn from(error: &sync::Error) -> Self {
        match error {
            // What `sysexits.h` has for input and output, like the state.
            sync::Error::Destination { cause: destination::Error::Unprinted { .. }, .. } => Self::State,
            sync::Error::Source { reason, .. } | sync::Error::Destination { reason, .. } => match reason {
                Reason::Credentials => Self::Credentials,
                Reason::OutOfPatience => Self::TryAgain,
                Reason::Configuration | Reason::Hopeless => Self::Configuration,
            },
            sync::Error::State(error) => error.into(),
            sync::Error::Clock { .. } => Self::TryAgain,
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

impl From<&source::Error> for Exit {
    fn from(error: &source::Error) -> Self {
        error.class().into()
    }
}

impl From<&destination::Error> for Exit {
    fn from(error: &destination::Error) -> Self {
        error.class().into()
    }
}

impl From<crate::failure::Class> for Exit {
    fn from(class: crate::failure::Class) -> Self {
        use crate::failure::Class;
        match class {
            Class::Unauthorized | Class::CredentialsRefused => Self::Credentials,
            Class::Refused | Class::Fatal => Self::Configuration,
            Class::Retryable { .. } | Class::Unreadable | Class::Stalled => Self::TryAgain,
        }
    }
}
