//! Sends notifications to systemd (`sd_notify(3)`): ready, status, watchdog, stopping. Under any other supervisor it sends none.
//!
//! The crate `sd-notify` writes the messages and reads the watchdog's variables. Its own sends block while systemd does not read, which
//! would hold up every pipeline. So this module has a socket of its own, which does not block.
//!
//! The watchdog gets its heartbeat while every engine is alive, that is, makes progress or is in an announced wait. A heartbeat from a
//! timer alone would hide a hang.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry::listener::Observed;
use crate::telemetry::liveness::Health;

/// How many heartbeats the watchdog gets within its time, so that a late one does no harm.
const BEATS: u32 = 4;

/// The time to end the process after the shutdown timeout.
const ENDING: Duration = Duration::from_secs(5);

/// Sends notifications to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// Makes a notifier to the socket `name`: a path, or after a `@` a name in Linux's abstract namespace.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            [b'@', name @ ..] => abstract_address(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, is_stopping: AtomicBool::new(false) })
    }

    /// Reports that the configuration is valid and the work begins.
    pub fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Reports that secrets are being read again, until [`Self::ready`]. The time tells `Type=notify-reload` which reload this is.
    pub fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        self.notify(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
    }

    /// Reports that a shutdown has begun that may take up to `timeout`, even if `TimeoutStopSec=` is less. Only the first call sends it.
    pub fn stopping(&self, timeout: Duration) {
        if !self.is_stopping.swap(true, Ordering::Relaxed) {
            let longest = u32::try_from((timeout + ENDING).as_micros()).unwrap_or(u32::MAX);
            self.notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)]);
        }
    }

    /// Reports why the process ends, for `systemctl status` to show afterwards.
    pub fn failed(&self, reason: impl std::fmt::Display) {
        self.notify(&[NotifyState::Status(&reason.to_string().replace(char::is_control, " "))]);
    }

    /// Sends the status of the pipelines and the heartbeats for the watchdog, for as long as it is polled.
    pub async fn attend(&self, observed: &[Observed]) {
        attend(observed, watchdog(), |state| self.notify(state)).await;
    }

    /// Sends a message. It drops the message if systemd has no room for it or does not listen.
    fn notify(&self, state: &[NotifyState<'_>]) {
        let message = state.iter().fold(String::new(), |mut message, state| {
            // Writing into memory cannot fail.
            let _ = writeln!(message, "{state}");
            message
        });
        if let Err(error) = self.socket.send_to_addr(message.trim_end().as_bytes(), &self.address) {
            tracing::debug!(%error, message, "systemd could not be notified");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;

    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How long systemd waits for a heartbeat of this process; none without a watchdog.
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|within| !within.is_zero())
}

async fn attend(observed: &[Observed], watchdog: Option<Duration>, notify: impl Fn(&[NotifyState<'_>])) {
    let mut statuses: Vec<_> = observed.iter().map(|observed| observed.liveness.status()).collect();
    let mut heart = Heart::default();
    let mut beats = watchdog.map(|within| {
        let mut beats = interval(within / BEATS);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats
    });
    loop {
        let beat = async {
            match &mut beats {
                Some(beats) => beats.tick().await,
                None => std::future::pending().await,
            }
        };
        let is_new_status = tokio::select! {
            (Ok(()), ..) = select_all(statuses.iter_mut().map(|status| status.changed().boxed())) => true,
            _ = beat => false,
        };
        if is_new_status {
            let all = observed.iter().zip(&mut statuses).map(|(observed, status)| {
                let status = status.borrow_and_update();
                if observed.is_alone { status.clone() } else { format!("{}: {}", observed.name, *status) }
            });
            notify(&[NotifyState::Status(&all.collect::<Vec<_>>().join("; "))]);
        } else {
            let health = observed.iter().map(|observed| observed.liveness.health());
            if heart.beats(health.min_by_key(|health| health.is_good)) {
                notify(&[NotifyState::Watchdog]);
            }
        }
    }
}

/// Decides whether the watchdog gets its heartbeat.
#[derive(Debug, Default)]
struct Heart {
    is_still: bool,
}

impl Heart {
    /// Whether to send a heartbeat, by the worst `health` of all engines.
    fn beats(&mut self, health: Option<Health>) -> bool {
        let Some(health) = health else { return true };
        if let (Some(reason), false) = (health.reason, self.is_still) {
            tracing::warn!(reason, "the engine makes no progress; systemd's watchdog gets no heartbeat until it does");
        }
        self.is_still = !health.is_good;
        health.is_good
    }
}

#[cfg(test)]
mod tests;
