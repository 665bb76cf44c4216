//! Being told to stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// A request to stop, and how long it may take.
///
/// Once requested, nothing new is begun. What is in flight is waited for until the grace is over, or a second
/// request cuts it short.
#[derive(Debug, Clone)]
pub struct Stop {
    requested: CancellationToken,
    cut: CancellationToken,
    grace: Duration,
}

impl Stop {
    /// No request yet.
    pub fn new(grace: Duration) -> Self {
        Self { requested: CancellationToken::new(), cut: CancellationToken::new(), grace }
    }

    /// Asks to stop; asked again, ends the grace.
    pub fn request(&self) {
        if self.requested.is_cancelled() {
            self.cut.cancel();
        }
        self.requested.cancel();
    }

    /// How long a stop may take.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Waits for the request.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits for the request and then for the end of the grace.
    pub async fn grace_over(&self) {
        self.requested().await;
        tokio::select! {
            () = tokio::time::sleep(self.grace) => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// Sleeps; false if a stop was asked for before the end.
    pub async fn sleep(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}
