//! The common parts of the endpoints.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::routing::any;

use super::super::reply::{Answer, Reply};
use super::super::server::dated;
use super::Shared;
use super::records_endpoint::{RECORDS_PATH, records};
use super::token_endpoint::{TOKEN_PATH, token};

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route(RECORDS_PATH, any(records))
        .route(TOKEN_PATH, any(token))
        .fallback(unknown_path)
        .with_state(Arc::clone(shared))
}

async fn unknown_path(State(scm): State<Arc<Shared>>, request: Request) -> Response {
    let text = format!("{} {} does not exist", request.method(), request.uri());
    let reply = Reply::error(404, &text);
    scm.state.update(|state| state.violations.push(text));
    scm.finish(Answer::Whole(reply))
}

impl Shared {
    /// Dates an answer by the server's clock.
    pub(super) fn finish(&self, answer: Answer) -> Response {
        let mut response = answer.into_response();
        if let Some(ahead) = self.state.read().date_offset {
            return dated(response, ahead);
        }
        response.headers_mut().insert(header::DATE, HeaderValue::from_static("unknown"));
        response
    }
}

/// The breaches that any request can commit.
pub(super) fn header_breaches(headers: &HeaderMap) -> Vec<String> {
    let anonymous = header_text(headers, &header::USER_AGENT).is_empty();
    anonymous.then(|| "no User-Agent".to_owned()).into_iter().collect()
}

/// The value of a header; empty if there is none.
pub(super) fn header_text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).map(axum::http::HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
