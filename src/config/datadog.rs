//! Datadog's variables, under Datadog's own names.

use std::path::PathBuf;

use super::mistakes::Noted;
use super::parse;
use super::raw::Datadog;
use super::reader::Reader;
use super::secrets::{self, Names};
use crate::destination::datadog::{Compression, Intake, Labels, Settings};
use crate::http::is_loopback;

mod intake;
mod site;
mod tags;

/// What Datadog's variables begin with.
pub(super) const PREFIX: &str = "DD_";

const API_KEY: Names = Names { value: "DD_API_KEY", file: "DD_API_KEY_FILE" };

const COMPRESSIONS: [(&str, Compression); 3] =
    [("gzip", Compression::Gzip), ("zstd", Compression::Zstd), ("none", Compression::Identity)];

/// What is needed to send to the intake.
pub(super) fn settings(
    raw: Datadog,
    rejected_path: Result<Option<PathBuf>, Noted>,
    reader: &mut Reader<'_>,
) -> Result<Settings, Noted> {
    let labels = labels(&raw, reader);
    let api_key = secrets::read(API_KEY, raw.api_key, raw.api_key_file, fit_for_a_header, reader.mistakes);
    let site = reader.required("SITE", raw.site.as_deref(), site::parse);
    let no_ssl = reader.required("LOGS_CONFIG_LOGS_NO_SSL", raw.logs_config_logs_no_ssl.as_deref(), parse::flag);
    // If NO_SSL cannot be read, that alone is reported, and not that plain http needs it.
    let allow_http = no_ssl.unwrap_or(true);
    let other = reader.optional("LOGS_CONFIG_LOGS_DD_URL", raw.logs_config_logs_dd_url.as_deref(), |text| {
        intake::parse(text, allow_http)
    });
    let kind = raw.logs_config_compression_kind.as_deref();
    let compression = reader.required("LOGS_CONFIG_COMPRESSION_KIND", kind, |text| parse::choice(text, &COMPRESSIONS));

    let (site, other, _) = (site?, other?, no_ssl?);
    let intake = other.as_ref().map_or(Intake::Datadog, |url| Intake::at(url, &site.name));
    let (intake_url, intake_variable, api_url) = match other {
        // A fake of the intake on this machine answers the key check too: nothing of a trial run leaves the machine.
        Some(url) if url.scheme() == "http" && is_loopback(&url) => (url.clone(), "DD_LOGS_CONFIG_LOGS_DD_URL", url),
        Some(url) => (url, "DD_LOGS_CONFIG_LOGS_DD_URL", site.api),
        None => (site.intake, "DD_SITE", site.api),
    };
    Ok(Settings {
        intake_url,
        intake,
        intake_variable,
        site: site.name,
        api_url,
        api_key: api_key?,
        compression: compression?,
        labels: labels?,
        rejected_path: rejected_path?,
    })
}

/// What every entry carries.
pub(super) fn labels(raw: &Datadog, reader: &mut Reader<'_>) -> Result<Labels, Noted> {
    let any = |text: &str| Ok(text.to_owned());
    let env = reader.optional("ENV", raw.env.as_deref(), tags::env);
    let own = env.as_ref().ok().and_then(Option::as_deref);
    let given = raw.tags.as_deref().unwrap_or_default();
    let tags = tags::joined(given, own).map_err(|rule| reader.mistakes.refuse("DD_TAGS", given, rule));
    let hostname = reader.optional("HOSTNAME", raw.hostname.as_deref(), any);
    let service = reader.required("SERVICE", raw.service.as_deref(), any);
    let source = reader.required("SOURCE", raw.source.as_deref(), any);
    env?;
    Ok(Labels {
        source: source?.to_lowercase(),
        service: service?,
        hostname: hostname?.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned()),
        tags: tags?,
    })
}

/// The key goes into a header: anything else but visible ASCII came with it by accident.
fn fit_for_a_header(key: &str) -> Result<(), String> {
    if ['\'', '"'].iter().any(|quote| key.starts_with(*quote) && key.ends_with(*quote)) {
        return Err("is in quotes; leave them out (docker run --env-file takes them for a part of the key)".to_owned());
    }
    match key.chars().find(|c| !c.is_ascii_graphic()) {
        None => Ok(()),
        Some('\n' | '\r') => Err("holds a line end; it must be the key alone, on one line".to_owned()),
        Some(c) if c.is_whitespace() => Err("holds a blank; it must be the key alone".to_owned()),
        Some(_) => Err("holds a character that is in no key; it must be the key alone".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::tests::{config_with, message_with};
    use super::*;

    const INTAKE: &str = "DD_LOGS_CONFIG_LOGS_DD_URL";
    const NO_SSL: &str = "DD_LOGS_CONFIG_LOGS_NO_SSL";

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = config_with(&[]).datadog;
        assert_eq!(settings.intake_url.as_str(), "https://http-intake.logs.datadoghq.com/");
        assert_eq!(settings.intake_variable, "DD_SITE");
        assert_eq!(settings.intake, Intake::Datadog);
        assert_eq!(settings.api_url.as_str(), "https://api.datadoghq.com/");
        assert_eq!(settings.compression, Compression::Gzip);
        let hostname = gethostname::gethostname().into_string().unwrap();
        let (source, service) = ("sectigo".to_owned(), "sectigo-scm".to_owned());
        assert_eq!(settings.labels, Labels { source, service, hostname, tags: String::new() });
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let settings = config_with(&[
            ("DD_SITE", "us5.datadoghq.com"),
            ("DD_API_KEY", "0123abc"),
            ("DD_TAGS", "a:b, c"),
            ("DD_ENV", "prod"),
            ("DD_HOSTNAME", "host"),
            ("DD_SERVICE", "Service"),
            ("DD_SOURCE", "Source"),
            ("DD_LOGS_CONFIG_COMPRESSION_KIND", "ZSTD"),
        ])
        .datadog;
        assert_eq!(settings.site, "us5.datadoghq.com");
        assert_eq!(settings.api_key.current().expose_secret(), "0123abc");
        assert_eq!(settings.compression, Compression::Zstd);
        let labels = ["source", "Service", "host", "a:b,c,env:prod"].map(str::to_owned);
        let [source, service, hostname, tags] = labels;
        assert_eq!(settings.labels, Labels { source, service, hostname, tags });
        let none = config_with(&[("DD_LOGS_CONFIG_COMPRESSION_KIND", "none")]);
        assert_eq!(none.datadog.compression, Compression::Identity);
    }

    #[test]
    fn another_intake_is_used_and_blamed() {
        let settings = config_with(&[(INTAKE, "intake.example.com:8443"), ("DD_SITE", "datadoghq.eu")]).datadog;
        assert_eq!(settings.intake_url.as_str(), "https://intake.example.com:8443/");
        assert_eq!(settings.intake_variable, INTAKE);
        assert_eq!(settings.intake, Intake::Other);
        assert_eq!(settings.api_url.as_str(), "https://api.datadoghq.eu/");
    }

    #[test]
    fn a_fake_on_this_machine_answers_the_key_check_too() {
        let settings = config_with(&[(INTAKE, "http://127.0.0.1:8080/api/v2/logs")]).datadog;
        assert_eq!(settings.intake_url.as_str(), "http://127.0.0.1:8080/");
        assert_eq!(settings.api_url, settings.intake_url);
        let relay = config_with(&[(INTAKE, "relay.internal:8282"), (NO_SSL, "true")]).datadog;
        assert_eq!(relay.intake_url.as_str(), "http://relay.internal:8282/");
        assert_eq!(relay.api_url.as_str(), "https://api.datadoghq.com/");
    }

    #[test]
    fn a_switch_that_cannot_be_read_is_the_only_mistake() {
        let message = message_with(&[(INTAKE, "http://relay.internal:8282"), (NO_SSL, "maybe")]);
        assert!(message.contains("has a mistake:\n  DD_LOGS_CONFIG_LOGS_NO_SSL=\"maybe\""), "{message}");
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_without_showing_it() {
        for (key, reason) in [
            ("hunter2\n", "holds a line end"),
            ("hunter 2", "holds a blank"),
            (" hunter2", "holds a blank"),
            ("hünter2", "in no key"),
            ("'hunter2'", "is in quotes"),
        ] {
            let message = message_with(&[("DD_API_KEY", key)]);
            assert!(message.contains("DD_API_KEY=[hidden]: ") && message.contains(reason), "{message}");
            assert!(!message.contains(key.trim()), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_the_rule() {
        for (name, value, rule) in [
            ("DD_SITE", "app.datadoghq.com", "write datadoghq.com"),
            (INTAKE, "http://relay.internal:8282", "DD_LOGS_CONFIG_LOGS_NO_SSL"),
            ("DD_LOGS_CONFIG_COMPRESSION_KIND", "deflate", "gzip, zstd, none"),
            ("DD_ENV", "prod, eu", "must be one word"),
        ] {
            let message = message_with(&[(name, value)]);
            assert!(message.contains(&format!("{name}={value:?}: ")) && message.contains(rule), "{message}");
        }
        let message = message_with(&[("DD_TAGS", &"tag,".repeat(101))]);
        assert!(message.contains("DD_TAGS=") && message.contains("at most 100 tags"), "{message}");
    }
}
