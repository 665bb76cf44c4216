//! What a holder knows of its own lease.
//!
//! It counts from the moment at which it *began* its last successful save, so that whoever saw that save counts from later on:
//! the holder has ceased to call the destination before anybody else may take over.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::state::lease::LOOKS;

/// A lease is renewed when this part of it has passed.
const RENEWED_AFTER: u32 = 3;

/// This part of it, at its end, is left for a request that was cut off to die down.
const LEFT_AT_THE_END: u32 = 5;

/// What a holder knows of its own lease.
#[derive(Debug, Default)]
pub(super) struct Tenure {
    held: Cell<Option<Held>>,
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

impl Tenure {
    /// A save that had been begun at `since` put a lease of this `length` into the document.
    pub(super) fn renewed(&self, since: Instant, length: Duration) {
        self.held.set(Some(Held { since, length }));
        self.changed.notify_waiters();
    }

    /// Nothing is held any more, or nothing needs to be.
    pub(super) fn ended(&self) {
        self.held.set(None);
        self.changed.notify_waiters();
    }

    /// When to write the document again at the latest.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        self.held.get().map(|held| held.since + held.length / RENEWED_AFTER)
    }

    /// Whether the lease was not renewed in time, so that another may have taken over.
    pub(super) fn has_lapsed(&self) -> bool {
        self.held.get().is_some_and(|held| Instant::now() >= held.sure_until())
    }

    /// How long to wait at most before a failed save is tried again.
    pub(super) fn patience(&self) -> Option<Duration> {
        let held = self.held.get()?;
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
            match self.held.get() {
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
        let (tenure, start) = (Tenure::default(), Instant::now());
        tenure.renewed(start, TTL);
        assert_eq!(tenure.renewal_due(), Some(start + seconds(20)));
        tenure.lapse().await;
        assert_eq!(start.elapsed().as_secs(), 48);
        assert!(tenure.has_lapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_before_its_save() {
        let (tenure, start) = (Tenure::default(), Instant::now());
        tenure.renewed(start, TTL);
        let renewing = async {
            tokio::time::sleep(seconds(40)).await;
            tenure.renewed(start + seconds(30), TTL);
        };
        tokio::join!(tenure.lapse(), renewing);
        assert_eq!(start.elapsed().as_secs(), 78);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lapsed_lease_can_be_regained() {
        let (tenure, start) = (Tenure::default(), Instant::now());
        tenure.renewed(start, TTL);
        tenure.lapse().await;
        let regaining = async {
            tokio::time::sleep(seconds(100)).await;
            tenure.renewed(Instant::now(), TTL);
        };
        tokio::join!(tenure.sure(), regaining);
        assert_eq!(start.elapsed().as_secs(), 148);
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_lease_is_needed_none_lapses() {
        let tenure = Tenure::default();
        tenure.sure().await;
        assert!(tokio::time::timeout(seconds(3600), tenure.lapse()).await.is_err());
        assert_eq!((tenure.renewal_due(), tenure.patience()), (None, None));
    }
}
