//! `auditsync run --dry-run`: prints the entries that a run would send. It sends, writes and locks nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::exit::Exit;
use super::{begin, signals};
use crate::engine::decision::Reason;
use crate::engine::shutdown::Shutdown;
use crate::engine::{Engine, Error, Mode, Outcome, Settings};
use crate::failure::Chain;
use crate::pipeline::{Config, Pipeline};
use crate::source::unconfirmed::Unconfirmed;
use crate::state::readonly::ReadOnly;
use crate::telemetry::liveness::Liveness;

/// Prints every entry from the stored cursor up to the present, pipeline after pipeline.
pub(super) async fn dry_run(config: Config) -> Exit {
    begin(config.telemetry, &config.warnings);
    let shutdown = Shutdown::default();
    if let Err(exit) = signals::obey(shutdown.clone(), Duration::ZERO, Vec::new(), None) {
        return exit;
    }
    let mut gravest = Exit::Done;
    for pipeline in config.pipelines {
        let span = tracing::info_span!("pipeline", name = %pipeline.name);
        gravest = gravest.max(print(pipeline, &shutdown).instrument(span).await);
    }
    gravest
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    let cause = std::iter::successors(Some(cause), |cause| cause.source());
    let mut errors = cause.filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn print(pipeline: Pipeline, shutdown: &Shutdown) -> Exit {
    // Nothing is sent, so a shutdown need not wait for anything in flight.
    let settings = Settings { mode: Mode::Once, shutdown_timeout: Duration::ZERO, ..pipeline.settings };
    let store = Arc::new(ReadOnly::of(pipeline.store.build()));
    // Dead letters are logged and not written.
    let context = pipeline.context().only_logging();
    let mut parts = pipeline.parts(&context, store, Liveness::default());
    parts.source = Arc::new(Unconfirmed(parts.source));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = parts.source.location(),
        state = parts.store.location(),
        "dry run: entries are printed to standard output, and `delivered` counts them; nothing is sent, and the state is only read"
    );
    match Engine::new(parts, settings, shutdown.clone()).run().await {
        Ok(Outcome::Done) => Exit::Done,
        Ok(Outcome::Stopped | Outcome::Interrupted { .. }) => Exit::TryAgain,
        // The reader, such as `head`, has seen enough.
        Err(Error::GivenUp { reason: Reason::Closed, cause, .. }) if is_broken_pipe(&cause) => Exit::Done,
        Err(error) => {
            let exit = Exit::from(&error);
            tracing::error!(exit_code = exit.code(), "{}", Chain(&error));
            exit
        }
    }
}
