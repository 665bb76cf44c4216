//! The program's own logs.

/// How the program logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The layout of a line.
    pub format: Format,
    /// The least severity that is logged.
    pub level: tracing::Level,
}

/// The layout of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
