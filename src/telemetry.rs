//! The program's own logs, to standard error as text or JSON; its metrics ([`metrics`]); its health ([`liveness`]); and the endpoints
//! for both ([`listener`]).

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressBar;
use parking_lot::Mutex;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

pub mod listener;
pub mod liveness;
pub mod metrics;
pub(crate) mod variables;

/// How the program logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The layout of a line.
    pub format: Format,
    /// The lowest severity to log.
    pub level: Level,
}

/// The layout of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The level of libraries, which no setting changes. Below warnings they would log headers of requests and queries of addresses, which
/// contain secrets.
const LIBRARIES: LevelFilter = LevelFilter::WARN;

/// Starts logging, once for the process; a second call changes nothing.
pub fn start(settings: Settings) {
    let own = Targets::new()
        .with_default(LIBRARIES.min(settings.level.into()))
        .with_target(env!("CARGO_PKG_NAME"), settings.level);
    let layer = match settings.format {
        Format::Text => fmt::layer()
            .with_writer(|| Checked)
            .with_ansi(is_coloured(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref()))
            .with_target(false)
            .boxed(),
        Format::Json => {
            fmt::layer().json().flatten_event(true).with_writer(|| Checked).with_ansi(false).with_target(false).boxed()
        }
    };
    // This fails only in tests, where logging may already have started.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(layer.with_filter(own)));
}

/// How many writes of log lines failed since the start of the process.
static FAILED_WRITES: AtomicU64 = AtomicU64::new(0);

/// How many writes of log lines failed so far. If the number grew while a line was logged, that line may be lost.
pub fn failed_writes() -> u64 {
    FAILED_WRITES.load(Ordering::SeqCst)
}

/// The progress bar on the last line of the terminal, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Writes log lines above `bar` from now on, because the bar would hide a part of them.
pub fn log_above(bar: ProgressBar) {
    *BAR.lock() = Some(bar);
}

/// Standard error with a count of failed writes, which the logging library ignores.
struct Checked;

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().clone();
        let written = match bar {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        };
        if written.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            FAILED_WRITES.fetch_add(1, Ordering::SeqCst);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether text logs have colours: only on a terminal, and not if `NO_COLOR` is set and not empty (<https://no-color.org>).
fn is_coloured(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_without_no_color_has_colours() {
        assert!(is_coloured(true, None));
        assert!(is_coloured(true, Some(OsStr::new(""))));
        assert!(!is_coloured(true, Some(OsStr::new("0"))));
        assert!(!is_coloured(false, None));
    }
}
