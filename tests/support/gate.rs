//! A path to an HTTP server that holds up single requests, chosen by their method and their address.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::reply::hang_up;
use super::server::Server;
use super::watched::Watched;

/// Largest request that passes.
const LARGEST: usize = 64 * 1024 * 1024;

/// The fate of a request that a rule applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The request waits before the server gets it.
    Request,
    /// The server gets it, and its answer waits.
    Answer,
    /// The server gets it, and its answer is lost.
    LostAnswer,
    /// The server does not get it: the answer has this status.
    Failed(u16),
    /// The server does not get it: the answer is S3's for an upload that was completed or aborted before.
    NoUpload,
    /// The server gets the request without its condition, like a server that does not know conditions.
    Unconditional,
    /// The server gets the request without its prefix, like a gateway that ignores it.
    Unprefixed,
}

#[derive(Debug, Clone)]
struct Rule {
    method: Method,
    part: String,
    held: Held,
    /// The number of requests that it still applies to.
    left: usize,
}

/// A request that arrived, and its address: the path with the query.
#[derive(Debug, Clone)]
pub struct Passed {
    pub method: Method,
    pub address: String,
    /// Whether the request or its answer waits.
    is_held: bool,
    /// Whether the server has carried it out and nothing more follows.
    is_done: bool,
}

impl Passed {
    fn is(&self, method: &Method, part: &str) -> bool {
        self.method == *method && self.address.contains(part)
    }
}

#[derive(Default)]
struct Traffic {
    rules: Vec<Rule>,
    passed: Vec<Passed>,
}

struct Shared {
    server: String,
    client: reqwest::Client,
    traffic: Watched<Traffic>,
}

/// The path to a server.
pub struct Gate {
    own: Server,
    shared: Arc<Shared>,
}

impl Gate {
    /// Opens a path to the server at `url`.
    pub async fn to(url: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().no_gzip().build().expect("a client");
        let shared = Arc::new(Shared { server: url.to_owned(), client, traffic: Watched::new(Traffic::default()) });
        let routes = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        Self { own: Server::start(false, |_| routes).await, shared }
    }

    pub fn url(&self) -> String {
        self.own.url()
    }

    /// Holds up the next request with this method whose address contains `part`.
    pub fn hold(&self, held: Held, method: Method, part: &str) {
        self.hold_so_many(1, held, method, part);
    }

    /// Holds up the next `count` such requests.
    pub fn hold_so_many(&self, count: usize, held: Held, method: Method, part: &str) {
        let rule = Rule { method, part: part.to_owned(), held, left: count };
        self.shared.traffic.update(|traffic| traffic.rules.push(rule));
    }

    /// Waits until a request is held up.
    pub async fn is_holding(&self) {
        let held = |traffic: &Traffic| traffic.passed.iter().any(|passed| passed.is_held);
        self.shared.traffic.expect("a request to be held up", held).await;
    }

    /// Releases everything that is held up. Requests continue even if their client has gone.
    pub fn release(&self) {
        self.release_those("");
    }

    /// Releases the requests whose address contains `part`.
    pub fn release_those(&self, part: &str) {
        self.shared.traffic.update(|traffic| {
            traffic.rules.retain(|rule| !rule.part.contains(part));
            let released = traffic.passed.iter_mut().filter(|passed| passed.address.contains(part));
            released.for_each(|passed| passed.is_held = false);
        });
    }

    /// Waits until no request is under way.
    pub async fn is_free(&self) {
        let all_done = |traffic: &Traffic| traffic.passed.iter().all(|passed| passed.is_done);
        self.shared.traffic.expect("no request to be under way", all_done).await;
    }

    /// Waits until this many such requests have arrived since the start.
    pub async fn has_passed(&self, count: usize, method: &Method, part: &str) {
        let count_of = |traffic: &Traffic| traffic.passed.iter().filter(|passed| passed.is(method, part)).count();
        self.shared.traffic.expect_count(count, &format!("{method} {part}"), count_of).await;
    }

    /// Waits until this many such requests are done.
    pub async fn has_done(&self, count: usize, method: &Method, part: &str) {
        let is_done = |passed: &&Passed| passed.is_done && passed.is(method, part);
        let count_of = |traffic: &Traffic| traffic.passed.iter().filter(is_done).count();
        self.shared.traffic.expect_count(count, &format!("{method} {part}"), count_of).await;
    }

    /// Waits until this many requests have arrived since the start.
    pub async fn so_many_passed(&self, count: usize) {
        self.shared.traffic.expect_count(count, "requests", |traffic| traffic.passed.len()).await;
    }

    /// All requests so far.
    pub fn passed(&self) -> Vec<Passed> {
        self.shared.traffic.read().passed.clone()
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    // This runs in a task of its own: a request arrives, whatever becomes of its sender.
    tokio::spawn(async move { shared.pass(request).await }).await.expect("no panic")
}

impl Shared {
    async fn pass(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, LARGEST).await;
        let Ok(body) = body else { return hang_up() };
        let address = parts.uri.path_and_query().expect("an address").to_string();
        let (index, held) = self.traffic.update(|traffic| {
            let passed =
                Passed { method: parts.method.clone(), address: address.clone(), is_held: false, is_done: false };
            traffic.passed.push(passed);
            let rule = traffic
                .rules
                .iter_mut()
                .find(|rule| rule.left > 0 && rule.method == parts.method && address.contains(&rule.part));
            let held = rule.map(|rule| {
                rule.left -= 1;
                rule.held
            });
            (traffic.passed.len() - 1, held)
        });
        let response = self.answer(held, index, parts, address, body).await;
        self.traffic.update(|traffic| traffic.passed[index].is_done = true);
        response
    }

    async fn answer(&self, held: Option<Held>, index: usize, parts: Parts, address: String, body: Bytes) -> Response {
        if let Some(Held::Failed(status)) = held {
            let mut response = Response::new("held up".into());
            *response.status_mut() = status.try_into().expect("a status");
            return response;
        }
        if held == Some(Held::NoUpload) {
            let mut response = Response::new("<Error><Code>NoSuchUpload</Code></Error>".into());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        if held == Some(Held::Request) {
            self.wait(index).await;
        }
        let mut headers = parts.headers;
        for name in [header::HOST, header::EXPECT, header::CONNECTION] {
            headers.remove(name);
        }
        if held == Some(Held::Unconditional) {
            headers.remove(header::IF_NONE_MATCH);
        }
        let address = match held {
            Some(Held::Unprefixed) => address.replace("prefix=", "ignored="),
            _ => address,
        };
        let url = format!("{}{address}", self.server);
        let sent = self.client.request(parts.method, url).headers(headers).body(body).send().await;
        let Ok(answer) = sent else { return hang_up() };
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.unwrap_or_default();
        match held {
            Some(Held::Answer) => self.wait(index).await,
            Some(Held::LostAnswer) => return hang_up(),
            _ => {}
        }
        for name in [header::TRANSFER_ENCODING, header::CONNECTION] {
            headers.remove(name);
        }
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    async fn wait(&self, index: usize) {
        self.traffic.update(|traffic| traffic.passed[index].is_held = true);
        self.traffic.wait_until(|traffic| !traffic.passed[index].is_held).await;
    }
}
