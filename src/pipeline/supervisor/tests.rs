//! A pipeline that starts again in the same process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::net::TcpSocket;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::*;
use crate::config::Environment;
use crate::pipeline::{Config, Purpose, wanted};

/// An intake that refuses every key until `takes_keys` is set, and keeps the bodies that it accepts.
#[derive(Clone, Default)]
struct Intake {
    takes_keys: Arc<AtomicBool>,
    taken: Arc<Mutex<String>>,
}

impl Respond for Intake {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        if !self.takes_keys.load(Ordering::SeqCst) {
            return ResponseTemplate::new(403);
        }
        self.taken.lock().push_str(&String::from_utf8_lossy(&request.body));
        ResponseTemplate::new(202)
    }
}

/// A free address, and a socket that never listens. The socket keeps the port from everyone but a server that sets `SO_REUSEADDR`.
fn kept_address() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// The pipelines `names`. The receiver without a label listens at the first address, and sends to Datadog at the address `intake`.
fn pipelines(names: &str, [listen, other]: [SocketAddr; 2], folder: &Path, intake: &str) -> Vec<Supervised> {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let pairs = [
        ("AUDITSYNC_PIPELINES", names.to_owned()),
        ("RECEIVER_AUDIT_LISTEN", listen.to_string()),
        ("RECEIVER_AUDIT_SPOOL_PATH", path("spool")),
        ("RECEIVER_OTHER_AUDIT_LISTEN", other.to_string()),
        ("RECEIVER_OTHER_AUDIT_SPOOL_PATH", path("other")),
        ("DD_LOGS_CONFIG_LOGS_DD_URL", intake.to_owned()),
        ("DD_LOGS_CONFIG_COMPRESSION_KIND", "none".to_owned()),
        ("DD_API_KEY", "0123456789abcdef0123456789abcdef".to_owned()),
        ("DD_HOSTNAME", "test-host".to_owned()),
    ];
    let environment = Environment::from_pairs(pairs.map(|(name, value)| (name.into(), value.into())).to_vec());
    let config = Config::read(&environment, &wanted(&environment).unwrap(), Purpose::Run).unwrap();
    let supervised = |pipeline: Pipeline| Supervised { liveness: Liveness::new(pipeline.pace()), pipeline };
    config.pipelines.into_iter().map(supervised).collect()
}

async fn push(listen: SocketAddr, message: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = format!(r#"[{{"message":"{message}"}}]"#);
    let answer = client.post(format!("http://{listen}/api/v2/logs")).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 202, "{message}");
}

async fn until(what: &str, met: impl Fn() -> bool) {
    let met = async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), met).await.is_ok(), "{what}");
}

/// A receiver whose destination refuses the key at first contact, and later takes it.
async fn a_refusal_at_first_contact_closes_no_door(names: &str) {
    let (folder, server, intake) = (tempfile::tempdir().unwrap(), MockServer::start().await, Intake::default());
    Mock::given(any()).respond_with(intake.clone()).mount(&server).await;
    let ((listen, _port), (other, _other_port)) = (kept_address(), kept_address());
    let shutdown = Shutdown::default();
    let pipelines = pipelines(names, [listen, other], folder.path(), &server.uri());
    let liveness = pipelines[0].liveness.clone();
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { run(pipelines, &shutdown).await }
    });
    until("it listens", || std::net::TcpStream::connect(listen).is_ok()).await;
    push(listen, "before").await;
    until("the pipeline fails", || liveness.readiness().reason.contains("starts again within")).await;
    push(listen, "meanwhile").await;
    intake.takes_keys.store(true, Ordering::SeqCst);
    assert_eq!(*intake.taken.lock(), "");
    tokio::time::pause();
    tokio::time::advance(RESTART).await;
    tokio::time::resume();
    until("both arrive", || intake.taken.lock().contains("meanwhile")).await;
    push(listen, "after").await;
    until("the third arrives", || intake.taken.lock().contains("after")).await;
    shutdown.request();
    for (name, ended) in running.await.unwrap() {
        assert!(matches!(ended, Ended::Run(Ok(Outcome::Stopped))), "{name}: {ended:?}");
    }
    let taken = intake.taken.lock();
    for message in ["before", "meanwhile", "after"] {
        assert_eq!(taken.matches(message).count(), 1, "{message} in {taken}");
    }
}

#[tokio::test]
async fn a_receiver_whose_pipeline_failed_takes_entries_on_and_delivers_all_when_it_starts_again() {
    a_refusal_at_first_contact_closes_no_door("receiver:datadog,receiver.other:stdout").await;
}

#[tokio::test]
async fn a_receiver_alone_takes_entries_on_as_well() {
    a_refusal_at_first_contact_closes_no_door("receiver:datadog").await;
}

#[tokio::test]
async fn a_receiver_alone_that_cannot_open_its_door_ends() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let pipelines = pipelines("receiver:stdout", [address; 2], folder.path(), "http://127.0.0.1:1");
    let ended = run(pipelines, &Shutdown::default()).await.remove(0).1;
    assert!(matches!(ended, Ended::Run(Err(Error::Unopened(_)))), "{ended:?}");
}

/// How long the wait for a sender lasts that never ends its request.
async fn wait_for_a_silent_sender(shutdown: &Shutdown) -> Duration {
    let (tasks, begun) = (TaskTracker::new(), tokio::time::Instant::now());
    tasks.spawn(std::future::pending::<()>());
    finish(&tasks, shutdown).await;
    Duration::from_secs(begun.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_silent_sender_holds_up_the_end_for_ten_seconds_and_with_a_second_request_not_at_all() {
    let shutdown = Shutdown::default();
    assert_eq!(wait_for_a_silent_sender(&shutdown).await, LAST_TASKS);
    shutdown.request();
    assert_eq!(wait_for_a_silent_sender(&shutdown).await, LAST_TASKS);
    shutdown.request();
    assert_eq!(wait_for_a_silent_sender(&shutdown).await, Duration::ZERO);
}
