//! Both fakes, the binary's setup between them, and the records put into the source.

use std::cell::RefCell;
use std::time::Duration;

use jiff::Timestamp;

use crate::daemon::{Daemon, Ended, Setup};
use crate::support::{ApiRequest, FakeIntake, FakeScm, Fault, IntakeOptions, Record, Records, ScmOptions};

/// How long the program waits for an answer that meets this fault: short if none comes, otherwise long.
pub fn timeout_for(fault: &Fault) -> &'static str {
    if matches!(fault, Fault::Hang) { "20s" } else { "60s" }
}

/// The stage of a test.
pub struct Stage {
    pub scm: FakeScm,
    pub intake: FakeIntake,
    pub setup: Setup,
    pushed: RefCell<Vec<String>>,
}

impl Stage {
    /// Pages of ten records, and no trouble.
    pub async fn usual() -> Self {
        Self::of(ten_a_page(), IntakeOptions::default()).await
    }

    /// Fakes of these kinds. The first sync goes back half an hour, which is one range in the default window.
    pub async fn of(scm: ScmOptions, intake: IntakeOptions) -> Self {
        let (scm, intake) = (FakeScm::start(scm).await, FakeIntake::start(intake).await);
        let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_SYNC_LOOKBACK", "30m");
        Self { scm, intake, setup, pushed: RefCell::default() }
    }

    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.setup = self.setup.without(name);
        self
    }

    /// Puts this many records into the source, spread over the time from `oldest` to `newest` seconds ago.
    pub fn push(&self, n: usize, oldest: u64, newest: u64) {
        self.push_all(self.records(n, oldest, newest));
    }

    /// Such records, with ids of their own, but not in the source yet.
    pub fn records(&self, n: usize, oldest: u64, newest: u64) -> Vec<Record> {
        let seed = self.pushed.borrow().len() as u64;
        Records::seeded(seed).between(ago(oldest), ago(newest), n)
    }

    /// Puts these records into the source.
    pub fn push_all(&self, records: Vec<Record>) {
        self.pushed.borrow_mut().extend(records.iter().map(|record| record.id.clone()));
        self.scm.push(records);
    }

    /// How many records were put into the source.
    pub fn pushed(&self) -> usize {
        self.pushed.borrow().len()
    }

    /// Sets the faults that the next requests for records meet, one after the other.
    pub fn source_meets(&self, faults: impl IntoIterator<Item = Fault>) {
        faults.into_iter().for_each(|fault| self.scm.script(fault));
    }

    /// Sets the faults that the next requests to the intake meet, one after the other.
    pub fn intake_meets(&self, faults: impl IntoIterator<Item = Fault>) {
        faults.into_iter().for_each(|fault| self.intake.script(fault));
    }

    /// Waits until this many pages of records were read.
    pub async fn wait_for_pages(&self, n: usize) {
        let read = |request: &&ApiRequest| request.status == Some(200);
        self.scm.wait_until("pages to be read", |requests| requests.iter().filter(read).count() >= n).await;
    }

    /// Puts the cursor at this time, so that the first range begins there however late the binary starts.
    pub async fn begins_at(&self, since: Timestamp) {
        let ended = self.setup.run(&["state", "set", "--since", &since.to_string(), "--yes"]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    }

    /// Runs the binary to its end, and expects this exit code.
    pub async fn run_to(&self, code: i32) -> Ended {
        let ended = self.setup.run(&[]).await;
        assert_eq!(ended.code(), Some(code), "{}", ended.stderr);
        ended
    }

    /// Runs the binary once without any retries. It meets only refusals, so it must end with 78.
    pub async fn refused_to_the_end(&self) -> Ended {
        let ended = self.setup.start_with(&[("SECTIGO_AUDIT_RETRY_BUDGET", "0s")], &[]).ended().await;
        assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
        ended
    }

    /// The time up to which everything is delivered, as the state has it.
    pub fn since(&self) -> Timestamp {
        let state = self.setup.state().expect("there is a state");
        let since = state["cursor"]["since"].as_str().expect("a cursor has a time");
        since.parse().expect("it is RFC 3339")
    }

    /// The requests for records that came with a good access token.
    pub fn authorized(&self) -> Vec<ApiRequest> {
        self.scm.requests().into_iter().filter(|request| request.authorized).collect()
    }

    /// Those of them that open a range.
    pub fn openings(&self) -> Vec<ApiRequest> {
        self.authorized().into_iter().filter(|request| request.from.is_some()).collect()
    }

    /// Checks that every record has arrived once, and nothing else.
    pub fn assert_all_once(&self) {
        self.assert_none_lost();
        let twice: Vec<_> = self.intake.ids().into_iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "these came more than once: {twice:?}");
        assert_eq!(self.intake.count(), self.pushed(), "entries with an unknown id came");
    }

    /// Checks that every record has arrived, and that both fakes saw the documented protocol.
    pub fn assert_none_lost(&self) {
        let ids = self.intake.ids();
        let pushed = self.pushed.borrow();
        let lost: Vec<_> = pushed.iter().filter(|id| !ids.contains_key(*id)).collect();
        assert!(lost.is_empty(), "{} of {} never came: {lost:?}", lost.len(), pushed.len());
        self.assert_protocol();
    }

    /// Checks that both fakes saw the documented protocol.
    pub fn assert_protocol(&self) {
        assert_eq!(self.scm.violations(), [""; 0]);
        assert_eq!(self.intake.violations(), [""; 0]);
    }
}

/// A source with pages of ten records.
pub fn ten_a_page() -> ScmOptions {
    ScmOptions { page_size: 10, ..ScmOptions::default() }
}

/// This many seconds before now.
pub fn ago(seconds: u64) -> Timestamp {
    Timestamp::now() - Duration::from_secs(seconds)
}

/// Records of the last 50 minutes, the newest one old enough to lie before a whole second that has passed.
pub fn recent(seed: u64, count: usize) -> Vec<Record> {
    since(seed, 3000, count)
}

/// Such records of the last `seconds` seconds.
pub fn since(seed: u64, seconds: u64, count: usize) -> Vec<Record> {
    Records::seeded(seed).between(ago(seconds), ago(2), count)
}

pub fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Stops a daemon, which must end with success.
pub async fn stop(daemon: Daemon) -> Ended {
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    ended
}
