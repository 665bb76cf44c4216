//! Decides whether a digest is `CloudTrail`'s own, and whether it continues the chain.
//!
//! Each digest names the one before it, with its hash and its signature. So a deleted or changed digest is noticed as
//! soon as the next one is read.

use super::file::{Digest, NotADigest};
use super::keys::PublicKeys;
use crate::aws::digest::Sha256;

/// A digest file as it was read from the bucket.
#[derive(Debug, Clone)]
pub(in crate::source::cloudtrail) struct Stored {
    /// Where it was read.
    pub(in crate::source::cloudtrail) bucket: String,
    /// Where it was read.
    pub(in crate::source::cloudtrail) key: String,
    /// The SHA-256 of its content, uncompressed.
    pub(in crate::source::cloudtrail) sha256: Sha256,
    /// The metadata `signature` of the object.
    pub(in crate::source::cloudtrail) signature: Option<String>,
}

/// A reason why a digest proves nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::source::cloudtrail) enum Untrusted {
    /// It cannot be read.
    #[error(transparent)]
    NotADigest(#[from] NotADigest),
    /// It was copied, or written by someone else.
    #[error("it says that it was written to {0:?}: it has been moved")]
    Moved(String),
    /// It has no signature.
    #[error(
        "the object has no metadata \"signature\": it was not written by CloudTrail, or was copied without its metadata"
    )]
    Unsigned,
    /// No key proves its signature.
    #[error(
        "no public key of CloudTrail proves its signature (the key's fingerprint is {0:?}): it was changed, or the key is missing"
    )]
    WrongSignature(String),
}

/// The link of a digest with the one before it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::source::cloudtrail) enum Link {
    /// The digest before it is the one that it names.
    Whole,
    /// This digest is the first of a chain: log file validation was off before, or has just been turned on.
    Start,
    /// This digest is the first of a chain, and the trail has written others before: log file validation was turned off and on again.
    Restart,
    /// The digest before it cannot be read, for this reason.
    Unread(String),
    /// The digest before it is gone.
    Missing,
    /// The digest before it has other content or another signature.
    Changed,
}

/// Reads the `content` of a digest file and proves its signature.
pub(in crate::source::cloudtrail) fn proven(
    stored: &Stored,
    content: &[u8],
    keys: &PublicKeys,
) -> Result<Digest, Untrusted> {
    let digest = Digest::read(content)?;
    if !digest.is_of(&stored.bucket, &stored.key) {
        let place = format!("{}/{}", digest.bucket, digest.key);
        return Err(Untrusted::Moved(place.chars().take(1024).collect()));
    }
    let signature = stored.signature.as_deref().ok_or(Untrusted::Unsigned)?;
    if !keys.prove(&digest.signed_text(stored.sha256), signature) {
        return Err(Untrusted::WrongSignature(digest.fingerprint.chars().take(80).collect()));
    }
    Ok(digest)
}

/// Compares `digest` with the one before it, which was found as `previous`.
pub(in crate::source::cloudtrail) fn link(digest: &Digest, previous: Option<&Stored>) -> Link {
    match (&digest.previous, previous) {
        (None, _) => Link::Start,
        (Some(_), None) => Link::Missing,
        (Some(named), Some(found)) => {
            let is_same = named.sha256 == found.sha256 && found.signature.as_ref() == Some(&named.signature);
            if is_same { Link::Whole } else { Link::Changed }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::keys::tests::Signer;
    use super::*;

    const FILE: &str = "9bb6196fc6b84d6f075a56548feca262bd99ba3c2de41b618e5b6e22c1fc71f6";

    fn content(key: &str, previous: Option<&Stored>) -> Vec<u8> {
        let of = |value: fn(&Stored) -> Value| previous.map_or(Value::Null, value);
        let digest = json!({
            "digestEndTime": "2026-11-29T04:00:00Z", "digestS3Bucket": "trail", "digestS3Object": key,
            "digestPublicKeyFingerprint": "31e8", "digestSignatureAlgorithm": "SHA256withRSA",
            "previousDigestS3Bucket": of(|previous| json!(previous.bucket)),
            "previousDigestS3Object": of(|previous| json!(previous.key)),
            "previousDigestHashValue": of(|previous| json!(previous.sha256.to_string())),
            "previousDigestSignature": of(|previous| json!(previous.signature)),
            "logFiles": [{"s3Bucket": "trail", "s3Object": "log", "hashValue": FILE, "hashAlgorithm": "SHA-256"}],
        });
        digest.to_string().into_bytes()
    }

    fn stored(key: &str, content: &[u8], signer: &Signer) -> Stored {
        let sha256 = Sha256::of(content);
        let signature = signer.sign(&Digest::read(content).unwrap().signed_text(sha256));
        Stored { bucket: "trail".to_owned(), key: key.to_owned(), sha256, signature: Some(signature) }
    }

    #[test]
    fn a_chain_that_cloudtrail_signed_is_whole() {
        let signer = Signer::new();
        let first_content = content("first", None);
        let first = stored("first", &first_content, &signer);
        let digest = proven(&first, &first_content, &signer.keys()).unwrap();
        assert_eq!(link(&digest, None), Link::Start);
        let second_content = content("second", Some(&first));
        let second = stored("second", &second_content, &signer);
        let digest = proven(&second, &second_content, &signer.keys()).unwrap();
        assert_eq!((link(&digest, Some(&first)), digest.files.len()), (Link::Whole, 1));
    }

    #[test]
    fn a_digest_that_is_gone_or_changed_breaks_the_chain() {
        let signer = Signer::new();
        let first = stored("first", &content("first", None), &signer);
        let second_content = content("second", Some(&first));
        let digest = Digest::read(&second_content).unwrap();
        assert_eq!(link(&digest, None), Link::Missing);
        let changed = Stored { sha256: Sha256::of(b"changed"), ..first.clone() };
        assert_eq!(link(&digest, Some(&changed)), Link::Changed);
        for signature in [None, Some("00".to_owned())] {
            let changed = Stored { signature, ..first.clone() };
            assert_eq!(link(&digest, Some(&changed)), Link::Changed);
        }
    }

    #[test]
    fn a_digest_of_someone_else_proves_nothing() {
        let signer = Signer::new();
        let bytes = content("first", None);
        let first = stored("first", &bytes, &signer);
        let keys = signer.keys();
        let untrusted =
            |stored: &Stored, content: &[u8], keys: &PublicKeys| proven(stored, content, keys).map(drop).unwrap_err();
        assert!(matches!(untrusted(&first, &bytes, &Signer::new().keys()), Untrusted::WrongSignature(_)));
        assert!(matches!(untrusted(&first, &bytes, &PublicKeys::default()), Untrusted::WrongSignature(_)));
        let changed = String::from_utf8(bytes.clone()).unwrap().replace("log", "lag").into_bytes();
        let of_changed = Stored { sha256: Sha256::of(&changed), ..first.clone() };
        assert!(matches!(untrusted(&of_changed, &changed, &keys), Untrusted::WrongSignature(_)));
        let unsigned = Stored { signature: None, ..first.clone() };
        assert!(matches!(untrusted(&unsigned, &bytes, &keys), Untrusted::Unsigned));
        let moved = Stored { key: "copy".to_owned(), ..first.clone() };
        assert!(matches!(untrusted(&moved, &bytes, &keys), Untrusted::Moved(place) if place == "trail/first"));
        assert!(matches!(untrusted(&first, b"{}", &keys), Untrusted::NotADigest(_)));
    }
}
