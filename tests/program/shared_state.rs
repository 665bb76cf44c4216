//! Tests the commands on a state that machines share, and the messages of a run that a store stops.

use std::time::Instant;

use crate::daemon::Ended;
use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{FakeGcs, GcsOptions, IntakeOptions, RedisServer};

const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";
const BACKEND: &str = "SECTIGO_AUDIT_STORAGE_BACKEND";
const ADDRESS: &str = "SECTIGO_AUDIT_REDIS_ADDRESS";
const DELAY: &str = "SECTIGO_AUDIT_SYNC_DELAY";
const PASSWORD: &str = "SECTIGO_AUDIT_REDIS_PASSWORD";

async fn on_redis(server: &RedisServer) -> Stage {
    let stage = Stage::of(ten_a_page(), IntakeOptions::default()).await;
    stage.with(BACKEND, "redis").with(ADDRESS, server.address()).with("SECTIGO_AUDIT_LEASE_TTL", "15s")
}

/// One line of `check`'s output.
fn line<'a>(stdout: &'a str, part: &str) -> &'a str {
    stdout.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no line for {part}:\n{stdout}"))
}

#[tokio::test]
async fn run_after_run_goes_on_where_the_last_one_ended() {
    let server = RedisServer::start();
    let stage = on_redis(&server).await.with(DELAY, "60s");
    stage.push(25, 1500, 120);
    stage.run_to(0).await;
    let stage = stage.with(DELAY, "0s");
    stage.push(5, 30, 2);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("continuing from the stored cursor"), "{}", ended.stderr);
    stage.assert_all_once();
    assert!(std::fs::read_dir(stage.setup.folder()).unwrap().next().is_none(), "nothing is left in the folder");
}

#[tokio::test]
async fn state_show_prints_the_document_and_where_it_is() {
    let server = RedisServer::start();
    let stage = on_redis(&server).await;
    let none = stage.setup.run(&["state", "show"]).await;
    let location = format!("redis://{}/0 key auditsync:sectigo:datadog", server.address());
    assert!(none.stderr.contains(&format!("there is no state yet at {location}")), "{}", none.stderr);
    stage.push(5, 1500, 2);
    stage.run_to(0).await;
    let shown = stage.setup.run(&["state", "show"]).await;
    assert!(shown.stderr.contains(&format!("the state at {location}")), "{}", shown.stderr);
    let document: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&document["pipeline"], &document["lease"]), (&"sectigo:datadog".into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn check_says_whether_the_store_can_be_written_and_who_holds_the_lease() {
    let server = RedisServer::start();
    let stage = on_redis(&server).await;
    stage.push(5, 1500, 2);
    let free = stage.setup.run(&["check"]).await;
    let said = line(&free.stdout, "state");
    assert!(
        said.starts_with("ok ") && said.ends_with("can be written, by one instance at a time; the lease is free"),
        "{said}"
    );
    assert_eq!(server.command(&["DBSIZE"]), "0", "it left nothing behind");

    let mut daemon = stage.setup.start_with(&[("SECTIGO_AUDIT_SYNC_LOOP", "true")], &[]);
    daemon.says("synced").await;
    let held = stage.setup.run(&["check"]).await;
    let said = line(&held.stdout, "state");
    let holder = format!("process {} on ", daemon.id());
    assert!(said.contains(&holder) && said.ends_with("holds the lease, for 15s after each heartbeat"), "{said}");
    // The command wrote to it, and the holder did not notice.
    stop(daemon).await;
}

#[tokio::test]
async fn check_warns_of_replicas_that_need_not_confirm_a_write() {
    let server = RedisServer::start();
    let stage = on_redis(&server).await;
    let _replica = server.replica();
    let ended = stage.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stdout);
    let said = line(&ended.stdout, "warning");
    assert!(said.contains("set min-replicas-to-write 1"), "{said}");
    assert_eq!(server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "OK");
    let ended = stage.setup.run(&["check"]).await;
    assert!(!ended.stdout.contains("min-replicas-to-write"), "{}", ended.stdout);
}

#[tokio::test]
async fn check_ends_with_74_where_the_store_refuses_or_is_not_there() {
    let server = RedisServer::with(&["--save", "", "--requirepass", "hunter2"]);
    let stage = on_redis(&server).await;
    let ended = stage.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(74), "{}", ended.stdout);
    let said = line(&ended.stdout, "FAILED");
    assert!(said.contains("the server requires a password: set AUDITSYNC_REDIS_PASSWORD"), "{said}");
    let stage = stage.with(ADDRESS, "127.0.0.1:1");
    let ended = stage.setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(74), "{}", ended.stdout);
    assert!(line(&ended.stdout, "FAILED").contains("Connection refused"), "{}", ended.stdout);
}

#[tokio::test]
async fn the_cursor_is_not_set_under_a_living_instance_and_is_under_a_dead_one() {
    let server = RedisServer::start();
    let stage = on_redis(&server).await;
    stage.push(5, 1500, 2);
    let mut daemon = stage.setup.start_with(&[("SECTIGO_AUDIT_SYNC_LOOP", "true")], &[]);
    daemon.says("synced").await;
    let set = ["state", "set", "--since", "2026-03-01T12:00:00Z", "--yes"];
    let refused = stage.setup.run(&set).await;
    assert_eq!(refused.code(), Some(75), "{}", refused.stderr);
    let holder = format!("process {} on ", daemon.id());
    assert!(
        refused.stderr.contains(&holder)
            && refused.stderr.contains("holds the lease")
            && refused.stderr.contains("is in use by"),
        "{}",
        refused.stderr
    );
    daemon.signal("KILL").await;
    daemon.ended().await;
    let done = stage.setup.run(&set).await;
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    assert!(server.command(&["GET", "auditsync:sectigo:datadog"]).contains("2026-03-01T12:00:00Z"));
}

#[tokio::test]
async fn a_state_moves_from_backend_to_backend() {
    let (server, bucket) = (RedisServer::start(), FakeGcs::start(GcsOptions::default()).await);
    let stage = Stage::usual().await.with(ADDRESS, server.address()).with(DELAY, "60s");
    let stage = stage.with("STORAGE_EMULATOR_HOST", bucket.url()).with("SECTIGO_AUDIT_GCS_BUCKET", bucket.bucket());
    stage.push(25, 1500, 120);
    stage.run_to(0).await;
    let cursor = |ended: &Ended| {
        let document: serde_json::Value = serde_json::from_str(&ended.stdout).expect("a state document");
        document["cursor"].clone()
    };
    let first = cursor(&stage.setup.run(&["state", "show"]).await);

    let moved = stage.setup.run(&["state", "migrate", "--to", "redis"]).await;
    assert_eq!(moved.code(), Some(0), "{}", moved.stderr);
    assert!(moved.stderr.contains("set AUDITSYNC_STORAGE_BACKEND=redis"), "{}", moved.stderr);
    let stage = stage.with(BACKEND, "redis");
    let moved = stage.setup.run(&["state", "migrate", "--to", "gcs"]).await;
    assert_eq!(moved.code(), Some(0), "{}", moved.stderr);
    let stage = stage.with(BACKEND, "gcs").with(DELAY, "0s");
    assert_eq!(cursor(&stage.setup.run(&["state", "show"]).await), first);
    stage.push(5, 30, 2);
    stage.run_to(0).await;
    stage.assert_all_once();

    // The folder still holds a state, which only `--yes` replaces.
    let back = ["state", "migrate", "--to", "localfs"];
    let refused = stage.setup.run(&back).await;
    assert_eq!(refused.code(), Some(64), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("there is already a state at ./auditsync-sectigo-datadog.json"),
        "{}",
        refused.stderr
    );
    assert_eq!(stage.setup.state().unwrap()["cursor"], first);
    let done = stage.setup.run(&[&back[..], &["--yes"]].concat()).await;
    assert_eq!(done.code(), Some(0), "{}", done.stderr);
    assert_ne!(stage.setup.state().unwrap()["cursor"], first);
}

#[tokio::test]
async fn there_is_nothing_to_move_from_an_empty_store_or_to_memory_or_to_itself() {
    let server = RedisServer::start();
    let stage = on_redis(&server).await;
    for (to, code, says) in [
        ("localfs", 64, "there is no state at"),
        ("memory", 64, "is lost when the process ends"),
        ("redis", 64, "; --to must name another store"),
        ("floppy", 78, "must be one of localfs, redis, s3, gcs, memory"),
        ("s3", 78, "AUDITSYNC_S3_BUCKET: is required but not set"),
    ] {
        let ended = stage.setup.run(&["state", "migrate", "--to", to]).await;
        assert_eq!(ended.code(), Some(code), "{to}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{to}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_redis_that_forgets_is_warned_about_once_and_one_that_does_not_is_not() {
    const FORGETS: &str = "this Redis keeps nothing on disk";
    for (arguments, warns) in [
        (&["--save", "", "--appendonly", "no"][..], 1),
        (&["--save", "", "--appendonly", "yes"], 0),
        (&["--save", "900 1", "--appendonly", "no"], 0),
    ] {
        let server = RedisServer::with(arguments);
        let stage = on_redis(&server).await;
        stage.push(25, 1500, 2);
        let ended = stage.run_to(0).await;
        assert_eq!(ended.stderr.matches(FORGETS).count(), warns, "{arguments:?}: {}", ended.stderr);
    }
    let server =
        RedisServer::with(&["--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let stage = on_redis(&server).await;
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("may evict any key when its memory is full"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_daemon_waits_for_a_store_that_is_not_there_yet() {
    let mut server = RedisServer::start();
    server.kill();
    let stage = on_redis(&server).await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(25, 1500, 2);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the state store failed").await;
    server.restart();
    daemon.says("synced").await;
    stop(daemon).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_one_shot_run_gives_up_on_a_store_that_is_not_there_and_has_asked_for_nothing() {
    let stage = Stage::usual().await.with(BACKEND, "redis").with(ADDRESS, "127.0.0.1:1");
    let stage = stage.with(BUDGET, "2s");
    stage.push(25, 1500, 2);
    let ended = stage.run_to(74).await;
    assert!(
        ended.stderr.contains("cannot read the state at redis://127.0.0.1:1/0 key auditsync:sectigo:datadog"),
        "{}",
        ended.stderr
    );
    assert_eq!((stage.scm.hits(), stage.intake.hits()), (0, 0));
}

#[tokio::test]
async fn a_refused_password_ends_a_start_and_is_borne_later() {
    let server = RedisServer::with(&["--save", "", "--appendonly", "yes", "--requirepass", "hunter2"]);
    let stage = on_redis(&server).await.with(PASSWORD, "letmein").with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(25, 1500, 60);
    let ended = stage.run_to(74).await;
    assert!(ended.stderr.contains("correct SECTIGO_AUDIT_REDIS_PASSWORD"), "{}", ended.stderr);
    assert!(!ended.everything().contains("letmein") && !ended.everything().contains("hunter2"), "{}", ended.stderr);

    let file = stage.setup.folder().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let stage = stage.without(PASSWORD).with("SECTIGO_AUDIT_REDIS_PASSWORD_FILE", file.to_str().unwrap());
    let mut daemon = stage.setup.start(&[]);
    daemon.says("synced").await;
    let admin = ["-a", "hunter2", "CONFIG", "SET", "requirepass", "rotated"];
    assert_eq!(server.command(&admin), "OK");
    server.command(&["-a", "rotated", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    daemon.says("the state store needs attention").await;
    std::fs::write(&file, "rotated\n").unwrap();
    daemon.says("the state store works again").await;
    stage.push(5, 30, 2);
    stage.intake.wait_for_ids(30).await;
    let ended = stop(daemon).await;
    assert!(!ended.everything().contains("rotated"), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn an_address_with_a_password_is_shown_nowhere() {
    let server = RedisServer::with(&["--save", "", "--requirepass", "hunter2"]);
    let stage = on_redis(&server).await.with(ADDRESS, format!("redis://:hunter2@{}/1", server.address()));
    stage.push(5, 1500, 2);
    for arguments in [&["run"][..], &["check"], &["state", "show"], &["state", "reset"]] {
        let ended = stage.setup.start_with(&[("SECTIGO_AUDIT_LOG_LEVEL", "trace")], arguments).ended().await;
        assert!(!ended.everything().contains("hunter2"), "{}", ended.everything());
    }
    // Beside the test entry of `check`.
    stage.assert_none_lost();
    assert_eq!(server.command(&["-a", "hunter2", "-n", "1", "EXISTS", "auditsync:sectigo:datadog"]), "1");
}

/// Makes a self-signed certificate for `localhost`, and its key, in these files.
fn make_certificate(request: &str, certificate: &str, key: &str) {
    let asked = "[req]\ndistinguished_name = name\nx509_extensions = more\nprompt = no\n[name]\nCN = localhost\n\
                 [more]\nsubjectAltName = DNS:localhost\nbasicConstraints = CA:FALSE\n";
    std::fs::write(request, asked).unwrap();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let files = ["-config", request, "-out", certificate, "-keyout", key];
    let made = std::process::Command::new("openssl").args(["req", "-x509"]).args(curve).args(files).output();
    let made = made.expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test]
async fn redis_over_tls_is_trusted_by_its_certificate_alone() {
    let certificates = tempfile::tempdir().unwrap();
    let path = |name: &str| certificates.path().join(name).to_str().unwrap().to_owned();
    make_certificate(&path("request"), &path("cert"), &path("key"));
    let server = RedisServer::with_tls(&path("cert"), &path("key"));
    let stage = on_redis(&server).await;
    stage.push(5, 1500, 2);
    let address = format!("localhost:{}", server.tls_port());

    let stage = stage.with(ADDRESS, format!("rediss://{address}")).with(BUDGET, "0s");
    let ended = stage.run_to(74).await;
    assert!(ended.stderr.contains("certificate"), "{}", ended.stderr);
    let stage = stage.with("SSL_CERT_FILE", path("cert")).without(BUDGET);
    stage.run_to(0).await;
    let stage = stage.with(ADDRESS, address).with("SECTIGO_AUDIT_REDIS_TLS", "true");
    stage.run_to(0).await;
    let stage = stage.with("SECTIGO_AUDIT_REDIS_TLS", "false").with(BUDGET, "0s");
    stage.run_to(74).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn google_credentials_that_cannot_be_had_are_said_to_be_missing() {
    let stage = Stage::usual().await.with(BACKEND, "gcs").with("SECTIGO_AUDIT_GCS_BUCKET", "audit");
    let file = stage.setup.folder().join("login.json");
    std::fs::write(&file, "{}").unwrap();
    for named in ["/no/such/file", file.to_str().unwrap()] {
        let ended = stage.setup.start_with(&[("GOOGLE_APPLICATION_CREDENTIALS", named)], &[]).ended().await;
        assert_eq!(ended.code(), Some(74), "{}", ended.stderr);
        let says = "auditsync takes Google's Application Default Credentials from the file that GOOGLE_APPLICATION_CREDENTIALS names";
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_state_in_google_cloud_storage_is_written_at_most_once_a_second() {
    let bucket = FakeGcs::start(GcsOptions::default()).await;
    let stage = Stage::usual().await.with(BACKEND, "gcs").with("SECTIGO_AUDIT_GCS_BUCKET", bucket.bucket());
    let stage = stage.with("STORAGE_EMULATOR_HOST", bucket.url());
    stage.push(500, 1500, 2);
    let begun = Instant::now();
    stage.run_to(0).await;
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    stage.assert_all_once();
    assert_eq!(bucket.violations(), [""; 0]);
    // The claim, the end and the release; fifty pages came in between.
    assert!(bucket.hits() < 20 + seconds, "{} requests in {seconds} s", bucket.hits());
}
