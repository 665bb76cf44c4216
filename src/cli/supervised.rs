//! The supervisor that started us, as far as the environment names one.

use std::env;
use std::sync::Arc;

use crate::systemd::Notifier;
use crate::telemetry::listener::Observed;

/// The way to systemd, if it expects notifications.
pub(super) fn notifier() -> Option<Arc<Notifier>> {
    env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
    Some(Arc::new(Notifier::default()))
}

/// From now on systemd gets the status of the pipelines, and the heartbeats of its watchdog.
pub(super) fn attend(notifier: &Arc<Notifier>, observed: Vec<Observed>) {
    let notifier = Arc::clone(notifier);
    tokio::spawn(async move { notifier.attend(&observed).await });
}
