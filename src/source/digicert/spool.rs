//! A file of a run on the disk: an array of rows, or a ZIP file that holds one.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::ops::ControlFlow;

use super::error::{Content, Error, Unread};
use super::rows::each_row;
use crate::http::{Excerpt, Redaction};

/// How much is read at once.
const BUFFER: usize = 64 * 1024;

/// A file without a name, which the system removes with the process.
#[derive(Debug)]
pub(super) struct Spool(File);

impl Spool {
    pub(super) fn of(file: File) -> Self {
        Self(file)
    }

    /// Calls `take` with each row, until it breaks off.
    pub(super) fn each_row(&self, take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<ControlFlow<()>, Unread> {
        let mut file = &self.0;
        let mut beginning = Vec::new();
        file.rewind().and_then(|()| file.take(400).read_to_end(&mut beginning)).map_err(Error::Spool)?;
        file.rewind().map_err(Error::Spool)?;
        if !beginning.starts_with(b"PK") {
            return rows(BufReader::with_capacity(BUFFER, file), &beginning, take);
        }
        let mut archive = zip::ZipArchive::new(BufReader::with_capacity(BUFFER, file)).map_err(Content::Zip)?;
        let mut names = archive.file_names().filter_map(Result::ok).map(std::borrow::Cow::into_owned);
        let name = names.find(|name| name.to_ascii_lowercase().ends_with(".json")).ok_or(Content::NoJson)?;
        drop(names);
        let entry = archive.by_name(&name).map_err(Content::Zip)?;
        rows(BufReader::with_capacity(BUFFER, entry), b"", take)
    }
}

fn rows(
    mut input: impl std::io::BufRead,
    beginning: &[u8],
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Unread> {
    let mut beginning = beginning.to_vec();
    if beginning.is_empty()
        && let Ok(buffered) = input.fill_buf()
    {
        beginning.extend(buffered.iter().take(400));
    }
    each_row(input, take)
        .map_err(|cause| Content::NotRows { beginning: Excerpt::of(&beginning, &Redaction::none()), cause }.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use zip::write::SimpleFileOptions;

    use super::*;

    fn spool(bytes: &[u8]) -> Spool {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Spool::of(file)
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
            (b"[{\"a\":\"b\"},{\"a\":".to_vec(), "EOF"),
            (zipped(&[("a.json", b"[{}")]), "EOF"),
        ] {
            let error = count(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
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
    fn a_bomb_is_an_error_before_it_is_in_memory() {
        let bomb = [b"[\"".to_vec(), vec![b'x'; 64 * 1024 * 1024]].concat();
        let error = count(&zipped(&[("a.json", &bomb)])).unwrap_err();
        assert!(error.contains("1048576 bytes"), "{error}");
    }
}
