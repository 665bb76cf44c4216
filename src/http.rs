//! One HTTP policy for every client: time-outs, bounded bodies, no redirect followed, nothing foreign logged raw.
//!
//! Nothing here waits or tries again. A call gives a [`Reply`] or an [`Error`] that names the place; what a status
//! means belongs to whoever called.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{DATE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, StatusCode};
use url::{Host, Url};

mod excerpt;

pub use excerpt::{Excerpt, Redaction};

/// What identifies us to servers.
pub const USER_AGENT: &str = concat!("auditsync/", env!("CARGO_PKG_VERSION"));

/// The longest time to get a connection; the configured time-out bounds the whole exchange.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Time-outs of the HTTP clients.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The longest time for one exchange, from the connection to the last byte of the answer.
    pub timeout: Duration,
}

/// Where a call goes, fit to be shown: an address without user, password or query.
#[derive(Debug, Clone)]
pub struct Place(String);

impl Place {
    /// The place of `url`.
    pub fn of(url: &Url) -> Self {
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        // Neither fails on an address that has a host; on one without there is nothing to hide.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        Self(shown.into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A complete answer, whatever its status (redirects excepted).
#[derive(Debug)]
pub struct Reply {
    /// The status line's code.
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

    /// How long the server asks us to wait: `Retry-After` in seconds or as a date, which is read against the
    /// server's own `Date` (RFC 9110, 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let until = jiff::Timestamp::try_from(httpdate::parse_http_date(value).ok()?).ok()?;
        Some(Duration::try_from(until.duration_since(self.date()?)).unwrap_or_default())
    }
}

/// Why a call has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client could be made.
    #[error("cannot set up HTTP (is the system's trust store in place? SSL_CERT_FILE names another)")]
    Setup(#[source] reqwest::Error),
    /// No connection, or it broke before an answer began.
    #[error("no answer from {place}")]
    Unanswered {
        /// Where the call went.
        place: Place,
        /// What the client saw.
        #[source]
        cause: reqwest::Error,
    },
    /// The answer began but did not arrive whole.
    #[error("the answer from {place} broke off")]
    BrokenOff {
        /// Where the call went.
        place: Place,
        /// What the client saw.
        #[source]
        cause: reqwest::Error,
    },
    /// The body, once decompressed, passed the bound.
    #[error("the answer from {place} is larger than {limit} bytes")]
    TooLarge {
        /// Where the call went.
        place: Place,
        /// The bound, in bytes after decompression.
        limit: usize,
    },
    /// A redirect, which is never followed: what we carry is meant for the configured place alone.
    #[error("{place} answered {status}, a redirect to {location}, which is not followed")]
    Redirected {
        /// Where the call went.
        place: Place,
        /// The redirect's status.
        status: StatusCode,
        /// Where it pointed to.
        location: Excerpt,
    },
}

/// A client for calls to `url`.
///
/// The proxy variables hold for `https` alone: `http` is only ever a loopback host or a local relay, and what goes there
/// in clear must not pass another machine.
pub fn client(settings: Settings, url: &Url) -> Result<Client, Error> {
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
        .timeout(settings.timeout)
        .tcp_keepalive(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(50));
    if url.scheme() == "http" {
        builder = builder.no_proxy();
    }
    builder.build().map_err(Error::Setup)
}

/// Makes one call and reads its answer whole, up to `limit` bytes after decompression.
pub async fn exchange(request: RequestBuilder, place: &Place, limit: usize) -> Result<Reply, Error> {
    let unanswered = |cause: reqwest::Error| Error::Unanswered { place: place.clone(), cause: cause.without_url() };
    let mut response = request.send().await.map_err(unanswered)?;
    let (status, headers) = (response.status(), response.headers().clone());
    if status.is_redirection() {
        let location = headers.get(LOCATION).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let location = Excerpt::of(&location, &Redaction::none());
        return Err(Error::Redirected { place: place.clone(), status, location });
    }
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                return Err(Error::TooLarge { place: place.clone(), limit });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(Reply { status, headers, body: body.freeze() }),
            Err(cause) => return Err(Error::BrokenOff { place: place.clone(), cause: cause.without_url() }),
        }
    }
}

/// Whether `url` leads to this machine itself, so that plain `http` shows a secret to nobody.
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

    #[test]
    fn a_place_shows_neither_password_nor_query() {
        let url = Url::parse("https://me:pw@audit.example.com:8443/api?token=abc#x").unwrap();
        assert_eq!(Place::of(&url).to_string(), "https://audit.example.com:8443/api");
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
