//! One measurement: servers with a backlog, the program or a floor between them, and a look at what arrived.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::Failure;
use crate::backlog::{Backlog, Templates};
use crate::codec::Codec;
use crate::floor::Carries;
use crate::inspection::{self, Contents};
use crate::intake::{Intake, Kept};
use crate::meter::{self, Metered, Usage};
use crate::program::Setting;
use crate::source::Source;

/// The newest record is so old: the program does not ask for what is newer than 30 seconds.
const NEWEST: Duration = Duration::from_secs(60);

/// Before the oldest record there is so much time in which there is none.
const BEFORE: Duration = Duration::from_secs(60);

/// What there is to be delivered, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Average bytes of a record.
    pub record: usize,
    /// Records on a page.
    pub page: usize,
    /// How long each answer takes, on either side.
    pub latency: Duration,
    pub codec: Codec,
    pub events: usize,
    /// The hours over which the records are spread. The program asks for an hour at a time.
    pub hours: u32,
}

impl Case {
    /// The case that the targets speak of.
    pub const HEADLINE: Self =
        Self { record: 500, page: 1000, latency: Duration::ZERO, codec: Codec::Gzip, events: 100_000, hours: 1 };

    fn lookback(&self) -> Duration {
        Duration::from_secs(3600) * self.hours
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Program,
    Floor(Carries),
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "auditsync",
            Self::Floor(Carries::Pages) => "floor of pages",
            Self::Floor(Carries::Entries) => "floor of entries",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub events: usize,
    /// Seconds from the first page's request to the answer to the last body.
    pub wall: f64,
    pub usage: Usage,
    /// Seconds of CPU time that the servers used meanwhile.
    pub servers: f64,
    /// Seconds from the start to the first request of all.
    pub to_first_request: f64,
    pub requests: (usize, usize),
    /// Bytes fetched.
    pub fetched: u64,
    /// Bytes sent, before and after compression.
    pub uncompressed: u64,
    pub sent: u64,
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
impl Figures {
    pub fn per_second(&self) -> f64 {
        self.events as f64 / self.wall
    }

    pub fn per_cpu_second(&self) -> f64 {
        self.events as f64 / self.usage.cpu()
    }

    /// CPU seconds for a million events.
    pub fn cpu_per_million(&self) -> f64 {
        self.usage.cpu() * 1e6 / self.events as f64
    }

    pub fn peak_mib(&self) -> f64 {
        self.usage.peak as f64 / 1024.0 / 1024.0
    }

    pub fn sent_per_event(&self) -> f64 {
        self.sent as f64 / self.events as f64
    }
}

/// Where measurements are made.
pub struct Bench {
    pub binary: PathBuf,
    templates: HashMap<(usize, usize), Arc<Templates>>,
}

impl Bench {
    pub fn new(binary: PathBuf) -> Self {
        Self { binary, templates: HashMap::new() }
    }

    pub fn backlog(&mut self, case: &Case, now: Timestamp) -> Arc<Backlog> {
        let (count, record) = (case.page.max(1000), case.record);
        let templates = self.templates.entry((count, record)).or_insert_with(|| Templates::new(count, record).into());
        let (start, end) = (now - case.lookback() + BEFORE, now - NEWEST);
        Arc::new(Backlog::new(Arc::clone(templates), case.events, start, end))
    }

    /// Lets go of the records that were made for other cases.
    pub fn tidy(&mut self) {
        self.templates.clear();
    }

    /// Measures once. What did not arrive as it should is an error.
    pub async fn measure(&mut self, subject: Subject, case: &Case) -> Result<Figures, Failure> {
        let named = |error: Failure| format!("{} at {case:?}: {error}", subject.name());
        let figures = self.attempt(subject, case).await.map_err(named)?;
        eprintln!(
            "  {:16} {:>5} B x {:<5} {:>3} ms {} {:>9} events  {:>9.0}/s  {:>8.0}/CPU-s  {:>6.1} MiB",
            subject.name(),
            case.record,
            case.page,
            case.latency.as_millis(),
            case.codec,
            case.events,
            figures.per_second(),
            figures.per_cpu_second(),
            figures.peak_mib()
        );
        Ok(figures)
    }

    async fn attempt(&mut self, subject: Subject, case: &Case) -> Result<Figures, Failure> {
        let folder = tempfile::tempdir()?;
        let now = Timestamp::now();
        let backlog = self.backlog(case, now);
        let (source_at, source) = Source::start(Arc::clone(&backlog), case.page, case.latency).await?;
        let (intake_at, intake) = Intake::start(case.codec.name(), case.latency).await?;
        let setting = Setting {
            binary: &self.binary,
            source: &source_at.url,
            intake: &intake_at.url,
            codec: case.codec,
            lookback: case.lookback(),
            folder: folder.path(),
        };
        let before = own_cpu();
        let usage = match subject {
            Subject::Program => setting.once().run().await?,
            Subject::Floor(carries) => floor(&setting, case, carries, now)?.run().await?,
        };

        let servers = own_cpu() - before;
        let seen = source.seen();
        if let Some(breach) = seen.breaches.first() {
            return Err(breach.clone().into());
        }
        let look = || intake.with_kept(|kept| contents(subject, case, &backlog, kept));
        let contents = tokio::task::block_in_place(look)?;
        let (posts, sent, last) = intake.with_kept(|kept| (kept.bodies.len(), kept.sent(), kept.last_accepted));
        let (Some(first_page), Some(last), Some(first_request)) = (seen.first_page, last, seen.first_request) else {
            return Err("nothing was asked for".into());
        };
        Ok(Figures {
            events: case.events,
            wall: last.duration_since(first_page).as_secs_f64(),
            usage,
            servers,
            to_first_request: meter::seconds(first_request) - usage.started,
            requests: (seen.requests, posts),
            fetched: seen.bytes,
            uncompressed: contents.bytes,
            sent,
        })
    }
}

/// Seconds of CPU time that this process has used.
fn own_cpu() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0)).as_secs_f64()
}

/// What arrived, if it is what should have.
fn contents(subject: Subject, case: &Case, backlog: &Backlog, kept: &Kept) -> Result<Contents, Failure> {
    if let Some(breach) = kept.breaches.first() {
        return Err(breach.clone().into());
    }
    match subject {
        Subject::Program => inspection::all_once(kept, case.codec, backlog),
        Subject::Floor(_) => inspection::bytes_alone(kept, case.codec),
    }
}

fn floor(setting: &Setting<'_>, case: &Case, carries: Carries, now: Timestamp) -> Result<Metered, Failure> {
    let whole = |time: Timestamp| Timestamp::from_second(time.as_second());
    let arguments = [
        "floor".to_owned(),
        format!("--source={}", setting.source),
        format!("--intake={}", setting.intake),
        format!("--from={}", whole(now - case.lookback())?),
        format!("--to={}", whole(now - NEWEST / 2)?),
        format!("--page={}", case.page),
        format!("--codec={}", case.codec),
        format!("--carries={}", carries.name()),
    ];
    Ok(Metered {
        program: std::env::current_exe()?,
        arguments: arguments.into_iter().map(Into::into).collect(),
        variables: Vec::new(),
        folder: setting.folder.to_owned(),
        stop_after: None,
        kill_after: Duration::from_secs(900),
    })
}

/// Several measurements of the same thing; the one with the median of CPU time.
pub fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|a, b| a.usage.cpu().total_cmp(&b.usage.cpu()));
    figures[figures.len() / 2]
}
