//! Reasons why there is no page of rows, and how the engine treats each.

use std::io;
use std::time::Duration;

use super::TimeColumn;
use super::api::LARGEST_RUN;
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::secret::Outdated;
use crate::variable_name::VariableName;

/// A reason why there is no page of rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API cannot be reached, or its answer is incomplete.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The API cannot answer now.
    #[error("{address} answered {status}: {reason}")]
    Unavailable {
        /// The URL of the request.
        address: Address,
        /// The status of the answer.
        status: u16,
        /// The wait that its `Retry-After` names.
        after: Option<Duration>,
        /// The beginning of the answer's body.
        reason: Excerpt,
    },
    /// The API rejected the key.
    #[error(
        "{address} rejected the API key ({status}: {reason}); check {variable}: its user must have the role Administrator"
    )]
    KeyRejected {
        /// The URL of the request.
        address: Address,
        /// The status of the answer.
        status: u16,
        /// The beginning of the answer's body.
        reason: Excerpt,
        /// The variable that carries the key.
        variable: VariableName,
    },
    /// The API rejected the key. The key's file holds another one by now, or cannot be read.
    #[error("{address} rejected the API key; {cause}")]
    KeyOutdated {
        /// The URL of the request.
        address: Address,
        /// What the file shows.
        #[source]
        cause: Outdated,
    },
    /// The API does not take such requests.
    #[error("{address} answered {status}: {reason}; check {report_variable} and {url_variable}")]
    Refused {
        /// The URL of the request.
        address: Address,
        /// The status of the answer.
        status: u16,
        /// The beginning of the answer's body.
        reason: Excerpt,
        /// The variable that names the report.
        report_variable: VariableName,
        /// The variable that names the API.
        url_variable: VariableName,
    },
    /// The answer is not the API's: another server may have answered.
    #[error("the answer from {address} does not come from the API: {reason}; if this persists, check {variable}")]
    NotTheApi {
        /// The URL of the request.
        address: Address,
        /// The form of the answer.
        reason: String,
        /// The variable that names the API.
        variable: VariableName,
    },
    /// The history has no end.
    #[error("{address} returned {pages} pages of the history of runs, and still no end; report this to DigiCert")]
    EndlessHistory {
        /// The URL of the request.
        address: Address,
        /// The number of pages that were read.
        pages: usize,
    },
    /// The report is not one of audit logs.
    #[error("the report {report} is of the type {kind}, not audit-logs; check {variable}")]
    OtherType {
        /// The report.
        report: String,
        /// Its type.
        kind: Excerpt,
        /// The variable that names the report.
        variable: VariableName,
    },
    /// Runs keep failing.
    #[error(
        "{failed} runs of the report {report} in a row failed or could not be read, the last one {run}; look at the report in CertCentral. \
         auditsync starts another run every ten minutes"
    )]
    Failing {
        /// The report.
        report: String,
        /// The number of runs.
        failed: usize,
        /// The newest of them.
        run: String,
    },
    /// No run becomes ready.
    #[error(
        "no run of the report {report} became ready within {}; the last one is {run}; if the report needs longer, raise {variable}. \
         auditsync starts another run every ten minutes", humantime::format_duration(*.within)
    )]
    TooSlow {
        /// The report.
        report: String,
        /// The newest run.
        run: String,
        /// The time of the wait.
        within: Duration,
        /// The variable that sets this time.
        variable: VariableName,
    },
    /// No run appears.
    #[error(
        "no run of the report {report} appeared in the history within {}; check that {variable} names a report of audit logs",
        humantime::format_duration(*.within)
    )]
    NoRun {
        /// The report.
        report: String,
        /// The time of the wait.
        within: Duration,
        /// The variable that names the report.
        variable: VariableName,
    },
    /// A run cannot be read.
    #[error("auditsync cannot read the run {run}; it tries again for ten minutes, and then starts another run")]
    BadRun {
        /// The run.
        run: String,
        /// What is wrong with it.
        #[source]
        cause: Content,
        /// How long to wait before it is read again.
        after: Option<Duration>,
    },
    /// A run does not arrive.
    #[error("the run {run} did not arrive; it is requested again")]
    NotArrived {
        /// The run.
        run: String,
        /// Why.
        #[source]
        cause: Box<Error>,
        /// How long to wait before it is requested again.
        after: Option<Duration>,
    },
    /// The temporary folder cannot be used.
    #[error("auditsync cannot store a run in the temporary folder; set TMPDIR to another folder")]
    Spool(#[source] io::Error),
    /// The reading ended early, because the program ends.
    #[error("the run was not read to its end")]
    Interrupted,
    /// The stored cursor is not one of this source's.
    #[error("the stored cursor cannot be understood")]
    Cursor(#[source] serde_json::Error),
}

/// A flaw in the content of a run.
#[derive(Debug, thiserror::Error)]
pub enum Content {
    /// The API no longer has the run.
    #[error("{address} answered {status}: {reason}")]
    Gone {
        /// The URL of the request.
        address: Address,
        /// The status of the answer.
        status: u16,
        /// The beginning of the answer's body.
        reason: Excerpt,
    },
    /// It is larger than this source reads.
    #[error("it has more than {most} bytes")]
    TooLarge {
        /// The most bytes that are read.
        most: u64,
    },
    /// The history gives no number of files.
    #[error("the history does not say how many files it has: its split_report_count is not a number")]
    UnknownSplits,
    /// It has as many rows as one file of a split run, but is not split.
    #[error(
        "it has exactly {rows} rows in one file, where the API splits a run, so rows may be missing; shorten the report's date range"
    )]
    NotSplit {
        /// The number of its rows.
        rows: u64,
    },
    /// It is split into more files than this source reads.
    #[error("it is split into {0} files")]
    TooManySplits(u32),
    /// It is a ZIP file that cannot be opened.
    #[error("the ZIP file cannot be read")]
    Zip(#[from] zip::result::ZipError),
    /// It is a ZIP file without rows.
    #[error("the ZIP file holds no .json file; the report's format must be JSON")]
    NoJson,
    /// It is a ZIP file with more than one file of rows.
    #[error("the ZIP file holds more than one .json file, but auditsync expects one; report this")]
    SeveralJson,
    /// It is not an array of rows.
    #[error("it is not an array of rows: {cause}; it begins with {beginning}")]
    NotRows {
        /// The beginning of the content.
        beginning: Excerpt,
        /// The parser's message, which may quote the content.
        cause: Excerpt,
    },
    /// One row is not JSON, or is too large.
    #[error(
        "row {row} of the file cannot be read: {cause}. While the report shows this row, auditsync delivers no row of it: \
         change the report's date range in CertCentral until it leaves the row out, and report the row to DigiCert"
    )]
    BadRow {
        /// The number of the row, from 1 on.
        row: u64,
        /// The parser's message, which may quote the content.
        cause: Excerpt,
    },
    /// No row has the column with the time.
    #[error(
        "the report has no column {:?}; add it to the report, or name the column with the time in {}. The columns are {columns}",
        .column.heading, .column.variable
    )]
    NoTimeColumn {
        /// The column that this source looked for.
        column: TimeColumn,
        /// The report's columns.
        columns: Excerpt,
    },
    /// No row has a time that this source can read.
    #[error(
        "no row has a time such as 06-Feb-2025 10:28:04 in the column {:?}, which holds, for instance, {found}; \
         name the column with the time in {}",
        .column.heading, .column.variable
    )]
    NoTime {
        /// The column.
        column: TimeColumn,
        /// A value in that column.
        found: Excerpt,
    },
    /// It has fewer rows than this source read of it before.
    #[error("it has {now} rows now, but had at least {before}")]
    Shorter {
        /// The number of rows read before.
        before: u64,
        /// The number of rows now.
        now: u64,
    },
}

impl Content {
    /// Whether the operator has to correct the configuration.
    pub(super) fn is_configuration(&self) -> bool {
        matches!(self, Self::NoTimeColumn { .. } | Self::NoTime { .. } | Self::NoJson)
    }
}

impl Error {
    /// Whether the cause may be the downloaded run alone, if other calls work.
    pub(super) fn may_be_of_a_run(&self) -> bool {
        match self {
            Self::Http(error) => matches!(
                error,
                http::Error::BrokenOff { .. } | http::Error::TimedOut { .. } | http::Error::Unanswered { .. }
            ),
            Self::Unavailable { status, .. } => *status != 429,
            Self::KeyRejected { status, .. } => *status == 403,
            Self::Refused { .. } | Self::NotTheApi { .. } => true,
            _ => false,
        }
    }

    pub(super) fn class(&self) -> Class {
        match self {
            Self::Http(error) => error.class(),
            Self::NotArrived { cause, after, .. } => match cause.class() {
                Class::Retryable { after: None } => Class::Retryable { after: *after },
                class => class,
            },
            Self::BadRun { cause, .. } if cause.is_configuration() => Class::Refused,
            Self::Unavailable { after, .. } | Self::BadRun { after, .. } => Class::Retryable { after: *after },
            Self::KeyOutdated { cause: Outdated::Rotated(_), .. } => Class::TokenRejected,
            Self::KeyRejected { .. } | Self::KeyOutdated { .. } => Class::CredentialsRejected,
            Self::Refused { .. } | Self::OtherType { .. } => Class::Refused,
            Self::NotTheApi { .. } | Self::Spool(_) | Self::Interrupted => Class::Retryable { after: None },
            Self::EndlessHistory { .. } | Self::Failing { .. } | Self::TooSlow { .. } | Self::NoRun { .. } => {
                Class::Stalled
            }
            Self::Cursor(_) => Class::Fatal,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.class(), error)
    }
}

/// A reason why a run was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// Its content is wrong.
    #[error(transparent)]
    Content(#[from] Content),
    /// Any other error.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<http::Error> for Unread {
    fn from(error: http::Error) -> Self {
        match error {
            http::Error::TooLarge { .. } => Self::Content(Content::TooLarge { most: LARGEST_RUN }),
            error => Self::Other(error.into()),
        }
    }
}
