//! Tests the import from Teleport's event handler: its settings and its progress.

use crate::daemon::Setup;
use crate::stage::ago;
use crate::support::{AuditEvent, FakeFluentd, FluentdOptions, Recording};
use crate::teleport::{Cluster, ids};

fn settings(cluster: &Cluster, fluentd: &FakeFluentd) -> String {
    format!(
        r#"storage = "./storage"
timeout = "10s"
batch = 20
window-size = "24h"
types = ""
skip-event-types = ["session.data"]
skip-session-types = ["print", "desktop.recording"]
a-new-setting = "x"

[forward.fluentd]
ca = ""
url = "{}"
session-url = "{}"

[teleport]
addr = "{}"
identity = "{}"
"#,
        fluentd.url("test.log"),
        fluentd.url("session"),
        cluster.auth.address(),
        cluster.identity_file().display(),
    )
}

#[tokio::test]
async fn the_event_handlers_settings_and_place_are_all_that_is_needed_to_take_over() {
    let (cluster, fluentd) = (
        Cluster::usual().await,
        FakeFluentd::start(FluentdOptions { has_default_parser: false, ..FluentdOptions::default() }).await,
    );
    cluster.auth.push(AuditEvent::logins(0, 100, ago(300)));
    // The event handler has delivered the events before its window.
    let window = cluster.auth.log()[60]["time"].as_str().unwrap().to_owned();
    let setup = Setup::bare();
    let storage = setup.folder().join("storage").join("localhost_3025");
    std::fs::create_dir_all(&storage).unwrap();
    std::fs::write(storage.join("window_time"), window).unwrap();
    std::fs::write(storage.join("start_time"), "2020-01-01T00:00:00Z").unwrap();
    std::fs::write(setup.folder().join("handler.toml"), settings(&cluster, &fluentd)).unwrap();
    let imported = setup.run(&["import", "handler.toml", "--storage", "storage"]).await;
    assert_eq!(imported.code(), Some(0), "{}", imported.everything());
    assert!(imported.stderr.contains("\"a-new-setting\" is not a known setting"), "{}", imported.stderr);
    assert!(imported.stderr.contains("batch has no counterpart"), "{}", imported.stderr);
    // The output is a whole `.env`.
    let more = "TELEPORT_AUDIT_SYNC_DELAY=0s\nAUDITSYNC_RETRY_BUDGET=30s\n";
    std::fs::write(setup.folder().join(".env"), format!("{}{more}", imported.stdout)).unwrap();
    let ended = setup.run_to(0).await;
    let delivered: Vec<_> = fluentd.events().into_iter().map(|(_, event)| event).collect();
    assert_eq!(ids(&delivered), ids(&cluster.auth.log()[60..]));
    // The Auth Service sends no `Date`.
    let is_usual = |line: &&str| !line.contains("WARN") || line.contains("carry no `Date`");
    assert_eq!(ended.stderr.lines().find(|line| !is_usual(line)), None);
    // An existing state is not overwritten.
    let again = setup.run(&["import", "handler.toml", "--storage", "storage"]).await;
    assert_eq!(again.code(), Some(64), "{}", again.everything());
    assert!(again.stderr.contains("repeat the command with --yes"), "{}", again.stderr);
    let again = setup.run(&["import", "handler.toml", "--storage", "storage", "--yes"]).await;
    assert_eq!(again.code(), Some(0), "{}", again.everything());
    setup.run(&["run", "--once"]).await;
    assert_eq!(fluentd.events().len(), 80);
}

#[tokio::test]
async fn sessions_that_the_event_handler_had_not_finished_are_read_on_and_the_state_is_named() {
    let options = || FluentdOptions { has_default_parser: false, ..FluentdOptions::default() };
    let (cluster, fluentd) = (Cluster::usual().await, FakeFluentd::start(options()).await);
    let event = |index| AuditEvent::of_session("session.command", "8d3f", index, ago(900));
    cluster.auth.set_recording("8d3f", Recording { events: (0..10).map(event).collect(), ..Recording::default() });
    let setup = Setup::bare();
    let storage = setup.folder().join("storage");
    std::fs::create_dir_all(&storage).unwrap();
    std::fs::write(storage.join("window_time"), ago(60).to_string()).unwrap();
    std::fs::write(storage.join("session8d3f"), 6_u64.to_be_bytes()).unwrap();
    std::fs::write(setup.folder().join("handler.toml"), settings(&cluster, &fluentd)).unwrap();
    let imported = setup.run(&["import", "handler.toml", "--storage", "storage"]).await;
    assert_eq!(imported.code(), Some(0), "{}", imported.everything());
    for part in ["\"8d3f\" continues from its event 6", "auditsync-teleport-fluentd.json continues from 20"] {
        assert!(imported.stderr.contains(part), "{part}: {}", imported.stderr);
    }
    let more = "TELEPORT_AUDIT_SYNC_DELAY=0s\nAUDITSYNC_RETRY_BUDGET=30s\n";
    std::fs::write(setup.folder().join(".env"), format!("{}{more}", imported.stdout)).unwrap();
    setup.run_to(0).await;
    let delivered: Vec<_> = fluentd.events().into_iter().map(|(_, event)| event).collect();
    assert_eq!(ids(&delivered), ["8d3f-6", "8d3f-7", "8d3f-8", "8d3f-9"]);
    assert_eq!(cluster.auth.streams(), [("8d3f".to_owned(), 6)]);
}

#[tokio::test]
async fn an_imported_session_whose_upload_is_read_again_is_not_read_from_its_start() {
    let options = FluentdOptions { has_default_parser: false, ..FluentdOptions::default() };
    let (cluster, fluentd) = (Cluster::usual().await, FakeFluentd::start(options).await);
    let event = |index| AuditEvent::of_session("session.command", "8d3f", index, ago(900));
    cluster.auth.set_recording("8d3f", Recording { events: (0..10).map(event).collect(), ..Recording::default() });
    let setup = Setup::bare();
    let storage = setup.folder().join("storage");
    std::fs::create_dir_all(&storage).unwrap();
    std::fs::write(storage.join("window_time"), ago(3600).to_string()).unwrap();
    std::fs::write(storage.join("session8d3f"), 6_u64.to_be_bytes()).unwrap();
    std::fs::write(setup.folder().join("handler.toml"), settings(&cluster, &fluentd)).unwrap();
    let imported = setup.run(&["import", "handler.toml", "--storage", "storage"]).await;
    assert_eq!(imported.code(), Some(0), "{}", imported.everything());
    let more = "TELEPORT_AUDIT_SYNC_DELAY=0s\nAUDITSYNC_RETRY_BUDGET=30s\n";
    std::fs::write(setup.folder().join(".env"), format!("{}{more}", imported.stdout)).unwrap();
    // The session is read to its end before its upload is found.
    setup.run_to(0).await;
    cluster.auth.push([AuditEvent::upload("upload", "8d3f", ago(900))]);
    setup.run_to(0).await;
    let delivered: Vec<_> = fluentd.events().into_iter().map(|(_, event)| event).collect();
    assert_eq!(ids(&delivered), ["8d3f-6", "8d3f-7", "8d3f-8", "8d3f-9", "upload"]);
    assert_eq!(cluster.auth.streams(), [("8d3f".to_owned(), 6), ("8d3f".to_owned(), 9)]);
}

#[tokio::test]
async fn settings_that_cannot_be_read_change_nothing() {
    let setup = Setup::bare();
    std::fs::write(setup.folder().join("broken.toml"), "storage = ").unwrap();
    let ended = setup.run(&["import", "broken.toml"]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    std::fs::write(setup.folder().join("good.toml"), "[teleport]\naddr = 'h:443'").unwrap();
    let ended = setup.run(&["import", "good.toml", "--storage", "."]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    assert!(ended.stderr.contains("holds no progress of the event handler"), "{}", ended.stderr);
    let ended = setup.run(&["import", "none.toml"]).await;
    assert_eq!(ended.code(), Some(64), "{}", ended.everything());
    assert_eq!(std::fs::read_dir(setup.folder()).unwrap().count(), 2);
}
