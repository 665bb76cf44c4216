//! Tests `/healthz`, `/readyz` and `auditsync health`: what a probe learns, and what a stranger cannot do.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::daemon::{Daemon, Setup};
use crate::probe::{ANSWERING, LISTEN, Probe, value};
use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{Fault, IntakeOptions, RedisServer, ScmOptions};

const LOOP: &str = "SECTIGO_AUDIT_SYNC_LOOP";
const INTERVAL: &str = "SECTIGO_AUDIT_SYNC_INTERVAL";

/// A daemon that answers probes, and rests for an hour between two syncs.
async fn asked(interval: &str) -> (Stage, Probe) {
    let probe = Probe::new();
    let stage = Stage::usual().await.with(LOOP, "true").with(INTERVAL, interval).with(LISTEN, probe.address());
    stage.push(30, 1500, 2);
    (stage, probe)
}

async fn started(setup: &Setup) -> Daemon {
    let mut daemon = setup.start(&[]);
    daemon.says(ANSWERING).await;
    daemon
}

#[tokio::test]
async fn a_daemon_is_alive_at_once_and_ready_after_its_first_sync() {
    let (stage, probe) = asked("1h").await;
    stage.scm.hold();
    let mut daemon = started(&stage.setup).await;
    let alive = probe.get("/healthz").await;
    assert_eq!(
        (alive.status, alive.body.as_str()),
        (200, "{\"status\":\"alive\",\"pipelines\":[{\"pipeline\":\"sectigo:datadog\",\"status\":\"alive\"}]}\n")
    );
    let unready = probe.get("/readyz").await;
    let told = unready.json();
    assert_eq!((unready.status, &told["status"]), (503, &"not ready".into()));
    assert_eq!(told["reason"], "no sync has succeeded since the start");
    assert!(told["last_success"].is_null() && told["last_error"].is_null(), "{told}");
    let ended = stage.setup.run(&["health"]).await;
    assert_eq!(
        (ended.code(), ended.stdout.as_str()),
        (Some(0), "{\"status\":\"alive\",\"pipelines\":[{\"pipeline\":\"sectigo:datadog\",\"status\":\"alive\"}]}\n"),
        "{}",
        ended.stderr
    );
    let ended = stage.setup.run(&["health", "--ready"]).await;
    assert_eq!(ended.code(), Some(75), "{}", ended.everything());
    assert!(ended.stdout.contains("no sync has succeeded"), "{}", ended.stdout);

    stage.scm.release();
    daemon.says("synced").await;
    let ready = probe.until("/readyz", |answer| answer.status == 200).await;
    let told = ready.json();
    assert_eq!(told["status"], "ready");
    assert!(told["last_success"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{told}");
    assert_eq!(stage.setup.run(&["health", "--ready"]).await.code(), Some(0));
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_backlog_that_moves_is_work_that_succeeds() {
    let (stage, probe) = asked("1h").await;
    let daemon = started(&stage.setup).await;
    stage.intake.wait_for_entries(10).await;
    stage.scm.hold();
    probe.until("/readyz", |answer| answer.status == 200).await;
    stage.scm.release();
    stop(daemon).await;
}

#[tokio::test]
async fn a_source_that_is_down_for_three_intervals_makes_it_unready_but_not_dead() {
    let (stage, probe) = asked("5s").await;
    let mut daemon = started(&stage.setup).await;
    probe.until("/readyz", |answer| answer.status == 200).await;
    stage.scm.go_down().await;
    // The first failure may be of a request that was cut off. From the second on, all have the same text.
    daemon.says_so_often("the source failed", 2).await;
    let unready = probe.until("/readyz", |answer| answer.status == 503).await.json();
    assert!(unready["reason"].as_str().unwrap().contains("which is over 3 intervals (15s)"), "{unready}");
    let error = unready["last_error"]["error"].as_str().unwrap();
    assert!(error.contains(&stage.scm.url()), "{error}");
    assert!(!unready["last_success"].is_null());
    assert_eq!(probe.get("/healthz").await.status, 200, "a restart ends no outage");
    assert_eq!(probe.series("auditsync_ready").await.to_bits(), 0.0_f64.to_bits());

    stage.scm.come_back().await;
    let ready = probe.until("/readyz", |answer| answer.status == 200).await.json();
    assert_eq!(ready["last_error"]["error"], unready["last_error"]["error"], "what was told last stays");
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_standby_is_ready_and_reports_when_it_becomes_active() {
    let (stage, probe) = asked("1h").await;
    let mut first = started(&stage.setup).await;
    first.says("synced").await;
    assert_eq!(probe.series("auditsync_active").await.to_bits(), 1.0_f64.to_bits());

    let beside = Probe::new();
    let mut second = stage.setup.start_with(&[(LISTEN, &beside.address())], &[]);
    second.says("standby").await;
    let told = beside.until("/readyz", |answer| answer.status == 200).await.json();
    assert_eq!(told["status"], "standby");
    assert!(told["reason"].as_str().unwrap().contains(&format!("process {}", first.id())), "{told}");
    assert_eq!(beside.get("/healthz").await.status, 200);
    assert_eq!(beside.series("auditsync_active").await.to_bits(), 0.0_f64.to_bits());

    stop(first).await;
    second.says("failover").await;
    let told = beside.until("/readyz", |answer| answer.json()["status"] == "ready").await;
    assert_eq!(told.status, 200);
    assert_eq!(beside.series("auditsync_active").await.to_bits(), 1.0_f64.to_bits());
    stop(second).await;
}

#[tokio::test]
async fn a_standby_whose_store_fails_for_longer_than_a_lease_is_not_ready() {
    let (server, beside) = (RedisServer::start(), Probe::new());
    let stage = Stage::usual().await.with(LOOP, "true").with("SECTIGO_AUDIT_LEASE_TTL", "15s");
    let stage =
        stage.with("SECTIGO_AUDIT_STORAGE_BACKEND", "redis").with("SECTIGO_AUDIT_REDIS_ADDRESS", server.address());
    let mut first = stage.setup.start(&[]);
    first.says("synced").await;
    let mut second = stage.setup.start_with(&[(LISTEN, &beside.address())], &[]);
    second.says("standby").await;
    // The host of both fails.
    server.pause();
    first.signal("KILL").await;
    let told = beside.until("/readyz", |answer| answer.status == 503).await.json();
    assert!(told["reason"].as_str().unwrap().starts_with("the state store fails"), "{told}");
    server.resume();
    second.says("failover").await;
    beside.until("/readyz", |answer| answer.json()["status"] == "ready").await;
    stop(second).await;
}

#[tokio::test]
async fn an_instance_that_was_replaced_while_it_stood_still_counts_the_conflict_and_becomes_standby() {
    let (server, probe, beside) = (RedisServer::start(), Probe::new(), Probe::new());
    let slow = ScmOptions { latency: Duration::from_millis(20), ..ScmOptions::default() };
    let stage = Stage::of(slow, IntakeOptions { latency: Duration::from_millis(20), ..Default::default() }).await;
    let stage = stage
        .with(LOOP, "true")
        .with(LISTEN, probe.address())
        .with("SECTIGO_AUDIT_LEASE_TTL", "15s")
        .with("SECTIGO_AUDIT_STORAGE_BACKEND", "redis")
        .with("SECTIGO_AUDIT_REDIS_ADDRESS", server.address());
    stage.push(10_000, 1500, 2);
    let first = started(&stage.setup).await;
    stage.intake.wait_for_entries(100).await;
    let mut second = stage.setup.start_with(&[(LISTEN, &beside.address())], &[]);
    second.says("standby").await;
    assert_eq!(beside.get("/readyz").await.json()["status"], "standby");
    first.signal("STOP").await;
    second.says("failover").await;
    beside.until("/readyz", |answer| answer.json()["status"] == "ready").await;
    first.signal("CONT").await;
    probe.until("/readyz", |answer| answer.json()["status"] == "standby").await;
    let scrape = probe.get("/metrics").await.body;
    assert!(value(&scrape, "auditsync_state_saves_total{result=\"conflict\"}") > 0.5, "{scrape}");
    assert!(value(&scrape, "auditsync_active") < 0.5 && value(&scrape, "auditsync_ready") > 0.5, "{scrape}");
    assert!(beside.series("auditsync_active").await > 0.5);
    stop(first).await;
    stage.intake.wait_for_ids(10_000).await;
    stop(second).await;
}

#[tokio::test]
async fn strangers_get_nothing_but_short_answers() {
    let (stage, probe) = asked("1h").await;
    let mut daemon = started(&stage.setup).await;
    daemon.says("synced").await;
    let huge = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /healthz/x HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 405),
        ("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET /readyz?x=y HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("\u{0}\u{1}garbage\r\n\r\n", 400),
        (&huge, 431),
    ] {
        let answer = probe.send(request.as_bytes()).await;
        // A client that sends more than the server reads may see a reset before the answer.
        assert!(answer.status == status || (status == 431 && answer.status == 0), "{status}: {answer:?}");
        assert!(answer.body.len() < 1000, "{answer:?}");
    }
    let head = probe.send(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 81"), "{head:?}");
    assert!(head.head.contains("cache-control: no-store"), "{head:?}");
    stop(daemon).await;
}

#[tokio::test]
async fn connections_that_say_nothing_hold_up_neither_the_work_nor_a_stop() {
    let (stage, probe) = asked("5s").await;
    let mut daemon = started(&stage.setup).await;
    daemon.says("synced").await;
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut stream = probe.connect().await;
        // Some never finish the head of their request, some never begin.
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await.unwrap();
        }
        idle.push(stream);
    }
    stage.push(30, 1, 0);
    stage.intake.wait_for_ids(60).await;
    let alive = probe.get("/healthz").await;
    assert_eq!(alive.status, 200, "their time was over: {alive:?}");
    stop(daemon).await;
    drop(idle);
    stage.assert_all_once();
}

#[tokio::test]
async fn idle_connections_cannot_starve_a_probe() {
    let (stage, probe) = asked("1h").await;
    let mut daemon = started(&stage.setup).await;
    daemon.says("synced").await;
    let mut idle = Vec::new();
    for round in 0..5 {
        for number in 0..200 {
            let mut stream = probe.connect().await;
            if number % 2 == 0 {
                // It may be closed already.
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await;
            }
            idle.push(stream);
        }
        let ended = stage.setup.run(&["health"]).await;
        assert_eq!(ended.code(), Some(0), "round {round}: {}", ended.stderr);
    }
    assert_eq!(probe.get("/healthz").await.status, 200);
    stop(daemon).await;
    drop(idle);
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again_and_an_address_of_others_is_a_mistake() {
    let (stage, probe) = asked("1h").await;
    let daemon = started(&stage.setup).await;
    let second = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with(LISTEN, probe.address());
    let ended = second.run_to(75).await;
    assert!(ended.stderr.contains(&format!("{LISTEN}={}: cannot listen there", probe.address())), "{}", ended.stderr);
    assert_eq!((second.scm.hits(), second.setup.state()), (0, None), "nothing is begun");
    // An address for documentation (RFC 5737), which no machine has.
    let second = second.with(LISTEN, "192.0.2.1:9090");
    let ended = second.run_to(78).await;
    assert!(ended.stderr.contains(&format!("{LISTEN}=192.0.2.1:9090: cannot listen there")), "{}", ended.stderr);
    assert_eq!((second.scm.hits(), second.setup.state()), (0, None), "nothing is begun");
    stop(daemon).await;
}

#[tokio::test]
async fn a_one_shot_run_beside_a_daemon_with_the_same_variables_does_without_the_port() {
    let (stage, probe) = asked("1h").await;
    let daemon = started(&stage.setup).await;
    let second = Stage::usual().await.with(LISTEN, probe.address());
    second.push(5, 60, 2);
    let ended = second.run_to(0).await;
    assert!(
        ended.stderr.contains("another process answers there; this run does not answer probes"),
        "{}",
        ended.stderr
    );
    second.assert_all_once();
    stop(daemon).await;
}

#[tokio::test]
async fn health_asks_at_loopback_where_the_daemon_listens_everywhere() {
    for everywhere in ["0.0.0.0", "[::]"] {
        let (stage, probe) = asked("1h").await;
        let stage = stage.with(LISTEN, format!("{everywhere}:{}", probe.port()));
        let daemon = started(&stage.setup).await;
        let ended = stage.setup.run(&["health"]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        stop(daemon).await;
    }
}

#[tokio::test]
async fn health_without_a_daemon_is_to_be_tried_again_and_without_an_address_a_mistake() {
    let probe = Probe::new();
    let ended = probe.on(Setup::bare()).run(&["health"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(75), ""));
    assert!(
        ended.stderr.contains(&probe.address()) && ended.stderr.contains("is the daemon running"),
        "{}",
        ended.stderr
    );
    let ended = Setup::bare().run(&["health"]).await;
    assert_eq!(ended.code(), Some(78));
    assert!(ended.stderr.contains("AUDITSYNC_HTTP_LISTEN: is required but not set"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_servers_words_are_not_shown_to_strangers() {
    let probe = Probe::new();
    let stage = Stage::of(ten_a_page(), IntakeOptions::default()).await;
    let stage = stage.with(LOOP, "true").with(LISTEN, probe.address());
    stage.scm.answer_always(Some(Fault::StatusWithBody(503, "the payroll of eve".into())));
    let mut daemon = started(&stage.setup).await;
    daemon.says("the payroll of eve").await;
    let told = probe.until("/readyz", |answer| !answer.json()["last_error"].is_null()).await;
    assert!(told.body.contains("503") && !told.body.contains("payroll"), "{told:?}");
    stop(daemon).await;
}
