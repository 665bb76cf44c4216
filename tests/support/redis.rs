//! The real Redis server, one for each test that wants one.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than the slowest honest start.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a port that someone else took in the meantime is replaced by another.
const PORTS: usize = 20;

/// A server on a port and in a folder of its own; killed when dropped.
pub struct RedisServer {
    port: u16,
    tls_port: Option<u16>,
    folder: TempDir,
    arguments: Vec<String>,
    process: Child,
}

impl RedisServer {
    /// One that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// One with these arguments.
    ///
    /// # Panics
    /// Without redis-server.
    pub fn with(arguments: &[&str]) -> Self {
        Self::launched(arguments, false)
    }

    /// One that speaks TLS on a second port, with the certificate and the key in these files.
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        let files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
        Self::launched(&files, true)
    }

    fn launched(arguments: &[&str], tls: bool) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for _ in 0..PORTS {
            let (port, tls_port) = (free_port(), tls.then(free_port));
            let mut arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
            if let Some(port) = tls_port {
                arguments.extend(["--tls-port".to_owned(), port.to_string()]);
            }
            if let Some(process) = launch(port, &folder, &arguments) {
                return Self { port, tls_port, folder, arguments, process };
            }
        }
        panic!("redis-server took none of {PORTS} ports; does `redis-server {}` start?", arguments.join(" "));
    }

    /// A replica of this server.
    pub fn replica(&self) -> Self {
        Self::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &self.port.to_string()])
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it speaks TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("it was started with TLS")
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }

    /// Starts it again after [`Self::kill`], where it was and with what it kept on disk.
    pub fn restart(&mut self) {
        self.process = launch(self.port, &self.folder, &self.arguments).expect("it starts again");
    }

    /// Stops its process without ending it: it takes connections and answers nothing.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
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
        let said = cli.args(["-p", &self.port.to_string(), "--raw"]).args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&said.stdout).trim_end().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A server that takes connections; none if it ended at once.
fn launch(port: u16, folder: &TempDir, arguments: &[String]) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--dir"]);
    command.arg(folder.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().expect("redis-server is missing: apt-get install redis-server");
    let begun = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if process.try_wait().expect("its state").is_some() {
            return None;
        }
        assert!(begun.elapsed() < PATIENCE, "redis-server does not listen on {port}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(process)
}
