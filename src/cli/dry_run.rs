//! `auditsync run --dry-run`: what would be sent is printed, and nothing is sent, written or locked.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use super::exit::Exit;
use super::signals::Signals;
use super::{assemble, begin};
use crate::destination;
use crate::destination::datadog::Labels;
use crate::destination::datadog::preview::Preview;
use crate::failure::Chain;
use crate::http;
use crate::pipeline::Config;
use crate::source::sectigo::Sectigo;
use crate::state::readonly::ReadOnly;
use crate::sync::clock::Clock;
use crate::sync::stop::Stop;
use crate::sync::{Error, Mode, Outcome, Settings, Sync};

/// Prints everything from the stored place up to the present.
pub(super) async fn dry_run(config: Config<Labels>) -> Exit {
    begin(config.telemetry, &config.warnings);
    // Nothing that is in flight would be missed.
    let settings = Settings { mode: Mode::Once, shutdown_grace: Duration::ZERO, ..config.sync };
    let stop = Stop::new(settings.shutdown_grace);
    match Signals::listen() {
        Ok(signals) => signals.obey(stop.clone(), Vec::new(), None),
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return Exit::TryAgain;
        }
    }
    let http = Arc::new(http::Client::new(config.http));
    let store = assemble::store(config.storage);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = %config.sectigo.api_url,
        state = store.place(),
        "dry run: entries are printed to standard output, and that is what `delivered` counts here; nothing is sent, and the state is only read"
    );
    let destination = Preview::new(&config.datadog, Sectigo::NAME, "standard output", io::stdout());
    let source = Sectigo::new(config.sectigo, http);
    let store = Arc::new(ReadOnly::of(store));
    let sync = Sync::new(Arc::new(source), Arc::new(destination), store, settings, Clock::system(), stop);
    match sync.run().await {
        Ok(Outcome::Done) => Exit::Done,
        Ok(Outcome::Stopped | Outcome::Interrupted { .. }) => Exit::TryAgain,
        // Whoever reads has seen enough.
        Err(Error::Destination { cause: destination::Error::Unprinted { cause, .. }, .. })
            if cause.kind() == ErrorKind::BrokenPipe =>
        {
            Exit::Done
        }
        Err(error) => {
            let exit = Exit::from(&error);
            tracing::error!(exit_code = exit.code(), "{}", Chain(&error));
            exit
        }
    }
}
