//! `GET /api/v1/records`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::Response;
use jiff::Timestamp;

use super::super::encoding;
use super::super::fault::{self, Requested};
use super::super::reply::Reply;
use super::endpoint::{header_breaches, header_text};
use super::paging::Refusal;
use super::query::RecordsQuery;
use super::{AdvertiseAuth, ApiRequest, Order, ScmState, Shared};

pub(super) const RECORDS_PATH: &str = "/api/v1/records";
const PAGE_TOKEN: HeaderName = HeaderName::from_static("token");

pub(super) async fn records(State(scm): State<Arc<Shared>>, request: Request) -> Response {
    let headers = request.headers();
    let authorization = Authorization::of(headers);
    let query = RecordsQuery::parse(request.uri().query().unwrap_or_default());

    let mut breaches = header_breaches(headers);
    if request.method() != Method::GET {
        breaches.push(format!("{} instead of GET", request.method()));
    }
    match &authorization {
        // A client may learn the token endpoint from the answer to its first request; the rest of that request does not
        // matter.
        Authorization::Missing => {}
        Authorization::OtherScheme => breaches.push("Authorization is not `Bearer …`".into()),
        Authorization::Bearer(_) => breaches.extend(query.breaches.iter().cloned()),
    }

    let (number, fault, client_secret) = scm.state.update(|state| {
        state.requests.push(ApiRequest {
            from: query.from,
            to: query.to,
            token: query.token.clone(),
            authorized: authorization.is_good(state),
            time: SystemTime::now(),
            status: None,
            records: 0,
        });
        let number = state.requests.len();
        let breaches = breaches.iter().map(|text| format!("GET {RECORDS_PATH} (request {number}): {text}"));
        state.violations.extend(breaches);
        (number, state.record_faults.next(), state.client_secret.clone())
    });

    let requested = Requested {
        accepts_gzip: encoding::accepts_gzip(headers),
        secrets: vec![header_text(headers, &header::AUTHORIZATION), client_secret],
    };
    let gzip = scm.options.gzip && requested.accepts_gzip;
    fault::pause_for(scm.options.latency).await;
    scm.gate.pass().await;
    let page = || {
        let reply = if breaches.is_empty() {
            scm.state.update(|state| scm.page(state, number, &authorization, &query))
        } else {
            Reply::error(400, &breaches.join(", "))
        };
        if gzip { reply.gzipped() } else { reply }
    };
    let answer = fault::answer(fault, requested, page).await;
    let status = answer.status();
    scm.state.update(|state| state.requests[number - 1].status = status);
    let mut response = scm.finish(answer);
    if status == Some(401) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scm.challenge());
    }
    response
}

impl Shared {
    /// The answer to a request for records that follows the protocol.
    fn page(&self, state: &mut ScmState, number: usize, authorization: &Authorization, query: &RecordsQuery) -> Reply {
        if !authorization.is_good(state) {
            return Reply::error(401, "Full authentication is required to access this resource");
        }
        let Some(to) = query.to else {
            return Reply::error(400, "no `to`");
        };
        let page = match (&query.token, query.from) {
            (Some(token), _) => state.paging.resume(token, to),
            (None, from) => {
                let range = self.range(state, from.unwrap_or(Timestamp::MIN), to);
                Ok(state.paging.open(range, to))
            }
        };
        let page = match page {
            Ok(page) => page,
            Err(Refusal::OnPurpose) => return Reply::error(400, "invalid page token"),
            Err(Refusal::Mistake(text)) => {
                state.violations.push(format!("GET {RECORDS_PATH} (request {number}): {text}"));
                return Reply::error(400, text);
            }
        };
        state.requests[number - 1].records = page.records.len();
        let salt = self.options.unstable_records.then_some(number);
        let mut body = array(page.records.iter().map(|&i| &*state.records[i].record.json), salt);
        for (text, bytes) in &state.corruptions {
            while let Some(at) = body.windows(text.len()).position(|window| window == text.as_bytes()) {
                body.splice(at..at + text.len(), bytes.iter().copied());
            }
        }
        let reply = Reply::json(200, body);
        match page.token {
            Some(token) => reply.header(PAGE_TOKEN, token),
            None => reply,
        }
    }

    /// The records of a range that are visible now, as indices, in order.
    fn range(&self, state: &ScmState, from: Timestamp, to: Timestamp) -> Vec<usize> {
        let now = SystemTime::now();
        let mut range: Vec<usize> = (0..state.records.len())
            .filter(|&i| {
                let stored = &state.records[i];
                let in_range = from < stored.record.at && stored.record.at <= to;
                in_range && stored.visible_at.is_none_or(|when| when <= now)
            })
            .collect();
        range.sort_by_key(|&i| state.records[i].record.at);
        match self.options.order {
            Order::Ascending => {}
            Order::Descending => range.reverse(),
            Order::Shuffled => fastrand::shuffle(&mut range),
        }
        range
    }

    /// The challenge in a 401 of the audit API, which names the token endpoint.
    fn challenge(&self) -> HeaderValue {
        let uri = match &self.options.advertise_auth {
            AdvertiseAuth::None => return HeaderValue::from_static("Bearer"),
            AdvertiseAuth::Own => self.token_url(),
            AdvertiseAuth::Other(text) => text.clone(),
        };
        let challenge = format!("Bearer realm=\"audit\", authorization_uri=\"{uri}\"");
        HeaderValue::try_from(challenge).expect("text that may stand in a header")
    }
}

/// The content of the `Authorization` header.
enum Authorization {
    Missing,
    OtherScheme,
    Bearer(String),
}

impl Authorization {
    fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Self::Missing;
        };
        match value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")) {
            Some(token) => Self::Bearer(token.to_owned()),
            None => Self::OtherScheme,
        }
    }

    fn is_good(&self, state: &ScmState) -> bool {
        match self {
            Self::Bearer(token) => state.access_tokens.get(token).is_some_and(|end| Instant::now() < *end),
            _ => false,
        }
    }
}

/// Joins records to a page. With a salt, which no other answer has, each record gets one more field with it.
fn array<'a>(records: impl Iterator<Item = &'a str>, salt: Option<usize>) -> Vec<u8> {
    let mut page = b"[".to_vec();
    for (i, record) in records.enumerate() {
        if i > 0 {
            page.push(b',');
        }
        match (salt, record.strip_prefix('{')) {
            (Some(salt), Some(rest)) => page.extend_from_slice(format!("{{\"readNumber\":{salt},{rest}").as_bytes()),
            _ => page.extend_from_slice(record.as_bytes()),
        }
    }
    page.push(b']');
    page
}
