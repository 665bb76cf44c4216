//! Failures of an archive, and how the engine treats them.

use std::io;

use crate::aws::call::CallError;
use crate::failure::{Class, Failure};
use crate::pipeline_name::PipelineName;

/// A reason why the archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "the store ignores If-None-Match, so two instances could replace each other's {location}; use a store that implements \
         If-None-Match on PutObject"
    )]
    Unconditional { location: String },
    #[error(
        "{location} is not a manifest that this version can read; run `auditsync verify` to find out what happened to the archive"
    )]
    NoManifest {
        location: String,
        #[source]
        cause: serde_json::Error,
    },
    #[error("{location} belongs to the pipeline {found}, not to {expected}; give each archive a path of its own")]
    OtherPipeline { location: String, found: PipelineName, expected: PipelineName },
    #[error(
        "the state does not know the archive that begins with {location}; restore the state that belongs to it, or begin another archive \
         under another path ({variable})"
    )]
    Unknown { location: String, variable: &'static str },
    #[error(
        "the state names {location} as the newest manifest, but {what}; run `auditsync verify` to find out what happened to the archive"
    )]
    NotAsStored { location: String, what: &'static str },
    #[error(
        "{manifest} names an object that is not there in its size: {object}; run `auditsync verify` to find out what happened to the archive"
    )]
    WithoutObject { manifest: String, object: String },
    #[error("this version cannot read the archive's mark in the state")]
    Mark(#[source] serde_json::Error),
    #[error(
        "another instance wrote {location} first; nothing that this one gathered was acknowledged, and the next start \
         continues after that manifest"
    )]
    Overtaken { location: String },
    #[error("the upload of {location} disappeared before it was complete; the next start gathers its rows again")]
    UploadGone { location: String },
    #[error(transparent)]
    Cursor(Failure),
    #[error("rows cannot be compressed")]
    Encoding(#[from] io::Error),
    #[error("a manifest has no JSON form")]
    Json(#[source] serde_json::Error),
    #[error("no object was open for new rows, which is a bug")]
    NotOpen,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let error = match error {
            Error::Cursor(failure) => return failure,
            error => error,
        };
        let class = match &error {
            Error::Call(call) => call.class(),
            Error::Unconditional { .. } | Error::OtherPipeline { .. } | Error::Unknown { .. } => Class::Fatal,
            // The archive or the state is not as it was written, or another instance continues. This run ends, and the
            // next one looks again.
            Error::NoManifest { .. }
            | Error::NotAsStored { .. }
            | Error::WithoutObject { .. }
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
