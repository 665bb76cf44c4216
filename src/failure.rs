//! What a failed call means to the engine, and how an error is shown to a person.
//!
//! A component knows what an answer means; only the engine decides what happens next. [`Failure`] is all that passes between them.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// A failed call of a component: its meaning, and the component's own error for the operator.
#[derive(Debug)]
pub struct Failure {
    class: Class,
    cause: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// The error `cause`, which means `class`.
    pub fn new(class: Class, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class, cause: cause.into() }
    }

    /// What it means.
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

/// The meaning of a failed call, as far as the engine acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The call may work later: the server is down, slow or overloaded, or the connection broke.
    Retryable {
        /// How long the server asked us to wait.
        after: Option<Duration>,
    },
    /// The server rejected the access token. It may accept a new one.
    TokenRejected,
    /// The server rejected the configured credentials themselves.
    CredentialsRejected,
    /// The server does not take such requests from us: a wrong address, a redirect, a wrong parameter.
    Refused,
    /// An answer arrived but cannot be read. A smaller range may have an answer that can be read.
    Unreadable,
    /// The server contradicts itself. To go on would lose or repeat events.
    Stalled,
    /// Our output cannot be written any more, as when its reader has gone.
    Closed,
    /// No retry can help.
    Fatal,
}

impl Class {
    /// Its metric label.
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

    /// What an HTTP status says by itself, where a component knows nothing more specific.
    pub const fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            401 | 403 => Self::CredentialsRejected,
            408 | 425 | 429 | 500.. => Self::Retryable { after: retry_after },
            _ => Self::Refused,
        }
    }
}

/// An error with its causes, as `what: why: why`.
///
/// A cause whose text its parent has already quoted is left out.
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
