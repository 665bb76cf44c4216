//! Reads and decompresses the body of a request, within limits of size and time.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::spool::LARGEST_BATCH;

/// The most bytes of a body, as sent and decompressed: the limit of Datadog's intake, rounded up.
pub(super) const LARGEST: usize = 5 * 1024 * 1024;

/// The longest time for a whole body, and for the pause between two parts of it.
const LONGEST: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The longest time that a request waits for memory.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// The part of a body that is read before the request takes memory for all of it. So uploads that stand still hold
/// little, and small requests do not wait behind large ones.
const SMALL: usize = 64 * 1024;

/// The bytes of memory for the first parts of bodies, for bodies that are being read, for whole bodies, and for what
/// their entries take beyond them.
const BEGINNINGS: usize = 8 * 1024 * 1024;
const READING: usize = 40 * 1024 * 1024;
const DECODED: usize = 32 * 1024 * 1024;
const GROWTH: usize = 16 * 1024 * 1024;

// Otherwise a request could wait for memory that there will never be.
const _: () = assert!(READING >= LARGEST && DECODED >= LARGEST && GROWTH as u64 >= LARGEST_BATCH);

/// The compression of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
}

/// A reason why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error("the encoding is none of identity, gzip, deflate and zstd")]
    Encoding,
    #[error("the body is larger than {LARGEST} bytes")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TimedOut,
    #[error("the body broke off")]
    BrokenOff,
    #[error("the body is not what its encoding says: {0}")]
    Corrupt(io::Error),
    #[error("too many large requests at a time")]
    Busy,
}

/// The memory for the bodies of all requests, in four pools.
///
/// A request takes from each pool at most once, and in the order of the fields. So no two requests wait for each other.
#[derive(Debug)]
pub(super) struct Memory {
    beginnings: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    decoded: Arc<Semaphore>,
    growth: Arc<Semaphore>,
}

impl Default for Memory {
    fn default() -> Self {
        let pool = |bytes| Arc::new(Semaphore::new(bytes));
        Self { beginnings: pool(BEGINNINGS), reading: pool(READING), decoded: pool(DECODED), growth: pool(GROWTH) }
    }
}

/// Shares of the memory. Dropping them frees them.
#[derive(Debug)]
pub(super) struct Held {
    body: OwnedSemaphorePermit,
    growth: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// Enlarges `held` to at least `bytes`, because entries may take more memory than their body. To be called once.
    pub(super) async fn grow(&self, held: &mut Held, bytes: usize) -> Result<(), Unread> {
        if let Some(more) = bytes.checked_sub(held.body.num_permits()).filter(|more| *more > 0) {
            held.growth = Some(room(&self.growth, more).await?);
        }
        Ok(())
    }
}

/// A body, and its share of the memory. Dropping `memory` frees that share.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    pub(super) memory: Held,
}

async fn room(memory: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Unread> {
    let bytes = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
    match timeout(LONGEST_WAIT, Arc::clone(memory).acquire_many_owned(bytes)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Unread::Busy),
    }
}

/// The encoding that the headers name.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, Unread> {
    let mut named = headers.get_all(CONTENT_ENCODING).iter();
    let Some(first) = named.next() else { return Ok(Encoding::Identity) };
    let name = first.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        _ if named.next().is_some() => Err(Unread::Encoding),
        "" | "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "deflate" => Ok(Encoding::Deflate),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(Unread::Encoding),
    }
}

/// Reads the whole body and decompresses it.
pub(super) async fn read(body: Incoming, encoding: Encoding, memory: &Memory) -> Result<Whole, Unread> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|size| size > LARGEST as u64) {
        discard(body).await;
        return Err(Unread::TooLarge);
    }
    let size = announced.and_then(|size| usize::try_from(size).ok());
    let (sent, reading) = match timeout(LONGEST, collect(body, size, memory)).await {
        Ok(collected) => collected?,
        Err(_) => return Err(Unread::TimedOut),
    };
    if encoding == Encoding::Identity {
        let room = room(&memory.decoded, sent.len()).await?;
        drop(reading);
        return Ok(Whole { bytes: sent, memory: Held { body: room, growth: None } });
    }
    let mut room = room(&memory.decoded, LARGEST).await?;
    // A small body can become a large one.
    let decoded = tokio::task::spawn_blocking(move || decode(&sent, encoding)).await;
    drop(reading);
    let bytes = decoded.map_err(|cause| Unread::Corrupt(io::Error::other(cause)))??;
    // Frees the memory that the body does not need.
    drop(room.split(LARGEST.saturating_sub(bytes.len().max(1))));
    Ok(Whole { bytes, memory: Held { body: room, growth: None } })
}

/// Collects a body of this `size`, if it is known. Takes memory for all of it as soon as more than [`SMALL`] arrives.
async fn collect(
    mut body: Incoming,
    size: Option<usize>,
    memory: &Memory,
) -> Result<(Bytes, OwnedSemaphorePermit), Unread> {
    let most = size.unwrap_or(LARGEST);
    let beginning = most.min(SMALL);
    let mut held = room(&memory.beginnings, beginning).await?;
    let mut collected = BytesMut::with_capacity(size.map_or(0, |_| beginning));
    loop {
        let frame = match timeout(LONGEST_PAUSE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Unread::BrokenOff),
            Ok(None) => return Ok((collected.freeze(), held)),
            Err(_) => return Err(Unread::TimedOut),
        };
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > LARGEST {
            discard(body).await;
            return Err(Unread::TooLarge);
        }
        if collected.len() <= beginning && collected.len() + data.len() > beginning {
            held = room(&memory.reading, most).await?;
            collected.reserve(most - collected.len());
        }
        collected.extend_from_slice(&data);
    }
}

/// Reads the rest of a body for a while. A client that sends everything before it reads then sees the answer.
async fn discard(mut body: Incoming) {
    let mut left = 4 * LARGEST;
    let _ = timeout(LONGEST_PAUSE, async {
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    })
    .await;
}

fn decode(sent: &[u8], encoding: Encoding) -> Result<Bytes, Unread> {
    match encoding {
        Encoding::Identity => Ok(Bytes::copy_from_slice(sent)),
        Encoding::Gzip => bounded(MultiGzDecoder::new(sent)),
        // With a zlib header, as the standard and Datadog's clients have it, or without one, as others send it.
        Encoding::Deflate if is_zlib(sent) => bounded(ZlibDecoder::new(sent)),
        Encoding::Deflate => bounded(DeflateDecoder::new(sent)),
        Encoding::Zstd => bounded(zstd::stream::read::Decoder::new(sent).map_err(Unread::Corrupt)?),
    }
}

/// Whether `bytes` begin with a zlib header. RFC 1950, 2.2: the method is 8, and the first two bytes are a multiple of
/// 31.
fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [first, second, ..] if first & 15 == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0)
}

fn bounded(encoded: impl io::Read) -> Result<Bytes, Unread> {
    let mut decoded = Vec::new();
    encoded.take(LARGEST as u64 + 1).read_to_end(&mut decoded).map_err(Unread::Corrupt)?;
    if decoded.len() > LARGEST { Err(Unread::TooLarge) } else { Ok(decoded.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn deflate_is_taken_with_and_without_its_wrapper() {
        let mut wrapped = ZlibEncoder::new(Vec::new(), Compression::fast());
        wrapped.write_all(b"[{}]").unwrap();
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
        bare.write_all(b"[{}]").unwrap();
        for sent in [wrapped.finish().unwrap(), bare.finish().unwrap()] {
            assert_eq!(&decode(&sent, Encoding::Deflate).unwrap()[..], b"[{}]");
        }
    }

    #[test]
    fn a_bomb_is_cut_short() {
        let bomb = gzip(&vec![b' '; 200 * 1024 * 1024]);
        assert!(matches!(decode(&bomb, Encoding::Gzip), Err(Unread::TooLarge)));
        let bomb = zstd::encode_all(&vec![b' '; 200 * 1024 * 1024][..], 1).unwrap();
        assert!(matches!(decode(&bomb, Encoding::Zstd), Err(Unread::TooLarge)));
    }

    #[test]
    fn what_is_cut_off_is_corrupt() {
        let sent = gzip(b"[{\"a\":1}]");
        assert!(matches!(decode(&sent[..sent.len() - 5], Encoding::Gzip), Err(Unread::Corrupt(_))));
    }
}
