//! Connects to an Auth Service: directly or through a Proxy of Teleport, and through an HTTP proxy if the environment
//! names one.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::identity::{HTTP2, Identity, SERVER_NAME};
use super::variables::Address;

/// The longest wait for a server's first bytes, in case it waits for us to begin.
const FIRST_BYTES: Duration = Duration::from_secs(2);

/// A connection that carries bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Wire = TokioIo<Box<dyn Stream>>;
type Cause = Box<dyn StdError + Send + Sync>;

/// Waits for the first bytes of the server, which begins with its settings. In TLS 1.3, the client's handshake ends
/// before the server has seen the client's certificate, so a refusal is the first thing to read. If the client had sent
/// more before, a reset could arrive instead of the refusal.
async fn begin(mut stream: TlsStream<Box<dyn Stream>>) -> Result<Box<dyn Stream>, DialError> {
    let mut first = vec![0; 4096];
    match timeout(FIRST_BYTES, stream.read(&mut first)).await {
        Ok(Ok(0)) => return Err(DialError::Handshake(io::ErrorKind::UnexpectedEof.into())),
        Ok(Ok(length)) => first.truncate(length),
        Ok(Err(cause)) => return Err(DialError::Handshake(cause)),
        Err(_) => first.clear(),
    }
    let (read, write) = split(stream);
    Ok(Box::new(join(io::Cursor::new(first).chain(read), write)))
}

/// A reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The server, or the proxy before it, cannot be reached.
    #[error("cannot connect")]
    Unreached(#[source] Cause),
    /// The proxy that the environment names does not open a tunnel.
    #[error("the proxy {proxy} opens no tunnel; check HTTPS_PROXY and NO_PROXY")]
    NoTunnel {
        proxy: String,
        #[source]
        cause: Cause,
    },
    /// The server closed the connection before the TLS handshake was done, as a Proxy does without a route.
    #[error("it closed the connection in the TLS handshake")]
    Closed,
    /// The TLS handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// TLS works, but not with an Auth Service.
    #[error("it does not speak HTTP/2 for an Auth Service")]
    NotHttp2,
}

/// Connects to `address` and completes the TLS handshake.
pub(super) async fn dial(
    address: &Address,
    identity: &Identity,
    matcher: &Matcher,
) -> Result<Box<dyn Stream>, DialError> {
    let target: Uri = format!("https://{address}").parse().map_err(|cause| DialError::Unreached(Box::new(cause)))?;
    let stream = match matcher.intercept(&target) {
        None => tcp(&address.host, address.port).await.map_err(|cause| DialError::Unreached(cause.into()))?,
        Some(proxy) => tunnel(proxy, target).await?,
    };
    let name = ServerName::try_from(SERVER_NAME).map_err(|cause| DialError::Unreached(Box::new(cause)))?;
    let stream = TlsConnector::from(Arc::clone(&identity.tls)).connect(name, stream).await;
    let stream = stream.map_err(|cause| match cause.kind() {
        io::ErrorKind::UnexpectedEof => DialError::Closed,
        _ => DialError::Handshake(cause),
    })?;
    if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
        return Err(DialError::NotHttp2);
    }
    begin(stream).await
}

async fn tcp(host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Opens a tunnel to `target` through `proxy`, by CONNECT (RFC 9110, 9.3.6).
async fn tunnel(proxy: Intercept, target: Uri) -> Result<Box<dyn Stream>, DialError> {
    let uri = proxy.uri().clone();
    let shown = uri.authority().map(|authority| {
        let text = authority.as_str();
        text.rsplit_once('@').map_or(text, |(_, address)| address).to_owned()
    });
    let mut tunnel = Tunnel::new(uri, ToProxy);
    if let Some(credentials) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(credentials.clone());
    }
    let opened = tunnel.call(target).await;
    opened
        .map(TokioIo::into_inner)
        .map_err(|cause| DialError::NoTunnel { proxy: shown.unwrap_or_default(), cause: Box::new(cause) })
}

/// Connects to a proxy; with TLS to one under `https`, and with the system's certificate authorities.
struct ToProxy;

impl Service<Uri> for ToProxy {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        Box::pin(async move {
            let is_encrypted = proxy.scheme_str() == Some("https");
            let host = proxy.host().unwrap_or_default();
            let stream = tcp(host, proxy.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 })).await?;
            if !is_encrypted {
                return Ok(TokioIo::new(stream));
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = rustls::ClientConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
            let tls = builder.with_platform_verifier().map_err(io::Error::other)?.with_no_client_auth();
            let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(name).map_err(io::Error::other)?;
            let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
            Ok(TokioIo::new(Box::new(stream)))
        })
    }
}
