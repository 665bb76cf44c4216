//! Tests the receiver in trouble: killed under load, full, without disk space, with clients that are slow, many or
//! gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::receiver::{KEY, OPEN, Reception, client, entry, numbers};
use crate::stage::stop;
use crate::support::{FakeIntake, IntakeOptions, Predicate, within};

/// Sends until the receiver is gone, and notes which entries were answered 202. Another answer ends it.
async fn load(url: String, next: Arc<AtomicUsize>, safe: Arc<Mutex<BTreeSet<u64>>>) -> Option<u16> {
    let client = client();
    loop {
        let first = next.fetch_add(10, Ordering::Relaxed);
        let entries: Vec<_> = (first..first + 10).map(entry).collect();
        let request = client.post(&url).header("DD-API-KEY", KEY).header("Content-Type", "application/json");
        let answer = request.body(serde_json::to_vec(&entries).unwrap()).send().await;
        match answer.map(|answer| answer.status().as_u16()) {
            Ok(202) => safe.lock().unwrap().extend(first as u64..first as u64 + 10),
            Ok(status) => return Some(status),
            Err(_) => return None,
        }
    }
}

#[tokio::test]
async fn every_entry_that_was_answered_arrives_whenever_the_receiver_is_killed() {
    let reception = Reception::usual();
    let (next, safe) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(BTreeSet::new())));
    let mut printed = BTreeMap::<u64, usize>::new();
    let mut rng = fastrand::Rng::with_seed(15);
    let mut note = |text: &str| numbers(text).into_iter().for_each(|n| *printed.entry(n).or_default() += 1);
    let kills = std::env::var("AUDITSYNC_TEST_RECEIVER_KILLS").map_or(5, |text| text.parse().unwrap());
    for _ in 0..kills {
        let daemon = reception.started().await;
        let mut senders = JoinSet::new();
        for _ in 0..8 {
            senders.spawn(load(reception.url("/api/v2/logs"), Arc::clone(&next), Arc::clone(&safe)));
        }
        let before = next.load(Ordering::Relaxed);
        let enough = before + rng.usize(10..2000);
        let sent = async {
            while next.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            () = sent => {}
            ended = senders.join_next() => panic!("a sender ended: {ended:?}\n{}", daemon.stderr()),
        }
        daemon.signal("KILL").await;
        note(&daemon.ended().await.stdout);
        assert_eq!(senders.join_all().await, [None; 8], "every answer is 202");
    }
    let last = reception.setup.run_to(0).await;
    note(&last.stdout);
    let safe = safe.lock().unwrap().clone();
    let missing: Vec<_> = safe.iter().filter(|n| !printed.contains_key(n)).collect();
    assert!(!safe.is_empty() && missing.is_empty(), "{} of {} are lost: {missing:?}", missing.len(), safe.len());
}

#[tokio::test]
async fn a_full_spool_answers_429_and_the_try_of_a_connection_fails_until_there_is_room() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    intake.go_down().await;
    let asked = crate::probe::Probe::new();
    let reception = Reception::usual()
        .to(&intake)
        .with("RECEIVER_AUDIT_SPOOL_SIZE", "1MiB")
        .with("AUDITSYNC_HTTP_LISTEN", asked.address());
    let daemon = reception.started().await;
    let validate = || client().get(reception.url("/api/v1/validate")).header("DD-API-KEY", KEY).send();
    assert_eq!(validate().await.unwrap().status(), 200);
    let filler = "x".repeat(100_000);
    let mut taken = 0;
    let refused = loop {
        let entry = serde_json::json!({"message": "m", "x": filler, "evt": {"id": taken.to_string()}});
        let answer = reception.post("/api/v2/logs", entry.to_string()).await;
        if answer.status() != 202 {
            break answer;
        }
        taken += 1;
    };
    assert_eq!((refused.status().as_u16(), taken), (429, 10));
    assert!(refused.headers().contains_key("retry-after"));
    let readiness = asked.get("/readyz").await;
    assert_eq!(readiness.status, 503);
    let reason = readiness.json()["pipelines"][0]["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "the spool is full, so senders get 429 until the destination has accepted more");
    // Smaller entries find room until the very end.
    let small = serde_json::json!({"message": "m", "x": "x".repeat(40_000), "evt": {"id": "small"}}).to_string();
    while reception.post("/api/v2/logs", small.clone()).await.status() == 202 {}
    let tiny = serde_json::json!({"message": "m", "x": "x".repeat(100), "evt": {"id": "small"}}).to_string();
    while reception.post("/api/v2/logs", tiny.clone()).await.status() == 202 {}
    let grain = r#"{"message":"m","evt":{"id":"small"}}"#;
    while reception.post("/api/v2/logs", grain).await.status() == 202 {}
    assert_eq!(validate().await.unwrap().status(), 429, "no event of usual size could be stored");
    intake.come_back().await;
    intake.wait_for_ids(11).await;
    let free = async {
        while reception.post("/api/v2/logs", r#"{"message":"m","evt":{"id":"after"}}"#).await.status() != 202 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("room", free).await;
    assert_eq!(validate().await.unwrap().status(), 200);
    intake.wait_for_ids(12).await;
    asked.until("/readyz", |answer| answer.status == 200).await;
    let ended = stop(daemon).await;
    for text in ["the spool is full; the receiver answers 429", "the spool has room again"] {
        assert_eq!(ended.stderr.matches(text).count(), 1, "{text}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_called_safe_and_no_try_of_a_connection_succeeds() {
    let asked = crate::probe::Probe::new();
    let reception = Reception::usual().with("AUDITSYNC_HTTP_LISTEN", asked.address());
    // 256 KiB for each file.
    let mut daemon = reception.setup.start_with_files_limited(512);
    daemon.says(OPEN).await;
    let filler = "x".repeat(300_000);
    let answer = reception.post("/api/v2/logs", format!(r#"{{"n":1,"x":"{filler}"}}"#)).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let answer = reception.post("/api/v2/logs", r#"{"n":2}"#).await;
    assert_eq!(answer.status(), 202, "what finds room is safe");
    daemon.prints(|text| text.contains("\"n\":2")).await;
    // A file with as much as was refused is still over the limit.
    let reason = asked.get("/readyz").await.json()["pipelines"][0]["reason"].clone();
    assert_eq!(reason, "the spool cannot be written, so senders get 503");
    let ended = stop(daemon).await;
    assert_eq!(numbers(&ended.stdout), [2]);
    assert!(ended.stderr.contains("the receiver cannot store entries"), "{}", ended.stderr);
    // Not even one byte fits.
    let reception = Reception::usual();
    std::fs::create_dir(reception.setup.folder().join("receiver-spool")).unwrap();
    std::fs::create_dir(reception.setup.folder().join("receiver-spool/probe")).unwrap();
    let daemon = reception.started().await;
    for answer in [
        client().get(reception.url("/api/v1/validate")).header("DD-API-KEY", KEY).send().await.unwrap(),
        client().get(reception.url("/")).send().await.unwrap(),
        reception.post("/api/v2/logs", "{}").await,
    ] {
        assert_eq!(answer.status(), 503, "{}", answer.url());
    }
    stop(daemon).await;
}

#[tokio::test]
async fn a_stop_does_not_call_committed_what_the_disk_could_not_note() {
    let reception = Reception::usual();
    reception.setup.run_to(0).await;
    // 4 KiB for each file: the next position lies behind them.
    let mut daemon = reception.setup.start_with_files_limited(8);
    daemon.says(OPEN).await;
    reception.push(1..2).await;
    daemon.says("the source could not confirm a stored cursor").await;
    let ended = stop(daemon).await;
    assert!(ended.stderr.contains("the source has not confirmed the last committed cursor"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("everything delivered is committed"), "{}", ended.stderr);
    assert_eq!(numbers(&reception.setup.run_to(0).await.stdout), [1], "it is delivered again");
}

#[tokio::test]
async fn every_entry_that_was_answered_on_a_disk_that_fails_again_and_again_arrives() {
    let reception = Reception::usual();
    // Each file may have 128 KiB, less than the size that a segment may reach.
    let mut daemon = reception.setup.start_with_files_limited(256);
    daemon.says(OPEN).await;
    let (mut safe, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for first in (0..3000).step_by(50) {
        let filler = "x".repeat(400);
        let entries: Vec<_> = (first..first + 50).map(|n| serde_json::json!({"n": n, "x": filler})).collect();
        let answer = reception.post("/api/v2/logs", serde_json::to_vec(&entries).unwrap()).await;
        match answer.status().as_u16() {
            202 => safe.extend(first..first + 50),
            503 => refused.extend(first..first + 50),
            status => panic!("answered {status}"),
        }
    }
    assert!(!safe.is_empty() && !refused.is_empty(), "{} safe, {} refused", safe.len(), refused.len());
    daemon.signal("KILL").await;
    let mut printed: BTreeSet<_> = numbers(&daemon.ended().await.stdout).into_iter().collect();
    let last = reception.setup.run_to(0).await;
    printed.extend(numbers(&last.stdout));
    assert_eq!(printed, safe, "nothing that was answered is lost, and nothing arrives that was refused");
}

#[tokio::test]
async fn a_spool_that_is_damaged_in_the_middle_delivers_the_rest_and_names_what_is_lost() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    intake.go_down().await;
    let asked = crate::probe::Probe::new();
    let reception = Reception::usual().to(&intake).with("AUDITSYNC_HTTP_LISTEN", asked.address());
    let daemon = reception.started().await;
    for first in (0..300).step_by(30) {
        reception.push(first..first + 30).await;
    }
    daemon.signal("KILL").await;
    daemon.ended().await;
    let spool = reception.setup.folder().join("receiver-spool");
    let files = |ending: &str| -> Vec<_> {
        let files = spool.read_dir().unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
    };
    let segment = files("spool").remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = memchr::memmem::find(&bytes, b"event 150").unwrap();
    bytes[at..at + 5].fill(0);
    std::fs::write(&segment, bytes).unwrap();
    intake.come_back().await;
    let daemon = reception.started().await;
    intake.wait_for_ids(299).await;
    asked.until("/readyz", |answer| answer.json()["pipelines"][0]["backlog"]["entries"] == 0).await;
    let metrics = asked.get("/metrics").await.body;
    assert!(metrics.contains("auditsync_spool_damages_total{pipeline=\"receiver:datadog\"} 1\n"), "{metrics}");
    let ended = stop(daemon).await;
    assert!(ended.stderr.contains("auditsync cannot read a damaged part of the spool"), "{}", ended.stderr);
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(ended.stderr.contains(" entries=1") && ended.stderr.contains(name), "{}", ended.stderr);
    assert!(!intake.ids().contains_key("150"));
    assert_eq!(intake.count(), 299);
    assert_eq!(intake.violations(), [""; 0]);
    let once = reception.setup.run(&["run", "--once"]).await;
    assert_eq!((once.code(), intake.count()), (Some(0), 299), "{}", once.stderr);
}

#[tokio::test]
async fn a_sender_that_did_not_wait_for_its_answer_may_send_again() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    let body = r#"[{"n":1,"message":"once"}]"#;
    // Clients that leave before the answer. The loop lasts until one request is stored unheard, and its repetition
    // recognised.
    for _ in 0..100 {
        let mut stream = reception.probe.connect().await;
        let head =
            format!("POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nDD-API-KEY: {KEY}\r\nContent-Type: application/json\r\n");
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        drop(stream);
        // This request is after the other one in the writer's queue.
        assert_eq!(client().get(reception.url("/")).send().await.unwrap().status(), 200);
        if daemon.stderr().contains("did not wait for its answer") {
            break;
        }
    }
    daemon.says("did not wait for its answer").await;
    // Two requests whose clients got the answer count as two.
    for _ in 0..2 {
        assert_eq!(reception.post("/api/v2/logs", r#"[{"n":2,"message":"twice"}]"#).await.status(), 202);
    }
    daemon.prints(|text| numbers(text).iter().filter(|n| **n == 2).count() == 2).await;
    stop(daemon).await;
}

#[tokio::test]
async fn a_thousand_connections_are_served_at_a_time() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    let mut streams = Vec::new();
    for _ in 0..1000 {
        streams.push(reception.probe.connect().await);
    }
    let head =
        format!("POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nDD-API-KEY: {KEY}\r\nContent-Type: application/json\r\n");
    for (n, stream) in streams.iter_mut().enumerate() {
        let body = format!("{{\"n\":{n}}}");
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    }
    for stream in &mut streams {
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 202");
    }
    daemon.prints(|text| numbers(text).len() == 1000).await;
    stop(daemon).await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_and_chunks_are_put_together() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    let head =
        format!("POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nDD-API-KEY: {KEY}\r\nContent-Type: application/json\r\n");
    let mut stream = reception.probe.connect().await;
    stream.write_all(format!("{head}Expect: 100-continue\r\nContent-Length: 7\r\n\r\n").as_bytes()).await.unwrap();
    let mut begin = [0; 25];
    stream.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"n\":1}").await.unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 202");
    let chunked =
        format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\n{{\"n\"\r\n3\r\n:2}}\r\n0\r\n\r\n");
    assert_eq!(reception.send(&chunked).await.status, 202);
    // A sender without a key cannot send a body.
    let stranger = "POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 7\r\nConnection: close\r\n\r\n";
    let refused = reception.send(stranger).await;
    assert_eq!(refused.status, 401, "{}", refused.head);
    daemon.prints(|text| numbers(text) == [1, 2]).await;
    stop(daemon).await;
}

#[tokio::test]
async fn an_endless_body_is_cut_short_and_a_broken_one_leaves_nothing() {
    let reception = Reception::usual();
    let daemon = reception.started().await;
    let head =
        format!("POST /api/v2/logs HTTP/1.1\r\nHost: h\r\nDD-API-KEY: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut stream = reception.probe.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    // The server closes the connection at some time; until then it reads.
    let endless = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    within("the connection's end", endless).await;
    let mut stream = reception.probe.connect().await;
    stream.write_all(format!("{head}4\r\n{{\"n\"").as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(reception.post("/api/v2/logs", "{}").await.status(), 202);
    assert_eq!(stop(daemon).await.stdout, "");
}

#[tokio::test]
async fn the_backlog_is_in_readyz_and_among_the_metrics() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    intake.go_down().await;
    let asked = crate::probe::Probe::new();
    let reception = Reception::usual().to(&intake).with("AUDITSYNC_HTTP_LISTEN", asked.address());
    let daemon = reception.started().await;
    reception.push(0..50).await;
    let backlog = asked.get("/readyz").await.json()["pipelines"][0]["backlog"].clone();
    assert_eq!(backlog["entries"], 50, "{backlog}");
    assert!(backlog["bytes"].as_u64().unwrap() > 50 * 50 && backlog["oldest"].is_string(), "{backlog}");
    let metrics = asked.get("/metrics").await.body;
    let of = "{pipeline=\"receiver:datadog\"}";
    for line in [
        format!("auditsync_spool_entries{of} 50\n"),
        format!("auditsync_received_entries_total{of} 50\n"),
        "auditsync_received_requests_total{pipeline=\"receiver:datadog\",result=\"accepted\"} 1\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    intake.come_back().await;
    asked.until("/readyz", |answer| answer.json()["pipelines"][0]["backlog"]["entries"] == 0).await;
    stop(daemon).await;
}

#[tokio::test]
async fn check_needs_no_port_of_a_running_daemon_and_a_second_daemon_is_kept_out() {
    let reception = Reception::usual();
    let daemon = reception.started().await;
    let checked = reception.setup.run(&["check"]).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.everything());
    assert!(checked.stdout.contains("by a running auditsync"), "{}", checked.stdout);
    let second = reception.setup.run(&[]).await;
    assert_eq!(second.code(), Some(75), "{}", second.stderr);
    reception.push(0..1).await;
    stop(daemon).await;
}

#[tokio::test]
async fn a_notice_tells_of_dead_letters_and_a_webhook_that_fails_is_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/services/T0/B0/hidden-token", listener.local_addr().unwrap());
    let poison = Predicate::new(|entry| entry["n"] == 13);
    let poison_text = Predicate::new(|entry| entry["message"].as_str().is_some_and(|text| text.contains("\"n\":13")));
    let options = IntakeOptions { poison: Some(poison), poison_text: Some(poison_text), ..IntakeOptions::default() };
    let intake = FakeIntake::start(options).await;
    let reception = Reception::usual().to(&intake).with("AUDITSYNC_NOTICE_URL", url);
    let daemon = reception.started().await;
    reception.push(0..30).await;
    intake.wait_for_ids(29).await;
    for status in ["500 No", "200 OK"] {
        let text = notice(&listener, status).await;
        assert!(text.starts_with("POST /services/T0/B0/hidden-token"), "{text}");
        assert!(text.contains("{\"text\":\"auditsync: the pipeline receiver:datadog has 1 new dead letters"), "{text}");
    }
    reception.push(30..40).await;
    intake.wait_for_ids(39).await;
    let ended = stop(daemon).await;
    assert!(!ended.everything().contains("hidden-token"), "{}", ended.everything());
    assert!(ended.stderr.contains("a notice could not be sent"), "{}", ended.stderr);
}

/// Answers one request to a webhook, and returns the request.
pub async fn notice(listener: &tokio::net::TcpListener, status: &str) -> String {
    let answered = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let more = stream.read_buf(&mut request).await.unwrap();
            assert!(more > 0, "it breaks off: {}", String::from_utf8_lossy(&request));
        }
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    };
    within("a notice", answered).await
}

/// The vendor's own alerts do not notice a dead export.
#[tokio::test]
async fn a_notice_tells_that_the_senders_are_silent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let reception = Reception::usual().with("AUDITSYNC_NOTICE_URL", url).with("RECEIVER_AUDIT_SILENCE", "2m");
    // The newest entry in this spool arrived when its version wrote the fixture.
    crate::upgrade_sources::hand_spool_to(&crate::upgrade_sources::spools().await[0], &reception);
    let daemon = reception.started().await;
    let text = notice(&listener, "200 OK").await;
    assert!(text.contains("{\"text\":\"auditsync: nothing has arrived at the pipeline receiver:stdout for "), "{text}");
    assert_eq!(reception.post("/api/v2/logs", r#"[{"n":1}]"#).await.status(), 202);
    stop(daemon).await;
}
