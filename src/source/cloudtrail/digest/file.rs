//! A digest file: lists the log files that were delivered in its hour, with the SHA-256 of each.
//!
//! Its format:
//! <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-validation-digest-file-structure.html>.

use serde::Deserialize;

use crate::aws::digest::Sha256;

/// The only algorithms that digests use.
const SIGNED_WITH: &str = "SHA256withRSA";
const HASHED_WITH: &str = "SHA-256";

/// A digest file without its signature, which is in the object's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source::cloudtrail) struct Digest {
    /// The end of its hour, as written, because the signature covers this text.
    pub(super) end: String,
    /// The bucket that it was written to.
    pub(super) bucket: String,
    /// The key that it was written under.
    pub(super) key: String,
    /// The fingerprint of the public key.
    pub(super) fingerprint: String,
    /// The digest before it; none for the first one of a chain.
    pub(in crate::source::cloudtrail) previous: Option<Previous>,
    /// The log files.
    pub(in crate::source::cloudtrail) files: Vec<LogFile>,
}

/// The part of a digest about the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source::cloudtrail) struct Previous {
    /// The bucket that it was written to.
    pub(in crate::source::cloudtrail) bucket: String,
    /// The key that it was written under.
    pub(in crate::source::cloudtrail) key: String,
    /// The SHA-256 of its content.
    pub(super) sha256: Sha256,
    /// Its signature, as written.
    pub(super) signature: String,
}

/// A log file as a digest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source::cloudtrail) struct LogFile {
    /// Its bucket.
    pub(in crate::source::cloudtrail) bucket: String,
    /// Its key.
    pub(in crate::source::cloudtrail) key: String,
    /// The SHA-256 of its content, uncompressed.
    pub(in crate::source::cloudtrail) sha256: Sha256,
}

/// A reason why a file is not a digest.
#[derive(Debug, thiserror::Error)]
pub(in crate::source::cloudtrail) enum NotADigest {
    /// It is not the JSON of a digest.
    #[error("it is not the JSON of a digest: {0}")]
    Json(String),
    /// It names an unknown algorithm.
    #[error("it uses the algorithm {0:?}, and SHA-256 with RSA alone is known")]
    Algorithm(String),
    /// A hash is malformed.
    #[error("the hash of {0:?} is not 64 hexadecimal digits")]
    Hash(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    digest_end_time: String,
    digest_s3_bucket: String,
    digest_s3_object: String,
    digest_public_key_fingerprint: String,
    digest_signature_algorithm: Option<String>,
    previous_digest_s3_bucket: Option<String>,
    previous_digest_s3_object: Option<String>,
    previous_digest_hash_value: Option<String>,
    previous_digest_signature: Option<String>,
    #[serde(default)]
    log_files: Option<Vec<WrittenFile>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenFile {
    s3_bucket: String,
    s3_object: String,
    hash_value: String,
    hash_algorithm: Option<String>,
}

impl Digest {
    /// Reads the content of a digest file, uncompressed.
    pub(in crate::source::cloudtrail) fn read(content: &[u8]) -> Result<Self, NotADigest> {
        // The parser's message may quote the file.
        let json = |error: serde_json::Error| {
            NotADigest::Json(format!("{:?} at line {} column {}", error.classify(), error.line(), error.column()))
        };
        let written: Written = serde_json::from_slice(content).map_err(json)?;
        is_known(written.digest_signature_algorithm.as_deref(), SIGNED_WITH)?;
        let previous = match (written.previous_digest_s3_bucket, written.previous_digest_s3_object) {
            (Some(bucket), Some(key)) => {
                let sha256 = hash(&key, written.previous_digest_hash_value.as_deref().unwrap_or_default())?;
                Some(Previous { bucket, key, sha256, signature: written.previous_digest_signature.unwrap_or_default() })
            }
            _ => None,
        };
        let file = |WrittenFile { s3_bucket: bucket, s3_object: key, hash_value, hash_algorithm }| {
            is_known(hash_algorithm.as_deref(), HASHED_WITH)?;
            Ok(LogFile { bucket, sha256: hash(&key, &hash_value)?, key })
        };
        Ok(Self {
            end: written.digest_end_time,
            bucket: written.digest_s3_bucket,
            key: written.digest_s3_object,
            fingerprint: written.digest_public_key_fingerprint,
            previous,
            files: written.log_files.unwrap_or_default().into_iter().map(file).collect::<Result<_, _>>()?,
        })
    }

    /// The signed text, for a file whose content has the hash `content`:
    /// <https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-custom-validation.html>.
    pub(super) fn signed_text(&self, content: Sha256) -> String {
        let Self { end, bucket, key, .. } = self;
        // The first digest of a chain names no earlier signature, which the text shows as Java's `null`.
        let previous = self.previous.as_ref().map_or("null", |previous| &previous.signature);
        format!("{end}\n{bucket}/{key}\n{content}\n{previous}")
    }

    /// Whether it was read from the place where `CloudTrail` wrote it.
    pub(super) fn is_of(&self, bucket: &str, key: &str) -> bool {
        self.bucket == bucket && self.key == key
    }
}

fn is_known(algorithm: Option<&str>, known: &str) -> Result<(), NotADigest> {
    match algorithm {
        Some(other) if other != known => Err(NotADigest::Algorithm(other.chars().take(40).collect())),
        _ => Ok(()),
    }
}

fn hash(key: &str, written: &str) -> Result<Sha256, NotADigest> {
    Sha256::parse(written).ok_or_else(|| NotADigest::Hash(key.chars().take(1024).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample like the one in AWS's documentation.
    const SAMPLE: &str = r#"{
        "awsAccountId": "111122223333", "digestStartTime": "2015-08-17T14:01:31Z", "digestEndTime": "2015-08-17T15:01:31Z",
        "digestS3Bucket": "trail", "digestS3Object": "AWSLogs/111122223333/CloudTrail-Digest/us-east-2/2015/08/17/d2.json.gz",
        "digestPublicKeyFingerprint": "31e8b5433410dfb61a9dc45cc65b22ff", "digestSignatureAlgorithm": "SHA256withRSA",
        "newestEventTime": "2015-08-17T14:52:27Z", "oldestEventTime": "2015-08-17T14:42:27Z",
        "previousDigestS3Bucket": "trail", "previousDigestS3Object": "AWSLogs/111122223333/CloudTrail-Digest/us-east-2/2015/08/17/d1.json.gz",
        "previousDigestHashValue": "97fb791cf91ffc440d274f8190dbdd9aa09c34432aba82739df18b6d3c13df2d",
        "previousDigestHashAlgorithm": "SHA-256", "previousDigestSignature": "50887ccffad4c002",
        "logFiles": [{"s3Bucket": "trail", "s3Object": "AWSLogs/111122223333/CloudTrail/us-east-2/2015/08/17/l.json.gz",
          "hashValue": "9bb6196fc6b84d6f075a56548feca262bd99ba3c2de41b618e5b6e22c1fc71f6", "hashAlgorithm": "SHA-256",
          "newestEventTime": "2015-08-17T14:52:27Z", "oldestEventTime": "2015-08-17T14:42:27Z"}]}"#;

    #[test]
    fn a_digest_names_its_files_and_the_one_before_it() {
        let digest = Digest::read(SAMPLE.as_bytes()).unwrap();
        assert!(digest.is_of("trail", "AWSLogs/111122223333/CloudTrail-Digest/us-east-2/2015/08/17/d2.json.gz"));
        assert!(!digest.is_of("copy", &digest.key));
        let previous = digest.previous.as_ref().unwrap();
        assert!(previous.key.ends_with("d1.json.gz"));
        assert!(previous.sha256.to_string().starts_with("97fb791c"));
        assert_eq!(digest.files.len(), 1);
        assert!(digest.files[0].sha256.to_string().starts_with("9bb6196f"));
    }

    #[test]
    fn the_signed_text_has_four_lines() {
        let mut digest = Digest::read(SAMPLE.as_bytes()).unwrap();
        let content = Sha256::of(SAMPLE.as_bytes());
        let text = |previous: &str| {
            format!(
                "2015-08-17T15:01:31Z\ntrail/AWSLogs/111122223333/CloudTrail-Digest/us-east-2/2015/08/17/d2.json.gz\n{content}\n{previous}"
            )
        };
        assert_eq!(digest.signed_text(content), text("50887ccffad4c002"));
        digest.previous = None;
        assert_eq!(digest.signed_text(content), text("null"));
    }

    #[test]
    fn an_hour_without_log_files_and_the_first_digest_of_a_chain_are_read() {
        for files in ["[]", "null"] {
            let first = format!(
                r#"{{"digestEndTime":"2026-01-01T00:00:00Z","digestS3Bucket":"b","digestS3Object":"k","digestPublicKeyFingerprint":"f",
                    "previousDigestS3Bucket":null,"previousDigestS3Object":null,"previousDigestHashValue":null,
                    "previousDigestSignature":null,"logFiles":{files}}}"#
            );
            let digest = Digest::read(first.as_bytes()).unwrap();
            assert_eq!((digest.previous, digest.files.len()), (None, 0));
        }
    }

    #[test]
    fn what_is_no_digest_is_refused_and_not_quoted() {
        for (bad, why) in [
            ("", "not the JSON"),
            ("{\"Records\":[{\"secret\":\"s3cr3t\"}]}", "not the JSON"),
            (&SAMPLE.replace("SHA256withRSA", "MD5"), "MD5"),
            (&SAMPLE.replace("\"SHA-256\",\n", "\"SHA-1\",\n"), "SHA-1"),
            (&SAMPLE.replace("9bb6196f", "zzzz"), "hexadecimal"),
        ] {
            let error = Digest::read(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("s3cr3t"), "{error}");
        }
    }
}
