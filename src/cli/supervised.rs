//! The supervisor that started us, as far as the environment names one.

use std::env;
use std::sync::Arc;

use crate::systemd::{self, Notifier};
use crate::telemetry::pulse::Pulse;

/// The way to systemd, if it wants to be told things.
pub(super) fn notifier() -> Option<Arc<Notifier>> {
    let name = env::var_os(systemd::SOCKET).filter(|name| !name.is_empty())?;
    match Notifier::to(&name) {
        Ok(notifier) => Some(Arc::new(notifier)),
        Err(error) => {
            tracing::warn!(%error, "the socket that NOTIFY_SOCKET names cannot be used; systemd is told nothing");
            None
        }
    }
}

/// Tells systemd from now on that the work goes on, and how.
pub(super) fn attend(notifier: &Arc<Notifier>, pulse: &Pulse) {
    let (usec, pid) = (env::var_os(systemd::WATCHDOG_USEC), env::var_os(systemd::WATCHDOG_PID));
    let watchdog = systemd::watchdog(usec.as_deref(), pid.as_deref(), std::process::id());
    if let Some(within) = watchdog {
        tracing::debug!(within = %humantime::format_duration(within), "systemd's watchdog is fed");
    }
    let (notifier, pulse) = (Arc::clone(notifier), pulse.clone());
    tokio::spawn(async move { notifier.attend(&pulse, watchdog).await });
}
