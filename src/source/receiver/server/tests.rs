//! Tests the time limits of a connection, in simulated time, and the memory that connections share.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::mpsc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::clock::Clock;
use crate::source::receiver::body::Memory;
use crate::source::receiver::intake::Unheard;
use crate::source::receiver::spool::Spool;
use crate::source::receiver::spool::tests::Heard;
use crate::telemetry::metrics::Metrics;

const SECOND: Duration = Duration::from_secs(1);

/// An intake with a spool of this `size` in `folder`, for senders without keys.
fn intake(folder: &TempDir, size: u64) -> Arc<Intake> {
    let spool = Spool::open(&folder.path().join("spool"), size, Box::<Heard>::default()).unwrap();
    Arc::new(Intake {
        spool: Arc::new(spool),
        keys: None,
        has_certificates: false,
        memory: Memory::default(),
        unheard: Arc::new(Unheard::default()),
        clock: Clock::system(),
        metrics: Metrics::of(&"receiver:stdout".into()),
        complaints: Mutex::default(),
    })
}

/// A client's end of an HTTP/1.1 connection, and the task that serves the other end.
struct Client {
    stream: DuplexStream,
    serving: JoinHandle<()>,
    stop: CancellationToken,
    connected: Instant,
    _folder: TempDir,
}

impl Client {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let intake = intake(&folder, 1024 * 1024);
        let (stream, server) = tokio::io::duplex(64 * 1024);
        let (peer, stop) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), CancellationToken::new());
        let serving = tokio::spawn(plain(server, peer, intake, stop.clone()));
        Self { stream, serving, stop, connected: Instant::now(), _folder: folder }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads what the server sends from now on, until the connection ends.
    async fn rest(&mut self) -> String {
        let mut said = String::new();
        self.stream.read_to_string(&mut said).await.unwrap();
        said
    }

    /// Sends `part` once in each interval `every`, until the server answers or hangs up. Returns the answer, and the
    /// time that it took.
    async fn drips(mut self, part: &str, every: Duration) -> (String, Duration) {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let begun = Instant::now();
        let mut said = Vec::new();
        loop {
            tokio::select! {
                biased;
                read = reader.read_buf(&mut said) => {
                    read.unwrap();
                    break;
                }
                () = sleep(every) => if writer.write_all(part.as_bytes()).await.is_err() { break },
            }
        }
        let took = begun.elapsed();
        reader.read_to_end(&mut said).await.unwrap();
        drop((reader, writer));
        (&mut self.serving).await.unwrap();
        (String::from_utf8(said).unwrap(), took)
    }
}

/// Asserts that `took` is at least `least`, and less than a second longer.
fn assert_about(took: Duration, least: Duration) {
    assert!((least..least + SECOND).contains(&took), "{took:?} instead of {least:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_its_head_by_and_by_is_cut_off_after_a_minute() {
    let mut client = Client::new();
    client.send("POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nX-Slow: ").await;
    let (said, took) = client.drips("x", 5 * SECOND).await;
    assert_about(took, LONGEST_HEAD);
    assert_eq!(said, "");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_cut_off_after_a_minute() {
    let mut client = Client::new();
    assert_eq!(client.rest().await, "");
    assert_about(client.connected.elapsed(), LONGEST_HEAD);
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_rest_for_a_minute_between_two_requests() {
    const NOTHING: &str = "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n";
    let rest = LONGEST_HEAD.saturating_sub(SECOND);
    let mut client = Client::new();
    for _ in 0..3 {
        sleep(rest).await;
        client.send(NOTHING).await;
    }
    let said = client.rest().await;
    assert_eq!(said.matches("HTTP/1.1 404").count(), 3, "{said}");
    assert_about(client.connected.elapsed(), 3 * rest + LONGEST_HEAD);
}

/// The head of a request whose body has this many `bytes`.
fn head(bytes: usize) -> String {
    format!(
        "POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_by_and_by_is_answered_408_after_a_minute() {
    let mut client = Client::new();
    client.send(&head(1000)).await;
    let (said, took) = client.drips(" ", 5 * SECOND).await;
    assert_about(took, Duration::from_secs(60));
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("did not arrive in time"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_is_answered_408_after_fifteen_seconds() {
    let mut client = Client::new();
    client.send(&head(1000)).await;
    client.send("[{\"n\":1},").await;
    let (said, took) = client.drips(" ", 600 * SECOND).await;
    assert_about(took, Duration::from_secs(15));
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
}

/// Each part arrives in time, but all of them together hold memory that other requests wait for.
#[tokio::test(start_paused = true)]
async fn a_chunked_body_without_an_end_is_answered_408_after_a_minute() {
    let mut client = Client::new();
    client.send("POST /v1/input HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let (said, took) = client.drips("1\r\n \r\n", 10 * SECOND).await;
    assert_about(took, Duration::from_secs(60));
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_after_the_stop_is_read_and_answered() {
    let mut client = Client::new();
    client.send(&head(8)).await;
    // The server reads the head meanwhile.
    sleep(SECOND).await;
    client.stop.cancel();
    sleep(LAST.saturating_sub(SECOND)).await;
    // An array without its end, so that the answer does not wait for the disk.
    client.send("[{\"n\":1}").await;
    let said = client.rest().await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}

/// Sends a request with this `body` and reads the answer.
async fn posts(intake: Arc<Intake>, encoding: &'static str, body: Bytes) -> String {
    let (stream, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(plain(server, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), intake, CancellationToken::new()));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let head = format!(
        "POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let sends = async {
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(&body).await.unwrap();
    };
    let mut said = String::new();
    let ((), read) = tokio::join!(sends, reader.read_to_string(&mut said));
    read.unwrap();
    said
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

/// Stops simulated time until the returned sender is dropped, but for five minutes at most. So no limit of time counts
/// while a slow computer works.
fn time_stands_still() -> mpsc::Sender<()> {
    let (ends, end) = mpsc::channel();
    // tokio does not advance simulated time while such a task runs.
    tokio::task::spawn_blocking(move || end.recv_timeout(300 * SECOND));
    ends
}

/// Vector's batches have 4.25 MB. Together they need more memory than there is, so some wait for others.
#[tokio::test(start_paused = true)]
async fn many_large_bodies_at_once_and_a_small_one_beside_them_are_all_stored() {
    let _still = time_stands_still();
    let folder = tempfile::tempdir().unwrap();
    let intake = intake(&folder, 1024 * 1024 * 1024);
    let entry = format!("{{\"message\":\"{}\"}}", "x".repeat(4230));
    let large = format!("[{}]", vec![entry; 1000].join(","));
    assert!(large.len() > 4_240_000);
    let small = Bytes::from("[{\"message\":\"small\"}]");
    for (encoding, large, small) in
        [("identity", Bytes::from(large.clone()), small.clone()), ("gzip", gzip(large.as_bytes()), gzip(&small))]
    {
        let bodies = std::iter::repeat_n(large, 16).chain([small]);
        let answers = bodies.map(|body| tokio::spawn(posts(Arc::clone(&intake), encoding, body)));
        for answer in answers.collect::<Vec<_>>() {
            let answer = answer.await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 202"), "{encoding}: {answer}");
        }
    }
}

/// An upload that has announced much, but sent little, keeps no other sender from the memory.
#[tokio::test(start_paused = true)]
async fn a_hundred_uploads_that_stand_still_hold_up_no_other_sender() {
    let folder = tempfile::tempdir().unwrap();
    let intake = intake(&folder, 1024 * 1024);
    let mut standing = Vec::new();
    for _ in 0..100 {
        let (mut stream, server) = tokio::io::duplex(64 * 1024);
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        tokio::spawn(plain(server, peer, Arc::clone(&intake), CancellationToken::new()));
        stream.write_all(head(5_000_000).as_bytes()).await.unwrap();
        standing.push(stream);
    }
    let begun = Instant::now();
    // The spool has no room for it, so the answer does not wait for the disk.
    let entry = format!("[{{\"message\":\"{}\"}}]", "x".repeat(1_050_000));
    let answer = posts(intake, "identity", entry.into()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "it waited for nobody");
}
