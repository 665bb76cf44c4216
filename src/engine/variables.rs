//! The variables of the engine.

use std::time::Duration;

use super::{Mode, Settings};
use crate::config::{Bounds, Noted, Preset, Reader, Scope, Spec, Variable};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Whether a run goes on after the first sync.
pub(crate) const LOOP: Variable<bool> = Variable::flag(
    Scope::Shared,
    "AUDITSYNC_SYNC_LOOP",
    Preset::Value("true"),
    "Run on (true), or end once everything up to the start is delivered (false).",
);

/// The time from the start of one sync to the start of the next.
pub(crate) const INTERVAL: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_SYNC_INTERVAL",
    "1m",
    Bounds::seconds(5, 7 * 24 * HOUR),
    "Time from the start of one sync to the start of the next.",
);

/// How long a one-shot retries without progress.
pub(crate) const RETRY_BUDGET: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_RETRY_BUDGET",
    "5m",
    Bounds::seconds(0, 24 * HOUR),
    "How long a one-shot retries without progress.",
);

/// How long a shutdown waits for the pages in flight.
pub(crate) const SHUTDOWN_TIMEOUT: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_SHUTDOWN_TIMEOUT",
    "25s",
    Bounds::seconds(0, 10 * MINUTE),
    "How long a shutdown waits for what is being delivered.",
);

/// How long a lease lasts without a renewal.
pub(crate) const LEASE_TTL: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_LEASE_TTL",
    "60s",
    Bounds::seconds(15, 10 * MINUTE).whole_seconds(),
    "On stores that machines share: how long a standby waits for a silent active instance.",
);

/// Every variable of the engine, for the tables.
pub(crate) const VARIABLES: &[&Spec] =
    &[&LOOP.spec, &INTERVAL.spec, &RETRY_BUDGET.spec, &SHUTDOWN_TIMEOUT.spec, &LEASE_TTL.spec];

/// Reads the settings of the engine.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let on = reader.get(&LOOP);
    let interval = reader.get(&INTERVAL);
    let retry_budget = reader.get(&RETRY_BUDGET);
    let shutdown_timeout = reader.get(&SHUTDOWN_TIMEOUT);
    let lease_ttl = reader.get(&LEASE_TTL);
    Ok(Settings {
        mode: if on? { Mode::Loop } else { Mode::Once },
        interval: interval?,
        retry_budget: retry_budget?,
        shutdown_timeout: shutdown_timeout?,
        lease_ttl: lease_ttl?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let settings = read_pairs(&[], settings).unwrap();
        assert_eq!(
            (settings.mode, settings.interval.as_secs(), settings.retry_budget.as_secs()),
            (Mode::Loop, 60, 300)
        );
        assert_eq!((settings.shutdown_timeout.as_secs(), settings.lease_ttl.as_secs()), (25, 60));
        let pairs = [
            ("AUDITSYNC_SYNC_LOOP", "Off"),
            ("AUDITSYNC_SYNC_INTERVAL", "11s"),
            ("AUDITSYNC_RETRY_BUDGET", "12s"),
            ("AUDITSYNC_SHUTDOWN_TIMEOUT", "13s"),
            ("AUDITSYNC_LEASE_TTL", "15s"),
        ];
        let settings = read_pairs(&pairs, super::settings).unwrap();
        assert_eq!((settings.mode, settings.interval.as_secs(), settings.retry_budget.as_secs()), (Mode::Once, 11, 12));
        assert_eq!((settings.shutdown_timeout.as_secs(), settings.lease_ttl.as_secs()), (13, 15));
    }

    #[test]
    fn what_is_out_of_bounds_is_answered_with_its_bounds() {
        for (name, value, bounds) in [
            ("AUDITSYNC_SYNC_INTERVAL", "4s", "from 5s to 7d"),
            ("AUDITSYNC_SYNC_INTERVAL", "168h 1s", "from 5s to 7d"),
            ("AUDITSYNC_RETRY_BUDGET", "25h", "from 0s to 24h"),
            ("AUDITSYNC_SHUTDOWN_TIMEOUT", "11m", "from 0s to 10m"),
            ("AUDITSYNC_LEASE_TTL", "15s 1ms", "from 15s to 10m in whole seconds"),
            ("AUDITSYNC_SYNC_LOOP", "maybe", "true or false"),
        ] {
            let message = read_pairs(&[(name, value)], settings).unwrap_err();
            assert!(message.contains(&format!("{name}={value:?}: must be")) && message.contains(bounds), "{message}");
        }
    }
}
