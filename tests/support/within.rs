//! The longest wait of a test.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// A time longer than any healthy wait takes, and shorter than the patience of the people who watch the tests.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// Waits for `future`, described by `what`.
///
/// # Panics
/// After [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what} in vain"))
}

/// Waits until `is_met`, described by `what`. It looks again and again, so it is for what nothing announces, like a file's content.
///
/// # Panics
/// After [`PATIENCE`].
pub async fn until(what: &str, is_met: impl Fn() -> bool) {
    let met = async {
        while !is_met() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, met).await;
}
