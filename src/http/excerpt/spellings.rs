//! The encodings in which a server may echo a secret.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use url::form_urlencoded;

/// A run of this many letters and digits reveals a part of a secret.
const TELLING_RUN: usize = 6;

/// Characters that percent-encodings leave as they are: none, and those of forms, of RFC 3986, and of `encodeURIComponent`.
const LEFT_BY_PERCENT: [&str; 4] = ["", "*-._", "-._~", "-._~!'()*"];

/// Every spelling of `plain`, in no particular order; some may be equal.
pub(super) fn of(plain: &str) -> Vec<String> {
    if plain.is_empty() {
        return Vec::new();
    }
    let form: String = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
    let mut spellings = vec![plain.to_owned(), with_lower_hex(&form)];
    spellings.extend(percent(plain));
    spellings.extend(json(plain));
    spellings.extend(hex(plain));
    // OAuth form-encodes client credentials before they go into `Basic` (RFC 6749, section 2.3.1).
    for source in [plain, &form] {
        for encoded in base64(source.as_bytes()) {
            spellings.extend(percent(&encoded));
            spellings.extend(json(&encoded));
            spellings.push(encoded);
        }
    }
    spellings.push(form);
    // A server may encode other characters in any way, but it leaves long runs of letters and digits as they are.
    let runs = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|run| run.len() >= TELLING_RUN);
    spellings.extend(runs.map(str::to_owned));
    spellings
}

fn percent(plain: &str) -> Vec<String> {
    let mut spellings = Vec::new();
    for left in LEFT_BY_PERCENT {
        let mut encoded = String::new();
        for &byte in plain.as_bytes() {
            if byte.is_ascii_alphanumeric() || left.as_bytes().contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        spellings.extend([with_lower_hex(&encoded), encoded]);
    }
    spellings
}

/// Rewrites `encoded` with lower-case digits after each percent sign.
fn with_lower_hex(encoded: &str) -> String {
    let mut digits = 0;
    let lower = |c: char| {
        let is_digit = digits > 0;
        digits = if c == '%' { 2 } else { usize::saturating_sub(digits, 1) };
        if is_digit { c.to_ascii_lowercase() } else { c }
    };
    encoded.chars().map(lower).collect()
}

/// Spells `plain` as in a JSON string, with the slash escaped and not.
fn json(plain: &str) -> [String; 2] {
    let quoted = serde_json::Value::from(plain).to_string();
    let json = quoted[1..quoted.len() - 1].to_owned();
    [json.replace('/', "\\/"), json]
}

fn hex(plain: &str) -> Vec<String> {
    let mut lower = String::new();
    for byte in plain.bytes() {
        let _ = write!(lower, "{byte:02x}");
    }
    let long_enough = |hex: &String| hex.len() >= TELLING_RUN;
    [lower.to_ascii_uppercase(), lower].into_iter().filter(long_enough).collect()
}

/// Encodes `bytes` alone, and as the part of a longer text that depends only on them. They begin there at one of three alignments, and
/// the characters at both ends also hold bits of the neighbours.
fn base64(bytes: &[u8]) -> Vec<String> {
    let mut spellings = vec![STANDARD.encode(bytes), URL_SAFE.encode(bytes)];
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        spellings.push(engine.encode(bytes));
        for before in 0..3_usize {
            let encoded = engine.encode([&vec![0; before], bytes].concat());
            let (first, end) = ((before * 8).div_ceil(6), (before + bytes.len()) * 8 / 6);
            spellings.extend(encoded.get(first..end).map(str::to_owned));
        }
    }
    spellings.retain(|spelling| spelling.len() >= TELLING_RUN);
    spellings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::SecretString;

    use super::super::{Excerpt, Redaction};
    use super::*;

    /// How many characters in a row reveal a part of a secret.
    const TELLING: usize = 8;

    fn assert_hidden(secret: &str, before: &str, encoded: &str, after: &str) {
        let body = format!("{before}{encoded}{after}");
        let shown = Excerpt::of(body.as_bytes(), &Redaction::of([&SecretString::from(secret)])).to_string();
        let characters: Vec<char> = encoded.chars().collect();
        for part in characters.windows(TELLING.min(characters.len())) {
            let part: String = part.iter().flat_map(|c| c.escape_debug()).collect();
            assert!(!shown.contains(&part), "{part:?} of {secret:?} is in {shown}");
        }
    }

    proptest! {
        // The surroundings have no character of an encoding, so a match must come from the secret.
        #[test]
        fn no_common_encoding_of_a_secret_is_shown(
            secret in "[ -~]{8,40}", before in "[<>{}\u{e9} ]{0,40}", after in "[<>{}\u{e9} ]{0,40}",
        ) {
            let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let mut encodings = vec![secret.clone(), with_lower_hex(&form), form];
            encodings.extend(percent(&secret));
            encodings.extend(json(&secret));
            encodings.extend(hex(&secret));
            for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                encodings.push(engine.encode(&secret));
            }
            for encoded in encodings {
                assert_hidden(&secret, &before, &encoded, &after);
            }
        }

        #[test]
        fn a_secret_inside_a_longer_base64_text_is_not_shown(
            secret in "[ -~]{8,40}", before in "[ -~]{0,20}", after in "[ -~]{0,20}",
        ) {
            for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                let whole = engine.encode(format!("{before}{secret}{after}"));
                let (first, end) = ((before.len() * 8).div_ceil(6), (before.len() + secret.len()) * 8 / 6);
                let shown = Excerpt::of(whole.as_bytes(), &Redaction::of([&SecretString::from(secret.as_str())])).to_string();
                for part in whole.as_bytes()[first..end].windows(TELLING) {
                    let part = String::from_utf8_lossy(part);
                    prop_assert!(!shown.contains(&*part), "{} of {} is in {}", part, secret, shown);
                }
            }
        }
    }

    #[test]
    fn the_credentials_of_a_basic_header_are_hidden() {
        let redaction = Redaction::of([&SecretString::from("hunter4711/secret")]);
        for id in ["a", "ab", "abc", "client"] {
            for secret in ["hunter4711/secret", "hunter4711%2Fsecret"] {
                let body = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
                let shown = Excerpt::of(body.as_bytes(), &redaction).to_string();
                assert!(shown.contains("[hidden]") && shown.len() < 30, "{shown}");
            }
        }
    }
}
