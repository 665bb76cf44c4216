//! Everything that the real source and the real destination call: the API, its token endpoint, and the intake.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use auditsync::http::Transport;
use axum::http::Response;
use jiff::Timestamp;
use reqwest::Request;
use serde_json::Value;
use tokio::time::sleep;

use super::plan::{Dates, Dislike, IntakeFault, SourceFault};
use super::world::World;

/// How long an answer is under way.
const LATENCY: Duration = Duration::from_millis(40);

/// So many refusals of a page in a row are no passing trouble: its range may be read from the start.
const LASTING: usize = 3;

#[derive(Debug)]
pub(crate) struct Network {
    world: Arc<World>,
    ranges: Mutex<Ranges>,
}

thread_local! {
    static PRESENT: RefCell<Option<Arc<Network>>> = const { RefCell::new(None) };
}

/// The network of the case that this thread runs.
#[derive(Debug)]
pub(crate) struct Present;

#[async_trait]
impl Transport for Present {
    async fn answer(&self, request: Request) -> Option<reqwest::Response> {
        let network = PRESENT.with_borrow(Option::clone).unwrap();
        network.answer(request).await
    }
}

/// The ranges that were requested. What becomes visible later is in none of their pages.
#[derive(Debug, Default)]
struct Ranges {
    snapshots: Vec<Snapshot>,
    /// How many answers were given, so that no two page tokens are alike.
    nonce: usize,
    /// Refusals of pages in a row.
    refused: usize,
}

#[derive(Debug)]
struct Snapshot {
    numbers: Vec<usize>,
    is_endless: bool,
}

/// Requests under way: what they carried may have been taken unless the answer arrives.
struct UnderWay<'a> {
    world: &'a World,
    taken: Vec<usize>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.world.permit(std::mem::take(&mut self.taken));
    }
}

impl Network {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, ranges: Mutex::default() }
    }

    /// From now on, requests of this thread go here.
    pub(crate) fn install(self) {
        PRESENT.set(Some(Arc::new(self)));
    }

    fn reply(
        &self,
        status: u16,
        dates: Dates,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> reqwest::Response {
        let now = self.world.now();
        let mut answer = Response::builder().status(status);
        if self.world.is_dated(dates) {
            answer = answer.header("date", httpdate::fmt_http_date(now.into()));
        }
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(body.into()).unwrap().into()
    }

    async fn records(&self, request: &Request) -> Option<reqwest::Response> {
        let (world, dates) = (&self.world, self.world.plan.source_dates);
        let query = |name: &str| request.url().query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
        let token = query("token");
        let elapsed = world.elapsed();
        if world.plan.alternates.is_some_and(|(from, until)| (u64::from(from)..until.into()).contains(&elapsed)) {
            world.inner().alternated += 1;
            let status = if world.inner().alternated % 2 == 0 { 503 } else { 401 };
            return Some(self.reply(status, dates, &[], "in turns"));
        }
        let fault = world.inner().source.pop_front().flatten();
        match fault {
            Some(SourceFault::Status(status)) => {
                if let Some(token) = &token {
                    self.refuse(token);
                }
                let away = [("location", "https://elsewhere.invalid/")];
                return Some(self.reply(status, dates, if status == 302 { &away } else { &[] }, "out of nowhere"));
            }
            Some(SourceFault::Reset) => return None,
            _ => {}
        }
        let mut ranges = self.ranges.lock().unwrap();
        let (number, page) = match &token {
            Some(token) => {
                let (number, page) = read(token);
                if ranges.snapshots[number].is_endless && world.inner().is_healed {
                    drop(ranges);
                    return Some(self.reply(400, dates, &[], "such a token was never given out"));
                }
                (number, page)
            }
            None => {
                let time = |name: &str| query(name).unwrap().parse::<Timestamp>().unwrap();
                let (from, until, now) = (time("from"), time("to"), world.now());
                // Within the overlap the next range reads the same again.
                let hides = fault == Some(SourceFault::Empty) && until.duration_since(from).as_secs() <= 480;
                let seen =
                    world.records.iter().enumerate().filter(|(_, record)| {
                        record.at > from && record.at <= until && record.visible <= now && !hides
                    });
                let mut numbers: Vec<_> = seen.map(|(number, _)| number).collect();
                numbers.sort_by_key(|number| world.records[*number].at);
                ranges.snapshots.push(Snapshot { numbers, is_endless: false });
                (ranges.snapshots.len() - 1, 0)
            }
        };
        ranges.refused = 0;
        ranges.nonce += 1;
        let nonce = ranges.nonce;
        let snapshot = &mut ranges.snapshots[number];
        if fault == Some(SourceFault::Endless) && !snapshot.is_endless {
            snapshot.is_endless = true;
            world.permit(snapshot.numbers.iter().copied());
        }
        let repeats = fault == Some(SourceFault::Repeats) && page > 0;
        let (page, next) = if repeats { (page - 1, page) } else { (page, page + 1) };
        let size = usize::from(world.plan.page);
        let pages = snapshot.numbers.len().div_ceil(size).max(1);
        let next = if next < pages { Some(next) } else { snapshot.is_endless.then_some(0) };
        let body: Vec<_> = snapshot
            .numbers
            .iter()
            .skip(page * size)
            .take(size)
            .map(|number| world.records[*number].text.as_str())
            .collect();
        let body = format!("[{}]", body.join(","));
        drop(ranges);
        let next = next.map(|next| format!("{number}.{next}.{nonce}"));
        let headers: Vec<_> = next.iter().map(|token| ("token", token.as_str())).collect();
        Some(self.reply(200, dates, &headers, body))
    }

    /// A page is refused that could be had.
    fn refuse(&self, token: &str) {
        let mut ranges = self.ranges.lock().unwrap();
        ranges.refused += 1;
        if ranges.refused >= LASTING {
            let (number, _) = read(token);
            self.world.permit(ranges.snapshots[number].numbers.iter().copied());
        }
    }

    async fn logs(&self, request: &Request) -> Option<reqwest::Response> {
        let (world, dates) = (&self.world, self.world.plan.intake_dates);
        if world.plan.down.is_some_and(|(from, until)| (u64::from(from)..until.into()).contains(&world.elapsed())) {
            return None;
        }
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap();
        let entries: Vec<Value> = serde_json::from_slice(body).unwrap();
        let entries: Vec<_> = entries.iter().filter_map(entry).collect();
        let has_marked = entries.iter().any(|(number, _)| world.records[*number].is_marked);
        let fault = world.inner().intake.pop_front().flatten();
        match fault {
            Some(IntakeFault::Status(status)) => return Some(self.reply(status, dates, &[], "not now")),
            Some(IntakeFault::Reset) => return None,
            Some(IntakeFault::Portal(kind)) => {
                let kind = [("content-type", kind)];
                let headers = if kind[0].1.is_empty() { &[][..] } else { &kind };
                return Some(self.reply(200, dates, headers, "Your request was blocked."));
            }
            Some(IntakeFault::Slow(seconds)) => sleep(Duration::from_secs(seconds.into())).await,
            Some(IntakeFault::Unanswered) | None => {}
        }
        let is_disliked = match world.plan.dislikes {
            Dislike::Not => None,
            Dislike::Status(status) => Some(status),
            Dislike::Flapping(status) => fastrand::bool().then_some(status),
            Dislike::Unanswered => Some(0),
        };
        match is_disliked.filter(|_| has_marked) {
            Some(0) => return std::future::pending().await,
            Some(status) => return Some(self.reply(status, dates, &[], "suspicious")),
            None => {}
        }
        for (number, stamp) in &entries {
            world.take(*number, *stamp);
        }
        let mut under_way = UnderWay { world, taken: entries.iter().map(|(number, _)| *number).collect() };
        if fault == Some(IntakeFault::Unanswered) {
            return None;
        }
        sleep(LATENCY / 2).await;
        under_way.taken.clear();
        Some(self.reply(202, dates, &[("content-type", "application/json")], "{}"))
    }
}

impl Network {
    async fn answer(&self, request: Request) -> Option<reqwest::Response> {
        sleep(LATENCY / 2).await;
        if self.world.verdict().is_err() {
            // It is decided. A program that goes round in a circle must not hold up the test.
            return std::future::pending().await;
        }
        match request.url().path() {
            "/token" => {
                let token = r#"{"access_token":"abcdefghij","expires_in":300}"#;
                Some(self.reply(200, self.world.plan.source_dates, &[("content-type", "application/json")], token))
            }
            "/api/v1/records" => self.records(&request).await,
            "/api/v2/logs" => self.logs(&request).await,
            other => panic!("nobody serves {other}"),
        }
    }
}

/// Range and page behind a page token.
fn read(token: &str) -> (usize, usize) {
    let mut parts = token.split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

/// Which record an entry carries, whatever its form, and its time.
fn entry(entry: &Value) -> Option<(usize, Timestamp)> {
    let text = entry.to_string();
    let at = text.find("rec-")? + 4;
    let stamp = entry["timestamp"].as_i64().unwrap();
    Some((text[at..at + 6].parse().unwrap(), Timestamp::from_millisecond(stamp).unwrap()))
}
