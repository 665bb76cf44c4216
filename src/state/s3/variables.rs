//! The variables of the state in S3, beside those that AWS's own library reads.

use super::Settings;
use crate::aws::encryption::{self, Encryption};
use crate::config::{Noted, Preset, Reader, Scope, Spec, Variable, parse};

/// The bucket of the state.
pub(crate) const BUCKET: Variable<String> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_S3_BUCKET",
    Preset::Nothing,
    |text, _| parse::bucket(text),
    "S3 bucket of the state. Credentials, region and endpoint: AWS's own variables, files and roles.",
);

/// The path in the bucket.
pub(crate) const PREFIX: Variable<String> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_S3_PREFIX",
    Preset::Nothing,
    |text, _| parse::prefix(text),
    "Path of the state in the bucket.",
);

/// Whether to name the bucket in the path.
pub(crate) const FORCE_PATH_STYLE: Variable<bool> = Variable::flag(
    Scope::Shared,
    "AUDITSYNC_S3_FORCE_PATH_STYLE",
    Preset::Value("false"),
    "Name the bucket in the path and not in the host, for S3-compatible stores: true or false.",
);

/// How the store encrypts.
pub(crate) const SSE: Variable<Encryption> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_S3_SSE",
    Preset::Derived("the bucket's"),
    |text, _| encryption::kind(text),
    "Server-side encryption of the state: AES256, aws:kms or aws:kms:dsse.",
);

/// The key that it encrypts with.
pub(crate) const KMS_KEY_ID: Variable<String> = Variable::text(
    Scope::Shared,
    "AUDITSYNC_S3_KMS_KEY_ID",
    Preset::Derived("AWS's own key"),
    "KMS key for aws:kms and aws:kms:dsse.",
);

/// Every variable of this store, for the tables.
pub(crate) const VARIABLES: &[&Spec] =
    &[&BUCKET.spec, &PREFIX.spec, &FORCE_PATH_STYLE.spec, &SSE.spec, &KMS_KEY_ID.spec];

/// Reads the location of the object and its encryption.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let bucket = reader.get(&BUCKET);
    let prefix = reader.find(&PREFIX);
    let force_path_style = reader.get(&FORCE_PATH_STYLE);
    let encryption = Encryption::read(reader, &SSE, &KMS_KEY_ID);
    Ok(Settings {
        bucket: bucket?,
        prefix: prefix?.unwrap_or_default(),
        force_path_style: force_path_style?,
        encryption: encryption?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    const GIVEN: (&str, &str) = ("AUDITSYNC_S3_BUCKET", "audit");

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs(pairs, settings)
    }

    #[test]
    fn a_bucket_is_enough() {
        let found = read(&[GIVEN]).unwrap();
        assert_eq!((found.bucket.as_str(), found.prefix.as_str()), ("audit", ""));
        assert_eq!((found.force_path_style, found.encryption), (false, None));
        let message = read(&[]).unwrap_err();
        assert!(message.contains("AUDITSYNC_S3_BUCKET: is required but not set"), "{message}");
    }

    #[test]
    fn slashes_around_a_prefix_do_not_count() {
        for given in ["pki/prod", "/pki/prod/", "pki/prod//"] {
            assert_eq!(read(&[GIVEN, ("AUDITSYNC_S3_PREFIX", given)]).unwrap().prefix, "pki/prod");
        }
    }

    #[test]
    fn a_bucket_is_a_name_alone() {
        for bad in ["s3://audit", "audit/prod", "a b"] {
            let message = read(&[("AUDITSYNC_S3_BUCKET", bad)]).unwrap_err();
            assert!(message.contains("must be only the name of a bucket"), "{message}");
        }
    }

    #[test]
    fn a_key_belongs_to_an_encryption_that_has_one() {
        let key = ("AUDITSYNC_S3_KMS_KEY_ID", "alias/audit");
        let key_id = Some("alias/audit".to_owned());
        for (sse, expected) in
            [("aws:kms", Encryption::Kms { key_id: key_id.clone() }), ("AWS:KMS:DSSE", Encryption::KmsDsse { key_id })]
        {
            assert_eq!(read(&[GIVEN, key, ("AUDITSYNC_S3_SSE", sse)]).unwrap().encryption, Some(expected));
        }
        assert_eq!(read(&[GIVEN, ("AUDITSYNC_S3_SSE", "aes256")]).unwrap().encryption, Some(Encryption::Aes256));
        for pairs in [&[GIVEN, key][..], &[GIVEN, key, ("AUDITSYNC_S3_SSE", "AES256")]] {
            assert!(read(pairs).unwrap_err().contains("needs AUDITSYNC_S3_SSE=aws:kms"));
        }
    }
}
