//! The real Redis server, one for each test that wants one.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::port::Port;
use super::within::PATIENCE;

/// A server on a port and in a folder of its own; killed when dropped.
pub struct RedisServer {
    port: Port,
    tls_port: Option<Port>,
    folder: TempDir,
    arguments: Vec<String>,
    process: Child,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server with these arguments.
    ///
    /// # Panics
    /// Without redis-server.
    pub fn with(arguments: &[&str]) -> Self {
        Self::launched(arguments, false)
    }

    /// Starts a server with TLS on a second port, with the certificate and the key in these files.
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        let files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
        Self::launched(&files, true)
    }

    fn launched(arguments: &[&str], tls: bool) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (port, tls_port) = (Port::free(), tls.then(Port::free));
        let mut arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        if let Some(port) = &tls_port {
            arguments.extend(["--tls-port".to_owned(), port.number().to_string()]);
        }
        let process = launch(port.number(), &folder, &arguments);
        Self { port, tls_port, folder, arguments, process }
    }

    /// Starts a replica of this server, and waits until this server knows it.
    pub fn replica(&self) -> Self {
        let port = self.port().to_string();
        let replica = Self::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &port]);
        let begun = Instant::now();
        while !self.command(&["INFO", "replication"]).contains("connected_slaves:1") {
            assert!(begun.elapsed() < PATIENCE, "the replica does not connect");
        }
        replica
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.as_ref().expect("it was started with TLS").number()
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Kills it with `SIGKILL`.
    pub fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }

    /// Starts it again after [`Self::kill`], on the same port and with its data on disk.
    pub fn restart(&mut self) {
        self.process = launch(self.port(), &self.folder, &self.arguments);
    }

    /// Suspends its process: it accepts connections and does not answer.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it continue.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// What `redis-cli` prints for a command.
    pub fn command(&self, words: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        let said = cli.args(["-p", &self.port().to_string(), "--raw"]).args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&said.stdout).trim_end().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a server and waits until it accepts connections.
fn launch(port: u16, folder: &TempDir, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--dir"]);
    command.arg(folder.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().expect("redis-server is missing: apt-get install redis-server");
    let begun = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        let ended = process.try_wait().expect("its state");
        assert!(ended.is_none(), "redis-server {} ended on port {port}: {ended:?}", arguments.join(" "));
        assert!(begun.elapsed() < PATIENCE, "redis-server does not listen on {port}");
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}
