//! The variables by which other software shows a process where it runs.

use std::env;
use std::path::PathBuf;

use serde::Deserialize;

/// What is known of the process's surroundings. Each member has the name of its variable, in lower case.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Surroundings {
    /// The socket of systemd for notifications (`sd_notify(3)`).
    pub(super) notify_socket: Option<PathBuf>,
    /// The address of the runtime API of AWS Lambda.
    #[cfg(feature = "lambda")]
    pub(super) aws_lambda_runtime_api: Option<String>,
}

impl Surroundings {
    /// Reads the process environment. A value that is not UTF-8 counts as not set.
    pub(super) fn read() -> Self {
        let texts =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        // Every member is an optional text, so nothing can be missing or malformed.
        envy::from_iter(texts).unwrap_or_default()
    }
}
