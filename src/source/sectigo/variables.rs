//! The variables of the Sectigo audit API.

use std::time::Duration;

use url::Url;

use super::Settings;
use crate::config::{Bounds, Noted, Preset, Reader, Scope, SecretVariable, Spec, Variable, parse};
use crate::http::variables::TlsVariables;
use crate::source::variables::LOOKBACK;
use crate::variable_name::VariableName;

const HOUR: u64 = 3600;

/// The audit API's address.
pub(crate) const API_URL: Variable<Url> = Variable::new(
    Scope::Source,
    "SECTIGO_AUDIT_API_URL",
    Preset::Required,
    |text, _| parse::api_url(text),
    "Address of the audit API, such as https://audit.enterprise.sectigo.com.",
);

/// The OAuth client.
pub(crate) const API_CLIENT_ID: Variable<String> =
    Variable::text(Scope::Source, "SECTIGO_AUDIT_API_CLIENT_ID", Preset::Required, "Client id of the audit API key.");

/// The client's secret.
pub(crate) const API_CLIENT_SECRET: SecretVariable = SecretVariable::new(
    Scope::Source,
    "SECTIGO_AUDIT_API_CLIENT_SECRET",
    Preset::Required,
    "Client secret of the audit API key, taken as it is, to the byte.",
);

/// The token endpoint.
pub(crate) const API_TOKEN_URL: Variable<Url> = Variable::new(
    Scope::Source,
    "SECTIGO_AUDIT_API_TOKEN_URL",
    Preset::Derived("named by the API"),
    |text, _| parse::api_url(text),
    "Address of the token endpoint. Needed only if the API names one that auditsync does not trust.",
);

/// The files of TLS.
pub(crate) const TLS: TlsVariables =
    TlsVariables::new(Scope::Source, ["SECTIGO_AUDIT_TLS_CA", "SECTIGO_AUDIT_TLS_CERT", "SECTIGO_AUDIT_TLS_KEY"]);

pub(crate) const DELAY: Variable<Duration> = Variable::time(
    Scope::Source,
    "SECTIGO_AUDIT_SYNC_DELAY",
    "30s",
    Bounds::seconds(0, HOUR),
    "How long a record may take to become visible. auditsync does not request newer ones.",
);

/// The longest range.
pub(crate) const WINDOW: Variable<Duration> = Variable::time(
    Scope::Source,
    "SECTIGO_AUDIT_SYNC_WINDOW",
    "1h",
    Bounds::seconds(1, 24 * HOUR).whole_seconds(),
    "Longest range of time that auditsync requests at once.",
);

pub(crate) const OVERLAP: Variable<Duration> = Variable::time(
    Scope::Source,
    "SECTIGO_AUDIT_SYNC_OVERLAP",
    "5m",
    Bounds::seconds(0, HOUR),
    "How far each range reaches back into the one before, for records that came late.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &API_URL.spec,
    &API_CLIENT_ID.spec,
    &API_CLIENT_SECRET.spec,
    &API_TOKEN_URL.spec,
    &TLS.ca.spec,
    &TLS.certificate.spec,
    &TLS.key.spec,
    &DELAY.spec,
    &WINDOW.spec,
    &OVERLAP.spec,
];

/// The names under which an operator sets, or would set, the variables that messages name.
#[derive(Debug, Clone)]
pub struct Names {
    pub(super) api_url: VariableName,
    pub(super) client_id: VariableName,
    pub(super) token_url: VariableName,
    pub(super) delay: VariableName,
    pub(super) overlap: VariableName,
    pub(super) lookback: VariableName,
}

impl Names {
    fn of(name: impl Fn(&Spec) -> VariableName) -> Self {
        Self {
            api_url: name(&API_URL.spec),
            client_id: name(&API_CLIENT_ID.spec),
            token_url: name(&API_TOKEN_URL.spec),
            delay: name(&DELAY.spec),
            overlap: name(&OVERLAP.spec),
            lookback: name(&LOOKBACK.spec),
        }
    }
}

impl Default for Names {
    /// The documented names.
    fn default() -> Self {
        Self::of(|spec| spec.name.into())
    }
}

/// Reads the settings of the audit API.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let api_url = reader.get(&API_URL);
    let client_id = reader.get(&API_CLIENT_ID);
    let client_secret = reader.get_secret(&API_CLIENT_SECRET);
    let token_url = reader.find(&API_TOKEN_URL);
    let tls = TLS.read(reader);
    let delay = reader.get(&DELAY);
    let window = reader.get(&WINDOW);
    let overlap = reader.get(&OVERLAP);
    let lookback = reader.get(&LOOKBACK);
    Ok(Settings {
        api_url: parse::without_trailing_slash(api_url?),
        client_id: client_id?,
        client_secret: client_secret?,
        token_url: token_url?,
        tls: tls?,
        lookback: lookback?,
        delay: delay?,
        window: window?,
        overlap: overlap?,
        names: Names::of(|spec| reader.name(spec)),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::read_pairs_of;

    const REQUIRED: [(&str, &str); 3] = [
        ("SECTIGO_AUDIT_API_URL", "https://audit.enterprise.sectigo.com"),
        ("SECTIGO_AUDIT_API_CLIENT_ID", "client"),
        ("SECTIGO_AUDIT_API_CLIENT_SECRET", "secret"),
    ];

    /// Reads the required variables and `more`; of two equal names the first counts, so `more` wins.
    fn read(more: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs_of(super::super::KIND.name, &[more, &REQUIRED].concat(), settings)
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.token_url, None);
        let times = [settings.delay, settings.window, settings.overlap];
        assert_eq!(times.map(|time| time.as_secs()), [30, 3600, 300]);
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let settings = read(&[
            ("SECTIGO_AUDIT_API_URL", "https://audit.example.com/base/"),
            ("SECTIGO_AUDIT_API_CLIENT_ID", " an id "),
            ("SECTIGO_AUDIT_API_TOKEN_URL", "https://auth.example.com/token/"),
            ("SECTIGO_AUDIT_SYNC_DELAY", "11s"),
            ("SECTIGO_AUDIT_SYNC_WINDOW", "12s"),
            ("SECTIGO_AUDIT_SYNC_OVERLAP", "13s"),
        ])
        .unwrap();
        assert_eq!(settings.api_url.as_str(), "https://audit.example.com/base");
        assert_eq!(settings.client_id, "an id");
        assert_eq!(settings.token_url.unwrap().as_str(), "https://auth.example.com/token/");
        let times = [settings.delay, settings.window, settings.overlap];
        assert_eq!(times.map(|time| time.as_secs()), [11, 12, 13]);
    }

    #[test]
    fn any_secret_is_taken_to_the_byte() {
        for secret in ["=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy", " # $HOME 'a' \"b\" \\n ", " ", "ü\n"] {
            let settings = read(&[("SECTIGO_AUDIT_API_CLIENT_SECRET", secret)]).unwrap();
            assert_eq!(settings.client_secret.current().expose_secret(), secret);
        }
    }

    #[test]
    fn what_cannot_be_used_is_answered_with_the_rule() {
        for (suffix, value, rule) in [
            ("SYNC_LOOKBACK", "0s", "more than 0s and at most 366d"),
            ("SYNC_LOOKBACK", "367d", "more than 0s and at most 366d"),
            ("API_URL", "http://audit.example.com", "must begin with https://"),
            ("API_TOKEN_URL", "audit.example.com", "must be an address"),
            ("API_TOKEN_URL", "http://auth.example.com/token", "must begin with https://"),
            ("TLS_CA", "/etc/hostname", "holds no certificate in PEM"),
            ("TLS_CERT", "/etc/hostname", "needs SECTIGO_AUDIT_TLS_KEY"),
            ("TLS_KEY", "/etc/hostname", "needs SECTIGO_AUDIT_TLS_CERT"),
            ("SYNC_DELAY", "61m", "from 0s to 1h"),
            ("SYNC_WINDOW", "0s", "from 1s to 24h in whole seconds"),
            ("SYNC_WINDOW", "25h", "from 1s to 24h in whole seconds"),
            ("SYNC_WINDOW", "1s 1ms", "from 1s to 24h in whole seconds"),
            ("SYNC_OVERLAP", "61m", "from 0s to 1h"),
        ] {
            let name = format!("SECTIGO_AUDIT_{suffix}");
            let message = read(&[(&name, value)]).unwrap_err();
            assert!(message.contains(&format!("{name}={value:?}: ")) && message.contains(rule), "{message}");
        }
    }
}
