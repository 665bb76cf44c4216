//! The variables of the Sectigo audit API. Another source has a file like this one, with its own prefix.

use std::time::Duration;

use super::mistakes::Noted;
use super::parse::{self, Bounds};
use super::raw::Sectigo;
use super::reader::Reader;
use super::secrets::{self, Names};
use crate::source::sectigo::Settings;

/// What this source's variables begin with.
pub(super) const PREFIX: &str = "SECTIGO_AUDIT_";

/// The name of the file for rejected records, beside the state.
pub(super) const REJECTED_FILE: &str = "sectigo-audit-rejected.ndjson";

const CLIENT_SECRET: Names =
    Names { value: "SECTIGO_AUDIT_API_CLIENT_SECRET", file: "SECTIGO_AUDIT_API_CLIENT_SECRET_FILE" };

const DELAY: Bounds = Bounds::seconds(0, 3600);
const WINDOW: Bounds = Bounds::seconds(1, 24 * 3600).whole_seconds();
const OVERLAP: Bounds = Bounds::seconds(0, 3600);

/// What is needed to read the audit API.
pub(super) fn settings(
    raw: Sectigo,
    lookback: Result<Duration, Noted>,
    reader: &mut Reader<'_>,
) -> Result<Settings, Noted> {
    let api_url = reader.required("API_URL", raw.api_url.as_deref(), parse::api_url);
    let client_id = reader.required("API_CLIENT_ID", raw.api_client_id.as_deref(), |text| Ok(text.to_owned()));
    let token_url = reader.optional("API_TOKEN_URL", raw.api_token_url.as_deref(), parse::api_url);
    let (value, file) = (raw.api_client_secret, raw.api_client_secret_file);
    let client_secret = secrets::read(CLIENT_SECRET, value, file, |_| Ok(()), reader.mistakes);
    let delay = reader.duration("SYNC_DELAY", raw.sync_delay.as_deref(), DELAY);
    let window = reader.duration("SYNC_WINDOW", raw.sync_window.as_deref(), WINDOW);
    let overlap = reader.duration("SYNC_OVERLAP", raw.sync_overlap.as_deref(), OVERLAP);
    Ok(Settings {
        api_url: parse::without_trailing_slash(api_url?),
        client_id: client_id?,
        client_secret: client_secret?,
        token_url: token_url?,
        lookback: lookback?,
        delay: delay?,
        window: window?,
        overlap: overlap?,
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::tests::{config_with, message_with};

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = config_with(&[]).sectigo;
        assert_eq!(settings.token_url, None);
        let times = [settings.delay, settings.window, settings.overlap];
        assert_eq!(times.map(|time| time.as_secs()), [30, 3600, 300]);
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let settings = config_with(&[
            ("SECTIGO_AUDIT_API_URL", "https://audit.example.com/base/"),
            ("SECTIGO_AUDIT_API_CLIENT_ID", " an id "),
            ("SECTIGO_AUDIT_API_TOKEN_URL", "https://auth.example.com/token/"),
            ("SECTIGO_AUDIT_SYNC_DELAY", "11s"),
            ("SECTIGO_AUDIT_SYNC_WINDOW", "12s"),
            ("SECTIGO_AUDIT_SYNC_OVERLAP", "13s"),
        ])
        .sectigo;
        assert_eq!(settings.api_url.as_str(), "https://audit.example.com/base");
        assert_eq!(settings.client_id, "an id");
        assert_eq!(settings.token_url.unwrap().as_str(), "https://auth.example.com/token/");
        let times = [settings.delay, settings.window, settings.overlap];
        assert_eq!(times.map(|time| time.as_secs()), [11, 12, 13]);
    }

    #[test]
    fn any_secret_is_taken_to_the_byte() {
        for secret in ["=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy", " # $HOME 'a' \"b\" \\n ", " ", "ü\n"] {
            let settings = config_with(&[("SECTIGO_AUDIT_API_CLIENT_SECRET", secret)]).sectigo;
            assert_eq!(settings.client_secret.current().expose_secret(), secret);
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_the_rule() {
        for (suffix, value, rule) in [
            ("API_URL", "http://audit.example.com", "must begin with https://"),
            ("API_TOKEN_URL", "audit.example.com", "must be an address"),
            ("API_TOKEN_URL", "http://auth.example.com/token", "must begin with https://"),
            ("SYNC_DELAY", "61m", "from 0s to 1h"),
            ("SYNC_WINDOW", "0s", "from 1s to 24h in whole seconds"),
            ("SYNC_WINDOW", "25h", "from 1s to 24h in whole seconds"),
            ("SYNC_WINDOW", "1s 1ms", "from 1s to 24h in whole seconds"),
            ("SYNC_OVERLAP", "61m", "from 0s to 1h"),
        ] {
            let name = format!("SECTIGO_AUDIT_{suffix}");
            let message = message_with(&[(&name, value)]);
            assert!(message.contains(&format!("{name}={value:?}: ")) && message.contains(rule), "{message}");
        }
    }
}
