//! Tests the HTTP policy of all our clients.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::io::Write as _;
use std::time::Duration;

use auditsync::component::Component;
use auditsync::http::{self, Address, Client, Error, Method, Redaction, Settings};
use auditsync::telemetry::metrics::Metrics;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;
use wiremock::matchers::{any, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

fn client() -> Client {
    client_with(Duration::from_secs(60))
}

fn client_with(timeout: Duration) -> Client {
    Client::new(
        Settings { timeout, timeout_variable: "AUDITSYNC_HTTP_TIMEOUT".into() },
        Metrics::of(&"model:model".into()),
    )
}

async fn call(client: &Client, verb: Method, url: &str, limit: usize) -> Result<http::Reply, Error> {
    let url = Url::parse(url).unwrap();
    let request = client.request(verb, url.clone()).unwrap().header("authorization", "Bearer secret").body("payload");
    client.exchange(Component::Source, request, &Address::of(&url), limit, &Redaction::none()).await
}

async fn server_that_gives(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(response).mount(&server).await;
    server
}

fn gzipped(body: &[u8]) -> ResponseTemplate {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    ResponseTemplate::new(200).insert_header("content-encoding", "gzip").set_body_bytes(encoder.finish().unwrap())
}

#[tokio::test]
async fn no_redirect_is_followed_and_the_error_names_its_target() {
    // Another test may leave a server with a late request in the pool, so this one is not from there.
    let elsewhere = MockServer::builder().start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).mount(&elsewhere).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/stolen", elsewhere.uri());
        let server =
            server_that_gives(ResponseTemplate::new(status).insert_header("location", location.as_str())).await;
        for verb in [Method::GET, Method::POST] {
            let error = call(&client(), verb, &server.uri(), 1000).await.unwrap_err();
            assert!(matches!(&error, Error::Redirected { .. }), "{error}");
            assert!(error.to_string().contains(&location), "{error}");
        }
    }
    assert_eq!(elsewhere.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_body_is_bounded_after_decompression() {
    let bomb = server_that_gives(gzipped(&vec![b' '; 10_000_000])).await;
    let error = call(&client(), Method::GET, &bomb.uri(), 1_000_000).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1_000_000, .. }), "{error}");

    let fitting = server_that_gives(gzipped(&vec![b' '; 1_000_000])).await;
    assert_eq!(call(&client(), Method::GET, &fitting.uri(), 1_000_000).await.unwrap().body.len(), 1_000_000);
}

/// Saves the body of a long answer.
async fn saved(client: &Client, url: &str, limit: u64) -> Result<Vec<u8>, Error> {
    let url = Url::parse(url).unwrap();
    let request = client.request(Method::GET, url.clone()).unwrap();
    let mut body = Vec::new();
    let answer = client.send_for_long(Component::Source, request, &Address::of(&url), &Redaction::none()).await?;
    let length = answer.save(limit, &mut body).await?;
    assert_eq!(length, body.len() as u64);
    Ok(body)
}

#[tokio::test]
async fn a_long_body_is_saved_as_it_arrives_and_bounded_after_decompression() {
    let server = server_that_gives(gzipped(&vec![b' '; 10_000_000])).await;
    assert_eq!(saved(&client(), &server.uri(), 10_000_000).await.unwrap().len(), 10_000_000);
    let error = saved(&client(), &server.uri(), 9_999_999).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 9_999_999, .. }), "{error}");
}

/// A server that sends a body of ten bytes, one in each interval, and then nothing more.
async fn server_that_drips(every: Duration) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(every).await;
            // The client may have gone.
            let _ = stream.write_all(b"x").await;
        }
    });
    uri
}

#[tokio::test]
async fn a_long_body_may_take_its_time_but_no_part_of_it_longer_than_the_time_out() {
    // The whole body takes fifteen seconds.
    let uri = server_that_drips(Duration::from_millis(1500)).await;
    assert_eq!(saved(&client_with(Duration::from_secs(12)), &uri, 100).await.unwrap(), b"xxxxxxxxxx");
    let uri = server_that_drips(Duration::from_secs(30)).await;
    let error = saved(&client_with(Duration::from_millis(200)), &uri, 100).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn every_request_names_the_program_and_its_version() {
    let server = MockServer::start().await;
    let us = concat!("auditsync/", env!("CARGO_PKG_VERSION"));
    Mock::given(method("GET"))
        .and(path("/who"))
        .and(header("user-agent", us))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    assert_eq!(call(&client(), Method::GET, &format!("{}/who", server.uri()), 0).await.unwrap().status, 204);
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_names_the_variable() {
    let server = server_that_gives(ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    let client = client_with(Duration::from_millis(100));
    let error = call(&client, Method::GET, &server.uri(), 1000).await.unwrap_err();
    assert!(error.to_string().contains("HTTP_TIMEOUT"), "{error}");
    assert!(error.may_have_arrived());
}

#[tokio::test]
async fn a_refused_connection_has_certainly_not_arrived() {
    // It keeps the port from others, and never listens.
    let port = tokio::net::TcpSocket::new_v4().unwrap();
    port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let uri = format!("http://{}", port.local_addr().unwrap());
    let error = call(&client(), Method::POST, &uri, 1000).await.unwrap_err();
    assert!(matches!(&error, Error::Unanswered { .. }), "{error}");
    assert!(!error.may_have_arrived());
}

#[tokio::test]
async fn no_error_shows_a_query() {
    let uri = "http://127.0.0.1:9/api?token=page-token";
    let error = call(&client(), Method::GET, uri, 1000).await.unwrap_err();
    let told = auditsync::failure::Chain(&error).to_string();
    assert!(told.contains("127.0.0.1:9/api") && !told.contains("page-token"), "{told}");
}
