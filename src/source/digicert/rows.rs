//! Reads a JSON array of rows as a stream. Memory holds one row at a time, whatever the input.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;

use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The largest row, with the blanks before it, in bytes.
pub(super) const LARGEST_ROW: u64 = 1024 * 1024;

/// The mark with which a file in UTF-8 may begin.
pub(super) const BOM: &[u8] = "\u{feff}".as_bytes();

/// The kind of the error that a row is larger.
const TOO_LARGE: io::ErrorKind = io::ErrorKind::FileTooLarge;

/// The most rows of a file: twice as many as the API puts into one.
pub(super) const MOST_ROWS: u64 = 2_000_000;

/// Calls `take` with each row of `input`, byte for byte, until `take` breaks. The error says what is wrong with the
/// input.
pub(super) fn each_row(
    mut input: impl BufRead,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, serde_json::Error> {
    if input.fill_buf().map_err(serde_json::Error::io)?.starts_with(BOM) {
        input.consume(BOM.len());
    }
    let left = Cell::new(LARGEST_ROW);
    let mut json = serde_json::Deserializer::from_reader(Metered { input, left: &left });
    let mut broken_off = false;
    let rows = Rows { left: &left, take, broken_off: &mut broken_off };
    match json.deserialize_seq(rows) {
        Err(_) if broken_off => return Ok(ControlFlow::Break(())),
        read => read?,
    }
    json.end()?;
    Ok(ControlFlow::Continue(()))
}

/// Whether an error of [`each_row`] is about one row: its text is not JSON, or it is too large.
pub(super) fn is_about_a_row(error: &serde_json::Error) -> bool {
    error.is_syntax() || error.io_error_kind() == Some(TOO_LARGE)
}

/// A reader that fails after this many bytes without the end of a row.
struct Metered<'c, R> {
    input: R,
    left: &'c Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            let message = format!("a row, or the text between two rows, has more than {LARGEST_ROW} bytes");
            return Err(io::Error::new(TOO_LARGE, message));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.input.read(&mut buffer[..most])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

struct Rows<'a> {
    left: &'a Cell<u64>,
    take: &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    broken_off: &'a mut bool,
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let mut rows = 0_u64;
        while let Some(row) = array.next_element::<Box<RawValue>>()? {
            rows += 1;
            if rows > MOST_ROWS {
                return Err(A::Error::custom(format_args!("more than {MOST_ROWS} rows")));
            }
            self.left.set(LARGEST_ROW);
            if (self.take)(row.get().as_bytes()).is_break() {
                *self.broken_off = true;
                return Err(A::Error::custom("broken off"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Result<Vec<String>, String> {
        let mut rows = Vec::new();
        let mut take = |row: &[u8]| {
            rows.push(String::from_utf8(row.to_vec()).unwrap());
            ControlFlow::Continue(())
        };
        let _ = each_row(text, &mut take).map_err(|error| error.to_string())?;
        Ok(rows)
    }

    #[test]
    fn rows_are_given_byte_for_byte() {
        let text = "\u{feff} [ {\"a\" : 1.50,\n \"é\":\"\\u00e9\\ud800\"} , 17,null]\n";
        assert_eq!(rows(text.as_bytes()).unwrap(), ["{\"a\" : 1.50,\n \"é\":\"\\u00e9\\ud800\"}", "17", "null"]);
        assert_eq!(rows(b"[]").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_array_of_rows_is_an_error() {
        for text in ["", "{}", "null", "[{}", "[{}]x", "<html>", "[{\"a\":\"\n\"}]", "[{},]"] {
            assert!(rows(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(rows(b"[\"\xff\"]").is_err());
    }

    #[test]
    fn a_row_or_a_gap_without_end_is_an_error_before_it_is_in_memory() {
        let endless = |start: &'static str, filler: u8| io::BufReader::new(start.as_bytes().chain(io::repeat(filler)));
        for (start, filler) in [("[\"", b'x'), ("[", b' '), ("[{},{\"a\":1,", b'\n')] {
            let error = each_row(endless(start, filler), &mut |_| ControlFlow::Continue(())).unwrap_err();
            assert!(error.to_string().contains("1048576 bytes"), "{error}");
        }
    }

    #[test]
    fn rows_without_end_are_an_error() {
        let text = [b"[0".to_vec(), b",0".repeat(usize::try_from(MOST_ROWS).unwrap()), b"]".to_vec()].concat();
        let error = each_row(&text[..], &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().contains("more than 2000000 rows"), "{error}");
    }

    #[test]
    fn whoever_has_seen_enough_breaks_off() {
        let mut seen = 0;
        let mut take = |_: &[u8]| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(each_row(&b"[1,2,3,oops"[..], &mut take).unwrap(), ControlFlow::Break(()));
        assert_eq!(seen, 2);
    }
}
