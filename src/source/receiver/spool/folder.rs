//! The folder of a spool: its lock, its segments and their contents.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::frame::{self, Found};
use super::reading::{self, Part};

/// The extension of a segment's name.
const SEGMENT: &str = "spool";

/// The extension of a delivered segment that had damage; its file is kept for inspection.
const DAMAGED: &str = "damaged";

/// A file of entries, in the order of their arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The least sequence number that can be in it.
    pub(super) first: u64,
    /// The sequence number of its last entry; one less than `first` if it has none.
    pub(super) last: u64,
    /// The number of its bytes that are safe on disk.
    pub(super) length: u64,
}

/// The result of reading through a segment.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// The entries after the position.
    pub(super) entries: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// The time at which the first of them arrived.
    pub(super) oldest: Option<i64>,
    /// The time at which the last entry of all arrived.
    pub(super) newest: Option<i64>,
    /// The end of its last whole frame.
    pub(super) sound: u64,
    /// Whether a part before that end cannot be read.
    pub(super) is_damaged: bool,
    /// The number of entries after that end that are there by their length, and cannot be read.
    pub(super) broken: u64,
}

/// Makes the folder, for this user alone. Its parent must exist.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(cause) => Err(cause),
        Ok(()) => sync(folder.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))),
    }
}

/// Locks the folder for this process; none if another process has it. Does not follow a symbolic link.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let mut file = options.open(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(cause)) => return Err(cause),
    }
    // Only for people; a failure to write it does not matter.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
    Ok(Some(file))
}

/// Makes the names in the folder durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The path of the segment that begins with `first`.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.{SEGMENT}"))
}

/// Makes a new, empty segment, and makes its name durable.
pub(super) fn create(folder: &Path, first: u64) -> io::Result<(Segment, File)> {
    let path = path(folder, first);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    if let Err(cause) = sync(folder) {
        let _ = std::fs::remove_file(&path);
        return Err(cause);
    }
    Ok((Segment { path, first, last: first.saturating_sub(1), length: 0 }, file))
}

/// Lists the segments of the folder in order, at their full length.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for file in folder.read_dir()? {
        let path = file?.path();
        let is_segment = path.extension().is_some_and(|ending| ending == SEGMENT);
        let first = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (true, Some(first)) = (is_segment, first) {
            let length = path.metadata()?.len();
            found.push(Segment { path, first, last: first.saturating_sub(1), length });
        }
    }
    found.sort_by_key(|segment| segment.first);
    // The last entry of each is before the first of the next.
    for at in 1..found.len() {
        found[at - 1].last = found[at].first.saturating_sub(1);
    }
    if let Some(last) = found.last_mut() {
        last.last = u64::MAX;
    }
    Ok(found)
}

/// The layout of the frames in a segment, if it is not the one that this version reads. Each process begins its own
/// segments, so a segment has one layout. One that holds a frame of this version's layout is only damaged.
pub(super) fn other_layout(segment: &Segment) -> io::Result<Option<u8>> {
    let file = File::open(&segment.path)?;
    let beginning = reading::read(&file, &segment.path, 0, segment.length.min(4))?.bytes;
    let layout = beginning.try_into().ok().and_then(frame::layout).filter(|layout| *layout != frame::LAYOUT);
    if layout.is_none() {
        return Ok(None);
    }
    let bytes = reading::read(&file, &segment.path, 0, segment.length)?.bytes;
    let is_damaged = matches!(frame::next(&bytes, 0), Found::Damage(_));
    Ok(layout.filter(|_| !is_damaged))
}

/// Reads through a whole segment. Returns what it holds after the sequence number `after`.
pub(super) fn content(segment: &mut Segment, after: u64) -> io::Result<Content> {
    let Part { bytes, unreadable_until } =
        reading::read(&File::open(&segment.path)?, &segment.path, 0, segment.length)?;
    let (mut at, mut content) = (0, Content::default());
    segment.last = segment.first.saturating_sub(1);
    loop {
        match frame::next(&bytes, at) {
            Found::Frame(frame) => {
                segment.last = frame.sequence;
                content.newest = Some(frame.arrived);
                if frame.sequence > after {
                    content.entries += 1;
                    content.bytes += (frame.end - at) as u64;
                    content.oldest.get_or_insert(frame.arrived);
                }
                at = frame.end;
                content.sound = at as u64;
            }
            Found::Damage(range) => {
                content.is_damaged = true;
                at = range.end;
            }
            Found::Rest(range) => {
                content.broken = frame::whole(&bytes, range.start).max(u64::from(unreadable_until > content.sound));
                return Ok(content);
            }
            Found::End => return Ok(content),
        }
    }
}

/// Copies the bytes of a segment after `from` to a file beside it. Returns the copy's path.
pub(super) fn copy_end(segment: &Segment, from: u64) -> io::Result<PathBuf> {
    let end = reading::read(&File::open(&segment.path)?, &segment.path, from, segment.length.saturating_sub(from))?;
    let path = segment.path.with_extension(format!("{from}.{DAMAGED}"));
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    copy.write_all(&end.bytes)?;
    copy.sync_all()?;
    sync(segment.path.parent().unwrap_or(Path::new(".")))?;
    Ok(path)
}

/// Removes a delivered segment. One that had damage is kept under another name.
pub(super) fn remove(segment: &Segment, had_damage: bool) -> io::Result<()> {
    if had_damage {
        let kept = segment.path.with_extension(DAMAGED);
        std::fs::rename(&segment.path, &kept)?;
        tracing::warn!(kept_in = %kept.display(), "a damaged segment of the spool is delivered as far as it can be read; its file is kept");
        return Ok(());
    }
    std::fs::remove_file(&segment.path)
}
