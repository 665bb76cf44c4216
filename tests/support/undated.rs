//! Answers without a `Date` header.
//!
//! hyper, the HTTP library below axum, writes one into every answer that has none, and axum has no setting against
//! that. So the header gets another name of the same length on its way to the client.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

const DATE: &[u8] = b"\r\ndate: ";
const RENAMED: &[u8] = b"\r\nx-at: ";

/// The position of the header, if these bytes begin with the head of an answer.
fn date_header(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(b"HTTP/1.1 ") {
        return None;
    }
    bytes.windows(DATE.len()).position(|window| window == DATE)
}

/// A listener whose connections rename the `Date` header.
pub(super) struct Undated(pub(super) TcpListener);

impl Listener for Undated {
    type Io = UndatedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UndatedStream, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        (UndatedStream(stream), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

pub(super) struct UndatedStream(TcpStream);

impl AsyncWrite for UndatedStream {
    // Vectored writes stay off (the default), so an answer's head arrives here in one piece.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let Some(at) = date_header(bytes) {
            let mut renamed = bytes.to_vec();
            renamed[at..at + RENAMED.len()].copy_from_slice(RENAMED);
            stream.poll_write(cx, &renamed)
        } else {
            stream.poll_write(cx, bytes)
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for UndatedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}
