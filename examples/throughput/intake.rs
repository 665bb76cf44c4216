//! An intake that costs little: it keeps what it is sent as it is, to be looked at afterwards.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use bytes::Bytes;

use crate::server::{Server, answer_after};

/// The API key that is good.
pub const API_KEY: &str = "0123456789abcdef0123456789abcdef";

/// What was sent: bodies as they came, one after the other in a file that has no name. The memory is the program's to fill.
pub struct Kept {
    file: File,
    /// Where each body begins, and its length.
    pub bodies: Vec<(u64, usize)>,
    end: u64,
    /// When the newest was answered.
    pub last_accepted: Option<Instant>,
    pub breaches: Vec<String>,
}

impl Kept {
    fn keep(&mut self, body: &[u8]) -> io::Result<()> {
        self.file.write_all(body)?;
        self.bodies.push((self.end, body.len()));
        self.end += body.len() as u64;
        Ok(())
    }

    /// A body as it was sent.
    pub fn read(&self, number: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let (start, length) = self.bodies[number];
        body.resize(length, 0);
        self.file.read_exact_at(body, start)
    }

    /// Bytes of all bodies.
    pub fn sent(&self) -> u64 {
        self.end
    }
}

pub struct Intake {
    encoding: &'static str,
    latency: Duration,
    kept: Mutex<Kept>,
}

impl Intake {
    /// An intake for bodies in this encoding, each answered after `latency`.
    pub async fn start(encoding: &'static str, latency: Duration) -> io::Result<(Server, Arc<Self>)> {
        let kept =
            Kept { file: nameless_file()?, bodies: Vec::new(), end: 0, last_accepted: None, breaches: Vec::new() };
        let intake = Arc::new(Self { encoding, latency, kept: Mutex::new(kept) });
        let state = Arc::clone(&intake);
        let routes = Router::new().route("/api/v2/logs", post(logs)).layer(DefaultBodyLimit::disable());
        let server = Server::start(|_| routes.with_state(state)).await?;
        Ok((server, intake))
    }

    /// Works on what was kept.
    pub fn with_kept<R>(&self, work: impl FnOnce(&mut Kept) -> R) -> R {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// In memory, where the system has such a place: what is written to the program's own disk would make its fsyncs wait.
fn nameless_file() -> io::Result<File> {
    tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile())
}

async fn logs(State(intake): State<Arc<Intake>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let arrival = Instant::now();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let breach = match (text("dd-api-key"), text(header::CONTENT_ENCODING.as_str())) {
        (API_KEY, encoding) if encoding == intake.encoding => None,
        (API_KEY, encoding) => Some(format!("a body in the encoding {encoding:?}")),
        _ => Some("a body without the key".to_owned()),
    };
    let kept = intake.with_kept(|kept| {
        kept.breaches.extend(breach);
        kept.keep(&body)
    });
    if let Err(error) = kept {
        intake.with_kept(|kept| kept.breaches.push(format!("a body could not be kept: {error}")));
        return (StatusCode::INSUFFICIENT_STORAGE, "{}");
    }
    answer_after(intake.latency, arrival).await;
    intake.with_kept(|kept| kept.last_accepted = Some(Instant::now()));
    (StatusCode::ACCEPTED, "{}")
}
