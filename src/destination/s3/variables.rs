//! The archive's variables. AWS's own library reads others besides.

use std::time::Duration;

use aws_sdk_s3::types::StorageClass;
use bytesize::ByteSize;

use super::Settings;
use super::encoder::Compression;
use super::layout::Template;
use crate::aws::encryption::{self, Encryption};
use crate::config::parse::Bounds;
use crate::config::{Noted, Preset, Reader, Scope, Spec, Variable, parse};

/// The default template: folders by day, and names that begin with the time, as readers of exported audit logs expect.
pub(super) const USUAL_TEMPLATE: &str = "%Y/%m/%d/%H%M%S-{source}-audit-{id}";

const COMPRESSIONS: [(&str, Compression); 2] = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];

/// The bucket.
pub(crate) const BUCKET: Variable<String> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_BUCKET",
    Preset::Required,
    |text, _| parse::bucket(text),
    "S3 bucket of the archive. Credentials, region and endpoint: AWS's own variables, files and roles.",
);

/// The path in the bucket.
pub(crate) const PREFIX: Variable<String> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_PREFIX",
    Preset::Nothing,
    |text, _| parse::prefix(text),
    "Path of the archive in the bucket.",
);

/// The rest of an object's key.
pub(crate) const KEY: Variable<Template> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_KEY",
    Preset::Value(USUAL_TEMPLATE),
    |text, _| Template::parse(text),
    "Key of an object behind the prefix: directives of strftime, {source}, and {id} once. auditsync adds the ending.",
);

/// The size at which an object is closed.
pub(crate) const MAX_SIZE: Variable<ByteSize> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_MAX_SIZE",
    Preset::Value("64MiB"),
    |text, _| size(text),
    "Size before compression at which auditsync closes an object. From 1MiB to 1GiB.",
);

/// The age at which an object is closed.
pub(crate) const MAX_AGE: Variable<Duration> = Variable::time(
    Scope::Destination,
    "ARCHIVE_S3_MAX_AGE",
    "5m",
    Bounds::seconds(1, 86_400),
    "Age at which auditsync closes an object.",
);

/// How objects are compressed.
pub(crate) const COMPRESSION: Variable<Compression> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_COMPRESSION",
    Preset::Value("gzip"),
    |text, _| parse::choice(text, &COMPRESSIONS),
    "Compression of objects: gzip or zstd.",
);

/// Whether the path names the bucket, instead of the host.
pub(crate) const FORCE_PATH_STYLE: Variable<bool> = Variable::flag(
    Scope::Destination,
    "ARCHIVE_S3_FORCE_PATH_STYLE",
    Preset::Value("false"),
    "Name the bucket in the path and not in the host, for S3-compatible stores: true or false.",
);

/// The storage class of objects.
pub(crate) const STORAGE_CLASS: Variable<StorageClass> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_STORAGE_CLASS",
    Preset::Derived("the store's"),
    |text, _| storage_class(text),
    "Storage class of objects, such as STANDARD_IA or GLACIER_IR. Manifests have the store's usual one.",
);

/// The server-side encryption.
pub(crate) const SSE: Variable<Encryption> = Variable::new(
    Scope::Destination,
    "ARCHIVE_S3_SSE",
    Preset::Derived("the bucket's"),
    |text, _| encryption::kind(text),
    "Server-side encryption of the archive: AES256, aws:kms or aws:kms:dsse.",
);

/// The key of the server-side encryption.
pub(crate) const KMS_KEY_ID: Variable<String> = Variable::text(
    Scope::Destination,
    "ARCHIVE_S3_KMS_KEY_ID",
    Preset::Derived("AWS's own key"),
    "KMS key for aws:kms and aws:kms:dsse.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &BUCKET.spec,
    &PREFIX.spec,
    &KEY.spec,
    &MAX_SIZE.spec,
    &MAX_AGE.spec,
    &COMPRESSION.spec,
    &FORCE_PATH_STYLE.spec,
    &STORAGE_CLASS.spec,
    &SSE.spec,
    &KMS_KEY_ID.spec,
];

/// Reads the settings of an archive.
pub(super) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let bucket = reader.get(&BUCKET);
    let prefix = reader.find(&PREFIX);
    let template = reader.get(&KEY);
    let max_size = reader.get(&MAX_SIZE);
    let max_age = reader.get(&MAX_AGE);
    let compression = reader.get(&COMPRESSION);
    let force_path_style = reader.get(&FORCE_PATH_STYLE);
    let storage_class = reader.find(&STORAGE_CLASS);
    let encryption = Encryption::read(reader, &SSE, &KMS_KEY_ID);
    Ok(Settings {
        bucket: bucket?,
        prefix: prefix?.unwrap_or_default(),
        template: template?,
        max_size: max_size?,
        max_age: max_age?,
        compression: compression?,
        force_path_style: force_path_style?,
        storage_class: storage_class?,
        encryption: encryption?,
    })
}

fn size(text: &str) -> Result<ByteSize, String> {
    let bounds = ByteSize::mib(1)..=ByteSize::gib(1);
    let size = text.parse::<ByteSize>().ok().filter(|size| bounds.contains(size));
    size.ok_or_else(|| "must be a size from 1MiB to 1GiB, such as 64MiB".to_owned())
}

fn storage_class(text: &str) -> Result<StorageClass, String> {
    StorageClass::try_parse(&text.to_ascii_uppercase())
        .map_err(|_| format!("must be one of {}", StorageClass::values().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs(&[&[("ARCHIVE_S3_BUCKET", "audit")], pairs].concat(), settings)
    }

    #[test]
    fn a_bucket_is_enough() {
        let found = read(&[]).unwrap();
        assert_eq!((found.bucket.as_str(), found.prefix.as_str()), ("audit", ""));
        assert_eq!((found.max_size, found.max_age), (ByteSize::mib(64), Duration::from_secs(300)));
        assert_eq!((found.compression, found.force_path_style), (Compression::Gzip, false));
        assert!(found.encryption.is_none() && found.storage_class.is_none());
        let message = read_pairs(&[], settings).unwrap_err();
        assert!(message.contains("ARCHIVE_S3_BUCKET: is required but not set"), "{message}");
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let found = read(&[
            ("ARCHIVE_S3_PREFIX", "/pki/prod/"),
            ("ARCHIVE_S3_MAX_SIZE", "1 MiB"),
            ("ARCHIVE_S3_MAX_AGE", "24h"),
            ("ARCHIVE_S3_COMPRESSION", "ZSTD"),
            ("ARCHIVE_S3_STORAGE_CLASS", "glacier_ir"),
            ("ARCHIVE_S3_SSE", "aws:kms"),
            ("ARCHIVE_S3_KMS_KEY_ID", "alias/audit"),
            ("ARCHIVE_S3_FORCE_PATH_STYLE", "true"),
        ])
        .unwrap();
        assert_eq!(found.prefix, "pki/prod");
        assert_eq!((found.max_size, found.max_age), (ByteSize::mib(1), Duration::from_secs(86_400)));
        assert_eq!((found.compression, found.storage_class), (Compression::Zstd, Some(StorageClass::GlacierIr)));
        assert_eq!(found.encryption, Some(Encryption::Kms { key_id: Some("alias/audit".to_owned()) }));
        assert!(found.force_path_style);
    }

    #[test]
    fn what_cannot_be_used_is_answered_with_the_rule() {
        for (name, value, rule) in [
            ("ARCHIVE_S3_BUCKET", "s3://audit", "only the name of a bucket"),
            ("ARCHIVE_S3_MAX_SIZE", "1023KiB", "from 1MiB to 1GiB"),
            ("ARCHIVE_S3_MAX_SIZE", "2GiB", "from 1MiB to 1GiB"),
            ("ARCHIVE_S3_MAX_AGE", "25h", "from 1s to 24h"),
            ("ARCHIVE_S3_COMPRESSION", "none", "gzip, zstd"),
            ("ARCHIVE_S3_STORAGE_CLASS", "COLD", "STANDARD_IA"),
            ("ARCHIVE_S3_KMS_KEY_ID", "alias/audit", "needs ARCHIVE_S3_SSE=aws:kms"),
            ("ARCHIVE_S3_KEY", "%Y/%m", "must hold {id} once"),
        ] {
            let message = read_pairs(&[(name, value)], settings).unwrap_err();
            assert!(message.contains(name) && message.contains(rule), "{message}");
        }
    }
}
