//! What can go wrong with an archive, and what it means to the engine.

use std::io;
use std::time::Duration;

use crate::aws::Cause;
use crate::failure::{Class, Failure};
use crate::pipeline_name::PipelineName;
use crate::variable_name::VariableName;

/// Why the archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot {action} {location}; {remedy}")]
    Refused {
        action: &'static str,
        location: String,
        remedy: String,
        /// Whether credentials or permissions are at fault.
        is_about_credentials: bool,
        #[source]
        cause: Cause,
    },
    #[error("cannot {action} {location}")]
    Unavailable {
        action: &'static str,
        location: String,
        #[source]
        cause: Cause,
    },
    #[error("no answer for {location} within {} ({variable})", humantime::format_duration(*limit))]
    Slow { location: String, limit: Duration, variable: VariableName },
    #[error(
        "the store ignores If-None-Match, so two instances could replace each other's {location}; use a store that implements \
         If-None-Match on PutObject"
    )]
    Unconditional { location: String },
    #[error(
        "{location} is no manifest that this version knows; find out with `auditsync verify` what happened to the archive"
    )]
    NoManifest {
        location: String,
        #[source]
        cause: serde_json::Error,
    },
    #[error("{location} belongs to the pipeline {found}, not to {expected}; give each archive a path of its own")]
    OtherPipeline { location: String, found: PipelineName, expected: PipelineName },
    #[error(
        "the state knows nothing of the archive that begins with {location}; put the state back that belongs to it, or begin another archive \
         with another path ({variable})"
    )]
    Unknown { location: String, variable: &'static str },
    #[error(
        "the state names {location} as the newest manifest, and {what}; find out with `auditsync verify` what happened to the archive"
    )]
    NotAsStored { location: String, what: &'static str },
    #[error("the state holds a mark of the archive that this version does not know")]
    Mark(#[source] serde_json::Error),
    #[error(
        "another instance has written {location} and is left with it; what this one gathered was not acknowledged, and the next start \
         continues behind that manifest"
    )]
    Overtaken { location: String },
    #[error("{location} is gone before it was complete; the next start gathers its rows again")]
    UploadGone { location: String },
    #[error(transparent)]
    Cursor(Failure),
    #[error("rows cannot be compressed")]
    Encoding(#[from] io::Error),
    #[error("a manifest has no JSON form")]
    Json(#[source] serde_json::Error),
    #[error("rows came when no object was open for them, which is a bug")]
    NotOpen,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let error = match error {
            Error::Cursor(failure) => return failure,
            error => error,
        };
        let class = match &error {
            Error::Unavailable { .. } | Error::Slow { .. } => Class::Retryable { after: None },
            Error::Refused { is_about_credentials: true, .. } => Class::CredentialsRejected,
            Error::Refused { .. } => Class::Refused,
            Error::Unconditional { .. } | Error::OtherPipeline { .. } | Error::Unknown { .. } => Class::Fatal,
            // What is in the archive or the state is not what was written there, or another instance goes on: this run ends, and the next
            // one looks again.
            Error::NoManifest { .. }
            | Error::NotAsStored { .. }
            | Error::Mark(_)
            | Error::Cursor(_)
            | Error::Overtaken { .. }
            | Error::UploadGone { .. }
            | Error::Encoding(_)
            | Error::Json(_)
            | Error::NotOpen => Class::Closed,
        };
        Self::new(class, error)
    }
}
