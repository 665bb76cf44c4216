//! An S3 with one bucket, for behaviour that no real server shows on demand.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_sdk_s3::config::Credentials;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::yield_now;

use super::moto;
use super::reply::hang_up;
use super::server::Server;

/// The largest object that it accepts.
const LARGEST: usize = 4 * 1024 * 1024;

/// Its treatment of `If-Match` and `If-None-Match` on a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Like S3.
    Heeded,
    /// Like stores that do not know such headers.
    Ignored,
    /// `If-Match` alone has an effect.
    OnlyIfMatch,
    /// 501, like stores that know such headers and do not support them.
    NotImplemented,
    /// 412 for every condition, even one that is met.
    NeverMet,
}

/// The permissions of the caller's policy.
#[derive(Clone, Copy, Debug)]
pub struct Permissions {
    pub list: bool,
    pub get: bool,
    pub put: bool,
}

/// The answer to one request instead of the usual one.
#[derive(Clone, Debug)]
pub enum S3Answer {
    /// The usual answer: in a script, lets one request through to reach the one after it.
    Pass,
    /// An error in S3's words.
    Error(u16, &'static str, &'static str),
    /// An error that names the region, in `x-amz-bucket-region`.
    Region(u16, &'static str, &'static str),
    /// An error whose message repeats the request's credentials.
    Echo(u16, &'static str),
    /// Exactly this.
    Raw(u16, Vec<u8>),
    /// It carries out the request, but its answer lacks an `ETag`.
    NoTag,
    /// This status, and a body without an end.
    Endless(u16),
    /// A head, the beginning of a body, and then nothing.
    Stall,
    /// Nothing.
    Hang,
    /// It carries out the request, but the connection closes without an answer.
    Unanswered,
}

/// One request, as received.
#[derive(Clone, Debug)]
pub struct S3Request {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
}

impl S3Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header in plain text"))
    }
}

/// The server. Its bucket is [`FakeS3::BUCKET`], addressed by path.
pub struct FakeS3 {
    server: Server,
    shared: Arc<Mutex<Store>>,
}

struct Store {
    conditions: Conditions,
    granted: Permissions,
    script: VecDeque<S3Answer>,
    objects: HashMap<String, Bytes>,
    requests: Vec<S3Request>,
}

impl FakeS3 {
    pub const BUCKET: &str = "bucket";

    pub async fn start(conditions: Conditions) -> Self {
        let granted = Permissions { list: true, get: true, put: true };
        let (script, objects, requests) = (VecDeque::new(), HashMap::new(), Vec::new());
        let shared = Arc::new(Mutex::new(Store { conditions, granted, script, objects, requests }));
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        Self { server: Server::start(false, |_| routes).await, shared }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The configuration of a caller with these credentials.
    pub fn config(&self, credentials: Credentials) -> SdkConfig {
        moto::config(&self.url(), credentials)
    }

    /// The configuration of a caller with some credentials.
    pub fn anyone(&self) -> SdkConfig {
        self.config(Credentials::new("AKIAANYONE", "secret", None, None, "tests"))
    }

    pub fn script(&self, answers: impl IntoIterator<Item = S3Answer>) {
        self.with(|store| store.script.extend(answers));
    }

    /// Changes its treatment of conditions.
    pub fn treat_conditions(&self, conditions: Conditions) {
        self.with(|store| store.conditions = conditions);
    }

    pub fn grant(&self, granted: Permissions) {
        self.with(|store| store.granted = granted);
    }

    /// Returns an object, whatever the permissions.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.with(|store| store.objects.get(key).cloned())
    }

    pub fn put(&self, key: &str, object: impl Into<Bytes>) {
        self.with(|store| store.objects.insert(key.to_owned(), object.into()));
    }

    pub fn keys(&self) -> Vec<String> {
        self.with(|store| store.objects.keys().cloned().collect())
    }

    pub fn requests(&self) -> Vec<S3Request> {
        self.with(|store| store.requests.clone())
    }

    pub async fn go_down(&self) {
        self.server.go_down().await;
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Store) -> T) -> T {
        use_it(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn answer(State(shared): State<Arc<Mutex<Store>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST).await.expect("a whole request");
    let seen = S3Request { method: head.method, path: head.uri.path().to_owned(), headers: head.headers };
    let scripted = {
        let mut store = shared.lock().unwrap_or_else(PoisonError::into_inner);
        store.requests.push(seen.clone());
        store.script.pop_front().unwrap_or(S3Answer::Pass)
    };
    let usual = || shared.lock().unwrap_or_else(PoisonError::into_inner).process(&seen, &body);
    match scripted {
        S3Answer::Pass => usual(),
        S3Answer::Error(status, code, message) => error(status, code, message),
        S3Answer::Region(status, code, region) => {
            let mut response = error(status, code, "elsewhere");
            response.headers_mut().insert("x-amz-bucket-region", region.parse().expect("a header"));
            response
        }
        S3Answer::Echo(status, code) => {
            // The secrets come first, because a program may show only the beginning of the message.
            let names = ["x-amz-security-token", "authorization"];
            let told = names.map(|name| format!("{name}={}", seen.header(name).unwrap_or_default()));
            error(status, code, &told.join(";"))
        }
        S3Answer::Raw(status, body) => response(status, body.into()),
        S3Answer::NoTag => {
            let mut response = usual();
            response.headers_mut().remove("etag");
            response
        }
        S3Answer::Endless(status) => response(status, endless()),
        S3Answer::Stall => {
            let bit = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"{\"version\"")) });
            response(200, Body::from_stream(bit.chain(stream::pending())))
        }
        S3Answer::Hang => std::future::pending().await,
        S3Answer::Unanswered => {
            usual();
            hang_up()
        }
    }
}

impl Store {
    fn process(&mut self, request: &S3Request, body: &Bytes) -> Response {
        let path = request.path.trim_start_matches('/');
        let Some((FakeS3::BUCKET, key)) = path.split_once('/') else {
            return error(404, "NoSuchBucket", "The specified bucket does not exist");
        };
        if request.method == Method::GET { self.get(key) } else { self.put(key, request, body) }
    }

    fn get(&self, key: &str) -> Response {
        match self.objects.get(key) {
            _ if !self.granted.get => denied("s3:GetObject"),
            None if !self.granted.list => denied("s3:ListBucket"),
            None => error(404, "NoSuchKey", "The specified key does not exist."),
            Some(object) => tagged(object, object.clone().into()),
        }
    }

    fn put(&mut self, key: &str, request: &S3Request, body: &Bytes) -> Response {
        let (present, matching) = (request.header("if-none-match"), request.header("if-match"));
        if !self.granted.put {
            return denied("s3:PutObject");
        }
        let known = match self.conditions {
            Conditions::Ignored => (None, None),
            Conditions::OnlyIfMatch => (None, matching),
            Conditions::NeverMet if present.or(matching).is_some() => return failed_condition(),
            Conditions::NotImplemented if present.or(matching).is_some() => {
                return error(
                    501,
                    "NotImplemented",
                    "A header you provided implies functionality that is not implemented",
                );
            }
            _ => (present, matching),
        };
        match (known, self.objects.get(key)) {
            ((_, Some(_)), None) if !self.granted.list => return denied("s3:ListBucket"),
            ((_, Some(_)), None) => return error(404, "NoSuchKey", "The specified key does not exist."),
            ((_, Some(tag)), Some(object)) if tag != self::tag(object) => return failed_condition(),
            ((Some(_), _), Some(_)) => return failed_condition(),
            _ => {}
        }
        self.objects.insert(key.to_owned(), body.clone());
        tagged(body, Body::empty())
    }
}

fn denied(action: &str) -> Response {
    error(403, "AccessDenied", &format!("User: arn:aws:iam::1:user/u is not authorized to perform: {action}"))
}

fn failed_condition() -> Response {
    error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let message = message.replace('&', "&amp;").replace('<', "&lt;");
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let mut response = response(status, text.into());
    response.headers_mut().insert("x-amz-request-id", "4442587FB7D0A2F9".parse().expect("a header"));
    response
}

fn tagged(object: &Bytes, body: Body) -> Response {
    let mut response = response(200, body);
    response.headers_mut().insert("etag", tag(object).parse().expect("a header"));
    response
}

fn tag(object: &Bytes) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(object);
    let number = digest.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    format!("\"{number:032x}\"")
}

fn endless() -> Body {
    static FILLER: [u8; 64 * 1024] = [b' '; 64 * 1024];
    Body::from_stream(stream::repeat(()).then(|()| async {
        yield_now().await;
        Ok::<_, io::Error>(Bytes::from_static(&FILLER))
    }))
}

fn response(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status from 100 to 999");
    response
}
