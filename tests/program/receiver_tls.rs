//! Tests the receiver's TLS: HTTP/2, client certificates, replaced files, and what plain HTTP may serve.

use std::path::Path;

use crate::daemon::Daemon;
use crate::receiver::{KEY, Reception, numbers};
use crate::stage::stop;
use crate::support::{Authority, Pair};

/// A receiver with the pair `server`; it requires client certificates if `clients` has authorities.
fn reception(server: &Pair, clients: Option<&Authority>) -> Reception {
    let reception = Reception::usual();
    let folder = reception.setup.folder().to_owned();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (certificate, key) = server.write(&folder, "server");
    let reception =
        reception.with("RECEIVER_AUDIT_TLS_CERT", text(&certificate)).with("RECEIVER_AUDIT_TLS_KEY", text(&key));
    let Some(clients) = clients else { return reception };
    std::fs::write(folder.join("clients.crt"), clients.pem()).unwrap();
    reception.with("RECEIVER_AUDIT_CLIENT_CA", text(&folder.join("clients.crt")))
}

fn client(ca: &Authority, pair: Option<&Pair>) -> reqwest::Client {
    let trusted = reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
    let builder = match pair {
        Some(pair) => {
            let pem = format!("{}{}", pair.certificate, pair.key);
            builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
        }
        None => builder,
    };
    builder.build().unwrap()
}

fn url(reception: &Reception, path: &str) -> String {
    format!("https://{}{path}", reception.probe.address())
}

async fn prints(daemon: &mut Daemon, wanted: &[u64]) {
    daemon.prints(|text| numbers(text) == wanted).await;
}

#[tokio::test]
async fn http_2_is_spoken_where_a_client_wants_it() {
    let ca = Authority::new("CA");
    let reception = reception(&ca.server(&["127.0.0.1"]), None);
    let mut daemon = reception.started().await;
    let client = client(&ca, None);
    let posts = (0..20).map(|n| {
        let request = client.post(url(&reception, "/api/v2/logs")).header("DD-API-KEY", KEY);
        request.header("Content-Type", "application/json").body(format!("{{\"n\":{n}}}")).send()
    });
    for answer in futures_util::future::join_all(posts).await {
        let answer = answer.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 202));
    }
    daemon.prints(|text| numbers(text).len() == 20).await;
    stop(daemon).await;
}

#[tokio::test]
async fn with_client_certificates_every_path_needs_one_and_datadogs_paths_their_key_as_well() {
    let (ca, clients) = (Authority::new("CA"), Authority::new("clients"));
    let reception = reception(&ca.server(&["127.0.0.1"]), Some(&clients));
    let mut daemon = reception.started().await;
    let known = client(&ca, Some(&clients.client("teleport")));
    let tagged = known.post(url(&reception, "/test.log")).header("Content-Type", "application/json").body(r#"{"n":1}"#);
    assert_eq!(tagged.send().await.unwrap().status(), 200);
    let without_key = known.post(url(&reception, "/api/v2/logs")).body(r#"{"n":2}"#).send().await.unwrap();
    assert_eq!(without_key.status(), 401);
    let with_key = known.post(url(&reception, "/api/v2/logs")).header("DD-API-KEY", KEY).body(r#"{"n":3}"#);
    assert_eq!(with_key.send().await.unwrap().status(), 202);
    for stranger in
        [client(&ca, None), client(&ca, Some(&ca.client("stranger"))), client(&ca, Some(&clients.expired_client()))]
    {
        assert!(stranger.get(url(&reception, "/")).send().await.is_err());
    }
    prints(&mut daemon, &[1, 3]).await;
    stop(daemon).await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_used_for_new_connections_and_half_a_pair_is_not() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let reception = reception(&old.server(&["127.0.0.1"]), None);
    let mut daemon = reception.started().await;
    let post = |ca: &Authority| client(ca, None).get(url(&reception, "/")).send();
    assert_eq!(post(&old).await.unwrap().status(), 200);
    let pair = new.server(&["127.0.0.1"]);
    std::fs::write(reception.setup.folder().join("server.crt"), &pair.certificate).unwrap();
    let half = async {
        while !daemon.stderr().contains("cannot be used; auditsync uses the old ones") {
            assert_eq!(post(&old).await.unwrap().status(), 200);
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(180), half).await.expect("it notices");
    pair.write(reception.setup.folder(), "server");
    let whole = async { while post(&new).await.is_err() {} };
    tokio::time::timeout(std::time::Duration::from_secs(180), whole).await.expect("the new pair is used");
    daemon.says("new connections use them").await;
    stop(daemon).await;
}

#[tokio::test]
async fn what_would_show_entries_or_keys_to_others_is_refused_at_the_start() {
    for (name, value, rule) in [
        ("RECEIVER_AUDIT_LISTEN", "0.0.0.0:1", "would take entries and keys in plain HTTP"),
        ("RECEIVER_AUDIT_CLIENT_CA", "/nowhere", "needs RECEIVER_AUDIT_TLS_CERT as well"),
        ("RECEIVER_AUDIT_TLS_KEY", "/nowhere", "needs RECEIVER_AUDIT_TLS_CERT as well"),
        ("RECEIVER_AUDIT_API_KEYS", "short", "fewer than 16 characters"),
        ("RECEIVER_AUDIT_SPOOL_SIZE", "10KiB", "from 1MiB"),
        ("RECEIVER_AUDIT_SPOOL_PATH", "/nowhere/spool", "its parent does not exist"),
        ("RECEIVER_AUDIT_RULES", "/nowhere", "cannot be read"),
    ] {
        let ended = Reception::usual().with(name, value).setup.run(&["check"]).await;
        assert_eq!(ended.code(), Some(78), "{name}: {}", ended.everything());
        assert!(ended.stderr.contains(rule) && ended.stderr.contains(name), "{name}: {}", ended.stderr);
    }
    let open = Reception::usual().with("RECEIVER_AUDIT_LISTEN", "0.0.0.0:1").with("RECEIVER_AUDIT_INSECURE", "true");
    let ended = open.setup.start_without("RECEIVER_AUDIT_API_KEYS", &[]).ended().await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    assert!(ended.stderr.contains("must be a loopback address without RECEIVER_AUDIT_API_KEYS"), "{}", ended.stderr);
}
