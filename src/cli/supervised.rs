//! The supervisor that started this process, if the environment names one.

use std::sync::Arc;

use super::surroundings::Surroundings;
use crate::systemd::Notifier;
use crate::telemetry::listener::Observed;

/// A notifier for systemd, if it expects notifications.
pub(super) fn notifier() -> Option<Arc<Notifier>> {
    let socket = Surroundings::read().notify_socket.filter(|socket| !socket.as_os_str().is_empty())?;
    let notifier = Notifier::to(socket.as_os_str());
    notifier
        .map(Arc::new)
        .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; systemd gets no notification"))
        .ok()
}

/// Sends systemd the status of the pipelines and the heartbeats for its watchdog from now on.
pub(super) fn attend(notifier: &Arc<Notifier>, observed: Vec<Observed>) {
    let notifier = Arc::clone(notifier);
    tokio::spawn(async move { notifier.attend(&observed).await });
}
