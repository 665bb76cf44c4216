//! The cursor of the report, as the state holds it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::Run;
use super::kept::Kept;
use crate::fingerprint::Fingerprints;

/// How far the report has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// The start of the newest run whose rows are all delivered.
    pub(super) reached: Timestamp,
    /// The time of the newest row that was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) high: Option<Timestamp>,
    /// The delivered rows.
    pub(super) kept: Kept,
    /// The fingerprint of the last run's columns.
    #[serde(default, skip_serializing_if = "Fingerprints::is_empty")]
    pub(super) columns: Fingerprints,
    /// The newest run that was read or given up, or that existed before the present run was requested.
    #[serde(default)]
    pub(super) baseline: Baseline,
    /// The step between two runs.
    #[serde(default)]
    pub(super) step: Step,
}

/// A point in the history: runs up to here are of no interest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// The start of the newest of them; none if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<Timestamp>,
    /// The runs that began in that second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) runs: Vec<String>,
}

impl Baseline {
    /// The newer of the two; if they are equal, with the runs of both.
    pub(super) fn max(self, mut other: Self) -> Self {
        match self.began.cmp(&other.began) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal => {
                other.runs.extend(self.runs);
                other.runs.sort_unstable();
                other.runs.dedup();
                other
            }
        }
    }

    /// Whether `run` began after it.
    pub(super) fn is_before(&self, run: &Run) -> bool {
        match self.began {
            Some(began) if run.began == began => !self.runs.contains(&run.id),
            Some(began) => run.began > began,
            None => true,
        }
    }
}

/// The steps between two runs that are read whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Step {
    /// Nothing.
    #[default]
    Idle,
    /// The source starts a run after the baseline, and waits until it is ready.
    Waiting(Waiting),
    /// The source reads a run.
    Reading(Stand),
}

/// How far a run has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stand {
    /// The run.
    pub(super) run: Run,
    /// The time when the source found it ready.
    pub(super) found: Timestamp,
    /// The number of its rows, in its order, that are before the cursor.
    pub(super) rows: u64,
    /// The sum of the fingerprints of the delivered ones, which shows whether they are still the same.
    #[serde(default, skip_serializing_if = "crate::source::is_default")]
    pub(super) sum: u64,
    /// The step to return to if the run cannot be read.
    pub(super) waiting: Waiting,
}

impl Stand {
    /// Begins with the first row of `run`.
    pub(super) fn at(run: Run, found: Timestamp, waiting: Waiting) -> Self {
        Self { run, found, rows: 0, sum: 0, waiting }
    }
}

/// The wait for a run after the baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiting {
    /// The number of runs that were started.
    pub(super) started: u32,
    /// The time when the last one was started, or the wait began.
    pub(super) since: Timestamp,
    /// The start of the newest run that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) given_up: Option<Timestamp>,
}

impl Waiting {
    /// Begins a wait.
    pub(super) fn from(now: Timestamp) -> Self {
        Self { started: 0, since: now, given_up: None }
    }
}

impl Progress {
    /// A cursor with nothing delivered. It skips rows up to `since`; none skips no row.
    pub(super) fn behind(since: Option<Timestamp>) -> Self {
        Self {
            reached: since.unwrap_or(Timestamp::UNIX_EPOCH),
            high: None,
            kept: Kept::nothing(since.unwrap_or(Timestamp::MIN)),
            columns: Fingerprints::default(),
            baseline: Baseline { began: since, runs: Vec::new() },
            step: Step::Idle,
        }
    }

    /// The same cursor with another step.
    pub(super) fn at(self, step: Step) -> Self {
        Self { step, ..self }
    }
}
