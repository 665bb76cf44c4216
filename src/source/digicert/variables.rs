//! The variables of the report API.

use std::time::Duration;

use jiff::Timestamp;
use url::Url;

use super::{Names, Settings, TimeColumn};
use crate::config::{Alias, Bounds, Noted, Preset, Reader, Scope, SecretVariable, Spec, Variable, parse};
use crate::http::variables::TlsVariables;

const HOUR: u64 = 3600;

/// The report API's address.
pub(crate) const API_URL: Variable<Url> = Variable::new(
    Scope::Source,
    "DIGICERT_AUDIT_API_URL",
    Preset::Value("https://api.digicert.com/reports/v1"),
    |text, _| parse::api_url(text),
    "Address of the report API, with its path.",
);

/// The API key.
pub(crate) const API_KEY: SecretVariable = SecretVariable::checked(
    Scope::Source,
    "DIGICERT_AUDIT_API_KEY",
    Preset::Required,
    parse::header_key,
    "API key of a CertCentral user with the role Administrator.",
);

/// The report.
pub(crate) const REPORT_ID: Variable<String> = Variable::new(
    Scope::Source,
    "DIGICERT_AUDIT_REPORT_ID",
    Preset::Required,
    |text, _| report_id(text),
    "Identifier of the audit-log report. Its format is JSON, and its date range longer than the time between two runs.",
);

/// The files of TLS.
pub(crate) const TLS: TlsVariables =
    TlsVariables::new(Scope::Source, ["DIGICERT_AUDIT_TLS_CA", "DIGICERT_AUDIT_TLS_CERT", "DIGICERT_AUDIT_TLS_KEY"]);

pub(crate) const POLL_INTERVAL: Variable<Duration> = Variable::time(
    Scope::Source,
    "DIGICERT_AUDIT_POLL_INTERVAL",
    "10s",
    Bounds::seconds(1, 600),
    "How often auditsync looks whether a run is ready.",
);

/// Whether auditsync starts runs.
pub(crate) const START_RUNS: Variable<bool> = Variable::flag(
    Scope::Source,
    "DIGICERT_AUDIT_START_RUNS",
    Preset::Value("true"),
    "Start a run for each sync (true), or use the runs that CertCentral schedules (false).",
);

/// How long a run may take.
pub(crate) const MAX_WAIT: Variable<Duration> = Variable::time(
    Scope::Source,
    "DIGICERT_AUDIT_MAX_WAIT",
    "300s",
    Bounds::seconds(1, 24 * HOUR),
    "How long CertCentral may take for one run.",
);

/// The start of the first sync.
pub(crate) const START: Variable<Timestamp> = Variable::new(
    Scope::Source,
    "DIGICERT_AUDIT_START",
    Preset::Derived("the whole report"),
    |text, _| text.parse().map_err(|_| "must be a time in RFC 3339, such as 2026-03-01T12:00:00Z".to_owned()),
    "Time of the oldest row that the first sync delivers.",
);

/// The column that holds the time.
pub(crate) const TIME_COLUMN: Variable<String> = Variable::text(
    Scope::Source,
    "DIGICERT_AUDIT_TIME_COLUMN",
    Preset::Value("Date and time (UTC)"),
    "Heading of the report's column with the time, in the report's language.",
);

/// How much older than the newest row a late row may be.
pub(crate) const OVERLAP: Variable<Duration> = Variable::time(
    Scope::Source,
    "DIGICERT_AUDIT_SYNC_OVERLAP",
    "24h",
    Bounds::seconds(0, 7 * 24 * HOUR),
    "A row that appears late is delivered if it is at most this much older than the newest one.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &API_KEY.spec,
    &REPORT_ID.spec,
    &API_URL.spec,
    &TLS.ca.spec,
    &TLS.certificate.spec,
    &TLS.key.spec,
    &START_RUNS.spec,
    &POLL_INTERVAL.spec,
    &MAX_WAIT.spec,
    &START.spec,
    &TIME_COLUMN.spec,
    &OVERLAP.spec,
];

/// The names of the script on Google's page "Collect `DigiCert` audit logs".
pub(crate) const ALIASES: &[Alias] = &[
    Alias::same("DIGICERT_API_KEY", API_KEY.spec.name),
    Alias::same("DIGICERT_REPORT_ID", REPORT_ID.spec.name),
    Alias::same("REQUEST_TIMEOUT", crate::http::variables::TIMEOUT.spec.name),
    Alias::same("POLL_INTERVAL", POLL_INTERVAL.spec.name),
    Alias::same("MAX_WAIT_SECONDS", MAX_WAIT.spec.name),
];

/// Reads the settings of the report.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let api_url = reader.get(&API_URL);
    let api_key = reader.get_secret(&API_KEY);
    let report_id = reader.get(&REPORT_ID);
    let tls = TLS.read(reader);
    let poll_interval = reader.get(&POLL_INTERVAL);
    let starts_runs = reader.get(&START_RUNS);
    let max_wait = reader.get(&MAX_WAIT);
    let start = reader.find(&START);
    let time_column = reader.get(&TIME_COLUMN);
    let overlap = reader.get(&OVERLAP);
    Ok(Settings {
        api_url: parse::without_trailing_slash(api_url?),
        api_key: api_key?,
        report_id: report_id?,
        tls: tls?,
        poll_interval: poll_interval?,
        starts_runs: starts_runs?,
        max_wait: max_wait?,
        start: start?,
        time_column: TimeColumn { heading: time_column?.into(), variable: reader.name(&TIME_COLUMN.spec) },
        overlap: overlap?,
        names: Names {
            api_url: reader.name(&API_URL.spec),
            report_id: reader.name(&REPORT_ID.spec),
            max_wait: reader.name(&MAX_WAIT.spec),
            overlap: reader.name(&OVERLAP.spec),
        },
    })
}

fn report_id(text: &str) -> Result<String, String> {
    let is_identifier = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if text.len() > 100 || !text.bytes().all(is_identifier) {
        return Err("must be a report's identifier alone, such as 8f1b6d8e-0c5e-4d0a-9a57-2f3c6f1f7a10".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::{Environment, Owner, read as read_for};

    const REQUIRED: [(&str, &str); 2] = [("DIGICERT_AUDIT_API_KEY", "key"), ("DIGICERT_AUDIT_REPORT_ID", "report-1")];

    fn owner() -> Owner {
        Owner::source(super::super::KIND.name, None).with_aliases(ALIASES)
    }

    fn read<T>(pairs: &[(&str, &str)], read: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>) -> Result<T, String> {
        let environment = Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())));
        read_for(&environment, &owner(), read).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = read(&REQUIRED, settings).unwrap();
        assert_eq!(settings.api_url.as_str(), "https://api.digicert.com/reports/v1");
        let times = [settings.poll_interval, settings.max_wait, settings.overlap];
        assert_eq!(times.map(|time| time.as_secs()), [10, 300, 86_400]);
        assert_eq!((settings.starts_runs, settings.start), (true, None));
        assert_eq!(&*settings.time_column.heading, "Date and time (UTC)");
    }

    #[test]
    fn the_scripts_own_environment_is_understood() {
        let script = [
            ("DIGICERT_API_KEY", "theirs"),
            ("DIGICERT_REPORT_ID", "report-2"),
            ("REQUEST_TIMEOUT", "31"),
            ("POLL_INTERVAL", "11"),
            ("MAX_WAIT_SECONDS", "301"),
        ];
        let settings_of = |pairs: &[(&str, &str)]| read(pairs, settings).unwrap();
        let settings = settings_of(&script);
        assert_eq!((settings.api_key.current().expose_secret(), &*settings.report_id), ("theirs", "report-2"));
        assert_eq!([settings.poll_interval, settings.max_wait].map(|time| time.as_secs()), [11, 301]);
        assert_eq!(read(&script, crate::http::variables::settings).unwrap().timeout.as_secs(), 31);
        let both = [&script[..], &REQUIRED, &[("DIGICERT_AUDIT_POLL_INTERVAL", "12s")]].concat();
        let settings = settings_of(&both);
        assert_eq!((settings.api_key.current().expose_secret(), &*settings.report_id), ("key", "report-1"));
        assert_eq!(settings.poll_interval.as_secs(), 12, "ours holds where it is set");
    }

    #[test]
    fn a_mistake_in_the_scripts_variable_is_reported_under_its_name() {
        let pairs = [&REQUIRED[..], &[("POLL_INTERVAL", "0")]].concat();
        let message = read(&pairs, settings).map(|_| ()).unwrap_err();
        assert!(message.contains("POLL_INTERVAL=\"0s\": must be a time from 1s to 10m"), "{message}");
    }

    #[test]
    fn what_cannot_be_used_is_answered_with_the_rule() {
        for (suffix, value, rule) in [
            ("API_URL", "http://api.digicert.com/reports/v1", "must begin with https://"),
            ("REPORT_ID", "https://www.digicert.com/secure/reports/1", "identifier alone"),
            ("POLL_INTERVAL", "11m", "from 1s to 10m"),
            ("TLS_CA", "/etc/hostname", "holds no certificate in PEM"),
            ("TLS_CERT", "/etc/hostname", "needs DIGICERT_AUDIT_TLS_KEY"),
            ("MAX_WAIT", "25h", "from 1s to 24h"),
            ("START", "yesterday", "RFC 3339"),
            ("START_RUNS", "maybe", "true or false"),
            ("SYNC_OVERLAP", "8d", "from 0s to 7d"),
        ] {
            let name = format!("DIGICERT_AUDIT_{suffix}");
            let pairs = [&[(name.as_str(), value)], &REQUIRED[..]].concat();
            let message = read(&pairs, settings).map(|_| ()).unwrap_err();
            assert!(message.contains(&name) && message.contains(rule), "{message}");
        }
    }
}
