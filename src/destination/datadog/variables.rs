//! Datadog's variables, under Datadog's own names.

use url::Url;

use super::site::{self, Site};
use super::{Compression, Intake, Labels, Settings, intake_url, tags};
use crate::config::{Noted, Preset, Reader, Scope, SecretVariable, Spec, Variable, parse};
use crate::http::is_loopback;
use crate::http::variables::TlsVariables;
use crate::source::Product;

const COMPRESSIONS: [(&str, Compression); 3] =
    [("gzip", Compression::Gzip), ("zstd", Compression::Zstd), ("none", Compression::Identity)];

/// The API key.
pub(crate) const API_KEY: SecretVariable = SecretVariable::checked(
    Scope::Destination,
    "DD_API_KEY",
    Preset::Required,
    parse::header_key,
    "API key of the Datadog organisation.",
);

/// The Datadog site.
pub(crate) const SITE: Variable<Site> = Variable::new(
    Scope::Destination,
    "DD_SITE",
    Preset::Value("datadoghq.com"),
    |text, _| site::parse(text),
    "Datadog site, such as datadoghq.eu or us5.datadoghq.com.",
);

/// Tags on every entry.
pub(crate) const TAGS: Variable<String> = Variable::text(
    Scope::Destination,
    "DD_TAGS",
    Preset::Nothing,
    "Tags on every entry, such as team:pki, separated by commas or blanks. At most 100 of 256 characters each.",
);

/// The environment's tag.
pub(crate) const ENV: Variable<String> = Variable::new(
    Scope::Destination,
    "DD_ENV",
    Preset::Nothing,
    |text, _| tags::env(text),
    "Becomes the tag env:… unless DD_TAGS has one.",
);

/// The host name on every entry.
pub(crate) const HOSTNAME: Variable<String> = Variable::text(
    Scope::Destination,
    "DD_HOSTNAME",
    Preset::Derived("this machine's name"),
    "Host name on every entry.",
);

/// The service on every entry.
pub(crate) const SERVICE: Variable<String> = Variable::text(
    Scope::Destination,
    "DD_SERVICE",
    Preset::Derived("the source's product"),
    "Service on every entry.",
);

/// The source on every entry.
pub(crate) const SOURCE: Variable<String> = Variable::text(
    Scope::Destination,
    "DD_SOURCE",
    Preset::Derived("the source's name"),
    "Source on every entry, which chooses the log pipeline. auditsync writes it in lower case.",
);

/// Whether auditsync may send plain http to another machine.
pub(crate) const NO_SSL: Variable<bool> = Variable::flag(
    Scope::Destination,
    "DD_LOGS_CONFIG_LOGS_NO_SSL",
    Preset::Value("false"),
    "Allows plain http to the intake named by DD_LOGS_CONFIG_LOGS_DD_URL: true or false. host:port then means http.",
);

/// An intake other than the site's.
pub(crate) const INTAKE: Variable<Url> = Variable::new(
    Scope::Destination,
    "DD_LOGS_CONFIG_LOGS_DD_URL",
    Preset::Derived("the intake of DD_SITE"),
    |text, _| intake_url::parse(text, false),
    "Another intake, as host:port or as an address, such as a relay of your own.",
);

/// The files of TLS.
pub(crate) const TLS: TlsVariables = TlsVariables::new(Scope::Destination, ["DD_TLS_CA", "DD_TLS_CERT", "DD_TLS_KEY"]);

/// How request bodies are compressed.
pub(crate) const COMPRESSION: Variable<Compression> = Variable::new(
    Scope::Destination,
    "DD_LOGS_CONFIG_COMPRESSION_KIND",
    Preset::Value("gzip"),
    |text, _| parse::choice(text, &COMPRESSIONS),
    "Compression of what is sent: gzip, zstd or none.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &API_KEY.spec,
    &SITE.spec,
    &TAGS.spec,
    &ENV.spec,
    &HOSTNAME.spec,
    &SERVICE.spec,
    &SOURCE.spec,
    &INTAKE.spec,
    &NO_SSL.spec,
    &TLS.ca.spec,
    &TLS.certificate.spec,
    &TLS.key.spec,
    &COMPRESSION.spec,
];

/// Reads the settings of the intake.
pub(crate) fn settings(product: &Product, reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let api_key = reader.get_secret(&API_KEY);
    let site = reader.get(&SITE);
    let labels = labels(product, reader);
    let no_ssl = reader.get(&NO_SSL);
    // If NO_SSL cannot be read, report only that, and not that plain http needs it.
    let allow_http = no_ssl.unwrap_or(true);
    let other = reader.find_with(&INTAKE, |text| intake_url::parse(text, allow_http));
    let tls = TLS.read(reader);
    let compression = reader.get(&COMPRESSION);
    let (site_variable, other_variable) = (reader.name(&SITE.spec), reader.name(&INTAKE.spec));

    let (site, other, _) = (site?, other?, no_ssl?);
    let intake = other.as_ref().map_or(Intake::Datadog, |url| Intake::at(url, &site.name));
    let (intake_url, intake_variable, api_url) = match other {
        // A fake intake on this machine answers the key check too, so that a trial run sends nothing elsewhere.
        Some(url) if url.scheme() == "http" && is_loopback(&url) => (url.clone(), other_variable, url),
        Some(url) => (url, other_variable, site.api),
        None => (site.intake, site_variable, site.api),
    };
    Ok(Settings {
        intake_url,
        intake,
        intake_variable,
        site: site.name,
        api_url,
        api_key: api_key?,
        tls: tls?,
        compression: compression?,
        labels: labels?,
    })
}

/// Reads the labels of every entry. Source and service default to those of `product`.
pub(crate) fn labels(product: &Product, reader: &mut Reader<'_>) -> Result<Labels, Noted> {
    let given = reader.find(&TAGS);
    let env = reader.find(&ENV);
    let hostname = reader.find(&HOSTNAME);
    let service = reader.find(&SERVICE);
    let source = reader.find(&SOURCE);
    let own = env.as_ref().ok().and_then(Option::as_deref);
    let tags = tags::joined(&given?.unwrap_or_default(), own).map_err(|rule| reader.refuse(&TAGS.spec, rule));
    env?;
    Ok(Labels {
        source: source?.map_or_else(|| product.name.to_owned(), |source| source.to_lowercase()),
        service: service?.unwrap_or_else(|| product.service.to_owned()),
        hostname: hostname?.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned()),
        tags: tags?,
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::read_pairs;

    const PRODUCT: Product = Product { name: "here", service: "here-service", is_flat: false };
    const INTAKE_NAME: &str = "DD_LOGS_CONFIG_LOGS_DD_URL";
    const NO_SSL_NAME: &str = "DD_LOGS_CONFIG_LOGS_NO_SSL";

    /// Reads the settings from the key and `more`; of two equal names the first counts, so `more` wins.
    fn read(more: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs(&[more, &[("DD_API_KEY", "0123456789abcdef")]].concat(), |reader| settings(&PRODUCT, reader))
    }

    fn datadog(more: &[(&str, &str)]) -> Settings {
        read(more).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = datadog(&[]);
        assert_eq!(settings.intake_url.as_str(), "https://http-intake.logs.datadoghq.com/");
        assert_eq!(settings.intake_variable.as_str(), "DD_SITE");
        assert_eq!(settings.intake, Intake::Datadog);
        assert_eq!(settings.api_url.as_str(), "https://api.datadoghq.com/");
        assert_eq!(settings.compression, Compression::Gzip);
        let hostname = gethostname::gethostname().into_string().unwrap();
        let (source, service) = ("here".to_owned(), "here-service".to_owned());
        assert_eq!(settings.labels, Labels { source, service, hostname, tags: String::new() });
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let settings = datadog(&[
            ("DD_SITE", "us5.datadoghq.com"),
            ("DD_API_KEY", "0123abc"),
            ("DD_TAGS", "a:b, c"),
            ("DD_ENV", "prod"),
            ("DD_HOSTNAME", "host"),
            ("DD_SERVICE", "Service"),
            ("DD_SOURCE", "Source"),
            ("DD_LOGS_CONFIG_COMPRESSION_KIND", "ZSTD"),
        ]);
        assert_eq!(settings.site, "us5.datadoghq.com");
        assert_eq!(settings.api_key.current().expose_secret(), "0123abc");
        assert_eq!(settings.compression, Compression::Zstd);
        let labels = ["source", "Service", "host", "a:b,c,env:prod"].map(str::to_owned);
        let [source, service, hostname, tags] = labels;
        assert_eq!(settings.labels, Labels { source, service, hostname, tags });
        let none = datadog(&[("DD_LOGS_CONFIG_COMPRESSION_KIND", "none")]);
        assert_eq!(none.compression, Compression::Identity);
    }

    #[test]
    fn another_intake_is_used_and_blamed() {
        let settings = datadog(&[(INTAKE_NAME, "intake.example.com:8443"), ("DD_SITE", "datadoghq.eu")]);
        assert_eq!(settings.intake_url.as_str(), "https://intake.example.com:8443/");
        assert_eq!(settings.intake_variable.as_str(), INTAKE_NAME);
        assert_eq!(settings.intake, Intake::Other);
        assert_eq!(settings.api_url.as_str(), "https://api.datadoghq.eu/");
    }

    #[test]
    fn a_fake_on_this_machine_answers_the_key_check_too() {
        let settings = datadog(&[(INTAKE_NAME, "http://127.0.0.1:8080/api/v2/logs")]);
        assert_eq!(settings.intake_url.as_str(), "http://127.0.0.1:8080/");
        assert_eq!(settings.api_url, settings.intake_url);
        let relay = datadog(&[(INTAKE_NAME, "relay.internal:8282"), (NO_SSL_NAME, "true")]);
        assert_eq!(relay.intake_url.as_str(), "http://relay.internal:8282/");
        assert_eq!(relay.api_url.as_str(), "https://api.datadoghq.com/");
    }

    #[test]
    fn a_switch_that_cannot_be_read_is_the_only_mistake() {
        let message = read(&[(INTAKE_NAME, "http://relay.internal:8282"), (NO_SSL_NAME, "maybe")]).unwrap_err();
        assert!(message.contains("has a mistake:\n  DD_LOGS_CONFIG_LOGS_NO_SSL=\"maybe\""), "{message}");
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_without_showing_it() {
        for (key, reason) in [
            ("hunter2\n", "contains a line end"),
            ("hunter 2", "contains a blank"),
            (" hunter2", "contains a blank"),
            ("hünter2", "that no key has"),
            ("'hunter2'", "is in quotes"),
        ] {
            let message = read(&[("DD_API_KEY", key)]).unwrap_err();
            assert!(message.contains("DD_API_KEY=[hidden]: ") && message.contains(reason), "{message}");
            assert!(!message.contains(key.trim()), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_answered_with_the_rule() {
        for (name, value, rule) in [
            ("DD_SITE", "app.datadoghq.com", "write datadoghq.com"),
            (INTAKE_NAME, "http://relay.internal:8282", "DD_LOGS_CONFIG_LOGS_NO_SSL"),
            ("DD_TLS_CA", "/etc/hostname", "holds no certificate in PEM"),
            ("DD_TLS_CERT", "/etc/hostname", "needs DD_TLS_KEY"),
            ("DD_LOGS_CONFIG_COMPRESSION_KIND", "deflate", "gzip, zstd, none"),
            ("DD_ENV", "prod, eu", "must be one word"),
        ] {
            let message = read(&[(name, value)]).unwrap_err();
            assert!(message.contains(&format!("{name}={value:?}: ")) && message.contains(rule), "{message}");
        }
        let message = read(&[("DD_TAGS", &"tag,".repeat(101))]).unwrap_err();
        assert!(message.contains("DD_TAGS=") && message.contains("at most 100 tags"), "{message}");
    }
}
