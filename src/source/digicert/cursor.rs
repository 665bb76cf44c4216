//! How far the report has been read, as the state holds it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::Run;
use super::kept::Kept;
use crate::fingerprint::Fingerprints;

/// The cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// When the newest run began of which everything is delivered: everything before is known.
    pub(super) reached: Timestamp,
    /// The time of the newest row that was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) high: Option<Timestamp>,
    /// What was delivered.
    pub(super) kept: Kept,
    /// What identifies the columns of the last run.
    #[serde(default, skip_serializing_if = "Fingerprints::is_empty")]
    pub(super) columns: Fingerprints,
    /// The newest run that was read or given up, or that was there when the present one was asked.
    #[serde(default)]
    pub(super) baseline: Baseline,
    /// What is going on.
    #[serde(default)]
    pub(super) step: Step,
}

/// The runs up to here are of no interest: they began before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Baseline {
    /// When the newest of them began; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<Timestamp>,
    /// Those of them that began in that second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) runs: Vec<String>,
}

impl Baseline {
    /// The newer one of two.
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

/// What is going on between two runs that were read whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// Nothing.
    #[default]
    Idle,
    /// A run behind the baseline is to be started, and then to become ready.
    Waiting(Waiting),
    /// A run is being read.
    Reading {
        /// Which.
        run: Run,
        /// When it was found.
        found: Timestamp,
        /// How many of its rows, in its order, are behind the cursor.
        rows: u64,
        /// The sum of the fingerprints of those that were delivered, which tells whether they are still the same.
        #[serde(default, skip_serializing_if = "is_zero")]
        sum: u64,
        /// What to go back to, if it cannot be read.
        waiting: Waiting,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// What was done so that there is a run behind the baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// How many runs were started.
    pub(super) started: u32,
    /// When the last one was started, or the wait began.
    pub(super) since: Timestamp,
    /// When the newest run began that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) given_up: Option<Timestamp>,
}

impl Waiting {
    /// Nothing was done yet.
    pub(super) fn from(now: Timestamp) -> Self {
        Self { started: 0, since: now, given_up: None }
    }
}

impl Progress {
    /// Nothing delivered, and nothing wanted up to `since`; none where everything is.
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

    /// The same, with another step.
    pub(super) fn at(self, step: Step) -> Self {
        Self { step, ..self }
    }
}
