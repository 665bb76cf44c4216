//! Compression of rows as they come, and decompression of objects.

use std::io::{self, Write as _};

use flate2::write::GzEncoder;

/// The gzip level: its default, because an archive is kept for a long time.
const GZIP_LEVEL: u32 = 6;

/// The zstd level: its default.
const ZSTD_LEVEL: i32 = 3;

/// How objects are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// The ending of objects' keys.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Gzip => ".json.gz",
            Self::Zstd => ".json.zst",
        }
    }

    /// The value of `Content-Encoding`.
    pub(super) fn content_encoding(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The compression of the object under `key`.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        [Self::Gzip, Self::Zstd].into_iter().find(|compression| key.ends_with(compression.ending()))
    }
}

/// Compresses one object. The caller may take compressed bytes out while it writes more.
pub(super) enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
        })
    }

    pub(super) fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.write_all(rows),
            Self::Zstd(zstd) => zstd.write_all(rows),
        }
    }

    /// Ends the object. Further calls do nothing.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.try_finish(),
            Self::Zstd(zstd) => zstd.do_finish(),
        }
    }

    /// The compressed bytes that were not taken out yet.
    pub(super) fn compressed(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(gzip) => gzip.get_mut(),
            Self::Zstd(zstd) => zstd.get_mut(),
        }
    }
}

/// Decompresses an object that comes in pieces, and counts its rows.
pub(super) enum Decoder {
    Gzip(Box<flate2::write::GzDecoder<Rows>>),
    Zstd(zstd::stream::write::Decoder<'static, Rows>),
}

/// Counts line ends.
#[derive(Default)]
pub(super) struct Rows(u64);

impl io::Write for Rows {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += memchr::memchr_iter(b'\n', bytes).count() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip => Self::Gzip(Box::new(flate2::write::GzDecoder::new(Rows::default()))),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Decoder::new(Rows::default())?),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.write_all(bytes),
            Self::Zstd(zstd) => zstd.write_all(bytes),
        }
    }

    /// The number of rows in the bytes written.
    pub(super) fn rows(self) -> io::Result<u64> {
        let Rows(rows) = match self {
            Self::Gzip(gzip) => gzip.finish()?,
            Self::Zstd(mut zstd) => {
                zstd.flush()?;
                zstd.into_inner()
            }
        };
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_while_more_is_written_is_one_object() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (mut encoder, mut taken) = (Encoder::new(compression).unwrap(), Vec::new());
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..100 {
                let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(5000).collect();
                encoder.write(format!("{{\"noise\":\"{noise}\"}}\n").as_bytes()).unwrap();
                taken.append(encoder.compressed());
            }
            encoder.finish().unwrap();
            encoder.finish().unwrap();
            taken.append(encoder.compressed());
            let mut decoder = Decoder::new(compression).unwrap();
            for piece in taken.chunks(777) {
                decoder.write(piece).unwrap();
            }
            assert_eq!(decoder.rows().unwrap(), 100, "{compression:?}");
        }
    }
}
