//! How long an active instance may rely on its own lease.
//!
//! The active instance counts from when it *began* its last successful save. A standby counts from when it saw that save, which is
//! later. So the active instance stops calling the destination before a standby may become active.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::state::lease::LOOKS;

/// A lease is renewed after a third of its length.
const RENEWED_AFTER: u32 = 3;

/// The last fifth of a lease is not used. A cancelled request then ends before another instance begins.
const LEFT_AT_THE_END: u32 = 5;

/// The lease of this instance, by its own monotonic clock.
#[derive(Debug, Default)]
pub(super) struct LeaseClock {
    held: Mutex<Option<Held>>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    length: Duration,
}

impl Held {
    fn sure_until(self) -> Instant {
        self.since + self.length - self.length / LEFT_AT_THE_END
    }
}

impl LeaseClock {
    /// Notes that a save that began at `since` put a lease of this `length` into the document.
    pub(super) fn renewed(&self, since: Instant, length: Duration) {
        *self.held.lock() = Some(Held { since, length });
        self.changed.notify_waiters();
    }

    /// Notes that this instance holds no lease any more, or needs none.
    pub(super) fn ended(&self) {
        *self.held.lock() = None;
        self.changed.notify_waiters();
    }

    fn held(&self) -> Option<Held> {
        *self.held.lock()
    }

    /// The latest time at which to save the document again.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        self.held().map(|held| held.since + held.length / RENEWED_AFTER)
    }

    /// Whether the lease was not renewed in time, so that another instance may be active.
    pub(super) fn has_lapsed(&self) -> bool {
        self.held().is_some_and(|held| Instant::now() >= held.sure_until())
    }

    /// The longest wait before a failed save is retried.
    pub(super) fn longest_pause(&self) -> Option<Duration> {
        let held = self.held()?;
        Some(if self.has_lapsed() { held.length } else { held.length / LOOKS })
    }

    /// Waits until the destination may be called.
    pub(super) async fn sure(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.has_lapsed() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the destination may no longer be called.
    pub(super) async fn lapse(&self) {
        loop {
            let changed = self.changed.notified();
            match self.held() {
                None => changed.await,
                Some(_) if self.has_lapsed() => return,
                Some(held) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(held.sure_until()) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_is_sure_of_four_fifths_of_its_lease() {
        let (lease, start) = (LeaseClock::default(), Instant::now());
        lease.renewed(start, TTL);
        assert_eq!(lease.renewal_due(), Some(start + seconds(20)));
        lease.lapse().await;
        assert_eq!(start.elapsed().as_secs(), 48);
        assert!(lease.has_lapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_before_its_save() {
        let (lease, start) = (LeaseClock::default(), Instant::now());
        lease.renewed(start, TTL);
        let renewing = async {
            tokio::time::sleep(seconds(40)).await;
            lease.renewed(start + seconds(30), TTL);
        };
        tokio::join!(lease.lapse(), renewing);
        assert_eq!(start.elapsed().as_secs(), 78);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lapsed_lease_can_be_regained() {
        let (lease, start) = (LeaseClock::default(), Instant::now());
        lease.renewed(start, TTL);
        lease.lapse().await;
        let regaining = async {
            tokio::time::sleep(seconds(100)).await;
            lease.renewed(Instant::now(), TTL);
        };
        tokio::join!(lease.sure(), regaining);
        assert_eq!(start.elapsed().as_secs(), 148);
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_lease_is_needed_none_lapses() {
        let lease = LeaseClock::default();
        lease.sure().await;
        assert!(tokio::time::timeout(seconds(3600), lease.lapse()).await.is_err());
        assert_eq!((lease.renewal_due(), lease.longest_pause()), (None, None));
    }
}
