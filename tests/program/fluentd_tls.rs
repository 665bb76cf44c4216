//! Tests mutual TLS with Fluentd: pairs that are missing, wrong, expired, or replaced during a run.

use std::path::Path;

use crate::fluentd::Stand;
use crate::support::{Authority, FluentdOptions, Pair};

const LOOP: &str = "SECTIGO_AUDIT_SYNC_LOOP";

/// A receiver with the pair `server`, which requires client certificates of `authority`.
async fn stand(server: &Pair, authority: &Authority) -> Stand {
    let client_authorities = vec![authority.pem()];
    Stand::of(FluentdOptions { tls: Some(server.clone()), client_authorities, ..FluentdOptions::default() }).await
}

/// The same with files for the client: the `ca` to trust, and its pair, if it has one.
async fn stand_with(server: &Pair, authority: &Authority, ca: &Authority, client: Option<&Pair>) -> Stand {
    let stand = stand(server, authority).await;
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let folder = stand.setup.folder().to_owned();
    std::fs::write(folder.join("ca.crt"), ca.pem()).unwrap();
    let stand = stand.with("FLUENTD_CA", path(&folder.join("ca.crt")));
    let Some(client) = client else { return stand };
    let (certificate, key) = client.write(&folder, "client");
    stand.with("FLUENTD_CERT", path(&certificate)).with("FLUENTD_KEY", path(&key))
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let ca = Authority::new("CA");
    let client = ca.client("auditsync");
    let stand = stand_with(&ca.server(&["127.0.0.1"]), &ca, &ca, Some(&client)).await;
    stand.push(250);
    stand.run_to(0).await;
    stand.assert_all_once();
    assert!(stand.fluentd.requests().iter().all(|request| request.client == Some(client.der())));
    assert_eq!(stand.fluentd.connections(), 1);
}

#[tokio::test]
async fn a_client_certificate_that_is_refused_is_configuration_that_names_it() {
    let (ca, stranger) = (Authority::new("CA"), Authority::new("stranger"));
    for (client, text) in [
        (None, "it requires one: set FLUENTD_CERT"),
        (Some(ca.expired_client()), "check FLUENTD_CERT: its authority and its dates"),
        (Some(stranger.client("auditsync")), "check FLUENTD_CERT: its authority and its dates"),
    ] {
        // A large body, so that the reset could overtake the alert.
        let stand = stand_with(&ca.server(&["127.0.0.1"]), &ca, &ca, client.as_ref()).await;
        stand.scm.set_page_size(5000);
        stand.push(3000);
        let stand = stand.with("FLUENTD_BATCH_BYTES", "16MiB").with("FLUENTD_BATCH_RECORDS", "5000");
        let ended = stand.run_without_patience_to(78).await;
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
        assert!(stand.fluentd.events().is_empty());
        let ended = stand.setup.run(&["check"]).await;
        assert!(ended.code() == Some(78) && ended.stdout.contains(text), "{}", ended.everything());
    }
}

#[tokio::test]
async fn a_server_certificate_that_does_not_verify_gets_no_event_and_names_the_ca() {
    let (ca, stranger) = (Authority::new("CA"), Authority::new("stranger"));
    for server in [
        ca.server(&["fluentd.example.com"]),
        ca.server(&[]),
        ca.expired_server(&["127.0.0.1"]),
        stranger.server(&["127.0.0.1"]),
    ] {
        let stand = stand_with(&server, &ca, &ca, Some(&ca.client("auditsync"))).await;
        stand.push(5);
        let ended = stand.run_without_patience_to(78).await;
        assert!(ended.stderr.contains("does not verify; check that FLUENTD_CA"), "{}", ended.stderr);
        assert!(stand.fluentd.requests().is_empty());
    }
}

#[tokio::test]
async fn the_systems_authorities_do_not_count_beside_a_given_one() {
    let (ca, system) = (Authority::new("CA"), Authority::new("system"));
    let stand = stand_with(&system.server(&["127.0.0.1"]), &ca, &ca, Some(&ca.client("auditsync"))).await;
    let bundle = stand.setup.folder().join("system.crt");
    std::fs::write(&bundle, system.pem()).unwrap();
    let stand = stand.with("SSL_CERT_FILE", bundle.to_str().unwrap());
    stand.push(5);
    stand.run_without_patience_to(78).await;
    assert!(stand.fluentd.requests().is_empty());
}

#[tokio::test]
async fn a_pair_that_is_replaced_while_running_is_used_without_a_lost_or_doubled_event() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = old.server(&["127.0.0.1"]);
    let (before, after) = (old.client("before"), new.client("after"));
    let stand = stand_with(&server, &old, &old, Some(&before)).await;
    let stand = stand.with(LOOP, "true").with("FLUENTD_BATCH_RECORDS", "5").with("AUDITSYNC_LOG_LEVEL", "info");
    stand.fluentd.set_tls(&server, &[old.pem(), new.pem()]);
    stand.push(2000);
    let daemon = stand.setup.start(&[]);
    stand.fluentd.wait_for_events(100).await;
    after.write(stand.setup.folder(), "client");
    stand.fluentd.wait_for_events(2000).await;
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stand.assert_all_once();
    let clients: Vec<_> = stand.fluentd.requests().into_iter().map(|request| request.client.unwrap()).collect();
    let switch = clients.iter().position(|client| *client == after.der()).expect("the new pair was used");
    assert!(clients[..switch].iter().all(|client| *client == before.der()));
    assert!(clients[switch..].iter().all(|client| *client == after.der()));
    assert_eq!(stand.fluentd.connections(), 2);
}

#[tokio::test]
async fn a_daemon_whose_pair_the_receiver_stops_taking_keeps_its_cursor_and_goes_on_with_a_new_pair() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let stand =
        stand_with(&old.server(&["127.0.0.1"]), &old, &old, Some(&old.client("before"))).await.with(LOOP, "true");
    stand.push(100);
    let mut daemon = stand.setup.start(&[]);
    stand.fluentd.wait_for_events(100).await;
    stand.fluentd.set_tls(&new.server(&["127.0.0.1"]), &[new.pem()]);
    stand.push_late(100);
    daemon.says("the destination needs attention").await;
    let both = format!("{}{}", old.pem(), new.pem());
    std::fs::write(stand.setup.folder().join("ca.crt"), both).unwrap();
    new.client("after").write(stand.setup.folder(), "client");
    stand.fluentd.wait_for_events(200).await;
    daemon.signal("TERM").await;
    assert_eq!(daemon.ended().await.code(), Some(0));
    stand.assert_none_lost();
    assert_eq!(stand.fluentd.events().len(), 200);
}

#[tokio::test]
async fn a_receiver_without_tls_is_recognised_and_names_the_address() {
    let stand = Stand::usual().await;
    let url = stand.fluentd.url("audit.log").replace("http://", "https://");
    let stand = stand.with("FLUENTD_URL", url);
    stand.push(5);
    let ended = stand.run_without_patience_to(78).await;
    assert!(ended.stderr.contains("the scheme in FLUENTD_URL"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_certificates_that_certs_makes_serve_both_sides() {
    let stand = Stand::usual().await;
    let out = stand.setup.folder().join("certs");
    let made = stand.setup.run(&["certs", "--host", "127.0.0.1", "--out", out.to_str().unwrap()]).await;
    assert_eq!(made.code(), Some(0), "{}", made.stderr);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let server = Pair { certificate: read("server.crt"), key: read("server.key") };
    let tls =
        FluentdOptions { tls: Some(server), client_authorities: vec![read("ca.crt")], ..FluentdOptions::default() };
    let receiver = Stand::of(tls).await;
    // The test uses the printed variables unchanged, except for the fake's port.
    let url = receiver.fluentd.url("audit.log");
    let mut receiver = receiver;
    for line in made.stdout.lines().filter(|line| line.starts_with("FLUENTD_")) {
        let (name, value) = line.split_once('=').unwrap();
        receiver = receiver.with(name, value);
    }
    let receiver = receiver.with("FLUENTD_URL", url);
    receiver.push(10);
    receiver.run_to(0).await;
    receiver.assert_all_once();
    for part in ["client_cert_auth true", "tls.verify_client_cert on", "time_key evt_time", out.to_str().unwrap()] {
        assert!(made.stdout.contains(part), "{part}: {}", made.stdout);
    }
    let again = stand.setup.run(&["certs", "--host", "127.0.0.1", "--out", out.to_str().unwrap()]).await;
    assert_eq!(again.code(), Some(74), "{}", again.everything());
    assert!(again.stderr.contains("no file is overwritten"), "{}", again.stderr);
}
