//! A certificate manager that costs little: the token endpoint and the pages of a [`Backlog`].
//!
//! A page token says itself where it leads. Whatever breaks the documented protocol is written down and fails the measurement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;

use crate::backlog::Backlog;
use crate::server::{Server, answer_after};

/// The access token that is good. The size of a real one: it is sent with every request.
pub const ACCESS_TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6ImF1ZGl0IiwiYXpwIjoiYXVkaXQtY2xpZW50In0.",
    "c2lnbmVkIGJ5IG5vYm9keSwgdGFrZW4gYnkgYSBtZWFzdXJlbWVudCwgYW5kIGdvb2QgZm9yIG5vdGhpbmcgZWxzZSBpbiB0aGUgd29ybGQ"
);

const RECORDS: &str = "/api/v1/records";
const TOKENS: &str = "/auth/realms/apiclients/protocol/openid-connect/token";

/// What the source has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub requests: usize,
    /// The first request of all.
    pub first_request: Option<SystemTime>,
    /// The first that was answered with a page.
    pub first_page: Option<Instant>,
    /// Bytes of all pages.
    pub bytes: u64,
    pub breaches: Vec<String>,
}

pub struct Source {
    backlog: Arc<Backlog>,
    page_size: usize,
    latency: Duration,
    url: String,
    seen: Mutex<Seen>,
}

#[derive(Deserialize)]
struct Question {
    from: Option<Timestamp>,
    to: Timestamp,
    token: Option<String>,
}

impl Source {
    /// A source that shows `backlog` in pages of `page_size`, each answer after `latency`.
    pub async fn start(
        backlog: Arc<Backlog>,
        page_size: usize,
        latency: Duration,
    ) -> std::io::Result<(Server, Arc<Self>)> {
        let mut source = None;
        let server = Server::start(|url| {
            let made = Arc::new(Self { backlog, page_size, latency, url: url.to_owned(), seen: Mutex::default() });
            source = Some(Arc::clone(&made));
            Router::new().route(RECORDS, get(records)).route(TOKENS, post(token)).with_state(made)
        })
        .await?;
        Ok((server, source.expect("made with the routes")))
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn arrived(&self) -> Instant {
        self.note(|seen| {
            seen.requests += 1;
            seen.first_request.get_or_insert_with(SystemTime::now);
        });
        Instant::now()
    }

    /// A page and the token of the next one.
    fn page(&self, question: &Question) -> Result<(Vec<u8>, Option<String>), String> {
        let to = question.to.as_second();
        let (next, end) = match (&question.token, question.from) {
            (None, Some(from)) => {
                let range = self.backlog.range(from, question.to);
                (range.start, range.end)
            }
            (Some(token), None) => {
                let numbers: Option<Vec<i64>> = token.split('.').map(|number| number.parse().ok()).collect();
                match numbers.as_deref() {
                    Some(&[next, end, issued_for]) if issued_for == to => {
                        (usize::try_from(next).map_err(text)?, usize::try_from(end).map_err(text)?)
                    }
                    _ => return Err(format!("the page token {token:?} with to={}", question.to)),
                }
            }
            _ => return Err("not exactly one of `from` and `token`".into()),
        };
        let last = end.min(next + self.page_size);
        let token = (next < last).then(|| format!("{last}.{end}.{to}"));
        Ok((self.backlog.page(next..last), token))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn records(State(source): State<Arc<Source>>, question: Query<Question>, headers: HeaderMap) -> Response {
    let arrival = source.arrived();
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if authorization.and_then(|value| value.strip_prefix("Bearer ")) != Some(ACCESS_TOKEN) {
        answer_after(source.latency, arrival).await;
        let challenge = format!("Bearer realm=\"audit\", authorization_uri=\"{}{TOKENS}\"", source.url);
        return answer(StatusCode::UNAUTHORIZED, &[("www-authenticate", &challenge)], "{}");
    }
    source.note(|seen| _ = seen.first_page.get_or_insert(arrival));
    match source.page(&question) {
        Ok((page, next)) => {
            source.note(|seen| seen.bytes += page.len() as u64);
            answer_after(source.latency, arrival).await;
            let header = next.as_deref().map(|token| ("token", token));
            answer(StatusCode::OK, header.as_slice(), page)
        }
        Err(breach) => {
            source.note(|seen| seen.breaches.push(breach.clone()));
            answer(StatusCode::BAD_REQUEST, &[], breach)
        }
    }
}

async fn token(State(source): State<Arc<Source>>) -> Response {
    let arrival = source.arrived();
    answer_after(source.latency, arrival).await;
    let granted = format!(r#"{{"access_token":"{ACCESS_TOKEN}","expires_in":3600,"token_type":"Bearer"}}"#);
    answer(StatusCode::OK, &[], granted)
}

fn answer(status: StatusCode, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).expect("a sound response")
}
