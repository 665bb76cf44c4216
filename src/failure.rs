//! The meaning of a failed call for the engine, and the text of an error for a person.
//!
//! A component knows what an answer means, and only the engine decides what happens next. A component reports a [`Failure`] and nothing
//! else.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// A failed call: its meaning, and the component's own error for the operator.
#[derive(Debug)]
pub struct Failure {
    class: Class,
    cause: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Makes a failure of the error `cause`, which means `class`.
    pub fn new(class: Class, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class, cause: cause.into() }
    }

    /// The meaning of the failure.
    pub fn class(&self) -> Class {
        self.class
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// The meaning of a failed call, on which the engine acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The call may work later: the server is down, slow or overloaded, or the connection broke.
    Retryable {
        /// How long the server wants us to wait.
        after: Option<Duration>,
    },
    /// The server rejected the access token. It may accept a new one.
    TokenRejected,
    /// The server rejected the configured credentials themselves.
    CredentialsRejected,
    /// The server refuses such requests from us: a wrong address, a redirect, a wrong parameter.
    Refused,
    /// An answer arrived but cannot be read. The answer for a smaller range may be readable.
    Unreadable,
    /// The server contradicts itself. Continuing would lose or duplicate events.
    Stalled,
    /// Our output cannot be written any more, for example because its reader has ended.
    Closed,
    /// No retry can help.
    Fatal,
}

impl Class {
    /// The metric label of the class.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Retryable { .. } => "unavailable",
            Self::TokenRejected => "token_rejected",
            Self::CredentialsRejected => "credentials_rejected",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Stalled => "stalled",
            Self::Closed => "closed",
            Self::Fatal => "fatal",
        }
    }

    /// The class of an HTTP status, for a component that knows nothing more specific.
    pub const fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            401 | 403 => Self::CredentialsRejected,
            408 | 425 | 429 | 500.. => Self::Retryable { after: retry_after },
            _ => Self::Refused,
        }
    }
}

/// Shows an error with its causes, as `what: why: why`.
///
/// It leaves out a cause if the text of its parent already contains it.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !shown.contains(&text) {
                write!(shown, ": {text}")?;
            }
            next = cause.source();
        }
        f.write_str(&shown)
    }
}
