//! A failed call to AWS, as an operator reads it.

use std::time::Duration;

use super::Cause;
use super::connection::Unconfigured;
use crate::failure::Class;
use crate::variable_name::VariableName;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The call cannot succeed before an operator has corrected something.
    #[error("cannot {action} {location}; {remedy}")]
    Refused {
        /// The attempted operation.
        action: &'static str,
        /// The object of the operation.
        location: String,
        /// What the operator has to do.
        remedy: String,
        /// Whether credentials or permissions are at fault.
        is_about_credentials: bool,
        /// The error of the client.
        #[source]
        cause: Cause,
    },
    /// The call may succeed later.
    #[error("cannot {action} {location}")]
    Unavailable {
        /// The attempted operation.
        action: &'static str,
        /// The object of the operation.
        location: String,
        /// The error of the client.
        #[source]
        cause: Cause,
    },
    /// The call took too long.
    #[error("no answer for {location} within {} ({variable})", humantime::format_duration(*limit))]
    Slow {
        /// The object of the operation.
        location: String,
        /// The longest time for the call.
        limit: Duration,
        /// The variable that sets the limit.
        variable: VariableName,
    },
}

impl CallError {
    /// The error of a call for which there is no client. The `remedy` is for a region that nothing configures.
    pub(crate) fn unconfigured(action: &'static str, location: String, remedy: String, cause: Unconfigured) -> Self {
        match cause {
            Unconfigured::NoRegion => {
                Self::Refused { action, location, remedy, is_about_credentials: false, cause: cause.into() }
            }
            Unconfigured::Slow => Self::Unavailable { action, location, cause: cause.into() },
        }
    }

    /// What the failure means to the engine.
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Unavailable { .. } | Self::Slow { .. } => Class::Retryable { after: None },
            Self::Refused { is_about_credentials: true, .. } => Class::CredentialsRejected,
            Self::Refused { .. } => Class::Refused,
        }
    }
}
