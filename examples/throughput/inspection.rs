//! What was sent, looked at when nobody is waiting any more: everything once, everything whole, every limit kept.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Failure;
use crate::backlog::{Backlog, Clock};
use crate::codec::Codec;
use crate::identity;
use crate::intake::Kept;

/// The documented limits of one request.
const MOST_ENTRIES: usize = 1000;
const LARGEST_BODY: usize = 5_000_000;

/// What the bodies held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contents {
    pub entries: usize,
    /// Bytes before compression.
    pub bytes: u64,
}

/// Reads all bodies, on two threads. The error says what is wrong with the first bad one.
fn read_all(
    kept: &Kept,
    codec: Codec,
    look: impl Fn(&[u8]) -> Result<usize, Failure> + Sync,
) -> Result<Contents, Failure> {
    let next = AtomicUsize::new(0);
    let read = || -> Result<Contents, Failure> {
        let (mut sent, mut body, mut contents) = (Vec::new(), Vec::new(), Contents::default());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= kept.bodies.len() {
                return Ok(contents);
            }
            kept.read(number, &mut sent)?;
            codec.undo(&sent, &mut body)?;
            contents.bytes += body.len() as u64;
            contents.entries += look(&body).map_err(|wrong| format!("request {number}: {wrong}"))?;
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(read);
        let (one, other) = (read()?, other.join().expect("reading does not panic")?);
        Ok(Contents { entries: one.entries + other.entries, bytes: one.bytes + other.bytes })
    })
}

/// The bodies, and nothing is known of what they hold.
pub fn bytes_alone(kept: &Kept, codec: Codec) -> Result<Contents, Failure> {
    read_all(kept, codec, |_| Ok(0))
}

#[derive(Deserialize)]
struct Entry<'a> {
    timestamp: i64,
    #[serde(borrow)]
    evt: Attributes<'a>,
    #[serde(borrow)]
    sectigo: &'a RawValue,
}

#[derive(Deserialize)]
struct Attributes<'a> {
    id: &'a str,
}

/// Entries of `backlog`: every record once, byte for byte, with its own time, and the limits kept.
pub fn all_once(kept: &Kept, codec: Codec, backlog: &Backlog) -> Result<Contents, Failure> {
    let met: Vec<AtomicU64> = (0..backlog.events.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    let look = |body: &[u8]| -> Result<usize, Failure> {
        let entries: Vec<Entry<'_>> = serde_json::from_slice(body)?;
        if entries.len() > MOST_ENTRIES || body.len() > LARGEST_BODY {
            return Err(format!("{} entries in {} bytes", entries.len(), body.len()).into());
        }
        let (mut record, mut clock) = (Vec::new(), Clock::default());
        for entry in &entries {
            let id = entry.evt.id;
            let index = identity::read(id.as_bytes())
                .and_then(|index| usize::try_from(index).ok())
                .filter(|index| *index < backlog.events)
                .ok_or_else(|| format!("no record has the id {id}"))?;
            let bit = 1 << (index % 64);
            if met[index / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                return Err(format!("record {index} ({id}) was sent twice").into());
            }
            backlog.record(index, &mut record, &mut clock);
            if entry.sectigo.get().as_bytes() != record || entry.timestamp != backlog.time(index) {
                return Err(format!("record {index} ({id}) is not as it was").into());
            }
        }
        Ok(entries.len())
    };
    let contents = read_all(kept, codec, look)?;
    if contents.entries == backlog.events {
        return Ok(contents);
    }
    let is_missing = |index: &usize| met[index / 64].load(Ordering::Relaxed) & (1 << (index % 64)) == 0;
    let missing = (0..backlog.events).find(is_missing);
    Err(format!("{} of {} records arrived; the first missing is {missing:?}", contents.entries, backlog.events).into())
}
