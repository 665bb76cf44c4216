//! `auditsync run`.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use super::{assemble, begin};
use crate::config::{Config, Storage};
use crate::destination::datadog::Datadog;
use crate::failure::Chain;
use crate::http;
use crate::source::sectigo::Sectigo;
use crate::sync::clock::Clock;
use crate::sync::stop::Stop;
use crate::sync::{Mode, Outcome, Sync};

/// Runs the synchronisation until it ends.
pub(super) async fn run(config: Config, once: bool) -> Exit {
    begin(config.telemetry, &config.warnings);
    let mut settings = config.sync;
    if once && settings.mode == Mode::Loop {
        settings.mode = Mode::Once;
        if matches!(config.storage, Storage::Memory) {
            tracing::warn!(
                "with SECTIGO_AUDIT_STORAGE_BACKEND=memory, run after run starts over: nothing is remembered between them"
            );
        }
    }
    let stop = Stop::new(settings.shutdown_grace);
    if let Err(error) = stop_on_signals(&stop) {
        tracing::error!(%error, "cannot listen for signals");
        return Exit::TryAgain;
    }
    let http = Arc::new(http::Client::new(config.http));
    let destination = Datadog::new(config.datadog, Sectigo::NAME, Arc::clone(&http));
    let store = assemble::store(&config.storage);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = %config.sectigo.api_url,
        destination = %destination.place(),
        state = store.place(),
        mode = ?settings.mode,
        interval = %humantime::format_duration(settings.interval),
        "auditsync starts"
    );
    let source = Sectigo::new(config.sectigo, http);
    let sync = Sync::new(Arc::new(source), Arc::new(destination), store, settings, Clock::system(), stop);
    let exit = match sync.run().await {
        Ok(Outcome::Done) => Exit::Done,
        Ok(outcome @ (Outcome::Stopped | Outcome::Interrupted { .. })) => {
            if outcome == Outcome::Stopped {
                tracing::info!("stopped; everything delivered is committed");
            }
            // Who asked for one complete run did not get it.
            if settings.mode == Mode::Once { Exit::TryAgain } else { Exit::Done }
        }
        Err(error) => {
            let exit = Exit::from(&error);
            tracing::error!(exit_code = exit.code(), "{}", Chain(&error));
            exit
        }
    };
    tracing::debug!(exit_code = exit.code(), "auditsync ends");
    exit
}

/// SIGTERM and SIGINT ask to stop; the second one ends the grace.
fn stop_on_signals(stop: &Stop) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(
                signal = name,
                again = stop.is_requested(),
                "asked to stop; what is in flight is finished first"
            );
            stop.request();
        }
    });
    Ok(())
}
