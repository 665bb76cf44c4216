//! Public keys of `CloudTrail`, and the check of signatures with them.
//!
//! Each region has its own keys, so a file may hold several.

use std::fmt;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::aws::digest::bytes_of_hex;

/// The line before a key in PEM, with and without the algorithm in the key.
const BEGINNINGS: [&str; 2] = ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"];
const END: &str = "-----END ";

/// The largest file with keys, in bytes.
const LARGEST: usize = 64 * 1024;

/// Keys, any of which may have signed a digest.
#[derive(Clone, Default)]
pub(crate) struct PublicKeys(Vec<ParsedPublicKey>);

/// A reason why a text holds no keys. It does not quote the text, because that may be a private key by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum NoKeys {
    /// Nothing in it looks like a key.
    #[error("holds no public key in PEM, and is not the base64 of one in DER")]
    Missing,
    /// Something in it looks like a key, but is not one.
    #[error("holds something other than an RSA public key of 2048 to 8192 bits")]
    Wrong,
    /// It is a private key.
    #[error("holds a private key; the public key alone belongs there")]
    Private,
}

impl PublicKeys {
    /// Reads the keys in the file at `path`.
    pub(in crate::source::cloudtrail) fn at(path: &str) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.len() <= LARGEST => {
                Self::read(&text).map_err(|error| format!("names a file that {error}"))
            }
            Ok(_) => Err("names a file that is too large for a key".to_owned()),
            Err(cause) => Err(format!("names a file that cannot be read: {cause}")),
        }
    }

    /// Reads one or several keys: in PEM, or as base64 of DER, one a line, as `aws cloudtrail list-public-keys` prints
    /// them.
    fn read(text: &str) -> Result<Self, NoKeys> {
        if text.contains("PRIVATE KEY") {
            return Err(NoKeys::Private);
        }
        let ders = if text.contains("-----BEGIN ") { of_pem(text) } else { of_lines(text) };
        let keys: Vec<_> = ders.ok_or(NoKeys::Wrong)?.iter().map(|der| of_der(der)).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(NoKeys::Missing) } else { Ok(Self(keys)) }
    }

    /// Reads keys in DER, and skips data that is not a key.
    pub(super) fn of_ders<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(ders.into_iter().filter_map(|der| of_der(der).ok()).collect())
    }

    /// Adds further keys.
    pub(super) fn add(&mut self, Self(keys): Self) {
        self.0.extend(keys);
    }

    /// Whether one of the keys signed `text`. The signature is in hexadecimal digits.
    pub(super) fn prove(&self, text: &str, signature: &str) -> bool {
        let Some(signature) = bytes_of_hex(signature) else { return false };
        self.0.iter().any(|key| key.verify_sig(text.as_bytes(), &signature).is_ok())
    }
}

fn of_der(der: &[u8]) -> Result<ParsedPublicKey, NoKeys> {
    ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).map_err(|_| NoKeys::Wrong)
}

fn of_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).ok()
}

/// The keys in PEM; none if one of them is not base64.
fn of_pem(text: &str) -> Option<Vec<Vec<u8>>> {
    let mut ders = Vec::new();
    for beginning in BEGINNINGS {
        for part in text.split(beginning).skip(1) {
            let (key, _) = part.split_once(END)?;
            ders.push(of_base64(key)?);
        }
    }
    Some(ders)
}

/// The keys in lines, or one key that is broken into lines.
fn of_lines(text: &str) -> Option<Vec<Vec<u8>>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let each: Option<Vec<_>> = lines.map(of_base64).collect();
    match each {
        Some(ders) if ders.iter().all(|der| of_der(der).is_ok()) => Some(ders),
        _ => of_base64(text).map(|der| vec![der]),
    }
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKeys({})", self.0.len())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Write as _;

    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};

    use super::*;

    /// Signs as `CloudTrail` does.
    pub(in crate::source::cloudtrail::digest) struct Signer(KeyPair);

    impl Signer {
        pub(in crate::source::cloudtrail::digest) fn new() -> Self {
            Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
        }

        pub(in crate::source::cloudtrail::digest) fn sign(&self, text: &str) -> String {
            let mut signature = vec![0; self.0.public_modulus_len()];
            self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
            signature.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        }

        /// The key in PKCS#1, as the API returns it.
        fn der(&self) -> Vec<u8> {
            self.0.public_key().as_ref().to_vec()
        }

        pub(in crate::source::cloudtrail::digest) fn keys(&self) -> PublicKeys {
            PublicKeys::of_ders([self.der().as_slice()])
        }
    }

    fn pem(name: &str, der: &[u8]) -> String {
        let base64 = BASE64_STANDARD.encode(der);
        let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines.join("\n"))
    }

    #[test]
    fn every_form_of_a_key_proves_what_it_signed() {
        let signer = Signer::new();
        let other = Signer::new();
        let (pkcs1, text) = (signer.der(), "a\nb");
        let spki: PublicKeyX509Der<'_> = signer.0.public_key().as_der().unwrap();
        let base64 = BASE64_STANDARD.encode(&pkcs1);
        let lines: Vec<_> = base64.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let broken = lines.join("\r\n");
        let of_other = BASE64_STANDARD.encode(other.der());
        for given in [
            pem("RSA PUBLIC KEY", &pkcs1),
            pem("PUBLIC KEY", spki.as_ref()),
            base64.clone(),
            broken,
            BASE64_STANDARD.encode(spki.as_ref()),
            format!("{of_other}\n{base64}\n"),
            pem("RSA PUBLIC KEY", &other.der()) + &pem("PUBLIC KEY", spki.as_ref()),
        ] {
            let keys = PublicKeys::read(&given).unwrap_or_else(|error| panic!("{error}: {given}"));
            assert!(keys.prove(text, &signer.sign(text)), "{given}");
            assert!(!keys.prove("a\nc", &signer.sign(text)));
            assert!(!keys.prove(text, &Signer::new().sign(text)));
            for bad in ["", "zz", "0", &signer.sign(text)[2..]] {
                assert!(!keys.prove(text, bad), "{bad}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() {
        let private = pem("RSA PRIVATE KEY", b"secret");
        for (given, why) in [
            ("", NoKeys::Missing),
            (" \n", NoKeys::Missing),
            ("hello!", NoKeys::Wrong),
            ("aGVsbG8=", NoKeys::Wrong),
            (&pem("CERTIFICATE", b"c"), NoKeys::Missing),
            (&pem("PUBLIC KEY", b"c"), NoKeys::Wrong),
            ("-----BEGIN PUBLIC KEY-----\nYWJj", NoKeys::Wrong),
            (&private, NoKeys::Private),
        ] {
            assert_eq!(PublicKeys::read(given).err(), Some(why), "{given}");
        }
    }
}
