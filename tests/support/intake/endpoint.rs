//! The endpoints: the callers and requests that they accept, and their answers.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use serde_json::json;

use super::super::encoding;
use super::super::fault::{self, Requested};
use super::super::reply::{Answer, Reply};
use super::super::server::dated;
use super::inspect::{Inspection, inspect};
use super::{IntakeRequest, IntakeState, Shared};

const API_KEY: &str = "dd-api-key";
const LOGS_PATH: &str = "/api/v2/logs";
const VALIDATE_PATH: &str = "/api/v1/validate";

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route(LOGS_PATH, any(logs))
        .route(VALIDATE_PATH, any(validate))
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(shared))
}

async fn logs(State(intake): State<Arc<Shared>>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let ahead = intake.state.read().date_offset;
    let mut inspection = inspect(&headers, body, &intake.options, ahead);
    let key = api_key(&headers);
    if key.is_none() {
        inspection.violations.push("no DD-API-KEY".into());
    }
    if method != Method::POST {
        inspection.violations.push(format!("{method} instead of POST"));
    }
    let (number, fault) = intake.state.update(|state| {
        state.requests.push(IntakeRequest {
            time: SystemTime::now(),
            status: None,
            over: false,
            entries: inspection.entries,
            taken: false,
            bytes: inspection.body.len(),
            sent_bytes: inspection.sent_bytes,
            encoding: inspection.encoding.clone(),
        });
        let number = state.requests.len();
        let violations = inspection.violations.drain(..);
        let violations = violations.map(|text| format!("{LOGS_PATH} (request {number}): {text}"));
        state.violations.extend(violations);
        (number, inspection.fault.take().or_else(|| state.log_faults.next()))
    });
    let _open = Open { intake: &intake, number };
    let requested =
        Requested { accepts_gzip: encoding::accepts_gzip(&headers), secrets: key.iter().cloned().collect() };
    fault::pause_for(intake.options.latency).await;
    intake.gate.pass().await;
    let take = || intake.state.update(|state| intake.take(state, number, key.as_deref(), inspection));
    let answer = fault::answer(fault, requested, take).await;
    intake.state.update(|state| state.requests[number - 1].status = answer.status());
    dated(answer.into_response(), ahead)
}

/// A request under way; dropped with its answer, and by the server when the connection is gone.
struct Open<'a> {
    intake: &'a Shared,
    number: usize,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.intake.state.update(|state| state.requests[self.number - 1].over = true);
    }
}

async fn validate(State(intake): State<Arc<Shared>>, method: Method, headers: HeaderMap) -> Response {
    let fault = intake.state.update(|state| {
        state.validate_requests += 1;
        if method != Method::GET {
            state.violations.push(format!("{VALIDATE_PATH}: {method} instead of GET"));
        }
        state.validate_faults.next()
    });
    let key = api_key(&headers);
    let requested =
        Requested { accepts_gzip: encoding::accepts_gzip(&headers), secrets: key.iter().cloned().collect() };
    fault::pause_for(intake.options.latency).await;
    let check = || {
        if key.as_ref() == Some(&intake.state.read().api_key) {
            Reply::json(200, r#"{"valid":true}"#)
        } else {
            Reply::json(403, r#"{"errors":["Forbidden"]}"#)
        }
    };
    fault::answer(fault, requested, check).await.into_response()
}

async fn unknown_path(State(intake): State<Arc<Shared>>, request: Request) -> Response {
    let text = format!("{} {} does not exist", request.method(), request.uri());
    intake.state.update(|state| state.violations.push(text.clone()));
    Answer::Whole(refuse(404, "Not Found", &text)).into_response()
}

impl Shared {
    /// Accepts the entries of a request, or answers why not.
    fn take(&self, state: &mut IntakeState, number: usize, key: Option<&str>, inspection: Inspection) -> Reply {
        match key {
            None => return refuse(401, "Unauthorized", "API key is missing"),
            Some(key) if key != state.api_key => {
                return refuse(403, "Forbidden", "API key is invalid");
            }
            Some(_) => {}
        }
        if let Some((status, reason)) = inspection.refusal {
            let title = if status == 413 { "Request Entity Too Large" } else { "Bad Request" };
            return refuse(status, title, &reason);
        }
        state.requests[number - 1].taken = true;
        state.taken += inspection.entries - inspection.dropped;
        state.dropped += inspection.dropped;
        for id in inspection.ids {
            *state.ids.entry(id).or_default() += 1;
        }
        if self.options.keep_bodies {
            state.bodies.push(inspection.body);
        }
        Reply::json(202, "{}")
    }
}

/// An error in the documented form.
fn refuse(status: u16, title: &str, detail: &str) -> Reply {
    let error = json!({ "status": status.to_string(), "title": title, "detail": detail });
    Reply::json(status, json!({ "errors": [error] }).to_string())
}

fn api_key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get(API_KEY)?;
    Some(String::from_utf8_lossy(key.as_bytes()).into_owned())
}
