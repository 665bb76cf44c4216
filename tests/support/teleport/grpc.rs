//! gRPC over HTTP/2, by hand (`github.com/grpc/grpc`, PROTOCOL-HTTP2), so that a test can break it anywhere.

use std::io;
use std::pin::Pin;

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::{HeaderMap, Response};

pub(super) type Frames = Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>;
pub(super) type Body = StreamBody<Frames>;

/// A status other than success, with a text and a wait in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) code: i32,
    pub(super) message: String,
    pub(super) pushback: Option<u64>,
}

impl Status {
    pub(super) fn new(code: i32, message: &str) -> Self {
        Self { code, message: message.to_owned(), pushback: None }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", self.code.into());
        let message = self.message.replace('%', "%25").replace('\n', "%0A");
        headers.insert("grpc-message", message.parse().expect("a header"));
        if let Some(wait) = self.pushback {
            headers.insert("grpc-retry-pushback-ms", wait.into());
        }
        headers
    }
}

/// The one message of a request.
pub(super) fn message(body: &Bytes) -> Option<Bytes> {
    let mut body = body.clone();
    if body.len() < 5 || body.get_u8() != 0 {
        return None;
    }
    let length = body.get_u32() as usize;
    (body.len() == length).then_some(body)
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a message of less than 4 GiB").to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

fn response(frames: impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(Box::pin(frames) as Frames);
    Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
}

fn trailers(status: &Status) -> Frame<Bytes> {
    Frame::trailers(status.headers())
}

/// Messages as they come, and then the end of the answer: a status, or a break.
pub(super) fn streaming(
    messages: impl Stream<Item = Vec<u8>> + Send + 'static,
    end: Result<Status, io::Error>,
) -> Response<Body> {
    let messages = messages.map(|message| Ok(Frame::data(framed(&message))));
    response(messages.chain(stream::once(async move { end.map(|status| trailers(&status)) })))
}

/// One message.
pub(super) fn unary(message: Vec<u8>) -> Response<Body> {
    streaming(stream::iter([message]), Ok(Status::new(0, "")))
}

/// Half a message.
pub(super) fn broken_off(message: &[u8]) -> Response<Body> {
    let framed = framed(message);
    let half = framed.slice(..framed.len() / 2);
    response(stream::iter([Ok(Frame::data(half)), Err(io::Error::other("broken off"))]))
}

/// A status alone.
pub(super) fn refused(status: &Status) -> Response<Body> {
    let mut response = response(stream::empty());
    response.headers_mut().extend(status.headers());
    response
}
