//! A server's state that a test can wait on.
//!
//! Polling with pauses makes tests slow and, on a busy computer, wrong. Every change here wakes whoever
//! waits, so a wait ends with the very request it waits for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than any honest wait, shorter than the patience of whoever watches the tests.
const PATIENCE: Duration = Duration::from_mins(3);

pub(super) struct Watched<T>(watch::Sender<T>);

impl<T> Watched<T> {
    pub(super) fn new(state: T) -> Self {
        Self(watch::Sender::new(state))
    }

    /// The state as it is. Do not hold on to it: changes wait until it is dropped.
    pub(super) fn read(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }

    /// Changes the state, wakes who waits, and hands back what `change` returns.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut result = None;
        self.0.send_modify(|state| result = Some(change(state)));
        result.expect("send_modify runs its closure")
    }

    /// Waits, however long it takes.
    pub(super) async fn wait_until(&self, met: impl FnMut(&T) -> bool) {
        let mut changes = self.0.subscribe();
        // An error would mean that the sender is gone, and `self` holds it.
        let _ = changes.wait_for(met).await;
    }

    /// Waits for `met`, described by `what`.
    ///
    /// # Panics
    /// After three minutes.
    pub(super) async fn expect(&self, what: &str, met: impl FnMut(&T) -> bool) {
        let waited = timeout(PATIENCE, self.wait_until(met)).await;
        assert!(waited.is_ok(), "waited {PATIENCE:?} for {what} in vain");
    }

    /// Waits until `count` has reached `wanted` of `what`.
    ///
    /// # Panics
    /// After three minutes.
    pub(super) async fn expect_count(&self, wanted: usize, what: &str, count: impl Fn(&T) -> usize) {
        let met = |state: &T| count(state) >= wanted;
        if timeout(PATIENCE, self.wait_until(met)).await.is_err() {
            let seen = count(&self.read());
            panic!("waited {PATIENCE:?} for {wanted} {what}, saw {seen}");
        }
    }
}

/// Keeps answers back while it is shut.
pub(super) struct Gate(Watched<bool>);

impl Gate {
    pub(super) fn open() -> Self {
        Self(Watched::new(true))
    }

    pub(super) fn set_open(&self, open: bool) {
        self.0.update(|is_open| *is_open = open);
    }

    pub(super) async fn pass(&self) {
        self.0.wait_until(|is_open| *is_open).await;
    }
}
