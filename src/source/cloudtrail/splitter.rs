//! Finds the records in a document `{"Records":[…]}` that comes in pieces.
//!
//! Keys may come in any order, with any space between tokens. `serde_json` checks every byte of each record once, so a
//! record marked as valid is valid JSON. One that is not valid, but has matching braces, is marked as invalid, and the
//! rest is read.

use std::ops::Range;

use serde_json::value::RawValue;

use super::error::Unreadable;
use crate::members::composite;

/// Finds records.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    expected: Expected,
    has_records: bool,
}

/// The token that must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expected {
    /// The document's brace.
    #[default]
    Opening,
    /// A member's key, or the end of an empty document.
    FirstKey,
    Key,
    /// The colon after a key, which may be the key of the records.
    Colon {
        of_records: bool,
    },
    Value {
        of_records: bool,
    },
    /// A record, or the end of an empty array.
    FirstRecord,
    Record,
    BehindRecord,
    BehindMember,
    /// Only space.
    Nothing,
}

/// A record in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: usize,
    end: usize,
    /// Whether it is a JSON object.
    pub(super) is_valid: bool,
}

impl Span {
    /// Its position.
    pub(super) fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A token at the beginning of a text.
enum Token {
    /// It is valid, and has this length.
    Whole(usize),
    /// Its end is missing.
    Cut,
    Invalid,
}

impl Splitter {
    /// Whether the document has ended.
    pub(super) fn is_done(&self) -> bool {
        self.expected == Expected::Nothing && self.has_records
    }

    /// Consumes a part of `text`, which follows the text consumed before. Returns its length, and the records in it.
    /// `is_last` means that no text follows. Returns records before an error first.
    pub(super) fn split(&mut self, text: &[u8], is_last: bool) -> Result<(usize, Vec<Span>), Unreadable> {
        let (mut at, mut spans) = (0, Vec::new());
        loop {
            let rest = text.get(at..).unwrap_or_default().trim_ascii_start();
            at = text.len() - rest.len();
            match self.next(rest, is_last) {
                Ok(None) => break,
                Ok(Some(Step { length, next, is_valid })) => {
                    spans.extend(is_valid.map(|is_valid| Span { start: at, end: at + length, is_valid }));
                    at += length;
                    self.has_records |= next == Expected::FirstRecord;
                    self.expected = next;
                }
                Err(_) if !spans.is_empty() => break,
                Err(why) => return Err(Unreadable::NotRecords(why)),
            }
        }
        match self.expected {
            Expected::Nothing if !self.has_records => Err(Unreadable::NotRecords("there is none")),
            Expected::Nothing => Ok((at, spans)),
            _ if is_last && spans.is_empty() => Err(Unreadable::Truncated { bytes: at as u64 }),
            _ => Ok((at, spans)),
        }
    }

    /// Reads the token at the start of `rest`, which has no leading space; none if it needs more text.
    fn next(&self, rest: &[u8], is_last: bool) -> Result<Option<Step>, &'static str> {
        let Some(first) = rest.first() else { return Ok(None) };
        let step = |length, next| Ok(Some(Step { length, next, is_valid: None }));
        match (self.expected, first) {
            (Expected::Opening, b'{') => step(1, Expected::FirstKey),
            (Expected::FirstKey | Expected::BehindMember, b'}') => step(1, Expected::Nothing),
            (Expected::FirstKey | Expected::Key, b'"') => match token(rest, is_last) {
                Token::Whole(length) => {
                    let of_records = rest.get(..length) == Some(b"\"Records\"");
                    step(length, Expected::Colon { of_records })
                }
                Token::Cut => Ok(None),
                Token::Invalid => Err("a key is not JSON"),
            },
            (Expected::Colon { of_records }, b':') => step(1, Expected::Value { of_records }),
            (Expected::Value { of_records: true }, b'[') => step(1, Expected::FirstRecord),
            (Expected::Value { of_records: true }, _) => Err("`Records` is not an array"),
            (Expected::Value { of_records: false }, _) => match token(rest, is_last) {
                Token::Whole(length) => step(length, Expected::BehindMember),
                Token::Cut => Ok(None),
                Token::Invalid => Err("a value is not JSON"),
            },
            (Expected::FirstRecord | Expected::BehindRecord, b']') => step(1, Expected::BehindMember),
            (Expected::FirstRecord | Expected::Record, _) => {
                let (length, is_valid) = match token(rest, is_last) {
                    Token::Whole(length) => (length, *first == b'{'),
                    Token::Cut => return Ok(None),
                    Token::Invalid => match composite(rest).filter(|_| *first == b'{') {
                        Some(length) => (length, false),
                        None => return Err("a record is not JSON"),
                    },
                };
                Ok(Some(Step { length, next: Expected::BehindRecord, is_valid: Some(is_valid) }))
            }
            (Expected::BehindRecord, b',') => step(1, Expected::Record),
            (Expected::BehindMember, b',') => step(1, Expected::Key),
            (Expected::Nothing, _) => Err("text follows the document"),
            (Expected::Opening, _) => Err("it does not begin with a brace"),
            _ => Err("it is not JSON"),
        }
    }
}

/// A part of the document.
struct Step {
    length: usize,
    /// The token that must follow it.
    next: Expected,
    /// For a record: whether it is a JSON object.
    is_valid: Option<bool>,
}

/// Reads the JSON value at the start of `text`.
fn token(text: &[u8], is_last: bool) -> Token {
    let (is_composite, is_text) = (matches!(text.first(), Some(b'{' | b'[')), text.first() == Some(&b'"'));
    let ends_scalar = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
    // A number's digits may continue in the next piece.
    if !is_last && !is_composite && !is_text && !text.iter().any(ends_scalar) {
        return Token::Cut;
    }
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    match values.next() {
        Some(Ok(value)) => Token::Whole(value.get().len()),
        Some(Err(error)) if error.is_eof() => Token::Cut,
        // serde_json reports a number that is cut in the middle as invalid, too.
        Some(Err(_)) if is_composite && composite(text).is_none() => Token::Cut,
        Some(Err(_)) => Token::Invalid,
        None => Token::Cut,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The records of a document that comes in pieces of this many bytes, and whether each is valid.
    fn split(document: &str, piece: usize) -> Result<Vec<(String, bool)>, Unreadable> {
        let (mut splitter, mut waiting, mut found) = (Splitter::default(), Vec::new(), Vec::new());
        let mut pieces = document.as_bytes().chunks(piece).peekable();
        loop {
            waiting.extend_from_slice(pieces.next().unwrap_or_default());
            let is_last = pieces.peek().is_none();
            let (consumed, spans) = splitter.split(&waiting, is_last)?;
            for span in spans {
                found.push((String::from_utf8_lossy(&waiting[span.range()]).into_owned(), span.is_valid));
            }
            waiting.drain(..consumed);
            if is_last && waiting.is_empty() && splitter.is_done() {
                return Ok(found);
            }
        }
    }

    #[test]
    fn records_are_found_whatever_stands_around_them() {
        let document = " {\n \"x\" : [1, {\"Records\":[0]}], \"n\":12.5e3 , \"Records\"\t: [ {\"a\":\"]}\\\"\"} ,\n{} ] , \"y\":null } \n";
        for piece in [1, 2, 3, 7, 1000] {
            let found = split(document, piece).unwrap();
            assert_eq!(found, [("{\"a\":\"]}\\\"\"}".to_owned(), true), ("{}".to_owned(), true)], "{piece}");
        }
        assert_eq!(split("{\"Records\":[]}", 1).unwrap(), []);
    }

    #[test]
    fn an_invalid_record_is_given_as_such_and_the_others_are_read() {
        let found = split("{\"Records\":[{\"a\":1},{\"a\":1,},{\"a\":tru},{\"a\":2}]}", 5).unwrap();
        assert_eq!(found.iter().map(|(_, is_valid)| *is_valid).collect::<Vec<_>>(), [true, false, false, true]);
        let found = split("{\"Records\":[null,[1],7,{\"a\":1}]}", 3).unwrap();
        assert_eq!(found.iter().map(|(_, is_valid)| *is_valid).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn what_is_no_such_document_is_an_error_that_says_why() {
        for (document, why) in [
            ("{}", "there is none"),
            ("{\"a\":1}", "there is none"),
            ("{\"Records\":{}}", "`Records` is not an array"),
            ("{\"Records\":null}", "`Records` is not an array"),
            ("[]", "it does not begin with a brace"),
            ("<html>", "it does not begin with a brace"),
            ("{\"Records\":[]} {}", "text follows the document"),
            ("{\"Records\":[{} {}]}", "it is not JSON"),
            ("{\"Records\":[{},]}", "a record is not JSON"),
            ("{\"Records\":[x]}", "a record is not JSON"),
            ("{\"Records\" []}", "it is not JSON"),
        ] {
            for piece in [1, 1000] {
                assert_eq!(split(document, piece), Err(Unreadable::NotRecords(why)), "{document}");
            }
        }
        for document in ["", "{", "{\"Records\":[{\"a\":1}", "{\"Records\":[{\"a\":1},{\"b\"", "{\"Records\":[]"] {
            assert!(matches!(split(document, 4), Err(Unreadable::Truncated { .. })), "{document}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_or_run_on(text in "[{}\\[\\]\",:\\\\Records1 ]{0,60}", piece in 1_usize..20) {
            let _ = split(&format!("{{\"Records\":[{text}"), piece);
            let _ = split(&text, piece);
        }
    }
}
