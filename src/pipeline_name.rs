//! The name of a pipeline: `sectigo:datadog`, or with labels `cloudtrail.prod:s3`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a pipeline, in logs, metrics, commands and the state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PipelineName(Arc<str>);

impl PipelineName {
    /// The pipeline from `source` to `destination`, each a kind with or without a label.
    pub fn of(source: &str, destination: &str) -> Self {
        Self(format!("{source}:{destination}").into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared: for metric labels, which are made often.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The beginning of the names of this pipeline's files and objects: `auditsync-sectigo-datadog`. Kinds and labels hold no dash, so
    /// no two pipelines share one.
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
