//! A file of a run on disk: an array of rows, or a ZIP file that holds one.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::ops::ControlFlow;

use super::error::{Content, Error, Unread};
use super::quotes::Quotes;
use super::rows::{BOM, each_row, is_about_a_row};

/// The size of the read buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// The most bytes of a file, unpacked.
const LARGEST_FILE: u64 = 4 * 1024 * 1024 * 1024;

/// The most bytes of a ZIP file's index. This bounds the number of entries, each of which takes memory.
const LARGEST_INDEX: u64 = 4 * 1024 * 1024;

/// A file without a name, which the system removes when the process ends.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    quotes: Quotes,
    most: u64,
}

impl Spool {
    pub(super) fn of(file: File, quotes: Quotes) -> Self {
        Self { file, quotes, most: LARGEST_FILE }
    }

    /// Calls `take` with each row, until `take` breaks.
    pub(super) fn each_row(&self, take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<ControlFlow<()>, Unread> {
        let mut file = &self.file;
        let mut beginning = Vec::new();
        file.rewind().and_then(|()| file.take(400).read_to_end(&mut beginning)).map_err(Error::Spool)?;
        file.rewind().map_err(Error::Spool)?;
        if !beginning.starts_with(b"PK") {
            return self.rows(file, &beginning, take);
        }
        let left = Cell::new(LARGEST_INDEX);
        let input = Bounded { input: BufReader::with_capacity(BUFFER, file), left: &left };
        let mut archive = zip::ZipArchive::new(input).map_err(Content::Zip)?;
        left.set(u64::MAX);
        let names = archive.file_names().filter_map(Result::ok).map(std::borrow::Cow::into_owned);
        let names: Vec<_> = names.filter(|name| name.to_ascii_lowercase().ends_with(".json")).collect();
        let name = match names.as_slice() {
            [] => return Err(Content::NoJson.into()),
            [name] if !archive.has_duplicate_names() => name,
            _ => return Err(Content::SeveralJson.into()),
        };
        let entry = archive.by_name(name).map_err(Content::Zip)?;
        self.rows(entry, b"", take)
    }

    fn rows(
        &self,
        input: impl io::Read,
        beginning: &[u8],
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Unread> {
        let left = Cell::new(self.most);
        let mut input = BufReader::with_capacity(BUFFER, Bounded { input, left: &left });
        let mut beginning = beginning.to_vec();
        if beginning.is_empty()
            && let Ok(buffered) = input.fill_buf()
        {
            beginning.extend(buffered.iter().take(400));
        }
        let mut rows = 0_u64;
        let read = each_row(input, &mut |row| {
            rows += 1;
            take(row)
        });
        read.map_err(|cause| {
            if left.get() == 0 {
                return Content::TooLarge { most: self.most }.into();
            }
            let is_array = beginning.strip_prefix(BOM).unwrap_or(&beginning).trim_ascii_start().starts_with(b"[");
            let is_of_a_row = is_array && is_about_a_row(&cause);
            let (beginning, cause) = (self.quotes.row(&beginning), self.quotes.row(cause.to_string().as_bytes()));
            if is_of_a_row {
                return Content::BadRow { row: rows + 1, cause }.into();
            }
            Content::NotRows { beginning, cause }.into()
        })
    }
}

/// A reader that fails after this many bytes.
struct Bounded<'c, R> {
    input: R,
    left: &'c Cell<u64>,
}

impl<R: io::Read> io::Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let Some(left) = self.left.get().checked_sub(read as u64) else {
            self.left.set(0);
            return Err(io::Error::other("it has too many bytes"));
        };
        self.left.set(left);
        Ok(read)
    }
}

impl<R: io::Seek> io::Seek for Bounded<'_, R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.input.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use zip::write::SimpleFileOptions;

    use super::super::variables::API_KEY;
    use super::*;
    use crate::secret::Secret;

    fn spool(bytes: &[u8]) -> Spool {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Spool::of(file, Quotes::without_redaction(Secret::from_value(API_KEY.spec.name, "the-key".into())))
    }

    fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            archive.start_file(*name, SimpleFileOptions::default()).unwrap();
            archive.write_all(content).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn count(bytes: &[u8]) -> Result<usize, String> {
        let mut count = 0;
        let mut take = |_: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        let read = spool(bytes).each_row(&mut take);
        let _ = read.map_err(|error| crate::failure::Chain(&error).to_string())?;
        Ok(count)
    }

    #[test]
    fn rows_are_read_plain_and_from_a_zip_file() {
        assert_eq!(count(b"[{},{}]"), Ok(2));
        assert_eq!(count(&zipped(&[("README.txt", b"x"), ("report.JSON", b"[{},{},{}]")])), Ok(3));
    }

    #[test]
    fn a_spool_is_read_as_often_as_needed() {
        let spool = spool(b"[1]");
        for _ in 0..2 {
            let mut seen = 0;
            let count = &mut |_: &[u8]| {
                seen += 1;
                ControlFlow::Continue(())
            };
            let _ = spool.each_row(count).unwrap();
            assert_eq!(seen, 1);
        }
    }

    #[test]
    fn what_holds_no_rows_is_an_error_that_says_why() {
        for (bytes, expected) in [
            (zipped(&[("report.csv", b"a,b")]), "holds no .json file"),
            (b"PK\x03\x04 and then nothing".to_vec(), "the ZIP file cannot be read"),
            (
                b"{\"errors\":[{\"code\":\"x\"}]}".to_vec(),
                "it begins with \"{\\\"errors\\\":[{\\\"code\\\":\\\"x\\\"}]}\"",
            ),
            (zipped(&[("a.json", b"[{}]"), ("b.json", b"[{}]")]), "more than one .json file"),
            (b"\"my the-key\"".to_vec(), "string \\\"my [hidden]\\\", expected an array of rows"),
            (b"[{\"a\":\"b\"},{\"a\":".to_vec(), "EOF"),
            (zipped(&[("a.json", b"[{}")]), "EOF"),
        ] {
            let error = count(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let large = [b"\"".to_vec(), vec![b'x'; 1024 * 1024], b"\"".to_vec()].concat();
        for bad in [&b"\"a\nb\""[..], b"\"\xc3\"", &large] {
            for (before, row) in [(&b"[{},{},"[..], "row 3 of the file"), (b"\xef\xbb\xbf [", "row 1 of the file")] {
                let bytes = [before, bad, b",{}]"].concat();
                for bytes in [bytes.clone(), zipped(&[("a.json", &bytes)])] {
                    let error = count(&bytes).unwrap_err();
                    assert!(error.contains(row) && error.contains("change the report's date range"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_zip_file_is_an_error() {
        let rows: Vec<_> = (0..1000).map(|n| format!("{{\"n\":{n}}}")).collect();
        let mut bytes = zipped(&[("a.json", format!("[{}]", rows.join(",")).as_bytes())]);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        assert!(count(&bytes).is_err());
    }

    #[test]
    fn a_file_that_unpacks_to_too_much_is_an_error() {
        let rows = format!("[{}]", vec!["{}"; 1000].join(","));
        for bytes in [rows.clone().into_bytes(), zipped(&[("a.json", rows.as_bytes())])] {
            let spool = Spool { most: 1000, ..spool(&bytes) };
            let error = spool.each_row(&mut |_| ControlFlow::Continue(())).unwrap_err();
            assert_eq!(error.to_string(), "it has more than 1000 bytes");
        }
    }

    #[test]
    fn a_zip_file_of_too_many_entries_is_an_error_before_they_are_in_memory() {
        let names: Vec<_> = (0..50_000).map(|n| format!("{n:050}.json")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        let error = count(&zipped(&files)).unwrap_err();
        assert!(error.contains("too many bytes"), "{error}");
    }

    #[test]
    fn a_bomb_is_an_error_before_it_is_in_memory() {
        let bomb = [b"[\"".to_vec(), vec![b'x'; 64 * 1024 * 1024]].concat();
        let error = count(&zipped(&[("a.json", &bomb)])).unwrap_err();
        assert!(error.contains("1048576 bytes"), "{error}");
    }
}
