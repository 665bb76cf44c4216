//! Tests the end of a receiver, and clients that must not hold up others.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::receiver::{KEY, Reception, numbers};
use crate::stage::stop;

/// Begins a POST with a body that `framing` announces. Returns when the receiver waits for the body.
async fn begun(reception: &Reception, framing: &str) -> TcpStream {
    let mut stream = reception.probe.connect().await;
    let head = format!(
        "POST /api/v2/logs HTTP/1.1\r\nHost: x\r\nDD-API-KEY: {KEY}\r\nContent-Type: application/json\r\n{framing}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test]
async fn a_stop_answers_the_request_under_way_and_it_is_delivered_once() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    let body = br#"[{"n":1}]"#;
    let mut stream = begun(&reception, &format!("Content-Length: {}", body.len())).await;
    // A request may take five seconds after the signal. The process stands still until the signal and the body are
    // there, so a test that is held up uses none of that time.
    daemon.signal("STOP").await;
    daemon.signal("TERM").await;
    stream.write_all(body).await.unwrap();
    daemon.signal("CONT").await;
    daemon.says("shutting down").await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let next = reception.setup.run(&["run", "--once"]).await;
    assert_eq!(numbers(&format!("{}{}", ended.stdout, next.stdout)), [1], "{}", next.stderr);
}

#[tokio::test]
async fn a_single_run_delivers_what_is_in_the_spool_and_lets_nobody_connect() {
    let reception = Reception::usual();
    let daemon = reception.started().await;
    reception.push(0..3).await;
    daemon.signal("KILL").await;
    let before = daemon.ended().await;
    let run = reception.setup.run_to(0).await;
    assert!(run.stderr.contains("senders cannot connect") && !run.stderr.contains("senders can connect"));
    let arrived: std::collections::BTreeSet<_> =
        numbers(&format!("{}{}", before.stdout, run.stdout)).into_iter().collect();
    assert_eq!(arrived, [0, 1, 2].into());
}

#[tokio::test]
async fn uploads_that_stand_still_hold_up_no_other_sender() {
    let reception = Reception::usual();
    let _daemon = reception.started().await;
    let mut standing = Vec::new();
    for _ in 0..12 {
        standing.push(begun(&reception, "Transfer-Encoding: chunked").await);
    }
    reception.push(0..1).await;
}

#[tokio::test]
async fn a_small_body_that_takes_much_room_is_refused_whole() {
    let asked = crate::probe::Probe::new();
    let reception = Reception::usual().with("AUDITSYNC_HTTP_LISTEN", asked.address());
    let daemon = reception.started().await;
    let path = format!("/{}", "t".repeat(200));
    let body = r#"{"a":1}"#.repeat(600_000);
    assert_eq!(reception.post(&path, body).await.status(), 413);
    reception.push(0..1).await;
    let metrics = asked.get("/metrics").await.body;
    let counted = |result: &str, count: u64| {
        metrics.contains(&format!("requests_total{{pipeline=\"receiver:stdout\",result=\"{result}\"}} {count}\n"))
    };
    assert!(counted("refused", 1) && !counted("unsafe", 1), "{metrics}");
    let ended = stop(daemon).await;
    let told = ended.stderr.lines().filter(|line| line.contains("the receiver refused a request")).collect::<Vec<_>>();
    assert!(matches!(told[..], [line] if line.contains("more than the whole spool")), "{}", ended.stderr);
}
