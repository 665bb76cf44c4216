//! The variables that every source has under its own prefix: how to work, how to call, how to log.

use std::net::SocketAddr;
use std::time::Duration;

use tracing::Level;

use super::mistakes::Noted;
use super::parse::{self, Bounds};
use super::raw::Shared;
use super::reader::Reader;
use crate::sync::Mode;
use crate::telemetry::Format;
use crate::{http, sync, telemetry};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

const INTERVAL: Bounds = Bounds::seconds(5, 18 * HOUR);
const LOOKBACK_BOUNDS: Bounds = Bounds::seconds(0, 18 * HOUR).above_zero();
const RETRY_BUDGET: Bounds = Bounds::seconds(0, 24 * HOUR);
const SHUTDOWN_GRACE: Bounds = Bounds::seconds(0, 10 * MINUTE);
const LEASE_TTL: Bounds = Bounds::seconds(15, 10 * MINUTE).whole_seconds();
const HTTP_TIMEOUT: Bounds = Bounds::seconds(1, 10 * MINUTE);

const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

const LEVELS: [(&str, Level); 5] = [
    ("trace", Level::TRACE),
    ("debug", Level::DEBUG),
    ("info", Level::INFO),
    ("warn", Level::WARN),
    ("error", Level::ERROR),
];

/// The variables that [`telemetry()`] reads, without their prefix.
pub(super) const LOGGING: [&str; 2] = ["LOG_FORMAT", "LOG_LEVEL"];

/// The variable that [`lookback`] reads, without its prefix.
pub(super) const LOOKBACK: &str = "SYNC_LOOKBACK";

/// The variable that [`listen`] reads, without its prefix.
pub(super) const LISTEN: &str = "HTTP_LISTEN";

/// How the engine is to work.
pub(super) fn sync(raw: &Shared, reader: &mut Reader<'_>) -> Result<sync::Settings, Noted> {
    let on = reader.required("SYNC_LOOP", raw.sync_loop.as_deref(), parse::flag);
    let interval = reader.duration("SYNC_INTERVAL", raw.sync_interval.as_deref(), INTERVAL);
    let retry_budget = reader.duration("RETRY_BUDGET", raw.retry_budget.as_deref(), RETRY_BUDGET);
    let shutdown_grace = reader.duration("SHUTDOWN_GRACE", raw.shutdown_grace.as_deref(), SHUTDOWN_GRACE);
    let lease_ttl = reader.duration("LEASE_TTL", raw.lease_ttl.as_deref(), LEASE_TTL);
    Ok(sync::Settings {
        mode: if on? { Mode::Loop } else { Mode::Once },
        interval: interval?,
        retry_budget: retry_budget?,
        shutdown_grace: shutdown_grace?,
        lease_ttl: lease_ttl?,
    })
}

/// How far back the very first synchronisation goes.
pub(super) fn lookback(raw: &Shared, reader: &mut Reader<'_>) -> Result<Duration, Noted> {
    reader.duration(LOOKBACK, raw.sync_lookback.as_deref(), LOOKBACK_BOUNDS)
}

/// How servers are called.
pub(super) fn http(raw: &Shared, reader: &mut Reader<'_>) -> Result<http::Settings, Noted> {
    let timeout = reader.duration("HTTP_TIMEOUT", raw.http_timeout.as_deref(), HTTP_TIMEOUT)?;
    Ok(http::Settings { timeout })
}

/// Where to answer probes and Prometheus; none to answer nobody.
pub(super) fn listen(raw: &Shared, reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, Noted> {
    reader.optional(LISTEN, raw.http_listen.as_deref(), parse::listen)
}

/// The same, for whoever asks there.
pub(super) fn listening(raw: &Shared, reader: &mut Reader<'_>) -> Result<SocketAddr, Noted> {
    reader.required(LISTEN, raw.http_listen.as_deref(), parse::listen)
}

/// How the program logs.
pub(super) fn telemetry(raw: &Shared, reader: &mut Reader<'_>) -> Result<telemetry::Settings, Noted> {
    let format = reader.required("LOG_FORMAT", raw.log_format.as_deref(), |text| parse::choice(text, &FORMATS));
    let level = reader.required("LOG_LEVEL", raw.log_level.as_deref(), |text| parse::choice(text, &LEVELS));
    Ok(telemetry::Settings { format: format?, level: level? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{config_with, message_with};
    use super::*;

    #[test]
    fn defaults_are_those_of_the_table() {
        let config = config_with(&[]);
        assert_eq!(config.sync.mode, Mode::Loop);
        assert_eq!(config.sync.interval, Duration::from_mins(1));
        assert_eq!(config.sync.retry_budget, Duration::from_mins(5));
        assert_eq!(config.sync.shutdown_grace, Duration::from_secs(25));
        assert_eq!(config.sectigo.lookback, Duration::from_hours(1));
        assert_eq!(config.http.timeout, Duration::from_mins(1));
        assert_eq!(config.listen, None);
        assert_eq!(config.telemetry, telemetry::Settings { format: Format::Text, level: Level::INFO });
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let config = config_with(&[
            ("SECTIGO_AUDIT_SYNC_LOOP", "Off"),
            ("SECTIGO_AUDIT_SYNC_INTERVAL", "11s"),
            ("SECTIGO_AUDIT_RETRY_BUDGET", "12s"),
            ("SECTIGO_AUDIT_SHUTDOWN_GRACE", "13s"),
            ("SECTIGO_AUDIT_SYNC_LOOKBACK", "14s"),
            ("SECTIGO_AUDIT_HTTP_TIMEOUT", "15s"),
            ("SECTIGO_AUDIT_HTTP_LISTEN", "[::1]:9090"),
            ("SECTIGO_AUDIT_LOG_FORMAT", "json"),
            ("SECTIGO_AUDIT_LOG_LEVEL", "DEBUG"),
        ]);
        assert_eq!(config.sync.mode, Mode::Once);
        let times = [
            config.sync.interval,
            config.sync.retry_budget,
            config.sync.shutdown_grace,
            config.sectigo.lookback,
            config.http.timeout,
        ];
        assert_eq!(times.map(|time| time.as_secs()), [11, 12, 13, 14, 15]);
        assert_eq!(config.listen, "[::1]:9090".parse().ok());
        assert_eq!(config.telemetry, telemetry::Settings { format: Format::Json, level: Level::DEBUG });
    }

    #[test]
    fn what_is_out_of_bounds_is_told_its_bounds() {
        for (suffix, value, bounds) in [
            ("SYNC_INTERVAL", "4s", "from 5s to 18h"),
            ("SYNC_INTERVAL", "18h 1s", "from 5s to 18h"),
            ("SYNC_LOOKBACK", "0s", "more than 0s and at most 18h"),
            ("SYNC_LOOKBACK", "19h", "more than 0s and at most 18h"),
            ("RETRY_BUDGET", "25h", "from 0s to 24h"),
            ("SHUTDOWN_GRACE", "11m", "from 0s to 10m"),
            ("HTTP_TIMEOUT", "0s", "from 1s to 10m"),
            ("HTTP_TIMEOUT", "11m", "from 1s to 10m"),
            ("SYNC_LOOP", "maybe", "true or false"),
            ("LOG_FORMAT", "xml", "text, json"),
            ("LOG_LEVEL", "loud", "trace, debug, info, warn, error"),
        ] {
            let name = format!("SECTIGO_AUDIT_{suffix}");
            let message = message_with(&[(&name, value)]);
            assert!(message.contains(&format!("{name}={value:?}: must be")) && message.contains(bounds), "{message}");
        }
    }
}
