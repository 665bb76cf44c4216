//! The proxies that may stand before an Auth Service: a Proxy of Teleport, and an HTTP proxy.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::server::Acceptor;

/// A Proxy: it reads the first ALPN entry of a handshake, and passes the bytes through to the Auth Service that it names.
pub struct FakeTeleportProxy {
    address: SocketAddr,
    /// The first entries, in the order of arrival.
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    running: JoinHandle<()>,
}

impl FakeTeleportProxy {
    pub async fn start(routes: impl IntoIterator<Item = (Vec<u8>, SocketAddr)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a local port");
        let address = listener.local_addr().expect("an address");
        let routes: Arc<HashMap<_, _>> = Arc::new(routes.into_iter().collect());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let running = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(route(client, Arc::clone(&routes), Arc::clone(&noted)));
            }
        });
        Self { address, seen, running }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn routed(&self) -> Vec<Vec<u8>> {
        self.seen.lock().clone()
    }
}

impl Drop for FakeTeleportProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn route(
    mut client: TcpStream,
    routes: Arc<HashMap<Vec<u8>, SocketAddr>>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
) -> Option<()> {
    let (mut acceptor, mut read) = (Acceptor::default(), Vec::new());
    let first = loop {
        let mut chunk = vec![0; 16 * 1024];
        let length = client.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        read.extend_from_slice(&chunk[..length]);
        acceptor.read_tls(&mut &chunk[..length]).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            break accepted.client_hello().alpn().and_then(|mut entries| entries.next().map(<[u8]>::to_vec))?;
        }
    };
    seen.lock().push(first.clone());
    // The Proxy closes a connection whose name leads nowhere.
    let mut server = TcpStream::connect(*routes.get(&first)?).await.ok()?;
    server.write_all(&read).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// An HTTP proxy that opens tunnels for CONNECT, and knows every target by one name only.
pub struct ConnectProxy {
    address: SocketAddr,
    /// The heads of the requests.
    requests: Arc<Mutex<Vec<String>>>,
    running: JoinHandle<()>,
}

impl ConnectProxy {
    /// Opens a proxy whose tunnels all lead to `target`; without one it answers 403.
    pub async fn to(target: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a local port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        let running = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(tunnel(client, target, Arc::clone(&noted)));
            }
        });
        Self { address, requests, running }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn tunnel(mut client: TcpStream, target: Option<SocketAddr>, requests: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    requests.lock().push(String::from_utf8_lossy(&head).into_owned());
    let Some(target) = target else {
        client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.ok()?;
        return None;
    };
    let mut server = TcpStream::connect(target).await.ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}
