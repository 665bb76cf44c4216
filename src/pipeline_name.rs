//! The name of a pipeline: `sectigo:datadog`, or with labels `cloudtrail.prod:s3`.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The part of a backfill's name that follows the name of its pipeline.
const BACKFILL: &str = ".backfill-";

/// The name of a pipeline, in logs, metrics, commands and the state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PipelineName(Arc<str>);

impl PipelineName {
    /// The pipeline from `source` to `destination`, each a kind with or without a label.
    pub fn of(source: &str, destination: &str) -> Self {
        Self(format!("{source}:{destination}").into())
    }

    /// The name of a backfill of this pipeline between two times.
    pub(crate) fn for_backfill(&self, from: Timestamp, to: Timestamp) -> Self {
        let compact = |time: Timestamp| time.to_string().replace(['-', ':'], "");
        Self(format!("{}{BACKFILL}{}-{}", self.0, compact(from), compact(to)).into())
    }

    /// Whether this is the name of a backfill of `pipeline`.
    pub(crate) fn is_backfill_of(&self, pipeline: &Self) -> bool {
        self.0.strip_prefix(&*pipeline.0).is_some_and(|rest| rest.starts_with(BACKFILL))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as shared text, for metric labels, which are made often.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The beginning of the names of this pipeline's files and objects: `auditsync-sectigo-datadog`. Kinds and labels have no dash, so no
    /// two pipelines share one.
    pub fn file_stem(&self) -> String {
        format!("auditsync-{}", self.0.replace(':', "-"))
    }
}

impl From<&str> for PipelineName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
