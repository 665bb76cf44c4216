//! The supervisor that started us, as far as the environment names one.

use std::env;
use std::sync::Arc;

use crate::systemd::Notifier;
use crate::telemetry::listener::Observed;

/// The variable that names systemd's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The way to systemd, if it expects notifications.
pub(super) fn notifier() -> Option<Arc<Notifier>> {
    let name = env::var_os(SOCKET).filter(|name| !name.is_empty())?;
    let notifier = Notifier::to(&name);
    notifier.map(Arc::new).inspect_err(|error| tracing::warn!(%error, "{SOCKET} cannot be used; systemd gets no notification")).ok()
}

/// From now on systemd gets the status of the pipelines, and the heartbeats of its watchdog.
pub(super) fn attend(notifier: &Arc<Notifier>, observed: Vec<Observed>) {
    let notifier = Arc::clone(notifier);
    tokio::spawn(async move { notifier.attend(&observed).await });
}
