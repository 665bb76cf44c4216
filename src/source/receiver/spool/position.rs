//! The position up to which the spool is delivered. A small file has two slots that are written in turn, so that a torn
//! write leaves the other one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The bytes of a slot: more than a sector, so that two slots share none.
const SLOT: u64 = 4096;

/// The used bytes of a slot: generation, spool, sequence, time of arrival, checksum.
const USED: usize = 36;

/// The position up to which a spool is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Position {
    /// The identifier of the spool: a random number from its beginning.
    pub(in super::super) spool: u64,
    /// The sequence number of the last delivered entry; 0 for none.
    pub(in super::super) sequence: u64,
    /// The time at which that entry arrived, in milliseconds since 1970.
    pub(in super::super) arrived: i64,
}

/// The file.
#[derive(Debug)]
pub(super) struct PositionFile {
    file: File,
    generation: u64,
}

impl PositionFile {
    /// Opens the file at `path`, or makes it, and reads its position; none if it holds no readable one.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Position>)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let (generation, position) =
            newest(&file).map_or((0, None), |(generation, position)| (generation, Some(position)));
        Ok((Self { file, generation }, position))
    }

    /// Writes `position` to a slot that holds none. A full disk takes a later write only to a slot that has its block.
    pub(super) fn fill(&mut self, position: Position) -> io::Result<()> {
        for _ in [0, SLOT] {
            if [0, SLOT].into_iter().any(|at| slot(&self.file, at).is_none()) {
                self.write(position)?;
            }
        }
        Ok(())
    }

    /// Writes `position` and syncs it to disk.
    pub(super) fn write(&mut self, position: Position) -> io::Result<()> {
        let generation = self.generation.wrapping_add(1);
        let mut slot = Vec::with_capacity(USED);
        slot.extend_from_slice(&generation.to_le_bytes());
        slot.extend_from_slice(&position.spool.to_le_bytes());
        slot.extend_from_slice(&position.sequence.to_le_bytes());
        slot.extend_from_slice(&position.arrived.to_le_bytes());
        slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
        self.file.write_all_at(&slot, generation % 2 * SLOT)?;
        self.file.sync_data()?;
        self.generation = generation;
        Ok(())
    }
}

/// Reads the position in the file at `path`, without a lock.
pub(super) fn look(path: &Path) -> io::Result<Option<Position>> {
    match File::open(path) {
        Ok(file) => Ok(newest(&file).map(|(_, position)| position)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn newest(file: &File) -> Option<(u64, Position)> {
    [0, SLOT].into_iter().filter_map(|at| slot(file, at)).max_by_key(|(generation, _)| *generation)
}

fn slot(file: &File, at: u64) -> Option<(u64, Position)> {
    let mut bytes = [0; USED];
    file.read_exact_at(&mut bytes, at).ok()?;
    let (content, crc) = bytes.split_at_checked(USED - 4)?;
    if crc32fast::hash(content).to_le_bytes() != crc {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(content.get(at..at + 8)?.try_into().ok()?));
    let position = Position { spool: number(8)?, sequence: number(16)?, arrived: number(24)?.cast_signed() };
    Some((number(0)?, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(sequence: u64) -> Position {
        Position { spool: 5, sequence, arrived: -1 }
    }

    #[test]
    fn a_torn_write_leaves_the_position_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let (mut file, none) = PositionFile::open(&path).unwrap();
        assert_eq!(none, None);
        for sequence in 1..=3 {
            file.write(position(sequence)).unwrap();
            assert_eq!(look(&path).unwrap(), Some(position(sequence)));
        }
        // The third write went to the second slot.
        file.file.write_all_at(&[0xAA; 8], SLOT).unwrap();
        let (mut file, before) = PositionFile::open(&path).unwrap();
        assert_eq!(before, Some(position(2)));
        file.write(position(4)).unwrap();
        assert_eq!(look(&path).unwrap(), Some(position(4)));
    }
}
