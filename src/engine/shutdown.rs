//! The request to shut down.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The request to shut down, which a whole process shares.
///
/// After the request, nothing new begins. The pages in flight are finished, unless the shutdown timeout expires or a second request
/// comes first.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    cut_off: CancellationToken,
}

impl Shutdown {
    /// Requests a shutdown. A second request ends the wait for the pages in flight.
    pub fn request(&self) {
        if self.requested.is_cancelled() {
            self.cut_off.cancel();
        }
        self.requested.cancel();
    }

    /// Whether a shutdown is requested.
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// A token that the request cancels, for code that does not depend on the engine.
    pub fn token(&self) -> CancellationToken {
        self.requested.clone()
    }

    /// Waits for the request.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits for the request, then until the `timeout` expires or a second request comes.
    pub async fn expired(&self, timeout: Duration) {
        self.requested().await;
        tokio::select! {
            () = tokio::time::sleep(timeout) => {}
            () = self.cut_off.cancelled() => {}
        }
    }

    /// Sleeps; false if a shutdown was requested before the end.
    pub async fn sleep(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}
