//! What both servers have in common: a router on a free port of this machine, and answers that take their time.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running server. Ends when it is dropped.
pub struct Server {
    pub url: String,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves what `make_routes` makes of the server's own address.
    pub async fn start(make_routes: impl FnOnce(&str) -> Router) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = make_routes(&url);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("a server ended: {error}");
            }
        });
        Ok(Self { url, task })
    }
}

/// Waits until `latency` has gone by since `arrival`.
///
/// On a thread that sleeps: the runtime's timer is exact to a millisecond only, and would add that to every answer.
pub async fn answer_after(latency: Duration, arrival: Instant) {
    let rest = latency.saturating_sub(arrival.elapsed());
    if !rest.is_zero() {
        tokio::task::spawn_blocking(move || std::thread::sleep(rest)).await.expect("sleeping does not fail");
    }
}
