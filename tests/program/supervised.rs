//! Tests the program under systemd: the messages, their order, and the heartbeats for the watchdog.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use crate::daemon::Daemon;
use crate::stage::{Stage, stop};
use crate::support::{Fault, PATIENCE};

const FED: &str = "WATCHDOG=1";

/// The end of the socket that systemd would have.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, _folder: folder }
    }

    /// Starts a daemon that must send a heartbeat every 4 s, and so checks every second.
    ///
    /// The socket holds about ten messages, and further ones are lost. So a test may stand still for ten seconds.
    fn start(&self, stage: &Stage) -> Daemon {
        let socket = self.path.to_str().unwrap();
        stage.setup.start_with(&[("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "4000000")], &[])
    }

    /// Every message up to the first that is `wanted`.
    async fn messages_until(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while told.last().is_none_or(|message| !wanted(message)) {
            let mut buffer = [0; 4096];
            let Ok(length) = tokio::time::timeout_at(deadline, self.socket.recv(&mut buffer)).await else {
                panic!("{what} never came, but {told:?}");
            };
            told.push(String::from_utf8(buffer[..length.unwrap()].to_vec()).unwrap().trim_end().to_owned());
        }
        told
    }

    /// Waits for so many heartbeats that the watchdog would have expired several times without them.
    async fn is_fed_on(&self) {
        let mut times = 0;
        self.messages_until("life", |message| {
            times += usize::from(message == FED);
            times == 12
        })
        .await;
    }

    /// The messages that were sent and not read yet.
    fn messages_so_far(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut buffer) {
            told.push(String::from_utf8(buffer[..length].to_vec()).unwrap().trim_end().to_owned());
        }
        told
    }
}

/// A loop that rests for an hour, and waits ten minutes for an answer.
async fn patient() -> Stage {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.with("SECTIGO_AUDIT_SYNC_INTERVAL", "1h").with("SECTIGO_AUDIT_HTTP_TIMEOUT", "10m")
}

#[tokio::test]
async fn readiness_status_heartbeats_and_stop_come_in_this_order() {
    let (stage, supervisor) = (patient().await, Supervisor::new());
    stage.push(25, 1500, 2);
    let daemon = supervisor.start(&stage);
    let told = supervisor.messages_until("the standing", |message| message.starts_with("STATUS=synced up to 2")).await;
    assert_eq!(told[0], "READY=1", "{told:?}");
    let standing = told.last().unwrap();
    assert!(standing.contains("s behind at ") && standing.ends_with("; 25 delivered"), "{standing}");
    supervisor.is_fed_on().await;
    // Read while it ends, because the socket holds little, and the rest is lost.
    let stopping = supervisor.messages_until("the stop", |message| message.starts_with("STOPPING=1"));
    let (_, told) = tokio::join!(stop(daemon), stopping);
    // The shutdown timeout, 25 s by default, and time to end.
    assert_eq!(told.last().unwrap(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_wait_that_the_intake_asks_for_is_no_hang() {
    let (stage, supervisor) = (patient().await, Supervisor::new());
    stage.push(5, 1500, 2);
    stage.intake.answer_always(Some(Fault::StatusWithRetryAfter(429, "900".into())));
    let daemon = supervisor.start(&stage);
    let failed = |message: &str| message.starts_with("STATUS=the destination failed, 1 in a row; retried in 15m");
    supervisor.messages_until("the failure", failed).await;
    supervisor.is_fed_on().await;
    stop(daemon).await;
    assert_eq!(stage.intake.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_no_hang() {
    for held_by_the_source in [true, false] {
        let (stage, supervisor) = (patient().await, Supervisor::new());
        stage.push(5, 1500, 2);
        if held_by_the_source {
            stage.scm.hold();
        } else {
            stage.intake.hold();
        }
        let daemon = supervisor.start(&stage);
        if held_by_the_source {
            stage.scm.wait_for_requests(1).await;
        } else {
            stage.intake.wait_for_requests(1).await;
        }
        supervisor.messages_so_far();
        supervisor.is_fed_on().await;
        stage.scm.release();
        stage.intake.release();
        stop(daemon).await;
    }
}

#[tokio::test]
async fn a_standby_is_ready_says_so_and_counts_as_healthy() {
    let (stage, supervisor) = (patient().await, Supervisor::new());
    let mut first = stage.setup.start(&[]);
    first.says("synced").await;
    let second = supervisor.start(&stage);
    let told = supervisor.messages_until("standby", |message| message.starts_with("STATUS=standby: process ")).await;
    assert_eq!(told[0], "READY=1", "{told:?}");
    supervisor.is_fed_on().await;
    stop(second).await;
    stop(first).await;
}

#[tokio::test]
async fn an_engine_that_is_stuck_is_said_and_feeds_the_watchdog_no_longer() {
    let (stage, supervisor) = (patient().await.with("SECTIGO_AUDIT_SHUTDOWN_TIMEOUT", "0s"), Supervisor::new());
    // A disk that does not answer: opening this file waits for a writer, and there is none.
    let document = stage.setup.folder().join("auditsync-sectigo-datadog.json");
    assert!(Command::new("mkfifo").arg(document).status().await.unwrap().success());
    let mut daemon = supervisor.start(&stage);
    daemon.says("the engine makes no progress; systemd's watchdog gets no heartbeat until it does").await;
    supervisor.messages_so_far();
    // Read while it ends, because the socket holds little, and the rest is lost.
    let stopping = supervisor.messages_until("the stop", |message| message.starts_with("STOPPING=1"));
    let (_, told) = tokio::join!(stop(daemon), stopping);
    assert!(!told.iter().any(|message| message == FED), "{told:?}");
}

#[tokio::test]
async fn a_reload_is_reported_from_its_beginning_to_its_end() {
    let (stage, supervisor) = (patient().await, Supervisor::new());
    let daemon = supervisor.start(&stage);
    supervisor.messages_until("ready", |message| message == "READY=1").await;
    let began = |message: &str| message.starts_with("RELOADING=1\nMONOTONIC_USEC=");
    // Read while the signal is sent, because the socket holds little, and the rest is lost.
    tokio::join!(daemon.signal("HUP"), supervisor.messages_until("the reload", began));
    supervisor.messages_until("its end", |message| message == "READY=1").await;
    stop(daemon).await;
}

#[tokio::test]
async fn why_it_ended_stays_to_be_read() {
    let (stage, supervisor) = (patient().await, Supervisor::new());
    stage.push(1, 1500, 2);
    stage.intake.set_api_key("another");
    let daemon = supervisor.start(&stage);
    let told = supervisor.messages_until("the end", |message| message.starts_with("STOPPING=1")).await;
    let last = told.iter().rfind(|message| message.starts_with("STATUS=")).unwrap();
    assert!(last.starts_with("STATUS=ended with exit code 77: ") && last.contains("DD_API_KEY"), "{last}");
    assert_eq!(daemon.ended().await.code(), Some(77));
}

#[tokio::test]
async fn a_supervisor_that_cannot_be_reached_holds_up_nothing() {
    for (socket, warned) in [("/no/such/socket", false), ("@auditsync-nobody", false), ("vsock:2:1", true), ("", false)]
    {
        let stage = Stage::usual().await.with("NOTIFY_SOCKET", socket).with("WATCHDOG_USEC", "400000");
        stage.push(5, 1500, 2);
        let ended = stage.run_to(0).await;
        assert_eq!(ended.stderr.contains("NOTIFY_SOCKET"), warned, "{socket}: {}", ended.stderr);
        stage.assert_all_once();
    }
}
