//! The lease: which instance may work on a document that several machines share.
//!
//! The lease is part of the document and changes only by compare-and-swap. No clocks are compared. A standby watches the document, and
//! the lease has expired when the document has not changed for the lease's whole length.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Claim, Document, Error, StateStore, Version};

/// How often, within one lease, a standby looks at the document and a holder retries a failed save.
pub const LOOKS: u32 = 12;

/// The longest time between two looks of a standby, so that it soon notices a released lease.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Which instance is active on a shared document, and for how long without a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The holder's name, for people.
    pub holder: String,
    /// How long the document may stay unchanged before another instance may become active, in seconds.
    pub ttl_seconds: u64,
}

impl Lease {
    /// Makes a lease of this process. Only the whole seconds of `length` count.
    pub fn of_this_process(length: Duration) -> Self {
        let host = gethostname::gethostname();
        let holder = format!("process {} on {}", std::process::id(), host.to_string_lossy());
        Self { holder, ttl_seconds: length.as_secs() }
    }

    /// The longest lease. A document with a longer one was not written by auditsync.
    pub const LONGEST: Duration = Duration::from_secs(600);

    /// How long the document may stay unchanged before another instance may become active.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds).min(Self::LONGEST)
    }
}

/// What a standby may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// Become active.
    Take,
    /// Look again after this long at the latest.
    Wait(Duration),
}

/// A standby's view of the document.
#[derive(Debug, Default)]
pub struct Watch {
    /// The last version, and when it was first seen.
    seen: Option<(Option<Version>, Instant)>,
    renewed: bool,
}

impl Watch {
    /// Notes that the document now has this `version` and a `lease` of this length, and decides what the standby may do.
    ///
    /// A lease has expired when the document has not changed for its whole length. While the document changes, its holder is alive.
    pub fn sees(&mut self, version: Option<Version>, lease: Option<Duration>, now: Instant) -> Chance {
        let Some(length) = lease else { return Chance::Take };
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            seen => {
                self.renewed |= seen.is_some();
                self.seen = Some((version, now));
                now
            }
        };
        let left = length.saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() { Chance::Take } else { Chance::Wait(left.min(length / LOOKS).min(LONGEST_LOOK)) }
    }

    /// Whether the document has changed under watch, so that its holder was alive at that time.
    pub fn has_seen_renewal(&self) -> bool {
        self.renewed
    }
}

/// Waits until no instance is active on the document, and returns it, for commands that change it. [`Error::Busy`] as soon as it sees a
/// heartbeat. It calls `waiting` once, with the holder and the longest wait.
pub async fn idle(
    store: &dyn StateStore,
    waiting: impl FnOnce(&str, Duration),
) -> Result<Option<(Document, Version)>, Error> {
    let busy = |holder| Err(Error::Busy { location: store.location(), holder });
    match store.claim().await? {
        Claim::Busy { holder } => return busy(holder),
        Claim::Granted => return store.load().await,
        Claim::ByLease => {}
    }
    let (mut watch, mut waiting) = (Watch::default(), Some(waiting));
    loop {
        let Some((document, version)) = store.load().await? else { return Ok(None) };
        // An unreadable document counts as one without a lease. A holder would fail on it, too.
        let lease = document.read(&store.location()).ok().and_then(|state| state.lease);
        let Some(lease) = lease else { return Ok(Some((document, version))) };
        let Chance::Wait(pause) = watch.sees(Some(version.clone()), Some(lease.length()), Instant::now()) else {
            return Ok(Some((document, version)));
        };
        if watch.has_seen_renewal() {
            return busy(lease.holder);
        }
        if let Some(waiting) = waiting.take() {
            waiting(&lease.holder, lease.length());
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn version(number: u32) -> Version {
        Version(number.to_string())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_document_without_a_lease_is_taken_at_once() {
        assert_eq!(Watch::default().sees(Some(version(1)), None, Instant::now()), Chance::Take);
        assert_eq!(Watch::default().sees(None, None, Instant::now()), Chance::Take);
    }

    #[test]
    fn a_lease_is_over_when_the_document_did_not_change_for_its_whole_length() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert_eq!(watch.sees(Some(version(1)), Some(TTL), start), Chance::Wait(seconds(5)));
        assert_eq!(watch.sees(Some(version(1)), Some(TTL), start + seconds(57)), Chance::Wait(seconds(3)));
        let almost = watch.sees(Some(version(1)), Some(TTL), start + seconds(60) - Duration::from_nanos(1));
        assert_ne!(almost, Chance::Take);
        assert_eq!(watch.sees(Some(version(1)), Some(TTL), start + seconds(60)), Chance::Take);
        assert!(!watch.has_seen_renewal());
    }

    #[test]
    fn each_change_starts_the_wait_again() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        for change in 0..5 {
            let now = start + seconds(59) * change;
            assert_ne!(watch.sees(Some(version(change)), Some(TTL), now), Chance::Take);
            assert_eq!(watch.has_seen_renewal(), change > 0);
        }
        // Also one back to what was seen before: someone wrote.
        assert_ne!(watch.sees(Some(version(3)), Some(TTL), start + seconds(400)), Chance::Take);
        assert_ne!(watch.sees(None, Some(TTL), start + seconds(500)), Chance::Take);
    }

    #[test]
    fn a_stand_by_looks_often_enough_and_not_too_often() {
        for (length, pause) in [(15, 1.25), (60, 5.0), (600, 5.0)] {
            let chance = Watch::default().sees(Some(version(1)), Some(seconds(length)), Instant::now());
            assert_eq!(chance, Chance::Wait(Duration::from_secs_f64(pause)));
        }
    }
}
