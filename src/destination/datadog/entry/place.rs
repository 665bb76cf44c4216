//! The place of a record in its entry: under its product's name, or with its members beside our own.

use crate::members::{Member, members};
use crate::source::Product;

/// The place of the record in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// The key of the record: the product's name.
    pub(super) name: &'static str,
    /// Whether its members stand beside our own, where Datadog's own pipeline for the product looks for them.
    pub(super) is_flat: bool,
}

impl From<&'static str> for RecordPlace {
    /// Puts the record under this key.
    fn from(name: &'static str) -> Self {
        Self { name, is_flat: false }
    }
}

impl RecordPlace {
    /// The place of records of `product`.
    pub fn of(product: &Product) -> Self {
        Self { name: product.name, is_flat: product.is_flat }
    }
}

/// Top-level keys of an entry that are ours, or that Datadog interprets. A record with one of them stands under its
/// product's name.
const RESERVED: [&[u8]; 16] = [
    b"\"ddsource\"",
    b"\"service\"",
    b"\"hostname\"",
    b"\"host\"",
    b"\"source\"",
    b"\"ddtags\"",
    b"\"status\"",
    b"\"timestamp\"",
    b"\"date\"",
    b"\"message\"",
    b"\"trace_id\"",
    b"\"span_id\"",
    b"\"evt\"",
    b"\"usr\"",
    b"\"network\"",
    b"\"auditsync\"",
];

/// The text between a record's braces, if its members can stand at the top level of an entry.
pub(super) fn flat(raw: &[u8]) -> Option<&[u8]> {
    let inside = raw.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?;
    let is_reserved = |member: Member<'_>| RESERVED.contains(&member.key) || member.key.contains(&b'\\');
    (!inside.trim_ascii().is_empty() && !members(raw).any(is_reserved)).then_some(inside)
}
