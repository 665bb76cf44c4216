//! A path to a server on which answers get lost.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The fate of the bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Everything passes.
    Open,
    /// Requests arrive; the proxy cuts the connection at the first byte of an answer.
    AnswersAreLost,
    /// The proxy accepts connections, and passes nothing.
    Silent,
    /// Connections are cut at once.
    Cut,
}

/// The rule for all connections.
#[derive(Debug, Clone, Copy)]
struct Rule {
    way: Way,
    server: SocketAddr,
}

/// Passes bytes on to a server, whatever they mean.
pub struct Proxy {
    address: SocketAddr,
    rule: watch::Sender<Rule>,
    running: JoinHandle<()>,
}

impl Proxy {
    /// Opens a path to the server at `address`.
    pub async fn to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let own = listener.local_addr().expect("an address");
        let (rule, told) = watch::channel(Rule { way: Way::Open, server: address });
        let running = tokio::spawn(async move {
            let mut connections = Connections::default();
            while let Ok((client, _)) = listener.accept().await {
                connections.0.push(tokio::spawn(pass(client, told.clone())));
            }
        });
        Self { address: own, rule, running }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the way, for existing connections, too.
    pub fn set(&self, way: Way) {
        self.rule.send_modify(|rule| rule.way = way);
    }

    /// Leads new connections to another server, and ends the existing ones.
    pub fn lead_to(&self, server: SocketAddr) {
        self.rule.send_modify(|rule| rule.server = server);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Connections end with the proxy.
#[derive(Default)]
struct Connections(Vec<JoinHandle<()>>);

impl Drop for Connections {
    fn drop(&mut self) {
        for passing in &self.0 {
            passing.abort();
        }
    }
}

async fn pass(mut client: TcpStream, mut rule: watch::Receiver<Rule>) {
    let address = rule.borrow().server;
    let Ok(mut server) = TcpStream::connect(address).await else { return };
    let (mut request, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let Rule { way, server: now } = *rule.borrow_and_update();
        if way == Way::Cut || now != address {
            return;
        }
        tokio::select! {
            // A new rule counts for all bytes that come after it, even if both are found at once.
            biased;
            changed = rule.changed() => if changed.is_err() { return },
            read = client.read(&mut request), if way != Way::Silent => match read {
                Ok(length) if length > 0 && server.write_all(&request[..length]).await.is_ok() => {}
                _ => return,
            },
            read = server.read(&mut answer), if way != Way::Silent => match read {
                Ok(length) if length > 0 && way == Way::Open && client.write_all(&answer[..length]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}
