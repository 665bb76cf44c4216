//! A request to shut down.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// A request to shut down, which a whole process shares.
///
/// Once requested, nothing new is begun. What is in flight is finished, until the shutdown timeout expires or a second request cuts it off.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    cut_off: CancellationToken,
}

impl Shutdown {
    /// Requests to shut down. A second request ends the wait for what is in flight.
    pub fn request(&self) {
        if self.requested.is_cancelled() {
            self.cut_off.cancel();
        }
        self.requested.cancel();
    }

    /// Whether it is requested.
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Waits for the request.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits for the request, and then until the `timeout` expires or a second request comes.
    pub async fn expired(&self, timeout: Duration) {
        self.requested().await;
        tokio::select! {
            () = tokio::time::sleep(timeout) => {}
            () = self.cut_off.cancelled() => {}
        }
    }

    /// Sleeps; false if a request came before the end.
    pub async fn sleep(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}
