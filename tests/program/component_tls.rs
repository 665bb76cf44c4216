//! Tests the TLS files of a source and of a destination: each has its own.

use crate::stage::Stage;
use crate::support::{Authority, TlsFront};

#[tokio::test]
async fn a_source_and_a_destination_use_their_own_authority_and_client_certificate() {
    let (ca, other) = (Authority::new("CA"), Authority::new("other"));
    let stage = Stage::usual().await;
    let api = TlsFront::of(&stage.scm.url(), &ca.server(&["127.0.0.1"]), &[ca.pem()]).await;
    let intake = TlsFront::of(&stage.intake.url(), &other.server(&["127.0.0.1"]), &[]).await;
    let file = |name: &str| stage.setup.folder().join(name).to_str().unwrap().to_owned();
    let (source_ca, intake_ca) = (file("source-ca.crt"), file("intake-ca.crt"));
    std::fs::write(&source_ca, ca.pem()).unwrap();
    std::fs::write(&intake_ca, other.pem()).unwrap();
    ca.client("auditsync").write(stage.setup.folder(), "client");
    let (certificate, key) = (file("client.crt"), file("client.key"));
    let token_url = stage.scm.token_url().replace(&stage.scm.url(), &api.url());
    let stage = stage
        .with("SECTIGO_AUDIT_API_URL", api.url())
        .with("SECTIGO_AUDIT_API_TOKEN_URL", token_url)
        .with("SECTIGO_AUDIT_TLS_CA", source_ca)
        .with("SECTIGO_AUDIT_TLS_CERT", certificate)
        .with("SECTIGO_AUDIT_TLS_KEY", key)
        .with("DD_LOGS_CONFIG_LOGS_DD_URL", intake.url())
        .with("DD_TLS_CA", intake_ca);
    stage.push(30, 1500, 2);
    stage.run_to(0).await;
    stage.assert_all_once();

    std::fs::create_dir(stage.setup.folder().join("another")).unwrap();
    for name in ["SECTIGO_AUDIT_TLS_CA", "DD_TLS_CA"] {
        // A state of its own, so that there is something to read and to deliver.
        let more = [("SECTIGO_AUDIT_RETRY_BUDGET", "0s"), ("AUDITSYNC_LOCAL_STORAGE_PATH", "another")];
        let ended = stage.setup.start_without(name, &more).ended().await;
        assert!(ended.code() == Some(75) && ended.stderr.contains("UnknownIssuer"), "{name}: {}", ended.stderr);
    }
    let more = [("SECTIGO_AUDIT_TLS_KEY", "missing.key"), ("DD_TLS_CA", "/etc/hostname")];
    let ended = stage.setup.start_with(&more, &["check"]).ended().await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    for mistake in ["SECTIGO_AUDIT_TLS_KEY=\"missing.key\"", "DD_TLS_CA=\"/etc/hostname\""] {
        assert!(ended.everything().contains(mistake), "{mistake}: {}", ended.everything());
    }
}
