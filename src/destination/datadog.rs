//! The Datadog logs intake.

use std::path::PathBuf;

use url::Url;

use crate::secret::Secret;

/// What is needed to send to the intake.
#[derive(Debug)]
pub struct Settings {
    /// The intake's base address; `/api/v2/logs` is added to it.
    pub intake_url: Url,
    /// The variable that decided on `intake_url`, named when the place proves wrong.
    pub intake_variable: &'static str,
    /// The Datadog site, such as `datadoghq.com`.
    pub site: String,
    /// The API's base address for the key check (`/api/v1/validate`).
    pub api_url: Url,
    /// The API key.
    pub api_key: Secret,
    /// How request bodies are compressed.
    pub compression: Compression,
    /// What every entry carries.
    pub labels: Labels,
    /// Where rejected records are kept; none to log them whole.
    pub rejected_path: Option<PathBuf>,
}

/// What every entry carries, whatever its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// `ddsource`, lower case: chooses the pipeline.
    pub source: String,
    /// `service`.
    pub service: String,
    /// `hostname`.
    pub hostname: String,
    /// `ddtags`: one string, joined by commas; may be empty.
    pub tags: String,
}

/// How request bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The documented one.
    Gzip,
    /// Smaller and cheaper; taken by the intake, though not documented.
    Zstd,
    /// None, for a relay on the same machine.
    Identity,
}
