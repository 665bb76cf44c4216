//! The HTTP server: limits the number of connections, and the time that each may take.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::intake::Intake;
use super::tls::Rotating;

/// The most connections at a time; fewer if the process may not open that many files. Further ones wait to be accepted.
const CONNECTIONS: usize = 4096;

/// The number of open files reserved for other uses than connections.
const OTHER_FILES: u64 = 256;

/// The longest time for a handshake.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// The longest time for the head of a request, from the end of the one before.
const LONGEST_HEAD: Duration = Duration::from_secs(60);

/// The time after which an HTTP/2 connection without a request is closed.
const LONGEST_IDLE: Duration = Duration::from_secs(120);

/// The largest head of a request, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// The most requests at a time on an HTTP/2 connection.
const STREAMS: u32 = 128;

/// The pause after a connection could not be accepted, as when the process has too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest time for requests in flight after a shutdown is requested.
const LAST: Duration = Duration::from_secs(5);

/// Serves until a shutdown is requested.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Rotating>,
    pub(super) intake: Arc<Intake>,
    pub(super) shutdown: CancellationToken,
    /// The connections that the process waits for at its end.
    pub(super) connections: TaskTracker,
}

impl Server {
    /// Accepts connections until a shutdown is requested.
    pub(super) async fn run(self) {
        let free = Arc::new(Semaphore::new(connections()));
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let permit = Arc::clone(&free).acquire_owned().await.ok();
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = accepted => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the receiver could not be accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let acceptor = self.tls.as_ref().map(Rotating::acceptor);
            let (intake, shutdown) = (Arc::clone(&self.intake), self.shutdown.clone());
            let connection = async move {
                let _ = stream.set_nodelay(true);
                match acceptor {
                    None => plain(stream, peer, intake, shutdown).await,
                    Some(acceptor) => {
                        // A client that is slow, gone or not trusted is not worth more than this line.
                        let handshake = timeout(LONGEST_HANDSHAKE, acceptor.accept(stream));
                        let Some(shaken) = shutdown.run_until_cancelled(handshake).await else { return };
                        match shaken {
                            Ok(Ok(stream)) => {
                                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                if is_http2 {
                                    multiplexed(stream, peer, intake, shutdown).await;
                                } else {
                                    plain(stream, peer, intake, shutdown).await;
                                }
                            }
                            Ok(Err(error)) => tracing::debug!(client = %peer.ip(), %error, "a TLS handshake failed"),
                            Err(_) => tracing::debug!(client = %peer.ip(), "a TLS handshake took too long"),
                        }
                    }
                }
                drop(permit);
            };
            self.connections.spawn(connection.in_current_span());
        }
    }
}

/// The number of connections that the process may open. Raises the soft limit for open files towards the hard one, as
/// far as connections need it.
fn connections() -> usize {
    let wanted = CONNECTIONS as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    let reachable = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    if limit.current.is_some_and(|current| current < reachable) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: limit.maximum });
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).clamp(16, CONNECTIONS)
}

/// A connection of HTTP/1.1.
async fn plain(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    intake: Arc<Intake>,
    shutdown: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let intake = Arc::clone(&intake);
        async move { Ok::<_, Infallible>(intake.answer(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST_HEAD)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(LAST, connection).await;
}

/// A connection of HTTP/2.
async fn multiplexed(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    intake: Arc<Intake>,
    shutdown: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let noted = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (intake, activity) = (Arc::clone(&intake), noted.begins());
        async move {
            let answer = intake.answer(request, peer).await;
            drop(activity);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        () = activity.is_idle() => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(LAST, connection).await;
}

/// The requests of a connection.
#[derive(Debug)]
struct Activity {
    requests: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { requests: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    fn begins(self: &Arc<Self>) -> Active {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// Waits until there has been no request for [`LONGEST_IDLE`].
    async fn is_idle(&self) {
        loop {
            let since = self.last.lock().elapsed();
            if self.requests.load(Ordering::Relaxed) == 0 && since >= LONGEST_IDLE {
                return;
            }
            sleep(LONGEST_IDLE.saturating_sub(since).max(PAUSE)).await;
        }
    }
}

/// A request that is under way until this is dropped.
struct Active(Arc<Activity>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        *self.0.last.lock() = Instant::now();
    }
}

#[cfg(test)]
mod tests;
