//! The variables of the state in Google Cloud Storage, beside those that Google's own library reads.

use url::Url;

use super::Settings;
use crate::config::{Noted, Preset, Reader, Scope, Spec, Variable, parse};

/// The bucket of the state.
pub(crate) const BUCKET: Variable<String> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_GCS_BUCKET",
    Preset::Nothing,
    |text, _| parse::bucket(text),
    "Google Cloud Storage bucket of the state. Credentials: Application Default Credentials.",
);

/// The path in the bucket.
pub(crate) const PREFIX: Variable<String> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_GCS_PREFIX",
    Preset::Nothing,
    |text, _| parse::prefix(text),
    "Path of the state in the bucket.",
);

/// The emulator. Google's own tools read the same variable.
pub(crate) const EMULATOR: Variable<String> = Variable::new(
    Scope::Foreign,
    "STORAGE_EMULATOR_HOST",
    Preset::Nothing,
    |text, _| emulator(text).ok_or_else(|| "must be host:port or http://host:port".to_owned()),
    "An emulator instead of Google Cloud Storage, as host:port or as an address.",
);

/// Every variable of this store, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&BUCKET.spec, &PREFIX.spec, &EMULATOR.spec];

/// Reads the location of the object.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let bucket = reader.get(&BUCKET);
    let prefix = reader.find(&PREFIX);
    let emulator = reader.find(&EMULATOR);
    Ok(Settings { bucket: bucket?, prefix: prefix?.unwrap_or_default(), emulator: emulator? })
}

/// Parses the address of an emulator, which may have a scheme or none, as for Google's tools.
fn emulator(text: &str) -> Option<String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    (is_plain && url.has_host()).then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    const GIVEN: (&str, &str) = ("AUDITSYNC_GCS_BUCKET", "audit");

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs(pairs, settings)
    }

    #[test]
    fn a_bucket_is_enough() {
        let found = read(&[GIVEN, ("AUDITSYNC_GCS_PREFIX", "/pki/")]).unwrap();
        assert_eq!((found.bucket.as_str(), found.prefix.as_str(), found.emulator), ("audit", "pki", None));
        let message = read(&[]).unwrap_err();
        assert!(message.contains("AUDITSYNC_GCS_BUCKET: is required but not set"), "{message}");
        let message = read(&[("AUDITSYNC_GCS_BUCKET", "gs://audit")]).unwrap_err();
        assert!(message.contains("must be only the name of a bucket"), "{message}");
    }

    #[test]
    fn an_emulator_is_given_with_a_scheme_or_without() {
        for given in ["127.0.0.1:9023", "http://127.0.0.1:9023", "http://127.0.0.1:9023/"] {
            let found = read(&[GIVEN, (EMULATOR.spec.name, given)]).unwrap();
            assert_eq!(found.emulator.as_deref(), Some("http://127.0.0.1:9023"));
        }
        let message = read(&[GIVEN, (EMULATOR.spec.name, "ftp://x")]).unwrap_err();
        assert!(message.contains("STORAGE_EMULATOR_HOST=\"ftp://x\": must be host:port"), "{message}");
    }
}
