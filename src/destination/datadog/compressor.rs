//! Compression of request bodies.

use std::fmt;
use std::io;

use flate2::{Compress, FlushCompress, Status};

use super::Compression;

/// The gzip level. Measured with records of 500 bytes in pages of 1000, the whole program, in one sitting. In
/// microseconds of CPU and bytes sent per event: level 1 takes 7.1 and 168, level 3 9.5 and 111. Level 4 takes 11.1 and
/// 97, level 6 17.6 and 89. A small machine that drains a backlog is short of CPU. Operators who pay by the byte choose
/// zstd: at [`ZSTD_LEVEL`] it sends 109 bytes for less CPU.
const GZIP_LEVEL: u32 = 1;

/// The base-2 logarithm of gzip's window in bytes: the format's own (RFC 1951, 2).
const GZIP_WINDOW: u8 = 15;

/// The zstd level, which Datadog's own agent uses as well. Compression alone, in bodies of 1000 entries, the best of
/// five. Microseconds and bytes per event: level 1 2.5 and 109, level 3 2.9 and 111, level 5 10.2 and 95.
const ZSTD_LEVEL: i32 = 1;

/// Compresses one body after the other with the same tables. Allocating them for each body would cost more than
/// clearing them.
pub struct Compressor(Kind);

enum Kind {
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
    Identity,
}

impl Compressor {
    /// A compressor for bodies of this kind.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::Gzip => Kind::Gzip(Compress::new_gzip(flate2::Compression::new(GZIP_LEVEL), GZIP_WINDOW)),
            Compression::Zstd => Kind::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
            Compression::Identity => Kind::Identity,
        }))
    }

    /// Compresses `body`.
    pub fn compress(&mut self, body: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.0 {
            Kind::Gzip(gzip) => gzipped(gzip, body),
            Kind::Zstd(zstd) => {
                let mut sent = zstd.compress(body)?;
                // zstd allocates for the worst case.
                sent.shrink_to_fit();
                Ok(sent)
            }
            Kind::Identity => Ok(body.to_vec()),
        }
    }
}

fn gzipped(gzip: &mut Compress, body: &[u8]) -> io::Result<Vec<u8>> {
    gzip.reset();
    let mut sent = Vec::with_capacity(body.len() / 4 + 64);
    loop {
        let taken = usize::try_from(gzip.total_in()).map_err(io::Error::other)?;
        let rest = body.get(taken..).unwrap_or_default();
        match gzip.compress_vec(rest, &mut sent, FlushCompress::Finish).map_err(io::Error::other)? {
            Status::StreamEnd => break,
            // Only the room in `sent` ran out.
            Status::Ok | Status::BufError => sent.reserve(sent.capacity()),
        }
    }
    // The body may wait for a while before it is sent.
    sent.shrink_to_fit();
    Ok(sent)
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Gzip(_) => "Gzip",
            Kind::Zstd(_) => "Zstd",
            Kind::Identity => "Identity",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Two bodies, the second of which must not depend on the first; one that cannot be compressed; and an empty one.
    fn bodies() -> [Vec<u8>; 4] {
        let mut random = fastrand::Rng::with_seed(1);
        let noise = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
        [b"[{\"a\":1}]".repeat(1000), b"[{\"b\":2}]".repeat(10), noise, Vec::new()]
    }

    fn undone(compression: Compression, undo: impl Fn(&[u8], usize) -> Vec<u8>) {
        let mut compressor = Compressor::new(compression).unwrap();
        for body in bodies() {
            let sent = compressor.compress(&body).unwrap();
            assert!(undo(&sent, body.len()) == body, "{compression:?} of {} bytes", body.len());
        }
    }

    #[test]
    fn every_compression_can_be_undone_body_after_body() {
        undone(Compression::Gzip, |sent, _| {
            let mut undone = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(sent);
            decoder.read_to_end(&mut undone).unwrap();
            assert!(decoder.into_inner().is_empty(), "one member and nothing behind it");
            undone
        });
        undone(Compression::Zstd, |sent, size| zstd::bulk::decompress(sent, size).unwrap());
        undone(Compression::Identity, |sent, _| sent.to_vec());
    }
}
