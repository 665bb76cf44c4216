//! A server that ends TLS in front of a fake, which speaks plain HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Pair;

/// Passes on what it decrypts. Accepts no connection after it is dropped.
pub struct TlsFront {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    /// Listens with the pair `server` in front of the fake at `url`. It requires client certificates of these
    /// `authorities`, in PEM, if there are any.
    pub async fn of(url: &str, server: &Pair, authorities: &[String]) -> Self {
        let fake: SocketAddr = url.trim_start_matches("http://").parse().expect("the address of a fake");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a local port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let acceptor = TlsAcceptor::from(server.server_config(authorities));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // The way in which a connection ends does not matter.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let Ok(mut fake) = TcpStream::connect(fake).await else { return };
                    let _ = copy_bidirectional(&mut client, &mut fake).await;
                });
            }
        });
        Self { address, accepting }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
