//! A server's state that a test can wait on.
//!
//! Polling with pauses makes tests slow and, on a busy computer, wrong. Here every change wakes all waiting tasks, so a
//! wait ends with the very request it waits for.

use tokio::sync::watch;
use tokio::time::timeout;

use super::within::{PATIENCE, within};

pub(super) struct Watched<T>(watch::Sender<T>);

impl<T> Watched<T> {
    pub(super) fn new(state: T) -> Self {
        Self(watch::Sender::new(state))
    }

    /// The present state. Drop it soon: changes wait until it is dropped.
    pub(super) fn read(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }

    /// Changes the state, wakes all waiting tasks, and returns the result of `change`.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut result = None;
        self.0.send_modify(|state| result = Some(change(state)));
        result.expect("send_modify runs its closure")
    }

    /// Waits, however long it takes.
    pub(super) async fn wait_until(&self, met: impl FnMut(&T) -> bool) {
        let mut changes = self.0.subscribe();
        // An error would mean that the sender is gone, but `self` holds it.
        let _ = changes.wait_for(met).await;
    }

    /// Waits for `met`, described by `what`.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub(super) async fn expect(&self, what: &str, met: impl FnMut(&T) -> bool) {
        within(what, self.wait_until(met)).await;
    }

    /// Waits until `count` has reached `wanted` of `what`.
    ///
    /// # Panics
    /// After [`PATIENCE`].
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
