//! The codecs that are measured.

use std::fmt;
use std::io::Read as _;

use auditsync::destination::datadog::Compression;
use clap::ValueEnum;
use flate2::bufread::GzDecoder;

use crate::Failure;

/// How bodies are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    Gzip,
    Zstd,
}

impl Codec {
    pub const ALL: [Self; 2] = [Self::Gzip, Self::Zstd];

    /// Its name, in `Content-Encoding` and in the program's variable alike.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// As the library calls it.
    pub fn compression(self) -> Compression {
        match self {
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
        }
    }

    /// Decompresses a body.
    pub fn undo(self, sent: &[u8], body: &mut Vec<u8>) -> Result<(), Failure> {
        body.clear();
        match self {
            Self::Gzip => GzDecoder::new(sent).read_to_end(body)?,
            Self::Zstd => zstd::Decoder::with_buffer(sent)?.read_to_end(body)?,
        };
        Ok(())
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
