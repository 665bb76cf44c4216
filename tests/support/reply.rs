//! The answers of a server: a whole one, half of one, far too much, or none at all.

use std::{io, iter};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::task::yield_now;

use super::encoding;

/// A whole answer, complete before its first byte is sent.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

impl Reply {
    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::typed(status, "application/json", body)
    }

    pub(super) fn html(status: u16, body: impl Into<Bytes>) -> Self {
        Self::typed(status, "text/html; charset=utf-8", body)
    }

    pub(super) fn of(status: u16, content_type: Option<&str>, body: impl Into<Bytes>) -> Self {
        let headers = content_type.map(|kind| (header::CONTENT_TYPE, kind.to_owned())).into_iter().collect();
        Self { status, headers, body: body.into() }
    }

    fn typed(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::of(status, Some(content_type), body)
    }

    /// An error with its text in the places where both protocols look for it.
    pub(super) fn error(status: u16, text: &str) -> Self {
        let errors = json!([{ "status": status.to_string(), "title": "Error", "detail": text }]);
        let body = json!({
            "error": text, "error_description": text, "message": text, "errors": errors
        });
        Self::json(status, body.to_string())
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn gzipped(mut self) -> Self {
        self.body = encoding::gzip(&self.body).into();
        self.header(header::CONTENT_ENCODING, "gzip")
    }
}

/// How a request ends.
pub(super) enum Answer {
    Whole(Reply),
    /// The head promises the whole body, the connection closes halfway through it.
    Truncated(Reply),
    /// A valid JSON array of this many bytes, generated while it is sent.
    Huge {
        bytes: usize,
        gzip: bool,
    },
    /// The connection closes without an answer.
    None,
}

impl Answer {
    /// The status that the client sees.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Whole(reply) | Self::Truncated(reply) => Some(reply.status),
            Self::Huge { .. } => Some(200),
            Self::None => None,
        }
    }

    pub(super) fn into_response(self) -> Response {
        match self {
            Self::Whole(reply) => {
                let Reply { status, headers, body } = reply;
                response(status, headers, Body::from(body))
            }
            Self::Truncated(reply) => truncated(reply),
            Self::Huge { bytes, gzip } => huge(bytes, gzip),
            Self::None => hang_up(),
        }
    }
}

/// A response that closes the connection before its first byte.
///
/// Its body fails at the first read, and hyper reads it before it flushes the head.
pub(super) fn hang_up() -> Response {
    let body = stream::iter([Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset))]);
    Response::new(Body::from_stream(body))
}

fn truncated(reply: Reply) -> Response {
    let Reply { status, mut headers, body } = reply;
    headers.push((header::CONTENT_LENGTH, body.len().to_string()));
    let half = body.slice(..body.len() / 2);
    let broken_off = stream::once(async {
        // The first half leaves before the connection closes.
        yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    let body = stream::iter([Ok(half)]).chain(broken_off);
    response(status, headers, Body::from_stream(body))
}

/// A JSON array with one long record in it.
fn huge(bytes: usize, gzip: bool) -> Response {
    const OPEN: &[u8] = br#"[{"id":"huge","details":""#;
    const CLOSE: &[u8] = br#""}]"#;
    static FILLER: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let details = bytes.saturating_sub(OPEN.len() + CLOSE.len());
    let (times, rest) = (details / FILLER.len(), details % FILLER.len());
    let close = [&FILLER[..rest], CLOSE].concat();

    let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
    let pieces: Box<dyn Iterator<Item = Bytes> + Send> = if gzip {
        headers.push((header::CONTENT_ENCODING, "gzip".to_owned()));
        Box::new(encoding::gzip_repeated(OPEN, &FILLER, times, &close))
    } else {
        let filler = iter::repeat_n(Bytes::from_static(&FILLER), times);
        Box::new(iter::once(Bytes::from_static(OPEN)).chain(filler).chain([close.into()]))
    };
    let body = stream::iter(pieces).then(|piece| async {
        // Other tasks get their turn, and the client can hang up early.
        yield_now().await;
        Ok::<_, io::Error>(piece)
    });
    response(200, headers, Body::from_stream(body))
}

fn response(status: u16, headers: Vec<(HeaderName, String)>, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status from 100 to 999");
    for (name, value) in headers {
        let value = HeaderValue::try_from(value).expect("text that may stand in a header");
        response.headers_mut().insert(name, value);
    }
    response
}
