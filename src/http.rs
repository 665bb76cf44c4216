//! The HTTP policy of every client: time-outs, bounded bodies, no redirects, and no raw foreign text in the log.
//!
//! The client never waits or retries. A call returns a [`Reply`], or an [`Error`] that names the address. The caller decides what a status
//! means.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
pub use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use crate::component::Component;
use crate::failure::Class;
use crate::telemetry::metrics::{Exchange, Metrics};
use crate::variable_name::VariableName;

mod excerpt;
mod tls;
pub(crate) mod variables;

pub use excerpt::{Excerpt, Redaction};
#[cfg(feature = "receiver")]
pub(crate) use tls::Kept;
use tls::Rotating;
#[cfg(feature = "teleport")]
pub(crate) use tls::fault as tls_fault;
pub use tls::{PemError, PemFile, Tls, TlsError, TlsFault};

/// The User-Agent of every request.
pub const USER_AGENT: &str = concat!("auditsync/", env!("CARGO_PKG_VERSION"));

/// The longest time to connect. The configured time-out bounds the whole exchange.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long an unused connection is kept, unless a component sets its own time.
const IDLE: Duration = Duration::from_secs(50);

/// The longest time for a long answer that arrives without a pause.
const LONGEST_TRANSFER: Duration = Duration::from_secs(6 * 3600);

/// The most bytes to allocate because an answer announces them. Memory for more is allocated as they arrive.
const LARGEST_TO_BELIEVE: usize = 8 * 1024 * 1024;

/// Time-outs of an HTTP client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The longest time for one exchange, from the connection to the last byte of the answer.
    pub timeout: Duration,
    /// The variable that sets the time-out, for messages.
    pub timeout_variable: VariableName,
}

/// How the connections of a component differ from the usual ones.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    /// The component's certificate authority and client certificate.
    pub tls: Tls,
    /// How long an unused connection is kept, which must be shorter than the server keeps it. None: the usual time.
    pub idle: Option<Duration>,
    /// Whether to offer only HTTP/1.1.
    pub http1_only: bool,
}

/// An address that is safe to show: without user, password or query.
#[derive(Debug, Clone)]
pub struct Address(String);

impl Address {
    /// Makes the address of `url`.
    pub fn of(url: &Url) -> Self {
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        // Both calls succeed on an address with a host, and one without a host has nothing to hide.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        Self(shown.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A complete answer with any status except a redirect.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
}

impl Reply {
    /// The server's own time, from `Date` (RFC 9110, 6.6.1); whole seconds.
    pub fn date(&self) -> Option<jiff::Timestamp> {
        let date = httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()?;
        jiff::Timestamp::try_from(date).ok()
    }

    /// How long the server wants us to wait: `Retry-After`, in seconds or as a date. A date counts from the server's own `Date` (RFC 9110,
    /// 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
        }
        let until = jiff::Timestamp::try_from(httpdate::parse_http_date(value).ok()?).ok()?;
        Some(Duration::try_from(until.duration_since(self.date()?)).unwrap_or_default())
    }
}

/// Why a call got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client could not be set up.
    #[error("cannot set up HTTP; install the system's certificate authorities, or set SSL_CERT_FILE")]
    Setup(#[source] reqwest::Error),
    /// The program was built without TLS.
    #[error("this build cannot call {address}: it has no TLS; build it with the feature `tls`, which is on by default")]
    NoTls {
        /// The address of the call.
        address: Address,
    },
    /// The component's TLS files cannot be used.
    #[error("TLS cannot be set up; check {}", .0.variable())]
    Tls(#[source] TlsError),
    /// No connection, or a connection that broke before an answer began.
    #[error("no answer from {address}")]
    Unanswered {
        /// The address of the call.
        address: Address,
        /// The error of the client.
        #[source]
        cause: reqwest::Error,
    },
    /// The connection was open, but the whole answer did not arrive in time.
    #[error("{address} did not send its whole answer within {timeout}; if it needs longer, raise {variable}")]
    TimedOut {
        /// The address of the call.
        address: Address,
        /// The longest time for an exchange.
        timeout: humantime::FormattedDuration,
        /// The variable that sets it.
        variable: VariableName,
    },
    /// The answer began but did not arrive whole.
    #[error("the answer from {address} broke off")]
    BrokenOff {
        /// The address of the call.
        address: Address,
        /// The error of the client.
        #[source]
        cause: reqwest::Error,
    },
    /// The decompressed body was larger than the bound.
    #[error("the answer from {address} is larger than {limit} bytes")]
    TooLarge {
        /// The address of the call.
        address: Address,
        /// The bound, in bytes after decompression.
        limit: usize,
    },
    /// The body could not be written to the disk.
    #[error("cannot write an answer to the temporary folder; set TMPDIR to another folder")]
    Unsaved(#[source] std::io::Error),
    /// A redirect, which is never followed, since our credentials and events are only for the configured address.
    #[error("{address} answered {status}, a redirect to {location}, which is not followed")]
    Redirected {
        /// The address of the call.
        address: Address,
        /// The redirect's status.
        status: StatusCode,
        /// The target of the redirect.
        location: Excerpt,
    },
}

impl Error {
    /// The class of the error, for a component that knows nothing more specific.
    pub fn class(&self) -> Class {
        match self {
            Self::Setup(_) | Self::NoTls { .. } => Class::Fatal,
            Self::Redirected { .. } | Self::Tls(_) => Class::Refused,
            Self::TooLarge { .. } => Class::Unreadable,
            Self::Unanswered { .. } | Self::TimedOut { .. } | Self::BrokenOff { .. } | Self::Unsaved(_) => {
                Class::Retryable { after: None }
            }
        }
    }

    /// Whether the server may have received the request although we have no answer.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Unanswered { cause, .. } => !cause.is_connect() && !cause.is_builder(),
            Self::TimedOut { .. } | Self::BrokenOff { .. } | Self::TooLarge { .. } | Self::Unsaved(_) => true,
            Self::Setup(_) | Self::NoTls { .. } | Self::Tls(_) | Self::Redirected { .. } => false,
        }
    }

    /// The TLS fault that the failure shows, if any.
    pub fn tls_fault(&self) -> Option<TlsFault> {
        match self {
            Self::Unanswered { cause, .. } | Self::BrokenOff { cause, .. } => tls::fault(cause),
            _ => None,
        }
    }
}

/// The HTTP client of a pipeline, with connections of its own.
///
/// It makes each of its two inner clients at the first call. So a process that makes no calls does not read the trust store.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    metrics: Metrics,
    connections: Connections,
    encrypted: Rotating,
    plain: OnceLock<reqwest::Client>,
}

impl Client {
    /// Makes a client with these time-outs. `metrics` counts its exchanges.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self::of(settings, metrics, Connections::default())
    }

    fn of(settings: Settings, metrics: Metrics, connections: Connections) -> Self {
        let encrypted = Rotating::new(connections.tls.clone());
        Self { settings, metrics, connections, encrypted, plain: OnceLock::new() }
    }

    /// The time-outs of every client of the pipeline.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes a client of the same pipeline for one component, with such connections.
    pub fn with(&self, connections: Connections) -> Self {
        Self::of(self.settings.clone(), self.metrics.clone(), connections)
    }

    /// The client for a component with these TLS files: this one if there are none.
    pub(crate) fn with_tls(self: &Arc<Self>, tls: Tls) -> Arc<Self> {
        if tls.is_default() {
            return Arc::clone(self);
        }
        Arc::new(self.with(Connections { tls, ..Connections::default() }))
    }

    /// Makes a request to `url`, for the caller to complete and pass to [`Self::exchange`].
    ///
    /// The proxy variables apply only to `https`. An `http` address is a loopback host or a local relay, and its clear text must not pass
    /// through another machine.
    pub fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, Error> {
        let encrypted = url.scheme() == "https";
        if encrypted && !cfg!(feature = "tls") {
            return Err(Error::NoTls { address: Address::of(&url) });
        }
        let client = match self.plain.get() {
            _ if encrypted => &self.encrypted.client(|| self.builder())?,
            Some(client) => client,
            None => {
                let client = self.builder().no_proxy().build().map_err(Error::Setup)?;
                self.plain.get_or_init(|| client)
            }
        };
        Ok(client.request(method, url))
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(self.settings.timeout))
            .timeout(self.settings.timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .pool_idle_timeout(self.connections.idle.unwrap_or(IDLE));
        if self.connections.http1_only { builder.http1_only() } else { builder }
    }

    /// Makes one call to `server` and waits for the head of its answer. A redirect is an error, which shows the target without the `hidden`
    /// secrets.
    pub async fn send(
        &self,
        server: Component,
        request: RequestBuilder,
        address: &Address,
        hidden: &Redaction,
    ) -> Result<Answer, Error> {
        let mut exchange = self.metrics.exchange(server);
        let timed_out = self.timed_out(address);
        let response = match request.send().await {
            Ok(response) => response,
            Err(cause) if cause.is_timeout() && !cause.is_connect() => return Err(timed_out),
            // The client's own error text would show the address with its query.
            Err(cause) => return Err(Error::Unanswered { address: address.clone(), cause: cause.without_url() }),
        };
        let status = response.status();
        exchange.answered(status.as_u16());
        if status.is_redirection() {
            let location = response.headers().get(LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
            let location = redirect(address, location, hidden);
            return Err(Error::Redirected { address: address.clone(), status, location });
        }
        Ok(Answer { address: address.clone(), response, exchange, timeout: self.settings.timeout, timed_out })
    }

    /// Makes a call with an answer that may be long. The time-out bounds the wait for its head, and [`Answer::save`] bounds each wait after
    /// it.
    pub async fn send_for_long(
        &self,
        server: Component,
        request: RequestBuilder,
        address: &Address,
        hidden: &Redaction,
    ) -> Result<Answer, Error> {
        let sending = self.send(server, request.timeout(LONGEST_TRANSFER), address, hidden);
        match tokio::time::timeout(self.settings.timeout, sending).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out(address)),
        }
    }

    fn timed_out(&self, address: &Address) -> Error {
        Error::TimedOut {
            address: address.clone(),
            timeout: humantime::format_duration(self.settings.timeout),
            variable: self.settings.timeout_variable.clone(),
        }
    }

    /// Makes one call to `server` and reads its whole answer, up to `limit` bytes after decompression.
    pub async fn exchange(
        &self,
        server: Component,
        request: RequestBuilder,
        address: &Address,
        limit: usize,
        hidden: &Redaction,
    ) -> Result<Reply, Error> {
        self.send(server, request, address, hidden).await?.whole(limit).await
    }
}

/// An answer with its status and headers, before its body.
#[derive(Debug)]
pub struct Answer {
    address: Address,
    response: reqwest::Response,
    exchange: Exchange,
    timeout: Duration,
    /// The error for a rest that does not arrive in time.
    timed_out: Error,
}

/// The target of a redirect, safe to show. It may repeat our request with user, password and query.
fn redirect(address: &Address, location: &[u8], hidden: &Redaction) -> Excerpt {
    let location = hidden.apply(&String::from_utf8_lossy(location));
    let shown = match Url::parse(&address.0).and_then(|base| base.join(&location)) {
        Ok(url) => Address::of(&url).0,
        Err(_) => String::new(),
    };
    Excerpt::of(shown.as_bytes(), hidden)
}

impl Answer {
    /// Reads the whole answer. Its body must arrive complete and within `limit` bytes after decompression.
    pub async fn whole(mut self, limit: usize) -> Result<Reply, Error> {
        let announced = self.response.content_length().and_then(|length| usize::try_from(length).ok());
        let mut body = BytesMut::with_capacity(announced.unwrap_or(0).min(limit).min(LARGEST_TO_BELIEVE));
        loop {
            match self.response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                    return Err(Error::TooLarge { address: self.address, limit });
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(self.reply(body)),
                Err(cause) => {
                    self.exchange.broke_off();
                    return Err(self.cut_short(cause));
                }
            }
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Writes the body, of at most `limit` bytes after decompression, to `out` as it arrives, and returns the number of bytes. The time-out
    /// bounds each wait for the next part.
    pub async fn save(mut self, limit: u64, out: &mut (impl std::io::Write + Send)) -> Result<u64, Error> {
        let mut length = 0_u64;
        loop {
            let chunk = match tokio::time::timeout(self.timeout, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(length),
                Ok(Err(cause)) => {
                    self.exchange.broke_off();
                    return Err(self.cut_short(cause));
                }
                Err(_) => {
                    self.exchange.broke_off();
                    return Err(self.timed_out);
                }
            };
            length += chunk.len() as u64;
            if length > limit {
                return Err(Error::TooLarge {
                    address: self.address,
                    limit: usize::try_from(limit).unwrap_or(usize::MAX),
                });
            }
            out.write_all(&chunk).map_err(Error::Unsaved)?;
        }
    }

    /// Reads the body until it has more than `enough` bytes or no more arrives, for answers whose status says nearly everything. Also returns
    /// why the rest is missing, if it is.
    pub async fn beginning(mut self, enough: usize) -> (Reply, Option<Error>) {
        let mut body = BytesMut::new();
        // The request's own time-out may be hours.
        let deadline = tokio::time::Instant::now() + self.timeout;
        let missing = loop {
            match tokio::time::timeout_at(deadline, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => break None,
                Ok(Err(cause)) => break Some(cause),
                Err(_) => return (self.reply(body), Some(self.timed_out)),
            }
            if body.len() > enough {
                let missing = Error::TooLarge { address: self.address.clone(), limit: enough };
                return (self.reply(body), Some(missing));
            }
        };
        let reply = self.reply(body);
        (reply, missing.map(|cause| self.cut_short(cause)))
    }

    /// The error for an answer that did not arrive whole.
    fn cut_short(self, cause: reqwest::Error) -> Error {
        if cause.is_timeout() {
            return self.timed_out;
        }
        Error::BrokenOff { address: self.address, cause: cause.without_url() }
    }

    fn reply(&self, body: BytesMut) -> Reply {
        let status = self.response.status();
        let headers = self.response.headers().clone();
        Reply { status, headers, body: body.freeze() }
    }
}

/// A key as a header value. The configuration takes only keys that a header can carry; any other would be sent empty, and rejected.
pub(crate) fn sensitive(key: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::from_str(key.expose_secret()).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// The address of `path` below the address `base`.
pub(crate) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// Whether an answer's type is HTML: a portal or a proxy sent it, and not an API.
pub fn is_web_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/html")
}

/// Whether `url` leads to this machine, so that plain `http` shows a secret to nobody else.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(headers: &[(&'static str, &str)]) -> Reply {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Reply { status: StatusCode::SERVICE_UNAVAILABLE, headers, body: Bytes::new() }
    }

    #[tokio::test]
    async fn the_beginning_of_an_error_is_waited_for_no_longer_than_the_time_out() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            connection.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
            std::future::pending::<()>().await;
        });
        let settings =
            Settings { timeout: Duration::from_secs(60), timeout_variable: variables::TIMEOUT.spec.name.into() };
        let client = Client::new(settings, Metrics::of(&"here:there".into()));
        let (address, hidden) = (Address::of(&url), Redaction::none());
        let request = client.request(Method::GET, url).unwrap();
        let answer = client.send_for_long(Component::Source, request, &address, &hidden).await.unwrap();
        // The head may take a minute on a busy machine. From here on, tokio's clock jumps to the end of each wait.
        tokio::time::pause();
        let beginning = tokio::time::timeout(Duration::from_secs(90), answer.beginning(1000));
        let (reply, missing) = beginning.await.expect("it ends by itself");
        assert_eq!(&reply.body[..], b"abc");
        assert!(matches!(missing, Some(Error::TimedOut { .. })), "{missing:?}");
        server.abort();
    }

    #[test]
    fn an_address_shows_neither_password_nor_query() {
        let url = Url::parse("https://me:pw@audit.example.com:8443/api?token=abc#x").unwrap();
        assert_eq!(Address::of(&url).to_string(), "https://audit.example.com:8443/api");
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(reply(&[("retry-after", "120")]).retry_after(), Some(Duration::from_secs(120)));
        let dated =
            reply(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]);
        assert_eq!(dated.retry_after(), Some(Duration::from_secs(60)));
        let past =
            reply(&[("date", "Sun, 06 Nov 1994 08:50:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(past.retry_after(), Some(Duration::ZERO));
        assert_eq!(reply(&[("retry-after", "soon")]).retry_after(), None);
        assert_eq!(
            reply(&[("retry-after", "99999999999999999999")]).retry_after(),
            Some(Duration::from_secs(u64::MAX))
        );
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, expected) in [
            ("http://localhost:1", true),
            ("http://127.8.0.1", true),
            ("http://[::1]", true),
            ("http://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("http://0.0.0.0", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
