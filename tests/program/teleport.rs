//! Tests Teleport's audit log: every event arrives once, whatever the server does.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Ended, Setup};
use crate::stage::ago;
use crate::support::{AuditEvent, FakeAuth, TeleportOptions};

pub const DAY: Duration = Duration::from_hours(24);

/// The fake, and the binary's setup before standard output.
pub struct Cluster {
    pub auth: FakeAuth,
    pub setup: Setup,
}

impl Cluster {
    pub async fn usual() -> Self {
        Self::of(TeleportOptions::default()).await
    }

    /// The first sync goes back an hour; there is no delay.
    pub async fn of(options: TeleportOptions) -> Self {
        let auth = FakeAuth::start(options).await;
        let setup = Setup::bare();
        let identity = setup.folder().join("identity");
        auth.write_identity(&identity, "auditsync", 2 * DAY);
        let setup = setup
            .with("AUDITSYNC_PIPELINES", "teleport:stdout")
            .with("TELEPORT_AUDIT_ADDRESS", auth.address().to_string())
            .with("TELEPORT_AUDIT_IDENTITY", identity.to_str().unwrap())
            .with("TELEPORT_AUDIT_SYNC_DELAY", "0s")
            .with("TELEPORT_AUDIT_SYNC_INTERVAL", "5s")
            .with("AUDITSYNC_RETRY_BUDGET", "30s")
            .with("AUDITSYNC_LOG_LEVEL", "debug");
        Self { auth, setup }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.setup = self.setup.without(name);
        self
    }

    pub fn identity_file(&self) -> PathBuf {
        self.setup.folder().join("identity")
    }

    /// Runs once, and expects this exit code.
    pub async fn run_to(&self, code: i32) -> Ended {
        let ended = self.setup.run_to(code).await;
        assert_eq!(self.auth.violations(), [""; 0]);
        ended
    }

    /// Runs once with success, and returns the printed records.
    pub async fn printed(&self) -> Vec<Value> {
        lines(&self.run_to(0).await.stdout)
    }

    /// Runs once, and returns the ids of the printed records.
    pub async fn printed_ids(&self) -> Vec<String> {
        ids(&self.printed().await)
    }

    pub fn state(&self) -> Value {
        let bytes = std::fs::read(self.state_file()).expect("there is a state");
        serde_json::from_slice(&bytes).expect("it is JSON")
    }

    pub fn state_file(&self) -> PathBuf {
        self.setup.folder().join("auditsync-teleport-stdout.json")
    }

    /// Changes the cursor in the state, as time would.
    pub fn change_cursor(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        change(&mut state["cursor"]);
        std::fs::write(self.state_file(), state.to_string()).expect("it can be written");
    }

    pub fn dead_letters(&self) -> Vec<Value> {
        let path = self.setup.folder().join("auditsync-teleport-stdout.dead-letters.ndjson");
        lines(&std::fs::read_to_string(path).unwrap_or_default())
    }
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

pub fn ids(records: &[Value]) -> Vec<String> {
    records.iter().map(|record| record["uid"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn each_event_is_delivered_once_with_the_content_that_the_server_has() {
    for dated in [false, true] {
        let cluster = Cluster::of(TeleportOptions { dated, ..TeleportOptions::default() }).await;
        cluster.auth.push(AuditEvent::logins(0, 450, ago(600)));
        assert_eq!(cluster.printed().await, cluster.auth.log());
        assert_eq!(cluster.printed().await, [Value::Null; 0], "the overlap is read again, and nothing of it is news");
        cluster.auth.push(AuditEvent::logins(450, 460, ago(2)));
        assert_eq!(cluster.printed().await, cluster.auth.log()[450..]);
        assert_eq!(cluster.auth.connections(), 3, "one for each run");
    }
}
