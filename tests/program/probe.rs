//! A port for the daemon's listener, and a client that sends requests like a probe or a hostile stranger.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::daemon::Setup;
use crate::support::{PATIENCE, Port};

pub const LISTEN: &str = "SECTIGO_AUDIT_HTTP_LISTEN";

/// The daemon's log text when it answers probes.
pub const ANSWERING: &str = "answering /healthz, /readyz and /metrics";

/// A port that no other process gets.
pub struct Probe(Port);

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Probe {
    pub fn new() -> Self {
        Self(Port::free())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    pub fn port(&self) -> u16 {
        self.0.number()
    }

    /// `setup` with this port to listen on.
    pub fn on(&self, setup: Setup) -> Setup {
        setup.with(LISTEN, self.address())
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).await.expect("the daemon listens")
    }

    /// Sends these bytes, and reads the answer to its end.
    pub async fn send(&self, bytes: &[u8]) -> Answer {
        // The program closes a connection whose request does not begin in time. So no task runs between these calls.
        let mut socket = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).expect("the daemon listens");
        socket.set_nonblocking(true).expect("it is open");
        let sent = socket.write(bytes).unwrap_or_default();
        let mut stream = TcpStream::from_std(socket).expect("it is open");
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(&bytes[sent..]).await;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "no end of the answer");
        let text = String::from_utf8(answer).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n").as_bytes()).await
    }

    /// Repeats a request until the answer is `wanted`.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let mut last = None;
        let asked = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                last = Some(answer);
                sleep(Duration::from_millis(50)).await;
            }
        };
        let found = timeout(PATIENCE, asked).await;
        found.unwrap_or_else(|_| panic!("{path} never came to what was waited for, but to {last:?}"))
    }

    /// The value of a series, given in the form of a scrape.
    pub async fn series(&self, series: &str) -> f64 {
        value(&self.get("/metrics").await.body, series)
    }
}

/// The value of a series of the default pipeline in a scrape.
pub fn value(scrape: &str, series: &str) -> f64 {
    const PIPELINE: &str = "pipeline=\"sectigo:datadog\"";
    let series = match series.split_once('{') {
        Some((name, labels)) => format!("{name}{{{PIPELINE},{labels}"),
        None => format!("{series}{{{PIPELINE}}}"),
    };
    let line = scrape.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{scrape}"));
    line.parse().expect("a number")
}
