//! Content encodings in both directions.

use std::io::{self, Read, Write};
use std::iter;

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress};

/// Far above every documented limit: a body beyond it is a bug, and must not take the memory of the tests.
const DECODED_AT_MOST: u64 = 256 * 1024 * 1024;

/// Whether the client accepts a gzip body.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().split(';').next() == Some("gzip"))
}

/// The gzip of `open`, then `filler` this many times, then `close`, piece by piece.
///
/// The filler is compressed once, however often it occurs. That works because a compressor that starts afresh refers to
/// no earlier bytes, and a full flush ends its output at a whole byte.
pub(super) fn gzip_repeated(
    open: &[u8],
    filler: &[u8],
    times: usize,
    close: &[u8],
) -> impl Iterator<Item = Bytes> + use<> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut whole = crc(open);
    let filler_crc = crc(filler);
    for _ in 0..times {
        whole.combine(&filler_crc);
    }
    whole.combine(&crc(close));
    let first = [&HEADER, &deflate(open, FlushCompress::Full)[..]].concat();
    let last = [&deflate(close, FlushCompress::Finish)[..], &whole.sum().to_le_bytes(), &whole.amount().to_le_bytes()];
    let filler = Bytes::from(deflate(filler, FlushCompress::Full));
    iter::once(first.into()).chain(iter::repeat_n(filler, times)).chain(iter::once(last.concat().into()))
}

fn deflate(bytes: &[u8], end: FlushCompress) -> Vec<u8> {
    // There is room for incompressible bytes: the compressor does not enlarge the buffer.
    let mut deflated = Vec::with_capacity(bytes.len() + 1024);
    let mut compressor = Compress::new(Compression::fast(), false);
    compressor.compress_vec(bytes, &mut deflated, end).expect("there is room");
    deflated
}

fn crc(bytes: &[u8]) -> Crc {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc
}

pub(super) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

/// The body as it was before `coding`, the value of `Content-Encoding`, was applied.
pub(super) fn decode(coding: &str, body: Bytes) -> io::Result<Bytes> {
    match coding {
        "identity" | "none" | "" => Ok(body),
        "gzip" => read_bounded(MultiGzDecoder::new(&body[..])),
        "zstd" => read_bounded(zstd::Decoder::new(&body[..])?),
        other => Err(io::Error::other(format!("unknown Content-Encoding {other:?}"))),
    }
}

fn read_bounded(reader: impl Read) -> io::Result<Bytes> {
    let mut decoded = Vec::new();
    reader.take(DECODED_AT_MOST).read_to_end(&mut decoded)?;
    Ok(decoded.into())
}
