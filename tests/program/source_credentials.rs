//! Tests access tokens and client credentials: found, renewed, rejected and rotated.

use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{AdvertiseAuth, Fault, IntakeOptions, ScmOptions};

const SECRET: &str = "SECTIGO_AUDIT_API_CLIENT_SECRET";
const SECRET_FILE: &str = "SECTIGO_AUDIT_API_CLIENT_SECRET_FILE";
const TOKEN_URL: &str = "SECTIGO_AUDIT_API_TOKEN_URL";

/// A stage whose 401 names such a token endpoint.
async fn advertising(advertise_auth: AdvertiseAuth) -> Stage {
    Stage::of(ScmOptions { advertise_auth, ..ten_a_page() }, IntakeOptions::default()).await
}

/// Revokes the access token during a run, which then continues.
async fn run_through_a_revocation(stage: &Stage) {
    stage.push(40, 1500, 2);
    stage.intake.hold();
    let daemon = stage.setup.start(&[]);
    // The program requests two pages ahead. It requests the fourth one only after the first one is delivered.
    stage.wait_for_pages(3).await;
    stage.scm.revoke_tokens();
    stage.intake.release();
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn the_token_endpoint_is_the_one_that_the_api_names() {
    let stage = advertising(AdvertiseAuth::Own).await;
    stage.push(30, 1500, 2);
    stage.run_to(0).await;
    let requests = stage.scm.requests();
    assert_eq!(requests[0].status, Some(401), "it is asked without a token");
    assert!(requests[1..].iter().all(|request| request.status == Some(200)), "{requests:?}");
    assert_eq!(stage.scm.token_requests(), 1);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_web_page_instead_of_the_first_answer_names_no_token_endpoint() {
    // If the run used the usual endpoint instead, this proxy would stop the request.
    let stage = Stage::usual().await.with("HTTPS_PROXY", "http://127.0.0.1:1");
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::NotJson]);
    let ended = stage.run_to(0).await;
    assert!(!ended.stderr.contains("auth.sso.sectigo.com"), "{}", ended.stderr);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_token_endpoint_of_a_stranger_gets_no_secret() {
    let stage = advertising(AdvertiseAuth::Other("https://evil.example/auth/realms/apiclients".into())).await;
    let ended = stage.refused_to_the_end().await;
    assert!(ended.stderr.contains(TOKEN_URL), "{}", ended.stderr);
    assert!(ended.stderr.contains("https://evil.example/auth/realms/apiclients"), "{}", ended.stderr);
    assert_eq!((stage.scm.token_requests(), stage.scm.hits()), (0, 1));
    stage.assert_protocol();
}

#[tokio::test]
async fn with_a_label_a_message_names_the_variable_that_is_set() {
    let labelled = async || {
        let stage = advertising(AdvertiseAuth::None).await.with("AUDITSYNC_PIPELINES", "sectigo.prod:datadog");
        let (url, token_url) = (stage.scm.url(), stage.scm.token_url());
        let stage = stage.without("SECTIGO_AUDIT_API_URL").with("SECTIGO_PROD_AUDIT_API_URL", url);
        let stage = stage.without("SECTIGO_AUDIT_API_CLIENT_ID").with("SECTIGO_PROD_AUDIT_API_CLIENT_ID", "unknown");
        stage.with("SECTIGO_PROD_AUDIT_API_TOKEN_URL", token_url).with("SECTIGO_PROD_AUDIT_RETRY_BUDGET", "0s")
    };
    let ended = labelled().await.run_to(77).await;
    let expected = "check SECTIGO_PROD_AUDIT_API_CLIENT_ID and SECTIGO_AUDIT_API_CLIENT_SECRET";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    let known = async || labelled().await.with("SECTIGO_PROD_AUDIT_API_CLIENT_ID", ScmOptions::default().client_id);
    let stage = known().await;
    stage.scm.answer_tokens_always(Some(Fault::Status(404)));
    let ended = stage.run_to(78).await;
    assert!(ended.stderr.contains("check SECTIGO_PROD_AUDIT_API_TOKEN_URL"), "{}", ended.stderr);
    for (fault, code, expected) in [
        (Fault::Status(404), 78, "check SECTIGO_PROD_AUDIT_API_URL"),
        (Fault::Status(400), 78, "Before the first sync, set a shorter SECTIGO_AUDIT_SYNC_LOOKBACK"),
        (Fault::Status(400), 78, "run `auditsync state set --since <time>`"),
        (Fault::NotJson, 75, "if this persists, check SECTIGO_PROD_AUDIT_API_URL"),
        (Fault::Status(503), 75, "there was no progress within the retry budget"),
    ] {
        let stage = known().await;
        stage.scm.answer_always(Some(fault));
        let ended = stage.run_to(code).await;
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_configured_token_endpoint_needs_no_advertisement() {
    let stage = advertising(AdvertiseAuth::None).await;
    let token_url = stage.scm.token_url();
    let stage = stage.with(TOKEN_URL, token_url);
    stage.push(30, 1500, 2);
    stage.run_to(0).await;
    assert_eq!(stage.authorized().len(), stage.scm.requests().len(), "nothing is asked without a token");
    assert_eq!(stage.scm.token_requests(), 1);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_configured_token_endpoint_is_not_replaced_by_an_advertised_one() {
    let stage = advertising(AdvertiseAuth::Other("https://evil.example/token".into())).await;
    let token_url = stage.scm.token_url();
    let stage = stage.with(TOKEN_URL, token_url);
    run_through_a_revocation(&stage).await;
    assert_eq!(stage.scm.token_requests(), 2);
}

#[tokio::test]
async fn a_wrong_token_endpoint_is_reported_at_first_contact() {
    let stage = advertising(AdvertiseAuth::None).await;
    let token_url = stage.scm.token_url();
    let stage = stage.with(TOKEN_URL, token_url);
    stage.scm.answer_tokens_always(Some(Fault::Status(404)));
    let ended = stage.refused_to_the_end().await;
    assert!(ended.stderr.contains(TOKEN_URL), "{}", ended.stderr);
    assert_eq!(stage.scm.token_requests(), 1);
    stage.assert_protocol();
}

#[tokio::test]
async fn a_revoked_token_is_renewed_once_and_the_page_asked_for_again() {
    let stage = Stage::usual().await;
    run_through_a_revocation(&stage).await;
    assert_eq!(stage.scm.token_requests(), 2);
    let requests = stage.scm.requests();
    let refused: Vec<_> = (0..requests.len()).filter(|&i| requests[i].status == Some(401)).collect();
    assert_eq!(refused, [0, 4], "the question who issues tokens, and the fourth page");
    assert_eq!(requests[4].token, requests[5].token);
}

#[tokio::test]
async fn a_new_token_that_is_refused_too_is_a_refusal_at_first_contact() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.scm.answer_always(Some(Fault::Status(401)));
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_CLIENT_ID"), "{}", ended.stderr);
    assert_eq!(stage.scm.token_requests(), 2, "renewed once");
    stage.assert_protocol();
}

#[tokio::test]
async fn a_token_that_ran_out_meanwhile_is_renewed_before_it_is_refused() {
    // The program renews this token six seconds before its end, so a request that takes seconds does not meet a 401.
    let options = ScmOptions { token_lifetime: std::time::Duration::from_secs(30), ..ten_a_page() };
    let stage = Stage::of(options, IntakeOptions::default()).await.with("SECTIGO_AUDIT_RETRY_BUDGET", "5m");
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::StatusWithRetryAfter(503, "30".into())]);
    stage.run_to(0).await;
    let refused = stage.scm.requests().iter().filter(|request| request.status == Some(401)).count();
    assert_eq!(refused, 1, "the question who issues tokens alone");
    assert!(stage.scm.token_requests() >= 2);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_token_endpoint_that_is_away_during_a_renewal_is_waited_for() {
    let stage = Stage::usual().await;
    stage.scm.script_token(Fault::PASS);
    stage.scm.script_token(Fault::Status(503));
    run_through_a_revocation(&stage).await;
    assert_eq!(stage.scm.token_requests(), 3);
}

#[tokio::test]
async fn client_credentials_refused_at_first_contact_name_their_variables() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.scm.set_client_secret("another one");
    let ended = stage.run_to(77).await;
    for name in [SECRET, "SECTIGO_AUDIT_API_CLIENT_ID", &stage.scm.token_url()] {
        assert!(ended.stderr.contains(name), "{name} is named: {}", ended.stderr);
    }
    assert_eq!(stage.scm.token_requests(), 1);
    stage.assert_protocol();
}

#[tokio::test]
async fn a_proxy_that_answers_for_the_token_endpoint_rejects_no_credentials() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(20, 1500, 2);
    for status in [400, 403] {
        stage.scm.script_token(Fault::Typed(status, Some("text/html"), "<html><h1>Bad Request</h1></html>"));
    }
    let daemon = stage.setup.start(&[]);
    stage.intake.wait_for_ids(20).await;
    let ended = stop(daemon).await;
    assert!(ended.stderr.contains("Bad Request") && ended.stderr.contains(TOKEN_URL), "{}", ended.stderr);
    assert_eq!(stage.scm.token_requests(), 3);
    stage.assert_all_once();
}

#[tokio::test]
async fn a_refused_secret_from_a_file_names_the_files_variable() {
    let stage = Stage::usual().await.without(SECRET).with(SECRET_FILE, "secret");
    std::fs::write(stage.setup.folder().join("secret"), "not it\n").unwrap();
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains(SECRET_FILE), "{}", ended.stderr);
    stage.assert_protocol();
}

#[tokio::test]
async fn a_forbidden_range_at_first_contact_names_the_client() {
    let stage = Stage::usual().await;
    stage.source_meets([Fault::PASS, Fault::Status(403)]);
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_CLIENT_ID"), "{}", ended.stderr);
    stage.assert_protocol();
}

#[tokio::test]
async fn a_rotated_secret_is_taken_up_from_its_file_after_an_alarm() {
    let stage =
        Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true").without(SECRET).with(SECRET_FILE, "secret");
    let file = stage.setup.folder().join("secret");
    std::fs::write(&file, ScmOptions::default().client_secret).unwrap();
    stage.push(40, 1500, 2);
    stage.intake.hold();
    let mut daemon = stage.setup.start(&[]);
    stage.wait_for_pages(3).await;
    stage.scm.set_client_secret("the next one");
    stage.scm.revoke_tokens();
    stage.intake.release();
    daemon.says("the source needs attention").await;
    assert!(daemon.stderr().contains(SECRET_FILE), "{}", daemon.stderr());
    // The third page was read before; the fourth needs the secret.
    stage.intake.wait_for_ids(30).await;
    std::fs::write(&file, "the next one\n").unwrap();
    stage.intake.wait_for_ids(40).await;
    stop(daemon).await;
    let with_records = stage.authorized().into_iter().filter(|request| request.records > 0);
    let continued: Vec<_> = with_records.map(|request| request.token.is_some()).take(4).collect();
    assert_eq!(continued, [false, true, true, true], "the range goes on from its fourth page");
    stage.assert_all_once();
}

#[tokio::test]
async fn credentials_refused_later_end_a_one_shot_with_77_and_the_next_run_goes_on() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::PASS]);
    // The program requests the second page ahead, and requests it again if the failure is a second old by its turn.
    stage.scm.answer_always(Some(Fault::Status(403)));
    let ended = stage.run_to(77).await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_CLIENT_ID"), "{}", ended.stderr);
    assert_eq!(stage.intake.count(), 10);
    stage.scm.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}
