//! Tests the identity and the way to the Auth Service: files that expire or change, Proxies, and HTTP proxies.

use std::time::Duration;

use crate::daemon::Setup;
use crate::stage::{ago, stop};
use crate::support::{AuditEvent, Authority, ConnectProxy, FakeAuth, FakeTeleportProxy, TeleportOptions};
use crate::teleport::{Cluster, DAY};

/// Defects 9716, 15223 and 15661: the event handler reported "context deadline exceeded".
#[tokio::test]
async fn an_expired_identity_is_an_error_at_once_with_its_file_and_date() {
    let cluster = Cluster::usual().await;
    let expired = cluster.auth.authority().expired_client();
    std::fs::write(cluster.identity_file(), cluster.auth.identity_of(&expired)).unwrap();
    let ended = cluster.run_to(77).await;
    for part in ["TELEPORT_AUDIT_IDENTITY", cluster.identity_file().to_str().unwrap(), "expired at 20"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    assert_eq!(cluster.auth.connections(), 0, "nothing is called");
    let checked = cluster.setup.run(&["check"]).await;
    assert_eq!(checked.code(), Some(77), "{}", checked.everything());
    assert!(checked.stdout.contains("expired at 20"), "{}", checked.stdout);
}

#[tokio::test]
async fn an_identity_that_cannot_be_used_is_a_mistake_in_the_configuration() {
    let cluster = Cluster::usual().await;
    let whole = std::fs::read_to_string(cluster.identity_file()).unwrap();
    let half = whole[..whole.len() / 2].to_owned();
    for (content, rule) in [(String::new(), "holds no private key"), (half, "without an end")] {
        std::fs::write(cluster.identity_file(), content).unwrap();
        let ended = cluster.run_to(78).await;
        assert!(ended.stderr.contains("TELEPORT_AUDIT_IDENTITY") && ended.stderr.contains(rule), "{}", ended.stderr);
        assert!(!ended.everything().contains("PRIVATE KEY-----\n"), "{}", ended.stderr);
    }
    let bare = cluster.without("TELEPORT_AUDIT_IDENTITY");
    let ended = bare.run_to(78).await;
    assert!(ended.stderr.contains("TELEPORT_AUDIT_IDENTITY: is required but not set"), "{}", ended.stderr);
    let one = bare.with("TELEPORT_AUDIT_CERT", "client.crt");
    let ended = one.run_to(78).await;
    assert!(ended.stderr.contains("TELEPORT_AUDIT_KEY: is required beside"), "{}", ended.stderr);
}

#[tokio::test]
async fn three_files_serve_as_an_identity() {
    let cluster = Cluster::usual().await.without("TELEPORT_AUDIT_IDENTITY");
    let (certificate, key) =
        cluster.auth.authority().client_for("auditsync", DAY).write(cluster.setup.folder(), "client");
    let ca = cluster.setup.folder().join("ca.crt");
    std::fs::write(&ca, cluster.auth.authority().pem()).unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let cluster = cluster
        .with("TELEPORT_AUDIT_CERT", path(&certificate))
        .with("TELEPORT_AUDIT_KEY", path(&key))
        .with("TELEPORT_AUDIT_CA", path(&ca));
    cluster.auth.push(AuditEvent::logins(0, 5, ago(60)));
    assert_eq!(cluster.printed().await.len(), 5);
}

#[tokio::test]
async fn an_identity_that_is_replaced_while_it_runs_is_used_at_once_and_no_event_is_lost_or_doubled() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 50, ago(600)));
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 50).await;
    let first = cluster.auth.searches()[0].client.clone();
    // A half-written file is not used yet.
    let new = cluster.auth.identity("auditsync", DAY);
    std::fs::write(cluster.identity_file(), &new[..new.len() / 3]).unwrap();
    daemon.says("the identity changed and cannot be used").await;
    cluster.auth.push(AuditEvent::logins(50, 60, ago(5)));
    daemon.prints(|text| text.lines().count() == 60).await;
    std::fs::write(cluster.identity_file(), new).unwrap();
    cluster
        .auth
        .wait_until("the new identity", |searches| {
            searches.last().is_some_and(|search| search.client != first && search.status == Some(0))
        })
        .await;
    cluster.auth.push(AuditEvent::logins(60, 70, ago(2)));
    daemon.prints(|text| text.lines().count() == 70).await;
    let ended = stop(daemon).await;
    assert_eq!(crate::teleport::lines(&ended.stdout), cluster.auth.log());
    assert_eq!(cluster.auth.violations(), [""; 0]);
}

#[tokio::test]
async fn a_new_identity_whose_dates_do_not_fit_is_named_once_and_the_connection_stays() {
    let cluster = Cluster::usual().await;
    let authority = cluster.auth.authority();
    for (pair, rule) in
        [(authority.expired_client(), "expired at 20"), (authority.early_client(), "is not valid before 20")]
    {
        let cluster = Cluster::usual().await;
        cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
        let mut daemon = cluster.setup.start(&[]);
        daemon.prints(|text| text.lines().count() == 5).await;
        // With a file that is whole at any moment, auditsync has one warning to give.
        cluster.auth.write_identity_of(&cluster.identity_file(), &pair);
        daemon.says("the identity changed and cannot be used").await;
        let before = cluster.auth.searches().len();
        cluster.auth.wait_for_searches(before + 2).await;
        cluster.auth.push(AuditEvent::logins(5, 9, ago(2)));
        daemon.prints(|text| text.lines().count() == 9).await;
        let ended = stop(daemon).await;
        assert!(ended.stderr.contains(rule), "{}", ended.stderr);
        assert_eq!(ended.stderr.matches("cannot be used").count(), 1, "{}", ended.stderr);
        assert_eq!(cluster.auth.connections(), 1);
    }
}

#[tokio::test]
async fn an_identity_that_expires_while_it_runs_is_named_and_a_new_file_goes_on_from_there() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 5, ago(600)));
    let mut daemon = cluster.setup.start(&[]);
    daemon.prints(|text| text.lines().count() == 5).await;
    // The next sync, within five seconds, makes a connection with it.
    cluster.auth.write_identity(&cluster.identity_file(), "auditsync", Duration::from_secs(8));
    daemon.says("expired at 20").await;
    stop(daemon).await;
    cluster.auth.push(AuditEvent::logins(5, 9, ago(2)));
    cluster.auth.write_identity(&cluster.identity_file(), "auditsync", DAY);
    assert_eq!(cluster.printed().await, cluster.auth.log()[5..]);
}

#[tokio::test]
async fn an_identity_of_another_cluster_is_refused_by_name() {
    let (cluster, other) = (Cluster::usual().await, FakeAuth::start(TeleportOptions::default()).await);
    // The other cluster's authorities do not know this server.
    other.write_identity(&cluster.identity_file(), "auditsync", DAY);
    let setup = cluster.setup.with("AUDITSYNC_RETRY_BUDGET", "0s");
    let ended = setup.run_to(78).await;
    assert!(ended.stderr.contains("is not one of the cluster example.com"), "{}", ended.stderr);
    // This server does not know the other cluster's clients.
    let foreign = other.authority().client_for("auditsync", DAY);
    std::fs::write(setup.folder().join("identity"), cluster.auth.identity_of(&foreign)).unwrap();
    // To auditsync, a refusal that takes two seconds looks like a broken connection. It connects again then.
    let setup = setup.with("TELEPORT_AUDIT_CLUSTER", "example.com").with("AUDITSYNC_RETRY_BUDGET", "30s");
    let ended = setup.run_to(77).await;
    assert!(ended.stderr.contains("refuses the certificate of the identity"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_proxy_routes_by_the_first_entry_to_the_cluster_that_is_named() {
    let root = Cluster::usual().await;
    let leaf = FakeAuth::start(TeleportOptions { cluster: "leaf-1".to_owned(), ..TeleportOptions::default() }).await;
    let routes = [(root.auth.route(), root.auth.address()), (leaf.route(), leaf.address())];
    let proxy = FakeTeleportProxy::start(routes).await;
    let root = root.with("TELEPORT_AUDIT_ADDRESS", proxy.address().to_string());
    root.auth.push(AuditEvent::logins(0, 5, ago(60)));
    assert_eq!(root.printed().await.len(), 5);
    assert_eq!(proxy.routed(), [b"teleport-auth@6578616d706c652e636f6d.teleport.cluster.local".to_vec()]);
    // The identity names the cluster that issued it, and the variable another one.
    leaf.push(AuditEvent::logins(0, 7, ago(60)));
    leaf.write_identity(&root.identity_file(), "auditsync", DAY);
    let setup = Setup::bare();
    let identity = root.identity_file();
    let setup = setup
        .with("AUDITSYNC_PIPELINES", "teleport:stdout")
        .with("TELEPORT_AUDIT_ADDRESS", proxy.address().to_string())
        .with("TELEPORT_AUDIT_IDENTITY", identity.to_str().unwrap())
        .with("TELEPORT_AUDIT_SYNC_DELAY", "0s")
        .with("TELEPORT_AUDIT_CLUSTER", "leaf-1");
    let ended = setup.run(&["run", "--once"]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 7), "{}", ended.stderr);
}

#[tokio::test]
async fn a_cluster_that_the_proxy_does_not_know_is_named_with_its_variable_and_tried_again() {
    let cluster = Cluster::usual().await;
    let proxy = FakeTeleportProxy::start([(cluster.auth.route(), cluster.auth.address())]).await;
    let cluster = cluster
        .with("TELEPORT_AUDIT_ADDRESS", proxy.address().to_string())
        .with("TELEPORT_AUDIT_CLUSTER", "leaf")
        .with("AUDITSYNC_RETRY_BUDGET", "0s");
    let ended = cluster.run_to(75).await;
    for part in ["no route to the Auth Service of the cluster leaf", "TELEPORT_AUDIT_CLUSTER", "in the TLS handshake"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn an_auth_service_of_another_cluster_than_the_named_one_is_refused_with_both_names() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 5, ago(60)));
    let setup = cluster.setup.with("TELEPORT_AUDIT_CLUSTER", "leaf");
    for arguments in [&["run", "--once"][..], &["check"]] {
        let ended = setup.run(arguments).await;
        assert_eq!((ended.code(), ended.stdout.contains("login-")), (Some(78), false), "{}", ended.everything());
        for part in ["the Auth Service of the cluster", "example.com", "TELEPORT_AUDIT_CLUSTER names leaf"] {
            assert!(ended.everything().contains(part), "{part}: {}", ended.everything());
        }
    }
    assert_eq!(cluster.auth.searches(), []);
}

#[tokio::test]
async fn a_load_balancer_with_a_certificate_of_its_own_is_named_as_a_cause() {
    let balancer = Cluster::usual().await.with("AUDITSYNC_RETRY_BUDGET", "0s");
    let public = Authority::new("a public authority").server(&["teleport.cluster.local"]);
    balancer.auth.replace_certificates(&public, &[balancer.auth.authority().pem()]);
    let ended = balancer.run_to(78).await;
    for part in ["is not one of the cluster example.com", "TELEPORT_AUDIT_ADDRESS", "load balancer"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_way_on_which_no_protocol_survives_is_named_with_what_to_look_at() {
    let options = TeleportOptions { protocols: Vec::new(), ..TeleportOptions::default() };
    let balancer = Cluster::of(options).await.with("AUDITSYNC_RETRY_BUDGET", "0s");
    let ended = balancer.run_to(78).await;
    for part in ["no route to the Auth Service of the cluster example.com", "TELEPORT_AUDIT_ADDRESS", "load balancer"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

/// Defect 27397: old versions went around the proxy.
#[tokio::test]
async fn an_http_proxy_is_used_for_everything_and_nothing_goes_around_it() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 5, ago(60)));
    let proxy = ConnectProxy::to(Some(cluster.auth.address())).await;
    let url = proxy.url().replace("http://", "http://me:hunter2@");
    let cluster = cluster.with("TELEPORT_AUDIT_ADDRESS", "teleport.invalid:443").with("HTTPS_PROXY", url);
    assert_eq!(cluster.printed().await.len(), 5);
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("CONNECT teleport.invalid:443 HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].to_lowercase().contains("proxy-authorization: basic bwu6ahvudgvymg=="), "{}", requests[0]);
    let refusing = ConnectProxy::to(None).await;
    let address = cluster.auth.address().to_string();
    let cluster = cluster.with("HTTPS_PROXY", refusing.url()).with("AUDITSYNC_RETRY_BUDGET", "0s");
    let cluster = cluster.with("TELEPORT_AUDIT_ADDRESS", address);
    let before = cluster.auth.connections();
    let ended = cluster.run_to(75).await;
    assert!(ended.stderr.contains("opens no tunnel; check HTTPS_PROXY"), "{}", ended.stderr);
    assert!(!ended.everything().contains("hunter2"), "{}", ended.stderr);
    assert_eq!(cluster.auth.connections(), before);
    let cluster = cluster.with("NO_PROXY", "127.0.0.1");
    cluster.auth.push(AuditEvent::logins(5, 8, ago(2)));
    assert_eq!(cluster.printed().await.len(), 3);
}
