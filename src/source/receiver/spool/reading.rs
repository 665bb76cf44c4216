//! Reads files of a spool. The parts that the disk cannot read become zeros, so that one bad sector costs only the
//! entries on it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

/// The bytes of one read after a larger one failed: a sector of most disks.
const PIECE: usize = 4096;

/// A part of a file.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) bytes: Vec<u8>,
    /// The end, in the file, of the last bytes that cannot be read; 0 if all can be read.
    pub(super) unreadable_until: u64,
}

/// Reads `length` bytes of `file` at `from`. The path is for messages.
pub(super) fn read(file: &impl FileExt, path: &Path, from: u64, length: u64) -> io::Result<Part> {
    let mut part = Part { bytes: vec![0; usize::try_from(length).unwrap_or(usize::MAX)], unreadable_until: 0 };
    match file.read_exact_at(&mut part.bytes, from) {
        Err(cause) if is_of_the_disk(&cause) => {}
        done => return done.map(|()| part),
    }
    let (mut at, mut zeros) = (from, 0);
    let until_boundary = PIECE - usize::try_from(from % PIECE as u64).unwrap_or_default();
    let until_boundary = until_boundary.min(part.bytes.len());
    let (head, rest) = part.bytes.split_at_mut(until_boundary);
    for piece in std::iter::once(head).chain(rest.chunks_mut(PIECE)) {
        let end = at + piece.len() as u64;
        match file.read_exact_at(piece, at) {
            Err(cause) if is_of_the_disk(&cause) => {
                piece.fill(0);
                zeros += piece.len();
                part.unreadable_until = end;
            }
            done => done?,
        }
        at = end;
    }
    tracing::error!(
        file = %path.display(), bytes = zeros,
        "the disk cannot read a part of a file of the spool; the entries there are lost; auditsync reads the rest"
    );
    Ok(part)
}

/// Whether the disk cannot read the bytes, as opposed to a missing permission or too few file descriptors.
fn is_of_the_disk(cause: &io::Error) -> bool {
    cause.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::frame::{self, Found, Shape};
    use super::*;

    /// A file with a range that its disk cannot read.
    struct Bad {
        content: Vec<u8>,
        sector: Range<usize>,
    }

    impl FileExt for Bad {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let from = usize::try_from(offset).unwrap().min(self.content.len());
            let to = (from + into.len()).min(self.content.len());
            if from < self.sector.end && to > self.sector.start {
                return Err(Errno::IO.into());
            }
            into[..to - from].copy_from_slice(&self.content[from..to]);
            Ok(to - from)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(Errno::ROFS.into())
        }
    }

    #[test]
    fn a_sector_that_cannot_be_read_costs_only_the_entries_on_it() {
        let mut content = Vec::new();
        for sequence in 1..=100 {
            frame::write(&mut content, sequence, 7, &Shape::Entry, &[b'x'; 400]);
        }
        let file = Bad { content, sector: 8192..12288 };
        for from in [0, 431] {
            let part = read(&file, Path::new("f"), from, file.content.len() as u64 - from).unwrap();
            assert_eq!(part.unreadable_until, 12288);
            let (mut at, mut found) = (0, Vec::new());
            loop {
                match frame::next(&part.bytes, at) {
                    Found::Frame(frame) => {
                        found.push(frame.sequence);
                        at = frame.end;
                    }
                    Found::Damage(range) => at = range.end,
                    Found::Rest(range) => panic!("{range:?}"),
                    Found::End => break,
                }
            }
            // Each frame takes 431 bytes, so the sector covers a part of the frames 20 to 29.
            let expected: Vec<_> = (1 + from / 431..20).chain(30..=100).collect();
            assert_eq!(found, expected, "{from}");
        }
    }

    #[test]
    fn another_error_than_of_the_disk_is_an_error() {
        let file = Bad { content: vec![0; 100], sector: 0..0 };
        let cause = read(&file, Path::new("f"), 0, 101).unwrap_err();
        assert_eq!(cause.kind(), io::ErrorKind::UnexpectedEof);
    }
}
