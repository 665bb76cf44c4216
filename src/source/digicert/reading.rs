//! A run that is being read, ahead of whoever wants its rows: stored whole, looked through once, and then given page by page.
//!
//! Nothing of a run is given before all of it was read once. So a run that is damaged anywhere delivers nothing.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::api::Api;
use super::cursor::Progress;
use super::error::{Content, Error, Unread};
use super::history::Run;
use super::kept::{Keeping, Kept, MOST};
use super::row::{self, Time};
use super::spool::Spool;
use crate::event::Event;
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::http::{Excerpt, Redaction};
use crate::secret::Secret;
use crate::task;

/// Most rows of a page.
const PAGE_ROWS: usize = 1000;

/// A page is full with so many bytes.
const PAGE_BYTES: usize = 1024 * 1024;

/// Every so many rows a reader looks whether anybody still wants them.
const LOOK_UP: u64 = 1024;

/// And every so many bytes of rows.
const LOOK_UP_BYTES: usize = 16 * 1024 * 1024;

/// At so many rows in one file the API splits a run.
pub(super) const MOST_IN_ONE_FILE: u64 = 1_000_000;

/// Most rows without a readable time that are told apart from those of the next run.
const MOST_UNDATED: usize = MOST / 4;

/// A part of a run.
#[derive(Debug)]
pub(super) enum Part {
    /// New rows.
    Rows {
        events: Vec<Event>,
        /// How many rows of the run are behind this part.
        rows: u64,
        /// The sum of the fingerprints of those of them that were delivered.
        sum: u64,
    },
    /// There are no more.
    End(Box<Summary>),
}

/// What is known of a run that was read whole.
#[derive(Debug)]
pub(super) struct Summary {
    /// How many rows it has.
    pub(super) rows: u64,
    /// How many of those that were looked at in this reading were delivered before.
    pub(super) deduplicated: usize,
    /// The newest time.
    pub(super) high: Option<Timestamp>,
    pub(super) kept: Kept,
    /// Whether the overlap had to shrink.
    pub(super) shrunk: bool,
    /// How many rows have no time that was understood.
    pub(super) undated: u64,
    /// What identifies its columns; nothing where it has no rows.
    pub(super) columns: Fingerprints,
    /// The oldest time.
    pub(super) oldest: Option<Timestamp>,
}

/// What a reader has to know.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) run: Run,
    /// So many of its rows are behind the cursor.
    pub(super) rows: u64,
    /// The sum of the fingerprints of those that were delivered.
    pub(super) sum: u64,
    /// At so many rows in one file the API splits a run.
    pub(super) most_in_one_file: u64,
    /// The key that the server may have echoed.
    pub(super) key: Secret,
    pub(super) progress: Progress,
    pub(super) overlap: Duration,
    pub(super) time_column: String,
}

/// A run that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    run: String,
    /// How many rows of the run are behind the parts that were given.
    rows: u64,
    parts: mpsc::Receiver<Result<Part, Unread>>,
    task: AbortOnDropHandle<()>,
}

impl Reading {
    /// Begins to read.
    pub(super) fn begin(api: Arc<Api>, plan: Plan) -> Self {
        let (give, parts) = mpsc::channel(1);
        let (run, rows) = (plan.run.id.clone(), plan.rows);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = read(&api, plan, give.clone()).await {
                // Whoever is gone needs no error.
                let _ = give.send(Err(error)).await;
            }
        }));
        Self { run, rows, parts, task }
    }

    /// Whether the next part is the one behind so many `rows` of `run`.
    pub(super) fn is_at(&self, run: &Run, rows: u64) -> bool {
        self.run == run.id && self.rows == rows
    }

    /// The next part. The call may be dropped at any time.
    pub(super) async fn next(&mut self) -> Result<Part, Unread> {
        let Some(part) = self.parts.recv().await else {
            // A panic goes on here.
            let _ = task::outcome((&mut self.task).await);
            return Err(Error::Interrupted.into());
        };
        let part = part?;
        if let Part::Rows { rows, .. } = &part {
            self.rows = *rows;
        }
        Ok(part)
    }
}

type Give = mpsc::Sender<Result<Part, Unread>>;

async fn read(api: &Api, plan: Plan, give: Give) -> Result<(), Unread> {
    let spools = api.download(&plan.run).await?;
    let work = tokio::task::spawn_blocking(move || {
        let Some((fresh, summary)) = survey(&spools, &plan, &|| give.is_closed())? else { return Ok(()) };
        if deliver(&spools, &plan, &fresh, &give)?.is_continue() {
            let _ = give.blocking_send(Ok(Part::End(Box::new(summary))));
        }
        Ok(())
    });
    task::outcome(work.await).unwrap_or_else(|_| Err(Error::Interrupted.into()))
}

/// Which rows of a run are to be delivered: a bit each.
#[derive(Debug, Default)]
struct Fresh {
    bits: Vec<u64>,
    count: u64,
    /// So many rows are behind the cursor.
    behind: u64,
}

impl Fresh {
    fn push(&mut self, row: u64, is_fresh: bool) {
        if row.is_multiple_of(64) {
            self.bits.push(0);
        }
        if let Some(last) = self.bits.last_mut() {
            *last |= u64::from(is_fresh) << (row % 64);
        }
        self.count += u64::from(is_fresh);
    }

    fn holds(&self, row: u64) -> bool {
        let word = usize::try_from(row / 64).ok().and_then(|at| self.bits.get(at));
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }
}

/// Looks through all rows: which are new, and what is to be remembered. Nothing, if nobody wants to know any more.
fn survey(spools: &[Spool], plan: &Plan, is_unwanted: &dyn Fn() -> bool) -> Result<Option<(Fresh, Summary)>, Unread> {
    let Progress { kept, high, .. } = &plan.progress;
    let mut expected = kept.counts();
    let mut keeping = Keeping::new(plan.overlap, plan.run.began, *high);
    let (mut fresh, mut rows) = (Fresh::default(), 0_u64);
    let (mut undated, mut dateless): (Vec<Fingerprint>, u64) = (Vec::new(), 0);
    let (mut first, mut misread, mut oldest) = (None, None, None::<Timestamp>);
    let mut has_column = false;
    let (mut behind, mut sum) = (0_u64, 0_u64);
    let mut bytes = 0;
    let mut take = |raw: &[u8]| {
        bytes += raw.len();
        if rows.is_multiple_of(LOOK_UP) || bytes >= LOOK_UP_BYTES {
            bytes = 0;
            if is_unwanted() {
                return ControlFlow::Break(());
            }
        }
        first.get_or_insert_with(|| Bytes::copy_from_slice(raw));
        let time = row::time(raw, &plan.time_column);
        has_column |= time != Time::NoColumn;
        let is_fresh = match time.read() {
            Some(time) if time <= kept.since => false,
            dated => {
                let print = Fingerprint::of_record(raw);
                match dated {
                    Some(time) => keeping.push(time, print),
                    None if undated.len() < MOST_UNDATED => undated.push(print),
                    None => {}
                }
                let is_fresh = !met(&mut expected, print);
                if is_fresh && rows < plan.rows {
                    behind += 1;
                    sum = print.bits().wrapping_add(sum);
                }
                is_fresh
            }
        };
        match time {
            Time::At(time) => oldest = Some(oldest.map_or(time, |oldest| oldest.min(time))),
            Time::NotRead(text) => {
                dateless += 1;
                misread.get_or_insert(text);
            }
            Time::NoColumn => dateless += 1,
        }
        fresh.push(rows, is_fresh);
        rows += 1;
        ControlFlow::Continue(())
    };
    for spool in spools {
        if spool.each_row(&mut take)?.is_break() {
            return Ok(None);
        }
    }
    if let Some(first) = &first {
        let heading = plan.time_column.clone();
        if !has_column {
            let columns = excerpt(&row::headings(first).join(", "), &plan.key);
            return Err(Content::NoTimeColumn { heading, columns }.into());
        }
        if let (None, Some(text)) = (oldest, misread) {
            return Err(Content::NoTime { heading, found: excerpt(&text, &plan.key) }.into());
        }
    }
    if rows < plan.rows {
        return Err(Content::Shorter { before: plan.rows, now: rows }.into());
    }
    if plan.run.splits.is_some_and(|splits| splits <= 1) && rows == plan.most_in_one_file {
        return Err(Content::NotSplit { rows }.into());
    }
    if plan.rows > 0 && sum == plan.sum {
        fresh.behind = plan.rows;
        fresh.count -= behind;
    } else if plan.rows > 0 {
        tracing::warn!(
            run = plan.run.id,
            rows = plan.rows,
            "the run has other rows, or another order, than when a part of it was delivered; it is delivered again from its first row"
        );
    }
    let high = keeping.newest();
    let (kept, shrunk) = keeping.finish(kept, expected, &undated);
    let columns = first.map(|first| row::columns_of(&first)).into_iter().collect();
    let old = rows - fresh.behind - fresh.count;
    let summary = Summary {
        rows,
        deduplicated: usize::try_from(old).unwrap_or(usize::MAX),
        high,
        kept,
        shrunk,
        undated: dateless,
        columns,
        oldest,
    };
    Ok(Some((fresh, summary)))
}

/// Whether one more of this hash is expected: a row that was delivered before.
fn met(expected: &mut HashMap<Fingerprint, u32>, print: Fingerprint) -> bool {
    match expected.get_mut(&print) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// Gives the new rows behind the cursor, page by page.
fn deliver(spools: &[Spool], plan: &Plan, fresh: &Fresh, give: &Give) -> Result<ControlFlow<()>, Unread> {
    let mut page = Page::default();
    let (mut rows, mut left) = (0_u64, fresh.count);
    let mut sum = if fresh.behind > 0 { plan.sum } else { 0 };
    let mut is_unwanted = false;
    let mut take = |raw: &[u8]| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        let is_wanted = rows >= fresh.behind && fresh.holds(rows);
        rows += 1;
        if is_wanted {
            left -= 1;
            page.push(raw);
            if page.is_full() || left == 0 {
                let events = std::mem::take(&mut page).events(&plan.time_column, &mut sum);
                is_unwanted = give.blocking_send(Ok(Part::Rows { events, rows, sum })).is_err();
            }
        } else if rows.is_multiple_of(LOOK_UP) {
            is_unwanted = give.is_closed();
        }
        if is_unwanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    for spool in spools {
        if spool.each_row(&mut take)?.is_break() {
            break;
        }
    }
    Ok(if is_unwanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// Rows that become events, in one piece of memory.
#[derive(Debug, Default)]
struct Page {
    bytes: BytesMut,
    ends: Vec<usize>,
}

impl Page {
    fn push(&mut self, raw: &[u8]) {
        self.bytes.extend_from_slice(raw);
        self.ends.push(self.bytes.len());
    }

    fn is_full(&self) -> bool {
        self.ends.len() >= PAGE_ROWS || self.bytes.len() >= PAGE_BYTES
    }

    /// The rows as events; their fingerprints are added to `sum`.
    fn events(self, time_column: &str, sum: &mut u64) -> Vec<Event> {
        let bytes = self.bytes.freeze();
        let mut start = 0;
        let event = |end| {
            let raw = bytes.slice(start..end);
            start = end;
            let (event, print) = row::event(raw, time_column);
            *sum = sum.wrapping_add(print.bits());
            event
        };
        self.ends.into_iter().map(event).collect()
    }
}

/// The columns of a run, from its first row; none where it has no row. The column with the time must be in one of its rows.
pub(super) async fn columns(api: &Api, run: &Run, time_column: &str, key: Secret) -> Result<Option<Excerpt>, Unread> {
    let spools = api.download(run).await?;
    let heading = time_column.to_owned();
    let work = tokio::task::spawn_blocking(move || columns_in(&spools, heading, &key));
    task::outcome(work.await).unwrap_or_else(|_| Err(Error::Interrupted.into()))
}

fn columns_in(spools: &[Spool], heading: String, key: &Secret) -> Result<Option<Excerpt>, Unread> {
    let (mut first, mut misread, mut is_dated) = (None, None, false);
    let mut take = |raw: &[u8]| {
        first.get_or_insert_with(|| Bytes::copy_from_slice(raw));
        match row::time(raw, &heading) {
            Time::At(_) => {
                is_dated = true;
                return ControlFlow::Break(());
            }
            Time::NotRead(text) => {
                misread.get_or_insert(text);
            }
            Time::NoColumn => {}
        }
        ControlFlow::Continue(())
    };
    for spool in spools {
        if spool.each_row(&mut take)?.is_break() {
            break;
        }
    }
    let Some(first) = first else { return Ok(None) };
    let columns = excerpt(&row::headings(&first).join(", "), key);
    match misread {
        _ if is_dated => Ok(Some(columns)),
        Some(text) => Err(Content::NoTime { heading, found: excerpt(&text, key) }.into()),
        None => Err(Content::NoTimeColumn { heading, columns }.into()),
    }
}

/// Text of a report, made fit for a log.
fn excerpt(text: &str, key: &Secret) -> Excerpt {
    Excerpt::of(text.as_bytes(), &Redaction::of([&key.current()]))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use super::super::variables::API_KEY;
    use super::*;

    fn key() -> Secret {
        Secret::from_value(API_KEY.spec.name, "the-key".into())
    }

    fn spool(rows: &[String]) -> Spool {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(format!("[{}]", rows.join(",")).as_bytes()).unwrap();
        Spool::of(file, key())
    }

    fn rows(count: usize) -> Vec<String> {
        (0..count).map(|n| format!(r#"{{"Time":"2025-02-06 10:28:04","n":{n}}}"#)).collect()
    }

    fn plan(splits: u32) -> Plan {
        let run = Run { id: "a".to_owned(), began: Timestamp::MAX, splits: Some(splits) };
        let (progress, overlap) = (Progress::behind(None), Duration::from_secs(60));
        Plan { run, rows: 0, sum: 0, most_in_one_file: 10, key: key(), progress, overlap, time_column: "Time".into() }
    }

    #[test]
    fn a_full_file_that_is_not_one_of_several_is_an_error() {
        let survey = |count, splits| survey(&[spool(&rows(count))], &plan(splits), &|| false);
        assert!(survey(9, 0).is_ok() && survey(11, 0).is_ok() && survey(30, 3).is_ok());
        for splits in [0, 1] {
            let error = survey(10, splits).unwrap_err().to_string();
            assert!(error.contains("it has exactly 10 rows in one file"), "{error}");
        }
    }

    #[test]
    fn large_rows_hide_no_end() {
        let large = rows(40)
            .iter()
            .map(|row| row.replacen('{', &format!("{{\"x\":\"{}\",", "x".repeat(1_000_000)), 1))
            .collect::<Vec<_>>();
        let looks = Cell::new(0);
        let is_unwanted = || {
            looks.set(looks.get() + 1);
            looks.get() == 2
        };
        assert!(survey(&[spool(&large)], &plan(3), &is_unwanted).unwrap().is_none());
    }

    #[test]
    fn one_row_without_a_time_says_nothing_of_the_others() {
        let odd = r#"{"Time":"","x":1}"#.to_owned();
        let columns = |rows: &[String]| columns_in(&[spool(rows)], "Time".into(), &key());
        assert!(columns(&[]).unwrap().is_none());
        assert_eq!(columns(&[vec![odd.clone()], rows(2)].concat()).unwrap().unwrap().to_string(), "\"Time, x\"");
        assert!(columns(&[odd]).unwrap_err().to_string().contains("no row's column \"Time\""));
    }

    #[test]
    fn what_the_report_holds_is_shown_without_the_key() {
        let row = r#"{"Time":"the-key"}"#.to_owned();
        let error = survey(&[spool(&[row])], &plan(0), &|| false).unwrap_err().to_string();
        assert!(error.contains("[hidden]") && !error.contains("the-key"), "{error}");
    }
}
