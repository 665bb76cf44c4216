//! The floor: what fetching, compressing and posting cost by themselves, with no record looked at.
//!
//! It is built of the program's own parts (HTTP client, compression, runtime) and works in the same order: the next page is fetched
//! while the bodies of the present one are sent, eight at a time. It runs as a process of its own, and is measured as
//! the program is.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use auditsync::destination::datadog::batch::{Batch, MOST_ENTRIES, Workbench};
use auditsync::destination::datadog::compressor::Compressor;
use auditsync::destination::datadog::entry::{EntryWriter, Form};
use auditsync::destination::datadog::{Compression, Labels};
use auditsync::http::{self, Method, Place, Redaction, Reply, Server};
use auditsync::source::sectigo::page;
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use url::Url;

use crate::Failure;
use crate::codec::Codec;
use crate::intake::API_KEY;
use crate::program::{HOSTNAME, TAGS};
use crate::source::ACCESS_TOKEN;

/// Bodies under way at a time, as in the program.
const IN_FLIGHT: usize = 8;

const LARGEST_PAGE: usize = 64 * 1024 * 1024;

/// What the floor posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Carries {
    /// The bytes of the pages as they came.
    Pages,
    /// As many bytes as the program posts: the first page's entries, made before, again for every page.
    Entries,
}

impl Carries {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Entries => "entries",
        }
    }
}

/// Fetches everything and posts it, with no record handling.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(long)]
    pub source: Url,
    #[arg(long)]
    pub intake: Url,
    #[arg(long)]
    pub from: Timestamp,
    #[arg(long)]
    pub to: Timestamp,
    /// Records on a page.
    #[arg(long)]
    pub page: usize,
    #[arg(long)]
    pub codec: Codec,
    #[arg(long)]
    pub carries: Carries,
}

/// The mode `floor`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Floor::new(arguments)?.drain())
}

struct Floor {
    http: http::Client,
    records: Url,
    logs: Url,
    from: String,
    to: String,
    requests_for_a_page: usize,
    compression: Compression,
    carries: Carries,
}

impl Floor {
    fn new(arguments: &Arguments) -> Result<Self, Failure> {
        Ok(Self {
            http: http::Client::new(http::Settings { timeout: Duration::from_secs(60) }),
            records: arguments.source.join("/api/v1/records")?,
            logs: arguments.intake.join("/api/v2/logs")?,
            from: arguments.from.to_string(),
            to: arguments.to.to_string(),
            requests_for_a_page: arguments.page.div_ceil(MOST_ENTRIES),
            compression: arguments.codec.compression(),
            carries: arguments.carries,
        })
    }

    async fn drain(self) -> Result<(), Failure> {
        let (mut page, mut token) = self.page(None).await?;
        let entries = Arc::new(if self.carries == Carries::Entries { entries(&page)? } else { Vec::new() });
        while let Some(following) = token {
            let bodies = match self.carries {
                Carries::Pages => self.cut(&page),
                Carries::Entries => entries.to_vec(),
            };
            let next;
            (next, ()) = tokio::try_join!(self.page(Some(&following)), self.post_all(bodies))?;
            (page, token) = next;
        }
        Ok(())
    }

    /// A page and the token of the next.
    async fn page(&self, token: Option<&str>) -> Result<(Bytes, Option<String>), Failure> {
        let mut url = self.records.clone();
        let (name, value) = token.map_or(("from", &*self.from), |token| ("token", token));
        url.query_pairs_mut().append_pair(name, value).append_pair("to", &self.to);
        let place = Place::of(&self.records);
        let request = self
            .http
            .request(Method::GET, url)?
            .header("accept", "application/json")
            .header("authorization", format!("Bearer {ACCESS_TOKEN}"));
        let nothing = Redaction::none();
        let reply = http::exchange(Server::Source, request, &place, LARGEST_PAGE, &nothing).await?;
        let Reply { status, headers, body } = reply;
        if !status.is_success() {
            return Err(format!("the source answered {status}").into());
        }
        Ok((body, headers.get("token").map(|token| token.to_str().map(str::to_owned)).transpose()?))
    }

    /// A page as so many bodies as the program makes of it.
    fn cut(&self, page: &Bytes) -> Vec<Bytes> {
        let size = page.len().div_ceil(self.requests_for_a_page).max(1);
        (0..page.len()).step_by(size).map(|start| page.slice(start..page.len().min(start + size))).collect()
    }

    async fn post_all(&self, bodies: Vec<Bytes>) -> Result<(), Failure> {
        stream::iter(bodies).map(|body| self.post(body)).buffer_unordered(IN_FLIGHT).try_collect().await
    }

    async fn post(&self, body: Bytes) -> Result<(), Failure> {
        let compression = self.compression;
        let sent = tokio::task::spawn_blocking(move || compressed(&body, compression)).await??;
        let encoding = if compression == Compression::Gzip { Codec::Gzip } else { Codec::Zstd };
        let request = self
            .http
            .request(Method::POST, self.logs.clone())?
            .header("dd-api-key", API_KEY)
            .header("content-type", "application/json")
            .header("content-encoding", encoding.name())
            .body(sent);
        let nothing = Redaction::none();
        let reply = http::exchange(Server::Destination, request, &Place::of(&self.logs), 64 * 1024, &nothing).await?;
        if reply.status.is_success() { Ok(()) } else { Err(format!("the intake answered {}", reply.status).into()) }
    }
}

/// Each thread has one compressor for all its bodies, as the program has.
fn compressed(body: &[u8], compression: Compression) -> std::io::Result<Vec<u8>> {
    thread_local! { static COMPRESSOR: RefCell<Option<Compressor>> = const { RefCell::new(None) } }
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = kept.take().map_or_else(|| Compressor::new(compression), Ok)?;
        let sent = compressor.compress(body);
        *kept = Some(compressor);
        sent
    })
}

/// The bodies that the program makes of a page, before compression.
pub fn entries(page: &Bytes) -> Result<Vec<Bytes>, Failure> {
    let labels = Labels {
        source: "sectigo".into(),
        service: "sectigo-scm".into(),
        hostname: HOSTNAME.into(),
        tags: TAGS.into(),
    };
    let writer = EntryWriter::new(&labels, "sectigo");
    let mut workbench = Workbench::new(Compression::Identity)?;
    let events = page::records(page)?;
    let (mut bodies, mut done) = (Vec::new(), 0);
    while done < events.len() {
        let rest = done..events.len();
        let batch = Batch::fill(&mut workbench, &writer, &events, rest, Form::Whole, Timestamp::now())?;
        done = batch.range.end;
        bodies.push(batch.body.into());
    }
    Ok(bodies)
}
