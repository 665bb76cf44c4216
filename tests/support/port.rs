//! A port for a server that another process opens.

use std::net::Ipv4Addr;

use tokio::net::TcpSocket;

/// A free port that no other process gets.
pub struct Port {
    number: u16,
    /// A socket that never listens: it keeps the port for a server that sets `SO_REUSEADDR`.
    _socket: TcpSocket,
}

impl Port {
    pub fn free() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a local port");
        Self { number: socket.local_addr().expect("a bound socket has an address").port(), _socket: socket }
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
