//! Fluentd's variables.

use bytesize::ByteSize;
use url::Url;

use super::{Compression, Settings};
use crate::config::{Noted, Preset, Reader, Scope, Spec, Variable, parse};
use crate::http::is_loopback;
use crate::http::variables::TlsVariables;
use crate::variable_name::VariableName;

const COMPRESSIONS: [(&str, Compression); 2] = [("none", Compression::None), ("gzip", Compression::Gzip)];

/// Where events go.
pub(crate) const URL: Variable<Url> = Variable::new(
    Scope::Destination,
    "FLUENTD_URL",
    Preset::Required,
    |text, _| address(text, false),
    "Address of the HTTP input, with the tag as its path, such as https://fluentd.example.com:8888/audit.log.",
);

/// Where parts of recorded sessions go.
pub(crate) const SESSION_URL: Variable<Url> = Variable::new(
    Scope::Destination,
    "FLUENTD_SESSION_URL",
    Preset::Derived(URL.spec.name),
    |text, _| address(text, false),
    "Address for events of recorded sessions, such as https://fluentd.example.com:8888/session. auditsync adds .ID.log.",
);

/// The files of TLS.
pub(crate) const TLS: TlsVariables =
    TlsVariables::new(Scope::Destination, ["FLUENTD_CA", "FLUENTD_CERT", "FLUENTD_KEY"]);

/// Whether auditsync may send plain http to another machine.
pub(crate) const INSECURE: Variable<bool> = Variable::flag(
    Scope::Destination,
    "FLUENTD_INSECURE",
    Preset::Value("false"),
    "Allows plain http to another machine, where others may read the events: true or false.",
);

/// Most events in a request.
pub(crate) const BATCH_RECORDS: Variable<usize> = Variable::new(
    Scope::Destination,
    "FLUENTD_BATCH_RECORDS",
    Preset::Value("500"),
    |text, _| records(text),
    "Most events in one request. 1 sends bare objects instead of arrays. From 1 to 10000.",
);

/// The largest request.
pub(crate) const BATCH_BYTES: Variable<usize> = Variable::new(
    Scope::Destination,
    "FLUENTD_BATCH_BYTES",
    Preset::Value("1MiB"),
    |text, _| bytes(text),
    "Largest request before compression. A larger event is sent alone. From 1KiB to 64MiB.",
);

/// How requests are compressed.
pub(crate) const COMPRESSION: Variable<Compression> = Variable::new(
    Scope::Destination,
    "FLUENTD_COMPRESSION",
    Preset::Value("none"),
    |text, _| parse::choice(text, &COMPRESSIONS),
    "Compression of requests: none, or gzip for Fluentd and for Fluent Bit from 2.2.1 on.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &URL.spec,
    &SESSION_URL.spec,
    &TLS.ca.spec,
    &TLS.certificate.spec,
    &TLS.key.spec,
    &INSECURE.spec,
    &BATCH_RECORDS.spec,
    &BATCH_BYTES.spec,
    &COMPRESSION.spec,
];

/// Reads the settings of the receiver.
pub(super) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let insecure = reader.get(&INSECURE);
    // If the switch cannot be read, report only that, and not that plain http needs it.
    let allow_http = insecure.unwrap_or(true);
    let url = reader.find_with(&URL, |text| address(text, allow_http));
    let session_url = reader.find_with(&SESSION_URL, |text| address(text, allow_http));
    let tls = TLS.read(reader);
    let records = reader.get(&BATCH_RECORDS);
    let bytes = reader.get(&BATCH_BYTES);
    let compression = reader.get(&COMPRESSION);
    insecure?;
    let url = match url? {
        Some(url) => url,
        // Reports that the address is missing.
        None => reader.get(&URL)?,
    };
    let (session_url, tls) = (session_url?, tls?);
    let is_plain = |url: &Url| url.scheme() == "http";
    let certificate = tls.identity.as_ref().map(|(certificate, _)| certificate);
    if let Some(file) = tls.ca.as_ref().or(certificate)
        && is_plain(&url)
        && session_url.as_ref().is_none_or(is_plain)
    {
        let name = reader.name(&URL.spec);
        let rule = format!("has no effect, because {name} begins with http://");
        return Err(reader.refuse_hidden(&file.variable, rule));
    }
    let name = |spec: &Spec| -> VariableName { reader.name(spec) };
    Ok(Settings {
        url_variable: name(&URL.spec),
        session_variable: name(&SESSION_URL.spec),
        ca_variable: name(&TLS.ca.spec),
        certificate_variable: name(&TLS.certificate.spec),
        compression_variable: name(&COMPRESSION.spec),
        url,
        session_url,
        tls,
        records: records?,
        bytes: bytes?,
        compression: compression?,
    })
}

/// Reads an address whose path is a tag. Without a path, Fluentd gives the events an empty tag, which hardly any match
/// rule takes.
fn address(text: &str, allow_http: bool) -> Result<Url, String> {
    let url = parse::http_url(text)?;
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        return Err(format!(
            "is plain http to another machine, where others may read the events; write https://, or set {}=true",
            INSECURE.spec.name
        ));
    }
    if url.path().trim_matches('/').is_empty() {
        return Err("must end with a path, which becomes the tag, such as /audit.log".to_owned());
    }
    Ok(url)
}

fn records(text: &str) -> Result<usize, String> {
    let records = text.parse().ok().filter(|records| (1..=10_000).contains(records));
    records.ok_or_else(|| "must be a number from 1 to 10000".to_owned())
}

fn bytes(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().ok().filter(|size| (ByteSize::kib(1)..=ByteSize::mib(64)).contains(size));
    let size = size.and_then(|size| usize::try_from(size.as_u64()).ok());
    size.ok_or_else(|| "must be a size from 1KiB to 64MiB, with its unit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    const ADDRESS: (&str, &str) = ("FLUENTD_URL", "https://f.example.com:8888/audit.log");

    fn read(more: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs(&[more, &[ADDRESS]].concat(), settings)
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.records, settings.bytes), (500, 1024 * 1024));
        assert_eq!(settings.compression, Compression::None);
        assert!(settings.session_url.is_none() && settings.tls.ca.is_none() && settings.tls.identity.is_none());
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let settings = read(&[
            ("FLUENTD_SESSION_URL", "https://f.example.com:8888/session"),
            ("FLUENTD_BATCH_RECORDS", "1"),
            ("FLUENTD_BATCH_BYTES", "1 KiB"),
            ("FLUENTD_COMPRESSION", "GZIP"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.session_url.unwrap().path(), "/session");
        assert_eq!((settings.records, settings.bytes), (1, 1024));
        assert_eq!(settings.compression, Compression::Gzip);
    }

    #[test]
    fn what_cannot_be_used_is_answered_with_the_rule() {
        for (name, value, rule) in [
            ("FLUENTD_URL", "https://f.example.com:8888", "which becomes the tag"),
            ("FLUENTD_URL", "https://f.example.com:8888//", "which becomes the tag"),
            ("FLUENTD_URL", "http://f.example.com:8888/x", "FLUENTD_INSECURE=true"),
            ("FLUENTD_SESSION_URL", "http://f.example.com/x", "FLUENTD_INSECURE=true"),
            ("FLUENTD_BATCH_RECORDS", "0", "from 1 to 10000"),
            ("FLUENTD_BATCH_BYTES", "1023B", "from 1KiB to 64MiB"),
            ("FLUENTD_BATCH_BYTES", "lots", "from 1KiB to 64MiB"),
            ("FLUENTD_COMPRESSION", "zstd", "none, gzip"),
            ("FLUENTD_CERT", "/etc/hostname", "needs FLUENTD_KEY"),
            ("FLUENTD_KEY", "/etc/hostname", "needs FLUENTD_CERT"),
            ("FLUENTD_CA", "/etc/hostname", "holds no certificate in PEM"),
        ] {
            let message = read(&[(name, value)]).unwrap_err();
            assert!(message.contains(&format!("{name}={value:?}: ")) && message.contains(rule), "{message}");
        }
    }

    #[test]
    fn an_address_with_a_password_in_a_files_place_is_not_shown() {
        let message = read(&[("FLUENTD_CA", "https://me:sentinel@host/")]).unwrap_err();
        assert!(message.contains("FLUENTD_CA=[hidden]: [hidden]: the file cannot be read"), "{message}");
    }

    #[test]
    fn plain_http_needs_this_machine_or_a_clear_word() {
        assert!(read(&[("FLUENTD_URL", "http://127.0.0.1:8888/x")]).is_ok());
        assert!(read(&[("FLUENTD_URL", "http://f.example.com/x"), ("FLUENTD_INSECURE", "true")]).is_ok());
        let message = read(&[("FLUENTD_URL", "http://f.example.com/x"), ("FLUENTD_INSECURE", "perhaps")]).unwrap_err();
        assert!(message.contains("has a mistake:\n  FLUENTD_INSECURE"), "{message}");
    }

    #[test]
    fn an_address_cannot_set_the_time_of_its_records() {
        let message = read(&[("FLUENTD_URL", "https://f.example.com/x?time=1")]).unwrap_err();
        assert!(message.contains("without ? or #"), "{message}");
    }

    #[test]
    fn a_missing_address_is_named() {
        let message = read_pairs(&[], settings).unwrap_err();
        assert!(message.contains("FLUENTD_URL: is required but not set"), "{message}");
    }
}
