//! The part that the fakes share: a router served on a free local port, until it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::reply;
use super::undated::Undated;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

pub(super) struct Server {
    address: SocketAddr,
    router: Router,
    omit_date: bool,
    traffic: Arc<Traffic>,
    stage: Mutex<Stage>,
    /// This socket never listens. It keeps the port from all other processes while the server is down, and in the
    /// moment of going down.
    _port: TcpSocket,
}

enum Stage {
    Up(Serving),
    Down,
}

/// A running server task, ended when this is dropped.
struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The state that all requests share, whatever their path.
struct Traffic {
    hits: AtomicUsize,
    cut: watch::Sender<()>,
}

impl Server {
    /// Serves the routes that `make_routes` returns for the base URL. With `omit_date` no answer carries a `Date`
    /// header.
    #[allow(clippy::unused_async, reason = "async says that it must run inside a runtime")]
    pub(super) async fn start(omit_date: bool, make_routes: impl FnOnce(&str) -> Router) -> Self {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("a bound socket has an address");
        let traffic = Arc::new(Traffic { hits: AtomicUsize::new(0), cut: watch::Sender::new(()) });
        let router =
            make_routes(&base_url(address)).layer(middleware::from_fn_with_state(Arc::clone(&traffic), while_serving));
        let serving = serve(socket, router.clone(), omit_date);
        let stage = Mutex::new(Stage::Up(serving));
        Self { address, router, omit_date, traffic, stage, _port: bind(address) }
    }

    pub(super) fn url(&self) -> String {
        base_url(self.address)
    }

    /// The number of requests so far, to any path.
    pub(super) fn hits(&self) -> usize {
        self.traffic.hits.load(Ordering::Relaxed)
    }

    /// Cuts off open requests and refuses connections from now on.
    pub(super) async fn go_down(&self) {
        let mut stage = self.stage.lock().await;
        if let Stage::Up(serving) = &mut *stage {
            serving.0.abort();
            // The listener closes when the task has ended, not before. The way in which it ended does not matter.
            let _ = (&mut serving.0).await;
            self.traffic.cut.send_replace(());
            *stage = Stage::Down;
        }
    }

    /// Serves again, at the same address.
    pub(super) async fn come_back(&self) {
        let mut stage = self.stage.lock().await;
        if let Stage::Down = &*stage {
            *stage = Stage::Up(serve(bind(self.address), self.router.clone(), self.omit_date));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.traffic.cut.send_replace(());
    }
}

/// Returns the answer with the date of a clock that is `ahead` seconds ahead of the real one.
pub(super) fn dated(mut response: Response, ahead: i64) -> Response {
    let now = Timestamp::now() + SignedDuration::from_secs(ahead);
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now).expect("a year of four digits");
    let date = HeaderValue::try_from(date).expect("a date is plain text");
    response.headers_mut().insert(header::DATE, date);
    response
}

fn base_url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Connections that are still closing must not block the port when the server comes back.
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    // Two sockets of this process share it: the one that listens, and the one that keeps the port.
    socket.set_reuseport(true).expect("SO_REUSEPORT");
    socket.bind(address).expect("a local port");
    socket
}

fn serve(socket: TcpSocket, router: Router, omit_date: bool) -> Serving {
    let listener: TcpListener = socket.listen(BACKLOG).expect("a listening socket");
    Serving(tokio::spawn(async move {
        let ended =
            if omit_date { axum::serve(Undated(listener), router).await } else { axum::serve(listener, router).await };
        ended.expect("axum::serve does not fail");
    }))
}

/// Counts the request and ties it to the server's life: a server that goes down cuts off its open requests, even those
/// that wait for ever.
async fn while_serving(State(traffic): State<Arc<Traffic>>, request: Request, next: Next) -> Response {
    traffic.hits.fetch_add(1, Ordering::Relaxed);
    let mut cut = traffic.cut.subscribe();
    tokio::select! {
        response = next.run(request) => response,
        _ = cut.changed() => reply::hang_up(),
    }
}
