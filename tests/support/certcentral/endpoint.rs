//! The endpoints: their requests and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::super::encoding;
use super::super::fault::{self, Requested};
use super::super::reply::{Answer, Reply};
use super::super::server::dated;
use super::{Called, CertCentralState, FakeRun, Form, Outcome, Shared, array, zipped};

const KEY: &str = "x-dc-devkey";

type Parameters = Query<BTreeMap<String, String>>;

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/reports/v1/report/history", any(history))
        .route("/reports/v1/report/{report}/run", any(start))
        .route("/reports/v1/report/{report}/{run}/json", any(whole))
        .route("/reports/v1/report/{report}/{run}/download", any(split))
        .fallback(unknown_path)
        .with_state(Arc::clone(shared))
}

async fn unknown_path(State(fake): State<Arc<Shared>>, method: Method, uri: Uri) -> Response {
    let text = format!("{method} {uri} does not exist");
    fake.state.update(|state| state.violations.push(text.clone()));
    Answer::Whole(Reply::error(404, &text)).into_response()
}

/// The parts of every request.
struct Call {
    called: Called,
    method: Method,
    expected: Method,
    headers: HeaderMap,
}

impl Shared {
    /// Answers a request that follows the protocol, or with the next fault of its kind.
    async fn answer(&self, call: Call, process: impl FnOnce(&mut CertCentralState) -> Reply) -> Response {
        let Call { called, method, expected, headers } = call;
        let key = headers.get(KEY).map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
        let (fault, is_good, too_many) = self.state.update(|state| {
            let mut breaches = Vec::new();
            if method != expected {
                breaches.push(format!("{method} instead of {expected}"));
            }
            if headers.get(header::USER_AGENT).is_none() {
                breaches.push("no User-Agent".to_owned());
            }
            if key.is_none() {
                breaches.push("no X-DC-DEVKEY".to_owned());
            }
            state.arrivals.push(Instant::now());
            let within =
                |time| state.arrivals.iter().rev().take_while(|at| at.elapsed() < Duration::from_secs(time)).count();
            let too_many = within(5) > 100 || within(180) > 1000;
            if too_many {
                breaches.push("over the rate limit".to_owned());
            }
            let fault = match called {
                Called::History => state.history_faults.next(),
                Called::Start => state.start_faults.next(),
                Called::Download(..) => state.download_faults.next(),
            };
            state.violations.extend(breaches.iter().map(|breach| format!("{called:?}: {breach}")));
            state.requests.push((called, SystemTime::now()));
            (fault, key.as_ref() == Some(&state.api_key), too_many)
        });
        let secrets = key.into_iter().collect();
        let requested = Requested { accepts_gzip: encoding::accepts_gzip(&headers), secrets };
        let process = || match () {
            () if too_many => refuse(429, "request_limit_exceeded"),
            () if !is_good => refuse(401, "invalid_api_key"),
            () => self.state.update(process),
        };
        dated(fault::answer(fault, requested, process).await.into_response(), 0)
    }

    fn breach(&self, text: String) {
        self.state.update(|state| state.violations.push(text));
    }
}

fn refuse(status: u16, code: &str) -> Reply {
    Reply::json(status, json!({ "errors": [{ "code": code, "message": code }] }).to_string())
}

async fn history(
    State(fake): State<Arc<Shared>>,
    method: Method,
    headers: HeaderMap,
    Query(parameters): Parameters,
) -> Response {
    const KNOWN: [&str; 6] = ["limit", "offset", "status", "report_type", "sort_by", "sort_direction"];
    for unknown in parameters.keys().filter(|name| !KNOWN.contains(&name.as_str())) {
        fake.breach(format!("History: unknown parameter {unknown}"));
    }
    let number = |name: &str, default| parameters.get(name).map_or(default, |text| text.parse().expect("a number"));
    let (limit, offset): (usize, usize) = (number("limit", 100), number("offset", 0));
    let options = fake.options.clone();
    let call = Call { called: Called::History, method, expected: Method::GET, headers };
    let page = |state: &mut CertCentralState| {
        if options.endless_history {
            let others: Vec<_> = (offset..offset + limit).map(|n| entry(&other_run(n), &Form::Json)).collect();
            return listed(&others, offset, limit, 1_000_000);
        }
        let mut runs: Vec<FakeRun> = state.runs.clone();
        runs.sort_by_key(|run| std::cmp::Reverse(run.began));
        let entries: Vec<_> = runs.iter().map(|run| entry(run, &state.form)).collect();
        let shown: Vec<_> = entries.iter().skip(offset).take(limit).cloned().collect();
        if offset == 0 {
            state.runs.iter_mut().for_each(|run| run.looks = run.looks.saturating_sub(1));
        }
        listed(&shown, offset, limit, entries.len())
    };
    fake.answer(call, page).await
}

fn listed(entries: &[serde_json::Value], offset: usize, limit: usize, total: usize) -> Reply {
    let page = json!({ "total": total, "limit": limit, "offset": offset });
    Reply::json(200, json!({ "page": page, "report_history": entries }).to_string())
}

fn other_run(n: usize) -> FakeRun {
    let report = "another-report".to_owned();
    let began = Timestamp::now();
    FakeRun {
        id: format!("other-{n}"),
        report,
        report_type: "orders",
        began,
        outcome: Outcome::Ready,
        looks: 0,
        rows: Vec::new(),
    }
}

fn entry(run: &FakeRun, form: &Form) -> serde_json::Value {
    let splits = match form {
        Form::Splits(most) if run.rows.len() > *most => run.rows.len().div_ceil(*most),
        _ => 0,
    };
    json!({
        "report_display_name": "Audit \u{e9}v\u{e9}nements",
        "report_identifier": run.report,
        "report_run_identifier": run.id,
        "created_by_user_id": 12345,
        "report_type": run.report_type,
        "report_start_date": run.began.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        "report_end_date": null,
        "schedule": "WEEKLY",
        "format": ["JSON"],
        "status": run.status(),
        "manually_triggered": true,
        "split_report_count": splits,
    })
}

async fn start(
    State(fake): State<Arc<Shared>>,
    Path(report): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if body != "{}" {
        fake.breach(format!("Start: the body is {body:?}"));
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        fake.breach("Start: no Content-Type application/json".to_owned());
    }
    let (looks, report_type) = (fake.options.looks, fake.options.report_type);
    let call = Call { called: Called::Start, method, expected: Method::POST, headers };
    let run = |state: &mut CertCentralState| {
        if report != super::REPORT {
            return refuse(404, "not_found|report");
        }
        let outcome = state.outcomes.pop_front().unwrap_or(Outcome::Ready);
        let id = format!("run-{}-4b1a-9d2e", state.runs.len());
        let (began, rows) = (Timestamp::now(), state.rows.clone());
        state.runs.push(FakeRun { id, report, report_type, began, outcome, looks, rows });
        Reply::json(201, "{}")
    };
    fake.answer(call, run).await
}

async fn whole(
    State(fake): State<Arc<Shared>>,
    Path((report, run)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    download(&fake, report, run, None, method, headers).await
}

async fn split(
    State(fake): State<Arc<Shared>>,
    Path((report, run)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    Query(parameters): Parameters,
) -> Response {
    if parameters.get("report_format").is_none_or(|format| format != "JSON") {
        fake.breach("Download: no report_format=JSON".to_owned());
    }
    let sequence = parameters.get("split_report_sequence").and_then(|text| text.parse().ok());
    if sequence.is_none() {
        fake.breach("Download: no split_report_sequence".to_owned());
    }
    download(&fake, report, run, Some(sequence.unwrap_or_default()), method, headers).await
}

async fn download(
    fake: &Shared,
    report: String,
    id: String,
    split: Option<usize>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let call = Call { called: Called::Download(id.clone(), split), method, expected: Method::GET, headers };
    let file = |state: &mut CertCentralState| {
        let run = state.runs.iter().find(|run| run.id == id && run.report == report);
        let Some(run) = run.filter(|run| run.status() == "READY") else { return refuse(404, "not_found|run") };
        let zip = |rows: &[String]| Reply::of(200, Some("application/zip"), zipped("audit-logs.json", &array(rows)));
        match (&run.outcome, &state.form, split) {
            (Outcome::Vanished, ..) => refuse(404, "not_found|run"),
            (Outcome::Refuses(status), ..) => refuse(*status, "refused"),
            (Outcome::Holds(body), ..) => Reply::of(200, Some("application/octet-stream"), body.clone()),
            (_, Form::Json, None) => Reply::json(200, array(&run.rows)),
            (_, Form::Splits(most), Some(n)) => zip(run.rows.chunks(*most).nth(n).unwrap_or_default()),
            (_, Form::Splits(most), None) if run.rows.len() > *most => zip(&run.rows[..*most]),
            (_, _, None) => zip(&run.rows),
            (_, _, Some(_)) => refuse(400, "not_split"),
        }
    };
    fake.answer(call, file).await
}
