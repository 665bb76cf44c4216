//! The variables of the state in Google Cloud Storage.

use url::Url;

use super::super::environment::Environment;
use super::super::mistakes::Noted;
use super::super::raw;
use super::super::reader::Reader;
use super::{EMULATOR, bucket, prefix};
use crate::state::gcs::Settings;

/// Which object, and where.
pub(super) fn settings(raw: &raw::Gcs, environment: &Environment, reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let bucket = reader.required("GCS_BUCKET", raw.bucket.as_deref(), bucket);
    let prefix = reader.optional("GCS_PREFIX", raw.prefix.as_deref(), prefix);
    let emulator = environment.value(EMULATOR).map(|text| {
        emulator(text).ok_or_else(|| reader.mistakes.refuse(EMULATOR, text, "must be host:port or http://host:port"))
    });
    Ok(Settings { bucket: bucket?, prefix: prefix?.unwrap_or_default(), emulator: emulator.transpose()? })
}

/// Google's tools take it with a scheme and without one.
fn emulator(text: &str) -> Option<String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    (is_plain && url.has_host()).then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{config_with, message_with};
    use super::super::Storage;
    use super::*;

    const BACKEND: (&str, &str) = ("SECTIGO_AUDIT_STORAGE_BACKEND", "gcs");
    const BUCKET: (&str, &str) = ("SECTIGO_AUDIT_GCS_BUCKET", "audit");

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        match config_with(&[&[BACKEND], pairs].concat()).storage {
            Storage::Gcs(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bucket_is_enough() {
        let found = settings(&[BUCKET, ("SECTIGO_AUDIT_GCS_PREFIX", "/pki/")]);
        assert_eq!((found.bucket.as_str(), found.prefix.as_str(), found.emulator), ("audit", "pki", None));
        let message = message_with(&[BACKEND]);
        assert!(message.contains("SECTIGO_AUDIT_GCS_BUCKET: is required but not set"), "{message}");
        let message = message_with(&[BACKEND, ("SECTIGO_AUDIT_GCS_BUCKET", "gs://audit")]);
        assert!(message.contains("must be the name of a bucket alone"), "{message}");
    }

    #[test]
    fn an_emulator_is_given_with_a_scheme_or_without() {
        for given in ["127.0.0.1:9023", "http://127.0.0.1:9023", "http://127.0.0.1:9023/"] {
            let found = settings(&[BUCKET, (EMULATOR, given)]);
            assert_eq!(found.emulator.as_deref(), Some("http://127.0.0.1:9023"));
        }
        let message = message_with(&[BACKEND, BUCKET, (EMULATOR, "ftp://x")]);
        assert!(message.contains("STORAGE_EMULATOR_HOST=\"ftp://x\": must be host:port"), "{message}");
    }
}
