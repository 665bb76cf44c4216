//! A fake `DigiCert` `CertCentral`: the runs of reports (Report Library API), their history and their files.
//!
//! A run takes a snapshot of the rows at its start. It becomes ready after a number of requests for the history, not
//! after some time, so no test depends on a clock.

mod endpoint;

use std::collections::VecDeque;
use std::io::{Cursor, Write as _};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use zip::write::SimpleFileOptions;

use super::fault::{Fault, FaultPlan};
use super::server::Server;
use super::watched::Watched;

/// The report that tests read.
pub const REPORT: &str = "8f1b6d8e-0c5e-4d0a-9a57-2f3c6f1f7a10";

/// How the fake behaves.
#[derive(Clone, Debug)]
pub struct CertCentralOptions {
    /// The valid key.
    pub api_key: String,
    /// The form of a run's file.
    pub form: Form,
    /// A run is ready after this many requests for the history since its start.
    pub looks: usize,
    /// The type that the history shows for the report.
    pub report_type: &'static str,
    /// The history has no end: each page is full of other reports' runs.
    pub endless_history: bool,
}

impl Default for CertCentralOptions {
    fn default() -> Self {
        Self {
            api_key: "CertCentral-Key_0123456789".into(),
            form: Form::Json,
            looks: 1,
            report_type: "audit-logs",
            endless_history: false,
        }
    }
}

/// The form of a run's rows.
#[derive(Clone, Debug)]
pub enum Form {
    /// An array.
    Json,
    /// A ZIP file that holds one.
    Zip,
    /// ZIP files of at most this many rows.
    Splits(usize),
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is ready in time.
    Ready,
    /// It fails.
    Failed,
    /// It is never ready.
    Never,
    /// It is ready, and holds this instead of an array of rows.
    Holds(Bytes),
    /// It is ready, but a download no longer finds it.
    Vanished,
    /// It is ready, and each download gets this status.
    Refuses(u16),
}

/// A run in the history.
#[derive(Clone, Debug)]
pub struct FakeRun {
    pub id: String,
    pub report: String,
    pub report_type: &'static str,
    pub began: Timestamp,
    pub outcome: Outcome,
    /// The number of requests for the history until it is over.
    pub looks: usize,
    pub rows: Vec<String>,
}

impl FakeRun {
    /// Returns a finished run of the report with these rows.
    pub fn ready(id: &str, began: Timestamp, rows: &[String]) -> Self {
        let (id, report) = (id.to_owned(), REPORT.to_owned());
        Self { id, report, report_type: "audit-logs", began, outcome: Outcome::Ready, looks: 0, rows: rows.to_vec() }
    }

    fn status(&self) -> &'static str {
        match self.outcome {
            _ if self.looks > 0 => "GENERATING",
            Outcome::Failed => "FAILED",
            Outcome::Never => "GENERATING",
            _ => "READY",
        }
    }
}

/// The target of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    History,
    Start,
    /// A file of this run.
    Download(String, Option<usize>),
}

/// A running fake. Ends when it is dropped.
pub struct FakeCertCentral {
    server: Server,
    shared: Arc<Shared>,
}

struct Shared {
    options: CertCentralOptions,
    state: Watched<CertCentralState>,
}

struct CertCentralState {
    api_key: String,
    form: Form,
    rows: Vec<String>,
    runs: Vec<FakeRun>,
    outcomes: VecDeque<Outcome>,
    history_faults: FaultPlan,
    start_faults: FaultPlan,
    download_faults: FaultPlan,
    requests: Vec<(Called, SystemTime)>,
    arrivals: Vec<Instant>,
    violations: Vec<String>,
}

impl FakeCertCentral {
    pub async fn start(options: CertCentralOptions) -> Self {
        let state = CertCentralState {
            api_key: options.api_key.clone(),
            form: options.form.clone(),
            rows: Vec::new(),
            runs: Vec::new(),
            outcomes: VecDeque::new(),
            history_faults: FaultPlan::default(),
            start_faults: FaultPlan::default(),
            download_faults: FaultPlan::default(),
            requests: Vec::new(),
            arrivals: Vec::new(),
            violations: Vec::new(),
        };
        let shared = Arc::new(Shared { options, state: Watched::new(state) });
        let server = Server::start(false, |_| endpoint::routes(&shared)).await;
        Self { server, shared }
    }

    /// The base URL of the report API, with its path.
    pub fn url(&self) -> String {
        format!("{}/reports/v1", self.server.url())
    }

    /// Adds rows after the others; runs that start later show them.
    pub fn push(&self, rows: impl IntoIterator<Item = String>) {
        self.update(|state| state.rows.extend(rows));
    }

    /// Replaces the rows; runs that start later show these.
    pub fn set_rows(&self, rows: Vec<String>) {
        self.update(|state| state.rows = rows);
    }

    /// The rows that runs show.
    pub fn rows(&self) -> Vec<String> {
        self.shared.state.read().rows.clone()
    }

    /// Sets the outcomes of the next runs, in order; later runs are ready.
    pub fn next_runs(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.update(|state| state.outcomes.extend(outcomes));
    }

    /// Adds a run that another user started.
    pub fn add_run(&self, run: FakeRun) {
        self.update(|state| state.runs.push(run));
    }

    /// Changes an existing run.
    pub fn change_run(&self, at: usize, change: impl FnOnce(&mut FakeRun)) {
        self.update(|state| change(&mut state.runs[at]));
    }

    /// All runs, in the order in which they came.
    pub fn runs(&self) -> Vec<FakeRun> {
        self.shared.state.read().runs.clone()
    }

    pub fn set_api_key(&self, key: &str) {
        self.update(|state| key.clone_into(&mut state.api_key));
    }

    pub fn set_form(&self, form: Form) {
        self.update(|state| state.form = form);
    }

    /// The next requests for the history meet these faults, one each.
    pub fn history_meets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.update(|state| faults.into_iter().for_each(|fault| state.history_faults.script(fault)));
    }

    /// The next requests for a run meet these faults.
    pub fn starts_meet(&self, faults: impl IntoIterator<Item = Fault>) {
        self.update(|state| faults.into_iter().for_each(|fault| state.start_faults.script(fault)));
    }

    /// The next requests for a file meet these faults.
    pub fn downloads_meet(&self, faults: impl IntoIterator<Item = Fault>) {
        self.update(|state| faults.into_iter().for_each(|fault| state.download_faults.script(fault)));
    }

    /// Every request for the history meets this fault, until `None` ends it.
    pub fn answer_history_always(&self, fault: Option<Fault>) {
        self.update(|state| state.history_faults.always(fault));
    }

    /// The requests so far, in order, and their times.
    pub fn requests(&self) -> Vec<(Called, SystemTime)> {
        self.shared.state.read().requests.clone()
    }

    /// The number of runs that requests started.
    pub fn starts(&self) -> usize {
        self.requests().iter().filter(|(called, _)| *called == Called::Start).count()
    }

    /// Waits until the requests so far meet a condition, described by `what`.
    pub async fn wait_until(&self, what: &str, mut met: impl FnMut(&[(Called, SystemTime)]) -> bool) {
        self.shared.state.expect(what, |state| met(&state.requests)).await;
    }

    /// Every breach of the documented protocol so far.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state.read().violations.clone()
    }

    pub fn hits(&self) -> usize {
        self.server.hits()
    }

    fn update<R>(&self, change: impl FnOnce(&mut CertCentralState) -> R) -> R {
        self.shared.state.update(change)
    }
}

/// Returns a row of that time, which `n` distinguishes from others. It is as awkward as real rows are.
pub fn report_row(time: Timestamp, n: usize) -> String {
    let time = time.strftime("%d-%b-%Y %H:%M:%S");
    let result = if n % 7 == 3 { "Failure" } else { "Success" };
    format!(
        "{{\"Date and time (UTC)\":\"{time}\",\"Action\":\"Revoke certificate\",\"Action taken via\":\"API\",\"Activity\":\"Order {n}\\nfür \
         \\\"Zoë 李\\\"\",\"Message\":\"row {n}\",\"Result\":\"{result}\",\"IP address\":\"192.0.2.{}\",\"IP country\":\"\",\"User ID\":\"{}\",\
         \"User name\":\"Zo\\u00eb\",\"Account ID\":\"1\",\"Division ID\":\"2\",\"Container ID\":\"3\"}}",
        n % 250,
        n % 10
    )
}

/// The rows as an array.
pub fn array(rows: &[String]) -> Vec<u8> {
    format!("[{}]", rows.join(",\n")).into_bytes()
}

/// A ZIP file that holds `content` under `name`.
pub fn zipped(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    archive.start_file(name, SimpleFileOptions::default()).expect("a name");
    archive.write_all(content).expect("a Vec takes everything");
    archive.finish().expect("a Vec takes everything").into_inner()
}
