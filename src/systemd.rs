//! What is told to systemd, as its `sd_notify(3)` and `sd_watchdog_enabled(3)` describe: datagrams to the socket that
//! `NOTIFY_SOCKET` names. Under anything else that variable is not set, and nothing is told.
//!
//! The watchdog is fed for as long as the engine's [`Pulse`] is good, which is to say that it moves or that the wait that it announced
//! goes on, and not by a timer of its own: a feeder that outlives a hang would only hide it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::telemetry::pulse::{Health, Pulse};

/// The socket to tell things to.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// How long systemd waits for a sign of life, in microseconds.
pub const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// The process that it waits for, where that is not just any.
pub const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The watchdog is looked after so many times within its time, so that one late look does no harm.
const LOOKS: u32 = 4;

/// Room for ending the process behind the grace.
const ENDING: Duration = Duration::from_secs(5);

/// The way to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    stopping: AtomicBool,
}

impl Notifier {
    /// A way to the socket called `name`: a path, or with a first `@` a name in Linux's abstract namespace.
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            [b'@', name @ ..] => abstract_address(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not hold up the work.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address, stopping: AtomicBool::new(false) })
    }

    /// The configuration is good and the work begins.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Secrets are read again; [`Self::ready`] ends it. The time lets `Type=notify-reload` tell which reload is meant.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// A stop has begun that may take `grace`, even if `TimeoutStopSec=` is less. Told once.
    pub fn stopping(&self, grace: Duration) {
        if !self.stopping.swap(true, Ordering::Relaxed) {
            self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", (grace + ENDING).as_micros()));
        }
    }

    /// Why the process ends, for `systemctl status` to show afterwards.
    pub fn failed(&self, why: impl std::fmt::Display) {
        self.tell(&format!("STATUS={}", why.to_string().replace(char::is_control, " ")));
    }

    /// Tells how the work stands and feeds the watchdog, for as long as it is polled.
    pub async fn attend(&self, pulse: &Pulse, watchdog: Option<Duration>) {
        attend(pulse, watchdog, |message| self.tell(message)).await;
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            tracing::debug!(%error, message, "systemd could not be told");
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

/// How long systemd waits for a sign of life of the process `own_pid`, from [`WATCHDOG_USEC`] and [`WATCHDOG_PID`]; none where
/// it does not.
pub fn watchdog(usec: Option<&OsStr>, pid: Option<&OsStr>, own_pid: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.to_str().and_then(|pid| pid.parse().ok()) == Some(own_pid));
    let usec = usec?.to_str()?.parse().ok().filter(|usec| *usec > 0)?;
    is_ours.then_some(Duration::from_micros(usec))
}

async fn attend(pulse: &Pulse, watchdog: Option<Duration>, tell: impl Fn(&str)) {
    let mut standing = pulse.standing();
    let mut feeder = Feeder::default();
    let mut looks = watchdog.map(|within| {
        let mut looks = tokio::time::interval(within / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    });
    loop {
        let look = async {
            match &mut looks {
                Some(looks) => looks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = standing.changed() => tell(&format!("STATUS={}", *standing.borrow_and_update())),
            _ = look => {
                if feeder.look(pulse.health()) {
                    tell("WATCHDOG=1");
                }
            }
        }
    }
}

/// Decides whether the watchdog is fed.
#[derive(Debug, Default)]
struct Feeder {
    is_hungry: bool,
}

impl Feeder {
    /// Whether to feed it.
    fn look(&mut self, health: Health) -> bool {
        if let (Some(reason), false) = (health.reason, self.is_hungry) {
            tracing::warn!(reason, "the engine gives no sign of life; the watchdog is not fed until it does");
        }
        self.is_hungry = !health.is_good;
        health.is_good
    }
}

#[cfg(test)]
mod tests;
