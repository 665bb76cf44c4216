//! The sync engine.

use std::time::Duration;

/// How the engine is to work.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether to go on after the first cycle.
    pub mode: Mode,
    /// The time from the start of one cycle to the start of the next.
    pub interval: Duration,
    /// How long a one-shot run goes on without progress.
    pub retry_budget: Duration,
    /// How long a stop waits for what is in flight.
    pub shutdown_grace: Duration,
}

/// How long to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until told to stop.
    Loop,
    /// Until everything up to the start is delivered.
    Once,
}
