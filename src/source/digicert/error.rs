//! Why there is no page of rows, and what each error means to the engine.

use std::io;
use std::time::Duration;

use super::api::LARGEST_RUN;
use super::variables::{API_URL, MAX_WAIT, REPORT_ID, TIME_COLUMN};
use crate::failure::{Class, Failure};
use crate::http::{self, Address, Excerpt};
use crate::secret::SecretError;
use crate::variable_name::VariableName;

/// Why there is no page of rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API cannot be reached or did not answer whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The API answered that it cannot answer now.
    #[error("{address} answered {status}: {reason}")]
    Unavailable {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The wait that it named.
        after: Option<Duration>,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The API rejected the key.
    #[error(
        "{address} rejected the API key ({status}: {reason}); check {variable}: its user must have the role Administrator"
    )]
    KeyRejected {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that carries the key.
        variable: VariableName,
    },
    /// The API rejected the key, and the key's file holds another by now.
    #[error("{address} rejected the API key; {variable} holds another now, which is tried")]
    KeyRotated {
        /// Where the call went.
        address: Address,
        /// The variable that names the file.
        variable: VariableName,
    },
    /// The API rejected the key, and the key's file cannot be read.
    #[error("{address} rejected the API key, and the file in {variable} gives no other")]
    KeyGone {
        /// Where the call went.
        address: Address,
        /// The variable that names the file.
        variable: VariableName,
        /// What is wrong with the file.
        #[source]
        cause: SecretError,
    },
    /// The API does not take such requests.
    #[error("{address} answered {status}: {reason}; check {} and {}", REPORT_ID.spec.name, API_URL.spec.name)]
    Refused {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The answer is not the API's: another server may have answered.
    #[error("the answer from {address} is not what the API gives: {reason}; if this persists, check {}", API_URL.spec.name)]
    NotTheApi {
        /// Where the call went.
        address: Address,
        /// What it is.
        reason: String,
    },
    /// The history goes on and on.
    #[error("{address} gave {pages} pages of the history of runs without an end; report this to DigiCert")]
    EndlessHistory {
        /// Where the call went.
        address: Address,
        /// How many pages were read.
        pages: usize,
    },
    /// The report is none of audit logs.
    #[error("the report {report} is of the type {kind}, not audit-logs; check {}", REPORT_ID.spec.name)]
    OtherType {
        /// The report.
        report: String,
        /// Its type.
        kind: Excerpt,
    },
    /// Runs fail again and again.
    #[error(
        "{failed} runs of the report {report} in a row failed or could not be read, the last one {run}; look at the report in CertCentral. \
         Another run is started every ten minutes"
    )]
    Failing {
        /// The report.
        report: String,
        /// How many.
        failed: usize,
        /// The newest of them.
        run: String,
    },
    /// No run becomes ready.
    #[error(
        "no run of the report {report} became ready within {}, the last one is {run}; if the report needs longer, raise {}. Another run is \
         started every ten minutes", humantime::format_duration(*.within), MAX_WAIT.spec.name
    )]
    TooSlow {
        /// The report.
        report: String,
        /// The newest run.
        run: String,
        /// How long was waited.
        within: Duration,
    },
    /// No run appears.
    #[error(
        "no run of the report {report} appeared in the history within {}; check that {} names a report of audit logs",
        humantime::format_duration(*.within), REPORT_ID.spec.name
    )]
    NoRun {
        /// The report.
        report: String,
        /// How long was waited.
        within: Duration,
    },
    /// A run cannot be read.
    #[error("the run {run} cannot be read; it is read again, and after ten minutes another run takes its place")]
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
    #[error("a run cannot be stored in the temporary folder; TMPDIR names another folder")]
    Spool(#[source] io::Error),
    /// The program ends.
    #[error("the run was not read to its end")]
    Interrupted,
    /// The stored cursor is not one of this source's.
    #[error("the stored cursor cannot be understood")]
    Cursor(#[source] serde_json::Error),
}

/// What is wrong with the content of a run.
#[derive(Debug, thiserror::Error)]
pub enum Content {
    /// The API does not have it any more.
    #[error("{address} answered {status}: {reason}")]
    Gone {
        /// Where the call went.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// It is larger than anything that is read.
    #[error("it has more than {most} bytes")]
    TooLarge {
        /// The bound.
        most: u64,
    },
    /// The history does not say in how many files it is.
    #[error("the history does not say in how many files it is: its split_report_count is no number")]
    UnknownSplits,
    /// It has as many rows as a file of a split run, and is not split.
    #[error(
        "it has exactly {rows} rows in one file, where the API splits a run, so rows may be missing; shorten the report's date range"
    )]
    NotSplit {
        /// How many rows it has.
        rows: u64,
    },
    /// It is split into more files than anything that is read.
    #[error("it is split into {0} files")]
    TooManySplits(u32),
    /// It is a ZIP file that cannot be opened.
    #[error("the ZIP file cannot be read")]
    Zip(#[from] zip::result::ZipError),
    /// It is a ZIP file without rows.
    #[error("the ZIP file holds no .json file; the report's format must be JSON")]
    NoJson,
    /// It is a ZIP file with more than one file of rows.
    #[error("the ZIP file holds more than one .json file, and only one is understood; report this")]
    SeveralJson,
    /// It is not an array of rows.
    #[error("it is not an array of rows: {cause}; it begins with {beginning}")]
    NotRows {
        /// How it begins.
        beginning: Excerpt,
        /// What is wrong with it. The parser's words may quote it.
        cause: Excerpt,
    },
    /// No row has the column with the time.
    #[error(
        "the report has no column {heading:?}; add it to the report, or name the column with the time in {}. The columns are {columns}",
        TIME_COLUMN.spec.name
    )]
    NoTimeColumn {
        /// The column that was looked for.
        heading: String,
        /// The columns that there are.
        columns: Excerpt,
    },
    /// No row has a time that is understood.
    #[error(
        "no row's column {heading:?} holds a time such as 06-Feb-2025 10:28:04 but, for instance, {found}; name the column with the time in {}",
        TIME_COLUMN.spec.name
    )]
    NoTime {
        /// The column.
        heading: String,
        /// What stands there.
        found: Excerpt,
    },
    /// It has fewer rows than were read of it before.
    #[error("it has {now} rows now, and had at least {before}")]
    Shorter {
        /// How many were read.
        before: u64,
        /// How many there are.
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
    /// Whether the cause may be the run that is downloaded, where other calls work.
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
            Self::KeyRejected { .. } | Self::KeyGone { .. } => Class::CredentialsRejected,
            Self::KeyRotated { .. } => Class::TokenRejected,
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

/// Why a run was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// Its content is wrong.
    #[error(transparent)]
    Content(#[from] Content),
    /// Anything else.
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
