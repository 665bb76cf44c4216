//! An SQS with one queue. It records the actions on each message, and hides messages as SQS does, but by a clock that only the test moves.
//!
//! It holds the client to the protocol: `violations()` returns everything that breaks it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::server::Server;
use super::watched::Watched;

/// An action on a message, with the message's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The client received it.
    Received(usize),
    /// It is hidden for this many seconds from now on.
    Hidden(usize, u64),
    Deleted(usize),
}

struct Message {
    body: String,
    sent: Timestamp,
    /// By the queue's clock.
    shown_from: Duration,
    receives: usize,
    is_deleted: bool,
}

#[derive(Default)]
struct Kept {
    messages: Vec<Message>,
    done: Vec<Done>,
    violations: Vec<String>,
    /// The queue's clock.
    clock: Duration,
    /// The number of requests for messages under way.
    asking: usize,
}

/// The server.
pub struct FakeQueue {
    server: Server,
    kept: Arc<Watched<Kept>>,
}

impl FakeQueue {
    pub async fn start() -> Self {
        let kept = Arc::new(Watched::new(Kept::default()));
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        Self { server: Server::start(false, |_| routes).await, kept }
    }

    /// The address of the queue.
    pub fn url(&self) -> String {
        format!("{}/111122223333/trail", self.server.url())
    }

    /// Puts a message into the queue. Returns its number.
    pub fn send(&self, body: impl Into<String>) -> usize {
        self.send_dated(body, Timestamp::now())
    }

    /// Puts a message into the queue that was sent at `sent`. Returns its number.
    pub fn send_dated(&self, body: impl Into<String>, sent: Timestamp) -> usize {
        let message = Message { body: body.into(), sent, shown_from: Duration::ZERO, receives: 0, is_deleted: false };
        self.kept.update(|kept| {
            kept.messages.push(message);
            kept.messages.len() - 1
        })
    }

    /// Moves the queue's clock forward.
    pub fn let_pass(&self, time: Duration) {
        self.kept.update(|kept| kept.clock += time);
    }

    /// Moves the queue's clock forward, and waits until the first `messages` are hidden again. No message may be shown by then.
    pub async fn let_pass_until_hidden_again(&self, time: Duration, messages: usize) {
        let hidden = |done: &[Done], message| {
            done.iter().filter(|done| matches!(done, Done::Hidden(of, _) if *of == message)).count()
        };
        self.let_pass(time);
        assert!(!self.kept.read().shows_any(), "a message is shown again");
        let before = self.done();
        let again = |done: &[Done]| (0..messages).all(|message| hidden(done, message) > hidden(&before, message));
        self.wait_until("each hidden again", again).await;
    }

    /// Waits until no request for messages is under way. The last request of a process that has ended may still receive messages, until the
    /// server notices that the connection is closed.
    pub async fn wait_until_nobody_asks(&self) {
        self.kept.expect("no request for messages", |kept| kept.asking == 0).await;
    }

    /// The actions on messages, in order.
    pub fn done(&self) -> Vec<Done> {
        self.kept.read().done.clone()
    }

    /// Waits until `met` holds for the actions on messages.
    pub async fn wait_until(&self, what: &str, met: impl Fn(&[Done]) -> bool) {
        self.kept.expect(what, |kept| met(&kept.done)).await;
    }

    /// Waits until every message is deleted.
    pub async fn wait_until_empty(&self) {
        self.kept.expect("an empty queue", |kept| kept.messages.iter().all(|message| message.is_deleted)).await;
    }

    pub fn violations(&self) -> Vec<String> {
        self.kept.read().violations.clone()
    }
}

async fn answer(State(kept): State<Arc<Watched<Kept>>>, headers: HeaderMap, body: Bytes) -> Response {
    let action = headers.get("x-amz-target").and_then(|target| target.to_str().ok()?.strip_prefix("AmazonSQS."));
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !headers.get("authorization").is_some_and(|signed| signed.as_bytes().starts_with(b"AWS4-HMAC-SHA256 ")) {
        kept.update(|kept| kept.violations.push("a request is not signed".to_owned()));
    }
    let answer = match action {
        Some("ReceiveMessage") => receive(&kept, &request).await,
        Some("DeleteMessageBatch") => kept.update(|kept| kept.for_each(&request, Kept::delete)),
        Some("ChangeMessageVisibilityBatch") => kept.update(|kept| kept.for_each(&request, Kept::hide)),
        Some("GetQueueAttributes") => json!({"Attributes": {
            "ApproximateNumberOfMessages": "0", "ApproximateNumberOfMessagesNotVisible": "0", "RedrivePolicy": "{}",
        }}),
        other => {
            kept.update(|kept| kept.violations.push(format!("{other:?} is no action of these tests")));
            return StatusCode::BAD_REQUEST.into_response();
        }
    };
    ([("content-type", "application/x-amz-json-1.0")], answer.to_string()).into_response()
}

/// Waits for messages as long as the request demands.
async fn receive(kept: &Watched<Kept>, request: &Value) -> Value {
    let _asking = Asking::of(kept);
    let number = |name: &str| request[name].as_u64().unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(number("WaitTimeSeconds"));
    loop {
        let messages = kept.update(|kept| {
            kept.receive(number("MaxNumberOfMessages"), Duration::from_secs(number("VisibilityTimeout")))
        });
        if !messages.is_empty() || timeout_at(deadline, kept.wait_until(Kept::shows_any)).await.is_err() {
            return json!({"Messages": messages});
        }
    }
}

/// A request for messages under way; dropped with its answer, and by the server when the connection is gone.
struct Asking<'a>(&'a Watched<Kept>);

impl<'a> Asking<'a> {
    fn of(kept: &'a Watched<Kept>) -> Self {
        kept.update(|kept| kept.asking += 1);
        Self(kept)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.update(|kept| kept.asking -= 1);
    }
}

impl Kept {
    fn shows_any(&self) -> bool {
        self.messages.iter().any(|message| message.is_shown(self.clock))
    }

    /// Hides messages from now on, and returns them.
    fn receive(&mut self, most: u64, visibility: Duration) -> Vec<Value> {
        let mut received = Vec::new();
        for (number, message) in self.messages.iter_mut().enumerate() {
            if received.len() as u64 == most || !message.is_shown(self.clock) {
                continue;
            }
            message.receives += 1;
            message.shown_from = self.clock + visibility;
            self.done.push(Done::Received(number));
            received.push(json!({
                "MessageId": format!("message-{number}"), "ReceiptHandle": format!("{number}.{}", message.receives),
                "Body": message.body,
                "Attributes": {
                    "ApproximateReceiveCount": message.receives.to_string(),
                    "SentTimestamp": message.sent.as_millisecond().to_string(),
                },
            }));
        }
        received
    }

    fn for_each(&mut self, request: &Value, act: fn(&mut Self, usize, &Value)) -> Value {
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for entry in request["Entries"].as_array().into_iter().flatten() {
            let receipt = entry["ReceiptHandle"].as_str().unwrap_or_default();
            let parts = receipt.split_once('.').and_then(|(number, receives)| Some((number.parse().ok()?, receives)));
            let is_its_last = |number: usize, receives: &str| {
                let message = self.messages.get(number).filter(|message| !message.is_deleted);
                message.is_some_and(|message| message.receives.to_string() == receives)
            };
            match parts {
                Some((number, receives)) if is_its_last(number, receives) => {
                    act(self, number, entry);
                    successful.push(json!({"Id": entry["Id"]}));
                }
                _ => failed.push(json!({"Id": entry["Id"], "SenderFault": true, "Code": "ReceiptHandleIsInvalid"})),
            }
        }
        json!({"Successful": successful, "Failed": failed})
    }

    fn delete(&mut self, number: usize, _: &Value) {
        self.messages[number].is_deleted = true;
        self.done.push(Done::Deleted(number));
    }

    fn hide(&mut self, number: usize, entry: &Value) {
        let seconds = entry["VisibilityTimeout"].as_u64().unwrap_or_default();
        self.messages[number].shown_from = self.clock + Duration::from_secs(seconds);
        self.done.push(Done::Hidden(number, seconds));
    }
}

impl Message {
    fn is_shown(&self, clock: Duration) -> bool {
        !self.is_deleted && self.shown_from <= clock
    }
}
