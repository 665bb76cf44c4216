//! Answers in the form that each kind of client expects.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::route::Version;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// The form of answers for a kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A client of Datadog's logs intake.
    Logs(Version),
    /// A Datadog client that checks its key.
    Validate,
    /// A Fluentd client, or a load balancer.
    Plain,
}

/// The `Retry-After` of a full spool, in seconds.
const RETRY: &str = "30";

/// The answer to a request that was accepted.
pub(super) fn accepted(style: Style) -> Answer {
    match style {
        Style::Logs(Version::V2) => json_answer(StatusCode::ACCEPTED, "{}".to_owned()),
        Style::Logs(Version::V1) => json_answer(StatusCode::OK, "{}".to_owned()),
        Style::Validate => json_answer(StatusCode::OK, json!({"valid": true}).to_string()),
        Style::Plain => Response::new(Full::default()),
    }
}

/// The answer to a request that failed, for the reason `detail`, which must hold no secret.
pub(super) fn refused(style: Style, status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let mut answer = match style {
        Style::Logs(Version::V2) => {
            let error = json!({"status": status.as_str(), "title": title, "detail": detail});
            json_answer(status, json!({"errors": [error]}).to_string())
        }
        Style::Logs(Version::V1) => {
            json_answer(status, json!({"code": status.as_u16(), "message": detail}).to_string())
        }
        Style::Validate => json_answer(status, json!({"errors": [title]}).to_string()),
        Style::Plain => {
            let mut answer = Response::new(Full::from(format!("{detail}\n")));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            answer
        }
    };
    *answer.status_mut() = status;
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY));
    }
    answer
}

/// The answer to a request with a wrong method; `allowed` lists the right ones.
pub(super) fn method(allowed: &'static str) -> Answer {
    let mut answer = refused(Style::Plain, StatusCode::METHOD_NOT_ALLOWED, allowed);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn json_answer(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
