//! Signals: SIGTERM and SIGINT request a shutdown; on SIGHUP the process reads its secrets again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::engine::shutdown::Shutdown;
use crate::failure::Chain;
use crate::secret::Secret;
use crate::systemd::Notifier;

/// The signals that this process handles. While this exists, none of them ends the process by itself.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen for signals.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Obeys signals from now on. A shutdown may take up to `timeout`; a second request ends it at once.
    pub(super) fn obey(
        mut self,
        shutdown: Shutdown,
        timeout: Duration,
        secrets: Vec<Secret>,
        notifier: Option<Arc<Notifier>>,
    ) {
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = self.terminate.recv() => "SIGTERM",
                    _ = self.interrupt.recv() => "SIGINT",
                    _ = self.hangup.recv() => {
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
    }
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
