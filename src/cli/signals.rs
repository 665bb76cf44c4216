//! Signals: SIGTERM and SIGINT request a shutdown; on SIGHUP the process reads its secrets again.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use crate::engine::shutdown::Shutdown;
use crate::failure::Chain;
use crate::secret::Secret;
use crate::systemd::Notifier;

/// Obeys signals from now on. None of them ends the process by itself. A shutdown may take up to `timeout`, and a second request ends it at
/// once. The error is the exit code of a failure that was logged.
pub(super) fn obey(
    shutdown: Shutdown,
    timeout: Duration,
    secrets: Vec<Secret>,
    notifier: Option<Arc<Notifier>>,
) -> Result<(), Exit> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            tracing::error!(%error, "cannot listen for signals");
            Exit::TryAgain
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    reload(&secrets, notifier.as_deref());
                    continue;
                }
            };
            tracing::info!(
                signal = name,
                again = shutdown.is_requested(),
                "shutting down; auditsync finishes the pages in flight first"
            );
            if let Some(notifier) = &notifier {
                notifier.stopping(timeout);
            }
            shutdown.request();
        }
    });
    Ok(())
}

/// Reads the secrets that came from files again. The files are small and on a local disk or in memory, so this thread may block.
fn reload(secrets: &[Secret], notifier: Option<&Notifier>) {
    if let Some(notifier) = notifier {
        notifier.reloading();
    }
    if secrets.is_empty() {
        tracing::info!("SIGHUP: no secret came from a file, so there is nothing to read again");
    }
    for secret in secrets {
        let variable = secret.variable();
        match secret.reload() {
            Ok(true) => {
                tracing::info!(%variable, "SIGHUP: the file was read again and holds another secret, which is used from now on");
            }
            Ok(false) => tracing::info!(%variable, "SIGHUP: the file was read again and holds the same secret"),
            Err(error) => {
                tracing::error!(%variable, error = %Chain(&error), "SIGHUP: the file cannot be read again; the secret in use stays");
            }
        }
    }
    if let Some(notifier) = notifier {
        notifier.ready();
    }
}
