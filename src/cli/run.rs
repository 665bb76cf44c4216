//! `auditsync run`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::exit::Exit;
use super::signals::Signals;
use super::{assemble, begin, supervised};
use crate::destination::datadog::Datadog;
use crate::failure::Chain;
use crate::http;
use crate::pipeline::{Config, Names};
use crate::source::sectigo::Sectigo;
use crate::state::variables::Storage;
use crate::sync::clock::Clock;
use crate::sync::stop::Stop;
use crate::sync::{Mode, Outcome, Sync};
use crate::telemetry::listener::Listener;
use crate::telemetry::metrics::exporter;
use crate::telemetry::pulse::{Pace, Pulse};

/// Runs the synchronisation until it ends.
pub(super) async fn run(config: Config, once: bool) -> Exit {
    begin(config.telemetry, &config.warnings);
    let mut settings = config.sync;
    if once && settings.mode == Mode::Loop {
        settings.mode = Mode::Once;
        if matches!(config.storage, Storage::Memory) {
            let backend = &config.names.backend;
            tracing::warn!("with {backend}=memory, run after run starts over: nothing is remembered between them");
        }
    }
    let notifier = supervised::notifier();
    let stop = Stop::new(settings.shutdown_grace);
    match Signals::listen() {
        Ok(signals) => signals.obey(stop.clone(), config.secret_files(), notifier.clone()),
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return Exit::TryAgain;
        }
    }
    let pulse = Pulse::new(Pace { interval: settings.interval, exchange: config.http.timeout });
    if let Some(address) = config.listen
        && let Err(exit) = listen(address, &config.names, settings.mode, &pulse).await
    {
        return exit;
    }
    let http = Arc::new(http::Client::new(config.http));
    let destination = Datadog::new(config.datadog, Sectigo::NAME, Arc::clone(&http));
    let store = assemble::store(config.storage);
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
    let sync = sync.watched_by(pulse.clone());
    if let Some(notifier) = &notifier {
        // Whether the far sides answer is no question of being ready: an outage at the start is waited for.
        notifier.ready();
        supervised::attend(notifier, &pulse);
    }
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
            if let Some(notifier) = &notifier {
                notifier.failed(format_args!("ended with exit code {}: {}", exit.code(), Chain(&error)));
            }
            exit
        }
    };
    if let Some(notifier) = &notifier {
        notifier.stopping(Duration::ZERO);
    }
    tracing::debug!(exit_code = exit.code(), "auditsync ends");
    exit
}

/// Answers probes and Prometheus from now on. Only with somebody to tell it to is anything counted.
///
/// A one-shot run goes on without where the address is taken: beside a daemon, or a run before it that is still under
/// way, the same variables hold for both.
async fn listen(address: SocketAddr, names: &Names, mode: Mode, pulse: &Pulse) -> Result<(), Exit> {
    let name = &names.listen;
    let listener = match Listener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if mode == Mode::Once && error.kind() == ErrorKind::AddrInUse => {
            tracing::warn!(%error, "{name}={address}: somebody else answers there; this run does without");
            return Ok(());
        }
        Err(error) => {
            // Taken by a one-shot run, it is free again when that ends.
            let exit = if error.kind() == ErrorKind::AddrInUse { Exit::TryAgain } else { Exit::Configuration };
            tracing::error!(%error, exit_code = exit.code(), "{name}={address}: cannot listen there; choose an address of this machine and a free port");
            return Err(exit);
        }
    };
    let scrape = exporter::install().map_err(|error| {
        tracing::error!("{}", Chain(&error));
        Exit::Bug
    })?;
    listener.serve(pulse.clone(), scrape);
    tracing::info!(%address, "answering /healthz, /readyz and /metrics");
    Ok(())
}
