//! The variables of the state in S3.

use super::super::mistakes::Noted;
use super::super::reader::Reader;
use super::super::{parse, raw};
use super::{bucket, prefix};
use crate::state::s3::{Encryption, Settings};

/// The values of `x-amz-server-side-encryption`.
const ENCRYPTIONS: [(&str, Kind); 3] =
    [("AES256", Kind::Aes256), ("aws:kms", Kind::Kms), ("aws:kms:dsse", Kind::KmsDsse)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Aes256,
    Kms,
    KmsDsse,
}

/// Which object, and how it is written.
pub(super) fn settings(raw: &raw::S3, reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let bucket = reader.required("S3_BUCKET", raw.bucket.as_deref(), bucket);
    let prefix = reader.optional("S3_PREFIX", raw.prefix.as_deref(), prefix);
    let force_path_style = reader.required("S3_FORCE_PATH_STYLE", raw.force_path_style.as_deref(), parse::flag);
    let unconditional = reader.required("S3_UNCONDITIONAL", raw.unconditional.as_deref(), parse::flag);
    let kind = reader.optional("S3_SSE", raw.sse.as_deref(), |text| parse::choice(text, &ENCRYPTIONS))?;
    let key_id = raw.kms_key_id.clone();
    let encryption = match (kind, key_id) {
        (None, None) => None,
        (Some(Kind::Aes256), None) => Some(Encryption::Aes256),
        (Some(Kind::Kms), key_id) => Some(Encryption::Kms { key_id }),
        (Some(Kind::KmsDsse), key_id) => Some(Encryption::KmsDsse { key_id }),
        (None | Some(Kind::Aes256), Some(key_id)) => {
            let (name, sse) = (reader.name("S3_KMS_KEY_ID"), reader.name("S3_SSE"));
            return Err(reader.mistakes.refuse(&name, &key_id, format!("needs {sse}=aws:kms or aws:kms:dsse")));
        }
    };
    Ok(Settings {
        bucket: bucket?,
        prefix: prefix?.unwrap_or_default(),
        force_path_style: force_path_style?,
        unconditional: unconditional?,
        encryption,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{config_with, message_with};
    use super::super::Storage;
    use super::*;

    const BACKEND: (&str, &str) = ("SECTIGO_AUDIT_STORAGE_BACKEND", "s3");
    const BUCKET: (&str, &str) = ("SECTIGO_AUDIT_S3_BUCKET", "audit");

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        match config_with(&[&[BACKEND], pairs].concat()).storage {
            Storage::S3(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bucket_is_enough() {
        let found = settings(&[BUCKET]);
        assert_eq!((found.bucket.as_str(), found.prefix.as_str()), ("audit", ""));
        assert_eq!((found.force_path_style, found.unconditional, found.encryption), (false, false, None));
        let message = message_with(&[BACKEND]);
        assert!(message.contains("SECTIGO_AUDIT_S3_BUCKET: is required but not set"), "{message}");
    }

    #[test]
    fn slashes_around_a_prefix_do_not_count() {
        for given in ["pki/prod", "/pki/prod/", "pki/prod//"] {
            assert_eq!(settings(&[BUCKET, ("SECTIGO_AUDIT_S3_PREFIX", given)]).prefix, "pki/prod");
        }
    }

    #[test]
    fn a_bucket_is_a_name_alone() {
        for bad in ["s3://audit", "audit/prod", "a b"] {
            let message = message_with(&[BACKEND, ("SECTIGO_AUDIT_S3_BUCKET", bad)]);
            assert!(message.contains("must be the name of a bucket alone"), "{message}");
        }
    }

    #[test]
    fn a_key_belongs_to_an_encryption_that_has_one() {
        let key = ("SECTIGO_AUDIT_S3_KMS_KEY_ID", "alias/audit");
        let key_id = Some("alias/audit".to_owned());
        for (sse, expected) in
            [("aws:kms", Encryption::Kms { key_id: key_id.clone() }), ("AWS:KMS:DSSE", Encryption::KmsDsse { key_id })]
        {
            assert_eq!(settings(&[BUCKET, key, ("SECTIGO_AUDIT_S3_SSE", sse)]).encryption, Some(expected));
        }
        assert_eq!(settings(&[BUCKET, ("SECTIGO_AUDIT_S3_SSE", "aes256")]).encryption, Some(Encryption::Aes256));
        for pairs in [&[BACKEND, BUCKET, key][..], &[BACKEND, BUCKET, key, ("SECTIGO_AUDIT_S3_SSE", "AES256")]] {
            assert!(message_with(pairs).contains("needs SECTIGO_AUDIT_S3_SSE=aws:kms"));
        }
    }
}
