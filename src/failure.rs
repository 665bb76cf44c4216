//! What a failed call means to the engine, and how an error is told to a person.
//!
//! Sources, destinations and stores know what an answer meant; only the engine knows what to do about it. [`Class`] is
//! the one word that passes between them.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// The meaning of a failed call, as far as the engine has to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may work later: down, slow, throttled, broken off.
    Retryable {
        /// How long the far side asked us to wait.
        after: Option<Duration>,
    },
    /// The access token was refused; a new one may be accepted.
    Unauthorized,
    /// The configured credentials themselves were refused.
    CredentialsRefused,
    /// The far side does not take such requests from us: a wrong address, a redirect, a refused parameter.
    Refused,
    /// An answer arrived but could not be read; a smaller question may have an answer that can be.
    Unreadable,
    /// The far side contradicts itself; to go on would lose or repeat events.
    Stalled,
    /// Nothing that we can do again will mend it.
    Fatal,
}

impl Class {
    /// A word for it, for the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retryable { .. } => "unavailable",
            Self::Unauthorized => "token_refused",
            Self::CredentialsRefused => "credentials_refused",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Stalled => "stalled",
            Self::Fatal => "fatal",
        }
    }
}

/// An error with its causes, as `what: why: why`.
///
/// A cause whose text its parent has already quoted is not told twice.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !told.contains(&text) {
                write!(told, ": {text}")?;
            }
            next = cause.source();
        }
        f.write_str(&told)
    }
}
