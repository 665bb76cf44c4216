//! The body of an upload of kind `multipart`: metadata, media and, if the request has not named them before, checksums.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// An upload, as the fake understood it.
pub(super) struct Upload {
    pub(super) metadata: Value,
    pub(super) media: Vec<u8>,
    /// The CRC32C that the client has computed, in the client's spelling.
    pub(super) crc32c: Option<String>,
}

/// Parses a `multipart/related` body.
pub(super) fn parse(content_type: &str, body: &[u8]) -> Result<Upload, String> {
    let boundary = content_type
        .strip_prefix("multipart/related; boundary=")
        .ok_or_else(|| format!("Content-Type is {content_type:?}, not `multipart/related; boundary=…`"))?;
    let parts = parts(boundary.trim_matches('"'), body)?;
    let (metadata, media, checksums) = match &parts[..] {
        [metadata, media] => (metadata, media, None),
        [metadata, media, checksums] => (metadata, media, Some(checksums)),
        other => return Err(format!("{} parts; metadata, media and perhaps checksums are expected", other.len())),
    };
    let metadata = metadata.json("metadata")?;
    let checksums = checksums.map(|part| part.json("checksums")).transpose()?;
    let crc32c = |part: &Value| part["crc32c"].as_str().map(str::to_owned);
    let crc32c = crc32c(&metadata).or_else(|| checksums.as_ref().and_then(crc32c));
    Ok(Upload { metadata, media: media.body.to_vec(), crc32c })
}

struct Part<'a> {
    head: String,
    body: &'a [u8],
}

impl Part<'_> {
    fn json(&self, name: &str) -> Result<Value, String> {
        if !self.head.to_ascii_lowercase().contains("content-type: application/json") {
            return Err(format!("the {name} are not called JSON: {:?}", self.head));
        }
        serde_json::from_slice(self.body).map_err(|error| format!("the {name} are no JSON: {error}"))
    }
}

fn parts<'a>(boundary: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, String> {
    let opening = format!("--{boundary}\r\n").into_bytes();
    let between = format!("\r\n--{boundary}").into_bytes();
    let mut rest = body.strip_prefix(&opening[..]).ok_or("the body does not begin with the boundary")?;
    let mut parts = Vec::new();
    loop {
        let (head, after) = cut(rest, b"\r\n\r\n").ok_or("a part without an end of its head")?;
        let (body, after) = cut(after, &between).ok_or("a part without an end")?;
        parts.push(Part { head: String::from_utf8_lossy(head).into_owned(), body });
        match after {
            b"--" | b"--\r\n" => return Ok(parts),
            _ => rest = after.strip_prefix(b"\r\n").ok_or("no line ends after a boundary")?,
        }
    }
}

/// Returns the bytes before and after the first `mark`.
fn cut<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    Some((&text[..at], &text[at + mark.len()..]))
}

/// CRC32C (Castagnoli) as Google writes it: four bytes, the highest first, in base64.
pub(super) fn crc32c(bytes: &[u8]) -> String {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    let crc = bytes.iter().fold(!0_u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step));
    STANDARD.encode((!crc).to_be_bytes())
}
