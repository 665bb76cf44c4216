//! The history of runs: decides what to do about the run that this source waits for.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::cursor::{Baseline, Waiting};

/// The type of a report of audit logs.
pub(super) const AUDIT_LOGS: &str = "audit-logs";

/// The number of failed runs in one sync that is an error.
pub(super) const MOST_FAILED: usize = 3;

/// The longest identifier of a run, in bytes.
const LONGEST_ID: usize = 64;

/// The time after the present from which a start of a run must come from a wrong clock.
const TOO_LATE: SignedDuration = SignedDuration::from_hours(24);

/// A page of the history, as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct HistoryPage {
    #[serde(default)]
    page: Option<PageInfo>,
    /// Runs and schedules. Each is parsed by itself, so that an odd entry does not make the others unreadable.
    report_history: Vec<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct PageInfo {
    #[serde(default)]
    total: Option<u64>,
}

/// A run of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// Its identifier.
    pub(super) id: String,
    /// When it began.
    pub(super) began: Timestamp,
    /// The number of files of its rows: 0 for a single one; none if the history gave no number.
    pub(super) splits: Option<u32>,
}

/// The status of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Generating,
    Ready,
    Failed,
}

/// A run as the history shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) run: Run,
    pub(super) status: Status,
    pub(super) report: String,
    pub(super) report_name: Option<String>,
    pub(super) report_type: Option<String>,
    pub(super) formats: Vec<String>,
}

impl HistoryPage {
    /// The number of entries in the whole history, if the server gives it.
    pub(super) fn total(&self) -> Option<u64> {
        self.page.as_ref()?.total
    }

    /// The number of entries on the page.
    pub(super) fn len(&self) -> usize {
        self.report_history.len()
    }

    /// The runs on the page, of any report; skips schedules and entries that cannot be read.
    pub(super) fn runs(self) -> impl Iterator<Item = Shown> {
        self.report_history.into_iter().filter_map(|entry| shown(entry.get()))
    }
}

/// Reads an entry of the history; none if it is not a run.
fn shown(entry: &str) -> Option<Shown> {
    let entry: Map<String, Value> = serde_json::from_str(entry).ok()?;
    let text = |name| entry.get(name)?.as_str().map(str::to_owned);
    let status = match text("status")?.to_ascii_uppercase().as_str() {
        "READY" => Status::Ready,
        "FAILED" => Status::Failed,
        "GENERATING" => Status::Generating,
        _ => return None,
    };
    let splits = match entry.get("split_report_count") {
        None | Some(Value::Null) => Some(0),
        Some(count) => count.as_u64().and_then(|count| u32::try_from(count).ok()),
    };
    let id = text("report_run_identifier").filter(|id| is_identifier(id))?;
    let formats = entry.get("format").and_then(Value::as_array).into_iter().flatten();
    Some(Shown {
        run: Run { id, began: date(&text("report_start_date")?)?, splits },
        status,
        report: text("report_identifier")?,
        report_name: text("report_display_name"),
        report_type: text("report_type"),
        formats: formats.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

/// Whether `id` is safe as a run's identifier, which becomes a part of the state, of addresses and of messages.
fn is_identifier(id: &str) -> bool {
    let is_of_one = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(is_of_one)
}

/// Reads a date of the history: UTC, without a zone.
fn date(text: &str) -> Option<Timestamp> {
    let local: DateTime = text.trim().parse().ok()?;
    TimeZone::UTC.to_timestamp(local).ok()
}

/// Whether the run began by `now`, as far as clocks agree.
pub(super) fn is_credible(shown: &Shown, now: Timestamp) -> bool {
    shown.run.began.duration_since(now) <= TOO_LATE
}

/// The baseline at the present: the newest of these runs, of any report.
pub(super) fn present(runs: &[Shown], now: Timestamp) -> Baseline {
    let began = runs.iter().filter(|shown| is_credible(shown, now)).map(|shown| shown.run.began).max();
    let newest = runs.iter().filter(|shown| Some(shown.run.began) == began);
    Baseline { began, runs: newest.map(|shown| shown.run.id.clone()).collect() }
}

/// The next step for the run that this source waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// This run is ready: read it.
    Read(Run),
    /// No run is ready yet.
    Wait,
    /// No run is under way: start one.
    Start,
    /// Too many runs failed, which is an error.
    Failed { failed: usize, newest: Option<String> },
    /// No run became ready in time.
    TooSlow { run: Option<String> },
}

/// Decides by the `runs` of the report that began after the baseline. The last one was started `age` ago.
///
/// A run that takes longer than `max_wait` is overdue. It is still read if it becomes ready before another.
pub(super) fn turn(runs: &[Shown], waiting: &Waiting, age: Duration, max_wait: Duration) -> Turn {
    let is_usable = |shown: &&Shown| waiting.given_up.is_none_or(|given_up| shown.run.began > given_up);
    let ready = runs.iter().filter(is_usable).filter(|shown| shown.status == Status::Ready);
    if let Some(newest) = ready.max_by_key(|shown| shown.run.began) {
        return Turn::Read(newest.run.clone());
    }
    let newest = runs.iter().max_by_key(|shown| shown.run.began);
    let unfinished = runs.iter().filter(|shown| shown.status == Status::Generating).count();
    let failed = runs.len() - unfinished;
    let started = waiting.started as usize;
    // A started run that is not listed yet is under way.
    let is_under_way = started > failed || unfinished > 0;
    if is_under_way && age <= max_wait {
        return if failed < MOST_FAILED { Turn::Wait } else { failures(failed, newest) };
    }
    if started.max(failed) < MOST_FAILED {
        return Turn::Start;
    }
    if failed >= MOST_FAILED {
        return failures(failed, newest);
    }
    Turn::TooSlow { run: newest.map(|shown| shown.run.id.clone()) }
}

fn failures(failed: usize, newest: Option<&Shown>) -> Turn {
    Turn::Failed { failed, newest: newest.map(|shown| shown.run.id.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(300);

    fn shown(id: &str, second: i64, status: Status) -> Shown {
        let run = Run { id: id.to_owned(), began: Timestamp::from_second(second).unwrap(), splits: Some(0) };
        let report = "report".to_owned();
        Shown { run, status, report, report_name: None, report_type: None, formats: Vec::new() }
    }

    fn started(started: u32) -> Waiting {
        Waiting { started, ..Waiting::from(Timestamp::UNIX_EPOCH) }
    }

    fn turn_after(runs: &[Shown], waiting: &Waiting, seconds: u64) -> Turn {
        turn(runs, waiting, Duration::from_secs(seconds), WAIT)
    }

    #[test]
    fn the_newest_ready_run_is_read() {
        let runs = [shown("a", 1, Status::Ready), shown("b", 3, Status::Generating), shown("c", 2, Status::Ready)];
        assert_eq!(turn_after(&runs, &started(1), 0), Turn::Read(runs[2].run.clone()));
    }

    #[test]
    fn a_run_is_started_once_and_waited_for_even_if_it_is_not_listed_yet() {
        assert_eq!(turn_after(&[], &started(0), 0), Turn::Start);
        assert_eq!(turn_after(&[], &started(1), 10), Turn::Wait);
        assert_eq!(turn_after(&[shown("a", 1, Status::Generating)], &started(0), 10), Turn::Wait);
    }

    #[test]
    fn failed_runs_are_started_again_and_the_third_is_an_error() {
        let failed: Vec<_> = (0..3).map(|n| shown(&n.to_string(), n, Status::Failed)).collect();
        assert_eq!(turn_after(&failed[..1], &started(1), 10), Turn::Start);
        assert_eq!(turn_after(&failed[..1], &started(2), 10), Turn::Wait);
        assert_eq!(turn_after(&failed[..2], &started(2), 10), Turn::Start);
        let expected = Turn::Failed { failed: 3, newest: Some("2".to_owned()) };
        assert_eq!(turn_after(&failed, &started(3), 10), expected);
        assert_eq!(turn_after(&failed, &started(4), 10), expected, "while another is under way");
    }

    #[test]
    fn a_run_that_could_not_be_read_counts_as_failed() {
        let runs = [shown("a", 1, Status::Ready)];
        let waiting = Waiting { given_up: Some(runs[0].run.began), ..started(1) };
        assert_eq!(turn_after(&runs, &waiting, 10), Turn::Start);
    }

    #[test]
    fn an_overdue_run_is_followed_by_another_and_read_if_it_becomes_ready_after_all() {
        let slow = shown("a", 1, Status::Generating);
        assert_eq!(turn_after(std::slice::from_ref(&slow), &started(1), 301), Turn::Start);
        assert_eq!(turn_after(std::slice::from_ref(&slow), &started(2), 10), Turn::Wait);
        assert_eq!(
            turn_after(std::slice::from_ref(&slow), &started(3), 301),
            Turn::TooSlow { run: Some("a".to_owned()) }
        );
        let late = shown("a", 1, Status::Ready);
        assert_eq!(turn_after(std::slice::from_ref(&late), &started(3), 301), Turn::Read(late.run.clone()));
    }

    #[test]
    fn a_run_in_the_second_of_the_baseline_is_told_apart_by_its_identifier() {
        let (before, after) = (shown("a", 5, Status::Ready), shown("b", 5, Status::Ready));
        let runs = [before.clone(), shown("z", 4, Status::Failed), shown("from a wrong clock", 90_000, Status::Ready)];
        let baseline = present(&runs, Timestamp::UNIX_EPOCH);
        assert!(!baseline.is_before(&before.run) && baseline.is_before(&after.run));
        assert!(!baseline.is_before(&shown("c", 4, Status::Ready).run));
        assert!(Baseline::default().is_before(&before.run));
    }

    #[test]
    fn a_page_of_the_history_is_read_with_what_else_it_holds() {
        let page = r#"{"page":{"total":3,"limit":100,"offset":0},"report_history":[
            {"report_identifier":"r","report_run_identifier":"1","report_type":"audit-logs","report_display_name":"Audit",
             "report_start_date":"2021-01-13 09:15:37","format":["JSON"],"status":"READY","split_report_count":0,"new":{}},
            {"report_identifier":"r","report_run_identifier":"2","report_start_date":"2021-01-13 09:15:37","status":"SCHEDULED"},
            {"report_identifier":"r","report_run_identifier":null,"report_start_date":null,"status":"READY","format":[]}]}"#;
        let page: HistoryPage = serde_json::from_str(page).unwrap();
        assert_eq!((page.total(), page.len()), (Some(3), 3));
        let runs: Vec<_> = page.runs().collect();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].run.began.to_string(), "2021-01-13T09:15:37Z");
        assert_eq!((runs[0].run.id.as_str(), runs[0].report_type.as_deref()), ("1", Some(AUDIT_LOGS)));
    }

    #[test]
    fn an_odd_entry_hides_no_other_and_an_odd_split_count_is_not_taken_for_none() {
        let entry = |id: &str, more: &str| {
            format!(
                r#"{{"report_identifier":"r","report_run_identifier":"{id}","report_start_date":"2021-01-13 09:15:37","status":"READY"{more}}}"#
            )
        };
        let entries = [
            entry("a", r#","format":"JSON","split_report_count":"many""#),
            "17".to_owned(),
            entry("b c", ""),
            entry(&"x".repeat(65), ""),
            entry("d", r#","report_display_name":17,"split_report_count":3"#),
        ];
        let page: HistoryPage =
            serde_json::from_str(&format!(r#"{{"report_history":[{}]}}"#, entries.join(","))).unwrap();
        let runs: Vec<_> = page.runs().map(|shown| (shown.run.id, shown.run.splits)).collect();
        assert_eq!(runs, [("a".to_owned(), None), ("d".to_owned(), Some(3))]);
    }

    #[test]
    fn the_newer_baseline_counts_and_of_one_second_both() {
        let of = |second, id| present(&[shown(id, second, Status::Ready)], Timestamp::from_second(second).unwrap());
        assert_eq!(of(1, "a").max(of(2, "b")), of(2, "b"));
        assert_eq!(of(2, "b").max(Baseline::default()), of(2, "b"));
        assert_eq!(of(1, "a").max(of(1, "b")).runs, ["a", "b"]);
    }
}
