//! AWS Lambda's runtime API, as `docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html` describes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::Value;

use super::server::Server;
use super::watched::Watched;

const VERSION: &str = "/2018-06-01";

/// The report of a function.
#[derive(Debug, Clone, PartialEq)]
pub enum LambdaAnswer {
    /// An invocation succeeded.
    Response(Value),
    /// An invocation failed.
    Error(Value),
    /// The function did not start.
    InitError(Value),
}

/// A running fake. Ends when it is dropped.
pub struct FakeLambda {
    server: Server,
    state: Arc<Watched<Invocations>>,
}

#[derive(Default)]
struct Invocations {
    count: usize,
    waiting: VecDeque<Invocation>,
    /// The invocation without an answer.
    open: Option<String>,
    answers: Vec<LambdaAnswer>,
    violations: Vec<String>,
}

struct Invocation {
    id: String,
    event: Value,
    timeout: Duration,
}

impl FakeLambda {
    pub async fn start() -> Self {
        let state = Arc::new(Watched::new(Invocations::default()));
        let routes = Router::new()
            .route(&format!("{VERSION}/runtime/invocation/next"), get(next))
            .route(&format!("{VERSION}/runtime/invocation/{{id}}/response"), post(response))
            .route(&format!("{VERSION}/runtime/invocation/{{id}}/error"), post(error))
            .route(&format!("{VERSION}/runtime/init/error"), post(init_error))
            .with_state(Arc::clone(&state));
        Self { server: Server::start(false, |_| routes).await, state }
    }

    /// The variables that Lambda sets for a function.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_LAMBDA_RUNTIME_API", self.server.url().replace("http://", "")),
            ("AWS_LAMBDA_FUNCTION_NAME", "auditsync".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ]
    }

    /// Invokes the function. Its deadline comes `timeout` after it fetched the invocation.
    pub fn invoke(&self, event: Value, timeout: Duration) {
        self.state.update(|state| {
            state.count += 1;
            state.waiting.push_back(Invocation { id: format!("request-{}", state.count), event, timeout });
        });
    }

    /// Waits for answer number `number`, counted from 1.
    pub async fn answer(&self, number: usize) -> LambdaAnswer {
        self.state.expect_count(number, "answers", |state| state.answers.len()).await;
        self.state.read().answers[number - 1].clone()
    }

    /// Requests that Lambda would not understand.
    pub fn violations(&self) -> Vec<String> {
        self.state.read().violations.clone()
    }
}

type Shared = State<Arc<Watched<Invocations>>>;

async fn next(State(state): Shared) -> Response {
    state.wait_until(|state| !state.waiting.is_empty()).await;
    let next = state.update(|state| {
        let next = state.waiting.pop_front()?;
        if let Some(open) = state.open.replace(next.id.clone()) {
            state.violations.push(format!("{open} has no answer, and the next invocation was fetched"));
        }
        Some(next)
    });
    let Some(Invocation { id, event, timeout }) = next else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let deadline = SystemTime::now() + timeout;
    let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    let headers = [
        ("Lambda-Runtime-Aws-Request-Id", id),
        ("Lambda-Runtime-Deadline-Ms", deadline.to_string()),
        ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:auditsync".to_owned()),
        ("Content-Type", "application/json".to_owned()),
    ];
    (headers, event.to_string()).into_response()
}

async fn response(State(state): Shared, Path(id): Path<String>, body: Bytes) -> StatusCode {
    note(&state, Some(&id), &body, LambdaAnswer::Response)
}

async fn error(State(state): Shared, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    check_type(&state, &headers);
    note(&state, Some(&id), &body, LambdaAnswer::Error)
}

async fn init_error(State(state): Shared, headers: HeaderMap, body: Bytes) -> StatusCode {
    check_type(&state, &headers);
    note(&state, None, &body, LambdaAnswer::InitError)
}

fn check_type(state: &Watched<Invocations>, headers: &HeaderMap) {
    if !headers.contains_key("lambda-runtime-function-error-type") {
        state.update(|state| state.violations.push("an error without its type".to_owned()));
    }
}

fn note(state: &Watched<Invocations>, id: Option<&str>, body: &[u8], answer: fn(Value) -> LambdaAnswer) -> StatusCode {
    state.update(|state| {
        if id != state.open.take().as_deref() {
            state.violations.push(format!("{id:?} was not open"));
        }
        match serde_json::from_slice(body) {
            Ok(body) => state.answers.push(answer(body)),
            Err(error) => state.violations.push(format!("an answer that is not JSON: {error}")),
        }
    });
    StatusCode::ACCEPTED
}
