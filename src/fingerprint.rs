//! Fingerprints, which tell records apart: 64 bits of the SHA-256 of a record's whole content.
//!
//! The hash is of the canonical content, with sorted keys and without insignificant space. So a server may write the same record in
//! another order. Numbers and strings count as written. Two spellings of one value give two fingerprints, which can duplicate a record
//! but never lose one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// A value below this depth counts byte for byte, which bounds the recursion.
const DEEPEST: usize = 32;

/// A record larger than this many bytes counts byte for byte, which bounds memory: parsing a record takes many times its size.
const LARGEST: usize = 1024 * 1024;

/// The characters of a fingerprint in the state document: eight bytes in base64.
const WRITTEN: usize = 11;

/// A record's fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a JSON record.
    pub fn of_record(raw: &[u8]) -> Self {
        let mut hash = Sha256::new();
        feed(raw, &mut hash, if raw.len() > LARGEST { DEEPEST } else { 0 });
        Self::finish(hash)
    }

    /// The fingerprint of several byte strings in order.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            feed_text(part, &mut hash);
        }
        Self::finish(hash)
    }

    /// The bits, to sum up many fingerprints.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn finish(hash: Sha256) -> Self {
        let digest: [u8; 32] = hash.finalize().into();
        Self(digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn feed_text(text: &[u8], hash: &mut Sha256) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

fn feed(raw: &[u8], hash: &mut Sha256, depth: usize) {
    let composite = match raw.first() {
        Some(b'{') if depth < DEEPEST => members(raw).map(|mut members| {
            members.sort_by(|a, b| a.0.cmp(&b.0));
            hash.update(b"{");
            for (key, value) in members {
                feed_text(key.as_bytes(), hash);
                feed(value.get().as_bytes(), hash, depth + 1);
            }
            hash.update(b"}");
        }),
        Some(b'[') if depth < DEEPEST => serde_json::from_slice::<Vec<&RawValue>>(raw).ok().map(|elements| {
            hash.update(b"[");
            for element in elements {
                feed(element.get().as_bytes(), hash, depth + 1);
            }
            hash.update(b"]");
        }),
        _ => None,
    };
    if composite.is_none() {
        hash.update(b"=");
        feed_text(raw, hash);
    }
}

/// The members of an object as written, including duplicates; none if a key is not valid text (a lone surrogate).
fn members(raw: &[u8]) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_slice(raw).deserialize_map(Members).ok()
}

/// Fingerprints in order, including equal ones. The state document has them in one string, 11 characters each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprints(Vec<Fingerprint>);

impl Fingerprints {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a fingerprint at the end.
    pub fn push(&mut self, fingerprint: Fingerprint) {
        self.0.push(fingerprint);
    }

    /// The fingerprints in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Fingerprint> {
        self.0.iter().copied()
    }

    /// Forgets all but the `most` newest.
    pub fn keep_newest(&mut self, most: usize) {
        self.0.drain(..self.0.len().saturating_sub(most));
    }

    /// How many different fingerprints there are. The call leaves them in another order.
    pub fn distinct(&mut self) -> usize {
        self.0.sort_unstable();
        self.0.dedup();
        self.0.len()
    }
}

impl FromIterator<Fingerprint> for Fingerprints {
    fn from_iter<I: IntoIterator<Item = Fingerprint>>(fingerprints: I) -> Self {
        Self(fingerprints.into_iter().collect())
    }
}

/// Fingerprints of records that should come again, each as often as it was delivered.
///
/// It counts them, because two records may be equal: only as many are dropped as were delivered.
#[derive(Debug, Default)]
pub struct Expected {
    counts: HashMap<Fingerprint, usize>,
    left: usize,
}

impl FromIterator<Fingerprint> for Expected {
    fn from_iter<I: IntoIterator<Item = Fingerprint>>(delivered: I) -> Self {
        let delivered = delivered.into_iter();
        let mut expected = Self { counts: HashMap::with_capacity(delivered.size_hint().0), left: 0 };
        for fingerprint in delivered {
            *expected.counts.entry(fingerprint).or_default() += 1;
            expected.left += 1;
        }
        expected
    }
}

impl Expected {
    /// How many have not come again.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether every one has come again.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Notes that `fingerprint` came. True if it was still expected.
    pub fn meet(&mut self, fingerprint: Fingerprint) -> bool {
        match self.counts.get_mut(&fingerprint) {
            Some(count) if *count > 0 => {
                *count -= 1;
                self.left -= 1;
                true
            }
            _ => false,
        }
    }
}

impl From<Fingerprints> for String {
    fn from(fingerprints: Fingerprints) -> Self {
        let mut text = Self::with_capacity(fingerprints.len() * WRITTEN);
        for Fingerprint(bits) in fingerprints.0 {
            URL_SAFE_NO_PAD.encode_string(bits.to_be_bytes(), &mut text);
        }
        text
    }
}

impl TryFrom<String> for Fingerprints {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let decode = |chunk: &[u8]| {
            let bytes = URL_SAFE_NO_PAD.decode(chunk).ok()?;
            Some(Fingerprint(u64::from_be_bytes(bytes.try_into().ok()?)))
        };
        let fingerprints: Option<_> = text.as_bytes().chunks(WRITTEN).map(decode).collect();
        fingerprints.map(Self).ok_or("fingerprints are eleven base64 characters each")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(raw: &str) -> Fingerprint {
        Fingerprint::of_record(raw.as_bytes())
    }

    #[test]
    fn order_and_space_do_not_matter() {
        assert_eq!(of(r#"{"a":1,"b":{"c":[1,2],"d":""}}"#), of("{ \"b\" : {\"d\":\"\",\n\"c\":[1, 2]} , \"a\":1}"));
    }

    #[test]
    fn any_other_content_is_another_record() {
        let records = [
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":1.0}"#,
            r#"{"a":[1]}"#,
            r#"{"a":[]}"#,
            r#"{"a":{}}"#,
            r#"{"a":null}"#,
            r#"{"a":12345678901234567890123}"#,
            r#"{"a":12345678901234567890124}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"ab":"c"}"#,
            r#"{"a":"bc"}"#,
            r"[1,2]",
            r"[12]",
            r"[[1],2]",
            r#"{"\ud800":1}"#,
        ];
        let distinct: std::collections::HashSet<_> = records.iter().map(|raw| of(raw)).collect();
        assert_eq!(distinct.len(), records.len());
    }

    #[test]
    fn a_value_nested_without_end_is_taken_as_it_is() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_ne!(of(&deep), of("[]"));
    }

    #[test]
    fn equal_records_are_left_out_as_often_as_they_were_delivered() {
        let mut expected: Expected = [of("1"), of("1"), of("2")].into_iter().collect();
        assert!(expected.meet(of("1")));
        assert!(expected.meet(of("1")));
        assert!(!expected.meet(of("1")));
        assert!(!expected.meet(of("3")));
        assert_eq!(expected.len(), 1);
    }

    proptest! {
        #[test]
        fn fingerprints_survive_the_document(bits in prop::collection::vec(any::<u64>(), 0..40)) {
            let fingerprints: Fingerprints = bits.into_iter().map(Fingerprint).collect();
            let text = serde_json::to_string(&fingerprints).unwrap();
            prop_assert_eq!(text.len(), 2 + WRITTEN * fingerprints.len());
            prop_assert_eq!(serde_json::from_str::<Fingerprints>(&text).unwrap(), fingerprints);
        }
    }
}
