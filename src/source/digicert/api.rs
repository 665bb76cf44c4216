//! Calls to the report API: addresses, the key, the pace, and what a status means.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::SecretString;
use tokio::time::Instant;
use url::Url;

use super::error::{Content, Error, Unread};
use super::history::{HistoryPage, Run, Shown};
use super::quotes::Quotes;
use super::spool::Spool;
use super::{Names, Settings};
use crate::clock::Clock;
use crate::component::{Component, Context};
use crate::failure::Class;
use crate::http::{self, Address, Excerpt, Method, Redaction, Reply, sensitive};
use crate::secret::Secret;
use crate::server_time::ServerClock;

/// The header that carries the key.
const KEY_HEADER: &str = "X-DC-DEVKEY";

/// The time between any two requests. The API takes 100 requests in 5 s and 1000 in 3 min; with this spacing there are
/// at most 25 and 900.
const SPACING: Duration = Duration::from_millis(200);

/// The wait after a 429 without a `Retry-After`, because the API counts requests in intervals of 5 s.
const AFTER_TOO_MANY: Duration = Duration::from_secs(5);

/// The largest answer apart from runs, in bytes.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// The number of entries on a page of the history.
const PAGE: usize = 100;

/// The most pages of the history that are read.
const MOST_PAGES: usize = 20;

/// The most files of a run.
const MOST_SPLITS: u32 = 100;

/// The most bytes of a run on disk, as they were sent.
pub(super) const LARGEST_RUN: u64 = 2 * 1024 * 1024 * 1024;

/// The history, as far as it was read.
#[derive(Debug)]
pub(super) struct History {
    pub(super) runs: Vec<Shown>,
    /// The error for a caller who needs the part that was not read.
    pub(super) cut: Option<Error>,
}

#[derive(Debug)]
pub(super) struct Api {
    http: Arc<http::Client>,
    clock: Clock,
    pub(super) server_clock: ServerClock,
    base: Url,
    key: Secret,
    pub(super) report: String,
    names: Names,
    next_request: Mutex<Option<Instant>>,
    pub(super) quotes: Quotes,
}

impl Api {
    pub(super) fn new(context: &Context, settings: &Settings) -> Self {
        let Settings { api_url, api_key, report_id, tls, names, .. } = settings.clone();
        let quotes = Quotes::new(api_key.clone(), context);
        Self {
            http: context.http.with_tls(tls),
            clock: context.clock.clone(),
            server_clock: ServerClock::default(),
            base: api_url,
            key: api_key,
            report: report_id,
            names,
            next_request: Mutex::default(),
            quotes,
        }
    }

    pub(super) fn address(&self) -> Address {
        Address::of(&self.base)
    }

    /// Reads the runs of any report, the newest first, until there are `enough`.
    pub(super) async fn history(&self, enough: impl Fn(&[Shown]) -> bool) -> Result<History, Error> {
        let (mut runs, mut seen, mut known) = (Vec::new(), 0_usize, HashSet::new());
        for pages in 1..=MOST_PAGES {
            let mut url = self.below(&["report", "history"]);
            url.query_pairs_mut()
                .append_pair("limit", &PAGE.to_string())
                .append_pair("offset", &seen.to_string())
                .append_pair("sort_by", "report_start_date")
                .append_pair("sort_direction", "DESC");
            let page = self.history_page(url).await?;
            let (total, length) = (page.total(), page.len());
            seen += length;
            let shown: Vec<_> = page.runs().collect();
            let news = shown.iter().filter(|shown| known.insert(shown.run.id.clone())).count();
            // A run that began between two pages makes one entry repeat, not a whole page.
            if news == 0 && shown.len() == PAGE {
                return Err(Error::EndlessHistory { address: self.address(), pages });
            }
            runs.extend(shown);
            let is_last = length == 0 || total.map_or(length < PAGE, |total| seen as u64 >= total);
            if is_last || enough(&runs) {
                return Ok(History { runs, cut: None });
            }
        }
        Ok(History { runs, cut: Some(Error::EndlessHistory { address: self.address(), pages: MOST_PAGES }) })
    }

    async fn history_page(&self, url: Url) -> Result<HistoryPage, Error> {
        let address = Address::of(&url);
        let reply = self.call(Method::GET, url, &address).await?;
        serde_json::from_slice(&reply.body).map_err(|cause| {
            let beginning = Excerpt::of(&reply.body, &Redaction::of([&self.key.current()]));
            let cause = self.quotes.text(&cause.to_string());
            self.not_the_api(address, format!("{cause}; it begins with {beginning}"))
        })
    }

    /// Starts a run of the report.
    pub(super) async fn start_run(&self) -> Result<(), Error> {
        let url = self.below(&["report", &self.report, "run"]);
        let address = Address::of(&url);
        self.call(Method::POST, url, &address).await.map(|_| ())
    }

    /// Downloads all files of `run`.
    pub(super) async fn download(&self, run: &Run) -> Result<Vec<Spool>, Unread> {
        let splits = run.splits.ok_or(Content::UnknownSplits)?;
        if splits > MOST_SPLITS {
            return Err(Content::TooManySplits(splits).into());
        }
        let (mut spools, mut left) = (Vec::new(), LARGEST_RUN);
        for split in 0..splits.max(1) {
            let mut url = if splits > 1 {
                self.below(&["report", &self.report, &run.id, "download"])
            } else {
                self.below(&["report", &self.report, &run.id, "json"])
            };
            if splits > 1 {
                url.query_pairs_mut()
                    .append_pair("report_format", "JSON")
                    .append_pair("split_report_sequence", &split.to_string());
            }
            let (spool, length) = self.download_one(url, left).await?;
            left -= length;
            spools.push(spool);
        }
        Ok(spools)
    }

    async fn download_one(&self, url: Url, limit: u64) -> Result<(Spool, u64), Unread> {
        let (address, key) = (Address::of(&url), self.key.current());
        let hidden = Redaction::of([&key]);
        self.pace().await;
        let request = self.http.request(Method::GET, url)?.header(KEY_HEADER, sensitive(&key));
        let answer = self.http.send_for_long(Component::Source, request, &address, &hidden).await?;
        if answer.status() != StatusCode::OK {
            let (reply, _) = answer.beginning(LARGEST_ANSWER).await;
            let status = reply.status.as_u16();
            if matches!(status, 404 | 410) {
                return Err(Content::Gone { address, status, reason: Excerpt::of(&reply.body, &hidden) }.into());
            }
            return Err(self.refusal(address, &reply, &key).into());
        }
        let mut file = tempfile::tempfile().map_err(Error::Spool)?;
        let length = answer.save(limit, &mut file).await?;
        Ok((Spool::of(file, self.quotes.clone()), length))
    }

    async fn call(&self, method: Method, url: Url, address: &Address) -> Result<Reply, Error> {
        let key = self.key.current();
        self.pace().await;
        let asked = self.clock.local();
        let is_post = method == Method::POST;
        let mut request = self.http.request(method, url)?.header(KEY_HEADER, sensitive(&key));
        request = request.header(ACCEPT, "application/json");
        if is_post {
            request = request.header(CONTENT_TYPE, "application/json").body("{}");
        }
        let hidden = Redaction::of([&key]);
        let reply = self.http.exchange(Component::Source, request, address, LARGEST_ANSWER, &hidden).await?;
        if !reply.status.is_success() {
            return Err(self.refusal(address.clone(), &reply, &key));
        }
        self.server_clock.note(&self.address(), reply.date(), (asked, self.clock.local()));
        Ok(reply)
    }

    /// Waits until the next request may go out.
    async fn pace(&self) {
        let now = Instant::now();
        let mine = {
            let mut next = self.next_request.lock();
            let mine = next.map_or(now, |next| next.max(now));
            *next = Some(mine + SPACING);
            mine
        };
        tokio::time::sleep_until(mine).await;
    }

    /// Classifies an answer other than a success.
    fn refusal(&self, address: Address, reply: &Reply, key: &SecretString) -> Error {
        let status = reply.status.as_u16();
        let reason = Excerpt::of(&reply.body, &Redaction::of([key]));
        match status {
            401 | 403 => match self.key.after_rejection(key) {
                Some(cause) => Error::KeyOutdated { address, cause },
                None => Error::KeyRejected { address, status, reason, variable: self.key.variable().clone() },
            },
            429 => {
                let after = Some(reply.retry_after().unwrap_or(AFTER_TOO_MANY));
                Error::Unavailable { address, status, after, reason }
            }
            400.. => match Class::of_status(status, reply.retry_after()) {
                Class::Retryable { after } => Error::Unavailable { address, status, after, reason },
                _ => Error::Refused {
                    address,
                    status,
                    reason,
                    report_variable: self.names.report_id.clone(),
                    url_variable: self.names.api_url.clone(),
                },
            },
            _ => self.not_the_api(address, format!("status {status}, {reason}")),
        }
    }

    fn not_the_api(&self, address: Address, reason: String) -> Error {
        Error::NotTheApi { address, reason, variable: self.names.api_url.clone() }
    }

    fn below(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An address of http or https always has segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}
