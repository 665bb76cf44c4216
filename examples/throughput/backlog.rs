//! A backlog at the fake certificate manager, and the intake that receives it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::intake::{Intake, LOGS, decompress};
use crate::support::{FakeScm, IntakeOptions, Record, Records, ScmOptions};
use crate::{Failure, floor};

/// The average bytes of a record.
pub const RECORD_SIZE: usize = 500;

/// The number of records on a page.
pub const PAGE_SIZE: usize = 1000;

/// The records that a busy account writes in an hour. A larger backlog covers more hours.
const EVENTS_PER_HOUR: usize = 100_000;

/// The distance of the records from the lookback and from the delay, in case the program starts a little later.
const MARGIN: Duration = Duration::from_secs(60);

/// The records that wait at the source, and the servers at both ends.
pub struct Backlog {
    scm: FakeScm,
    intake: Intake,
    events: usize,
    lookback: Duration,
    start: Timestamp,
    end: Timestamp,
}

impl Backlog {
    pub async fn start(events: usize) -> Result<Self, Failure> {
        let lookback = Duration::from_secs(3600 * events.div_ceil(EVENTS_PER_HOUR) as u64);
        let now = Timestamp::now();
        let backlog = Self {
            scm: FakeScm::start(ScmOptions { page_size: PAGE_SIZE, ..ScmOptions::default() }).await,
            intake: Intake::start().await?,
            events,
            lookback,
            start: now - lookback + MARGIN,
            end: now - MARGIN,
        };
        backlog.scm.push(backlog.records());
        Ok(backlog)
    }

    /// Makes the records of this backlog, the same each time.
    fn records(&self) -> Vec<Record> {
        Records::seeded(1).size(RECORD_SIZE).between(self.start, self.end, self.events)
    }

    /// Returns the command that drains this backlog with the program. Each variable that is not set here has its default.
    pub fn program(&self, binary: &Path, state: &Path) -> Command {
        let client = ScmOptions::default();
        let mut command = Command::new(binary);
        command.args(["run", "--once"]).current_dir(state).env_clear().envs([
            ("SECTIGO_AUDIT_API_URL", self.scm.url()),
            ("SECTIGO_AUDIT_API_CLIENT_ID", client.client_id),
            ("SECTIGO_AUDIT_API_CLIENT_SECRET", client.client_secret),
            ("SECTIGO_AUDIT_SYNC_LOOKBACK", format!("{}s", self.lookback.as_secs())),
            ("DD_LOGS_CONFIG_LOGS_DD_URL", self.intake.url.clone()),
            ("DD_API_KEY", IntakeOptions::default().api_key),
            ("DD_HOSTNAME", "audit-host-01".to_owned()),
            ("DD_TAGS", "env:prod,team:pki".to_owned()),
            ("AUDITSYNC_LOG_LEVEL", "error".to_owned()),
        ]);
        command
    }

    /// Returns the command that drains this backlog with the floor, which posts the file `entries` for each page.
    pub fn floor(&self, entries: &Path) -> Result<Command, Failure> {
        let urls = [self.scm.token_url(), self.scm.url() + floor::RECORDS, format!("{}{LOGS}", self.intake.url)];
        let range = [self.start, self.end].map(|time| time.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor").args(urls).args(range).arg(entries).env_clear();
        Ok(command)
    }

    /// Fails unless each record arrived exactly once, byte for byte.
    pub fn check_records(&self) -> Result<(), Failure> {
        self.check_source()?;
        let mut missing: HashMap<_, _> = self.records().into_iter().map(|record| (record.id, record.json)).collect();
        for body in self.intake.bodies() {
            let body = decompress(&body)?;
            for Entry { evt: Event { id }, sectigo } in serde_json::from_slice::<Vec<Entry<'_>>>(&body)? {
                match missing.remove(id) {
                    Some(json) if json == sectigo.get() => {}
                    Some(_) => return Err(format!("record {id} arrived changed").into()),
                    None => return Err(format!("record {id} arrived twice, or was never in the backlog").into()),
                }
            }
        }
        match missing.keys().next() {
            None => Ok(()),
            Some(id) => Err(format!("{} records did not arrive, for example {id}", missing.len()).into()),
        }
    }

    /// Fails unless a body arrived for each page.
    pub fn check_pages(&self) -> Result<(), Failure> {
        self.check_source()?;
        let (pages, bodies) = (self.events.div_ceil(PAGE_SIZE), self.intake.bodies().len());
        if pages == bodies { Ok(()) } else { Err(format!("{bodies} bodies arrived for {pages} pages").into()) }
    }

    /// Fails if a request broke the documented protocol of the source.
    fn check_source(&self) -> Result<(), Failure> {
        self.scm.violations().into_iter().next().map_or(Ok(()), |violation| Err(violation.into()))
    }

    /// Returns the entries that arrived, as they were before compression.
    pub fn entries(&self) -> Result<Vec<u8>, Failure> {
        self.check_pages()?;
        let bodies: Result<Vec<_>, _> = self.intake.bodies().iter().map(|body| decompress(body)).collect();
        Ok(bodies?.concat())
    }
}

/// What the check reads of an entry: the record's id, and the record itself.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    evt: Event<'a>,
    #[serde(borrow)]
    sectigo: &'a RawValue,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
}
