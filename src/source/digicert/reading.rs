//! Reads a run ahead of its delivery: stores it whole, goes through it once, and then hands it out page by page.
//!
//! It hands out nothing before it has read all of the run once. So a run that is damaged anywhere delivers nothing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::TimeColumn;
use super::api::Api;
use super::cursor::Progress;
use super::error::{Content, Error, Unread};
use super::history::Run;
use super::kept::{Keeping, Kept, MOST};
use super::quotes::Quotes;
use super::row::{self, Time};
use super::spool::Spool;
use crate::event::Event;
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::http::Excerpt;
use crate::task;

/// The most rows of a page.
const PAGE_ROWS: usize = 1000;

/// The bytes with which a page is full.
const PAGE_BYTES: usize = 1024 * 1024;

/// The number of rows after which the reader checks whether the source still wants them.
const LOOK_UP: u64 = 1024;

/// The bytes of rows after which it checks, too.
const LOOK_UP_BYTES: usize = 16 * 1024 * 1024;

/// The number of rows in one file at which the API splits a run.
pub(super) const MOST_IN_ONE_FILE: u64 = 1_000_000;

/// The most rows without a readable time that can be recognised in the next run.
const MOST_UNDATED: usize = MOST / 4;

/// A part of a run.
#[derive(Debug)]
pub(super) enum Part {
    /// New rows.
    Rows {
        events: Vec<Event>,
        /// The number of the run's rows up to the end of this part.
        rows: u64,
        /// The sum of the fingerprints of the delivered ones among them.
        sum: u64,
    },
    /// The end of the run.
    End(Box<Summary>),
}

/// The facts about a run that was read whole.
#[derive(Debug)]
pub(super) struct Summary {
    /// The number of its rows.
    pub(super) rows: u64,
    /// The number of rows in this reading that were delivered before.
    pub(super) deduplicated: usize,
    /// The newest time.
    pub(super) high: Option<Timestamp>,
    pub(super) kept: Kept,
    /// Whether the overlap had to shrink.
    pub(super) shrunk: bool,
    /// The number of rows without a readable time.
    pub(super) undated: u64,
    /// The fingerprint of its columns; empty if it has no rows.
    pub(super) columns: Fingerprints,
    /// The oldest time.
    pub(super) oldest: Option<Timestamp>,
}

/// The input of a reader.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) run: Run,
    /// The number of its rows that are before the cursor.
    pub(super) rows: u64,
    /// The sum of the fingerprints of the delivered ones.
    pub(super) sum: u64,
    /// The number of rows in one file at which the API splits a run.
    pub(super) most_in_one_file: u64,
    pub(super) quotes: Quotes,
    pub(super) progress: Progress,
    pub(super) overlap: Duration,
    pub(super) time_column: TimeColumn,
}

/// A run that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    run: String,
    /// The number of the run's rows in the parts handed out so far.
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
                // If the receiver is gone, nothing needs the error.
                let _ = give.send(Err(error)).await;
            }
        }));
        Self { run, rows, parts, task }
    }

    /// Whether the next part begins after the first `rows` of `run`.
    pub(super) fn is_at(&self, run: &Run, rows: u64) -> bool {
        self.run == run.id && self.rows == rows
    }

    /// The next part. The call may be dropped at any time.
    pub(super) async fn next(&mut self) -> Result<Part, Unread> {
        let Some(part) = self.parts.recv().await else {
            // A panic of the task continues here.
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

/// The rows of a run to deliver: one bit each.
#[derive(Debug, Default)]
struct Fresh {
    bits: Vec<u64>,
    count: u64,
    /// The number of rows before the cursor.
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

/// Goes through all rows to find the new ones, and what to remember. None if the source no longer wants them.
fn survey(spools: &[Spool], plan: &Plan, is_unwanted: &dyn Fn() -> bool) -> Result<Option<(Fresh, Summary)>, Unread> {
    let Progress { kept, high, .. } = &plan.progress;
    let mut expected = kept.expected();
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
        let time = row::time(raw, &plan.time_column.heading);
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
                let is_fresh = !expected.meet(print);
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
        let column = plan.time_column.clone();
        if !has_column {
            let columns = plan.quotes.text(&row::headings(first).join(", "));
            return Err(Content::NoTimeColumn { column, columns }.into());
        }
        if let (None, Some(text)) = (oldest, misread) {
            return Err(Content::NoTime { column, found: plan.quotes.row(text.as_bytes()) }.into());
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
            "the run has other rows, or another order, than when a part of it was delivered; auditsync delivers it again from its first row"
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

/// Hands out the new rows after the cursor, page by page.
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
                let events = std::mem::take(&mut page).events(&plan.time_column.heading, &mut sum);
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

/// Rows of one page in one buffer, to become events.
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

    /// Makes the events, and adds the rows' fingerprints to `sum`.
    fn events(self, heading: &str, sum: &mut u64) -> Vec<Event> {
        let bytes = self.bytes.freeze();
        let mut start = 0;
        let event = |end| {
            let raw = bytes.slice(start..end);
            start = end;
            let (event, print) = row::event(raw, heading);
            *sum = sum.wrapping_add(print.bits());
            event
        };
        self.ends.into_iter().map(event).collect()
    }
}

/// Reads the columns of a run from its first row; none if the run has no row. Fails if no row has the column with the
/// time.
pub(super) async fn columns(api: &Api, run: &Run, column: &TimeColumn) -> Result<Option<Excerpt>, Unread> {
    let spools = api.download(run).await?;
    let (column, quotes) = (column.clone(), api.quotes.clone());
    let work = tokio::task::spawn_blocking(move || columns_in(&spools, column, &quotes));
    task::outcome(work.await).unwrap_or_else(|_| Err(Error::Interrupted.into()))
}

fn columns_in(spools: &[Spool], column: TimeColumn, quotes: &Quotes) -> Result<Option<Excerpt>, Unread> {
    let (mut first, mut misread, mut is_dated) = (None, None, false);
    let mut take = |raw: &[u8]| {
        first.get_or_insert_with(|| Bytes::copy_from_slice(raw));
        match row::time(raw, &column.heading) {
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
    let columns = quotes.text(&row::headings(&first).join(", "));
    match misread {
        _ if is_dated => Ok(Some(columns)),
        Some(text) => Err(Content::NoTime { column, found: quotes.row(text.as_bytes()) }.into()),
        None => Err(Content::NoTimeColumn { column, columns }.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use super::super::variables::API_KEY;
    use super::*;
    use crate::secret::Secret;

    fn quotes() -> Quotes {
        Quotes::without_redaction(Secret::from_value(API_KEY.spec.name, "the-key".into()))
    }

    fn spool(rows: &[String]) -> Spool {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(format!("[{}]", rows.join(",")).as_bytes()).unwrap();
        Spool::of(file, quotes())
    }

    fn rows(count: usize) -> Vec<String> {
        (0..count).map(|n| format!(r#"{{"Time":"2025-02-06 10:28:04","n":{n}}}"#)).collect()
    }

    fn column() -> TimeColumn {
        TimeColumn { heading: "Time".into(), variable: "DIGICERT_EU_AUDIT_TIME_COLUMN".into() }
    }

    fn plan(splits: u32) -> Plan {
        let run = Run { id: "a".to_owned(), began: Timestamp::MAX, splits: Some(splits) };
        let (progress, overlap) = (Progress::behind(None), Duration::from_secs(60));
        Plan { run, rows: 0, sum: 0, most_in_one_file: 10, quotes: quotes(), progress, overlap, time_column: column() }
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
        let columns = |rows: &[String]| columns_in(&[spool(rows)], column(), &quotes());
        assert!(columns(&[]).unwrap().is_none());
        assert_eq!(columns(&[vec![odd.clone()], rows(2)].concat()).unwrap().unwrap().to_string(), "\"Time, x\"");
        let error = columns(&[odd]).unwrap_err().to_string();
        assert!(error.contains("in the column \"Time\""), "{error}");
        assert!(error.ends_with("name the column with the time in DIGICERT_EU_AUDIT_TIME_COLUMN"), "{error}");
    }

    #[test]
    fn what_the_report_holds_is_shown_without_the_key() {
        let row = r#"{"Time":"the-key"}"#.to_owned();
        let error = survey(&[spool(&[row])], &plan(0), &|| false).unwrap_err().to_string();
        assert!(error.contains("[hidden]") && !error.contains("the-key"), "{error}");
    }
}
