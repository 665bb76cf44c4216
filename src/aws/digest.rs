//! SHA-256 in the spellings of S3's headers, the manifests of an archive and `CloudTrail`'s digest files.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A SHA-256, written in hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Sha256([u8; 32]);

/// Computes the SHA-256 of data that arrives in pieces.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Sha256 {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Parses 64 hexadecimal digits, in lower or upper case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self(bytes_of_hex(text)?.try_into().ok()?))
    }

    /// The first half of the hash, which is enough to tell whether a file is the delivered one.
    pub(crate) fn half(self) -> [u8; 16] {
        let (half, _) = self.0.split_at(16);
        half.try_into().unwrap_or_default()
    }

    /// The spelling of S3's headers.
    pub(crate) fn base64(self) -> String {
        BASE64_STANDARD.encode(self.0)
    }
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of everything so far.
    pub(crate) fn digest(&self) -> Sha256 {
        Sha256(self.0.clone().finalize().into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "a SHA-256 is 64 hexadecimal digits in lower case";
        // Only one spelling is valid, so that any change of a character is noticed.
        let has_capitals = text.bytes().any(|byte| byte.is_ascii_uppercase());
        Self::parse(&text).filter(|_| !has_capitals).ok_or(RULE)
    }
}

/// Parses hexadecimal digits, two for each byte.
pub(crate) fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_in_hexadecimal_digits_and_read_back() {
        let digest = Sha256::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Sha256::try_from(text.to_owned()), Ok(digest));
        assert_eq!(Sha256::parse(&text.to_uppercase()), Some(digest));
        for bad in [&text[1..], &text.to_uppercase(), &format!("+{}", &text[1..]), ""] {
            assert!(Sha256::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.digest(), digest);
        for bad in [&text[1..], &text[2..], "", &text.replace('b', "g"), &text.replace('b', "é")] {
            assert_eq!(Sha256::parse(bad), None, "{bad}");
        }
    }
}
