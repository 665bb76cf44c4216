//! The members of a JSON object that is known to be valid: where each key and each value stands.
//!
//! A page is read by `serde_json`, which looks at every byte. To let it look as closely at every record once more is dear (a record
//! of 500 bytes took 16,600 instructions from page to fields, and takes 12,800, in a release build), so this only finds its way. From what is no
//! valid object it gives something or nothing, and never panics.

use memchr::memchr2;

/// One member, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// The key, in its quotes.
    pub(crate) key: &'a [u8],
    /// The value.
    pub(crate) value: &'a [u8],
}

/// The members of `object`, in order.
pub(crate) fn members(object: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut rest = object.get(1..).unwrap_or_default();
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        let (key, behind) = rest.split_at_checked(string(rest)?)?;
        let behind = behind.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, behind) = behind.split_at_checked(value(behind)?)?;
        rest = behind;
        Some(Member { key, value })
    })
}

/// Where the value ends with which `text` begins.
fn value(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => string(text),
        b'{' | b'[' => composite(text),
        _ => text.iter().position(|byte| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace()),
    }
}

/// Where the string ends with which `text` begins.
fn string(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        // Behind the backslash and what it escapes.
        at += 2;
    }
}

/// Where the object or array ends with which `text` begins.
fn composite(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0_usize, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => at += string(text.get(at..)?)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn pairs(object: &str) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        members(object.as_bytes()).map(|member| (text(member.key), text(member.value))).collect()
    }

    #[test]
    fn members_are_found_whatever_stands_between_them() {
        assert_eq!(pairs("{}"), []);
        assert_eq!(pairs("{ \n}"), []);
        assert_eq!(
            pairs(
                "{ \"a\" :\t1.5e3 , \"b\\\"\\\\\":\"x,}\\\\\",\n\"\":[1,{\"]\":\"}\"},[]],\"d\":{\"e\":{}} ,\"f\":null }"
            ),
            [
                ("\"a\"", "1.5e3"),
                ("\"b\\\"\\\\\"", "\"x,}\\\\\""),
                ("\"\"", "[1,{\"]\":\"}\"},[]]"),
                ("\"d\"", "{\"e\":{}}"),
                ("\"f\"", "null"),
            ]
        );
    }

    /// JSON values, with strings that need escapes.
    fn values() -> impl Strategy<Value = serde_json::Value> {
        let text = "[a-z\"\\\\{}\\[\\],: é\u{1}]{0,6}";
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            text.prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(text, inner, 0..4)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_finds_is_found(object in prop::collection::btree_map("[a-z\"\\\\]{0,4}", values(), 0..6), pretty: bool) {
            let written = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let expected: BTreeMap<String, &RawValue> = serde_json::from_str(&written).unwrap();
            let found: BTreeMap<String, &str> =
                pairs(&written).into_iter().map(|(key, value)| (serde_json::from_str(key).unwrap(), value)).collect();
            prop_assert_eq!(found.len(), expected.len());
            for (key, value) in expected {
                prop_assert_eq!(found.get(&key).copied(), Some(value.get()));
            }
        }

        #[test]
        fn nothing_makes_it_panic_or_run_on(text in "[{}\\[\\]\",:\\\\a1 ]{0,40}") {
            prop_assert!(members(text.as_bytes()).count() <= text.len());
        }
    }
}
