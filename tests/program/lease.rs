//! Tests several instances on a state that machines share: the lease in the document says which one works.

use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::killing::rounds;
use crate::stage::{Stage, stop};
use crate::support::{FakeIntake, IntakeOptions, Moto, Proxy, RedisServer, ScmOptions};

const STANDBY: &str = "another instance is active; this one is on standby";
const FAILOVER: &str = "the other instance has ended or sends no heartbeat; failover";
const LAPSED: &str = "the lease was not renewed in time";
const STEPPED_DOWN: &str = "another instance is active, or an operator changed the state";
/// Only the active instance requests pages. The line before it depends on whether a slow store has already stored the first cursor.
const ACTIVE: &str = "requesting a page";
const TTL: Duration = Duration::from_secs(15);
const PAGE: usize = 100;
const BACKLOG: usize = 10_000;

/// Slow fakes, so that a backlog lasts, and the shortest lease.
async fn fakes(latency: Duration) -> Stage {
    let scm = ScmOptions { latency, page_size: PAGE, ..ScmOptions::default() };
    let intake = IntakeOptions { latency, ..IntakeOptions::default() };
    let stage = Stage::of(scm, intake).await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.with("SECTIGO_AUDIT_LEASE_TTL", "15s")
}

/// The same with instances that share the Redis at `address`.
async fn stage(latency: Duration, address: &str) -> Stage {
    let stage = fakes(latency).await.with("SECTIGO_AUDIT_STORAGE_BACKEND", "redis");
    stage.with("SECTIGO_AUDIT_REDIS_ADDRESS", address)
}

/// The same with instances that share a bucket.
async fn on_s3(latency: Duration, moto: &Moto) -> Stage {
    let stage = fakes(latency).await.with("SECTIGO_AUDIT_STORAGE_BACKEND", "s3");
    stage
        .with("SECTIGO_AUDIT_S3_BUCKET", moto.bucket().await)
        .with("SECTIGO_AUDIT_S3_FORCE_PATH_STYLE", "true")
        .with("AWS_ENDPOINT_URL_S3", moto.url())
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", "AKIAANYONE")
        .with("AWS_SECRET_ACCESS_KEY", "secret")
}

/// Starts an instance whose name is in its entries.
fn start(stage: &Stage, name: &str) -> Daemon {
    stage.setup.start_with(&[("DD_HOSTNAME", name)], &[])
}

/// An active instance, and a standby.
async fn first_and_second(stage: &Stage) -> (Daemon, Daemon) {
    let mut first = start(stage, "first");
    first.says(ACTIVE).await;
    let mut second = start(stage, "second");
    second.says(STANDBY).await;
    (first, second)
}

/// The sender of each entry, in the order of arrival.
fn senders(stage: &Stage) -> Vec<String> {
    let sender = |entry: &serde_json::Value| entry["hostname"].as_str().expect("an entry has a host").to_owned();
    stage.intake.entries().iter().map(sender).collect()
}

/// Checks that no instance sent anything after another one had begun to.
fn assert_in_turns(stage: &Stage, names: &[&str]) {
    let mut senders = senders(stage);
    senders.dedup();
    assert_eq!(senders, names);
}

fn repeats(intake: &FakeIntake) -> usize {
    intake.count() - intake.ids().len()
}

/// The state in Redis.
fn state(server: &RedisServer) -> serde_json::Value {
    serde_json::from_str(&server.command(&["GET", "auditsync:sectigo:datadog"])).expect("a state document")
}

/// The result of a failover.
#[derive(Debug)]
struct Failover {
    took: Duration,
    repeats: usize,
}

/// Kills the active instance while a backlog drains, and lets the other one continue.
async fn killed_in_the_midst(stage: Stage, at: usize) -> Failover {
    stage.push(BACKLOG, 1500, 2);
    let (first, mut second) = first_and_second(&stage).await;
    stage.intake.wait_for_entries(at).await;
    first.signal("KILL").await;
    first.ended().await;
    let killed = Instant::now();
    let sent = stage.intake.requests().len();
    // Records that are left to send, however slow the signal was.
    stage.push(PAGE, 1, 0);
    second.says(FAILOVER).await;
    stage.intake.wait_for_requests(sent + 1).await;
    let took = killed.elapsed();
    stage.intake.wait_for_ids(BACKLOG + PAGE).await;
    stop(second).await;
    stage.assert_none_lost();
    assert_in_turns(&stage, &["first", "second"]);
    Failover { took, repeats: repeats(&stage.intake) }
}

/// The result of all rounds, in one line.
fn summary(backend: &str, rounds: &[Failover]) -> String {
    for Failover { repeats, .. } in rounds {
        assert!(*repeats <= 2 * PAGE, "no more than the pages in flight come twice: {rounds:?}");
    }
    let took = rounds.iter().map(|round| round.took);
    let (least, most) = (took.clone().min().unwrap_or_default(), took.max().unwrap_or_default());
    let repeats: Vec<_> = rounds.iter().map(|round| round.repeats).collect();
    format!(
        "{backend}: {} failovers in {least:.1?} to {most:.1?} of a lease of {TTL:?}; repeats {repeats:?}",
        rounds.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_on_redis_that_is_killed_is_followed_and_nothing_is_lost() {
    let server = RedisServer::start();
    let rounds = (0..rounds("AUDITSYNC_TEST_FAILOVERS")).map(|round| {
        let address = server.address();
        async move {
            let stage = stage(Duration::from_millis(20), &address).await;
            let stage = stage.with("SECTIGO_AUDIT_REDIS_PREFIX", format!("round-{round}"));
            killed_in_the_midst(stage, 500 + round * 900 % 8000).await
        }
    });
    println!("{}", summary("redis", &futures_util::future::join_all(rounds).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_on_s3_that_is_killed_is_followed_and_nothing_is_lost() {
    let moto = Moto::start();
    let rounds = (0..rounds("AUDITSYNC_TEST_FAILOVERS")).map(|round| {
        let moto = &moto;
        async move {
            let stage = on_s3(Duration::from_millis(20), moto).await;
            killed_in_the_midst(stage, 500 + round * 900 % 8000).await
        }
    });
    println!("{}", summary("s3", &futures_util::future::join_all(rounds).await));
}

#[tokio::test]
async fn a_standby_becomes_active_at_once_when_the_active_instance_stops_and_repeats_nothing() {
    let server = RedisServer::start();
    // If it waited for the end of such a lease, this test would never end.
    let stage = stage(Duration::from_millis(5), &server.address()).await.with("SECTIGO_AUDIT_LEASE_TTL", "10m");
    stage.push(5000, 1500, 2);
    let (first, mut second) = first_and_second(&stage).await;
    stage.intake.wait_for_entries(1000).await;
    stop(first).await;
    // Records that are left to send, however slow the signal was.
    stage.push(PAGE, 1, 0);
    second.says(FAILOVER).await;
    stage.intake.wait_for_ids(5000 + PAGE).await;
    stop(second).await;
    stage.assert_all_once();
    assert_in_turns(&stage, &["first", "second"]);
    assert_eq!(state(&server)["lease"], serde_json::Value::Null, "given back");
}

/// Stops the store for longer than the lease while a backlog drains.
async fn stands_still(stage: Stage, pause: impl FnOnce(), resume: impl FnOnce()) {
    stage.push(BACKLOG, 1500, 2);
    let (mut first, second) = first_and_second(&stage).await;
    stage.intake.wait_for_entries(1000).await;
    pause();
    // Every committed page is among these requests. Two further pages may be on their way, or may still begin.
    let sent = stage.intake.requests().len();
    first.says("the state store failed").await;
    tokio::time::sleep(TTL + Duration::from_secs(3)).await;
    let further = stage.intake.requests().len() - sent;
    assert!(further <= 2, "while nothing can be committed, nothing further is delivered: {further} requests");
    resume();
    stage.intake.wait_for_ids(BACKLOG).await;
    stop(first).await;
    stop(second).await;
    stage.assert_none_lost();
    assert!(repeats(&stage.intake) <= 2 * PAGE);
    let mut senders = senders(&stage);
    senders.dedup();
    assert!(senders.len() <= 2, "each in its turn: {senders:?}");
}

#[tokio::test]
async fn a_redis_that_stands_still_for_longer_than_the_lease_makes_no_two_leaders() {
    let server = RedisServer::start();
    let stage = stage(Duration::from_millis(20), &server.address()).await;
    stands_still(stage, || server.pause(), || server.resume()).await;
}

#[tokio::test]
async fn an_s3_that_stands_still_for_longer_than_the_lease_makes_no_two_leaders() {
    let moto = Moto::start();
    let stage = on_s3(Duration::from_millis(20), &moto).await;
    stands_still(stage, || moto.pause(), || moto.resume()).await;
}

#[tokio::test]
async fn a_request_to_the_intake_is_cut_off_before_the_lease_is_over() {
    let server = RedisServer::start();
    let stage = stage(Duration::ZERO, &server.address()).await;
    stage.push(50, 1500, 2);
    stage.intake.hold();
    let mut first = start(&stage, "first");
    stage.intake.wait_for_requests(1).await;
    server.pause();
    first.says(LAPSED).await;
    let told = first.stderr().lines().find(|line| line.contains(LAPSED)).map(str::to_owned).unwrap();
    assert!(told.contains("possibly_duplicated=50"), "{told}");
    // It has to meet the outage before it can say that the store works again.
    first.says("the state store failed").await;
    stage.intake.release();
    server.resume();
    // No failover has happened, so the instance gets the lease again and sends the page again.
    first.says("the state store works again").await;
    first.says("synced").await;
    stop(first).await;
    stage.assert_none_lost();
    assert_eq!(stage.intake.requests().len(), 2);
}

#[tokio::test]
async fn a_leader_that_stood_still_finds_itself_followed_and_steps_down() {
    let server = RedisServer::start();
    let stage = stage(Duration::from_millis(20), &server.address()).await;
    stage.push(BACKLOG, 1500, 2);
    let (mut first, mut second) = first_and_second(&stage).await;
    stage.intake.wait_for_entries(1000).await;
    first.signal("STOP").await;
    second.says(FAILOVER).await;
    stage.intake.wait_for_entries(3000).await;
    first.signal("CONT").await;
    first.says(STEPPED_DOWN).await;
    first.says(STANDBY).await;
    stage.intake.wait_for_ids(BACKLOG).await;
    stop(second).await;
    first.says(FAILOVER).await;
    stop(first).await;
    stage.assert_none_lost();
    assert!(repeats(&stage.intake) <= 3 * PAGE, "the pages in flight, and one that was under way when it woke up");
}

#[tokio::test]
async fn a_delivery_that_takes_longer_than_the_lease_does_not_lose_it() {
    let server = RedisServer::start();
    let stage = stage(Duration::ZERO, &server.address()).await;
    stage.push(50, 1500, 2);
    stage.intake.hold();
    let (first, second) = first_and_second(&stage).await;
    stage.intake.wait_for_requests(1).await;
    tokio::time::sleep(TTL + Duration::from_secs(6)).await;
    stage.intake.release();
    stage.intake.wait_for_ids(50).await;
    assert!(!second.stderr().contains(FAILOVER), "{}", second.stderr());
    stop(second).await;
    stop(first).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_one_shot_beside_a_live_daemon_gives_up_and_beside_a_dead_one_becomes_active() {
    let server = RedisServer::start();
    let stage = stage(Duration::ZERO, &server.address()).await.with("SECTIGO_AUDIT_RETRY_BUDGET", "1s");
    stage.push(50, 1500, 2);
    let mut daemon = start(&stage, "first");
    daemon.says("synced").await;
    let ended = stage.setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("is in use by process {} on ", daemon.id())), "{}", ended.stderr);
    daemon.signal("KILL").await;
    daemon.ended().await;
    stage.push(10, 1, 0);
    // Its retry budget ends long before the lease does, but no instance has renewed the lease.
    let ended = stage.setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(FAILOVER), "{}", ended.stderr);
    assert_eq!(state(&server)["lease"], serde_json::Value::Null, "given back");
    // Records of the last seconds may come after the end of that run.
    let ended = stage.setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains(STANDBY), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn one_shot_runs_started_together_take_turns() {
    let server = RedisServer::start();
    let stage = stage(Duration::ZERO, &server.address()).await.with("SECTIGO_AUDIT_SYNC_LOOP", "false");
    // Time for the last one to wait for the three others.
    let stage = stage.with("SECTIGO_AUDIT_RETRY_BUDGET", "10m");
    stage.push(450, 1500, 2);
    let runs = [(); 4].map(|()| stage.setup.start(&[]));
    for run in runs {
        let ended = run.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    }
    stage.assert_all_once();
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_written_again() {
    let mut server = RedisServer::start();
    let stage = stage(Duration::from_millis(20), &server.address()).await;
    stage.push(3000, 1500, 2);
    let mut first = start(&stage, "first");
    first.says(ACTIVE).await;
    for (entries, times) in [(500, 1), (1500, 2)] {
        stage.intake.wait_for_entries(entries).await;
        server.kill();
        server.restart();
        first.says_so_often("the state is gone from its store; it is stored again", times).await;
    }
    stage.intake.wait_for_ids(3000).await;
    stop(first).await;
    stage.assert_all_once();
    assert!(stage.setup.run(&["state", "show"]).await.stdout.contains("\"since\""));
}

#[tokio::test]
async fn a_replica_that_lags_behind_and_is_promoted_is_written_forward() {
    let server = RedisServer::start();
    let replica = server.replica();
    let proxy = Proxy::to(server.address().parse().unwrap()).await;
    let stage = stage(Duration::from_millis(20), &proxy.address().to_string()).await;
    stage.push(3000, 1500, 2);
    let mut first = start(&stage, "first");
    first.says(ACTIVE).await;
    stage.intake.wait_for_entries(500).await;
    let asked = Instant::now();
    while replica.command(&["EXISTS", "auditsync:sectigo:datadog"]) != "1" {
        assert!(asked.elapsed() < Duration::from_secs(60), "the replica hears of the state");
    }
    // It no longer follows the other, and becomes active later.
    assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    stage.intake.wait_for_entries(1500).await;
    proxy.lead_to(replica.address().parse().unwrap());
    first.says("the store holds an older state than before; it is replaced by the newer cursor").await;
    stage.intake.wait_for_ids(3000).await;
    stop(first).await;
    stage.assert_all_once();
    assert_ne!(state(&replica), state(&server));
    assert_eq!(state(&replica)["lease"], serde_json::Value::Null);
}
