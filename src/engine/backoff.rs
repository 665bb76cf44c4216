//! How long to wait before a retry.

use std::time::Duration;

/// The longest `Retry-After` that the engine honours.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Exponential backoff with full jitter: each wait is drawn evenly between zero and a ceiling that doubles. So many clients of one
/// server do not all return at once.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// For failures that are likely to pass: a ceiling from 1 s to 1 min.
    pub const QUICK: Self = Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

    /// For failures that an operator has to correct: a ceiling from 15 s to 5 min.
    pub const SLOW: Self = Self { first: Duration::from_secs(15), longest: Duration::from_secs(300) };

    /// The longest wait after the `failures`th failure in a row. Zero counts as one.
    pub fn ceiling(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }

    /// The wait after the `failures`th failure in a row. `draw` is a random number, even in [0, 1).
    pub fn wait(self, failures: u32, draw: f64) -> Duration {
        self.ceiling(failures).mul_f64(draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_longest() {
        let seconds: Vec<_> = (0..9).map(|failures| Backoff::QUICK.ceiling(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(Backoff::SLOW.ceiling(u32::MAX), Duration::from_secs(300));
    }

    #[test]
    fn a_wait_is_anything_up_to_its_ceiling() {
        assert_eq!(Backoff::QUICK.wait(3, 0.0), Duration::ZERO);
        assert_eq!(Backoff::QUICK.wait(3, 0.5), Duration::from_secs(2));
        assert_eq!(Backoff::QUICK.wait(3, 7.0), Duration::from_secs(4));
    }
}
