//! The variables of the process's endpoints and logs.

use std::net::SocketAddr;

use tracing::Level;

use super::{Format, Settings};
use crate::config::{Noted, Preset, Reader, Scope, Spec, Variable, parse};

const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

const LEVELS: [(&str, Level); 5] = [
    ("trace", Level::TRACE),
    ("debug", Level::DEBUG),
    ("info", Level::INFO),
    ("warn", Level::WARN),
    ("error", Level::ERROR),
];

/// The address that answers probes and Prometheus.
pub(crate) const LISTEN: Variable<SocketAddr> = Variable::new(
    Scope::Process,
    "AUDITSYNC_HTTP_LISTEN",
    Preset::Derived("off"),
    |text, _| parse::listen(text),
    "IP address and port for /healthz, /readyz and /metrics, such as 127.0.0.1:9090 or [::]:9090. They show no secret.",
);

/// The layout of a log line.
pub(crate) const LOG_FORMAT: Variable<Format> = Variable::new(
    Scope::Process,
    "AUDITSYNC_LOG_FORMAT",
    Preset::Value("text"),
    |text, _| parse::choice(text, &FORMATS),
    "Layout of the program's own log: text or json.",
);

/// The lowest severity to log.
pub(crate) const LOG_LEVEL: Variable<Level> = Variable::new(
    Scope::Process,
    "AUDITSYNC_LOG_LEVEL",
    Preset::Value("info"),
    |text, _| parse::choice(text, &LEVELS),
    "Lowest severity in the program's own log: trace, debug, info, warn or error.",
);

/// Every variable of the process, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&LISTEN.spec, &LOG_FORMAT.spec, &LOG_LEVEL.spec];

/// Reads how the program logs.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let (format, level) = (reader.get(&LOG_FORMAT), reader.get(&LOG_LEVEL));
    Ok(Settings { format: format?, level: level? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let defaults = Settings { format: Format::Text, level: Level::INFO };
        assert_eq!(read_pairs(&[], settings).unwrap(), defaults);
        let pairs = [("AUDITSYNC_LOG_FORMAT", "json"), ("AUDITSYNC_LOG_LEVEL", "DEBUG")];
        assert_eq!(read_pairs(&pairs, settings).unwrap(), Settings { format: Format::Json, level: Level::DEBUG });
        let listen = [("AUDITSYNC_HTTP_LISTEN", "[::1]:9090")];
        assert_eq!(read_pairs(&listen, |reader| reader.find(&LISTEN)).unwrap(), "[::1]:9090".parse().ok());
    }
}
