//! An intake that keeps the bodies as they arrive, and reads them after the program has ended.
//!
//! The tests' fake reads each entry before it answers. On two cores, that takes time from the measured program.

use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use flate2::read::GzDecoder;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub const LOGS: &str = "/api/v2/logs";

type Bodies = Arc<Mutex<Vec<Bytes>>>;

/// A running intake, which ends when it is dropped.
pub struct Intake {
    pub url: String,
    bodies: Bodies,
    _server: AbortOnDropHandle<io::Result<()>>,
}

impl Intake {
    pub async fn start() -> io::Result<Self> {
        let bodies = Bodies::default();
        let routes = Router::new().route(LOGS, post(keep)).layer(DefaultBodyLimit::disable());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = axum::serve(listener, routes.with_state(Arc::clone(&bodies)));
        Ok(Self { url, bodies, _server: AbortOnDropHandle::new(tokio::spawn(server.into_future())) })
    }

    /// Returns the bodies that arrived, compressed.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn keep(State(bodies): State<Bodies>, body: Bytes) -> (StatusCode, &'static str) {
    bodies.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    (StatusCode::ACCEPTED, "{}")
}

pub fn decompress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut entries = Vec::new();
    GzDecoder::new(body).read_to_end(&mut entries)?;
    Ok(entries)
}
